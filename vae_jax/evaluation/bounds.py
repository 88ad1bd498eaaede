"""Measuring a model: everything per example, in nats, in chunks of bounded memory.

Noise here has its own seed (`config.eval.seed`): the key of example i of a split depends on (seed, split, i) alone, and
the key of its k-th draw on that and k, so neither the size of a chunk nor the number of devices changes a number.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.distributions.basic import has_density
from vae_jax.evaluation.examples import bits_per_dim, bound, in_chunks, summarize
from vae_jax.keys import Use, fold_each, fold_in_each
from vae_jax.objectives.elbo import elbo_fn

SAMPLES_AT_ONCE = 50  # draws decoded together for one example


def sample_terms(model, params, chunk, number):
    """The bound's terms from draw `number` of each example: log_weights [1, B], averages [B]."""
    condition = chunk.get("condition")
    q = model.make_q(params, chunk["q_params"])
    decode = lambda z: model.decode(params, z, condition)
    keys = fold_in_each(fold_each(chunk["key"], Use.EVAL_DRAW), number)
    return elbo_fn(keys, chunk["image"], q, decode, model.prior(params, condition))


@partial(jax.jit, static_argnums=(0, 3))
def elbo_terms(model, params, chunk, num_samples):
    """ELBO, E_q log p(x|z) and KL of each example [B], nats, averaged over `num_samples` draws.

    Of an autoencoder, whose q has no density, the reconstruction log p(x|z) alone.
    """
    q = model.make_q(params, chunk["q_params"])
    if not has_density(q):
        return {"log_likelihood": bound(model, params, chunk)(None, chunk["image"], q)}
    terms = jax.lax.map(lambda k: sample_terms(model, params, chunk, k), jnp.arange(num_samples))
    return {"elbo": terms.elbo.mean(0), "log_likelihood": terms.log_likelihood.mean(0), "kl": terms.kl.mean(0)}


@partial(jax.jit, static_argnums=(0, 3, 4))
def importance_log_px(model, params, chunk, num_samples, samples_at_once):
    """log p(x) ~ log 1/K sum_k w_k [B] from K = num_samples draws, nats, and the effective number of them.

    A lower bound in expectation, tighter with K; Burda et al. (2016), eq. 8. The effective sample size is
    (sum w)^2 / sum w^2. Draws are made `samples_at_once`, and exactly K of them count.
    """
    draws = jax.vmap(lambda k: sample_terms(model, params, chunk, k).log_weights[0])

    def block(totals, start):
        numbers = start + jnp.arange(samples_at_once)
        log_w = jnp.where(numbers[:, None] < num_samples, draws(numbers), -jnp.inf)
        sums = [jax.nn.logsumexp(power * log_w, axis=0) for power in (1, 2)]
        return tuple(map(jnp.logaddexp, totals, sums)), None

    none = jnp.full(chunk["image"].shape[:1], -jnp.inf)
    (first, second), _ = jax.lax.scan(block, (none, none), jnp.arange(0, num_samples, samples_at_once))
    return {"log_px": first - math.log(num_samples), "effective_samples": jnp.exp(2 * first - second)}


TERMS = ("elbo", "log_likelihood", "kl")


def bound_numbers(model, params, examples, config, spread):
    """ELBO and its terms over examples that have 'q_params': {name: {value, stderr, unit}}."""
    function = lambda chunk: elbo_terms(model, params, chunk, config.elbo_samples)
    terms = in_chunks(function, examples, config.chunk_images, spread)
    numbers = {name: summarize(terms[name]) for name in TERMS if name in terms}
    if "elbo" in terms:
        numbers["elbo_bits_per_dim"] = summarize(bits_per_dim(terms["elbo"], examples["image"].shape[1:]), "bits/dim")
    return numbers


