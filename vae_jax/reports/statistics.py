"""Runs in one table: means over seeds and paired differences. Plain data, no printing.

Runs of one setting differ in their seed alone. For the values v_s of the n seeds s of a setting and r_s of a reference:

    mean  (1/n) sum_s v_s          standard error  sd(v) / sqrt(n)
    difference  d_s = v_s - r_s over the m seeds that both have;  mean(d) +- t(1 - a/2, m - 1) sd(d) / sqrt(m)

with the sample standard deviation (m - 1 in its denominator) and Student's t. The reference is the baseline: one
setting for all numbers, chosen before they are seen. Of the C differences of a number that with the smallest p has
a = 0.05 / C, the next 0.05 / (C - 1) if the interval of the first leaves out 0, and so on: Holm (1979). So where all
settings are equal at most 5% of columns show a difference, and each interval alone covers at 95% or more. Numbers keep
the units of the summaries.
"""

import itertools
import math
import re
from typing import NamedTuple

import numpy as np

from vae_jax.config import in_groups
from vae_jax.errors import ReportError
from vae_jax.reports import collect
from vae_jax.reports.collect import Run, spelled
from vae_jax.runs.directory import flat

# The columns if none are asked for.
NAMES = ("test.nll", "test.cross_entropy", "test.elbo", "test.kl", "test.active_units", "train_seconds")
WHOLE = {"train_seconds": "s", "num_params": "", "epochs": "", "step": ""}  # numbers of the whole run, with their units
BETA, RATE, DISTORTION = "objective.beta", "test.kl", "test.log_likelihood"  # what trades one for the other, and both
UP = {"elbo", "log_likelihood", "log_px", "ess", "linear_probe_accuracy", "knn_accuracy"}
DOWN = {"nll", "cross_entropy", "pareto_k_high", "squared_error"}
CONFIDENCE = 0.95


class Number(NamedTuple):
    """A mean over `count` seeds; `stderr` is None where one seed is all there is."""

    mean: float
    stderr: float | None
    count: int
    unit: str


class Difference(NamedTuple):
    """A mean over `count` pairs of equal seed, with its confidence interval; None and None for one pair."""

    mean: float
    low: float | None
    high: float | None
    count: int


class Row(NamedTuple):
    """One setting: the values of the table's keys, its runs by seed, its numbers, and those against the baseline."""

    setting: tuple
    runs: dict[int, Run]
    numbers: dict[str, Number]
    differences: dict[str, Difference]


class Table(NamedTuple):
    """All settings. `baseline` is an index into `rows`, and so are `best` by name of a number, where there is one."""

    keys: tuple[str, ...]
    names: tuple[str, ...]
    rows: list[Row]
    best: dict[str, int]
    baseline: int
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
    """ReportError at the first name that no run has measured."""
    known = available(runs)
    for name in names:
        if name not in known:
            way = collect.meant(name, known) or f"there are {', '.join(known)}"
            raise ReportError(f"--y={name}: no run has measured it; {way}")


def make_table(runs, keys, names, baseline: str | None = None) -> tuple[Table, list[str]]:
    """Numbers of runs by setting: means over seeds, and differences from a baseline paired by seed.

    What is better or worse and has not one unit in all rows is not compared.

    Args:
        runs: what `collect.read_runs` gave.
        keys: the keys whose values are a setting.
        names: the numbers, as `available` spells them.
        baseline: the setting that all others are compared with, KEY=VALUE,...; None: the first.

    Returns:
        The table, and a line for every run that is there twice.

    Raises:
        ReportError: a baseline that there is not.
    """
    groups, notes = collect.by_setting(runs, keys)
    over_seeds = any(len(group) > 1 for group in groups.values())
    values = []  # of each setting {name: {seed: entry}}; what no run has measured is absent
    for group in groups.values():
        found = {name: {seed: lookup(run, name) for seed, run in group.items()} for name in names}
        found = {name: {seed: entry for seed, entry in entries.items() if entry} for name, entries in found.items()}
        values.append({name: entries for name, entries in found.items() if entries})
    numbers = [{name: average(entries, over_seeds) for name, entries in row.items()} for row in values]
    alike = [name for name in names if not direction(name) or len(units_of(numbers, name)) == 1]
    comparable = alike if len(groups) > 1 and not other_data(runs) else []
    found = {name: best_of([row.get(name) for row in numbers], name) for name in comparable}
    best = {name: i for name, i in found.items() if i is not None}
    settings = [spelled(keys, setting).replace(", ", ",") for setting in groups]
    if baseline not in (None, *settings):
        raise ReportError(f"--baseline={baseline}: no such setting; there are {'; '.join(settings)}")
    reference = settings.index(baseline) if baseline else 0
    apart = {name: differences([row.get(name, {}) for row in values], reference) for name in alike}
    rows = []
    for i, ((setting, group), own) in enumerate(zip(groups.items(), numbers, strict=True)):
        rows.append(Row(setting, group, own, {name: found[i] for name, found in apart.items() if i in found}))
    return Table(tuple(keys), tuple(names), rows, best, reference, over_seeds), notes


