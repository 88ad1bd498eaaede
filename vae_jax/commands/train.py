"""The main job: a run is set up, trained, measured, drawn and reported."""

import contextlib
import hashlib
from functools import partial
from pathlib import Path

import jax

from vae_jax import console
from vae_jax.commands.configuration import default
from vae_jax.errors import TrainingError, one_line
from vae_jax.evaluation.summary import measure_all, not_finite, require_finite
from vae_jax.models import networks
from vae_jax.parallel import devices, processes
from vae_jax.reports import page
from vae_jax.runs import checkpoint, directory, files, load
from vae_jax.runs import environment as environments
from vae_jax.training import setup as setups
from vae_jax.training import train
from vae_jax.training.program import batch_source, make_advance, stays_on_host
from vae_jax.training.step import evaluation_params


def train_run(config, workdir, num_devices=0):
    """Trains the model of a validated config in `workdir`, or goes on where it was stopped; prints its numbers.

    Returns the summary. Of several processes, all of which must call this, the first alone writes; the others get None.
    """
    workdir, status = Path(workdir), status_everywhere(config, Path(workdir))
    with contextlib.ExitStack() as held:
        if status != "finished":
            processes.on_first(lambda: held.enter_context(files.locked(workdir)))
            status = status_everywhere(config, workdir)  # another process may have finished it in between
        if status == "finished":
            console.write(f"{workdir} is finished: its numbers follow. Another --workdir starts another run.")
            summary = processes.on_first(lambda: finished(workdir))
        else:
            summary = train_unfinished(config, workdir, num_devices)
    if processes.first():
        console.write(console.table(summary))
        console.write(f"report    {workdir / directory.REPORT}")
    return summary


def train_unfinished(config, workdir, num_devices):
    """Trains a run to its last step, from where it stands, and finishes it; returns its summary."""
    setup = processes.in_turn(lambda: setups.make_setup(config, num_devices))
    processes.greet(setup.mesh)
    state = setups.starting_state(setup, workdir)
    step = int(state.step)
    run = begin(setup, workdir, step)
    train.describe(setup, state.params)
    kind, several = setup.mesh.devices.flat[0].device_kind, f", of {jax.process_count()} processes"
    console.write(f"devices    {setup.mesh.size} of {jax.device_count()} ({kind}){several * processes.several()}")
    console.write(f"directory  {workdir}" + (f", from step {step:,} on" if step else ""))
    hyper = devices.put_replicated(setup.mesh, setups.hyperparameters(config))
    source = batch_source(setup, step, processes.agreed(lambda: stays_on_host(setup)))
    state, failed = train.fit([run], state, hyper, make_advance(*source))
    for why in failed.values():
        raise TrainingError(why)
    return finish(run, state)


def status_everywhere(config, workdir):
    """Whether the run is 'new', 'resume' or 'finished'. Raises DeviceError if processes see it differently."""
    status = processes.everywhere(lambda: directory.run_status(workdir, config.to_dict()))
    digest = hashlib.sha256(str(config).encode()).hexdigest()[:8]
    processes.require_same(f"configuration {digest}", "start all with the same command")
    sources = filter(None, (config.init_from.partition("@")[0], config.inference.encoder_run))
    steps = [checkpoint.latest_step(Path(run) / load.CHECKPOINTS) for run in (workdir, *sources)]
    processes.require_same(f"a run that is '{status}', checkpoints {steps}", "all need one shared filesystem")
    return status


def begin(setup, workdir, step):
    """The run, its directory opened by the first process and seen by the others."""
    environment = environments.describe()

    def open_on_first():
        info, provenance = setup.dataset.info._asdict(), setup.dataset.provenance
        directory.open_run(workdir, setup.config.to_dict(), info, environment, step, provenance)
        return directory.events(workdir, purge_step=step + 1)

    events, started = processes.on_first(open_on_first), processes.exchange(environment["started"])[0]
    if processes.several():
        processes.everywhere(lambda: directory.wait_for(workdir, started))
    return train.Run(setup, workdir, {}, events)


