"""Draws of p(z|x) by the No-U-Turn sampler, which owe nothing to q, to importance weights or to annealing.

They judge q, q* and the particles of AIS by the posterior's mean and standard deviation and by E[log p(x|z)], on a few
examples: each transition takes up to a thousand gradients of the decoder. Hoffman and Gelman (2014); step size and mass
matrix by Stan's warm-up, for each chain. Chains begin at draws of `start`, so that R-hat can tell whether they mix.
"""

from functools import partial
from typing import Any

import blackjax
import jax
import numpy as np
from blackjax.diagnostics import effective_sample_size, potential_scale_reduction

from vae_jax.evaluation.bounds import SAMPLES_AT_ONCE
from vae_jax.evaluation.examples import summarize
from vae_jax.keys import Use
from vae_jax.objectives.elbo import draw


def sample(keys, examples, target, config):
    """Draws 'z' `[B, chains, samples, Z]`, largest 'rhat', least 'ess' over z_j and the share 'divergent', each `[B]`.

    target: example -> (start, log_joint) of one example, as in `ais`; config.gaps.nuts. The keys `[B]` are consumed.
    """

    def chain(key, example):
        start, log_joint = target(example)
        start_key, warm_up_key, run_key = jax.random.split(key, 3)
        warm_up: Any = blackjax.window_adaptation(blackjax.nuts, log_joint)
        z = start.sample(start_key, (1,)).reshape(-1)
        (state, parameters), _ = warm_up.run(warm_up_key, z, config.num_warmup)
        kernel: Any = blackjax.nuts(log_joint, **parameters)
        move = lambda state, key: (lambda new, info: (new, (new.position, info.is_divergent)))(*kernel.step(key, state))
        return jax.lax.scan(move, state, jax.random.split(run_key, config.num_samples))[1]

    def one(key, example):
        z, divergent = jax.vmap(chain, (0, None))(jax.random.split(key, config.num_chains), example)
        mixed = {"rhat": potential_scale_reduction(z).max(), "ess": effective_sample_size(z).min()}
        return {"z": z, "divergent": divergent.mean(), **mixed}

    return jax.vmap(one)(keys, examples)


@partial(jax.jit, static_argnums=(0, 3, 4))
def of_posterior(model, params, chunk, path_of, config):
    """`describe` of NUTS's draws, and how they mix."""
    examples = {name: leaf for name, leaf in chunk.items() if name != "key"}
    found = sample(chunk["key"], examples, partial(path_of, model, params, "prior"), config)
    return describe(model, params, chunk, jax.lax.collapse(found.pop("z"), 1, 3)) | found


@partial(jax.jit, static_argnums=(0, 3))
def of_other(model, params, chunk, count):
    """`describe` of chunk["z"] where it is there, or else of `count` draws of q."""
    of_q = lambda: draw(chunk["key"], model.make_q(params, chunk["q_params"]), count)[0].swapaxes(0, 1)
    return describe(model, params, chunk, chunk["z"] if "z" in chunk else of_q())


def describe(model, params, chunk, z):
    """Mean and standard deviation `[B, Z]` of draws z `[B, K, Z]`, and the mean of log p(x|z) over them `[B]`."""
    each = lambda z: model.decode(params, z[None], chunk.get("condition")).log_prob(chunk["image"])[0]
    log_likelihood = jax.lax.map(each, z.swapaxes(0, 1), batch_size=SAMPLES_AT_ONCE).mean(0)
    return {"log_likelihood": log_likelihood, "mean": z.mean(1), "std": z.std(1, ddof=1)}


def compare(run, path_of, others, config):
    """NUTS on the examples of others["q"], and what each of the others is beside it: (numbers, {name: array}).

    run, path_of: of `gaps`. others: {name: examples with q_params, or with draws 'z' `[N, K, Z]`}; config.gaps.nuts.
    """
    total, images = config.num_chains * config.num_samples, max(SAMPLES_AT_ONCE, config.num_chains)
    found = run("NUTS", Use.GAPS_NUTS, of_posterior, others["q"], path_of, config, images=images)
    values, worst = {f"nuts_{what}": value for what, value in found.items()}, f"at most {found['rhat'].max():.3f}"
    units = {"rhat": worst, "ess": f"of {total}", "divergent": "of transitions", "log_likelihood": "nats"}
    numbers = {f"nuts_{what}": summarize(found[what], unit) for what, unit in units.items()}
    for name, examples in others.items():
        other = run(f"moments of {name}", Use.GAPS_MOMENTS, of_other, examples, total, images=images)
        values |= {f"nuts_{what}_{name}": value for what, value in other.items()}
        numbers[f"nuts_log_likelihood_{name}"] = summarize(other["log_likelihood"])
        error = np.abs(other["mean"] - found["mean"]) / found["std"]
        numbers[f"nuts_mean_error_{name}"] = summarize(error.mean(-1), "of NUTS's std")
        numbers[f"nuts_std_{name}"] = summarize((other["std"] / found["std"]).mean(-1), "of NUTS's std")
    return numbers, values
