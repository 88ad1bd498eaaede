"""Objectives made of importance weights log w_k = log p(x, z_k) - log q(z_k|x), `[K, B]`, and their gradients.

    IWAE      log 1/K sum_k w_k                                 Burda et al. (2016), eq. 8
    MIWAE     its mean over M groups of K                       Rainforth et al. (2018), eq. 8
    PIWAE     the decoder ascends IWAE, q ascends MIWAE         eq. 10
    CIWAE     alpha ELBO + (1 - alpha) IWAE                     eq. 9
    VR        1/(1-alpha) log 1/K sum_k w_k^(1-alpha)           Li and Turner (2016), eq. 6
    STL       the ELBO, its gradient through z alone            Roeder et al. (2017), eq. 8
    DReG      IWAE, q's gradient sum_k v_k^2 d log w_k / dz     Tucker et al. (2019), eq. 8;  v = w / sum w
    TVO       Riemann sum of the thermodynamic integral         Masrani et al. (2019), eq. 9 and 12

Each has `elbo_fn`'s arguments and returns (value `[B]`, Elbo), nats; keys are consumed. STL, DReG, PIWAE and TVO have
the value of their bound and the gradient of their estimator.
"""

import jax
import jax.numpy as jnp

from vae_jax.objectives.elbo import draw, elbo_fn, importance_bound, score


def effective_sample_size(log_weights, axis=0):
    """(sum w)^2 / sum w^2 of the weights along `axis`, between 1 and their number K. Kong, Liu and Wong (1994)."""
    total, squares = (jax.nn.logsumexp(power * log_weights, axis=axis) for power in (1, 2))
    return jnp.exp(2 * total - squares)


def iwae(key, x, q, decode, prior=None, num_samples=1, *, kl="auto"):
    """L_K = log 1/K sum_k w_k, tighter as K = num_samples grows."""
    terms = elbo_fn(key, x, q, decode, prior, num_samples, kl=kl)
    return importance_bound(terms.log_weights), terms


def miwae(key, x, q, decode, prior=None, num_samples=1, *, kl="auto", groups=1):
    """1/M sum_m log M/K sum_{k in group m} w_k with M = groups. Raises ValueError unless groups divide num_samples."""
    terms = elbo_fn(key, x, q, decode, prior, num_samples, kl=kl)
    return importance_bound(in_groups(terms.log_weights, groups)).mean(0), terms