def units_of(numbers, name) -> list[str]:
    """The units, each once, that a number has in rows of {name: Number}."""
    return list(dict.fromkeys(row[name].unit for row in numbers if name in row))


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


def differences(entries, baseline) -> dict[int, Difference]:
    """{i: what setting i adds to the baseline}, of one number, paired by seed; entries: of each setting, by seed."""
    reference = entries[baseline]
    less = lambda row: np.array([row[seed]["value"] - reference[seed]["value"] for seed in row if seed in reference])
    pairs = {i: less(row) for i, row in enumerate(entries) if i != baseline}
    found = {i: Difference(float(d.mean()), None, None, len(d)) for i, d in pairs.items() if len(d)}
    tested = {i: standard_error(pairs[i]) for i in found if len(pairs[i]) > 1}
    means, counts = ([found[i][part] for i in tested] for part in (0, 3))
    halves = half_widths(np.array(means), np.array([*tested.values()]), np.array(counts)) if tested else ()
    bounded = lambda d, half: Difference(d.mean, d.mean - float(half), d.mean + float(half), d.count)
    return found | {i: bounded(found[i], half) for i, half in zip(tested, halves, strict=True)}


def half_widths(means, stderrs, counts):
    """Half of the interval of each of C means of `counts` values, by Holm's method; all `[..., C]`."""
    from scipy.special import stdtr, stdtrit  # half a second, and only tables that compare need it

    with np.errstate(divide="ignore", invalid="ignore"):  # no spread; no finite number, which is no difference
        p = np.nan_to_num(2 * stdtr(counts - 1, -np.abs(means / stderrs)), nan=1.0)
    order = p.argsort(-1)
    errors = (1 - CONFIDENCE) / (p.shape[-1] - np.arange(p.shape[-1]))  # allowed to the smallest p, the next, ...
    rejected = np.logical_and.accumulate(np.take_along_axis(p, order, -1) <= errors, -1).sum(-1, keepdims=True)
    return stdtrit(counts - 1, 1 - errors[np.minimum(order.argsort(-1), rejected)] / 2) * stderrs


def direction(name) -> int:
    """1 if more is better, -1 if less is, 0 if neither can be said."""
    short = name.rpartition(".")[2].removesuffix("_bits_per_dim")
    return (short in UP) - (short in DOWN)


def best_of(numbers, name) -> int | None:
    """The index of the best mean among numbers (None where absent), if one direction is better."""
    finite = [i for i, number in enumerate(numbers) if number is not None and math.isfinite(number.mean)]
    return max(finite, key=lambda i: direction(name) * numbers[i].mean) if direction(name) and finite else None


UNLIKE = {  # groups of the configuration -> what a difference in them means
    "data": "these runs saw other data, or saw it otherwise",
    "eval": "these numbers were measured in different ways",
    "model.likelihood": "densities, probabilities and cross-entropies do not compare with one another",
    "model.levels": "probabilities of other levels do not compare",
}
INCIDENTAL = ("command", "argv", "started")  # of the environment: no number depends on them
LISTED = 5  # missing settings that are named


