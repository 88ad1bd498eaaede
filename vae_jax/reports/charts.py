"""Pictures of many runs: a table, or the records of its runs, in; `matplotlib.figure.Figure` out.

Settings differ in colour and in marker or dash: viridis from dark to light
where the first key that tells them apart holds numbers, otherwise classes.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from vae_jax.plotting import toolkit
from vae_jax.plotting.toolkit import BLUE, CLASS_COLORS, ORANGE, equal_sums, panels, plain
from vae_jax.plotting.training import PANELS, curve, no_panel, robust_limits, shown_panels
from vae_jax.reports.collect import is_number, ordered, spell
from vae_jax.reports.statistics import BETA, DISTORTION, RATE, standard_error
from vae_jax.reports.tables import headed

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


# Training curves.


def training_curves(table, records, by=None) -> Figure:
    """The bound, reconstruction and KL during training, a line for each setting.

    Args:
        table: what `make_table` gave.
        records: {path of a run: the dicts of its metrics.jsonl}.
        by: the key that colours stand for.

    Returns:
        The picture, a row of panels for train and for valid.
    """
    every = [record for run_records in records.values() for record in run_records]
    names = shown_panels(every)
    splits = [split for split in ("train", "valid") if any(record["split"] == split for record in every)]
    figure, axes = panels(len(names) * len(splits), len(names), (3.7, 2.9), (1.8, 0.5))
    if not len(axes):
        return no_panel(figure)
    drawn = lines(table, None, by)
    for ax, (split, name) in zip(axes, itertools.product(splits, names), strict=True):
        curves_panel(ax, drawn, records, split, name)
    figure.suptitle(f"Training: {OVER_SEEDS.format('band') if table.over_seeds else 'one seed'}", fontsize=11)
    legend(figure, axes[0], table.keys, by)
    return figure


def curves_panel(ax, drawn, records, split, name):
    curves = []
    for line in drawn:
        runs = [records[run.path] for row in line.rows for run in row.runs.values()]
        time, mean, stderr = mean_curve([curve(one, split, "epoch", name) for one in runs])
        style = {**line.style, "marker": line.style["marker"] if len(time) < 30 else None}
        toolkit.band(ax, time, mean, stderr, label=line.label, **style)
        curves += [np.array([time, mean])] if len(time) else []
    if curves:
        ax.set_ylim(robust_limits(curves))
    ax.set_title(f"{split.capitalize()}: {PANELS[name]}", fontsize=10)
    ax.set(xlabel="Epoch", ylabel="nats per example")
    ax.xaxis.set_major_locator(MaxNLocator(6))
    plain(ax)


def mean_curve(curves):
    """Curves (times [T], values [T]) of the seeds at the times they share: times, means, standard errors or None."""
    times = sorted(set.intersection(*(set(time) for time, _ in curves)))
    values = np.array([[dict(zip(*one, strict=True))[time] for time in times] for one in curves])
    stderr = np.array([standard_error(column) for column in values.T]) if len(curves) > 1 else None
    return np.array(times), values.mean(0), stderr


# A number against a key.


def against_key(table, x, names, by=None) -> Figure:
    """Numbers over the values of a key of the configuration, with error bars; a line for each setting of the rest.

    Args:
        table: what `make_table` gave.
        x: the key.
        names: the numbers, a panel each.
        by: the key that colours stand for.

    Returns:
        The picture.
    """
    figure, axes = panels(len(names), COLUMNS, (4.2, 3.1), (1.6 if len(table.keys) > 1 else 0.2, 0.6))
    values, drawn = ordered([row.setting[table.keys.index(x)] for row in table.rows]), lines(table, x, by)
    for ax, name in zip(axes, names, strict=True):
        key_panel(ax, drawn, table, x, values, name)
    figure.suptitle(OVER_SEEDS.format("bar") if table.over_seeds else ONE_SEED, fontsize=11)
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
    text = headed(table, name)
    ax.set(xlabel=x, ylabel=text[0].upper() + text[1:])
    plain(ax)


def position(value, values, scale) -> float:
    """Where a value of a key stands on its axis."""
    return float(values.index(value) if scale == "words" else value)


def dress(ax, values, scale) -> None:
    """Sets the scale of x, and ticks at the values, which are turned where they need room."""
    if scale in ("log", "symlog"):
        smallest = min(value for value in values if value > 0)
        ax.set_xscale(scale, **({"linthresh": smallest, "linscale": 0.5} if scale == "symlog" else {}))
    points = [position(value, values, scale) for value in values]
    texts = [spell(value) for value in values]
    turned = {"rotation": 25, "ha": "right"} if sum(map(len, texts)) > 28 else {}
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


def rate_distortion(table, by=None) -> Figure:
    """KL against -E[log p(x|z)] on test, nats, with beta at the points; Alemi et al. (2018).

    Args:
        table: what `make_table` gave.
        by: the key that colours stand for.

    Returns:
        The picture; along a grey line the ELBO is the same.
    """
    figure = Figure(figsize=(6.4 + (1.4 if len(table.keys) > 1 else 0), 4.8), layout="constrained")
    ax = figure.subplots()
    beta = table.keys.index(BETA) if BETA in table.keys else None
    for line in lines(table, BETA, by):
        rows = [row for row in line.rows if RATE in row.numbers and DISTORTION in row.numbers]
        rate, distortion = ([row.numbers[name] for row in rows] for name in (RATE, DISTORTION))
        places = [number.mean for number in rate], [-number.mean for number in distortion]
        errors = {"xerr": [n.stderr or 0.0 for n in rate], "yerr": [n.stderr or 0.0 for n in distortion]}
        ax.errorbar(*places, **errors, label=line.label, capsize=2, markersize=5, linewidth=1.2, **line.style)
        for row, *place in zip(rows, *places, strict=True):
            if beta is not None:
                shown = f"β={spell(row.setting[beta])}"
                ax.annotate(shown, tuple(place), (6, 4), textcoords="offset points", fontsize=8, color="0.2")
    ax.margins(0.12)
    equal_sums(ax)
    ax.set(xlabel="Rate: KL(q || p), nats per example", ylabel="Distortion: −E[log p(x|z)], nats per example")
    ax.set_title("Rate and distortion on test; the ELBO is equal along a grey line", fontsize=11)
    plain(ax)
    legend(figure, ax, [key for key in table.keys if key != BETA], by)
    return figure


def legend(figure, ax, keys, by):
    """Beside the axes: the keys as its title, a line for each entry; nothing for a single one without a name."""
    labels = ax.get_legend_handles_labels()[1]
    if any(labels):
        options = {"ncols": -(-len(labels) // ENTRIES), "title_fontsize": 9, "alignment": "left"}
        title = "\n".join(sorted(keys, key=lambda key: key != by))
        toolkit.legend(figure, "right upper", ax, title=title, **options)
