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
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from matplotlib.ticker import MaxNLocator

# Tol's "muted" scheme, its pale grey replaced by a dark one that a small dot on white paper needs.
CLASS_COLORS = "#CC6677 #332288 #DDCC77 #117733 #88CCEE #882255 #44AA99 #999933 #AA4499 #555555".split()
BLUE, ORANGE, BLACK = "#0072B2", "#D55E00", "#000000"  # Okabe and Ito
SPLITS = {
    "train": {"color": BLUE, "linewidth": 1.6, "zorder": 2},
    "valid": {"color": ORANGE, "linewidth": 1.2, "marker": "o", "markersize": 3, "zorder": 3},
    "test": {"color": BLACK, "linewidth": 1.0, "linestyle": ":", "marker": "*", "markersize": 10, "zorder": 4},
}
PANELS = {  # what a record holds -> the panel's title, and the sign that turns it into something to bring down
    "elbo": ("Loss (−ELBO)", -1),
    "objective": ("Loss (−objective)", -1),  # only where there is no ELBO, as with autoencoders
    "log_likelihood": ("Reconstruction (−log p(x|z))", -1),
    "kl": ("KL(q || p)", 1),
}


def training_curves(records, units="nats") -> Figure:
    """Loss and its two terms against epochs; records: metrics.jsonl's dicts, `{"epoch", "step", "split", "elbo", ...}`.

    Plots -elbo (-objective where no record has an ELBO), -log_likelihood and kl as they are: `units` only names them.
    What is missing or not finite is left out. Each panel's legend holds each split's last value.
    """
    keys = [key for key in PANELS if any(finite(record, key) for record in records)]
    if "elbo" in keys and "objective" in keys:
        keys.remove("objective")
    figure = Figure(figsize=(4.0 * max(len(keys), 1), 3.3), layout="constrained")
    if not keys:
        figure.text(0.5, 0.5, "No finite number recorded", ha="center", va="center")
        return figure
    time = "epoch" if all("epoch" in record for record in records) else "step"
    for ax, key in zip(figure.subplots(1, len(keys), squeeze=False)[0], keys, strict=True):
        title, sign = PANELS[key]
        _curves_panel(ax, {split: curve(records, split, time, key, sign) for split in SPLITS})
        ax.set_title(title, fontsize=11, loc="left", pad=24)  # the legend stands between title and axes
        ax.set(xlabel=time.capitalize(), ylabel=f"{units} per example" if units == "nats" else units)
    return figure


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


def latent_scatter(
    mean, label=None, class_names=None, title="Latent means", axis_labels=("$z_1$", "$z_2$"), prior=True
) -> Figure:
    """Posterior means `[N, 2]` coloured by `label` `[N]`, over the 1 and 2 sigma circles of a standard normal prior.

    Up to ten distinct whole-number labels are classes: their numbers stand at their medians, and beside
    `class_names[label]` in the legend. Other labels are a quantity and get a colour bar. `prior=False`: no circles.
    """
    figure = Figure(figsize=(6.4, 5.0), layout="constrained")
    ax = figure.subplots()
    handles = draw_latents(ax, mean, label, class_names, prior)
    ax.set_title(title, fontsize=11)
    ax.set(xlabel=axis_labels[0], ylabel=axis_labels[1])
    if handles:
        figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=9)
    return figure


def draw_latents(ax, mean, label=None, class_names=None, prior=True, fontsize=9):
    """What `latent_scatter` shows, into axes that there are already; returns the legend's handles."""
    mean = np.asarray(mean)
    if mean.ndim != 2 or mean.shape[1] != 2:
        raise ValueError(f"a latent scatter needs means of shape [N, 2], not {mean.shape}; project them first")
    finite = np.isfinite(mean).all(1)
    mean, label = mean[finite], None if label is None else np.asarray(label, float)[finite]
    ax.set_aspect("equal", adjustable="datalim")  # a unit is as long on either axis, and the frame stays full
    return (_prior_circles(ax) if prior else []) + _scatter(ax, mean, label, class_names, fontsize)


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


def finite(record, key):
    return record.get(key) is not None and bool(np.isfinite(record[key]))


def curve(records, split, time, key, sign):
    """The split's (times [T], values [T]), finite ones only, in order of time."""
    own = [r for r in records if r.get("split") == split and finite(r, key) and finite(r, time)]
    points = sorted((r[time], sign * r[key]) for r in own)
    return np.array(points, float).reshape(-1, 2).T


