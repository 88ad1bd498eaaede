"""Pictures of a latent space: arrays in, `matplotlib.figure.Figure` out, as in figures.py."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from matplotlib.ticker import MaxNLocator

from vae_jax.plotting.images import BLACK, BLUE, CLASS_COLORS, ORANGE, image_rows, samples

COLUMNS = 4  # histograms side by side


def manifold(x, count, of="the prior"):
    """What a grid of `count` x `count` quantiles of the prior decodes to; z2 rises from bottom to top."""
    return samples(x, title=f"Decoded at quantiles of {of}: $z_1$ to the right, $z_2$ upwards", columns=count)


def interpolations(x):
    """Straight lines in the latent space, `[N, steps, *event]`, between the codes of two images each."""
    rows = {f"pair {number}": line for number, line in enumerate(x, 1)}
    return strips(rows, "Decoded along lines between the codes of two test images")


def traversals(x, dimensions):
    """One row for each dimension `[len(dimensions), steps, *event]`, walked from -3 to 3."""
    rows = {f"$z_{{{dimension + 1}}}$": walk for dimension, walk in zip(dimensions, x, strict=True)}
    return strips(rows, "Decoded along one dimension from −3 to 3, the others at one image's code")


def posterior_samples(originals, x):
    """Images `[N, *event]`, each with what draws of its own q(z|x) decode to `[N, count, *event]`."""
    return strips(beside(originals, x), "Each test image (left), and the mean of p(x|z) at draws of its own q(z|x)")


def neighbours(queries, found):
    """Test images `[Q, *event]`, each with the training images nearest by code `[Q, count, *event]`."""
    return strips(beside(queries, found), "Each test image (left), and the training images nearest by latent mean")


def beside(first, others):
    """{label: an image and the others that go with it} for `[N, *event]` and `[N, count, *event]`."""
    return {f"image {i + 1}": np.concatenate([one[None], others[i]]) for i, one in enumerate(np.asarray(first))}


def strips(rows, title):
    """{label: images [columns, *event]} as one labelled row of images each."""
    columns = len(next(iter(rows.values())))
    return image_rows(rows, title, columns)


def kl_bars(kl):
    """The KL of each dimension `[Z]`, the largest first, against its rank; how much it takes to be active."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    ax = figure.subplots()
    ordered = np.sort(kl)[::-1]
    ax.bar(np.arange(1, len(kl) + 1), ordered, color=BLUE)
    active = int((kl > 0.01).sum())
    ax.set_title(f"KL of each latent dimension: {active} of {len(kl)} above 0.01 nats", fontsize=11)
    ax.set(xlabel="Dimension, by rank", ylabel="Mean KL(q || p), nats", xlim=(0.3, len(kl) + 0.7))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def aggregate(z, dimensions):
    """Draws of the aggregate posterior `[N, Z]` in some dimensions, as histograms, the standard normal over them."""
    rows = -(-len(dimensions) // COLUMNS)
    columns = min(COLUMNS, len(dimensions))
    figure = Figure(figsize=(max(2.3 * columns + 0.4, 6.0), 2.0 * rows + 0.9), layout="constrained")
    axis = np.linspace(-4, 4, 201)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for ax in axes[len(dimensions) :]:
        ax.set_visible(False)
    for ax, dimension in zip(axes, dimensions, strict=False):
        inside = np.clip(z[:, dimension], -4, 4)  # what lies beyond stands in the outermost bins
        ax.hist(inside, bins=40, range=(-4, 4), density=True, color=BLUE, label="aggregate posterior")
        ax.plot(axis, np.exp(-(axis**2) / 2) / np.sqrt(2 * np.pi), color=ORANGE, linewidth=1.8, label="standard normal")
        ax.set_title(f"$z_{{{dimension + 1}}}$", fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.suptitle("Aggregate posterior against a standard normal, the most used dimensions first", fontsize=11)
    figure.supylabel("Density", fontsize=10)
    return figure


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
