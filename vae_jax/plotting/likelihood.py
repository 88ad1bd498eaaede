"""Pictures of what a model says of images, in bits, nats and squared errors: arrays in, Figure out."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter

from vae_jax.plotting.images import BLACK, BLUE, CLASS_COLORS, ORANGE, image_grid

SHOWN = 3  # images of a kind
EXTREMES = 8  # images with the least and with the most bits
DOTS = 2000  # images in a scatter
STYLES = {  # of the two estimates
    "q": {"label": "z from q(z|x)", "color": BLUE, "marker": "o"},
    "prior": {"label": "z from the prior", "color": ORANGE, "marker": "s", "linestyle": "--"},
}


# ---- off the manifold


def off_manifold(kinds, errors, test_errors):
    """What becomes of images unlike the data.

    kinds: {what it is: (images, reconstructions) `[N, *event]`}, of which a few are shown; errors: {what it is: squared
    error of each `[N]`}; test_errors `[T]` those of all test images.
    """
    rows, columns = len(kinds), 2 * min(SHOWN, len(test_errors))
    figure = Figure(figsize=(0.62 * columns + 5.8, 0.62 * rows + 1.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(0.62 * columns, 3.8))
    limits = pairs_panel(left, kinds, columns)
    low, middle, high = np.percentile(test_errors, [5, 50, 95])
    right.axvspan(low, high, color=BLUE, alpha=0.15, linewidth=0, label=f"90% of {len(test_errors):,} test images")
    right.axvline(middle, color=BLUE, linestyle="--", linewidth=1.2, label="their median")
    for row, each in enumerate(errors.values()):
        names = ("one image", "median of a row") if not row else (None, None)
        dots = {"color": ORANGE, "markersize": 4, "alpha": 0.6, "markeredgewidth": 0, "linestyle": ""}
        right.plot(each, np.full(len(each), row), marker="o", label=names[0], **dots)
        tick = {"color": BLACK, "markersize": 16, "markeredgewidth": 1.8, "linestyle": ""}
        right.plot(np.median(each), row, marker="|", label=names[1], **tick)
    right.set(ylim=limits, yticks=[])
    log_axis(right)
    right.set_xlabel("Squared error, mean over an image's elements", fontsize=10)
    right.grid(True, axis="x", color="0.9", linewidth=0.6)
    right.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9, markerscale=0.7)
    figure.suptitle("Reconstructions of images unlike the data", fontsize=11)
    return figure


def pairs_panel(ax, kinds, columns):
    """A row of images and reconstructions in turn for each kind, centred at 0, 1, ...; returns the axis' limits."""
    shown = [np.stack(pair, 1)[: columns // 2] for pair in kinds.values()]  # [columns / 2, 2, *event]
    images = np.concatenate([pairs.reshape(-1, *pairs.shape[2:]) for pairs in shown])
    grid, height = image_grid(images, columns), images.shape[1]
    pitch = (len(grid) - height) / (len(kinds) - 1)  # from row to row, in pixels
    limits = (len(kinds) - 1 + height / 2 / pitch, -height / 2 / pitch)
    ax.imshow(grid, cmap="gray", vmin=0, vmax=1, aspect="auto", extent=(0, columns, *limits))
    side, tall = images.shape[2] * columns / grid.shape[1], height / pitch
    step = (columns - side) / (columns - 1)
    for number in range(len(images)):  # an edge, without which a white image is not there
        corner = number % columns * step, number // columns - tall / 2
        ax.add_patch(Rectangle(corner, side, tall, fill=False, edgecolor="0.6", linewidth=0.6, clip_on=False))
    ax.set_yticks(range(len(kinds)), kinds)
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title("An image and its reconstruction, in turn", fontsize=10)
    return limits


def log_axis(ax):
    """A logarithmic x axis with numbers at 1, 2 and 5."""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    ax.xaxis.set_minor_formatter(NullFormatter())


# ---- bits


def bits(rate, distortion, label=None, images=None):
    """Each image's bits for z and for x given z, lines of equal total, and the images with the least and the most.

    rate KL(q(z|x) || p(z)) `[N]`, distortion -E_q log p(x|z) `[N]`, in bits; images `[N, H, W, ...]` in [0, 1] or None.
    """
    figure = Figure(figsize=(6.4 if images is None else 10.2, 5.2), layout="constrained")
    left = figure if images is None else None
    if images is not None:
        left, right = figure.subfigures(1, 2, width_ratios=(6.2, 4.0))
        order, total = np.argsort(rate + distortion), rate + distortion
        ends = {"Least bits in total": order[:EXTREMES], "Most bits in total": order[::-1][:EXTREMES]}
        for part, (title, chosen) in zip(right.subfigures(2, 1), ends.items(), strict=True):
            titled_images(part, title, images[chosen], [signed(number) for number in total[chosen]])
    ax = left.subplots()
    bits_scatter(ax, rate[:DOTS], distortion[:DOTS], None if label is None else np.asarray(label)[:DOTS])
    totals(ax)
    means = f"on average {signed(np.mean(rate), 1)} for z and {signed(np.mean(distortion), 1)} for x given z"
    ax.set_title(f"Bits of each test image, {means}", fontsize=10)
    ax.set(xlabel="Rate: KL(q(z|x) || p(z)), bits", ylabel="Distortion: −E log p(x|z), bits")
    return figure


def signed(number, digits=0):
    return f"{number:.{digits}f}".replace("-", "−")


def titled_images(figure, title, images, names):
    """Images in two rows, each under its name."""
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots(2, -(-EXTREMES // 2)).ravel()
    for ax in axes:
        ax.set_axis_off()
    for ax, image, name in zip(axes, images, names, strict=False):
        ax.imshow(image_grid(image[None], 1), cmap="gray", vmin=0, vmax=1)
        ax.set_title(name, fontsize=9, pad=2)


def bits_scatter(ax, rate, distortion, label):
    """Points, where there are up to ten classes as numerals in their colours, other labels by a colour bar."""
    classes = np.unique(label) if label is not None else []
    if label is None:
        ax.scatter(rate, distortion, s=8, color=BLUE, linewidths=0, alpha=0.6)
    elif len(classes) > len(CLASS_COLORS):
        ax.figure.colorbar(ax.scatter(rate, distortion, s=8, c=label, cmap="viridis", linewidths=0), label="Label")
    else:
        for number, color in zip(classes, CLASS_COLORS, strict=False):
            own = label == number
            style = {"s": 34, "color": color, "linewidths": 0.2, "label": f"class {number}"}
            ax.scatter(rate[own], distortion[own], marker=f"${number}$", **style)
    ax.spines[["top", "right"]].set_visible(False)


def totals(ax):
    """Lines of equal sum across the axes, with their numbers where they leave at the right."""
    (left, right), (low, high) = limits = ax.get_xlim(), ax.get_ylim()
    for total in MaxNLocator(6, integer=True).tick_values(left + low, right + high):
        ax.plot((left, right), (total - left, total - right), color="0.6", linewidth=0.7, linestyle=":", zorder=0)
        at = min(right, total - low)  # where the line leaves the frame
        if left + 0.1 * (right - left) < at and low + 0.04 * (high - low) < total - at < high:
            name = f"{signed(total)} in total"
            ax.annotate(name, (at, total - at), (3, 0), textcoords="offset points", fontsize=7, color="0.4")
    ax.set(xlim=limits[0], ylim=limits[1])


# ---- estimates of log p(x)


def estimates(panels):
    """log p(x) from draws of the prior and of q, and how many of them count, against their number K.

    panels: {title: {source: (K `[C]`, log p(x) `[N, C]`, effective draws `[N, C]`)}}. Bands are two standard errors of
    the mean over the N examples.
    """
    width = 4.6 if len(panels) == 1 else 2.7
    figure = Figure(figsize=(width * len(panels) + 0.8, 5.6), layout="constrained")
    axes = figure.subplots(2, len(panels), sharex=True, sharey="row", squeeze=False)
    for (above, below), (title, sources) in zip(axes.T, panels.items(), strict=True):
        for source, (count, log_px, effective) in sources.items():
            band(above, count, log_px, STYLES[source])
            band(below, count, effective, STYLES[source])
        below.plot(count, count, color="0.6", linewidth=0.8, linestyle=":", label="all of them")
        above.set_title(title, fontsize=11)
        above.set(xscale="log")
        below.set(yscale="log", xlabel="Draws, K")
        for ax in (above, below):
            ax.grid(True, color="0.9", linewidth=0.6)
            ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("Estimate of log p(x), nats")
    axes[0, 0].set_ylim(bottom=lowest(panels))
    axes[1, 0].set_ylabel("Draws that count")
    figure.legend(
        *axes[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9
    )
    return figure


EARLY = 8  # draws: estimates from fewer may leave the frame, which they would fill


def lowest(panels):
    """The lower limit: what holds every mean from EARLY draws on."""
    means = [
        log_px.mean(0)[np.minimum(EARLY, count[-1]) <= count]
        for p in panels.values()
        for count, log_px, _ in p.values()
    ]
    values = np.concatenate(means)
    return values.min() - 0.1 * max(np.ptp(values), 1.0)


def band(ax, count, values, style):
    """The mean over examples of `values` `[N, C]`, and two standard errors to either side."""
    mean, error = values.mean(0), 2 * values.std(0, ddof=min(1, len(values) - 1)) / len(values) ** 0.5
    ax.plot(count, mean, markersize=3.5, linewidth=1.4, **style)
    ax.fill_between(count, mean - error, mean + error, color=style["color"], alpha=0.2, linewidth=0)
