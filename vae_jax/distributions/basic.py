"""Densities, samplers and closed-form divergences for variational autoencoders.

Every number is in nats. Distributions follow the protocol of protocol.py.

Finite parameters give finite values and gradients for |mean|, |logit| <= 1e4 and |log_std| <= 20; beyond that a value
may reach +-inf, and none is ever NaN.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from vae_jax.distributions.protocol import Distribution, Shape, distribution, typed

LOG_2PI = math.log(2 * math.pi)


# exp overflows float32 just above 88 and falls out of the normal numbers, to 0 on a CPU, just below -87.
# Clipping inside keeps 0 * inf = NaN out of values and gradients.
MAX_LOG = 87.0


def flat_event(value: jax.Array, event_ndims: int) -> jax.Array:
    """The last `event_ndims` axes as one: `[..., *event]` -> `[..., D]`."""
    # XLA's CPU code for sums over several short axes, like those of an image, is five times slower than over one
    batch, event = value.shape[: value.ndim - event_ndims], value.shape[value.ndim - event_ndims :]
    return value.reshape(*batch, math.prod(event))  # -1 would be undetermined for an empty array


def sum_event(log_prob: jax.Array, event_ndims: int) -> jax.Array:
    """Sums the last `event_ndims` axes: `[..., *event]` -> `[...]`."""
    # a product with ones: XLA's CPU code hands a sum, and all that it sums, to a library by which fits of q took 1.3 to
    # 3.6 times as long
    flat = flat_event(log_prob, event_ndims)
    return jnp.matmul(flat, jnp.ones(flat.shape[-1], jnp.result_type(flat)), precision="highest")


def standard_normal(key: jax.Array, sample_shape: Shape, shape: Shape, antithetic: bool = False) -> jax.Array:
    """eps ~ N(0, 1). With a key for each example, its noise depends on that key alone, not on the batch around it.

    Args:
        key: one key, or one for each example, `[B]` with B = shape[0]. The key is consumed.
        sample_shape: how many draws.
        shape: of one draw.
        antithetic: the second half of sample_shape[0] draws is minus the first.

    Returns:
        eps `[*sample_shape, *shape]`.

    Raises:
        ValueError: the number of keys is not shape[0].
    """
    if antithetic:
        half = standard_normal(key, (-(-sample_shape[0] // 2), *sample_shape[1:]), shape)
        return jnp.concatenate([half, -half])[: sample_shape[0]]
    key = typed(key)
    if key.ndim == 0:
        return jax.random.normal(key, (*sample_shape, *shape))
    if key.shape != shape[:1]:
        raise ValueError(f"a key array needs one key per example: got {key.shape} keys for a batch of shape {shape}")
    one = lambda k: jax.random.normal(k, (*sample_shape, *shape[1:]))
    return jax.vmap(one, out_axes=len(sample_shape))(key)


def std_from_log(log_std: jax.Array) -> jax.Array:
    """sigma = exp(log_std), kept inside float32."""
    log_std = jnp.asarray(log_std, jnp.result_type(log_std, float))
    limit = log_std.dtype.type(MAX_LOG)
    # lax.clamp selects where jnp.clip multiplies: its gradient stays 0 outside, not 0 * inf
    return jnp.exp(jax.lax.clamp(-limit, log_std, limit))


def reparameterize(key: jax.Array, mean: jax.Array, log_std: jax.Array) -> jax.Array:
    """z = mean + exp(log_std) * eps with eps ~ N(0, 1) for each element; gradients flow to both parameters.

    Args:
        key: one key, or one for each example `[B]`. The key is consumed.
        mean: `[B, Z]`.
        log_std: `[B, Z]`, or a shape that broadcasts with mean.

    Returns:
        z `[B, Z]`.

    Source: Kingma and Welling (2014), section 2.4.
    """
    shape = jnp.broadcast_shapes(jnp.shape(mean), jnp.shape(log_std))
    return mean + std_from_log(log_std) * standard_normal(key, (), shape)


def kl_standard_normal(mean: jax.Array, log_std: jax.Array, event_ndims: int = 1) -> jax.Array:
    """KL(N(mean, sigma^2) || N(0, 1)) = sum_z (mean^2 + sigma^2 - 1)/2 - log sigma, with sigma = exp(log_std).

    `expm1` keeps the digits that sigma^2 - 1 loses where sigma is near 1.

    Args:
        mean: `[..., Z]`.
        log_std: `[..., Z]`.
        event_ndims: how many of the last axes are summed.

    Returns:
        KL `[...]` in nats.

    Source: Kingma and Welling (2014), appendix B.
    """
    log_std = jnp.minimum(log_std, MAX_LOG / 2)  # in both terms, or the KL of a huge sigma would be negative
    return sum_event(0.5 * (mean**2 + jnp.expm1(2 * log_std)) - log_std, event_ndims)


def normal_log_prob(mean: jax.Array, log_std: jax.Array, x: jax.Array, event_ndims: int = 1) -> jax.Array:
    """log N(x; mean, sigma^2) = sum_d -(x - mean)^2 / (2 sigma^2) - log sigma - log(2 pi)/2.

    Args:
        mean: `[..., D]`.
        log_std: log sigma, `[..., D]`.
        x: `[..., D]`; the three broadcast.
        event_ndims: how many of the last axes are summed.

    Returns:
        Log densities `[...]` in nats.
    """
    mean, log_std, x = [flat_event(a, event_ndims) for a in jnp.broadcast_arrays(mean, log_std, x)]
    residual = (x - mean) * std_from_log(-log_std)
    return (-0.5 * residual**2 - log_std - 0.5 * LOG_2PI).sum(-1)


def bernoulli_log_prob(logits: jax.Array, x: jax.Array, event_ndims: int = 1) -> jax.Array:
    """log p(x) = sum_d x_d l_d - softplus(l_d) for logits l. Value and gradient are finite at any finite logit.

    Args:
        logits: `[..., D]`.
        x: `[..., D]` in [0, 1]; for grey values the result is minus a cross-entropy, not a normalized density.
            Integers other than 0 and 1 have probability 0.
        event_ndims: how many of the last axes are summed.

    Returns:
        Log probabilities `[...]` in nats.

    Raises:
        ValueError: x leaves [0, 1] where its values are known, which those of an argument of `jax.jit` are not.
    """
    _require_unit_interval(x)
    dtype = jnp.result_type(logits, float)  # not an integer, where a grey x would be cut to 0
    logits, value = [flat_event(jnp.asarray(a, dtype), event_ndims) for a in jnp.broadcast_arrays(logits, x)]
    log_prob = _bernoulli_log_prob(logits, value)
    if not jnp.issubdtype(jnp.result_type(x), jnp.integer):
        return log_prob
    return jnp.where((value == value.astype(bool)).all(-1), log_prob, -jnp.inf)


def _require_unit_interval(x):
    with jax.ensure_compile_time_eval():  # inside a trace, too, where x is a constant; by 1e-3 an image may be rounded
        if not isinstance(x, Tracer) and (jnp.min(x, initial=0) < -1e-3 or jnp.max(x, initial=1) > 1.001):
            found = f"{jnp.min(x)} to {jnp.max(x)}"
            raise ValueError(f"a Bernoulli needs values in [0, 1], not {found}: divide bytes by 255, or binarize")


@jax.custom_jvp
def _bernoulli_log_prob(logits, x):
    return (x * logits - jnp.maximum(logits, 0)).sum(-1) - sum_log1p(jnp.exp(-jnp.abs(logits)))


FACTORS = 16  # in (1, 2], of one product; XLA's CPU code takes more than 32 at a time in windows, one by one


def sum_log1p(e: jax.Array) -> jax.Array:
    """sum_d log(1 + e_d) over the last axis, e in [0, 1]. On a long axis: one logarithm for each product of FACTORS.

    The factors of a product lie far apart in memory, so that a processor computes many products at once. A product
    rounds by 1e-7 a factor, as a sum of as many float32 terms does; a short axis is summed term by term.
    """
    size = e.shape[-1]
    if size < 4 * FACTORS:
        return jnp.log1p(e).sum(-1)
    e = jnp.pad(e, [(0, 0)] * (e.ndim - 1) + [(0, -size % FACTORS)])
    return jnp.log((1 + e.reshape(*e.shape[:-1], FACTORS, -1)).prod(-2)).sum(-1)


@_bernoulli_log_prob.defjvp
def _bernoulli_log_prob_jvp(primals, tangents):
    logits, x = primals
    d_logits, d_x = tangents
    tangent = ((x - jax.nn.sigmoid(logits)) * d_logits + logits * d_x).sum(-1)
    return _bernoulli_log_prob(logits, x), tangent


@distribution(static=("event_shape",))
class StandardNormal:
    """N(0, I).

    Attributes:
        event_shape: (Z,).
    """

    event_shape: Shape

    @property
    def mean(self) -> jax.Array:
        """0, `[Z]`."""
        return jnp.zeros(self.event_shape)

    def sample(self, key: jax.Array, sample_shape: Shape = ()) -> jax.Array:
        """Draws `[*sample_shape, Z]`. The key is consumed."""
        return jax.random.normal(key, (*sample_shape, *self.event_shape))

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log densities in nats, `[..., Z]` -> `[...]`."""
        return sum_event(-0.5 * (value**2 + LOG_2PI), len(self.event_shape))


