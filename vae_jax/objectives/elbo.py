"""The evidence lower bound, as a function of distributions.

    log p(x) >= ELBO(x) = E_q(z|x)[ log p(x|z) ] - KL( q(z|x) || p(z) )
                        = E_q(z|x)[ log p(x|z) + log p(z) - log q(z|x) ]           Kingma and Welling (2014), eq. 3
    log p(x) >= E[ log 1/K sum_k w_k ],  w_k = p(x|z_k) p(z_k) / q(z_k|x)          Burda et al. (2016), eq. 8

x data `[B, ...]`, z latent `[K, B, Z]`, q = q(z|x), prior = p(z), decode(z) = p(x|z): B examples, K samples of each z.
Everything is in nats, per example, and bounds go up: a loss is minus one of these.

There are no parameters here. `q`, `decode` and `prior` close over whatever the caller differentiates, so one function
serves an encoder network, a table of variational parameters or somebody else's library. A distribution is anything with
NumPyro's `sample(key, sample_shape)` and `log_prob(value)`; as q, Distrax's are understood too. What would broadcast
into a wrong number, or lose a part of its gradient, is refused.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from vae_jax.distributions.basic import StandardNormal, closed_form_kl
from vae_jax.distributions.protocol import Distribution, density_anywhere, distribution, refuse_gradient, typed

Decode = Callable[[Any], Distribution]  # z -> p(x|z)
KL = str | Callable[[Distribution, Distribution], jax.Array]  # 'auto', 'monte_carlo' or (q, prior) -> [B]


class Elbo(NamedTuple):
    """The bound and its terms in nats: elbo = log_likelihood - kl.

    When `kl` is a closed form, `elbo` differs from `log_weights.mean(0)` by the sampling noise of the KL, which the
    closed form does not have. Of an autoencoder, whose q has no density, all but log_likelihood, log_lik and z is None.
    """

    elbo: jax.Array  # [B] the bound, whatever is being optimized
    log_likelihood: jax.Array  # [B] E_q log p(x|z), minus the distortion
    kl: jax.Array  # [B] KL(q(z|x) || p(z)), the rate
    log_weights: jax.Array  # [K, B] log p(x|z) + log p(z) - log q(z|x)
    log_q: jax.Array  # [K, B]
    log_prior: jax.Array  # [K, B]
    log_lik: jax.Array  # [K, B]
    z: Any  # [K, B, ...], an array or a pytree of arrays


def elbo_fn(
    key: jax.Array,
    x: jax.Array,
    q: Distribution,
    decode: Decode,
    prior: Distribution | None = None,
    num_samples: int = 1,
    *,
    kl: KL = "auto",
) -> Elbo:
    """ELBO(x) = E_q log p(x|z) - KL(q || p), estimated from K = num_samples draws of z.

    Args:
        key: one key, or for a q of this package one for each example `[B]`. The key is consumed.
        x: data `[B, ...]`.
        q: q(z|x) with batch shape `[B]`.
        decode: z `[K, B, ...]` -> p(x|z) with batch shape `[K, B]`.
        prior: p(z); None is the standard normal over the last axis of z.
        num_samples: K.
        kl: 'auto' uses the closed form where the pair (q, prior) has one, 'monte_carlo' never does, a function
            `(q, prior) -> [B]` is called.

    Returns:
        The bound and its terms, nats per example.

    Raises:
        ValueError: a log_prob is not `[K, B]`, an event would broadcast, K < 1, or `kl` is none of these; when it is
            differentiated, a q whose draws carry only a part of the gradient, a discrete one for example.
        TypeError: something without a log_prob in place of a distribution, or a seed in place of a key.

    Source: Kingma and Welling (2014), eq. 3 and 10.
    """
    z, log_q = draw(key, q, num_samples)
    return score(x, z, log_q, decode, prior, resolve_kl(kl, q, prior, z))


def resolve_kl(kl: KL, q, prior, z) -> jax.Array | None:
    """KL(q || prior) `[B]` as `elbo_fn`'s argument `kl` asks for it, or None where the draws are to estimate it."""
    if kl == "monte_carlo":
        return None
    formula = closed_form_kl if kl == "auto" else kl
    if isinstance(formula, str) or not callable(formula):
        raise ValueError(f"kl = {kl!r}: expected 'auto', 'monte_carlo' or a function (q, prior) -> [B]")
    return formula(q, standard_normal_like(z) if prior is None else prior)