def finished(workdir):
    """The summary of a finished run, whose report is written if it was killed between these two files."""
    if not (workdir / directory.REPORT).exists():
        page.write_report(workdir, default().to_dict())
    return directory.read_summary(workdir)


def finish(run, state, alone=True):
    """Measures the selected parameters of a trained run on valid and test, then draws and reports; the summary.

    Not `alone`: without progress bars and pictures, for one of many runs.
    """
    setup, config, last = run.setup, run.setup.config, int(state.step)
    if config.train.select == "best":
        state = checkpoint.restore(run.workdir / load.BEST, state)
    step, params, table = int(state.step), evaluation_params(state), state.table
    measure = lambda examples: measure_all(setup.model, params, examples, config, setup.spread, alone)
    splits = {"valid": run.measured.get(step) or train.bound_on(setup, params, setups.split_of(setup, "valid"))}
    if config.eval.train_examples:
        splits["train"] = measure(setups.run_examples(setup, params, "train", config.eval.train_examples, table))
    test = setups.run_examples(setup, params, "test", config.eval.max_examples)
    splits["test"] = measure(test)
    train.log(run, last, "test", {name: entry["value"] for name, entry in splits["test"].items()})
    codes = setups.training_codes(setup, params, table) if alone else None
    params = devices.to_host(params)
    drawn = partial(draw, setup, params, test, codes) if alone else lambda records: {}
    summary = processes.on_first(lambda: conclude(run, step, networks.count(params), splits, drawn))
    require_finite(splits, run.workdir, step)
    return summary


def draw(setup, params, test, codes, records):
    """{name: (Figure, caption)}, the pictures of a run's end."""
    from vae_jax.reports import gallery  # matplotlib takes a second that the first step need not wait for

    shown = gallery.spread_out(test, gallery.PAIRS)
    return gallery.draw_run(setup.config, setup.dataset, setup.model, params, test, shown, records, codes)


def conclude(run, step, num_params, splits, draw):
    """Pictures, summary.json and the report of a run that has been measured; returns the summary."""
    records = directory.read_metrics(run.workdir)
    figures, notes = draw_or_note(run.workdir, partial(draw, records))
    lost = directory.lost_steps(records, run.setup.window, run.setup.num_steps)
    parts = ", ".join(f"{first:,} to {last:,}" for first, last in lost)
    notes += [f"{directory.METRICS} has lost steps {parts}: curves and training time are of the rest"] * bool(lost)
    summary = {
        "complete": not not_finite(splits),
        "step": step,
        "epochs": step / run.setup.epoch_steps,
        "train_seconds": sum(record["seconds"] for record in records if record["split"] == "train"),
        "selected": run.setup.config.train.select,
        "num_params": num_params,
        "splits": splits,
        "notes": notes,
        "figures": figures,
    }
    directory.write_summary(run.workdir, summary)
    close_events(run, records)
    try:
        page.write_report(run.workdir, default().to_dict())
    except Exception as error:  # a run whose numbers are written is finished
        console.write(f"note: {directory.REPORT} was not written: {one_line(error)}")
    return summary


def draw_or_note(workdir, draw):
    """({name: caption} of the pictures, notes): a picture that cannot be made leaves a note, and a finished run."""
    try:
        return directory.save_figures(workdir, draw()), []
    except Exception as error:  # of any kind: matplotlib's own, of shapes, of memory
        again = f"python -m vae_jax.report --figures {workdir} draws them again"
        return {}, [f"there are no pictures, {type(error).__name__}: {one_line(error)}; {again}"]


def close_events(run, records):
    """TensorBoard's copy is complete; that of one of many runs is made now, since so many files cannot be open."""
    events = run.events or directory.events(run.workdir)
    for record in records if run.events is None else ():
        directory.add_events(events, record)
    events.close()