def remarks(runs, table, along) -> list[str]:
    """What is missing in a table, and what its runs are not alike in.

    Args:
        runs: the runs in it.
        table: what `make_table` gave.
        along: keys that change together with the table's.

    Returns:
        A line for each.
    """
    missing = [*missing_settings(table), *missing_seeds(table)]
    more = [f"and {len(missing) - LISTED} more"] * (len(missing) > LISTED)
    lines = [*missing_numbers(table), *(["missing: " + "; ".join([*missing[:LISTED], *more])] if missing else [])]
    if along:
        lines.append(f"{', '.join(along)}: what differs here goes with {' and '.join(table.keys)}")
    lines += unlike_configs(runs, table)
    if not data_keys(runs):
        lines += unlike("data", [run.info for run in runs], runs)
    relevant = lambda environment: {key: value for key, value in environment.items() if key not in INCIDENTAL}
    return [*lines, *unlike("environment", [relevant(run.environment) for run in runs], runs)]


def data_keys(runs) -> list[str]:
    """The keys of the data in which runs differ, beside those that go with the seed and where files lie."""
    seeds, varying = collect.of_the_seed(runs), collect.varying(runs)
    return [
        key for key in varying if in_groups(key, ("data",)) and key not in seeds and not in_groups(key, collect.ASIDE)
    ]


def other_data(runs) -> bool:
    """Whether some runs saw other data, or saw it otherwise."""
    return bool(data_keys(runs)) or any(run.info != runs[0].info for run in runs)


def missing_numbers(table):
    """Runs that have not measured what others have, or in other units."""
    for name in table.names:
        units = units_of([row.numbers for row in table.rows], name)
        if direction(name) and len(units) > 1:
            yield f"{name} is not compared: its units are {' and '.join(units)}"
        without = [run.path for row in table.rows for run in row.runs.values() if lookup(run, name) is None]
        if without:
            yield f"{name} is not in {', '.join(without)}"
    for row in table.rows:
        for name in (name for name, number in row.numbers.items() if not math.isfinite(number.mean)):
            yield f"{name} is not finite at {spelled(table.keys, row.setting)}"


def missing_settings(table):
    """Combinations of the settings' values that no run has, among settings that read the same keys."""
    groups = {}
    for row in table.rows:
        groups.setdefault(tuple(value is None for value in row.setting), []).append(row.setting)
    for present in groups.values():
        axes = [collect.ordered(values) for values in zip(*present, strict=True)]
        absent = (setting for setting in itertools.product(*axes) if setting not in set(present))
        yield from (f"{spelled(table.keys, setting)} has no finished run" for setting in absent)


def missing_seeds(table):
    """Settings that lack seeds which others have."""
    if "seed" in table.keys:
        return
    every = sorted({seed for row in table.rows for seed in row.runs})
    for row in table.rows:
        lacking = [seed for seed in every if seed not in row.runs]
        if lacking:
            plural = "s" * (len(lacking) > 1)
            yield f"{spelled(table.keys, row.setting)} has no seed{plural} {', '.join(map(str, lacking))}"


def unlike_configs(runs, table):
    """Keys across which numbers do not compare, and those that differ and are no part of a setting."""
    seeds = collect.of_the_seed(runs)
    for key in collect.varying(runs):
        aside = in_groups(key, collect.ASIDE)
        if key not in seeds and not aside:
            yield from (f"{key} differs: {why}" for group, why in UNLIKE.items() if in_groups(key, (group,)))
        elif key != "seed" and key not in table.keys:
            yield f"{key} differs and is not taken for a setting" if aside else f"{key} differs from seed to seed"


def unlike(what, dicts, runs):
    """One line for each key whose value is not the same in all dicts; it names the runs that few agree with."""
    dicts = [flat(values) for values in dicts]
    for key in dict.fromkeys(key for values in dicts for key in values):
        holders = {}
        for values, run in zip(dicts, runs, strict=True):
            holders.setdefault(collect.spell(collect.hashable(values.get(key, "absent"))), []).append(run.path)
        if len(holders) > 1:
            (common, most), *rest = sorted(holders.items(), key=lambda item: -len(item[1]))
            others = "; ".join(f"{brief(value)} in {', '.join(paths)}" for value, paths in rest)
            yield f"{what} differs in {key}: {brief(common)} in {len(most)} run{'s' * (len(most) > 1)}; {others}"


def brief(text) -> str:
    if re.fullmatch("[0-9a-f]{40}", text):
        return text[:10]  # a commit
    return text if len(text) <= 40 else f"{text[:37]}..."
