"""Measuring a model: everything per example, in nats, in chunks of bounded memory.

Noise here has its own seed (`config.eval.seed`): the key of example i of a split depends on (seed, split, i) alone, and
the key of its k-th draw on that and k, so neither the size of a chunk nor the number of devices changes a number.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.evaluation import pareto
from vae_jax.evaluation.examples import bits_per_dim, bound, in_chunks, summarize
from vae_jax.keys import Use, fold_each
from vae_jax.models.model import Model, sample_each_prior
from vae_jax.objectives.elbo import elbo_fn, importance_bound
from vae_jax.objectives.importance import effective_sample_size
from vae_jax.parallel.devices import ONE_DEVICE, Spread

SAMPLES_AT_ONCE = 50  # draws decoded together for one example
TERMS = ("elbo", "log_likelihood", "kl")


@partial(jax.jit, static_argnums=(0, 3))
def elbo_terms(model: Model, params: Any, chunk: dict, num_samples: int) -> dict:
    """The ELBO and its two terms, each an average over the same draws.

        ELBO = E_q[log p(x|z)] - KL(q(z|x) || p(z))

    Args:
        model, params: the trained model.
        chunk: 'image', 'key', 'q_params' and where there is one 'condition', each `[B, ...]`.
        num_samples: draws of z for each example.

    Returns:
        'elbo', 'log_likelihood' and 'kl' `[B]`, nats; of an autoencoder, whose q has no density, the reconstruction
        'log_likelihood' alone.
    """
    if not model.has_density:
        q = model.make_q(params, chunk["q_params"])
        return {"log_likelihood": bound(model, params, chunk)(None, chunk["image"], q)}
    terms = jax.lax.map(lambda k: sample_terms(model, params, chunk, k), jnp.arange(num_samples))
    return {name: getattr(terms, name).mean(0) for name in TERMS}


def sample_terms(model, params, chunk, number):
    """The bound's terms from draw `number` of each example: log_weights [1, B], averages [B]."""
    condition = chunk.get("condition")
    q = model.make_q(params, chunk["q_params"])
    decode = lambda z: model.decode(params, z, condition)
    keys = fold_each(fold_each(chunk["key"], Use.EVAL_DRAW), number)
    return elbo_fn(keys, chunk["image"], q, decode, model.prior(params, condition))


def from_q(model, params, chunk, number):
    """log w `[B]` of q's draw `number` for each example: log p(x|z) + log p(z) - log q(z|x)."""
    return sample_terms(model, params, chunk, number).log_weights[0]


def from_prior(model, params, chunk, number):
    """log w `[B]` of the prior's draw `number` for each example: log p(x|z)."""
    condition = chunk.get("condition")
    keys = fold_each(fold_each(chunk["key"], Use.LOG_PX_PRIOR), number)
    z = sample_each_prior(model, params, keys, 1, condition)
    return model.decode(params, z, condition).log_prob(chunk["image"])[0]


SOURCES = {"prior": from_prior, "q": from_q}


@partial(jax.jit, static_argnums=(0, 3, 4, 5))
def log_weights(model, params, chunk, source, num_samples, samples_at_once):
    """log w_k `[K, B]` of K = num_samples draws from a source, `samples_at_once` of them decoded together."""
    each = lambda number: SOURCES[source](model, params, chunk, number)
    return jax.lax.map(each, jnp.arange(num_samples), batch_size=samples_at_once)


@partial(jax.jit, static_argnums=(0, 3, 4))
def importance_log_px(model: Model, params: Any, chunk: dict, num_samples: int, samples_at_once: int) -> dict:
    """log p(x) by importance sampling, a lower bound in expectation that rises with the number of draws.

        log p(x) ~ log 1/K sum_k w_k,   w_k = p(x|z_k) p(z_k) / q(z_k|x)             Burda et al. (2016), eq. 8

    Args:
        model, params: the trained model.
        chunk: 'image', 'key', 'q_params' and where there is one 'condition', each `[B, ...]`.
        num_samples: K draws of z for each example.
        samples_at_once: draws decoded together; bounds memory, changes no draw.

    Returns:
        'log_px' `[B]`, nats, 'ess' `[B]`, the effective sample size of the K weights, and where there are enough of
        them 'pareto_k' `[B]`, the index of their tail.
    """
    log_w = log_weights(model, params, chunk, "q", num_samples, samples_at_once)
    found = {"log_px": importance_bound(log_w), "ess": effective_sample_size(log_w)}
    return found if num_samples < pareto.FEWEST else {**found, "pareto_k": pareto.pareto_k(log_w)}


