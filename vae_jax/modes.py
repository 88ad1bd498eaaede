"""What `main` can do with the directory of a trained run, besides training it."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax import arrays, examine, parallel, rundir, terminal, train
from vae_jax import setup as setups
from vae_jax.config import CHANGEABLE, ConfigError, default, in_groups, validate
from vae_jax.families import DRAWS_ONLY

NO_GAPS = {
    "dirac": "dirac has no bound to be loose",
    "two_layer": "two_layer has a z of two arrays, and AIS walks in one: use --mode=gaps on models of one layer",
}
CONTOURS = 8  # test examples whose posterior is drawn where there are two latent dimensions


def reopen(workdir, overrides, num_devices=0):
    """(setup, params) of a trained run; `overrides` {key: value} may touch only keys that a resumed run may change."""
    fixed = [key for key in overrides if not in_groups(key, CHANGEABLE)]
    if fixed:
        raise ConfigError(f"config.{fixed[0]} is part of what {workdir} was trained with: leave it out")
    loaded = setups.load_run(workdir)
    config = default()
    config.update(loaded.config)
    config.update_from_flattened_dict(overrides)
    setup = setups.make_setup(validate(config), num_devices)
    return setup._replace(model=loaded.model), parallel.put_replicated(setup.mesh, loaded.params)


def gaps(workdir, overrides, num_devices=0):
    """Measures what the run's q loses, and why; saves numbers and pictures beside the run's own and prints them."""
    from vae_jax import gaps as gap  # which needs blackjax

    workdir = Path(workdir)
    setup, params = reopen(workdir, overrides, num_devices)
    require_gaps(setup.config, workdir)
    config, spread = setup.config.gaps, parallel.spread(setup.mesh)
    terminal.say(f"gaps of {workdir}: {config.num_examples} test examples")
    examples = setups.evaluation_examples(setup, "test", config.num_examples)
    examples = setups.with_rows(setup, params, examples)
    numbers, values = gap.measure_gaps(setup.model, params, examples, config, spread, Stages())
    pictures = {"gaps": (gap.gap_bars(numbers), "What q loses of log p(x), by cause.")}
    draws_only = setup.config.model.posterior in DRAWS_ONLY
    if setup.config.model.latent_dim == 2 and setup.config.inference.kind != "per_datapoint" and not draws_only:
        pictures["posteriors"] = (contours(setup, params, examples), "True posteriors and q found three ways.")
    numbers = setups.name_condition(setup, numbers)
    np.savez(workdir / "gaps.npz", **values)
    save(workdir, "gaps", numbers, pictures)
    terminal.say(gap.table(numbers))
    terminal.say(f"report    {workdir / rundir.REPORT}")


def estimators(workdir, overrides, num_devices=0):
    """Signal-to-noise ratios of gradient estimators at a run's parameters; saves and prints them."""
    from vae_jax import estimators as estimate

    workdir = Path(workdir)
    setup, params = reopen(workdir, overrides, num_devices)
    require_estimators(setup.config, workdir)
    config, given = setup.config.estimators, ("image", "index", "condition")
    examples = setups.evaluation_examples(setup, "train", config.num_examples)
    batch = {name: jnp.asarray(array) for name, array in examples.items() if name in given}
    draws = estimate.GROUPS * estimate.per_group(config)
    terminal.say(f"estimators of {workdir}: {draws} gradients each, of {len(batch['index'])} training examples")
    rest = (batch, config, setup.config.eval.seed, Stages("estimators", "groups"))
    found, projections = estimate.measure(setup.model, jax.device_get(params), *rest)
    numbers, values = estimate.summarize(found, projections), estimate.arrays(found)
    np.savez(workdir / "estimators.npz", **values)
    caption = "Signal-to-noise ratio of the gradient as one vector, against the draws K; ± one standard error."
    save(workdir, "estimators", numbers, {"estimators": (estimate.snr_lines(values), caption)})
    terminal.say(estimate.table(found, numbers, draws))
    terminal.say(f"report    {workdir / rundir.REPORT}")


def require_estimators(config, workdir):
    """Raises ConfigError for a run that has no such gradients."""
    posterior, asked = config.model.posterior, set(config.estimators.names)
    if setups.has_table(config):
        raise ConfigError(f"--mode=estimators needs an encoder: {workdir} has inference.kind = per_datapoint")
    if posterior == "dirac":
        raise ConfigError(f"--mode=estimators needs a bound: {workdir} has model.posterior = dirac, an autoencoder")
    if posterior in DRAWS_ONLY and asked & {"stl", "dreg"}:
        raise ConfigError(
            f"--mode=estimators: stl and dreg need the density of q at any z, and {workdir} has model.posterior = "
            f"{posterior}: use --config.estimators.names=elbo,iwae"
        )


