"""Pictures of gaps, gradient noise and true posteriors."""

import numpy as np
from matplotlib.figure import Figure

from vae_jax import console
from vae_jax.plotting.toolkit import BLACK, BLUE, ORANGE, image_grid, legend, log_axis, panels, plain, show

WIDE = {"linewidth": 4, "alpha": 0.45, "markersize": 9}
THIN = {"linewidth": 1.4, "markersize": 5, "zorder": 3}  # lies on a wide one where both are the same
ESTIMATORS = {
    "elbo": {"label": "ELBO", "color": BLACK, "marker": "s", "linestyle": "-", **WIDE},
    "iwae": {"label": "IWAE", "color": BLUE, "marker": "o", "linestyle": "-", **WIDE},
    "stl": {"label": "STL", "color": "#882255", "marker": "v", "linestyle": "--", **THIN},
    "dreg": {"label": "DReG", "color": ORANGE, "marker": "^", "linestyle": "-", **THIN},
}


def snr_lines(values) -> Figure:
    """Signal-to-noise ratio of gradient estimators against K, |E g| / √(tr Cov g), log-log.

    Args:
        values: {'names' `[E]`, 'num_samples' `[K]`, 'parts' `[P]`, 'snr_norm' and 'snr_norm_stderr' `[E, K, P]`}.

    Returns:
        The picture, a panel for each part of the model; grey lines have the slopes 1/2 and -1/2.
    """
    counts, parts = values["num_samples"], list(values["parts"])
    figure, axes = panels(len(parts), len(parts), (4.6, 4.1), (0.0, 0.0))
    for column, ax in enumerate(axes):
        for row, name in enumerate(values["names"]):
            y, error = values["snr_norm"][row, :, column], values["snr_norm_stderr"][row, :, column]
            seen = y > 0
            ax.errorbar(counts[seen], y[seen], yerr=error[seen], capsize=2, **ESTIMATORS[str(name)])
        ax.set_xscale("log", base=2)
        ax.set_xticks(counts, [str(count) for count in counts])
        log_axis(ax, "y")
        slopes(ax, counts, values["snr_norm"][:, :, column])
        ax.set_xlabel("Draws K of z for each example")
        ax.set_title(f"{str(parts[column]).capitalize()}", fontsize=11, loc="left")
        plain(ax)
    axes[0].set_ylabel("|E g| / √(tr Cov g)")
    figure.suptitle("Signal-to-noise ratio of gradient estimators", fontsize=11)
    legend(figure, "right center", axes[-1])
    return figure


def slopes(ax, counts, values):
    """Grey lines through the middle: √K, what theory says of STL and DReG, and 1/√K, of IWAE's encoder."""
    limits, ends = ax.get_ylim(), values[:, [0, -1]]
    middle = np.exp(np.log(ends[ends > 0]).mean()) if np.any(ends > 0) else 1.0
    for power, label, style in ((0.5, "√K", "--"), (-0.5, "1/√K", ":")):
        line = middle * (counts / np.sqrt(counts[0] * counts[-1])) ** power
        ax.plot(counts, line, color="#999999", linewidth=1, linestyle=style, label=label, zorder=1)
    ax.set_ylim(limits)


LEVELS = (0.05, 0.25, 0.6, 0.9)  # contours, as shares of the greatest density
COLORS = {"amortized": "#d55e00", "semi-amortized": "#009e73", "optimal": "#0072b2"}


