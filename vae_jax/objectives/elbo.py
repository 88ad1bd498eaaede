"""The evidence lower bound, as a function of distributions.

    log p(x) >= ELBO(x) = E_q(z|x)[ log p(x|z) ] - KL( q(z|x) || p(z) )
                        = E_q(z|x)[ log p(x|z) + log p(z) - log q(z|x) ]           Kingma and Welling (2014), eq. 3
    log p(x) >= E[ log 1/K sum_k w_k ],  w_k = p(x|z_k) p(z_k) / q(z_k|x)          Burda et al. (2016), eq. 8

x data `[B, ...]`, z latent `[K, B, Z]`, q = q(z|x), prior = p(z), decode(z) = p(x|z): B examples, K samples of each z.
Everything is in nats, per example, and bounds go up: a loss is minus one of these.

There are no parameters here. `q`, `decode` and `prior` close over whatever the caller differentiates, so one function
serves an encoder network, a table of variational parameters or somebody else's library. A distribution is anything with
NumPyro's `sample(key, sample_shape)` and `log_prob(value)`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vae_jax.distributions.basic import StandardNormal, closed_form_kl


class Elbo(NamedTuple):
    """The bound and what it is made of, in nats.

    With K samples `elbo = log_likelihood - kl`. When `kl` is a closed form, `elbo` differs from `log_weights.mean(0)`
    by the sampling noise of the KL, which the closed form does not have.
    """

    elbo: jax.Array  # [B] the bound, whatever is being optimized
    log_likelihood: jax.Array  # [B] E_q log p(x|z), minus the distortion
    kl: jax.Array  # [B] KL(q(z|x) || p(z)), the rate
    log_weights: jax.Array  # [K, B] log p(x|z) + log p(z) - log q(z|x)
    log_q: jax.Array  # [K, B]
    log_prior: jax.Array  # [K, B]
    log_lik: jax.Array  # [K, B]
    z: jax.Array  # [K, B, ...], or a pytree of such


def elbo_fn(key, x, q, decode, prior=None, num_samples=1, *, kl="auto"):
    """ELBO(x) = E_q log p(x|z) - KL(q || p) from `num_samples` draws. Kingma and Welling (2014), eq. 3 and 10.

    key: one key, or for our own families one per example `[B]`; the key is consumed.
    x: `[B, ...]`. q: q(z|x) with batch shape `[B]`. decode: z -> p(x|z). prior: p(z); None is the standard normal.
    kl: 'auto' uses the closed form where the pair (q, prior) has one, 'monte_carlo' never does, a function
        `(q, prior) -> [B]` is called. Returns an `Elbo`, nats per example.
    Raises ValueError where a log_prob is not `[K, B]` or `kl` is none of these.
    """
    z, log_q = draw(key, q, num_samples)
    return score(x, z, log_q, decode, prior, resolve_kl(kl, q, prior, z))


def resolve_kl(kl, q, prior, z):
    """KL(q || prior) `[B]` as `elbo_fn`'s argument `kl` asks for it, or None where the draws are to estimate it."""
    if callable(kl):
        return kl(q, standard_normal_like(z) if prior is None else prior)
    if kl not in ("auto", "monte_carlo"):
        raise ValueError(f"kl = {kl!r}: expected 'auto', 'monte_carlo' or a function (q, prior) -> [B]")
    if kl == "monte_carlo":
        return None
    return closed_form_kl(q, standard_normal_like(z) if prior is None else prior)


def draw(key, q, num_samples, stop=None):
    """`num_samples` reparameterized draws and their own log density: (z `[K, B, ...]`, log_q `[K, B]`).

    stop='q' stops the gradient of q's parameters in log q while it still flows through z (sticking the landing, DReG:
    Roeder et al. 2017, eq. 8); stop='z' stops it in the sample instead, leaving the score d log q / d parameters.
    Raises ValueError for a q that keeps parameters where stopping cannot reach them. The key is consumed.
    """
    if stop is None:
        return _draw_with_log_prob(key, q, num_samples)
    if stop not in ("q", "z"):
        raise ValueError(f"stop = {stop!r}: expected None, 'q' or 'z'")
    z, _ = _draw_with_log_prob(key, q, num_samples)
    if stop == "z":
        z = jax.lax.stop_gradient(z)
        return z, q.log_prob(z)
    _refuse_hidden_parameters(q, z)
    return z, jax.lax.stop_gradient(q).log_prob(z)


