"""Pictures of a latent space: codes, the use of its dimensions, the aggregate posterior."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from matplotlib.ticker import MaxNLocator

from vae_jax.plotting.toolkit import BLACK, BLUE, CLASS_COLORS, ORANGE, legend, panels, plain


def kl_bars(kl) -> Figure:
    """The KL of each latent dimension against its rank, and how many are active.

    Args:
        kl: mean KL(q(z_j|x) || p(z_j)) of each dimension `[Z]`, nats.

    Returns:
        The picture, the largest KL first.
    """
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    ax = figure.subplots()
    ax.bar(np.arange(1, len(kl) + 1), np.sort(kl)[::-1], color=BLUE)
    active = int((kl > 0.01).sum())
    ax.set_title(f"KL of each latent dimension: {active} of {len(kl)} above 0.01 nats", fontsize=11)
    ax.set(xlabel="Dimension, by rank", ylabel="Mean KL(q || p), nats", xlim=(0.3, len(kl) + 0.7))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    plain(ax)
    return figure


def aggregate(z, dimensions) -> Figure:
    """Draws of the aggregate posterior as histograms, with the density of a standard normal over them.

    Args:
        z: draws `[N, Z]`.
        dimensions: the dimensions to show, in order.

    Returns:
        The picture, a panel for each dimension.
    """
    columns = min(len(dimensions), 4)
    figure, axes = panels(len(dimensions), columns, (2.3, 2.0), (0.4, 0.9), sharex=True, sharey=True)
    axis = np.linspace(-4, 4, 201)
    for ax, dimension in zip(axes, dimensions, strict=True):
        inside = np.clip(z[:, dimension], -4, 4)  # what lies beyond stands in the outermost bins
        ax.hist(inside, bins=40, range=(-4, 4), density=True, color=BLUE, label="aggregate posterior")
        ax.plot(axis, np.exp(-(axis**2) / 2) / np.sqrt(2 * np.pi), color=ORANGE, linewidth=1.8, label="standard normal")
        ax.set_title(f"$z_{{{dimension + 1}}}$", fontsize=10)
        plain(ax)
    figure.set_figwidth(max(figure.get_figwidth(), 6.0))  # room for the title
    legend(figure, "lower center", axes[0], ncols=2)
    figure.suptitle("Aggregate posterior against a standard normal, the most used dimensions first", fontsize=11)
    figure.supylabel("Density", fontsize=10)
    return figure


def latent_scatter(
    mean, label=None, title: str = "Latent means", axis_labels=("$z_1$", "$z_2$"), prior: bool = True
) -> Figure:
    """Posterior means as points, coloured by a label.

    Args:
        mean: means of q(z|x) `[N, 2]`; what is not finite is left out.
        label: labels `[N]`. Up to ten whole numbers are classes: each stands at its median, and in the legend. Other
            labels are a quantity and get a colour bar.
        title: what stands above.
        axis_labels: what stands at the axes.
        prior: whether to draw the 1 and 2 sigma circles of a standard normal prior.

    Returns:
        The picture.

    Raises:
        ValueError: where the means are not `[N, 2]`.
    """
    figure = Figure(figsize=(6.4, 5.0), layout="constrained")
    ax = figure.subplots()
    handles = draw_latents(ax, mean, label, prior)
    ax.set_title(title, fontsize=11)
    ax.set(xlabel=axis_labels[0], ylabel=axis_labels[1])
    if handles:
        legend(figure, "right center", handles)
    return figure


def draw_latents(ax, mean, label=None, prior=True, fontsize=9) -> list:
    """What `latent_scatter` shows, into axes that there are already; returns the legend's handles."""
    mean = np.asarray(mean)
    if mean.ndim != 2 or mean.shape[1] != 2:
        raise ValueError(f"a latent scatter needs means of shape [N, 2], not {mean.shape}; project them first")
    finite = np.isfinite(mean).all(1)
    mean, label = mean[finite], None if label is None else np.asarray(label, float)[finite]
    ax.set_aspect("equal", adjustable="datalim")  # a unit is as long on either axis, and the frame stays full
    return (_prior_circles(ax) if prior else []) + draw_points(ax, mean, label, fontsize)


def _prior_circles(ax):
    """Draws where a standard normal prior lies; returns the legend's handles."""
    styles = [{"color": BLACK, "linewidth": 1.2, "linestyle": dash} for dash in ("-", "--")]
    for sigma, style in enumerate(styles, 1):
        ax.add_patch(Circle((0, 0), sigma, fill=False, zorder=3, **style))
    return [Line2D([], [], label=f"prior {sigma}σ", **style) for sigma, style in enumerate(styles, 1)]


def draw_points(ax, points, label=None, fontsize=9) -> list:
    """Points `[N, 2]` coloured by `label`, as in `latent_scatter`; returns the legend's handles of the classes."""
    dots = {"s": float(np.clip(2e4 / max(len(points), 1), 3, 30)), "linewidths": 0, "alpha": 0.75, "rasterized": True}
    if label is None:
        ax.scatter(*points.T, color=BLUE, **dots)
        return []
    classes = np.unique(label)
    if len(classes) > len(CLASS_COLORS) or not np.array_equal(classes, np.round(classes)):
        ax.figure.colorbar(ax.scatter(*points.T, c=label, cmap="viridis", **dots), label="Label")
        return []
    # One call for all classes: in the data's order no class hides another.
    ax.scatter(*points.T, c=[CLASS_COLORS[i] for i in np.searchsorted(classes, label)], **dots)
    handles = []
    for k, color, where in zip(classes, CLASS_COLORS, _medians_apart(ax, points, label, classes), strict=False):
        badge = {"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": color, "linewidth": 1.8}
        ax.text(*where, f"{k:.0f}", ha="center", va="center", fontsize=fontsize, weight="bold", bbox=badge, zorder=4)
        handles.append(Line2D([], [], color=color, label=f"{k:.0f}", linestyle="", marker="o", markersize=6))
    return handles


def _medians_apart(ax, points, label, classes):
    """The medians of the classes, `[C, 2]`, moved as little as it takes for their badges to stand apart."""
    size = 0.07 * np.ptp(ax.viewLim.get_points(), axis=0)  # of a badge
    size = size.max() if ax.get_aspect() == 1 else size
    angle = np.arange(len(classes))
    places = np.array([np.median(points[label == k], 0) for k in classes]).reshape(-1, 2) / size
    places = places + 1e-3 * np.stack([np.cos(angle), np.sin(angle)], 1)  # equal ones part too
    for _ in range(100):
        away = places[:, None] - places
        apart = np.linalg.norm(away, axis=-1, keepdims=True) + np.eye(len(places))[..., None] * 1e9
        places = places + (away / apart * np.maximum(1 - apart, 0)).sum(1) / len(places)  # a crowd adds up
    return places * size
