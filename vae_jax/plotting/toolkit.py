"""What pictures are made of: colours, grids and rows of images, plain axes, bands, lines of equal sum, legends.

Contract of this folder: arrays in, `matplotlib.figure.Figure` out; numpy and matplotlib only, no file is read or
written, nothing global is touched (no pyplot, no rcParams); the caller saves the figure and writes the caption.
Colours can be told apart by colour-blind readers and never carry a meaning alone: lines also differ in marker or dash,
and classes are numbered on the picture.
"""

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter

# Tol's "muted" scheme, its pale grey replaced by a dark one that a small dot on white paper needs.
CLASS_COLORS = "#CC6677 #332288 #DDCC77 #117733 #88CCEE #882255 #44AA99 #999933 #AA4499 #555555".split()
BLUE, ORANGE, BLACK = "#0072B2", "#D55E00", "#000000"  # Okabe and Ito


# Axes.


def panels(count, columns, size, extra, **options) -> tuple[Figure, np.ndarray]:
    """A figure of `count` axes in rows of `columns`; inches: `size` of one of them, `extra` around them all."""
    columns = max(min(columns, count), 1)
    rows = max(-(-count // columns), 1)
    figure = Figure((size[0] * columns + extra[0], size[1] * rows + extra[1]), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel()
    for i, ax in enumerate(axes):
        ax.set_visible(i < count)
        ax.tick_params(labelbottom=i + columns >= count or not options.get("sharex"))
    return figure, axes[:count]


def plain(ax) -> None:
    """No frame at the top and the right, and a pale grid behind what is drawn."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)


def log_axis(ax, which="x") -> None:
    """A logarithmic axis, 'x' or 'y', with numbers at 1, 2 and 5."""
    ax.set(**{f"{which}scale": "log"})
    axis = {"x": ax.xaxis, "y": ax.yaxis}[which]
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_minor_formatter(NullFormatter())


def legend(figure, place, source, **options) -> None:
    """A legend of `source`, axes or a list of artists, beside the axes at `place`, such as 'lower center'."""
    handles = source if isinstance(source, list) else source.get_legend_handles_labels()[0]
    figure.legend(handles=handles, loc=f"outside {place}", **{"frameon": False, "fontsize": 9} | options)


def band(ax, x, mean, error=None, **style) -> None:
    """A line, and `error` to either side of it where there is one; style: color, and what else a line has."""
    ax.plot(x, mean, linewidth=1.4, **{"markersize": 3.5} | style)
    if error is not None:
        ax.fill_between(x, mean - error, mean + error, color=style["color"], alpha=0.2, linewidth=0)


def equal_sums(ax, name="") -> None:
    """Lines along which x + y is the same, behind what is drawn; with `name` their sums stand where they leave."""
    (left, right), (low, high) = limits = ax.get_xlim(), ax.get_ylim()
    for total in MaxNLocator(7).tick_values(left + low, right + high):
        ax.plot((left, right), (total - left, total - right), color="0.6", linewidth=0.7, linestyle=":", zorder=0)
        at = min(right, total - low)  # where the line leaves the frame
        if name and left + 0.1 * (right - left) < at and low + 0.04 * (high - low) < total - at < high:
            text = f"{signed(total, 'g')} {name}"
            ax.annotate(text, (at, total - at), (3, 0), textcoords="offset points", fontsize=7, color="0.4")
    ax.set(xlim=limits[0], ylim=limits[1])


def signed(number, form=".0f") -> str:
    """A number as text, with a minus as long as a plus."""
    return f"{number:{form}}".replace("-", "\N{MINUS SIGN}")


# Images `[N, H, W]`, `[N, H, W, 1]` or `[N, H, W, 3]`, values in [0, 1].


def image_grid(x, columns) -> np.ndarray:
    """Images row by row in one array, values clipped to [0, 1].

    Separators, and the cells that N leaves empty, are white. A channel axis of one is dropped. ValueError for what is
    no image.
    """
    x = np.clip(np.asarray(x, np.float32), 0.0, 1.0)
    if not (x.ndim == 3 or (x.ndim == 4 and x.shape[-1] in (1, 3))):
        raise ValueError(f"cannot draw events of shape {x.shape[1:]}: (H, W), (H, W, 1), (H, W, 3) or (D,) wanted")
    x = x[..., 0] if x.ndim == 4 and x.shape[-1] == 1 else x
    num, height, width = x.shape[:3]
    rows, gap = math.ceil(num / columns), _gap(height, width)
    grid = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, *x.shape[3:]), np.float32)
    for i, image in enumerate(x):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        grid[top : top + height, left : left + width] = image
    return grid


def even_columns(count, columns) -> int:
    """Near `columns`, how many columns leave no row of `count` images half empty; `columns` where none is near."""
    near = [c for c in range(1, count + 1) if count % c == 0 and columns / 1.6 <= c <= 1.6 * columns]
    return min(near, key=lambda c: abs(c - columns), default=min(columns, count))


def _gap(height, width):
    return max(1, round(max(height, width) / 14))


def show(ax, picture, **options) -> None:
    """An array of pixels as it is, without ticks and frame."""
    ax.imshow(picture, cmap="gray", vmin=0.0, vmax=1.0, **options)
    ax.set(xticks=[], yticks=[])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def image_rows(rows, title, columns=None) -> Figure:
    """{row label: images [N, ...]}: bands of `columns` examples, in a band one labelled row of images per entry."""
    stacked = np.stack(list(rows.values()))  # [R, N, H, W] or [R, N, H, W, C]
    num, height, width = stacked.shape[1:4]
    columns = even_columns(num, columns or num)
    stacked = _pad_white(stacked, 1, -num % columns)  # every band is equally wide
    grids = [image_grid(np.concatenate(stacked[:, i : i + columns]), columns) for i in range(0, num, columns)]
    between = max(2, round(0.4 * height))
    whole = np.concatenate([_pad_white(grid, 0, between) for grid in grids])[:-between]
    tops = [i * (len(grids[0]) + between) for i in range(len(grids))]
    centers = [top + r * (height + _gap(height, width)) + (height - 1) / 2 for top in tops for r in range(len(rows))]
    return picture(whole, title, columns, centers, list(rows) * len(grids))


def _pad_white(images, axis, amount):
    return np.pad(images, [(0, amount if i == axis else 0) for i in range(images.ndim)], constant_values=1.0)


def picture(pixels, title, columns, ticks=(), labels=(), cell=0.6) -> Figure:
    """A figure whose one axes shows `pixels`, `columns` cells of `cell` inches wide, with row labels at its left.

    The title of a wide picture is larger, since on a page all are as wide as the text.
    """
    width, height = columns * cell, columns * cell * pixels.shape[0] / pixels.shape[1]
    fontsize = max(11, columns)
    edge, top = 0.1, 0.032 * fontsize  # inches; laid out by hand, so that the picture keeps its exact size
    left = edge + 0.08 * max(map(len, labels), default=0)
    size = left + max(width, 0.0082 * fontsize * len(title)) + edge, edge + height + top
    figure = Figure(figsize=size)
    ax = figure.add_axes((left / size[0], edge / size[1], width / size[0], height / size[1]))
    show(ax, pixels, aspect="auto")
    ax.set_title(title, fontsize=fontsize, loc="left")
    ax.set_yticks(ticks, labels, fontsize=9)
    return figure
