"""Run directories read, and what differs among them: the settings of a sweep are found, not declared."""

import difflib
import math
import os
from typing import NamedTuple

from vae_jax.config import in_groups
from vae_jax.errors import ReportError, RunError
from vae_jax.runs import directory

# Differences in these are no setting of the model: where things lie, what is drawn, and cadences.
ASIDE = ("figures", "gaps", "data.manual_dir", "data.data_dir", "eval.chunk_images", "train.checkpoint_every")
# Keys that may change with the seed and then belong to it: noise of other kinds, and runs made with the same seed.
WITH_SEED = ("init_from", "inference.encoder_run", "eval.seed", "data.binarization_seed")


class Run(NamedTuple):
    """A finished run; `config` is {dotted key: value}, lists as tuples, None where the run does not read the key."""

    path: str
    config: dict
    summary: dict
    environment: dict
    info: dict


def read_runs(paths) -> tuple[list[Run], list[str]]:
    """Finished runs.

    Args:
        paths: run directories.

    Returns:
        The finished runs among them, and a line for every other one.
    """
    runs, notes, seen = [], [], set()
    for path in paths:
        path, place = os.path.normpath(path), os.path.realpath(path)
        if place in seen:
            notes.append(f"{path} is given twice: it counts once")
            continue
        seen.add(place)
        try:
            runs.append(read_run(path))
        except (ReportError, RunError) as error:
            notes.append(str(error))
    return runs, notes


def read_run(path) -> Run:
    """A finished run; ReportError says how far an unfinished one got, RunError what else is wrong."""
    if not os.path.exists(path):
        raise ReportError(f"{path} is missing: left out")
    config, summary = directory.read_config(path), directory.read_summary(path) or {}
    if not summary.get("complete"):
        step = max((record.get("step", 0) for record in directory.read_metrics(path)), default=0)
        raise ReportError(f"{path} is unfinished (last record at step {step:,}): left out")
    config = {key: hashable(value) for key, value in directory.flat(config).items()}
    return Run(path, config, summary, directory.read_environment(path), directory.read_info(path))


def hashable(value):
    """A value of JSON as one that can be compared in sets; an empty group is {}."""
    if isinstance(value, list | tuple):
        return tuple(map(hashable, value))
    return str(value) if isinstance(value, dict) else value


def varying(runs) -> list[str]:
    """The config keys that differ among runs that read them, the seed included, in the configuration's order."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    return [key for key in keys if len({run.config.get(key, "absent") for run in runs} - {None}) > 1]


def distinct(runs, keys) -> int:
    """How many different values the runs have in `keys`, taken together."""
    return len({tuple(run.config.get(key) for key in keys) for run in runs})


def of_the_seed(runs) -> list[str]:
    """'seed', and those of WITH_SEED that go with it: a value belongs to one seed, and tells no two runs apart."""
    changing, keys = varying(runs), ["seed"]
    others = [key for key in changing if key not in WITH_SEED and not in_groups(key, ASIDE)]
    for key in (key for key in WITH_SEED if key in changing and "seed" in changing):
        one_seed = distinct(runs, [key, "seed"]) == distinct(runs, [key])
        if one_seed and distinct(runs, [*others, key]) == distinct(runs, others):
            keys.append(key)
    return keys


def setting_keys(runs, asked=()) -> tuple[list[str], list[str]]:
    """The keys that tell the settings of a sweep apart.

    Of keys that change together the one with the most values stays, of equals the first in the configuration.

    Args:
        runs: what `read_runs` gave.
        asked: keys that stay in any case.

    Returns:
        The keys, `asked` ones first, and those that only go along with them.
    """
    aside = {*of_the_seed(runs), *(key for key in varying(runs) if in_groups(key, ASIDE))} - set(asked)
    keys = [*asked, *(key for key in varying(runs) if key not in {*aside, *asked})]
    along = []
    for key in sorted(reversed(keys), key=lambda key: distinct(runs, [key])):
        # a key that some runs do not read never stands for the choice that decides who reads it
        rest = [
            other
            for other in keys
            if other not in {*along, key} and all(run.config.get(other, "") is not None for run in runs)
        ]
        if key not in asked and distinct(runs, rest) == distinct(runs, [*rest, key]):
            along.append(key)
    return [key for key in keys if key not in along], [key for key in keys if key in along]


def require_varying(runs, key, flag) -> None:
    """ReportError unless the runs differ in `key`."""
    known, found = runs[0].config, varying(runs)
    if key not in known:
        raise ReportError(f"{flag}={key}: no key of the configuration{meant(key, known, ', ')}")
    if key not in found:
        others = ", ".join(other for other in found if other != "seed")
        others = others or "nothing but the seed" * ("seed" in found) or "nothing"
        value = "read by none of these runs" if known[key] is None else f"{spell(known[key])} in every run"
        raise ReportError(f"{flag}={key} is {value}; what differs is {others}")


def meant(name, known, before="") -> str:
    """'did you mean ...?' of the known name most like this one, '' where there is none."""
    near = difflib.get_close_matches(name, known, 1, 0.5)
    return f"{before}did you mean {near[0]}?" if near else ""


def spell(value) -> str:
    """A value as the command line takes it: 200,100 for (200, 100); of a key that a run does not read a dash."""
    if value is None:
        return "–"
    if isinstance(value, tuple):
        return ",".join(map(spell, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def spelled(keys, setting) -> str:
    """'model.latent_dim=2, objective.beta=4'; of a table without keys 'all runs'."""
    return ", ".join(f"{key}={spell(value)}" for key, value in zip(keys, setting, strict=True)) or "all runs"


def by_setting(runs, keys) -> tuple[dict[tuple, dict[int, Run]], list[str]]:
    """{setting: {seed: run}}, numbers in order and words as they come; and a line for every run that is there twice."""
    groups, notes = {}, []
    for run in runs:
        setting, seed = tuple(run.config.get(key) for key in keys), run.config["seed"]
        group = groups.setdefault(setting, {})
        if seed in group:
            notes.append(f"{run.path} repeats {group[seed].path} (same setting and seed): left out")
        group.setdefault(seed, run)
    orders = [ordered([setting[i] for setting in groups]) for i in range(len(keys))]
    place = lambda setting: [order.index(value) for order, value in zip(orders, setting, strict=True)]
    return {setting: dict(sorted(groups[setting].items())) for setting in sorted(groups, key=place)}, notes


def ordered(values) -> list:
    """Each value once: numbers, and tuples of them, by size; anything else as it comes."""
    values = list(dict.fromkeys(values))
    try:
        return values if any(isinstance(value, str | bool) for value in values) else sorted(values)
    except TypeError:
        return values