def evaluate(workdir, overrides, num_devices=0):
    """Measures and draws everything there is of a trained run; saves it with the run's own numbers and prints them."""
    workdir = Path(workdir)
    setup, params = reopen(workdir, overrides, num_devices)
    numbers, drawn = examine.examine(setup, params, workdir)
    for split, entries in numbers.items():
        save(workdir, split, entries, drawn if split == "test" else {})
    terminal.say(terminal.table({"splits": numbers}))
    terminal.say(f"report    {workdir / rundir.REPORT}")


def draw(workdir):
    """The pictures of a run's end for a run that was finished without them, and its report; returns {name: caption}."""
    workdir = Path(workdir)
    setup, params = reopen(workdir, {})
    config = setup.config
    shown = 0 if config.model.latent_dim == 2 else max(train.PAIRS, config.figures.count)  # the scatter shows them all
    limit = min(filter(None, (shown, config.eval.max_examples)), default=0)
    examples = examine.with_codes(setup, params, "test", limit, workdir)
    codes = train.training_codes(setup, params, examine.trained_rows(setup, workdir))
    captions = train.draw_figures(setup, workdir, params, examples, rundir.read_metrics(workdir), codes)
    rundir.write_summary(workdir, rundir.read_summary(workdir) | {"figures": captions})
    rundir.write_report(workdir, default().to_dict())
    return captions


def sample(workdir, out, count, data=""):
    """`count` draws from the prior of a trained run and what they decode to, into a .npz or .png."""
    deliver(arrays.sample(setups.load_run(workdir), count, arrays.read(data) if data else {}), out)


def encode(workdir, out, data):
    """q(z|x) of the images in `data`, into a .npz."""
    deliver(arrays.encode(setups.load_run(workdir), arrays.read(data)), out)


def decode(workdir, out, data):
    """p(x|z) at the codes in `data`, into a .npz or .png."""
    deliver(arrays.decode(setups.load_run(workdir), arrays.read(data)), out)


def deliver(results, out):
    arrays.write(out, results)
    terminal.say(f"{out}: " + ", ".join(f"{name} {list(array.shape)}" for name, array in results.items()))


def require_gaps(config, workdir):
    """Raises ConfigError for a posterior whose gaps cannot be measured, or not as asked."""
    if not config.model.latent_dim:
        raise ConfigError(
            f"--mode=gaps cannot measure {workdir}: config.model.latent_dim = 0 has no q to lose anything"
        )
    posterior, measured = config.model.posterior, config.gaps.ais.num_examples or config.gaps.ais.num_simulated
    if posterior in NO_GAPS:
        raise ConfigError(f"--mode=gaps cannot measure {workdir}: config.model.posterior = {NO_GAPS[posterior]}")
    if posterior in DRAWS_ONLY and measured and "q" in config.gaps.ais.starts:
        raise ConfigError(
            f"--mode=gaps: AIS cannot start from config.model.posterior = {posterior}, whose density is known at its "
            "own draws only: use --config.gaps.ais.starts=prior"
        )


class Stages:
    """A progress bar for one stage after another."""

    def __init__(self, mode="gaps", unit="examples"):
        self.mode, self.unit, self.title, self.bar = mode, unit, None, None

    def __call__(self, title, done, total):
        if title != self.title:
            self.title, self.bar = title, terminal.Progress(self.mode, total)
        self.bar.update(done, f"{title}, {done:,} of {total:,} {self.unit}")
        if done == total:
            self.bar.close()


def contours(setup, params, examples):
    """The picture of `posteriors.posterior_contours` for the first examples."""
    from vae_jax import posteriors

    shown = jax.tree.map(lambda array: array[:CONTOURS], examples)
    shown = {name: shown[name] for name in ("image", "key", "condition") if name in shown}
    groups = (setup.config.inference, setup.config.fit)
    compared = jax.device_get(posteriors.compare(setup.model, params, shown, *groups))
    return posteriors.posterior_contours(*compared, shown["image"])


def save(workdir, name, numbers, pictures):
    """Adds numbers and pictures to the run's summary and its report."""
    summary = rundir.read_summary(workdir) or {"complete": False, "splits": {}, "figures": {}}
    for picture, (figure, caption) in pictures.items():
        rundir.save_figure(workdir, picture, figure)
        summary["figures"][picture] = caption
    summary["splits"][name] = summary["splits"].get(name, {}) | numbers
    rundir.write_summary(workdir, summary)
    rundir.write_report(workdir, default().to_dict())
