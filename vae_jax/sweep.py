"""Train every combination of hyperparameters, side by side.

    python -m vae_jax.sweep --config=experiments/digits.py --sweep.seed=0:16
    python -m vae_jax.sweep --config=experiments/digits.py --config.objective.name=beta \\
        --sweep.seed=0:4 --sweep.objective.beta=0.5,1,2,4 --workdir=runs/beta
    python -m vae_jax.sweep --config=experiments/digits.py --sweep.model.hidden=64,128x128 --sweep.seed=0:3

Values are a list, 0.5,1,2, or a range of integers, 0:16, which ends before its second number; widths are joined by x.
Each combination is the run that vae_jax.main makes of it, in the directory that vae_jax.main gives it, or one of that
name in --workdir. Runs that differ in seed, objective weights, learning rates, warm-up or schedule_epochs alone are one
compiled program, divided over the devices; any other key takes a program for each value. Started again, the same
command leaves out what is finished and goes on with the rest. DRY_RUN=1 prints their directories.
"""

import itertools
import os
import re
from functools import partial
from pathlib import Path

from absl import app, flags
from ml_collections import ConfigDict

from vae_jax import config as configs
from vae_jax.commands import configuration
from vae_jax.commands import flags as command
from vae_jax.commands.flags import CONFIG, DEVICES, INIT_FROM, WORKDIR
from vae_jax.console import fail
from vae_jax.errors import ConfigError

MEMORY = flags.DEFINE_float("memory", 0.0, "GiB that training may take of each device; 0: what is free.", 0.0)
BATCHING = flags.DEFINE_enum(
    "batching",
    "auto",
    ["auto", "map", "vmap"],
    "map: the runs on a device one after another; vmap: together; auto: map on a CPU, where together is no cheaper.",
)
SWEEP = flags.DEFINE_multi_string("sweep", [], "--sweep.KEY=VALUES: the values of a key of the configuration.")


def main(arguments):
    """Trains all combinations; every foreseen error becomes one line and exit status 2."""
    command.require_plain(arguments)
    command.require_config()
    if not SWEEP.value:
        fail("--sweep.KEY=VALUES is missing; for example --sweep.seed=0:4")
    command.guarded(sweep)


def sweep():
    """Trains all combinations and prints their numbers."""
    from vae_jax import console
    from vae_jax.commands import train
    from vae_jax.parallel import devices
    from vae_jax.training import many_runs

    config, grid = command.asked_config(), read_grid(SWEEP.value, command.given() | command.overrides())
    runs = [many_runs.Member(*make_member(config, values)) for values in combinations(grid)]
    devices.use_cores()
    spelled = ", ".join(f"{key} {','.join(map(str, values))}" for key, values in grid.items())
    console.write(f"sweep      {len(runs)} runs: {spelled}")
    for line in idle(config, grid):
        console.write(f"note       {line}")
    if os.environ.get("DRY_RUN", "0") not in ("", "0"):
        return console.write("\n".join(f"  {run.workdir}" for run in runs))
    options = many_runs.Options(DEVICES.value, int(MEMORY.value * 2**30) or None, BATCHING.value)
    failed = many_runs.train_members(runs, options, partial(train.finish, alone=False))
    console.write(table([run.workdir for run in runs if run.workdir not in failed]))
    if failed:
        reasons = "; ".join(f"{workdir}: {reason}" for workdir, reason in failed.items())
        fail(f"{len(failed)} of {len(runs)} runs stopped, the others are finished. {reasons}")


def read_grid(assignments, given):
    """{key: values} of 'KEY=VALUES' texts. Raises ConfigError for a key or value that a configuration cannot have."""
    grid, keys = {}, configuration.keys()
    for assignment in assignments:
        key, _, text = assignment.partition("=")
        if key not in keys:
            raise ConfigError(configs.unknown_key(key, keys))
        if configs.in_groups(key, configs.CHANGEABLE):
            raise ConfigError(f"--sweep.{key}: no run is another run by this key; use --config.{key}=VALUE")
        if key in grid or key in given:
            raise ConfigError(f"--sweep.{key}={text}: config.{key} is given twice")
        grid[key] = read_values(key, text, keys[key].default)
    return grid


def read_values(key, text, default):
    """The values in '0.5,1,2', '0:16' or '64,128x128', of the type of the key's default."""
    whole = re.fullmatch(r"(-?\d+):(-?\d+)", text)
    if whole and type(default) in (int, float):
        texts = [*map(str, range(int(whole[1]), int(whole[2])))]
    else:
        texts = text.split(",")
    values = [read_value(key, value, default) for value in texts]
    if not values or len(set(values)) < len(values):
        raise ConfigError(f"--sweep.{key}={text}: {'a value is there twice' if values else 'an empty range'}")
    return values


def read_value(key, text, default):
    """One value, of the type of the key's default."""
    readers = {
        bool: lambda text: {"true": True, "false": False}[text.lower()],
        tuple: lambda text: tuple(map(int, text.split("x"))),
    }
    try:
        return readers.get(type(default), type(default))(text)
    except (ValueError, KeyError):
        joined = " joined by x, say 128x64" if isinstance(default, tuple) else ""
        expected = "integers" if joined else configs.TYPE_NAMES[type(default)]
        raise ConfigError(f"config.{key} = {text!r}: expected {expected}{joined}") from None


def combinations(grid):
    """{key: value} for every combination, the last key fastest."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def make_member(config, values):
    """(config, workdir) of one combination: what vae_jax.main makes of --config.KEY=VALUE."""
    from vae_jax.runs import directory

    own = ConfigDict(config.to_dict())
    own.update_from_flattened_dict(values)
    workdir = Path(directory.default_workdir(command.config_path(), command.overrides() | values))
    return configuration.validate(own), Path(WORKDIR.value) / workdir.name if WORKDIR.value else workdir


def idle(config, grid):
    """A line for each weight in the grid that the objective does not have, so that it makes no difference."""
    from vae_jax.objectives.loss import OBJECTIVES

    name = config.objective.name
    if "objective.name" not in grid:
        weights = {weight for objective in OBJECTIVES.values() for weight in objective.weights}
        for key in [key for key in grid if key.removeprefix("objective.") in weights]:
            if key.removeprefix("objective.") not in OBJECTIVES[name].weights:
                yield f"{key} has no part in objective.name = {name}: runs that differ in it alone are equal"


def table(workdirs):
    """The final numbers of all runs on test, a line each."""
    from vae_jax import console
    from vae_jax.runs import directory

    rows = []
    for workdir in workdirs:
        test = (directory.read_summary(workdir) or {})["splits"]["test"]
        shown = [name for name in ("elbo", "nll", "cross_entropy", "log_likelihood") if name in test][:2]
        rows.append((str(workdir), "test", "   ".join(f"{name} {console.number(test[name])}" for name in shown)))
    return "\n".join(console.columns(rows))


def parse(arguments):
    """Flags from the command line, --sweep.KEY=VALUES among them; an error in them is one line."""
    shown = (CONFIG, SWEEP, WORKDIR, DEVICES, MEMORY, BATCHING, INIT_FROM)
    swept = [re.sub(r"^--?sweep\.", "--sweep=", argument) for argument in arguments]
    return command.parse(swept, lambda: command.help_text(__doc__, shown))


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
