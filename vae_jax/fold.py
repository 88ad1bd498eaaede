"""Runs folded into one table: means over seeds and paired differences. Plain data, no printing.

Runs of one setting differ in their seed alone. For the values v_s of the n seeds s of a setting and r_s of a reference:

    mean  (1/n) sum_s v_s          standard error  sd(v) / sqrt(n)
    difference  d_s = v_s - r_s over the seeds that both have;  mean(d) +- t(0.975, m - 1) sd(d) / sqrt(m)

with the sample standard deviation (m - 1 in its denominator) and Student's t. Numbers keep the units of the summaries.
"""

import difflib
import math
from typing import NamedTuple

import numpy as np

from vae_jax.swept import FoldError, Run, by_setting

NAMES = ("test.nll", "test.elbo", "test.kl", "test.active_units", "train_seconds")  # the columns if none are asked for
WHOLE = {"train_seconds": "s", "num_params": "", "epochs": "", "step": ""}  # numbers of the whole run, with their units
BETA, RATE, DISTORTION = "objective.beta", "test.kl", "test.log_likelihood"  # what trades one for the other, and both
UP = {"elbo", "log_likelihood", "log_px", "effective_samples", "linear_probe_accuracy", "knn_accuracy"}
DOWN = {"nll", "squared_error"}
CONFIDENCE = 0.95


class Number(NamedTuple):
    """A mean over `count` seeds; `stderr` is None where one seed is all there is."""

    mean: float
    stderr: float | None
    count: int
    unit: str


class Difference(NamedTuple):
    """A mean over `count` pairs of equal seed, with its 95% confidence interval; None and None for one pair."""

    mean: float
    low: float | None
    high: float | None
    count: int


class Row(NamedTuple):
    """One setting: the values of the table's keys, its runs by seed, its numbers, and those against the reference."""

    setting: tuple
    runs: dict[int, Run]
    numbers: dict[str, Number]
    differences: dict[str, Difference]


class Table(NamedTuple):
    """All settings. `reference` and `best` are indices into `rows` by name of a number, where there are such."""

    keys: tuple[str, ...]
    names: tuple[str, ...]
    rows: list[Row]
    best: dict[str, int]
    reference: dict[str, int]
    over_seeds: bool  # False: nothing has two seeds, and standard errors are those over test examples


def lookup(run, name) -> dict | None:
    """The summary's entry {value, stderr, unit} for 'SPLIT.NAME', or for a number of the whole run; None if absent."""
    if name in WHOLE:
        value = run.summary.get(name)
        return None if value is None else {"value": value, "stderr": None, "unit": WHOLE[name]}
    split, _, short = name.partition(".")
    entry = run.summary.get("splits", {}).get(split, {}).get(short)
    return entry if isinstance(entry, dict) and isinstance(entry.get("value"), int | float) else None


def available(runs) -> list[str]:
    """Every name that `lookup` knows in any of the runs."""
    splits = [(split, entries) for run in runs for split, entries in run.summary.get("splits", {}).items()]
    names = [f"{split}.{name}" for split, entries in splits for name in entries]
    return [name for name in dict.fromkeys([*names, *WHOLE]) if any(lookup(run, name) for run in runs)]


def require_names(runs, names) -> None:
    """FoldError at the first name that no run has measured."""
    known = available(runs)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.5)
            way = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise FoldError(f"--y={name}: no run has measured it; {way}")


def fold(runs, keys, names, against="best") -> tuple[Table, list[str]]:
    """The table of runs over settings of `keys`, compared with the 'best' setting of each number or the 'first'."""
    groups, notes = by_setting(runs, keys)
    over_seeds = any(len(group) > 1 for group in groups.values())
    values = [{name: by_seed(group, name) for name in names} for group in groups.values()]
    numbers = [
        {name: average(found, over_seeds) for name, found in row.items() if found} for row in values
    ]  # what no run of a setting has measured is absent
    best = {name: i for name in names if (i := best_of([row.get(name) for row in numbers], name)) is not None}
    first = {name: 0 for name in names if name in numbers[0]}
    reference = (best if against == "best" else first) if len(groups) > 1 else {}
    rows = []
    for (setting, group), row, own in zip(groups.items(), values, numbers, strict=True):
        pairs = {name: (row[name], values[i][name]) for name, i in reference.items() if row is not values[i]}
        differences = {name: difference(*pair) for name, pair in pairs.items()}
        rows.append(Row(setting, group, own, {name: d for name, d in differences.items() if d}))
    return Table(tuple(keys), tuple(names), rows, best if len(groups) > 1 else {}, reference, over_seeds), notes


def by_seed(group, name) -> dict[int, dict]:
    """{seed: entry} of the runs of a setting that have measured `name`."""
    found = {seed: lookup(run, name) for seed, run in group.items()}
    return {seed: entry for seed, entry in found.items() if entry is not None}


def average(entries, over_seeds) -> Number:
    """Mean and standard error over seeds; with `over_seeds` False that of the one entry over its examples."""
    values = np.array([entry["value"] for entry in entries.values()], np.float64)
    units = list(dict.fromkeys(entry.get("unit") or "" for entry in entries.values()))
    stderr = standard_error(values) if over_seeds else next(iter(entries.values())).get("stderr")
    return Number(float(values.mean()), stderr, len(values), " or ".join(units))


def standard_error(values) -> float | None:
    """sd / sqrt(n) of `[n]`, None for n = 1."""
    with np.errstate(invalid="ignore"):  # a run whose number is infinite has none
        return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None


def difference(entries, reference) -> Difference | None:
    """Paired by seed, with Student's interval; None without a common seed."""
    from scipy.special import stdtrit  # half a second, and only tables that compare need it

    pairs = [(entries[seed]["value"], reference[seed]["value"]) for seed in entries if seed in reference]
    if not pairs:
        return None
    with np.errstate(invalid="ignore"):
        values = np.subtract(*np.array(pairs, np.float64).T)
    mean, stderr = float(values.mean()), standard_error(values)
    if stderr is None:
        return Difference(mean, None, None, 1)
    half = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)) * stderr
    return Difference(mean, mean - half, mean + half, len(values))


def direction(name) -> int:
    """1 if more is better, -1 if less is, 0 if neither can be said."""
    short = name.rpartition(".")[2].removesuffix("_bits_per_dim")
    return (short in UP) - (short in DOWN)


def best_of(numbers, name) -> int | None:
    """The index of the best mean among numbers (None where absent), if one direction is better."""
    finite = [i for i, number in enumerate(numbers) if number is not None and math.isfinite(number.mean)]
    return max(finite, key=lambda i: direction(name) * numbers[i].mean) if direction(name) and finite else None
