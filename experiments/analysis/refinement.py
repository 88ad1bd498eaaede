"""The bound of test images against the number of natural-gradient steps from where an encoder puts q, and its seconds.

    python experiments/analysis/refinement.py --out=FILE.json RUN

RUN has an encoder; its decoder stays as it is. experiments/analysis/amortization.sh asks for it.
"""

import json
import time
from functools import partial
from types import SimpleNamespace

import jax
import several_runs

from vae_jax import console
from vae_jax.console import guarded
from vae_jax.errors import ConfigError
from vae_jax.evaluation import bounds
from vae_jax.evaluation.examples import bound, in_chunks, infer_q_params, summarize
from vae_jax.keys import Use, fold_each
from vae_jax.models.inference import refine
from vae_jax.training import setup as setups

STEPS = (0, 1, 2, 5, 20, 100)


def main(arguments=None):
    (run,), out = several_runs.parse(__file__, __doc__, arguments, names=("RUN",), out="FILE.json")

    def action():
        found = measure(run)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(found, indent=1))
        for row in found:
            seconds = f"{row['seconds']:8.2f} s for {row['images']:,} images"
            console.write(f"  {row['steps']:4} steps  ELBO {console.number(row['elbo'])}  {seconds}")

    guarded(action)


def measure(run):
    """For each of STEPS: 'elbo', 'gain' over the encoder (paired), 'seconds' that the refinement took, 'images'."""
    setup, params = setups.reopen(run)
    if not setup.model.has_encoder:
        raise ConfigError(f"{run} has no encoder to start from: give a run with inference.kind = amortized")
    config = setup.config
    examples = setups.split_of(setup, "test", config.eval.max_examples)
    find = partial(infer_q_params, setup.model, params)
    examples |= {"q_params": in_chunks(find, examples, config.eval.chunk_images, setup.spread)}
    values, rows = {}, []
    for steps in STEPS:
        function = partial(refined, setup.model, params, config.inference, steps)
        in_chunks(function, examples, config.eval.chunk_images, setup.spread)  # compiled
        started = time.perf_counter()
        q_params = in_chunks(function, examples, config.eval.chunk_images, setup.spread)
        seconds = time.perf_counter() - started
        given = {**examples, "q_params": q_params}
        terms = partial(bounds.elbo_terms, setup.model, params, num_samples=config.eval.elbo_samples)
        values[steps] = in_chunks(terms, given, config.eval.chunk_images, setup.spread)["elbo"]
        row = {"steps": steps, "seconds": seconds, "images": len(examples["index"])}
        rows.append(row | {"elbo": summarize(values[steps]), "gain": summarize(values[steps] - values[0])})
    return rows


@partial(jax.jit, static_argnums=(0, 2, 3))
def refined(model, params, inference, steps, chunk):
    """q_params after so many steps of the ascent that fits of held-out examples take."""
    settings = SimpleNamespace(**{**inference.to_dict(), "ascent": "natural", "steps": steps})
    value_of = bound(model, params, chunk, inference.num_samples, stopped=True)
    value = lambda keys, q_params: value_of(keys, chunk["image"], model.make_q(params, q_params))
    keys = fold_each(chunk["key"], Use.CONTOUR_REFINE)
    return refine(value, chunk["q_params"], keys, model.ascent, settings)


if __name__ == "__main__":
    main()
