"""The loop of training: windows of steps, and after them what is due of logging, evaluating and saving.

It takes runs that one program trains side by side, all at the same step; a run by itself is one of one.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax import console
from vae_jax.errors import Stopped
from vae_jax.evaluation import bounds
from vae_jax.evaluation.examples import with_q_params
from vae_jax.evaluation.summary import measure_bound
from vae_jax.models import networks
from vae_jax.parallel import processes
from vae_jax.runs import checkpoint, directory, files, load
from vae_jax.training import setup as setups
from vae_jax.training import stop
from vae_jax.training.step import State, evaluation_params


class Run(NamedTuple):
    """A run under way."""

    setup: setups.Setup
    workdir: Path
    measured: dict  # {step: the numbers of valid there}, of this process
    events: Any = None  # of TensorBoard
    place: int = 0  # among the runs that are trained together


def fit(
    runs: list[Run], state: State, hyper: Any, advance: Callable, *, states: Callable = lambda state: lambda run: state
) -> tuple[State, dict[Path, str]]:
    """Trains runs to their last step, logging, evaluating and saving at multiples of their cadences.

    Args:
        runs: one, or several that differ in traced keys alone and stand at the same step.
        state: the state of the one, or of all, stacked [M, ...] but for the step.
        hyper: the traced hyperparameters, stacked likewise.
        advance: (hyper, state, count) -> (state, metrics [M, count]), see `program.make_advance`.
        states: state -> (run -> its own State, on its own devices).

    Returns:
        The state after the last step, and why the runs stopped that are no longer finite. It ends when all have.

    Raises:
        Stopped: by SIGTERM or SIGINT, after the window of steps under way has been saved.
    """
    setup, begun, done, failed = runs[0].setup, len(runs), int(state.step), {}
    train, window, num_steps, signal = setup.config.train, setup.window, setup.num_steps, 0
    valid = setups.split_of(setup, "valid")
    progress = console.Progress("training" if begun == 1 else f"training {begun} runs", num_steps, done)

    def drop(stopped):
        nonlocal runs, failed
        runs, failed = [run for run in runs if run.workdir not in stopped], failed | stopped
        for workdir, why in stopped.items() if begun > 1 else ():
            progress.line(f"{workdir} stopped: {why}")

    with stop.caught() as asked:
        while done < num_steps and runs and not signal:
            started, before = time.perf_counter(), done
            count = min(window - done % window, num_steps - done)
            state, metrics = advance(hyper, state, count)
            done += count
            drop({run.workdir: why for run in runs if (why := not_finite(run, metrics, before))})
            if not runs:
                break
            log_training(runs, metrics, done, (time.perf_counter() - started) / begun, progress)
            signal = stop.agreed(asked())
            cadences = (train.eval_every, train.checkpoint_every)
            due = [crossed(epochs * setup.epoch_steps, before, done, num_steps) for epochs in cadences]
            own: Any = states(state) if any(due) or signal else None
            if own:
                drop({run.workdir: why for run in runs if (why := broken(run, own(run)))})
            if due[0] and runs:
                on_valid = in_threads(lambda run, own=own: evaluate_valid(run, own(run), valid), runs)
                progress.line(f"epoch {done / setup.epoch_steps:.4g}, valid: {spelled(on_valid)}")
            if due[1] or signal:
                for run in runs:
                    save(run, done, own(run))
    progress.close()
    if signal:
        saved = f"after step {done:,} of {num_steps:,}, which is saved: the same command goes on from there"
        raise Stopped(saved, signal)
    return state, failed


def save(run, done, state):
    """A checkpoint, the records up to it on the disk before it counts."""
    if processes.first():
        files.sync(run.workdir / directory.METRICS)
        files.sync(run.workdir)
    checkpoint.save(run.workdir / load.CHECKPOINTS, done, state)


def log(run, step, split, values):
    """One record of a split's numbers, in metrics.jsonl and for TensorBoard; the first process alone writes."""
    record = {"step": step, "epoch": step / run.setup.epoch_steps, "split": split, **values}
    if processes.first():
        directory.append_metrics(run.workdir, record)
    if run.events is not None:
        directory.add_events(run.events, record)


def crossed(cadence, before, done, last):
    """Whether a multiple of the cadence, or the last step, lies in (before, done]."""
    return done // cadence > before // cadence or done == last


def in_threads(function, runs):
    """`function(run)` of every run, a thread for each mesh; of a single run in this one, which can be interrupted."""
    if len(runs) == 1:
        return [function(runs[0])]
    with ThreadPoolExecutor(len({run.setup.mesh for run in runs})) as pool:
        return list(pool.map(function, runs))


# What a step reports, in the order in which it is computed: the first that is no number is to blame.
BLAMED = {"log_likelihood": "log p(x|z)", "kl": "the KL", "objective": "the objective", "grad_norm": "the gradient"}