def _curves_panel(ax, curves):
    """{split: (times, values)} as lines, with the splits' last values in a legend above the axes."""
    curves = {split: curve for split, curve in curves.items() if curve.size}
    for split, (time, value) in curves.items():
        style = SPLITS[split] if len(time) > 1 else {"marker": "s"} | SPLITS[split]  # a line needs two points
        if split == "test":  # measured once, at the end: a star, and a line to hold the curves against
            time, value = time[-1:], value[-1:]
            ax.axhline(value[-1], **style | {"marker": None})
        every = max(1, len(time) // 40) if "marker" in style else None
        ax.plot(time, value, label=f"{split} {value[-1]:.4g}", markevery=every, **style)
    ax.set_ylim(robust_limits(list(curves.values())))
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=max(time[-1] for time, _ in curves.values()) >= 6))
    tight = {"frameon": False, "fontsize": 9, "handlelength": 1.4, "handletextpad": 0.5, "columnspacing": 1.0}
    ax.legend(loc="lower left", bbox_to_anchor=(-0.03, 1.0), borderpad=0.2, ncols=3, **tight)
    plain(ax)


def robust_limits(curves):
    """Limits that hold what follows the first tenth of training and every last value; the start may leave the frame."""
    time, value = np.concatenate(curves, 1)
    late = value[time >= time.min() + 0.1 * np.ptp(time)]
    ends = [value[-1] for _, value in curves]
    low, high = np.percentile(late if len(late) >= 5 else value, [1, 99])  # a few points: show them all
    low, high = min(low, *ends), max(high, *ends)
    pad = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return low - pad, high + pad


def _prior_circles(ax):
    """Draws where a standard normal prior lies; returns the legend's handles."""
    styles = [{"color": BLACK, "linewidth": 1.2, "linestyle": dash} for dash in ("-", "--")]
    for sigma, style in enumerate(styles, 1):
        ax.add_patch(Circle((0, 0), sigma, fill=False, zorder=3, **style))
    return [Line2D([], [], label=f"prior {sigma}σ", **style) for sigma, style in enumerate(styles, 1)]


def _scatter(ax, mean, label, class_names, fontsize):
    """Draws the points; returns the legend's handles of the classes, if there are classes."""
    dots = {"s": float(np.clip(2e4 / max(len(mean), 1), 3, 30)), "linewidths": 0, "alpha": 0.75, "rasterized": True}
    if label is None:
        ax.scatter(*mean.T, color=BLUE, **dots)
        return []
    classes = np.unique(label)
    if len(classes) > len(CLASS_COLORS) or not np.array_equal(classes, np.round(classes)):
        ax.figure.colorbar(ax.scatter(*mean.T, c=label, cmap="viridis", **dots), label="Label")
        return []
    # One call for all classes: in the data's order no class hides another.
    ax.scatter(*mean.T, c=[CLASS_COLORS[i] for i in np.searchsorted(classes, label)], **dots)
    medians = np.array([np.median(mean[label == k], 0) for k in classes]).reshape(-1, 2)
    badge_size = 0.07 * max(np.ptp(ax.get_xlim()), np.ptp(ax.get_ylim()))
    handles = []
    for k, color, where in zip(classes, CLASS_COLORS, _spread(medians, badge_size), strict=False):
        badge = {"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": color, "linewidth": 1.8}
        ax.text(*where, f"{k:.0f}", ha="center", va="center", fontsize=fontsize, weight="bold", bbox=badge, zorder=4)
        name = f"{k:.0f}" if class_names is None else f"{k:.0f} {class_names[int(k)]}"
        handles.append(Line2D([], [], color=color, label=name, linestyle="", marker="o", markersize=6))
    return handles


def _spread(points, distance):
    """The points `[P, 2]`, moved as little as it takes to stand `distance` apart."""
    angle = np.arange(len(points))
    points = points + 1e-3 * distance * np.stack([np.cos(angle), np.sin(angle)], 1)  # equal points part too
    for _ in range(100):
        away = points[:, None] - points
        apart = np.linalg.norm(away, axis=-1, keepdims=True) + np.eye(len(points))[..., None] * 1e9
        points = points + (away / apart * np.maximum(distance - apart, 0)).sum(1) / len(points)  # a crowd adds up
    return points


def plain(ax):
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)