def _draw_with_log_prob(key, q, num_samples):
    """Uses the log density that comes with the draw wherever q offers one: a flow need never be inverted."""
    if hasattr(q, "sample_and_log_prob"):  # ours
        return q.sample_and_log_prob(key, (num_samples,))
    if key.ndim > (0 if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else 1):
        key = key[0]  # a foreign q takes one key for the whole batch
    if hasattr(q, "sample_with_intermediates"):  # NumPyro's transformed distributions
        z, intermediates = q.sample_with_intermediates(key, (num_samples,))
        return z, q.log_prob(z, intermediates) if intermediates else q.log_prob(z)
    z = q.sample(key, (num_samples,))
    return z, q.log_prob(z)


def _refuse_hidden_parameters(q, z):
    """A parameter outside q's pytree leaves (a network in NumPyro's IAF) would keep its gradient without a word."""
    if jax.tree_util.all_leaves([q]):
        raise ValueError(f"cannot stop the gradient of {type(q).__name__}'s parameters: it is not a pytree")
    leaves, treedef = jax.tree.flatten(q)
    _, hidden = jax.closure_convert(lambda leaves, z: treedef.unflatten(leaves).log_prob(z), leaves, z)
    if hidden:
        raise ValueError(
            f"cannot stop the gradient of {type(q).__name__}'s parameters: {len(hidden)} of them are not leaves of its "
            "pytree. Use a family whose parameters are all leaves, or an objective that does not stop q."
        )


def score(x, z, log_q, decode, prior=None, kl=None):
    """The terms of the bound at given draws: z `[K, B, ...]` with log_q `[K, B]` -> Elbo, nats.

    kl: KL(q || p) `[B]` if it is known in closed form; None estimates it by `(log_q - log_prior).mean(0)`.
    z is looked into only if `prior` is None (the standard normal), so it may be any pytree.
    Raises ValueError where a log_prob is not `[K, B]`.
    """
    prior = standard_normal_like(z) if prior is None else prior
    batch = jnp.shape(jax.tree.leaves(x)[0])[:1]
    log_lik, log_prior = decode(z).log_prob(x), prior.log_prob(z)
    for name, value in (("q", log_q), ("prior", log_prior), ("decode(z)", log_lik)):
        _require_shape(name, value, (*jnp.shape(log_q)[:1], *batch))
    log_likelihood = log_lik.mean(0)
    kl = (log_q - log_prior).mean(0) if kl is None else kl
    if jnp.shape(kl) != batch:
        raise ValueError(f"kl has shape {jnp.shape(kl)}, expected one number per example, {batch}")
    return Elbo(log_likelihood - kl, log_likelihood, kl, log_lik + log_prior - log_q, log_q, log_prior, log_lik, z)


def standard_normal_like(z):
    """N(0, I) over the last axis of z `[K, B, Z]`."""
    return StandardNormal(jnp.shape(z)[-1:])


def _require_shape(name, log_prob, expected):
    # With Z == B == K a missing event dimension broadcasts into a wrong number without an error.
    if jnp.shape(log_prob) != expected:
        raise ValueError(
            f"{name}.log_prob has shape {jnp.shape(log_prob)}, expected [K, B] = {expected}: "
            "declare the event axes, in NumPyro with .to_event(n), in vae_jax.distributions with event_ndims"
        )


def importance_bound(log_weights):
    """L_K = log 1/K sum_k w_k, `[K, B]` -> `[B]`, nats; E L_K rises with K to log p(x). Burda et al. (2016), eq. 8."""
    return jax.nn.logsumexp(log_weights, axis=0) - jnp.log(log_weights.shape[0])
