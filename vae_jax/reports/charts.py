"""Pictures of many runs: a folded table, or the records of its runs, in; `matplotlib.figure.Figure` out.

As in figures.py nothing global is touched. Settings differ in colour and in marker or dash: viridis from dark to light
where the first key that tells them apart holds numbers, otherwise classes.
"""

import math
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from vae_jax.plotting.images import BLUE, CLASS_COLORS, ORANGE, plain
from vae_jax.plotting.training import PANELS, curve, finite, robust_limits
from vae_jax.reports.collect import ordered, spell
from vae_jax.reports.statistics import BETA, DISTORTION, RATE, standard_error
from vae_jax.reports.tables import headed, label, unit_of

MARKERS, DASHES = "osD^vPX*<>", ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))
COLORS = (BLUE, ORANGE, *(CLASS_COLORS[i] for i in (3, 8, 9, 4, 7, 5)))  # those that a thin line can have
COLUMNS = 3  # panels side by side
ENTRIES = 18  # of a legend, in one column
OVER_SEEDS = "mean over seeds, {}: ± one standard error"
ONE_SEED = "one seed, bar: ± one standard error over examples"


class Line(NamedTuple):
    """The rows that one line joins, how it is drawn, and what the legend says."""

    label: str
    rows: list
    style: dict


def lines(table, x, first=None) -> list[Line]:
    """The table's rows as lines over key `x` (None: a line for each row), told apart by the other keys, `first` first.

    Colour stands for the first of these keys, marker and dash for the others.
    """
    keys = sorted((key for key in table.keys if key != x), key=lambda key: key != first)
    places = [table.keys.index(key) for key in keys]
    groups = {}
    for row in table.rows:
        groups.setdefault(tuple(row.setting[i] for i in places), []).append(row)
    heads, tails = ordered([key[:1] for key in groups]), list(dict.fromkeys(key[1:] for key in groups))
    colors = palette([head[0] for head in heads if head])
    drawn = []
    for key in sorted(groups, key=lambda key: (heads.index(key[:1]), tails.index(key[1:]))):
        kind = tails.index(key[1:]) if len(tails) > 1 else heads.index(key[:1])
        style = {"color": colors[heads.index(key[:1])], "marker": MARKERS[kind % len(MARKERS)]}
        style["linestyle"] = DASHES[kind % len(DASHES)]
        drawn.append(Line(", ".join(map(spell, key)), groups[key], style))
    return drawn


def palette(values) -> list:
    """A colour for each value: a scale where they are numbers, classes where they are not."""
    if len(values) > 1 and all(map(is_number, values)):
        return [colormaps["viridis"](0.85 * i / (len(values) - 1)) for i in range(len(values))]
    return [COLORS[i % len(COLORS)] for i in range(max(len(values), 1))]


def is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# Training curves.


def training_curves(table, records, by=None) -> Figure:
    """Loss, reconstruction and KL during training, a line for each setting; `records` is {path: metrics.jsonl}."""
    every = [record for run_records in records.values() for record in run_records]
    names = [name for name in PANELS if any(finite(record, name) for record in every)]
    names = [name for name in names if name != "objective" or "elbo" not in names]
    splits = [split for split in ("train", "valid") if any(record["split"] == split for record in every)]
    figure = Figure(figsize=(3.7 * max(len(names), 1) + 1.8, 2.9 * max(len(splits), 1) + 0.5), layout="constrained")
    if not names or not splits:
        figure.text(0.5, 0.5, "No finite number recorded", ha="center", va="center")
        return figure
    drawn = lines(table, None, by)
    for split, row in zip(splits, figure.subplots(len(splits), len(names), squeeze=False), strict=True):
        for name, ax in zip(names, row, strict=True):
            curves_panel(ax, drawn, records, split, name)
    figure.suptitle(f"Training: {OVER_SEEDS.format('band') if table.over_seeds else 'one seed'}", fontsize=11)
    legend(figure, ax, table.keys, by)
    return figure


