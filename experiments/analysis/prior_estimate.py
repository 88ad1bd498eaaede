"""log p(x) of test images from draws of the prior and of q against their number, a column for each run.

    python experiments/analysis/prior_estimate.py --out=FILE.png RUN...

experiments/sweeps/prior_estimate.sh trains runs of growing latent dimension for it.
"""

import several_runs

from vae_jax import console
from vae_jax.errors import ConfigError
from vae_jax.evaluation import bounds
from vae_jax.evaluation.examples import with_q_params
from vae_jax.parallel import devices
from vae_jax.plotting import likelihood as likelihood_plots
from vae_jax.runs import load
from vae_jax.training import setup as setups


def main(arguments=None):
    several_runs.draw(*several_runs.parse(__file__, __doc__, arguments), figure)


def figure(runs):
    """The picture, columns in the order of latent dimensions; prints each run's estimates from all its draws."""
    for run in runs:
        require_estimate(run)
    opened = sorted((setups.reopen(run) for run in runs), key=lambda one: one[0].config.model.latent_dim)
    columns, dims = {}, [setup.config.model.latent_dim for setup, _ in opened]
    for number, (setup, params) in enumerate(opened):
        config, spread = setup.config, devices.spread(setup.mesh)
        examples = setups.split_of(setup, "test", config.eval.curve_examples)
        examples = with_q_params(setup.model, params, examples, config, spread)
        weights = bounds.measure(setup.model, params, examples, config.eval, spread)
        title = f"Z = {dims[number]}" + (f", run {number + 1}" if len(set(dims)) < len(dims) else "")
        columns[title] = bounds.curves(weights)
        for name, entry in bounds.numbers(weights).items():
            console.write(f"  {title:8}  {name:28}  {console.number(entry)}")
    return likelihood_plots.estimates(columns)


def require_estimate(run):
    """Raises ConfigError where a run has no p(x), or is asked to estimate it for no image."""
    if not several_runs.model_of(run).has_density:
        raise ConfigError(f"{run} is an autoencoder, which has no p(x) to estimate: leave it out")
    if not load.read_config(run).eval.curve_examples:
        raise ConfigError(f"config.eval.curve_examples = 0 of {run}: expected a number >= 1")


if __name__ == "__main__":
    main()
