"""What a reader of a table must know of its runs: one line for each thing that is missing or not alike."""

import itertools
import math
import re

from vae_jax.config import in_groups
from vae_jax.fold import lookup
from vae_jax.rundir import flat
from vae_jax.swept import ASIDE, hashable, of_the_seed, ordered, spell, spelled, varying

UNLIKE = {  # groups of the configuration -> what a difference in them means
    "data": "these runs saw other data, or saw it otherwise",
    "eval": "these numbers were measured in different ways",
    "model.likelihood": "likelihoods of different kinds do not compare",
}
INCIDENTAL = ("command", "argv", "started")  # of the environment: no number depends on them
LISTED = 20  # missing combinations with a line each


def caveats(runs, table, along) -> list[str]:
    """Every line about runs that make one table; `along` are the keys that change together with the table's."""
    lines = [*missing_numbers(table), *missing_settings(table), *missing_seeds(table)]
    lines += [*together(table.keys, along), *unlike_configs(runs), *set_aside(runs, table)]
    return [*lines, *unlike_data(runs), *unlike_environments(runs)]


def missing_numbers(table):
    """Runs that have not measured what others have."""
    for name in table.names:
        without = [run.path for row in table.rows for run in row.runs.values() if lookup(run, name) is None]
        if without:
            yield f"{name} is not in {', '.join(without)}"
    for row in table.rows:
        for name in (name for name, number in row.numbers.items() if not math.isfinite(number.mean)):
            yield f"{name} is not finite at {spelled(table.keys, row.setting)}"


def missing_settings(table):
    """Combinations of the swept values that no run has."""
    present = {row.setting for row in table.rows}
    axes = [ordered([row.setting[i] for row in table.rows]) for i in range(len(table.keys))]
    whole = math.prod(map(len, axes))
    if whole - len(present) > LISTED:
        yield f"of {whole:,} combinations of the swept values {len(present):,} have runs"
    else:
        absent = (setting for setting in itertools.product(*axes) if setting not in present)
        yield from (f"missing: {spelled(table.keys, setting)} has no finished run" for setting in absent)


def missing_seeds(table):
    """Settings that lack seeds which others have."""
    if "seed" in table.keys:
        return
    every = sorted({seed for row in table.rows for seed in row.runs})
    for row in table.rows:
        lacking = [seed for seed in every if seed not in row.runs]
        if lacking:
            plural = "s" * (len(lacking) > 1)
            yield f"missing: {spelled(table.keys, row.setting)} has no seed{plural} {', '.join(map(str, lacking))}"


def together(keys, along):
    if along:
        yield f"{', '.join(along)}: what differs here goes with {' and '.join(keys)}"


def unlike_configs(runs):
    """Swept keys across which numbers do not compare."""
    seeds = of_the_seed(runs)
    for key in (key for key in varying(runs) if key not in seeds and not in_groups(key, ASIDE)):
        for group in (group for group in UNLIKE if in_groups(key, (group,))):
            yield f"{key} differs: {UNLIKE[group]}"


def set_aside(runs, table):
    """Keys that differ and are no part of a setting."""
    for key in varying(runs):
        if in_groups(key, ASIDE) and key not in table.keys:
            yield f"{key} differs and is not taken for a setting"
        elif key in of_the_seed(runs) and key != "seed" and key not in table.keys:
            yield f"{key} differs from seed to seed and is folded with it"


def unlike_data(runs):
    """Other arrays under the same configuration of the data."""
    if not any(in_groups(key, ("data",)) for key in varying(runs) if key not in of_the_seed(runs)):
        yield from unlike("data", [flat(run.info) for run in runs], runs)


def unlike_environments(runs):
    """Versions, commits and devices that are not the same in all runs."""
    environments = [{k: v for k, v in run.environment.items() if k not in INCIDENTAL} for run in runs]
    yield from unlike("environment", [flat(environment) for environment in environments], runs)


def unlike(what, dicts, runs):
    """One line for each key whose value is not the same in all dicts; it names the runs that few agree with."""
    for key in dict.fromkeys(key for values in dicts for key in values):
        holders = {}
        for values, run in zip(dicts, runs, strict=True):
            holders.setdefault(spell(hashable(values.get(key, "absent"))), []).append(run.path)
        if len(holders) > 1:
            (common, most), *rest = sorted(holders.items(), key=lambda item: -len(item[1]))
            others = "; ".join(f"{brief(value)} in {', '.join(paths)}" for value, paths in rest)
            yield f"{what} differs in {key}: {brief(common)} in {len(most)} run{'s' * (len(most) > 1)}; {others}"


def brief(text) -> str:
    if re.fullmatch("[0-9a-f]{40}", text):
        return text[:10]  # a commit
    return text if len(text) <= 40 else f"{text[:37]}..."
