"""Pictures of gaps, gradient noise and true posteriors: arrays in, Figure out."""

import numpy as np

from vae_jax import console

LABELS = {"elbo": "ELBO", "iwae": "IWAE", "stl": "STL", "dreg": "DReG"}


def snr_lines(values):
    """Signal-to-noise ratio against K, log-log, a panel for each part; values: `arrays`."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    counts, parts = values["num_samples"], list(values["parts"])
    figure = Figure(figsize=(4.6 * len(parts), 4.1), layout="constrained")
    for column, ax in enumerate(figure.subplots(1, len(parts), squeeze=False)[0]):
        for row, name in enumerate(values["names"]):
            y, error = values["snr_norm"][row, :, column], values["snr_norm_stderr"][row, :, column]
            seen = y > 0
            ax.errorbar(counts[seen], y[seen], yerr=error[seen], label=LABELS[str(name)], capsize=2, **style(str(name)))
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.set_xticks(counts, [str(count) for count in counts])
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
        ax.yaxis.set_minor_formatter("")
        ax.set_xlabel("Draws K of z for each example")
        ax.set_title(f"{str(parts[column]).capitalize()}", fontsize=11, loc="left")
        ax.grid(True, color="0.9", linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("|E g| / √(tr Cov g)")
    figure.suptitle("Signal-to-noise ratio of gradient estimators", fontsize=11)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=9)
    return figure


def style(name):
    """Of the line of an estimator: the second of a pair is thin, and lies on the first where both are the same."""
    from vae_jax.plotting.images import BLACK, BLUE, ORANGE

    wide, thin = {"linewidth": 4, "alpha": 0.45, "markersize": 9}, {"linewidth": 1.4, "markersize": 5, "zorder": 3}
    return {
        "elbo": {"color": BLACK, "marker": "s", "linestyle": "-", **wide},
        "iwae": {"color": BLUE, "marker": "o", "linestyle": "-", **wide},
        "stl": {"color": "#882255", "marker": "v", "linestyle": "--", **thin},
        "dreg": {"color": ORANGE, "marker": "^", "linestyle": "-", **thin},
    }[name]


LEVELS = (0.05, 0.25, 0.6, 0.9)  # contours, as shares of the greatest density
COLORS = {"amortized": "#d55e00", "semi-amortized": "#009e73", "optimal": "#0072b2"}


def posterior_contours(axis, log_p, log_qs, kls, images):
    """A panel for each image: its true posterior in grey, each q as contours at shares of its peak, and the KLs."""
    from matplotlib.figure import Figure

    columns = min(4, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(3.3 * columns, 3.75 * rows + 0.4), layout="constrained")
    for number, ax in enumerate(figure.subplots(rows, columns, squeeze=False).flat[: len(images)]):
        draw_panel(ax, axis, log_p[number], {name: log_q[number] for name, log_q in log_qs.items()})
        draw_image(ax, images[number])
        ax.set_title("KL " + ", ".join(f"{kls[name][number]:.2f}" for name in COLORS) + " nats", fontsize=10)
    handles = [figure.axes[0].plot([], [], color=color, label=name)[0] for name, color in COLORS.items()]
    title = "True posterior (grey) and q found three ways; KL(q || p(z|x)) in the legend's order"
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(title, fontsize=12)
    return figure


def draw_panel(ax, axis, log_p, log_qs):
    """Contours of one posterior and its q's on the grid axis x axis, in a window that holds them all."""
    density = lambda log_density: np.exp(log_density - log_density.max()).reshape(len(axis), -1)
    ax.contourf(axis, axis, density(log_p), levels=[*LEVELS, 1.0], cmap="Greys", vmin=-0.4, vmax=1.3)
    inside = density(log_p) > LEVELS[0] / 2
    for name, log_q in log_qs.items():
        ax.contour(axis, axis, density(log_q), levels=LEVELS[:3], colors=COLORS[name], linewidths=1.1)
        inside |= density(log_q) > LEVELS[0] / 2
    ys, xs = np.nonzero(inside)
    center, half = (axis[[xs.min(), xs.max()]], axis[[ys.min(), ys.max()]]), 0.0
    half = max(np.ptp(side) for side in center) / 2 * 1.1
    ax.set(xlim=center[0].mean() + np.array([-half, half]), ylim=center[1].mean() + np.array([-half, half]))
    ax.set(aspect="equal", xlabel="$z_1$", ylabel="$z_2$")


def draw_image(ax, image):
    """The image itself, small, in a corner."""
    if image.ndim == 3:
        inset = ax.inset_axes([0.78, 0.78, 0.2, 0.2])
        inset.imshow(image.squeeze(), cmap="gray")
        inset.set(xticks=[], yticks=[])


def gap_bars(numbers):
    """What q loses, as bars from log p(x) down: approximation and amortization gap, those of the flow, and BDMC's."""
    from matplotlib.figure import Figure

    from vae_jax.plotting.images import BLUE, ORANGE

    bars = [("q, inferred", ("approximation_gap", "amortization_gap")), ("q*, this family", ("approximation_gap",))]
    bars += [("q*, with a flow", ("approximation_gap_flow",)), ("BDMC from q*", ("bdmc_q_gap",))]
    bars += [("BDMC from the prior", ("bdmc_prior_gap",))]
    bars = [(label, names) for label, names in bars if all(name in numbers for name in names)]
    figure = Figure(figsize=(8.0, 0.9 + 0.55 * len(bars)), layout="constrained")
    ax = figure.subplots()
    colors = {"amortization_gap": ORANGE, "bdmc_q_gap": "#999999", "bdmc_prior_gap": "#999999"}
    for row, (_, names) in enumerate(bars):
        left = 0.0
        for name in names:
            value = numbers[name]["value"]
            ax.barh(row, value, left=left, height=0.6, color=colors.get(name, BLUE), alpha=0.8)
            left += value
        whole = numbers["inference_gap" if len(names) > 1 else names[0]]
        ax.errorbar(left, row, xerr=whole["stderr"] or 0, color="black", capsize=3)
        parts = " + ".join(f"{numbers[name]['value']:.2f}" for name in names) + " = " if len(names) > 1 else ""
        text = f"{parts}{console.number(whole)}, {whole['num_examples']} examples"
        ax.annotate(text, (left + (whole["stderr"] or 0), row), (6, 0), textcoords="offset points", va="center", size=9)
    ax.set_yticks(range(len(bars)), [label for label, _ in bars])
    ax.invert_yaxis()
    low, high = ax.get_xlim()
    ax.set_xlim(low, low + 2.1 * (high - low))  # room for the text
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_xlabel("nats below log p(x)")
    ax.set_title("Approximation gap (blue) and amortization gap (orange)", fontsize=11, loc="left")
    return figure
