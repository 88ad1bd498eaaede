"""Whether importance weights can be trusted: the index k of a generalized Pareto distribution fitted to the largest.

    P(w - u > y | w > u) = (1 - b y)^(-1 / k),   b = -k / scale           heavier with k: moments of order < 1/k exist

k < 1/2 is a finite variance. Above 0.7 the estimate needs more draws than anybody takes, and the effective sample size,
which knows only the draws that were made, cannot tell. Vehtari, Simpson, Gelman, Yao and Gabry (2024).
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.evaluation.examples import summarize

FEWEST = 25  # draws: a tail of five
HIGH = 0.7


def pareto_k(log_weights: jax.Array) -> jax.Array:
    """The index of the tail of the weights, their min(K / 5, 3 sqrt(K)) largest.

    Args:
        log_weights: log w_k `[K, B]` with K >= FEWEST.

    Returns:
        k `[B]`, finite; 0 where the largest weights are equal.

    Source: Zhang and Stephens (2009), section 2, with the prior of Vehtari et al. (2024), appendix G.
    """
    count = math.ceil(min(0.2 * len(log_weights), 3 * math.sqrt(len(log_weights))))
    # without a barrier XLA sees that a slice is taken and sorts all K: 20 times slower on a CPU
    largest = jax.lax.optimization_barrier(jax.lax.top_k(log_weights.T, count + 1)[0])
    weights = jnp.exp(largest - largest[:, :1])
    return jax.vmap(fitted)(weights[:, :-1] - weights[:, -1:])


def fitted(x):
    """k of exceedances `[M]` in descending order, by the posterior mean of b over a grid of its quantiles."""
    count, candidates = len(x), 30 + int(math.sqrt(len(x)))
    equal = x[0] <= 0
    x = jnp.where(equal, 1.0, x)
    quartile = jnp.maximum(x[count - int(count / 4 + 0.5)], 1e-30)
    b = 1 / x[0] + (1 - jnp.sqrt(candidates / (jnp.arange(candidates) + 0.5))) / (3 * quartile)
    b = jnp.where(b == 0, 1e-6 / x[0], b)
    index = lambda b: jnp.log1p(-b * x).mean()
    k = jax.vmap(index)(b)
    log_likelihood = count * (jnp.log(-b / k) - k - 1)
    k = index((b * jax.nn.softmax(log_likelihood)).sum())
    return jnp.where(equal, 0.0, (count * k + 10 * 0.5) / (count + 10))


def numbers(k: Any, what: str = "") -> dict:
    """The mean k and the share of examples whose k is above HIGH, as a summary stores them.

    Args:
        k: `[N]`.
        what: ends their names.

    Returns:
        {name: {'value', 'stderr', 'unit'}}.
    """
    high = summarize(np.asarray(k) > HIGH, f"of examples, k > {HIGH}")
    return {f"pareto_k{what}": summarize(k, ""), f"pareto_k_high{what}": high}
