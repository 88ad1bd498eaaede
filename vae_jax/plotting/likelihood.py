"""Pictures of what a model makes of images, in bits, nats and squared errors."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vae_jax.plotting import toolkit
from vae_jax.plotting.latent_space import draw_points
from vae_jax.plotting.toolkit import BLACK, BLUE, ORANGE, image_grid, plain, signed

SHOWN = 3  # images of a kind
EXTREMES = 8  # images with the least and with the most bits
DOTS = 2000  # images in a scatter
EARLY = 8  # draws: estimates from fewer may leave the frame, which they would fill
STYLES = {  # of the two estimates
    "q": {"label": "z from q(z|x)", "color": BLUE, "marker": "o"},
    "prior": {"label": "z from the prior", "color": ORANGE, "marker": "s", "linestyle": "--"},
}


def off_manifold(kinds, errors, test_errors) -> Figure:
    """What becomes of images unlike the data: a few of each kind, reconstructed, and the errors of all of them.

    Args:
        kinds: {what it is: (images, reconstructions) `[N, *event]`}.
        errors: {what it is: squared error of each, a mean over its elements, `[N]`}.
        test_errors: those of all test images `[T]`.

    Returns:
        The picture, a row for each kind.
    """
    columns = 2 * min(SHOWN, len(test_errors))
    size = 0.62 * columns + 5.8, 0.62 * len(kinds) + 1.6
    figure = Figure(figsize=size, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(0.62 * columns, 3.8))
    limits = draw_pairs(left, kinds, columns)
    low, middle, high = np.percentile(test_errors, [5, 50, 95])
    right.axvspan(low, high, color=BLUE, alpha=0.15, linewidth=0, label=f"90% of {len(test_errors):,} test images")
    right.axvline(middle, color=BLUE, linestyle="--", linewidth=1.2, label="their median")
    dots = {"color": ORANGE, "marker": "o", "markersize": 4, "alpha": 0.6, "markeredgewidth": 0, "linestyle": ""}
    rows = np.concatenate([np.full(len(each), row) for row, each in enumerate(errors.values())])
    right.plot(np.concatenate(list(errors.values())), rows, label="one image", **dots)
    tick = {"color": BLACK, "marker": "|", "markersize": 16, "markeredgewidth": 1.8, "linestyle": ""}
    right.plot([np.median(each) for each in errors.values()], range(len(errors)), label="median of a row", **tick)
    toolkit.log_axis(right)
    plain(right)
    right.set(ylim=limits, yticks=[])
    right.spines["left"].set_visible(False)
    right.set_xlabel("Squared error, mean over an image's elements", fontsize=10)
    toolkit.legend(figure, "lower center", right, ncols=4, markerscale=0.7)
    figure.suptitle("Reconstructions of images unlike the data", fontsize=11)
    return figure


def draw_pairs(ax, kinds, columns):
    """A row of images and reconstructions in turn for each kind, centred at 0, 1, ...; returns the axis' limits."""
    shown = [np.stack(pair, 1)[: columns // 2] for pair in kinds.values()]  # [columns / 2, 2, *event]
    images = np.concatenate([pairs.reshape(-1, *pairs.shape[2:]) for pairs in shown])
    edge = [(0, 0), (1, 1), (1, 1), (0, 0)][: images.ndim]  # without one a white image is not there
    images = np.pad(images, edge, constant_values=0.6)
    grid, height = image_grid(images, columns), images.shape[1]
    half = height / 2 / ((len(grid) - height) / (len(kinds) - 1))  # of an image, in rows
    limits = len(kinds) - 1 + half, -half
    toolkit.show(ax, grid, aspect="auto", extent=(0, columns, *limits))
    ax.set_yticks(range(len(kinds)), kinds)
    ax.set_title("An image and its reconstruction, in turn", fontsize=10)
    return limits


def bits(rate, distortion, label=None, images=None) -> Figure:
    """Each image's bits for z and for x given z, lines of equal total, and the images with the least and the most.

    Args:
        rate: KL(q(z|x) || p(z)) `[N]`, bits.
        distortion: -E_q log p(x|z) `[N]`, bits.
        label: labels `[N]`, drawn as in `latent_scatter`.
        images: `[N, H, W, ...]` in [0, 1], or None.

    Returns:
        The picture.
    """
    figure = Figure(figsize=(6.4 if images is None else 10.2, 5.2), layout="constrained")
    left = figure
    if images is not None:
        halves: Any = figure.subfigures(1, 2, width_ratios=(6.2, 4.0))
        left, right = halves
        draw_extremes(right, rate + distortion, images)
    ax = left.subplots()
    draw_points(ax, np.stack([rate, distortion], 1)[:DOTS], None if label is None else np.asarray(label)[:DOTS])
    toolkit.equal_sums(ax, "in total")
    means = f"on average {signed(np.mean(rate), '.1f')} for z and {signed(np.mean(distortion), '.1f')} for x given z"
    ax.set_title(f"Bits of each test image, {means}", fontsize=10)
    ax.set(xlabel="Rate: KL(q(z|x) || p(z)), bits", ylabel="Distortion: −E log p(x|z), bits")
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def draw_extremes(figure, total, images):
    """The images with the least and with the most in total, as many each, under their totals."""
    order, axes = np.argsort(total), figure.subplots(4, EXTREMES // 2).ravel()
    for ax in axes:
        ax.set_axis_off()
    for row, chosen in enumerate((order[:EXTREMES], order[::-1][:EXTREMES])):
        for ax, number in zip(axes[row * EXTREMES :], chosen, strict=False):
            ax.imshow(image_grid(images[number][None], 1), cmap="gray", vmin=0, vmax=1)
            ax.set_title(signed(total[number]), fontsize=9, pad=2)
    figure.suptitle("Bits in total: the least above, the most below", fontsize=10)


def estimates(columns) -> Figure:
    """log p(x) from draws of the prior and of q, and their effective sample size, against their number K.

    Args:
        columns: {title: {'prior' or 'q': (K `[C]`, log p(x) `[N, C]` in nats, effective sample size `[N, C]`)}}.

    Returns:
        The picture, a column for each title; bands are two standard errors of the mean over the N examples.
    """
    count = len(columns)
    size = 4.6 if count == 1 else 2.7, 2.8
    figure, axes = toolkit.panels(2 * count, count, size, (0.8, 0.0), sharex=True, sharey="row")
    above, below = axes[:count], axes[count:]
    for i, (title, sources) in enumerate(columns.items()):
        for source, (draws, *values) in sources.items():
            for ax, value in zip((above[i], below[i]), values, strict=True):
                error = value.std(0, ddof=min(1, len(value) - 1)) / len(value) ** 0.5
                toolkit.band(ax, draws, value.mean(0), 2 * error, **STYLES[source])
        below[i].plot(draws, draws, color="0.6", linewidth=0.8, linestyle=":", label="all of them")
        above[i].set_title(title, fontsize=11)
        above[i].set(xscale="log")
        below[i].set(yscale="log", xlabel="Draws, K")
    for ax in axes:
        plain(ax)
    above[0].set_ylabel("Estimate of log p(x), nats")
    above[0].set_ylim(bottom=lowest(columns))
    below[0].set_ylabel("Effective sample size")
    toolkit.legend(figure, "lower center", below[0], ncols=3)
    return figure


def lowest(columns):
    """The lower limit: what holds every mean from EARLY draws on."""
    found = [source for sources in columns.values() for source in sources.values()]
    means = np.concatenate([log_px.mean(0)[min(EARLY, draws[-1]) <= draws] for draws, log_px, _ in found])
    return means.min() - 0.1 * max(np.ptp(means), 1.0)
