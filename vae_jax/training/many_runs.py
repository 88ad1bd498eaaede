"""Many runs trained side by side, each of them the run that `train.train` makes of its config alone.

A whole run is a pure function of its traced hyperparameters (`setup.TRACED`, the seed among them), so runs that differ
in nothing else share one program, its state stacked `[M, ...]` and divided over the devices, which have nothing to tell
one another. Runs that stand at the same step advance together, as many at once as fit into memory. Directories and
checkpoints are each run's own: a killed sweep goes on from all that was saved, further runs may join it, and
`vae_jax.main` takes up any of them by itself.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax import console
from vae_jax.config import CHANGEABLE
from vae_jax.errors import DeviceError, TrainingError
from vae_jax.parallel import devices
from vae_jax.parallel import devices as devices_module
from vae_jax.reports import page
from vae_jax.runs import checkpoint, directory, load
from vae_jax.training import setup as setups
from vae_jax.training import train
from vae_jax.training.program import make_members_program, stays_on_host, stream_major_data

USABLE = 0.8  # share of the free memory that training may take: evaluation needs some, and so do others
NO_EVENTS = directory.Events(lambda step, values: None, lambda step, tag, pixels: None, lambda: None)


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
    valid: Any


class Run(NamedTuple):
    """A member under way: its own setup, on one device, and its place in the stacked state."""

    place: int
    setup: setups.Setup
    workdir: Path
    log: Callable


def train_members(members, options):
    """Trains all members that are not finished; {workdir: what stopped it} of those that failed.

    Raises one-line errors: before anything is begun RunError for a directory that holds another run, and DeviceError.
    """
    if jax.process_count() > 1:
        raise DeviceError("a sweep runs in one process: start one on each machine, each with its own seeds")
    devices.make_mesh(options.num_devices)  # raises if they are not there
    is_finished = lambda m: directory.run_status(m.workdir, m.config.to_dict(), CHANGEABLE) == "finished"
    pending, environment, failed = [m for m in members if not is_finished(m)], directory.environment(), {}
    for alike in group(pending, structure):
        failed |= train_alike(alike, options, environment)
    return failed


def group(items, key):
    """Lists of the items with equal keys, in order of first appearance."""
    groups = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return [*groups.values()]


def structure(member):
    """All of a member's configuration that is compiled in."""
    values = directory.flat(member.config.to_dict())
    return tuple((key, values[key]) for key in sorted(values) if key not in setups.TRACED)


def train_alike(members, options, environment):
    """Trains members of one structure, wave after wave; {workdir: what stopped it} of those that failed."""
    programs, failed = make_programs(members, options), {}
    train.describe_model(programs.setup, setups.abstract_state(programs.setup, programs.init).params)
    for together in group(members, lambda member: checkpoint.latest_step(member.workdir / load.CHECKPOINTS) or 0):
        size = wave_size(programs, len(together), options.memory)
        describe(programs, together, size)
        for first in range(0, len(together), size):
            failed |= train_wave(programs, together[first : first + size], size, environment)
    return failed


