"""Many runs trained side by side, each of them the run that `commands.train` makes of its config alone.

A whole run is a pure function of its traced hyperparameters (`setup.TRACED`, the seed among them), so runs that differ
in nothing else share one program, its state stacked `[M, ...]` and divided over the devices, which exchange nothing.
Runs that stand at the same step advance together, as many at once as fit into memory. Directories and checkpoints are
each run's own: a killed sweep goes on from all that was saved, further runs may join it, and `vae_jax.main` resumes any
of them by itself.
"""

import contextlib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax import console
from vae_jax.config import flat
from vae_jax.errors import DeviceError, TrainingError
from vae_jax.parallel import devices
from vae_jax.runs import checkpoint, directory, files, load
from vae_jax.runs import environment as environments
from vae_jax.training import setup as setups
from vae_jax.training import train
from vae_jax.training.program import make_advance, make_members_program, resident, stays_on_host, stream_major_data

USABLE = 0.8  # share of the free memory that training may take: evaluation needs some, and so do others


class Member(NamedTuple):
    """A run to be made: a validated config, and where."""

    config: Any
    workdir: Path


class Options(NamedTuple):
    """How the runs are made; no number of theirs depends on it, but for rounding."""

    num_devices: int = 0  # 0: all there are
    memory: int | None = None  # bytes that training may take of each device; None: most of what is free
    batching: str = "auto"  # map: the runs on a device one after another; vmap: together; auto: map on a CPU


class Programs(NamedTuple):
    """What runs share that differ in traced keys alone."""

    setup: setups.Setup  # of the first of them, on one device
    mesh: jax.sharding.Mesh
    init: Callable
    compiled: Callable  # (M, number of steps) -> the compiled program
    data: Any  # whole on every device


def train_members(members: list[Member], options: Options, finish: Callable) -> dict[Path, str]:
    """Trains all members that are not finished.

    Args:
        members: the runs to be made.
        options: devices, memory and how runs on one device are batched.
        finish: (Run, State) -> anything; measures and reports a run that has been trained to its last step.

    Returns:
        {workdir: what stopped it} of those that failed.

    Raises:
        RunError: before anything is begun, for a directory that holds another run.
        DeviceError: where the devices or their memory do not do.
    """
    if jax.process_count() > 1:
        raise DeviceError("a sweep runs in one process: start one on each machine, each with its own seeds")
    devices.make_mesh(options.num_devices)  # raises if they are not there
    is_finished = lambda m: directory.run_status(m.workdir, m.config.to_dict()) == "finished"
    pending, environment, failed = [m for m in members if not is_finished(m)], environments.describe(), {}
    for alike in group(pending, structure):
        failed |= train_alike(alike, options, environment, finish)
    return failed


def group(items, key):
    """Lists of the items with equal keys, in order of first appearance."""
    keys = [key(item) for item in items]
    return [[item for item, own in zip(items, keys, strict=True) if own == wanted] for wanted in dict.fromkeys(keys)]


def structure(member):
    """All of a member's configuration that is compiled in."""
    return tuple(sorted((key, value) for key, value in flat(member.config).items() if key not in setups.TRACED))


def latest(member):
    """The step of a member's newest checkpoint."""
    return checkpoint.latest_step(member.workdir / load.CHECKPOINTS) or 0


def train_alike(members, options, environment, finish):
    """Trains members of one structure, wave after wave; {workdir: what stopped it} of those that failed."""
    programs, failed = make_programs(members, options), {}
    train.describe(programs.setup, setups.abstract_state(programs.setup, programs.init).params)
    for together in group(members, latest):
        size = wave_size(programs, len(together), options.memory)
        describe(programs.mesh, together, size)
        for first in range(0, len(together), size):
            failed |= train_wave(programs, together[first : first + size], size, environment, finish)
    return failed