def bound_numbers(model: Model, params: Any, examples: dict, config: Any, spread: Spread = ONE_DEVICE) -> dict:
    """ELBO and its terms, averaged over examples that have 'q_params'.

    Args:
        model, params: the trained model.
        examples: as `with_q_params` makes them.
        config: config.eval.
        spread: over which devices a chunk of examples is divided.

    Returns:
        {name: {'value', 'stderr', 'unit'}}, the ELBO in nats and in bits per dimension.
    """
    function = lambda chunk: elbo_terms(model, params, chunk, config.elbo_samples)
    terms = in_chunks(function, examples, config.chunk_images, spread)
    numbers = {name: summarize(terms[name]) for name in TERMS if name in terms}
    if "elbo" in terms:
        numbers["elbo_bits_per_dim"] = summarize(bits_per_dim(terms["elbo"], examples["image"].shape[1:]), "bits/dim")
    return numbers


def likelihood_numbers(
    model: Model, params: Any, examples: dict, config: Any, spread: Spread, progress: Callable = lambda done: None
) -> dict:
    """NLL = -log p(x) by `importance_log_px`, averaged over examples that have 'q_params'.

    Args:
        model, params: the trained model.
        examples: as `with_q_params` makes them.
        config: config.eval.
        spread: over which devices a chunk of examples is divided.
        progress: called with the number of examples that are done.

    Returns:
        {name: {'value', 'stderr', 'unit'}}: the NLL in nats and in bits per dimension, the effective sample size and
        whether to trust it, the numbers of `pareto`.
    """
    samples_at_once = min(SAMPLES_AT_ONCE, config.num_samples)
    function = lambda chunk: importance_log_px(model, params, chunk, config.num_samples, samples_at_once)
    size = max(1, config.chunk_images // samples_at_once)
    estimate = in_chunks(function, examples, size, spread, progress)
    nll = -estimate["log_px"]
    return {
        "nll": {**summarize(nll), "num_samples": config.num_samples},
        "nll_bits_per_dim": summarize(bits_per_dim(nll, examples["image"].shape[1:]), "bits/dim"),
        "ess": summarize(estimate["ess"], f"of {config.num_samples}"),
        **(pareto.numbers(estimate["pareto_k"]) if "pareto_k" in estimate else {}),
    }


def measure(model, params, examples, config, spread):
    """{source: log w `[N, K]`} of the first `config.curve_examples` examples, which have q_params."""
    some = {name: jax.tree.map(lambda leaf: leaf[: config.curve_examples], leaf) for name, leaf in examples.items()}
    together = min(SAMPLES_AT_ONCE, config.num_samples)
    function = lambda source: lambda chunk: log_weights(model, params, chunk, source, config.num_samples, together).T
    size = max(1, config.chunk_images // together)
    return {source: in_chunks(function(source), some, size, spread) for source in SOURCES}


def counts(num_samples):
    """The powers of two below K, and K."""
    return np.array([*(2**i for i in range(num_samples.bit_length()) if 2**i < num_samples), num_samples])


def running(log_w, at):
    """From log w `[N, K]`: log p(x) and effective sample size, `[N, len(at)]`, of the first `at` draws; float64."""
    log_w = np.asarray(log_w, np.float64)
    first, second = (np.logaddexp.accumulate(power * log_w, axis=1)[:, at - 1] for power in (1, 2))
    return first - np.log(at), np.exp(2 * first - second)


def numbers(weights):
    """Both estimates from all draws, with standard errors over examples, effective sample sizes and Pareto's k."""
    found = {}
    for source, log_w in weights.items():
        count, num_samples = log_w.shape
        estimate, ess = (value[:, 0] for value in running(log_w, np.array([num_samples])))
        found[f"log_px_from_{source}"] = summarize(estimate, f"nats, {num_samples} draws, {count} examples")
        found[f"ess_from_{source}"] = summarize(ess, f"of {num_samples}, {count} examples")
        if num_samples >= pareto.FEWEST:
            found |= pareto.numbers(pareto.pareto_k(jnp.asarray(log_w.T)), f"_from_{source}")
    return found


def curves(weights):
    """{source: (K `[C]`, log p(x) `[N, C]`, effective sample size `[N, C]`)}, to be drawn."""
    at = {source: counts(log_w.shape[1]) for source, log_w in weights.items()}
    return {source: (at[source], *running(log_w, at[source])) for source, log_w in weights.items()}