def describe(programs, members, size):
    """What is done how, in two lines."""
    mesh, begun = programs.mesh, checkpoint.latest_step(members[0].workdir / load.CHECKPOINTS)
    waves, kind = -(-len(members) // size), mesh.devices.flat[0].device_kind
    console.write(
        f"devices    {mesh.size} of {jax.device_count()} ({kind}), {size // mesh.size} of {len(members)} runs on each"
        + (f", in {waves} waves" if waves > 1 else "")
    )
    console.write(f"directory  {members[0].workdir}" + (" and so on" if len(members) > 1 else "") + from_step(begun))


def from_step(begun):
    return f", from step {begun:,} on" if begun else ""


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

    return Programs(setup, mesh, init, cache(compiled), data, setups.split_of(setup, "valid"))


def wave_size(programs, count, memory):
    """How many of `count` runs are trained at once, a multiple of the devices: what the compiler says will fit."""
    devices, steps = programs.mesh.size, first_window(programs.setup)
    free = devices_module.free_bytes(programs.mesh)
    limit = memory or (USABLE * free if free else float("inf"))
    shared = sum(leaf.nbytes for leaf in jax.tree.leaves(programs.data))
    each = -(-count // devices)
    while (need := devices_module.program_bytes(programs.compiled(each * devices, steps))) > limit:
        if each == 1:
            gib = f"{need / 2**30:.2g} GiB of memory on a device, and {limit / 2**30:.2g} GiB may be taken"
            raise DeviceError(f"one run of this sweep needs {gib}: --memory=GIB allows more")
        each = max(1, min(each - 1, int(each * (limit - shared) / (need - shared))))
    waves = -(-count // (each * devices))
    return -(-count // (waves * devices)) * devices  # waves of equal size


def first_window(setup):
    return min(setups.log_window(setup), setup.num_steps)


def train_wave(programs, members, size, environment):
    """Trains members that stand at the same step to the end; {workdir: what stopped it} of those that failed."""
    alone = devices.each_alone(programs.mesh)
    runs = [begin(programs.setup, alone[i % len(alone)], i, member) for i, member in enumerate(members)]
    home = [run.setup._replace(mesh=programs.setup.mesh) for run in runs]
    states = [setups.starting_state(s, run.workdir, programs.init) for s, run in zip(home, runs, strict=True)]
    for run, state in zip(runs, states, strict=True):
        config, info = run.setup.config.to_dict(), run.setup.dataset.info._asdict()
        directory.open_run(run.workdir, config, info, environment, CHANGEABLE)
        directory.truncate_metrics(run.workdir, int(state.step))
    failed = {}
    state, runs = fit(programs, runs, stack_states(programs.mesh, states, size), size, failed)
    finish(programs, runs, state)
    return failed


def begin(setup, mesh, place, member):
    """The run of a member, to be measured on the device of `mesh`."""
    log = partial(train.log, member.workdir, NO_EVENTS, setup.epoch_steps)
    return Run(place, setup._replace(config=member.config, mesh=mesh), member.workdir, log)


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


def fit(programs, runs, state, size, failed):
    """`train.fit` for many: (state after the last step, runs that got there); adds to `failed` why others did not."""
    setup, mesh, done = programs.setup, programs.mesh, int(state.step)
    config, window = setup.config.train, first_window(setup)
    hyper = stacked([setups.hyperparameters(run.setup.config) for run in runs], size, jnp.stack)
    hyper, count = devices.put_split(mesh, hyper), len(runs)
    progress = console.Progress(f"training {count} runs", setup.num_steps, done)
    while done < setup.num_steps and runs:
        started, before = time.perf_counter(), done
        steps = min(window - done % window, setup.num_steps - done)
        state, metrics = programs.compiled(size, steps)(hyper, state, programs.data)
        metrics, done = jax.device_get(metrics), done + steps
        runs = log_training(runs, metrics, before, done, (time.perf_counter() - started) / count, progress, failed)
        cadences = (config.eval_every, config.checkpoint_every)
        due = [train.crossed(epochs * setup.epoch_steps, before, done, setup.num_steps) for epochs in cadences]
        host = jax.device_get(state) if any(due) else None
        if due[0]:
            evaluate_valid(programs, runs, host, progress)
        if due[1]:
            save(runs, host, done)
    progress.close()
    return state, runs


def log_training(runs, metrics, before, done, seconds, progress, failed):
    """A record for every run; the runs whose numbers are finite, the others noted in `failed`.

    A run's `seconds` are its share of the wave's.
    """
    finite = []
    for run in runs:
        own = {name: values[run.place] for name, values in metrics.items()}
        try:
            train.require_finite(own, before, run.workdir)
        except TrainingError as error:
            failed[run.workdir] = str(error)
            progress.line(f"{run.workdir} stopped: {error}")
        else:
            train.log_training(run.setup, own, done, seconds, run.log, console.SILENT)
            finite.append(run)
    epoch, config = done / runs[0].setup.epoch_steps, runs[0].setup.config
    mean = np.mean([metrics["objective"][run.place] for run in finite]) if finite else np.nan
    rate = (done - before) * config.train.batch_size / seconds
    progress.update(done, f"epoch {epoch:.4g}/{config.train.epochs}, mean objective {mean:.2f}, {rate:,.0f} examples/s")
    return finite


def evaluate_valid(programs, runs, host, progress):
    """The bound of every run on valid, and a line for all of them."""
    one = lambda run: train.evaluate_valid(
        run.setup, run.workdir, place_of(host, run), programs.valid, run.log, console.SILENT
    )
    values = on_devices(programs, one, runs)
    if values:
        spread = f"{np.mean(values):.2f} on average, {min(values):.2f} to {max(values):.2f}"
        progress.line(f"epoch {int(host.step) / programs.setup.epoch_steps:.4g}, valid: {spread} nats")


def save(runs, host, done):
    """A checkpoint of every run."""
    for run in runs:
        checkpoint.save(run.workdir / load.CHECKPOINTS, done, place_of(host, run))


def finish(programs, runs, state):
    """`train.finish` for many: final numbers and a report of each, without the pictures."""
    host, done = jax.device_get(state), []
    progress = console.Progress("measuring", len(runs))

    def one(run):
        train.finish(run.setup, run.workdir, place_of(host, run), run.log, shown=False)
        write_events(run.workdir)
        page.write_report(run.workdir)
        done.append(run)
        progress.update(len(done), f"{len(done)} of {len(runs)} runs")

    on_devices(programs, one, runs)
    progress.close()


def on_devices(programs, function, runs):
    """`function(run)` of every run, as many at a time as there are devices."""
    with ThreadPoolExecutor(programs.mesh.size) as pool:
        return list(pool.map(function, runs))


def write_events(workdir):
    """TensorBoard's copy of metrics.jsonl, when a run is complete: many runs at once would be many open files."""
    events = directory.events(workdir)
    for record in directory.read_metrics(workdir):
        step, split = record["step"], record["split"]
        values = {name: value for name, value in record.items() if name not in ("step", "epoch", "split")}
        events.scalars(step, {f"{split}/{name}": value for name, value in values.items()})
    events.close()
