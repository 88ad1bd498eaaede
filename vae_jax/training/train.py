"""Training a model from a config into a run directory, and finishing it: numbers, pictures, report."""

import hashlib
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np

from vae_jax import console
from vae_jax.config import CHANGEABLE
from vae_jax.errors import TrainingError
from vae_jax.evaluation import bounds
from vae_jax.evaluation.examples import with_q_params
from vae_jax.evaluation.summary import measure_all, measure_bound
from vae_jax.models import networks
from vae_jax.parallel import devices, processes
from vae_jax.reports import gallery, page
from vae_jax.runs import checkpoint, directory, load
from vae_jax.training import setup as setups
from vae_jax.training.program import make_advance, stays_on_host
from vae_jax.training.step import evaluation_params


def train(config, workdir, num_devices=0):
    """Trains the model of a validated config in `workdir`, or goes on where it was stopped; returns the summary.

    Of several processes, all of which must call this, the first writes and gets the summary, the others None.
    """
    workdir, config_dict = Path(workdir), config.to_dict()
    if status_everywhere(config, workdir) == "finished":
        console.write(f"{workdir} is finished: its numbers follow. Another --workdir starts another run.")
        return processes.on_first(lambda: finished(workdir))
    setup = processes.in_turn(lambda: setups.make_setup(config, num_devices))
    processes.greet(setup.mesh)
    state = setups.starting_state(setup, workdir)
    events = open_everywhere(setup, workdir, config_dict, int(state.step))
    describe(setup, workdir, state)
    record = partial(log, workdir, events, setup.epoch_steps) if processes.first() else lambda *_: None
    state = fit(setup, workdir, state, record)
    summary = finish(setup, workdir, state, record)
    processes.on_first(lambda: (events.close(), page.write_report(workdir)))
    return summary


def status_everywhere(config, workdir):
    """Whether the run is 'new', 'resume' or 'finished'. Raises DeviceError if processes see it differently."""
    status = processes.everywhere(lambda: directory.run_status(workdir, config.to_dict(), CHANGEABLE))
    digest = hashlib.sha256(str(config).encode()).hexdigest()[:8]
    processes.require_same(f"configuration {digest}", "start all with the same command")
    sources = filter(None, (config.init_from.partition("@")[0], config.inference.encoder_run))
    steps = [checkpoint.latest_step(Path(run) / load.CHECKPOINTS) for run in (workdir, *sources)]
    processes.require_same(f"a run that is '{status}', checkpoints {steps}", "all need one shared filesystem")
    return status


def open_everywhere(setup, workdir, config_dict, step):
    """Opens the run directory: returns its Events on the first process, once the others see that it is open."""
    info, environment = setup.dataset.info._asdict(), directory.environment()

    def open_on_first():
        directory.open_run(workdir, config_dict, info, environment, CHANGEABLE)
        directory.truncate_metrics(workdir, step)
        return directory.events(workdir, purge_step=step + 1)

    events, started = processes.on_first(open_on_first), processes.exchange(environment["started"])[0]
    if processes.several():
        processes.everywhere(lambda: directory.wait_for(workdir, started))
    return events


def finished(workdir):
    """The summary of a finished run, whose report is written if it was killed between these two files."""
    if not (workdir / directory.REPORT).exists():
        page.write_report(workdir)
    return directory.read_summary(workdir)


def describe(setup, workdir, state):
    """What is trained on what, before it starts."""
    describe_model(setup, state.params)
    mesh = setup.mesh
    begun = f", from step {int(state.step):,} on" if int(state.step) else ""
    device, several = mesh.devices.flat[0].device_kind, f", of {jax.process_count()} processes" * processes.several()
    console.write(f"devices    {mesh.size} of {jax.device_count()} ({device}){several}")
    console.write(f"directory  {workdir}{begun}")


def describe_model(setup, params):
    """Three lines: data, model, training."""
    config, info = setup.config, setup.dataset.info
    shape = " x ".join(map(str, info.event_shape))
    held_out = f"{len(setup.dataset.valid.image):,} valid, {len(setup.dataset.test.image):,} test"
    parts = (
        f"{config.inference.kind} inference, {config.model.posterior} posterior, {config.model.likelihood} likelihood"
    )
    size = f"{config.model.latent_dim} latent dimensions, {networks.count(params):,} parameters"
    if not config.model.latent_dim:
        parts = f"no latent variables, the decoder of the condition, {config.model.likelihood} likelihood"
        size = f"{networks.count(params):,} parameters"
    batch = f"batches of {config.train.batch_size}, {config.optimizer.name}, objective {config.objective.name}"
    console.write(f"data       {info.name}: {info.num_train:,} training examples of {shape}, {held_out}")
    console.write(f"model      {parts}; {size}")
    console.write(f"training   {config.train.epochs} epochs of {setup.epoch_steps} steps, {batch}")


def log(workdir, events, epoch_steps, step, split, values):
    """One record of a split's numbers, in metrics.jsonl and for TensorBoard."""
    directory.append_metrics(workdir, {"step": step, "epoch": step / epoch_steps, "split": split, **values})
    events.scalars(step, {f"{split}/{name}": value for name, value in values.items()})


