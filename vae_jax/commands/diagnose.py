"""What `main` can do with the directory of a trained run, besides training it."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax import console
from vae_jax.commands.configuration import changed
from vae_jax.commands.evaluate import save
from vae_jax.errors import ConfigError
from vae_jax.evaluation import summary
from vae_jax.evaluation.examples import with_q_params
from vae_jax.models import inference
from vae_jax.models.model import families_of
from vae_jax.parallel import devices
from vae_jax.runs import directory
from vae_jax.training import setup as setups
from vae_jax.training.setup import reopen

NO_GAPS = {
    "dirac": "dirac has no bound to be loose",
    "two_layer": "two_layer has a z of two arrays, and AIS walks in one: use --mode=gaps on models of one layer",
}
CONTOURS = 8  # test examples whose posterior is drawn where there are two latent dimensions


def gaps(workdir, overrides, num_devices=0):
    """Measures what the run's q loses, and why; saves numbers and pictures beside the run's own and prints them."""
    from vae_jax.evaluation import gaps
    from vae_jax.plotting import diagnostics as diagnostic_plots  # which needs blackjax

    workdir = Path(workdir)
    setup, params = reopen(workdir, changed(workdir, overrides), num_devices)
    require_gaps(setup.config, workdir)
    config, spread = setup.config.gaps, devices.spread(setup.mesh)
    console.write(f"gaps of {workdir}: {config.num_examples} test examples")
    examples = setups.split_of(setup, "test", config.num_examples)
    examples = with_q_params(setup.model, params, examples, setup.config, spread)
    numbers, values = gaps.measure_gaps(setup.model, params, examples, config, spread, Stages())
    pictures = {"gaps": (diagnostic_plots.gap_bars(numbers), "What q loses of log p(x), by cause.")}
    draws_only = not setup.model.density_anywhere
    if setup.config.model.latent_dim == 2 and setup.config.inference.kind != "per_datapoint" and not draws_only:
        pictures["posteriors"] = (contours(setup, params, examples), "True posteriors and q found three ways.")
    numbers = summary.name_condition(numbers, examples, setup.config)
    np.savez(workdir / "gaps.npz", **values)
    save(workdir, "gaps", numbers, pictures)
    console.write(table(numbers))
    console.write(f"report    {workdir / directory.REPORT}")


def estimators(workdir, overrides, num_devices=0):
    """Signal-to-noise ratios of gradient estimators at a run's parameters; saves and prints them."""
    from vae_jax.evaluation import gradient_noise
    from vae_jax.plotting import diagnostics as diagnostic_plots

    workdir = Path(workdir)
    setup, params = reopen(workdir, changed(workdir, overrides), num_devices)
    require_estimators(setup.config, workdir)
    config, given = setup.config.estimators, ("image", "index", "condition")
    examples = setups.split_of(setup, "train", config.num_examples)
    batch = {name: jnp.asarray(array) for name, array in examples.items() if name in given}
    draws = gradient_noise.GROUPS * gradient_noise.per_group(config)
    console.write(f"estimators of {workdir}: {draws} gradients each, of {len(batch['index'])} training examples")
    rest = (batch, config, setup.config.eval.seed, Stages("estimators", "groups"))
    found, projections = gradient_noise.measure(setup.model, jax.device_get(params), *rest)
    numbers, values = gradient_noise.summarize(found, projections), gradient_noise.arrays(found)
    np.savez(workdir / "estimators.npz", **values)
    caption = "Signal-to-noise ratio of the gradient as one vector, against the draws K; ± one standard error."
    save(workdir, "estimators", numbers, {"estimators": (diagnostic_plots.snr_lines(values), caption)})
    console.write(gradient_noise.table(found, numbers, draws))
    console.write(f"report    {workdir / directory.REPORT}")


def require_estimators(config, workdir):
    """Raises ConfigError for a run that has no such gradients."""
    posterior, asked = config.model.posterior, set(config.estimators.names)
    if inference.has_table(config):
        raise ConfigError(f"--mode=estimators needs an encoder: {workdir} has inference.kind = per_datapoint")
    if posterior == "dirac":
        raise ConfigError(f"--mode=estimators needs a bound: {workdir} has model.posterior = dirac, an autoencoder")
    if not families_of(config.model)[0].density_anywhere and asked & {"stl", "dreg"}:
        raise ConfigError(
            f"--mode=estimators: stl and dreg need the density of q at any z, and {workdir} has model.posterior = "
            f"{posterior}: use --config.estimators.names=elbo,iwae"
        )


