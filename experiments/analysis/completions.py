"""Half an image completed two ways: many answers from a model with z, one from a model without.

    python experiments/analysis/completions.py --out=FILE.png RUN REGRESSOR

RUN is the directory of a run with data.condition = upper, REGRESSOR of one on the same data with model.latent_dim = 0
too. Draws what both put below the same upper halves, and prints of both: -log p(x|c) from the run's summary, the
squared error of the mean prediction, and that of the best of ten answers, of which a regressor has but one.
"""

from functools import partial

import jax
import several_runs

from vae_jax import console
from vae_jax.errors import ConfigError
from vae_jax.evaluation import generation
from vae_jax.evaluation.examples import in_chunks, summarize
from vae_jax.parallel import devices
from vae_jax.plotting import image_rows
from vae_jax.reports import gallery
from vae_jax.runs import load
from vae_jax.training import setup as setups

MEAN, BEST = 100, 10  # draws whose average is the mean prediction, and of which the best counts


def main(arguments=None):
    runs, out = several_runs.parse(__file__, __doc__, arguments, names=("RUN", "REGRESSOR"))
    several_runs.draw(runs, out, figure)


def figure(runs):
    """The picture of both; prints their numbers. Raises one-line errors for runs that cannot be compared."""
    require_comparable(*runs)
    opened = [setups.reopen(run) for run in runs]
    setup = opened[0][0]
    test = setups.split_of(setup, "test", setup.config.eval.max_examples)
    both = {name: numbers(run, *one, test) for name, run, one in zip(("draws", "regressor"), runs, opened, strict=True)}
    console.write(console.table({"splits": both}))
    return draw(*opened[0], *opened[1], test)


def require_comparable(run, regressor):
    """Raises ConfigError where the two are not what the command line says, or were measured on different data."""
    config = load.read_config(run)
    if config.data.condition != "upper" or not config.model.latent_dim or not several_runs.model_of(run).has_density:
        raise ConfigError(f"{run} draws no completions: RUN needs config.data.condition = upper and a prior of z")
    if load.read_config(regressor).model.latent_dim:
        raise ConfigError(f"{regressor} has latent variables: REGRESSOR needs config.model.latent_dim = 0")
    several_runs.require_same_data([run, regressor])


def numbers(run, setup, params, test):
    """Of a run: -log p(x|c) and the bound on it from its summary, and squared errors per element of the lower half.

    These are of the mean prediction, and of the best of BEST answers.
    """
    found = several_runs.measured(run, "nll", "elbo")
    count = MEAN if setup.config.model.latent_dim else 1
    chunk_images, spread = setup.config.eval.chunk_images, devices.spread(setup.mesh)

    def each(chunk):
        answers = generation.completions(setup.model, params, chunk, count)
        return squared_errors(answers, chunk["image"], BEST)

    arrays = {name: test[name] for name in ("image", "key", "condition")}
    mean, best = in_chunks(each, arrays, max(1, chunk_images // count), spread)
    return {
        **{name: found[name] for name in ("nll", "elbo")},
        "squared_error": summarize(mean, f"per pixel, mean of {count} draws" if count > 1 else "per pixel"),
        f"squared_error_best_of_{BEST}": summarize(best, "per pixel"),
    }


@partial(jax.jit, static_argnums=2)
def squared_errors(answers, x, best):
    """Of answers `[B, count, *event]` to x `[B, *event]`: of their average, of the best of the first `best`; `[B]`."""
    answers, x = answers.reshape(*answers.shape[:2], -1), x.reshape(len(x), 1, -1)
    error = lambda answers: ((answers - x) ** 2).mean(-1)
    return error(answers.mean(1, keepdims=True))[:, 0], error(answers[:, :best]).min(1)


def draw(setup, params, regressor, regressor_params, test):
    """One picture: what is given, draws, the regressor's answer, the originals."""
    some = gallery.spread_out(test, gallery.COMPLETED)
    answer = gallery.halves_drawn(regressor.model, regressor_params, some)
    rows = {
        **gallery.halves_given(setup.dataset, some),
        **gallery.halves_drawn(setup.model, params, some),
        "regressor": answer["prediction"],
        **gallery.originals(setup.dataset, some["index"]),
    }
    return image_rows(rows, "Upper halves completed: draws of z from its prior, and a regressor's one answer")


if __name__ == "__main__":
    main()
