"""log p(x) against the number of draws, with z from the prior and with z from q(z|x); nats per example.

    log p(x) ~ log 1/K sum_k p(x|z_k)                              z_k ~ p(z)
    log p(x) ~ log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x)            z_k ~ q(z|x)      Burda et al. (2016), eq. 8

Both are means of weights w_k whose expectation is p(x), so both converge, from below in expectation. What differs is
how many of the K draws count, (sum w)^2 / sum w^2: of the prior's ever fewer as Z grows. The draws are nested,
so that 2K of them hold the K before, and q's are those of the run's NLL.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.evaluate import SAMPLES_AT_ONCE, in_chunks, sample_terms, summarize
from vae_jax.inference import fold_in_each

PRIOR = 34  # what an example's key is used for here


def from_prior(model, params, chunk, number):
    """log w `[B]` of the prior's draw `number` for each example: log p(x|z)."""
    condition = chunk.get("condition")
    prior, keys = model.prior(params, condition), fold_in_each(fold_in_each(chunk["key"], PRIOR), number)
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
    """{source: log w `[N, K]`} of the first `config.curve_examples` examples that have rows, K = config.num_samples."""
    some = {name: jax.tree.map(lambda leaf: leaf[: config.curve_examples], leaf) for name, leaf in examples.items()}
    together = min(SAMPLES_AT_ONCE, config.num_samples)
    function = lambda source: lambda chunk: log_weights(model, params, chunk, source, config.num_samples, together)
    size = max(1, config.chunk_rows // together)
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
