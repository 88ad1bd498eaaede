"""Pictures of a model and its training: arrays in, `matplotlib.figure.Figure` out.

Contract: numpy and matplotlib only, no file is read or written, nothing global is touched (no pyplot, no rcParams); the
caller saves the figure (`figure.savefig(path, dpi=...)`) and writes the caption. `x` is `[N, *event]` in data space:

    event (H, W), (H, W, 1), (H, W, 3)    images, drawn from black to white over `value_range`
    event (D,) or ()                      vectors, drawn as lines; a D that happens to be a square is still a vector

Colours can be told apart by colour-blind readers and never carry a meaning alone: lines also differ in marker or dash,
and classes are numbered on the picture.
"""

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Tol's "muted" scheme, its pale grey replaced by a dark one that a small dot on white paper needs.
CLASS_COLORS = "#CC6677 #332288 #DDCC77 #117733 #88CCEE #882255 #44AA99 #999933 #AA4499 #555555".split()
BLUE, ORANGE, BLACK = "#0072B2", "#D55E00", "#000000"  # Okabe and Ito


def reconstructions(x, x_mean, value_range=(0.0, 1.0), title="Originals and reconstructions", columns=10) -> Figure:
    """Originals `x` `[N, *event]`, each with its reconstruction `x_mean` `[N, *event]` below it (vectors: over it)."""
    x, x_mean = np.asarray(x), np.asarray(x_mean)
    if x.shape != x_mean.shape:
        raise ValueError(f"originals and reconstructions differ in shape: {x.shape} and {x_mean.shape}")
    rows = {"original": x, "reconstruction": x_mean}
    if x.ndim <= 2:
        return _line_grid(rows, title)
    return image_rows({name: _unit_images(image, value_range) for name, image in rows.items()}, title, columns)


def samples(x, value_range=(0.0, 1.0), title="Samples from the prior", columns=None) -> Figure:
    """A grid of `x` `[N, *event]`: the means of p(x|z) at z drawn from the prior, or any other images or vectors."""
    x = np.asarray(x)
    if x.ndim <= 2:
        return _line_grid({"sample": x}, title)
    columns = min(columns or math.ceil(math.sqrt(len(x))), len(x))
    return _picture(image_grid(_unit_images(x, value_range), columns), title, columns)


def image_grid(x, columns) -> np.ndarray:
    """Images `[N, H, W]`, `[N, H, W, 1]` or `[N, H, W, 3]` row by row in one array, values clipped to [0, 1].

    Separators, and the cells that N leaves empty, are white. A channel axis of one is dropped.
    """
    x = np.clip(np.asarray(x, np.float32), 0.0, 1.0)
    x = x[..., 0] if x.ndim == 4 and x.shape[-1] == 1 else x
    num, height, width = x.shape[:3]
    rows, gap = math.ceil(num / columns), _gap(height, width)
    grid = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, *x.shape[3:]), np.float32)
    for i, image in enumerate(x):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        grid[top : top + height, left : left + width] = image
    return grid


def _gap(height, width):
    return max(1, round(max(height, width) / 14))


def _unit_images(x, value_range):
    """`[N, H, W]` or `[N, H, W, C]` with `value_range` mapped to [0, 1]."""
    if not (x.ndim == 3 or (x.ndim == 4 and x.shape[-1] in (1, 3))):
        raise ValueError(f"cannot draw events of shape {x.shape[1:]}: (H, W), (H, W, 1), (H, W, 3) or (D,) wanted")
    low, high = value_range
    return (x.astype(np.float32) - low) / (high - low)


def image_rows(rows, title, columns):
    """{row label: images [N, ...]}: bands of `columns` examples, in a band one labelled row of images per entry."""
    stacked = np.stack(list(rows.values()))  # [R, N, H, W] or [R, N, H, W, C]
    num, height, width = stacked.shape[1:4]
    columns = min(columns, num)
    stacked = _pad_white(stacked, 1, -num % columns)  # every band is equally wide
    grids = [image_grid(np.concatenate(stacked[:, i : i + columns]), columns) for i in range(0, num, columns)]
    between = max(2, round(0.4 * height))
    picture = np.concatenate([_pad_white(grid, 0, between) for grid in grids])[:-between]
    tops = [i * (len(grids[0]) + between) for i in range(len(grids))]
    centers = [top + r * (height + _gap(height, width)) + (height - 1) / 2 for top in tops for r in range(len(rows))]
    return _picture(picture, title, columns, centers, list(rows) * len(grids))


def _pad_white(images, axis, amount):
    return np.pad(images, [(0, amount if i == axis else 0) for i in range(images.ndim)], constant_values=1.0)


def _picture(picture, title, columns, ticks=(), labels=(), cell=0.6):
    """A figure whose one axes shows `picture`, `columns` cells of `cell` inches wide, with row labels at its left."""
    width, height = columns * cell, columns * cell * picture.shape[0] / picture.shape[1]
    edge, top = 0.1, 0.35  # inches; laid out by hand, so that the picture keeps its exact size
    left = edge + 0.08 * max(map(len, labels), default=0)
    size = left + max(width, 0.09 * len(title)) + edge, edge + height + top
    figure = Figure(figsize=size)
    ax = figure.add_axes((left / size[0], edge / size[1], width / size[0], height / size[1]))
    ax.imshow(picture, cmap="gray", vmin=0.0, vmax=1.0, aspect="auto")
    ax.set_title(title, fontsize=11, loc="left")
    ax.set_xticks([])
    ax.set_yticks(ticks, labels, fontsize=9)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return figure


def _line_grid(rows, title):
    """{line label: vectors [N, D] or [N]}: one small panel per example, with one line per entry."""
    rows = {name: x.reshape(len(x), -1) for name, x in rows.items()}
    num, size = next(iter(rows.values())).shape
    columns = min(4, num)
    lines = math.ceil(num / columns)
    figure = Figure(figsize=(2.0 * columns + 1.8, 1.4 * lines + 0.9), layout="constrained")
    axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    styles = [{"color": BLUE, "linewidth": 1.8}, {"color": ORANGE, "linewidth": 1.2, "linestyle": "--"}]
    marker = "o" if size <= 16 else None  # few components: the points are what there is
    for i, ax in enumerate(axes):
        for style, (name, x) in zip(styles, rows.items(), strict=False):
            ax.plot(x[i] if i < num else [], label=name, marker=marker, markersize=3, **style)
        ax.set_visible(i < num)
        ax.tick_params(labelsize=8, labelbottom=i + columns >= num)
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        plain(ax)
    figure.suptitle(title, fontsize=11)
    figure.supxlabel("Component", fontsize=10)
    figure.supylabel("Value", fontsize=10)
    if len(rows) > 1:
        figure.legend(handles=axes[0].lines, loc="outside right upper", frameon=False, fontsize=9)
    return figure


def plain(ax):
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)
