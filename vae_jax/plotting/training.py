"""Training curves: records in, Figure out."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from vae_jax.plotting.toolkit import BLACK, BLUE, ORANGE, panels, plain

SPLITS = {
    "train": {"color": BLUE, "linewidth": 1.6, "zorder": 2},
    "valid": {"color": ORANGE, "linewidth": 1.2, "marker": "o", "markersize": 3, "zorder": 3},
    "test": {"color": BLACK, "linewidth": 1.0, "linestyle": ":", "marker": "*", "markersize": 10, "zorder": 4},
}
PANELS = {  # what a record holds -> the panel's title
    "elbo": "ELBO",
    "objective": "objective",  # only where there is no ELBO, as with autoencoders
    "log_likelihood": "E[log p(x|z)]",
    "kl": "KL(q || p)",
}


def training_curves(records) -> Figure:
    """The bound and its two terms during training, nats per example; the objective where there is no ELBO.

        elbo = log_likelihood - kl; what of the start leaves a panel is drawn whole in its corner, over log time.

    Args:
        records: the dicts of metrics.jsonl, `{"epoch", "step", "split", "elbo", ...}`; what is missing or not finite
            is left out.

    Returns:
        The picture; each panel's legend holds each split's last value.
    """
    names = shown_panels(records)
    figure, axes = panels(len(names), 4, (4.0, 0.0), (0.0, 3.3))
    if not names:
        return no_panel(figure)
    time = "epoch" if all("epoch" in record for record in records) else "step"
    for ax, name in zip(axes, names, strict=True):
        _curves_panel(ax, {split: curve(records, split, time, name) for split in SPLITS})
        ax.set_title(PANELS[name], fontsize=11, loc="left", pad=24)  # the legend stands between title and axes
        ax.set(xlabel=time.capitalize(), ylabel="nats per example")
    return figure


def shown_panels(records) -> list[str]:
    """The names of PANELS of which a record has a finite number; 'objective' only where none has an ELBO."""
    names = [name for name in PANELS if any(finite(record, name) for record in records)]
    return [name for name in names if name != "objective" or "elbo" not in names]


def no_panel(figure) -> Figure:
    """The figure with a line that says why it is empty."""
    figure.text(0.5, 0.5, "No finite number recorded", ha="center", va="center")
    return figure


def finite(record, key):
    return record.get(key) is not None and bool(np.isfinite(record[key]))


def curve(records, split, time, key) -> np.ndarray:
    """The split's (times [T], values [T]), finite ones only, in order of time."""
    own = [r for r in records if r.get("split") == split and finite(r, key) and finite(r, time)]
    points = sorted((r[time], r[key]) for r in own)
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
    low, high = ax.set_ylim(robust_limits(list(curves.values())))
    time, value = curves.get("train", np.empty((2, 0)))
    if np.any((value < low) | (value > high)):
        whole_run(ax, time, value)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=max(time[-1] for time, _ in curves.values()) >= 6))
    tight = {"frameon": False, "fontsize": 9, "handlelength": 1.4, "handletextpad": 0.5, "columnspacing": 1.0}
    ax.legend(loc="lower left", bbox_to_anchor=(-0.03, 1.0), borderpad=0.2, ncols=3, **tight)
    plain(ax)


def whole_run(ax, time, value):
    """The training curve from its first record on, small, over log time, in the right corner that it leaves empty."""
    ends_high = value[-1] > np.mean(ax.get_ylim())
    inset = ax.inset_axes((0.56, 0.1 if ends_high else 0.58, 0.42, 0.36))
    inset.plot(time, value, **SPLITS["train"] | {"linewidth": 1.0})
    inset.set_xscale("log")
    inset.xaxis.set_minor_locator(NullLocator())
    inset.yaxis.set_major_locator(MaxNLocator(2))
    inset.tick_params(labelsize=7, length=2)


def robust_limits(curves) -> tuple[float, float]:
    """Limits that hold what follows the first tenth of training and every last value; the start may leave the frame."""
    time, value = np.concatenate(curves, 1)
    late = value[time >= time.min() + 0.1 * np.ptp(time)]
    ends = [value[-1] for _, value in curves]
    low, high = np.percentile(late if len(late) >= 5 else value, [1, 99])  # a few points: show them all
    low, high = min(low, *ends), max(high, *ends)
    pad = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return low - pad, high + pad
