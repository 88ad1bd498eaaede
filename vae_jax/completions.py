"""Half an image completed two ways: many answers from a model with z, one from a model without.

    python -m vae_jax.completions --out=FILE.png RUN REGRESSOR

RUN is the directory of a run with data.condition = upper, REGRESSOR of one on the same data with model.latent_dim = 0
too. Draws what both put below the same upper halves, and prints of both: -log p(x|c) from the run's summary, the
squared error of the mean prediction, and that of the best of ten answers, of which a regressor has but one.
"""

import argparse
from pathlib import Path

from vae_jax import console
from vae_jax.console import Parser, guarded
from vae_jax.errors import ConfigError, RunError
from vae_jax.evaluation import generation
from vae_jax.evaluation.examples import in_chunks, summarize
from vae_jax.parallel import devices
from vae_jax.plotting import latent_space as latent_plots
from vae_jax.reports import gallery
from vae_jax.runs import directory
from vae_jax.training import setup as setups

MEAN, BEST = 100, 10  # draws whose average is the mean prediction, and of which the best counts


def main(arguments=None):
    """Draws and prints; every foreseen mistake becomes one line and exit status 2."""
    options = parse(arguments)
    numbers = guarded(lambda: compare(options.run, options.regressor, options.out))
    console.write(console.table({"splits": numbers}))
    console.write(f"picture   {options.out}")


def parse(arguments):
    parser = Parser("completions", __doc__)
    parser.add_argument("--out", metavar="FILE.png", required=True, type=png)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("regressor", metavar="REGRESSOR")
    return parser.parse_args(arguments)


def png(path):
    if not path.endswith(".png") or not Path(path).parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path}: expected FILE.png in a directory that exists")
    return path


def compare(run, regressor, out):
    """Saves the picture; returns {which: numbers}. Raises one-line errors for runs that cannot be compared."""
    opened = {"draws": setups.reopen(run, {}), "regressor": setups.reopen(regressor, {})}
    require_comparable(run, regressor, *(setup.config for setup, _ in opened.values()))
    test = setups.split_of(opened["draws"][0], "test", opened["draws"][0].config.eval.max_examples)
    numbers = {
        which: measured(path) | errors(*opened[which], test)
        for which, path in (("draws", run), ("regressor", regressor))
    }
    draw(*opened["draws"], *opened["regressor"], test).savefig(out, dpi=144)
    return numbers


def require_comparable(run, regressor, config, other):
    """Raises ConfigError where the two are not what the command line says, or were measured on different data."""
    if config.data.condition != "upper" or not config.model.latent_dim or config.model.posterior == "dirac":
        raise ConfigError(f"{run} draws no completions: RUN needs config.data.condition = upper and a prior of z")
    if other.model.latent_dim:
        raise ConfigError(f"{regressor} has latent variables: REGRESSOR needs config.model.latent_dim = 0")
    evaluated = lambda c: {"data": c.data.to_dict(), "eval": {key: c.eval[key] for key in ("seed", "max_examples")}}
    changed = directory.differing(evaluated(config), evaluated(other))
    changed = [key for key in changed if key not in ("data.manual_dir", "data.data_dir", "data.streams")]
    if changed:
        raise ConfigError(f"{run} and {regressor} were measured on other data: config.{changed[0]} differs")


def measured(workdir):
    """What the run's own summary says of test: -log p(x|c), and the bound on it. Raises RunError before its end."""
    numbers = (directory.read_summary(workdir) or {}).get("splits", {}).get("test", {})
    if "nll" not in numbers:
        raise RunError(f"{workdir} is not finished: start its command again, then compare")
    return {name: numbers[name] for name in ("nll", "elbo")}


def errors(setup, params, test):
    """Squared errors per element of the lower half: of the mean prediction, and of the best of BEST answers."""
    count = MEAN if setup.config.model.latent_dim else 1
    chunk_images, spread = setup.config.eval.chunk_images, devices.spread(setup.mesh)

    def each(chunk):
        answers = generation.completions(setup.model, params, chunk, count)
        return generation.completion_errors(answers, chunk["image"], BEST)

    arrays = {name: test[name] for name in ("image", "key", "condition")}
    mean, best = in_chunks(each, arrays, max(1, chunk_images // count), spread)
    average = f"per pixel, mean of {count} draws" if count > 1 else "per pixel"
    return {
        "squared_error": summarize(mean, average),
        f"squared_error_best_of_{BEST}": summarize(best, "per pixel"),
    }


def draw(setup, params, regressor, regressor_params, test):
    """One picture: what is given, draws, the regressor's answer, the originals."""
    some = {name: test[name][: gallery.COMPLETED] for name in ("condition", "key")}
    answer = gallery.halves_drawn(regressor, regressor_params, some)
    rows = {
        **gallery.halves_given(setup, some),
        **gallery.halves_drawn(setup, params, some),
        "regressor": answer["prediction"],
        **gallery.originals(setup, gallery.COMPLETED),
    }
    return latent_plots.strips(rows, "Upper halves completed: draws of z from its prior, and a regressor's one answer")


if __name__ == "__main__":
    main()