def fit(setup, workdir, state, log):
    """Trains from `state` to the last step, logging, evaluating and saving at multiples of their cadences."""
    train, epoch_steps = setup.config.train, setup.epoch_steps
    hyper = devices.put_replicated(setup.mesh, setups.hyperparameters(setup.config))
    examples = setups.split_of(setup, "valid")
    window, done = setups.log_window(setup), int(state.step)
    advance = make_advance(setup, done, processes.agreed(lambda: stays_on_host(setup)))
    progress = console.Progress("training", setup.num_steps, done)
    while done < setup.num_steps:
        started, before = time.perf_counter(), done
        count = min(window - done % window, setup.num_steps - done)
        state, metrics = advance(hyper, state, count)
        done += count
        require_finite(metrics, before, workdir)
        log_training(setup, metrics, done, time.perf_counter() - started, log, progress)
        if crossed(train.eval_every * epoch_steps, before, done, setup.num_steps):
            evaluate_valid(setup, workdir, state, examples, log, progress)
        if crossed(train.checkpoint_every * epoch_steps, before, done, setup.num_steps):
            checkpoint.save(workdir / load.CHECKPOINTS, done, state)
    progress.close()
    return state


def crossed(cadence, before, done, last):
    """Whether a multiple of the cadence, or the last step, lies in (before, done]."""
    return done // cadence > before // cadence or done == last


def require_finite(metrics, before, workdir):
    """Stops a run whose loss or gradient is no longer a number; what was saved before stays as it is."""
    bad = ~(np.isfinite(metrics["objective"]) & np.isfinite(metrics["grad_norm"]))
    if bad.any():
        saved = checkpoint.latest_step(workdir / load.CHECKPOINTS)
        source = f"another --workdir with --init_from={workdir}@{saved}" if saved else "start anew in another --workdir"
        where = f"step {before + int(bad.argmax()) + 1} (of steps {before + 1} to {before + len(bad)})"
        way_on = "a lower config.optimizer.learning_rate, or set config.optimizer.clip_norm"
        raise TrainingError(f"loss or gradient is not finite at {where}: {source} and {way_on}")


def log_training(setup, metrics, done, seconds, log, progress):
    """The means over a window of steps: a record, and the progress bar."""
    means = {name: float(np.mean(values, dtype=np.float64)) for name, values in metrics.items()}
    log(done, "train", {**means, "seconds": seconds})
    rate = len(metrics["objective"]) * setup.config.train.batch_size / seconds
    epoch = f"epoch {done / setup.epoch_steps:.4g}/{setup.config.train.epochs}"
    shown = {"objective": "objective", "elbo": "ELBO"}
    numbers = ", ".join(f"{label} {means[name]:.2f}" for name, label in shown.items() if name in means)
    progress.update(done, f"{epoch}, {numbers}, {rate:,.0f} examples/s")


def evaluate_valid(setup, workdir, state, examples, log, progress):
    """The bound on valid: a record, a line, and a checkpoint if it is the best so far; returns it."""
    numbers = bound_on(setup, evaluation_params(state), examples)
    judge = "elbo" if "elbo" in numbers else "log_likelihood"  # an autoencoder is chosen by its reconstruction
    done, value = int(state.step), numbers[judge]["value"]
    earlier = lambda: [record[judge] for record in directory.read_metrics(workdir) if record["split"] == "valid"]
    best = setup.config.train.select == "best" and processes.agreed(lambda: value > max(earlier(), default=-np.inf))
    log(done, "valid", {name: entry["value"] for name, entry in numbers.items()})
    shown = ", ".join(f"{name} {console.number(numbers[name])}" for name in bounds.TERMS if name in numbers)
    progress.line(f"epoch {done / setup.epoch_steps:.4g}, valid: {shown}")
    if best:
        checkpoint.save(workdir / load.BEST, done, state, keep=1)
    return value


def bound_on(setup, params, examples):
    """The bound over examples, with q as the run's inference finds it."""
    spread = devices.spread(setup.mesh)
    examples = with_q_params(setup.model, params, examples, setup.config, spread)
    return measure_bound(setup.model, params, examples, setup.config, spread)


def finish(setup, workdir, state, log, shown=True):
    """The selected parameters measured on valid and test; returns what `conclude` makes of that.

    Not `shown`: without progress bars and pictures, for one of many runs.
    """
    config, last = setup.config, int(state.step)
    if config.train.select == "best":
        state = checkpoint.restore(workdir / load.BEST, state)
    params = evaluation_params(state)
    rest = (config, devices.spread(setup.mesh), shown)
    splits = {"valid": bound_on(setup, params, setups.split_of(setup, "valid"))}
    if config.eval.train_examples:
        train = setups.run_examples(setup, params, "train", config.eval.train_examples, state.table)
        splits["train"] = measure_all(setup.model, params, train, *rest)
    test = setups.run_examples(setup, params, "test", config.eval.max_examples)
    splits["test"] = measure_all(setup.model, params, test, *rest)
    log(last, "test", {name: entry["value"] for name, entry in splits["test"].items()})
    codes = setups.training_codes(setup, params, state.table) if shown else None
    done, params = int(state.step), devices.to_host(params)
    return processes.on_first(lambda: conclude(setup, workdir, done, params, splits, test, codes, shown))


def draw_figures(setup, workdir, params, test, records, codes):
    """The pictures of a run, saved; {name: caption}."""
    drawn = gallery.draw_run(setup.config, setup.dataset, setup.model, params, test, records, codes)
    return directory.save_figures(workdir, drawn)


def conclude(setup, workdir, step, params, splits, test, codes, shown):
    """The pictures and summary.json of a run that has been measured; returns the summary."""
    records = directory.read_metrics(workdir)
    summary = {
        "complete": True,
        "step": step,
        "epochs": step / setup.epoch_steps,
        "train_seconds": sum(record["seconds"] for record in records if record["split"] == "train"),
        "selected": setup.config.train.select,
        "num_params": networks.count(params),
        "splits": splits,
        "figures": draw_figures(setup, workdir, params, test, records, codes) if shown else {},
    }
    directory.write_summary(workdir, summary)
    return summary
