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

from vae_jax.objectives.elbo import draw, elbo_fn, importance_bound, objective, score


def effective_sample_size(log_weights, axis=0):
    """(sum w)^2 / sum w^2 of the weights along `axis`, between 1 and their number K. Kong, Liu and Wong (1994)."""
    total, squares = (jax.nn.logsumexp(power * log_weights, axis=axis) for power in (1, 2))
    return jnp.exp(2 * total - squares)


@objective
def iwae(key, x, q, decode, prior=None, num_samples=1, *, kl="auto"):
    """IWAE: L_K = log 1/K sum_k w_k, tighter as K = num_samples grows.

    Args:
        key, x, q, decode, prior, num_samples, kl: as in `elbo_fn`. The key is consumed.

    Returns:
        The objective `[B]` and the terms of the bound, nats per example.

    Source: Burda et al. (2016), eq. 8.
    """
    terms = elbo_fn(key, x, q, decode, prior, num_samples, kl=kl)
    return importance_bound(terms.log_weights), terms


@objective
def miwae(key, x, q, decode, prior=None, num_samples=1, *, kl="auto", groups: int = 1):
    """MIWAE: 1/M sum_m log M/K sum_{k in group m} w_k with M = groups.

    Args:
        key, x, q, decode, prior, num_samples, kl: as in `elbo_fn`. The key is consumed.
        groups: M, which divides num_samples.

    Returns:
        The objective `[B]` and the terms of the bound, nats per example.

    Raises:
        ValueError: the groups do not divide the samples.

    Source: Rainforth et al. (2018), eq. 8.
    """
    terms = elbo_fn(key, x, q, decode, prior, num_samples, kl=kl)
    return importance_bound(in_groups(terms.log_weights, groups)).mean(0), terms


def in_groups(log_weights, groups):
    """`[K, B]` -> `[K/M, M, B]`."""
    num_samples, batch = log_weights.shape
    if num_samples % groups:
        raise ValueError(f"{groups} groups do not divide {num_samples} samples")
    return log_weights.reshape(num_samples // groups, groups, batch)


@objective
def ciwae(key, x, q, decode, prior=None, num_samples=1, *, kl="auto", alpha: float = 0.5):
    """CIWAE: alpha ELBO + (1 - alpha) L_K.

    Args:
        key, x, q, decode, prior, num_samples, kl: as in `elbo_fn`. The key is consumed.
        alpha: weight of the ELBO, in [0, 1].

    Returns:
        The objective `[B]` and the terms of the bound, nats per example.

    Source: Rainforth et al. (2018), eq. 9.
    """
    terms = elbo_fn(key, x, q, decode, prior, num_samples, kl=kl)
    return alpha * terms.elbo + (1 - alpha) * importance_bound(terms.log_weights), terms


@objective
def vr(key, x, q, decode, prior=None, num_samples=1, *, kl="auto", alpha: float = 0.5):
    """The variational Renyi bound 1/(1-alpha) log 1/K sum_k w_k^(1-alpha).

    Args:
        key, x, q, decode, prior, num_samples, kl: as in `elbo_fn`. The key is consumed.
        alpha: order of the divergence. 0 is IWAE, 1 (as a limit) the ELBO; above 1 the bound is below the ELBO.

    Returns:
        The objective `[B]` and the terms of the bound, nats per example.

    Source: Li and Turner (2016), eq. 6.
    """
    terms = elbo_fn(key, x, q, decode, prior, num_samples, kl=kl)
    limit = jnp.abs(1 - alpha) < 1e-4
    power = jnp.where(limit, 1.0, 1 - alpha)
    bound = importance_bound(power * terms.log_weights) / power
    return jnp.where(limit, terms.log_weights.mean(0), bound), terms


@objective
def stl(key, x, q, decode, prior=None, num_samples=1, *, kl="auto"):
    """Sticking the landing: the ELBO with q's parameters stopped in log q; at q = p(z|x) its gradient has no noise.

    Args:
        key, x, q, decode, prior, num_samples: as in `elbo_fn`. The key is consumed.
        kl: not used.

    Returns:
        The objective `[B]` and the terms of the bound, nats per example.

    Raises:
        ValueError: a q whose log density is known at its own draws only, or has parameters that cannot be stopped.

    Source: Roeder et al. (2017), eq. 8.
    """
    z, log_q = draw(key, q, num_samples, stop="q")
    terms = score(x, z, log_q, decode, prior)
    return terms.log_weights.mean(0), terms


@objective
def dreg(key, x, q, decode, prior=None, num_samples=1, *, kl="auto"):
    """DReG, doubly reparameterized IWAE: q's gradient is sum_k v_k^2 (d log w_k / dz_k) (dz_k / dq), v = w / sum w.

    Value and the gradient of decoder and prior are IWAE's.

    Args:
        key, x, q, decode, prior, num_samples: as in `elbo_fn`. The key is consumed.
        kl: not used.

    Returns:
        The objective `[B]` and the terms of the bound, nats per example.

    Raises:
        ValueError: a q whose log density is known at its own draws only, or has parameters that cannot be stopped.

    Source: Tucker et al. (2019), eq. 8.
    """
    z, log_q = draw(key, q, num_samples, stop="q")
    # written twice, without and with gradient; the compiler computes the values once
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


@objective
def piwae(key, x, q, decode, prior=None, num_samples=1, *, kl="auto", groups: int = 1):
    """PIWAE: the value and the gradient of decoder and prior are IWAE's, the gradient of q is MIWAE's.

    Args:
        key, x, q, decode, prior, num_samples, kl: as in `elbo_fn`. The key is consumed.
        groups: M of MIWAE, which divides num_samples.

    Returns:
        The objective `[B]` and the terms of the bound, nats per example.

    Raises:
        ValueError: the groups do not divide the samples.

    Source: Rainforth et al. (2018), eq. 10.
    """
    terms = elbo_fn(key, x, q, decode, prior, num_samples, kl=kl)
    z, log_q = jax.lax.stop_gradient((terms.z, terms.log_q))
    fixed = score(x, z, log_q, decode, prior).log_weights  # depends on decoder and prior alone
    share = jax.nn.softmax(in_groups(fixed, groups), axis=0).reshape(fixed.shape) / groups
    of_q = (jax.lax.stop_gradient(share) * (terms.log_weights - fixed)).sum(0)  # 0, with a gradient that is not 0
    return importance_bound(fixed) + of_q, terms


@objective
def tvo(key, x, q, decode, prior=None, num_samples=2, *, kl="auto", partitions: int = 5, first: float = 0.03):
    """TVO: sum_s (b_{s+1} - b_s) E_{b_s}[log w] <= log p(x),  E_b over q^(1-b) p(x, z)^b by weights w^b / sum w^b.

    The gradient is E_b[d log w] + Cov_b(log w, d log q^(1-b) p^b), with no reparameterization; the covariance is
    divided by K - 1.

    Args:
        key, x, q, decode, prior, num_samples: as in `elbo_fn`. The key is consumed.
        kl: not used.
        partitions: how many points b follow b = 0, evenly spaced in log b; with one the value is the ELBO.
        first: the smallest b above 0; the largest is 1.

    Returns:
        The objective `[B]` and the terms of the bound, nats per example.

    Raises:
        ValueError: a single sample, or a q whose log density is known at its own draws only.

    Source: Masrani et al. (2019), eq. 9 and 12.
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