def likelihood_numbers(model, params, examples, config, spread, progress):
    """NLL = -log p(x) from K = num_samples draws, its effective sample size, and the same in bits per dimension."""
    samples_at_once = min(SAMPLES_AT_ONCE, config.num_samples)
    function = lambda chunk: importance_log_px(model, params, chunk, config.num_samples, samples_at_once)
    size = max(1, config.chunk_images // samples_at_once)
    estimate = in_chunks(function, examples, size, spread, progress)
    nll = -estimate["log_px"]
    return {
        "nll": {**summarize(nll), "num_samples": config.num_samples},
        "nll_bits_per_dim": summarize(bits_per_dim(nll, examples["image"].shape[1:]), "bits/dim"),
        "effective_samples": summarize(estimate["effective_samples"], f"of {config.num_samples}"),
    }


def from_prior(model, params, chunk, number):
    """log w `[B]` of the prior's draw `number` for each example: log p(x|z)."""
    condition = chunk.get("condition")
    prior, keys = model.prior(params, condition), fold_in_each(fold_each(chunk["key"], Use.LOG_PX_PRIOR), number)
    if model.conditional:  # one prior for each example
        z = prior.sample(keys, (1,))
    else:
        z = jax.vmap(lambda key: prior.sample(key, (1,)), out_axes=1)(keys)
    return model.decode(params, z, condition).log_prob(chunk["image"])[0]


def from_q(model, params, chunk, number):
    """log w `[B]` of q's draw `number` for each example: log p(x|z) + log p(z) - log q(z|x)."""
    return sample_terms(model, params, chunk, number).log_weights[0]


SOURCES = {"prior": from_prior, "q": from_q}


@partial(jax.jit, static_argnums=(0, 3, 4, 5))
def log_weights(model, params, chunk, source, num_samples, samples_at_once):
    """log w_k `[B, K]` of K = num_samples draws, `samples_at_once` of them decoded together."""
    each = lambda number: SOURCES[source](model, params, chunk, number)
    return jax.lax.map(each, jnp.arange(num_samples), batch_size=samples_at_once).T


def measure(model, params, examples, config, spread):
    """{source: log w `[N, K]`} of the first `config.curve_examples` examples, which have q_params."""
    some = {name: jax.tree.map(lambda leaf: leaf[: config.curve_examples], leaf) for name, leaf in examples.items()}
    together = min(SAMPLES_AT_ONCE, config.num_samples)
    function = lambda source: lambda chunk: log_weights(model, params, chunk, source, config.num_samples, together)
    size = max(1, config.chunk_images // together)
    return {source: in_chunks(function(source), some, size, spread) for source in SOURCES}


def counts(num_samples):
    """The powers of two below K, and K."""
    return np.array([*(2**i for i in range(num_samples.bit_length()) if 2**i < num_samples), num_samples])


def running(log_w, at):
    """From log w `[N, K]`: log p(x) and the effective number of draws, `[N, len(at)]`, from the first `at` draws."""
    log_w = np.asarray(log_w, np.float64)
    first, second = (np.logaddexp.accumulate(power * log_w, axis=1)[:, at - 1] for power in (1, 2))
    return first - np.log(at), np.exp(2 * first - second)


def numbers(weights):
    """Both estimates from all draws, with standard errors over examples, and their effective numbers of draws."""
    found = {}
    for source, log_w in weights.items():
        count, num_samples = log_w.shape
        estimate, effective = (value[:, 0] for value in running(log_w, np.array([num_samples])))
        found[f"log_px_from_{source}"] = summarize(estimate, f"nats, {num_samples} draws, {count} examples")
        found[f"effective_draws_from_{source}"] = summarize(effective, f"of {num_samples}, {count} examples")
    return found


def curves(weights):
    """{source: (K `[C]`, log p(x) `[N, C]`, effective draws `[N, C]`)}, to be drawn."""
    at = {source: counts(log_w.shape[1]) for source, log_w in weights.items()}
    return {source: (at[source], *running(log_w, at[source])) for source, log_w in weights.items()}