def draw(
    key: jax.Array, q: Distribution, num_samples: int, stop: str | None = None, antithetic: bool = False
) -> tuple[Any, jax.Array]:
    """K = num_samples draws z ~ q and log q(z), with the gradient that an estimator needs.

    Args:
        key: one key, or for a q of this package one for each example `[B]`. The key is consumed.
        q: q(z|x) with batch shape `[B]`.
        num_samples: K.
        stop: None: gradients flow through z and through q's parameters in log q. 'q': through z alone (sticking the
            landing, DReG). 'z': through the parameters alone, the score d log q / d parameters (TVO).
        antithetic: where q can, draws in pairs from eps and -eps: the gradient by a mean has less noise.

    Returns:
        z `[K, B, ...]`, an array or a pytree of arrays, and log_q `[K, B]` in nats.

    Raises:
        ValueError: another `stop`, K < 1, or stop='q' for a q with parameters that are not leaves of its pytree; when
            it is differentiated, without stop='z', a q whose `has_rsample` is False or whose draws are integers.
        TypeError: a seed in place of a key.

    Source: Roeder et al. (2017), eq. 8.
    """
    if stop not in (None, "q", "z"):
        raise ValueError(f"stop = {stop!r}: expected None, 'q' or 'z'")
    if num_samples < 1:
        raise ValueError(f"num_samples = {num_samples}: expected K >= 1 draws of z")
    if stop == "z":
        fixed = q if jax.tree_util.all_leaves([q]) else jax.lax.stop_gradient(q)  # its draws may refuse a gradient
        z = jax.lax.stop_gradient(_draw_with_log_prob(typed(key), fixed, num_samples, antithetic)[0])
        return z, q.log_prob(z)
    z, log_q = _refuse_partial_gradient(q, *_draw_with_log_prob(typed(key), q, num_samples, antithetic))
    if stop is None:
        return z, log_q
    _refuse_hidden_parameters(q, z)
    return z, jax.lax.stop_gradient(q).log_prob(z)


@distribution("q", static=("stopped",))
class Paired:
    """q as its own parameters see it when they climb, with less noise: draws in pairs from eps and -eps.

    If `stopped`, its parameters are stopped in log q: the gradient of E_q[log w] stays what it was, and where q is
    p(z|x) it has no noise at all. Sticking the landing, Roeder et al. (2017). Not to be differentiated twice, and a
    flow whose density is known at its own draws only goes without.
    """

    q: Any
    stopped: bool = True

    def sample_and_log_prob(self, key, sample_shape):
        stop = "q" if self.stopped and density_anywhere(self.q) else None
        return draw(key, self.q, sample_shape[0], stop, antithetic=True)


def _draw_with_log_prob(key, q: Any, num_samples, antithetic):
    """Uses the log density that comes with the draw wherever q offers one: a flow need never be inverted."""
    one_key = key[0] if key.ndim else key  # a foreign q takes one for the whole batch
    if hasattr(q, "sample_and_log_prob"):
        arguments = inspect.signature(q.sample_and_log_prob).parameters
        if "seed" in arguments:  # Distrax's
            return q.sample_and_log_prob(seed=one_key, sample_shape=(num_samples,))
        return q.sample_and_log_prob(key, (num_samples,), *([antithetic] if "antithetic" in arguments else []))  # ours
    if hasattr(q, "sample_with_intermediates"):  # NumPyro's transformed distributions
        z, intermediates = q.sample_with_intermediates(one_key, (num_samples,))
        return z, q.log_prob(z, intermediates) if intermediates else q.log_prob(z)
    z = q.sample(one_key, (num_samples,))
    return z, q.log_prob(z)


def _refuse_partial_gradient(q, z, log_q):
    """(z, log_q), to be measured but not differentiated with respect to q where draws of q carry no whole gradient."""
    if getattr(q, "has_rsample", True) and all(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(z)):
        return z, log_q
    while hasattr(q, "base_dist"):  # NumPyro's wrappers
        q = q.base_dist
    return refuse_gradient((z, log_q), type(q).__name__)


def _refuse_hidden_parameters(q, z):
    """A parameter that is no leaf of q's pytree (a network in NumPyro's IAF) would keep its gradient silently."""
    if jax.tree_util.all_leaves([q]):
        raise ValueError(f"cannot stop the gradient of {type(q).__name__}'s parameters: it is not a pytree")
    leaves, treedef = jax.tree.flatten(q)
    _, hidden = jax.closure_convert(lambda leaves, z: treedef.unflatten(leaves).log_prob(z), leaves, z)
    if hidden:
        raise ValueError(
            f"cannot stop the gradient of {type(q).__name__}'s parameters: {len(hidden)} of them are not leaves of its "
            "pytree. Use a family whose parameters are all leaves, or an objective that does not stop q."
        )