def posterior_contours(grids, log_p, log_qs, kls, images) -> Figure:
    """The true posterior of each image in grey, its q's as contours at shares of their peaks, and the KLs.

    Args:
        grids: the values of z1 and of z2 on each image's grid `[N, 2, P]`.
        log_p: log p(z|x) on the grid `[N, P^2]`, nats; z1 varies fastest.
        log_qs: {how q was found: log q(z|x) `[N, P^2]`, nats}, named as in COLORS.
        kls: {how q was found: KL(q || p(z|x)) `[N]`, nats}.
        images: `[N, *event]`; images are shown in a corner.

    Returns:
        The picture, a panel for each image.
    """
    figure, axes = panels(len(images), 4, (3.3, 3.75), (0.0, 0.4))
    for number, ax in enumerate(axes):
        draw_contours(ax, grids[number], log_p[number], {name: log_q[number] for name, log_q in log_qs.items()})
        if images[number].ndim == 3:
            show(ax.inset_axes([0.78, 0.78, 0.2, 0.2]), image_grid(images[number][None], 1))
        ax.set_title("KL " + ", ".join(f"{kls[name][number]:.2f}" for name in COLORS) + " nats", fontsize=10)
    handles = [axes[0].plot([], [], color=color, label=name)[0] for name, color in COLORS.items()]
    legend(figure, "lower center", handles, ncols=3, fontsize=10)
    title = "True posterior (grey) and q found three ways; KL(q || p(z|x)) in the legend's order"
    figure.suptitle(title, fontsize=12)
    return figure


def draw_contours(ax, grid, log_p, log_qs):
    """Contours of one posterior and its q's, in a window that holds them all."""
    density = lambda log_density: np.exp(log_density - log_density.max()).reshape(len(grid[1]), len(grid[0]))
    ax.contourf(*grid, density(log_p), levels=[*LEVELS, 1.0], cmap="Greys", vmin=-0.4, vmax=1.3)
    inside = density(log_p) > LEVELS[0] / 2
    for name, log_q in log_qs.items():
        ax.contour(*grid, density(log_q), levels=LEVELS[:3], colors=COLORS[name], linewidths=1.1)
        inside |= density(log_q) > LEVELS[0] / 2
    sides = [grid[across][np.flatnonzero(inside.any(across))[[0, -1]]] for across in (0, 1)]
    half = max(np.ptp(side) for side in sides) / 2 * 1.1
    xlim, ylim = ((side.mean() - half, side.mean() + half) for side in sides)
    ax.set(xlim=xlim, ylim=ylim, aspect="equal", xlabel="$z_1$", ylabel="$z_2$")


BARS = {  # of what is measured, those for which there are numbers
    "q, inferred": ("approximation_gap", "amortization_gap"),
    "q*, this family": ("approximation_gap",),
    "q*, with a flow": ("approximation_gap_flow",),
    "BDMC from q*": ("bdmc_q_gap",),
    "BDMC from the prior": ("bdmc_prior_gap",),
}
BAR_COLORS = {"amortization_gap": ORANGE, "bdmc_q_gap": "#999999", "bdmc_prior_gap": "#999999"}


def gap_bars(numbers) -> Figure:
    """What q loses, as bars from log p(x) down: approximation and amortization gap, those of the flow, and BDMC's.

    Args:
        numbers: {gap: {'value', 'stderr', 'unit', 'num_examples'}}, nats.

    Returns:
        The picture, a bar for each entry of BARS that was measured.
    """
    bars = {label: names for label, names in BARS.items() if all(name in numbers for name in names)}
    figure = Figure(figsize=(8.0, 0.9 + 0.55 * len(bars)), layout="constrained")
    ax = figure.subplots()
    for row, names in enumerate(bars.values()):
        values = [numbers[name]["value"] for name in names]
        for name, value, left in zip(names, values, np.cumsum([0.0, *values]), strict=False):
            ax.barh(row, value, left=left, height=0.6, color=BAR_COLORS.get(name, BLUE), alpha=0.8)
        whole, end = numbers["inference_gap" if len(names) > 1 else names[0]], sum(values)
        ax.errorbar(end, row, xerr=whole["stderr"] or 0, color="black", capsize=3)
        terms = " + ".join(f"{value:.2f}" for value in values) + " = " if len(names) > 1 else ""
        text = f"{terms}{console.number(whole)}, {whole['num_examples']} examples"
        ax.annotate(text, (end + (whole["stderr"] or 0), row), (6, 0), textcoords="offset points", va="center", size=9)
    ax.set_yticks(range(len(bars)), bars)
    ax.invert_yaxis()
    low, high = ax.get_xlim()
    ax.set_xlim(low, low + 2.1 * (high - low))  # room for the text
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_xlabel("nats below log p(x)")
    ax.set_title("Approximation gap (blue) and amortization gap (orange)", fontsize=11, loc="left")
    return figure
