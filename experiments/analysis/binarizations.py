"""How much a run's test ELBO depends on which draws of its binary test images it is measured on.

    python experiments/analysis/binarizations.py RUN

A published NLL of dynamically binarized images is of one set of draws. Here the ELBO of the same parameters is measured
on eight, seeds 0 to 7 in place of `eval.seed`, with 20 draws of z, and their standard deviation is printed.
"""

import numpy as np

from vae_jax import console
from vae_jax.console import Parser, guarded
from vae_jax.errors import ConfigError
from vae_jax.evaluation import bounds, with_q_params
from vae_jax.evaluation.examples import in_chunks, split_examples, summarize
from vae_jax.training import setup as setups

SEEDS, DRAWS = range(8), 20


def main(arguments=None):
    parser = Parser("python experiments/analysis/binarizations.py", __doc__)
    parser.add_argument("run", metavar="RUN", help="directory of a trained run")
    given = parser.parse_args(arguments)
    guarded(lambda: show(measure(given.run), given.run))


def measure(run):
    """{seed: ELBO of the test images binarized by it, with its standard error}."""
    setup, params = setups.reopen(run)
    if setup.config.data.binarization != "dynamic":
        raise ConfigError(f"{run} has data.binarization = {setup.config.data.binarization}: no draws to compare")
    found, config, limit = {}, setup.config, setup.config.eval.max_examples
    each = lambda chunk: bounds.elbo_terms(setup.model, params, chunk, DRAWS)
    for seed in SEEDS:
        examples = split_examples(setup.dataset, "test", setup.prepare, seed, limit)
        examples = with_q_params(setup.model, params, examples, config, setup.spread)
        found[seed] = summarize(in_chunks(each, examples, config.eval.chunk_images, setup.spread)["elbo"], "nats")
    return found


def show(found, run):
    for seed, entry in found.items():
        console.write(f"  seed {seed}  ELBO {console.number(entry)}")
    values = np.array([entry["value"] for entry in found.values()])
    rest = (
        f"standard deviation {values.std(ddof=1):.3f}, seed {SEEDS[0]} less the mean {values[0] - values.mean():+.3f}"
    )
    console.write(f"{run}: mean {values.mean():.3f}, {rest}")


if __name__ == "__main__":
    main()