def in_groups(log_weights, groups):
    """`[K, B]` -> `[K/M, M, B]`."""
    num_samples, batch = log_weights.shape
    if num_samples % groups:
        raise ValueError(f"{groups} groups do not divide {num_samples} samples")
    return log_weights.reshape(num_samples // groups, groups, batch)


def ciwae(key, x, q, decode, prior=None, num_samples=1, *, kl="auto", alpha=0.5):
    """alpha ELBO + (1 - alpha) IWAE."""
    terms = elbo_fn(key, x, q, decode, prior, num_samples, kl=kl)
    return alpha * terms.elbo + (1 - alpha) * importance_bound(terms.log_weights), terms


def vr(key, x, q, decode, prior=None, num_samples=1, *, kl="auto", alpha=0.5):
    """The Renyi bound of order alpha: 0 is IWAE, 1 the limit ELBO, above 1 below it."""
    terms = elbo_fn(key, x, q, decode, prior, num_samples, kl=kl)
    limit = jnp.abs(1 - alpha) < 1e-4
    power = jnp.where(limit, 1.0, 1 - alpha)
    bound = importance_bound(power * terms.log_weights) / power
    return jnp.where(limit, terms.log_weights.mean(0), bound), terms


def stl(key, x, q, decode, prior=None, num_samples=1, *, kl="auto"):
    """The ELBO with q's parameters stopped in log q: at q = p(z|x) the gradient has no noise. `kl` is not used."""
    z, log_q = draw(key, q, num_samples, stop="q")
    terms = score(x, z, log_q, decode, prior)
    return terms.log_weights.mean(0), terms


def dreg(key, x, q, decode, prior=None, num_samples=1, *, kl="auto"):
    """IWAE, doubly reparameterized: the decoder's gradient is IWAE's, q's is sum_k v_k^2 d log w_k / dz_k dz_k / dq.

    `kl` is not used.
    """
    z, log_q = draw(key, q, num_samples, stop="q")
    # evaluated twice, for the weights and with their gradient: the compiler finds the same numbers and keeps one
    weights = jax.lax.stop_gradient(jax.nn.softmax(score(x, z, log_q, decode, prior).log_weights, axis=0))
    z = jax.tree.map(lambda leaf: scale_gradient(leaf, weights), z)  # a second v_k beside that of the bound
    terms = score(x, z, jax.lax.stop_gradient(q).log_prob(z), decode, prior)
    return importance_bound(terms.log_weights), terms


@jax.custom_jvp
def scale_gradient(z, weights):
    """z `[K, B, ...]` itself; its gradient is multiplied by weights `[K, B]`."""
    return z


@scale_gradient.defjvp
def _scale_gradient_jvp(primals, tangents):
    z, weights = primals
    return z, weights.reshape(*weights.shape, *[1] * (z.ndim - 2)) * tangents[0]


def piwae(key, x, q, decode, prior=None, num_samples=1, *, kl="auto", groups=1):
    """IWAE's value, its gradient for decoder and prior, and MIWAE's for q. Raises ValueError as `miwae`."""
    terms = elbo_fn(key, x, q, decode, prior, num_samples, kl=kl)
    z, log_q = jax.lax.stop_gradient((terms.z, terms.log_q))
    fixed = score(x, z, log_q, decode, prior).log_weights  # depends on decoder and prior alone
    share = jax.nn.softmax(in_groups(fixed, groups), axis=0).reshape(fixed.shape) / groups
    of_q = (jax.lax.stop_gradient(share) * (terms.log_weights - fixed)).sum(0)  # zero, but its gradient is not
    return importance_bound(fixed) + of_q, terms


def tvo(key, x, q, decode, prior=None, num_samples=2, *, kl="auto", partitions=5, first=0.03):
    """sum_s (b_{s+1} - b_s) E_{b_s}[log w] <= log p(x),  E_b over q^(1-b) p(x, z)^b by weights w^b / sum w^b.

    b is 0, then `partitions` points evenly spaced in log b from `first` to 1; one partition is the ELBO. The gradient
    is theirs, E_b[d log w] + Cov_b(log w, d log q^(1-b) p^b), with no reparameterization; the covariance is divided
    by K - 1. `kl` is not used. Raises ValueError for a single sample.
    """
    if num_samples < 2:
        raise ValueError("the objective 'tvo' needs num_samples >= 2: its gradient is a covariance over them")
    z, log_q = draw(key, q, num_samples, stop="z")
    terms = score(x, z, log_q, decode, prior)
    later = first ** jnp.linspace(1, 0, partitions) if partitions > 1 else jnp.ones(1)
    edges = jnp.concatenate([jnp.zeros(1), later])
    parts = [expected_log_weight(terms, edges[s]) for s in range(partitions)]
    return sum((edges[s + 1] - edges[s]) * part for s, part in enumerate(parts)), terms


def expected_log_weight(terms, beta):
    """E_beta[log w] `[B]`, whose gradient is the covariance formula."""
    stop, num_samples = jax.lax.stop_gradient, len(terms.log_weights)
    weights = stop(jax.nn.softmax(beta * terms.log_weights, axis=0))
    value = (weights * terms.log_weights).sum(0)
    log_tempered = (1 - beta) * terms.log_q + beta * (terms.log_lik + terms.log_prior)
    centered = stop(weights * (terms.log_weights - value)) * num_samples / (num_samples - 1)
    covariance = (centered * log_tempered).sum(0)
    return value + covariance - stop(covariance)