def not_finite(run, metrics, before):
    """Why a run must stop whose loss or gradient is no longer a number, and the way on; None while all is well."""
    bad = {name: ~np.isfinite(metrics[name][run.place]) for name in BLAMED if name in metrics}
    steps = np.any([*bad.values()], axis=0)
    if not steps.any():
        return None
    first = int(steps.argmax())
    name = next(name for name, where in bad.items() if where[first])
    where = f"step {before + first + 1} (of steps {before + 1} to {before + len(steps)})"
    way_on = "config.model.sigma and the range of the data, since no update has been made"
    return f"{BLAMED[name]} is not finite at {where}: " + (ways_on(run) if before + first else f"look at {way_on}")


def broken(run, state):
    """Why a run must stop whose last update has left parameters that are no numbers, which no metric shows yet."""
    table = state.table.q_params if state.table != () else ()
    fine = bool(all_finite((state.params, state.ema, table)))
    return None if fine else f"the parameters are not finite after step {int(state.step)}: {ways_on(run)}"


@jax.jit
def all_finite(tree):
    return jnp.all(jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))


def ways_on(run):
    """What to do after a divergence: from where, and how."""
    saved = checkpoint.latest_step(run.workdir / load.CHECKPOINTS)
    source = f"another --workdir with --init_from={run.workdir}@{saved}" if saved else "start anew in another --workdir"
    return f"{source} and a lower config.optimizer.learning_rate, or set config.optimizer.clip_norm"


def log_training(runs, metrics, done, seconds, progress):
    """The means over a window of steps: a record of each run, and their average beside the progress bar.

    seconds: of the window, the share of each run.
    """
    total = {"objective": 0.0, "elbo": 0.0}
    for run in runs:
        own = {name: float(np.mean(values[run.place], dtype=np.float64)) for name, values in metrics.items()}
        log(run, done, "train", {**own, "seconds": seconds})
        total = {name: total[name] + own[name] for name in total if name in own}
    config, labels = runs[0].setup.config.train, {"objective": "objective", "elbo": "ELBO"}
    rate = metrics["objective"].shape[-1] * config.batch_size / seconds
    numbers = ", ".join(f"{labels[name]} {value / len(runs):.2f}" for name, value in total.items())
    epoch = f"epoch {done / runs[0].setup.epoch_steps:.4g}/{config.epochs}"
    progress.update(done, f"{epoch}, {numbers}, {rate:,.0f} examples/s")


def judge(numbers):
    """The number by which a checkpoint is chosen: of an autoencoder its reconstruction."""
    return "elbo" if "elbo" in numbers else "log_likelihood"


def evaluate_valid(run, state, examples):
    """The bound on valid: a record, and a checkpoint if it is the best so far; returns the numbers."""
    numbers, done = bound_on(run.setup, evaluation_params(state), examples), int(state.step)
    name, select = judge(numbers), run.setup.config.train.select
    earlier = lambda: [record[name] for record in directory.read_metrics(run.workdir) if record["split"] == "valid"]
    better = lambda: numbers[name]["value"] > max(earlier(), default=-np.inf)
    best = select == "best" and processes.agreed(better)
    log(run, done, "valid", {name: entry["value"] for name, entry in numbers.items()})
    run.measured[done] = numbers
    if best:
        checkpoint.save(run.workdir / load.BEST, done, state, keep=1)
    return numbers


def bound_on(setup, params, examples):
    """The bound over examples, with q as the run's inference finds it."""
    examples = with_q_params(setup.model, params, examples, setup.config, setup.spread)
    return measure_bound(setup.model, params, examples, setup.config, setup.spread)


def spelled(measured):
    """The numbers of one run on valid, or the range of many."""
    if len(measured) == 1:
        return ", ".join(f"{name} {console.number(measured[0][name])}" for name in bounds.TERMS if name in measured[0])
    name = judge(measured[0])
    values, unit = [numbers[name]["value"] for numbers in measured], measured[0][name]["unit"]
    return f"{np.mean(values):.2f} on average, {min(values):.2f} to {max(values):.2f} {unit}"


def describe(setup, params):
    """Three lines: data, model, training."""
    config, info = setup.config, setup.dataset.info
    shape = " x ".join(map(str, info.event_shape))
    held_out = f"{len(setup.dataset.valid.image):,} valid, {len(setup.dataset.test.image):,} test"
    parts = f"{config.inference.kind} inference, {config.model.posterior} posterior"
    size = f"{config.model.latent_dim} latent dimensions, {networks.count(params):,} parameters"
    if not setup.model.latent_dim:
        parts, size = "no latent variables, the decoder of the condition", size.partition(", ")[2]
    batch = f"batches of {config.train.batch_size}, {config.optimizer.name}, objective {config.objective.name}"
    console.write(f"data       {info.name}: {info.num_train:,} training examples of {shape}, {held_out}")
    console.write(f"model      {parts}, {config.model.likelihood} likelihood; {size}")
    console.write(f"training   {config.train.epochs} epochs of {setup.epoch_steps} steps, {batch}")