def score(
    x: jax.Array,
    z: Any,
    log_q: jax.Array,
    decode: Decode,
    prior: Distribution | None = None,
    kl: jax.Array | None = None,
) -> Elbo:
    """The terms of the bound at given draws: log w_k = log p(x|z_k) + log p(z_k) - log q(z_k|x).

    Args:
        x: data `[B, ...]`.
        z: draws `[K, B, ...]`; with a prior given, any pytree, since only `decode` and `prior` look inside.
        log_q: log q(z|x) of the draws, `[K, B]` in nats.
        decode: z -> p(x|z) with batch shape `[K, B]`.
        prior: p(z); None is the standard normal over the last axis of z.
        kl: KL(q || p) `[B]` in nats where a formula gives it; None estimates it by `(log_q - log_prior).mean(0)`.

    Returns:
        The bound and its terms, nats per example.

    Raises:
        ValueError: a log_prob is not `[K, B]`, an event would broadcast, or `kl` is not `[B]`.
        TypeError: `prior` or `decode(z)` has no log_prob.
    """
    prior = standard_normal_like(z) if prior is None else prior
    batch = jnp.shape(jax.tree.leaves(x)[0])[:1]
    shape = (*jnp.shape(log_q)[:1], *batch)
    _require_shape("q", log_q, shape)
    log_prior = checked_log_prob("prior", prior, z, shape, 2)
    log_lik = checked_log_prob("decode(z)", decode(z), x, shape, 1)
    log_likelihood = log_lik.mean(0)
    kl = (log_q - log_prior).mean(0) if kl is None else kl
    if jnp.shape(kl) != batch:
        raise ValueError(f"kl has shape {jnp.shape(kl)}, expected one number per example, {batch}")
    return Elbo(log_likelihood - kl, log_likelihood, kl, log_lik + log_prior - log_q, log_q, log_prior, log_lik, z)


def standard_normal_like(z):
    """N(0, I) over the last axis of z `[K, B, Z]`."""
    if not jax.tree_util.all_leaves([z]):
        raise ValueError(f"z is a {type(z).__name__} of arrays and prior is None, N(0, I) of one array: give its prior")
    return StandardNormal(jnp.shape(z)[-1:])


def checked_log_prob(name, p, value, shape, batch_ndims):
    """p.log_prob(value), of shape `[K, B]`; `batch_ndims` axes of value are batch, the others must be p's event."""
    if not hasattr(p, "log_prob"):
        raise TypeError(f"{name} is a {type(p).__name__}, not a distribution (order: key, x, q, decode, prior)")
    log_prob = p.log_prob(value)
    _require_shape(name, log_prob, shape)
    if hasattr(p, "event_shape") and hasattr(value, "shape") and tuple(p.event_shape) != value.shape[batch_ndims:]:
        own, given = tuple(p.event_shape), value.shape[batch_ndims:]
        raise ValueError(f"{name} has event shape {own}, its value {given}: make them equal, one would broadcast")
    return log_prob


def _require_shape(name, log_prob, expected):
    # With Z == B == K a missing event dimension broadcasts into a wrong number without an error.
    if jnp.shape(log_prob) != expected:
        raise ValueError(
            f"{name}.log_prob has shape {jnp.shape(log_prob)}, expected [K, B] = {expected}: "
            "declare the event axes, in NumPyro with .to_event(n), in vae_jax.distributions with event_ndims"
        )


def importance_bound(log_weights: jax.Array) -> jax.Array:
    """L_K = log 1/K sum_k w_k, whose expectation rises with K to log p(x).

    Args:
        log_weights: log w, `[K, B]` in nats.

    Returns:
        L_K `[B]` in nats.

    Source: Burda et al. (2016), eq. 8.
    """
    return jax.nn.logsumexp(log_weights, axis=0) - jnp.log(log_weights.shape[0])


class ObjectiveFunction(Protocol):
    """What is optimized: `elbo_fn`'s arguments, and weights of its own, -> (value `[B]` to ascend, `Elbo`), in nats."""

    def __call__(
        self,
        key: jax.Array,
        x: jax.Array,
        q: Distribution,
        decode: Decode,
        prior: Distribution | None = None,
        num_samples: int = 1,
        *,
        kl: KL = "auto",
        **weights: Any,
    ) -> tuple[jax.Array, Elbo]:
        """The objective and the terms of the true bound."""
        ...


def objective(function: Callable[..., tuple[Any, Elbo]]) -> ObjectiveFunction:
    """Decorator of an objective: the types that it shares with `elbo_fn`, so that they are written once.

    Args:
        function: takes `elbo_fn`'s arguments and weights of its own.

    Returns:
        The function itself, with the annotations of `elbo_fn` beside its own.
    """
    coupling = {"num_examples": int | None, "gather": Callable[[Any], Any] | None}  # of a batch's examples
    taken = {name: coupling[name] for name in function.__kwdefaults__ or () if name in coupling}
    shared = elbo_fn.__annotations__ | taken | {"return": tuple[jax.Array, Elbo]}
    function.__annotations__ = shared | function.__annotations__
    return function
