"""Training a model from a config into a run directory, and finishing it: numbers, pictures, report."""

import hashlib
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np

from vae_jax import checkpoint, evaluate, networks, parallel, processes, rundir, terminal
from vae_jax import setup as setups
from vae_jax.config import CHANGEABLE, default
from vae_jax.mistakes import Mistake

CODES = 10_000  # of an autoencoder, to which a mixture is fitted for its samples
PAIRS = 20  # images beside their reconstructions


class TrainingError(Mistake, RuntimeError):
    """One readable line: what stopped the run, and how to go on."""


def train(config, workdir, num_devices=0):
    """Trains the model of a validated config in `workdir`, or goes on where it was stopped; returns the summary.

    Of several processes, all of which must call this, the first writes and gets the summary, the others None.
    """
    workdir, config_dict = Path(workdir), config.to_dict()
    if status_everywhere(config, workdir) == "finished":
        terminal.say(f"{workdir} is finished: its numbers follow. Another --workdir starts another run.")
        return processes.on_first(lambda: finished(workdir))
    setup = processes.in_turn(lambda: setups.make_setup(config, num_devices))
    processes.greet(setup.mesh)
    state = setups.starting_state(setup, workdir)
    events = open_everywhere(setup, workdir, config_dict, int(state.step))
    describe(setup, workdir, state)
    record = partial(log, workdir, events, setup.epoch_steps) if processes.first() else lambda *_: None
    state = fit(setup, workdir, state, record)
    summary = finish(setup, workdir, state, record)
    processes.on_first(lambda: (events.close(), rundir.write_report(workdir, default().to_dict())))
    return summary


def status_everywhere(config, workdir):
    """Whether the run is 'new', 'resume' or 'finished'. Raises DeviceError if processes see it differently."""
    status = processes.everywhere(lambda: rundir.run_status(workdir, config.to_dict(), CHANGEABLE))
    digest = hashlib.sha256(str(config).encode()).hexdigest()[:8]
    processes.require_same(f"configuration {digest}", "start all with the same command")
    sources = filter(None, (config.init_from.partition("@")[0], config.inference.encoder_run))
    steps = [checkpoint.latest_step(Path(run) / setups.CHECKPOINTS) for run in (workdir, *sources)]
    processes.require_same(f"a run that is '{status}', checkpoints {steps}", "all need one shared filesystem")
    return status


def open_everywhere(setup, workdir, config_dict, step):
    """Opens the run directory: returns its Events on the first process, once the others see that it is open."""
    info, environment = setup.dataset.info._asdict(), rundir.environment()

    def open_on_first():
        rundir.open_run(workdir, config_dict, info, environment, CHANGEABLE)
        rundir.truncate_metrics(workdir, step)
        return rundir.events(workdir, purge_step=step + 1)

    events, started = processes.on_first(open_on_first), processes.exchange(environment["started"])[0]
    if processes.several():
        processes.everywhere(lambda: rundir.wait_for(workdir, started))
    return events


def finished(workdir):
    """The summary of a finished run, whose report is written if it was killed between these two files."""
    if not (workdir / rundir.REPORT).exists():
        rundir.write_report(workdir, default().to_dict())
    return rundir.read_summary(workdir)


def describe(setup, workdir, state):
    """What is trained on what, before it starts."""
    describe_model(setup, state.params)
    mesh = setup.mesh
    begun = f", from step {int(state.step):,} on" if int(state.step) else ""
    device, several = mesh.devices.flat[0].device_kind, f", of {jax.process_count()} processes" * processes.several()
    terminal.say(f"devices    {mesh.size} of {jax.device_count()} ({device}){several}")
    terminal.say(f"directory  {workdir}{begun}")


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
    terminal.say(f"data       {info.name}: {info.num_train:,} training examples of {shape}, {held_out}")
    terminal.say(f"model      {parts}; {size}")
    terminal.say(f"training   {config.train.epochs} epochs of {setup.epoch_steps} steps, {batch}")


def log(workdir, events, epoch_steps, step, split, values):
    """One record of a split's numbers, in metrics.jsonl and for TensorBoard."""
    rundir.append_metrics(workdir, {"step": step, "epoch": step / epoch_steps, "split": split, **values})
    events.scalars(step, {f"{split}/{name}": value for name, value in values.items()})


def fit(setup, workdir, state, log):
    """Trains from `state` to the last step, logging, evaluating and saving at multiples of their cadences."""
    train, epoch_steps = setup.config.train, setup.epoch_steps
    hyper = parallel.put_replicated(setup.mesh, setups.hyperparameters(setup.config))
    examples = setups.evaluation_examples(setup, "valid")
    window, done = setups.log_window(setup), int(state.step)
    advance = setups.make_advance(setup, done, processes.agreed(lambda: setups.stays_on_host(setup)))
    progress = terminal.Progress("training", setup.num_steps, done)
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
            checkpoint.save(workdir / setups.CHECKPOINTS, done, state)
    progress.close()
    return state


def crossed(cadence, before, done, last):
    """Whether a multiple of the cadence, or the last step, lies in (before, done]."""
    return done // cadence > before // cadence or done == last