def describe(mesh, members, size):
    """What is done how, in two lines."""
    waves, kind, begun = -(-len(members) // size), mesh.devices.flat[0].device_kind, latest(members[0])
    share = f"{size // mesh.size} of {len(members)} runs on each" + (f", in {waves} waves" if waves > 1 else "")
    more = (" and so on" if len(members) > 1 else "") + (f", from step {begun:,} on" if begun else "")
    console.write(f"devices    {mesh.size} of {jax.device_count()} ({kind}), {share}")
    console.write(f"directory  {members[0].workdir}{more}")


def make_programs(members, options):
    """What the members share; their number says how many devices are of use."""
    setup = setups.make_setup(members[0].config, 1)
    if stays_on_host(setup):
        raise DeviceError(
            "a sweep keeps its data on the devices, these stay on the host: set config.data.placement = device if they "
            "fit, or train one run at a time by python -m vae_jax.main"
        )
    mesh = devices.make_mesh(min(options.num_devices or jax.device_count(), len(members)))
    batching = ("map" if jax.default_backend() == "cpu" else "vmap") if options.batching == "auto" else options.batching
    init, data = setups.make_init(setup), devices.put_replicated(mesh, stream_major_data(setup))
    program, hyper = make_members_program(setup, mesh, batching), setups.hyperparameters(setup.config)
    state = setups.abstract_state(setup, init)

    def compiled(size, num_steps):
        stacked = lambda a: jax.ShapeDtypeStruct((size, *a.shape), a.dtype, sharding=devices.split(mesh))
        step = jax.ShapeDtypeStruct((), state.step.dtype, sharding=devices.replicated(mesh))
        many = jax.tree.map(stacked, (hyper, state))
        return program(num_steps).lower(many[0], many[1]._replace(step=step), data).compile()

    return Programs(setup, mesh, init, cache(compiled), data)


def wave_size(programs, count, memory):
    """How many of `count` runs are trained at once, a multiple of the devices: what the compiler says will fit."""
    num_devices, steps = programs.mesh.size, min(programs.setup.window, programs.setup.num_steps)
    free = devices.free_bytes(programs.mesh)
    limit = memory or (USABLE * free if free else float("inf"))
    shared = sum(leaf.nbytes for leaf in jax.tree.leaves(programs.data))
    each = -(-count // num_devices)
    while (need := devices.program_bytes(programs.compiled(each * num_devices, steps))) > limit:
        if each == 1:
            gib = f"{need / 2**30:.2g} GiB of memory on a device, and {limit / 2**30:.2g} GiB may be taken"
            raise DeviceError(f"one run of this sweep needs {gib}: --memory=GIB allows more")
        each = max(1, min(each - 1, int(each * (limit - shared) / (need - shared))))
    waves = -(-count // (each * num_devices))
    return -(-count // (waves * num_devices)) * num_devices  # waves of equal size


def train_wave(programs, members, size, environment, finish):
    """Trains members that stand at the same step to the end; {workdir: what stopped it} of those that failed."""
    with contextlib.ExitStack() as held:
        for member in members:
            held.enter_context(files.locked(member.workdir))
        return train_locked(programs, members, size, environment, finish)


def train_locked(programs, members, size, environment, finish):
    mesh, home = programs.mesh, [programs.setup._replace(config=member.config) for member in members]
    states = [setups.starting_state(s, m.workdir, programs.init) for s, m in zip(home, members, strict=True)]
    alone, step, runs = devices.each_alone(mesh), int(states[0].step), []
    for i, (setup, member) in enumerate(zip(home, members, strict=True)):
        info = setup.dataset.info._asdict()
        directory.open_run(member.workdir, setup.config.to_dict(), info, environment, step, setup.dataset.provenance)
        runs.append(train.Run(setup._replace(mesh=alone[i % len(alone)]), member.workdir, {}, place=i))
    hyper = stacked([setups.hyperparameters(setup.config) for setup in home], size, jnp.stack)
    state, hyper = stack_states(mesh, states, size), devices.put_split(mesh, hyper)
    advance = make_advance(*resident(partial(programs.compiled, size), programs.data))
    own = lambda state: partial(place_of, jax.device_get(state))
    state, failed = train.fit(runs, state, hyper, advance, states=own)
    return failed | finish_all([run for run in runs if run.workdir not in failed], own(state), finish)


def stack_states(mesh, states, size):
    """The states of all runs as one, on the devices; places without a run hold copies of the last one's."""
    states = jax.device_get(states)
    state = stacked([state._replace(step=()) for state in states], size, np.stack)
    return devices.put_split(mesh, state)._replace(step=devices.put_replicated(mesh, states[0].step))


def stacked(trees, size, stack):
    """Trees of leaves [...] as one of leaves [size, ...], the last repeated."""
    trees = [*trees, *trees[-1:] * (size - len(trees))]
    return jax.tree.map(lambda *leaves: stack(leaves), *trees)


def place_of(host, run):
    """The state of one run, on its device, from the stacked state on the host."""
    own = jax.tree.map(lambda leaf: leaf[run.place], host._replace(step=()))
    return devices.put_replicated(run.setup.mesh, own._replace(step=host.step))


def finish_all(runs, own, finish):
    """Final numbers and a report of each run, as many at a time as there are devices; {workdir: why} of the failed."""
    progress, done, failed = console.Progress("measuring", len(runs)), [], {}

    def one(run):
        try:
            finish(run, own(run))
        except TrainingError as error:
            failed[run.workdir] = str(error)
        done.append(run)
        progress.update(len(done), f"{len(done)} of {len(runs)} runs")

    train.in_threads(one, runs)
    progress.close()
    return failed
