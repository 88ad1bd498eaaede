"""One picture of several trained runs.

    python -m vae_jax.studies prior_estimate --out=FILE.png RUN...
    python -m vae_jax.studies sigma --out=FILE.png RUN...

prior_estimate: log p(x) of test images from draws of the prior and of q against their number, a column for each run;
sigma: squared error, rate and active units of runs with a normal likelihood against its sigma, with pictures of each.
experiments/sweeps/prior_estimate.sh and sigma.sh train such runs.
"""

import math
from pathlib import Path

import numpy as np

from vae_jax import console
from vae_jax.console import Parser, guarded
from vae_jax.errors import ConfigError, UserError
from vae_jax.evaluation import bounds, generation
from vae_jax.evaluation.examples import with_q_params
from vae_jax.keys import prior_key
from vae_jax.parallel import devices
from vae_jax.plotting import likelihood as likelihood_plots
from vae_jax.runs import directory
from vae_jax.training import setup as setups

SHOWN = 8  # images in a row
MEASURED = {  # a number of the summary -> a panel's title
    "squared_error": "Squared error of a pixel",
    "kl": "Rate, nats",
    "active_units": "Active units",
}


def prior_estimate(runs):
    """The picture of `estimates.measure` with a column for each run, in the order of their latent dimensions."""
    opened = sorted((setups.reopen(run, {}) for run in runs), key=lambda one: one[0].config.model.latent_dim)
    panels, dims = {}, [setup.config.model.latent_dim for setup, _ in opened]
    for number, (setup, params) in enumerate(opened):
        config, spread = setup.config.eval, devices.spread(setup.mesh)
        if setup.config.model.posterior == "dirac":
            raise ConfigError("an autoencoder (config.model.posterior = dirac) has no p(x) to estimate: leave it out")
        if not config.curve_examples:
            raise ConfigError("config.eval.curve_examples = 0 of a run: expected a number >= 1")
        examples = setups.split_of(setup, "test", config.curve_examples)
        examples = with_q_params(setup.model, params, examples, setup.config, spread)
        weights = bounds.measure(setup.model, params, examples, config, spread)
        title = f"Z = {dims[number]}" + (f", run {number + 1}" if len(set(dims)) < len(dims) else "")
        panels[title] = bounds.curves(weights)
        for name, entry in bounds.numbers(weights).items():
            console.write(f"  {title:8}  {name:28}  {console.number(entry)}")
    return likelihood_plots.estimates(panels)


def sigma(runs):
    """The picture of numbers against sigma, with reconstructions and samples of each run."""
    studied = sorted((study_sigma(run) for run in runs), key=lambda one: one["sigma"])
    numbers = {}
    for name, title in MEASURED.items():
        entries = [one["numbers"][name] for one in studied]
        stderr = [entry["stderr"] or 0.0 for entry in entries]
        numbers[title] = np.array([entry["value"] for entry in entries]), np.array(stderr)
    for one in studied:
        shown = "  ".join(f"{name} {console.number(one['numbers'][name])}" for name in MEASURED)
        console.write(f"  {one['name']:16}  {shown}")
    column = lambda key: [one[key] for one in studied]
    return likelihood_plots.sigma_figure(
        *(column(key) for key in ("name", "sigma", "learned")),
        numbers,
        studied[0]["original"],
        *(np.stack(column(key)) for key in ("reconstructions", "samples")),
    )


def study_sigma(run):
    """sigma of a run, its numbers, and a few reconstructions and samples. Raises ConfigError if it has no one sigma."""
    setup, params = setups.reopen(run, {})
    config, summary = setup.config, directory.read_summary(run) or {}
    if config.model.likelihood != "normal" or config.model.sigma_mode == "per_dimension":
        raise ConfigError(f"{run} has no one sigma: config.model.likelihood = normal is needed, and not per_dimension")
    missing = set(MEASURED) - set(summary.get("splits", {}).get("test", {}))
    if missing:
        raise ConfigError(f"{run} has no {', '.join(sorted(missing))} of test: finish it, or leave it out")
    if len(setup.dataset.info.event_shape) < 2 or setup.dataset.info.condition_shape:
        raise ConfigError(f"{run}: images without a condition are needed for pictures of it")
    learned = config.model.sigma_mode != "fixed"
    value = math.exp(float(params["likelihood"]["log_sigma"])) if learned else config.model.sigma
    test = setups.run_examples(setup, params, "test", SHOWN)
    key = prior_key(config.eval.seed)
    return {
        "name": f"σ = {value:.3g}" + (f", {config.model.sigma_mode}" if learned else ""),
        "sigma": value,
        "learned": learned,
        "numbers": summary["splits"]["test"],
        "original": np.asarray(test["image"]),
        "reconstructions": np.asarray(generation.reconstruct(setup.model, params, test)),
        "samples": np.asarray(generation.prior_means(setup.model, params, key, SHOWN)),
    }


STUDIES = {"prior_estimate": prior_estimate, "sigma": sigma}


def main(arguments=None):
    parser = Parser("studies", __doc__)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="directory of a finished run")
    parser.add_argument("--out", required=True, metavar="FILE.png", help="the picture")
    given = parser.parse_intermixed_args(arguments)
    guarded(lambda: study(given.study, given.runs, Path(given.out)))


def study(name, runs, out):
    """Saves the picture of a study. Raises UserError for what is no .png, and what the study refuses."""
    if out.suffix != ".png":
        raise UserError(f"--out={out}: expected FILE.png")
    figure = STUDIES[name](runs)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)
    console.write(f"picture    {out}")


if __name__ == "__main__":
    main()