def require_finite(metrics, before, workdir):
    """Stops a run whose loss or gradient is no longer a number; what was saved before stays as it is."""
    bad = ~(np.isfinite(metrics["objective"]) & np.isfinite(metrics["grad_norm"]))
    if bad.any():
        saved = checkpoint.latest_step(workdir / setups.CHECKPOINTS)
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
    numbers = measure_bound(setup, setups.evaluation_params(state), examples)
    judge = "elbo" if "elbo" in numbers else "log_likelihood"  # an autoencoder is chosen by its reconstruction
    done, value = int(state.step), numbers[judge]["value"]
    earlier = lambda: [record[judge] for record in rundir.read_metrics(workdir) if record["split"] == "valid"]
    best = setup.config.train.select == "best" and processes.agreed(lambda: value > max(earlier(), default=-np.inf))
    log(done, "valid", {name: entry["value"] for name, entry in numbers.items()})
    shown = ", ".join(f"{name} {terminal.number(numbers[name])}" for name in evaluate.TERMS if name in numbers)
    progress.line(f"epoch {done / setup.epoch_steps:.4g}, valid: {shown}")
    if best:
        checkpoint.save(workdir / setups.BEST, done, state, keep=1)
    return value


def measure_bound(setup, params, examples):
    """ELBO and its terms over a split, with q as the run's inference finds it."""
    examples = setups.with_rows(setup, params, examples)
    spread, shape = parallel.spread(setup.mesh), setup.dataset.info.event_shape
    numbers = evaluate.bound_numbers(setup.model, params, examples, shape, setup.config.eval, spread)
    return setups.name_condition(setup, numbers)


def finish(setup, workdir, state, log, shown=True):
    """The selected parameters measured on valid and test; returns what `conclude` makes of that.

    Not `shown`: without progress bars and pictures, for one of many runs.
    """
    config, last = setup.config, int(state.step)
    if config.train.select == "best":
        state = checkpoint.restore(workdir / setups.BEST, state)
    params = setups.evaluation_params(state)
    splits = {"valid": measure_bound(setup, params, setups.evaluation_examples(setup, "valid"))}
    if config.eval.train_examples:
        train = setups.evaluation_examples(setup, "train", config.eval.train_examples)
        splits["train"] = measure_all(setup, params, setups.with_codes(setup, params, train, state.local), shown)
    test = setups.with_codes(setup, params, setups.evaluation_examples(setup, "test", config.eval.max_examples))
    splits["test"] = measure_all(setup, params, test, shown)
    log(last, "test", {name: entry["value"] for name, entry in splits["test"].items()})
    codes = training_codes(setup, params, state.local) if shown else None
    done, params = int(state.step), parallel.here(params)
    return processes.on_first(lambda: conclude(setup, workdir, done, params, splits, test, codes, shown))


def conclude(setup, workdir, step, params, splits, test, codes, shown):
    """The pictures and summary.json of a run that has been measured; returns the summary."""
    records = rundir.read_metrics(workdir)
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
    rundir.write_summary(workdir, summary)
    return summary


def measure_all(setup, params, examples, shown=True):
    """Every number of a split, with a progress bar: the importance samples take their time."""
    count, measured = setup.config.eval.num_samples, "log p(x|c)" if "condition" in examples else "log p(x)"
    title, total = f"{measured}, {count} samples each,", len(examples["index"])
    progress = terminal.Progress(title, total) if shown else terminal.SILENT
    numbers = evaluate.all_numbers(
        setup.model,
        params,
        examples,
        setup.dataset.info.event_shape,
        setup.config.eval,
        parallel.spread(setup.mesh),
        lambda done: progress.update(done, f"{done:,} examples"),
    )
    progress.close()
    return setups.name_condition(setup, numbers)


def draw_figures(setup, workdir, params, examples, records, codes):
    """The pictures of a run, saved; {name: caption}. `codes` [N, Z] are an autoencoder's, of training images."""
    from vae_jax import figures, generate  # matplotlib takes a second that the first step need not wait for

    drawn = {"curves": (figures.training_curves(records), "Loss and its two terms, per example, during training.")}
    if setup.config.model.latent_dim:
        shown = jax.tree.map(lambda array: array[:PAIRS], examples)
        drawn["reconstructions"] = (
            figures.reconstructions(shown["image"], evaluate.reconstruct(setup.model, params, shown)),
            "Test images as the model sees them, and the mean of p(x|z) at the mean of q(z|x).",
        )
    drawn |= generate.generated(setup, params, examples, codes)
    if isinstance(examples["mean"], np.ndarray) and examples["mean"].shape[-1] == 2:
        drawn["latent"] = latent_picture(setup.config, examples)
    for name, (figure, _) in drawn.items():
        rundir.save_figure(workdir, name, figure)
    return {name: caption for name, (_, caption) in drawn.items()}


def training_codes(setup, params, local):
    """The codes of CODES training images, `[N, Z]`, of an autoencoder, whose samples are made from them; else None."""
    if setup.config.model.posterior != "dirac":
        return None
    return setups.with_codes(setup, params, setups.evaluation_examples(setup, "train", CODES), local)["mean"]


def latent_picture(config, examples):
    """(Figure, caption) of the latent means `[N, 2]`, with circles where the prior is the standard normal."""
    from vae_jax import figures

    standard = config.model.prior == "standard_normal" and config.model.posterior != "dirac"
    scatter = figures.latent_scatter(examples["mean"], examples.get("label"), prior=standard)
    return scatter, "The mean of q(z|x) of every test image."