def require_gaps(config, workdir):
    """Raises ConfigError for a posterior whose gaps cannot be measured, or not as asked."""
    if not config.model.latent_dim:
        raise ConfigError(
            f"--mode=gaps cannot measure {workdir}: config.model.latent_dim = 0 has no q to lose anything"
        )
    posterior, measured = config.model.posterior, config.gaps.ais.num_examples or config.gaps.ais.num_simulated
    if posterior in NO_GAPS:
        raise ConfigError(f"--mode=gaps cannot measure {workdir}: config.model.posterior = {NO_GAPS[posterior]}")
    if not families_of(config.model)[0].density_anywhere and measured and "q" in config.gaps.ais.starts:
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
            self.title, self.bar = title, console.Progress(self.mode, total)
        self.bar.update(done, f"{title}, {done:,} of {total:,} {self.unit}")
        if done == total:
            self.bar.close()


def contours(setup, params, examples):
    """The picture of `posteriors.posterior_contours` for the first examples."""
    from vae_jax.evaluation import true_posterior
    from vae_jax.plotting import diagnostics as diagnostic_plots

    shown = jax.tree.map(lambda array: array[:CONTOURS], examples)
    shown = {name: shown[name] for name in ("image", "key", "condition") if name in shown}
    groups = (setup.config.inference, setup.config.fit)
    compared = jax.device_get(true_posterior.compare(setup.model, params, shown, *groups))
    return diagnostic_plots.posterior_contours(*compared, shown["image"])


LABELS = {
    "elbo_q": "L[q]",
    "elbo_q_star": "L[q*]",
    "elbo_q_star_flow": "L[q* flow]",
    "iwae_q": "IWAE from q",
    "iwae_q_star": "IWAE from q*",
    "ais_q": "AIS from q*",
    "ais_prior": "AIS from the prior",
    "log_px": "log p(x)",
    "approximation_gap": "approximation gap  log p(x) - L[q*]",
    "amortization_gap": "amortization gap   L[q*] - L[q]",
    "inference_gap": "inference gap      log p(x) - L[q]",
    "amortization_gap_all": "amortization gap, all examples",
    "approximation_gap_flow": "approximation gap of the flow",
    "flow_gain": "L[q* flow] - L[q*]",
    "bdmc_q_lower": "simulated data: AIS from q*",
    "bdmc_q_upper": "simulated data: AIS back to q*",
    "bdmc_q_gap": "simulated data: difference",
    "bdmc_prior_lower": "simulated data: AIS from the prior",
    "bdmc_prior_upper": "simulated data: AIS back to the prior",
    "bdmc_prior_gap": "simulated data: difference",
    "ais_q_acceptance": "acceptance, AIS from q*",
    "ais_prior_acceptance": "acceptance, AIS from the prior",
    "bdmc_q_acceptance": "acceptance, AIS back to q*",
    "bdmc_prior_acceptance": "acceptance, AIS back to the prior",
    "ais_q_effective": "effective chains, AIS from q*",
    "ais_prior_effective": "effective chains, AIS from the prior",
    "q_star_from_start": "q* found from the other start",
}


def table(numbers):
    """The numbers as text, a line each, and which bound stands for log p(x)."""
    width = max(map(len, LABELS.values()))
    texts = {name: console.number(numbers[name]) for name in LABELS if name in numbers}
    column = max(24, *map(len, texts.values()))
    lines = [
        f"  {LABELS[name]:{width}}  {text:{column}}  {numbers[name]['num_examples']:6} examples"
        for name, text in texts.items()
    ]
    log_px = numbers["log_px"]
    compared = ", ".join(f"{LABELS[name]} {value:.3f}" for name, value in log_px["bounds_compared"].items())
    chosen = f"  log p(x) is {LABELS[log_px['method']]}, on the same examples the best of {compared}"
    note = "  a gap is measured on the examples that both of its terms were: the means above may differ by more"
    return "\n".join([*lines, chosen, note])