@distribution("mean", "log_std", static=("event_ndims",))
class Normal:
    """Independent Gaussians N(mean, sigma^2) with sigma = exp(log_std).

    Attributes:
        mean: `[..., Z]`.
        log_std: `[..., Z]`, or a shape that broadcasts with mean.
        event_ndims: how many of the last axes are one event.
    """

    mean: jax.Array
    log_std: jax.Array
    event_ndims: int = 1

    def sample(self, key: jax.Array, sample_shape: Shape = ()) -> jax.Array:
        """Draws `[*sample_shape, ..., Z]` by one key or a key for each example. The key is consumed."""
        return self.sample_and_log_prob(key, sample_shape)[0]

    def sample_and_log_prob(
        self, key: jax.Array, sample_shape: Shape = (), antithetic: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Draws and their log densities, computed from the noise of the draw. The key is consumed."""
        log_std = jnp.broadcast_to(self.log_std, jnp.shape(self.mean))
        eps = standard_normal(key, sample_shape, self.mean.shape, antithetic)
        log_prob = sum_event(-0.5 * (eps**2 + LOG_2PI) - log_std, self.event_ndims)
        return self.mean + std_from_log(log_std) * eps, log_prob

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log densities in nats, `[..., Z]` -> `[...]`."""
        return normal_log_prob(self.mean, self.log_std, value, self.event_ndims)


@distribution("logits", static=("event_ndims",), has_rsample=False, event="logits")
class Bernoulli:
    """Independent values in {0, 1} with log odds `logits`.

    Attributes:
        logits: `[..., D]`.
        event_ndims: how many of the last axes are one event.
    """

    logits: jax.Array
    event_ndims: int = 1

    @property
    def mean(self) -> jax.Array:
        """P(1), `[..., D]`."""
        return jax.nn.sigmoid(self.logits)

    def sample(self, key: jax.Array, sample_shape: Shape = ()) -> jax.Array:
        """Draws `[*sample_shape, ..., D]`. The key is consumed."""
        return jax.random.bernoulli(key, self.mean, (*sample_shape, *self.logits.shape)).astype(self.logits.dtype)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log probabilities in nats, `[..., D]` -> `[...]`; of grey values as `bernoulli_log_prob` says."""
        return bernoulli_log_prob(self.logits, value, self.event_ndims)


def kl_normal_normal(q: Normal, p: Normal) -> jax.Array:
    """KL(q || p) of two diagonal Gaussians, summed over the event, nats; p broadcasts over q's batch."""
    difference = (q.mean - p.mean) * std_from_log(-p.log_std)
    return kl_standard_normal(difference, q.log_std - p.log_std, q.event_ndims)


# (type of q, type of the prior) -> KL(q || prior) [B], nats
CLOSED_FORM_KL: dict[tuple[type, type], Callable[[Any, Any], jax.Array]] = {
    (Normal, StandardNormal): lambda q, p: kl_standard_normal(q.mean, q.log_std, q.event_ndims),
    (Normal, Normal): kl_normal_normal,
}


def closed_form_kl(q: Distribution, prior: Distribution) -> jax.Array | None:
    """KL(q || prior) where `CLOSED_FORM_KL` has a formula for this pair of families.

    Args:
        q: q(z|x) with batch shape `[B]`.
        prior: p(z).

    Returns:
        KL `[B]` in nats, or None for a pair without a formula.
    """
    formula = CLOSED_FORM_KL.get((type(q), type(prior)))
    return None if formula is None else formula(q, prior)


def kl_of_dimensions(q: Distribution, prior: Distribution) -> jax.Array | None:
    """KL(q_j || p_j) of each dimension j, for a diagonal Gaussian q and a diagonal or standard Gaussian prior.

    Args:
        q: q(z|x) with batch shape `[B]`.
        prior: p(z).

    Returns:
        KL `[B, Z]` in nats, or None where q or the prior is of another family.
    """
    if not isinstance(q, Normal) or not isinstance(prior, StandardNormal | Normal):
        return None
    return closed_form_kl(*jax.tree.map(lambda leaf: leaf[..., None], (q, prior)))