def curves_panel(ax, drawn, records, split, name):
    title, sign = PANELS[name]
    curves = []
    for line in drawn:
        runs = [records[run.path] for row in line.rows for run in row.runs.values()]
        time, mean, stderr = band([curve(one, split, "epoch", name, sign) for one in runs])
        style = {**line.style, "marker": line.style["marker"] if len(time) < 30 else None}
        ax.plot(time, mean, label=line.label, linewidth=1.4, markersize=3.5, **style)
        if stderr is not None:
            ax.fill_between(time, mean - stderr, mean + stderr, color=line.style["color"], alpha=0.2, linewidth=0)
        curves += [np.array([time, mean])] if len(time) else []
    if curves:
        ax.set_ylim(robust_limits(curves))
    ax.set_title(
        f"{split.capitalize()}: {title[0].lower() * (title[:2] != 'KL')}{title[title[:2] != 'KL' :]}", fontsize=10
    )
    ax.set(xlabel="Epoch", ylabel="nats per example")
    ax.xaxis.set_major_locator(MaxNLocator(6))
    plain(ax)


def band(curves):
    """Curves (times [T], values [T]) of the seeds at the times they share: times, means, standard errors or None."""
    times = sorted(set.intersection(*(set(time) for time, _ in curves)))
    values = np.array([[dict(zip(*one, strict=True))[time] for time in times] for one in curves])
    stderr = np.array([standard_error(column) for column in values.T]) if len(curves) > 1 else None
    return np.array(times), values.mean(0), stderr


# A number against a key.


def against_key(table, x, names, by=None) -> Figure:
    """Each number over the values of the config key `x`: means with error bars, a line for each setting of the rest."""
    columns = min(len(names), COLUMNS)
    rows = -(-len(names) // columns)
    figure = Figure(
        figsize=(4.2 * columns + (1.6 if len(table.keys) > 1 else 0.2), 3.1 * rows + 0.6), layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(names) :]:
        ax.set_visible(False)
    values, drawn = ordered([row.setting[table.keys.index(x)] for row in table.rows]), lines(table, x, by)
    for ax, name in zip(axes, names, strict=False):
        key_panel(ax, drawn, table, x, values, name)
    figure.suptitle(OVER_SEEDS.format("bar") if table.over_seeds else ONE_SEED, fontsize=11)
    if len(table.keys) > 1:
        legend(figure, axes[0], [key for key in table.keys if key != x], by)
    return figure


def key_panel(ax, drawn, table, x, values, name):
    place, scale, shown = table.keys.index(x), scale_of(values), []
    for i, line in enumerate(drawn):
        rows = [row for row in line.rows if name in row.numbers and math.isfinite(row.numbers[name].mean)]
        apart = 0.06 * (i - (len(drawn) - 1) / 2) if scale == "words" else 0.0  # where bars would hide each other
        points = [position(row.setting[place], values, scale) + apart for row in rows]
        means, errors = [row.numbers[name].mean for row in rows], [row.numbers[name].stderr or 0.0 for row in rows]
        style = line.style | ({"linestyle": "none"} if scale == "words" else {})
        ax.errorbar(points, means, yerr=errors, label=line.label, capsize=3, markersize=5, linewidth=1.4, **style)
        shown += means
    dress(ax, values, scale)
    if shown and min(shown) > 0 and max(shown) >= 100 * min(shown):
        ax.set_yscale("log")
    text = headed(label(name), unit_of(table, name))
    ax.set(xlabel=x, ylabel=text[0].upper() + text[1:])
    plain(ax)


def position(value, values, scale) -> float:
    """Where a value of a key stands on its axis."""
    return float(values.index(value) if scale == "words" else value)


def dress(ax, values, scale) -> None:
    """Sets the scale of x, ticks at the values, and their labels as far as there is room."""
    if scale in ("log", "symlog"):
        smallest = min(value for value in values if value > 0)
        ax.set_xscale(scale, **({"linthresh": smallest, "linscale": 0.5} if scale == "symlog" else {}))
    points = [position(value, values, scale) for value in values]
    places = ax.transData.transform([(point, 1.0) for point in points])[:, 0]
    room, last, texts = 0.085 * (max(places) - min(places)), -math.inf, []
    for place, value in zip(places, values, strict=True):
        fits = place - last >= room
        texts.append(spell(value) if fits else "")
        last = place if fits else last
    turned = {"rotation": 25, "ha": "right"} if scale == "words" and sum(map(len, texts)) > 28 else {}
    ax.set_xticks(points, texts, fontsize=9, **turned)
    ax.xaxis.set_minor_locator(NullLocator())
    if scale == "words":
        ax.set_xlim(-0.5, len(points) - 0.5)


def scale_of(values) -> str:
    """The scale on which values lie most evenly."""
    if not all(map(is_number, values)):
        return "words"
    positive = np.array(sorted(value for value in values if value > 0), float)
    if len(positive) < 2 or min(values) < 0:
        return "linear"
    uneven = lambda points: np.diff(points).max() / np.diff(points).mean()
    wide = positive[-1] >= 10 * positive[0] if len(positive) == 2 else uneven(np.log(positive)) < uneven(positive)
    return ("log" if len(positive) == len(values) else "symlog") if wide else "linear"


# Rate and distortion.

ABOVE = {"xytext": (6, 4), "ha": "left", "va": "bottom"}  # of a point, where text stands
BELOW = {"xytext": (-6, -4), "ha": "right", "va": "top"}


def rate_distortion(table, by=None) -> Figure:
    """KL against -E[log p(x|z)] on test, nats, with beta at the points; Alemi et al. (2018).

    Along a grey line the ELBO is the same. Where beta was not swept, a point bears the values of its setting.
    """
    figure = Figure(figsize=(6.4 + (1.4 if len(table.keys) > 1 else 0), 4.8), layout="constrained")
    ax = figure.subplots()
    beta = table.keys.index(BETA) if BETA in table.keys else None
    drawn = lines(table, BETA, by) if beta is not None else [Line("", table.rows, {"color": BLUE, "marker": "o"})]
    for i, line in enumerate(drawn):
        rows = [row for row in line.rows if RATE in row.numbers and DISTORTION in row.numbers]
        rate, distortion = ([row.numbers[name] for row in rows] for name in (RATE, DISTORTION))
        places = [number.mean for number in rate], [-number.mean for number in distortion]
        errors = {"xerr": [n.stderr or 0.0 for n in rate], "yerr": [n.stderr or 0.0 for n in distortion]}
        style = line.style if beta is not None else {**line.style, "linestyle": "none"}
        ax.errorbar(*places, **errors, label=line.label, capsize=2, markersize=5, linewidth=1.2, **style)
        for row, *place in zip(rows, *places, strict=True):
            shown = f"β={spell(row.setting[beta])}" if beta is not None else ", ".join(map(spell, row.setting))
            ax.annotate(shown, place, **(ABOVE, BELOW)[i % 2], textcoords="offset points", fontsize=8, color="0.2")
    equal_bounds(ax)
    ax.set(xlabel="Rate: KL(q || p), nats per example", ylabel="Distortion: −E[log p(x|z)], nats per example")
    ax.set_title("Rate and distortion on test; the ELBO is equal along a grey line", fontsize=11)
    plain(ax)
    if len(drawn) > 1:
        legend(figure, ax, [key for key in table.keys if key != BETA], by)
    return figure


def equal_bounds(ax):
    """Lines on which rate + distortion, minus the ELBO, is the same, behind what is drawn."""
    ax.margins(0.12)
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    for total in MaxNLocator(8).tick_values(left + low, right + high):
        ax.plot([left, right], [total - left, total - right], color="0.75", linewidth=0.8, linestyle="--", zorder=0)
    ax.set(xlim=(left, right), ylim=(low, high))


def legend(figure, ax, keys, by):
    """Beside the axes: the keys as its title, a line for each entry; nothing for a single one without a name."""
    handles, labels = ax.get_legend_handles_labels()
    title = "\n".join(sorted(keys, key=lambda key: key != by))
    if any(labels):
        options = {"loc": "outside right upper", "frameon": False, "fontsize": 9, "title_fontsize": 9}
        figure.legend(handles, labels, title=title, ncols=-(-len(labels) // ENTRIES), alignment="left", **options)
