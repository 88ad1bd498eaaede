"""Densities, samplers and closed-form divergences for variational autoencoders.

Every number is in nats. A distribution speaks NumPyro's protocol, so either library's fits wherever one is wanted:

    sample(key, sample_shape=()) -> value [*sample_shape, *batch, *event]
    log_prob(value)              -> [*sample_shape, *batch]

Those of ours that serve as q add `sample_and_log_prob(key, sample_shape)`, whose log density comes from the draw
itself, and accept one key per example (a key array `[B]`) where NumPyro takes a single key. All are pytrees whose
parameters are leaves: `jax.lax.stop_gradient`, `jax.vmap` and `jax.tree.map` mean on a distribution what they mean on
its parameters.

Finite parameters give finite values and gradients for |mean|, |logit| <= 1e4 and |log_std| <= 20; beyond that a value
may reach +-inf, and none is ever NaN.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

LOG_2PI = math.log(2 * math.pi)

# exp overflows float32 just above 88 and falls out of the normal numbers, to 0 on a CPU, just below -87.
# Clipping inside keeps 0 * inf = NaN out of values and gradients.
MAX_LOG = 87.0


def flat_event(value, event_ndims):
    """The last `event_ndims` axes as one: `[..., *event]` -> `[..., D]`."""
    # XLA's CPU code for sums over several short axes, like those of an image, is five times slower than over one
    batch, event = value.shape[: value.ndim - event_ndims], value.shape[value.ndim - event_ndims :]
    return value.reshape(*batch, math.prod(event))  # not -1, which no z, or no example, leaves undetermined


def sum_event(log_prob, event_ndims):
    """Sums the last `event_ndims` axes: `[..., *event]` -> `[...]`."""
    return flat_event(log_prob, event_ndims).sum(-1)


def typed(key):
    """A key, or an array of them, of the new style; `jax.random.PRNGKey` makes the old one."""
    return key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)


def standard_normal(key, sample_shape, shape):
    """eps ~ N(0, 1), `[*sample_shape, *shape]`, from one key, or from a key array `[B]` with B = shape[0].

    With a key per row a row's noise depends on its own key alone, whatever the batch around it. The key is consumed.
    """
    key = typed(key)
    if key.ndim == 0:
        return jax.random.normal(key, (*sample_shape, *shape))
    if key.shape != shape[:1]:
        raise ValueError(f"a key array needs one key per example: got {key.shape} keys for a batch of shape {shape}")
    one = lambda k: jax.random.normal(k, (*sample_shape, *shape[1:]))
    return jax.vmap(one, out_axes=len(sample_shape))(key)


def std_from_log(log_std):
    """sigma = exp(log_std), kept inside float32."""
    log_std = jnp.asarray(log_std, jnp.result_type(log_std, float))
    limit = log_std.dtype.type(MAX_LOG)
    # lax.clamp selects where jnp.clip multiplies: its gradient stays 0 outside, not 0 * inf
    return jnp.exp(jax.lax.clamp(-limit, log_std, limit))


def reparameterize(key, mean, log_std):
    """z = mean + exp(log_std) * eps with eps ~ N(0, 1) for each element; gradients flow to both parameters.

    Kingma and Welling (2014), section 2.4. `key` may be one key or one per row of z. The key is consumed.
    """
    shape = jnp.broadcast_shapes(jnp.shape(mean), jnp.shape(log_std))
    return mean + std_from_log(log_std) * standard_normal(key, (), shape)


def kl_standard_normal(mean, log_std, event_ndims=1):
    """KL(N(mean, exp(log_std)^2) || N(0, 1)) = sum_z (mean^2 + sigma^2 - 1)/2 - log_std; `[..., Z]` -> `[...]`, nats.

    Kingma and Welling (2014), appendix B. `expm1` keeps the digits that sigma^2 - 1 loses where sigma is near 1.
    """
    log_std = jnp.minimum(log_std, MAX_LOG / 2)  # in both terms, or the KL of a huge sigma would be negative
    return sum_event(0.5 * (mean**2 + jnp.expm1(2 * log_std)) - log_std, event_ndims)


def normal_log_prob(mean, log_std, x, event_ndims=1):
    """log N(x; mean, sigma^2) = sum -(x - mean)^2 / (2 sigma^2) - log sigma - log(2 pi)/2, `[..., D]` -> `[...]`."""
    mean, log_std, x = [flat_event(a, event_ndims) for a in jnp.broadcast_arrays(mean, log_std, x)]
    residual = (x - mean) * std_from_log(-log_std)
    return (-0.5 * residual**2 - log_std - 0.5 * LOG_2PI).sum(-1)


def bernoulli_log_prob(logits, x, event_ndims=1):
    """log p(x) = sum_d x_d l_d - softplus(l_d) for logits l; `[..., D]` -> `[...]`, nats; x in [0, 1] may be grey.

    Finite in value and gradient at any finite logit. For a grey x this is the cross-entropy, not a normalized density.
    """
    dtype = jnp.result_type(logits, float)  # not an integer, where a grey x would be cut to 0
    logits, x = jnp.broadcast_arrays(jnp.asarray(logits, dtype), jnp.asarray(x, dtype))
    return _bernoulli_log_prob(flat_event(logits, event_ndims), flat_event(x, event_ndims))


@jax.custom_jvp
def _bernoulli_log_prob(logits, x):
    return (x * logits - jnp.maximum(logits, 0)).sum(-1) - sum_log1p(jnp.exp(-jnp.abs(logits)))


FACTORS = 16  # in (1, 2], of one product; XLA's CPU code takes more than 32 at a time in windows, one by one


def sum_log1p(e):
    """sum_d log(1 + e_d) over the last axis, e in [0, 1]; of a long one, log of products: a logarithm for many factors.

    The products are of numbers far apart, so that a processor makes many side by side. Their rounding, 1e-7 a factor,
    is what a sum of so many float32 terms has too; a short axis, where it could be all there is, is summed as it is.
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


def distribution(*data, static=()):
    """Class decorator: a frozen dataclass that is a pytree with the fields `data` as leaves."""

    def register(cls):
        cls = dataclasses.dataclass(frozen=True)(cls)
        return jax.tree_util.register_dataclass(cls, data_fields=data, meta_fields=static)

    return register


@distribution(static=("shape",))
class StandardNormal:
    """N(0, I) over events of shape `shape`."""

    shape: tuple

    def sample(self, key, sample_shape=()):
        return jax.random.normal(key, (*sample_shape, *self.shape))

    def log_prob(self, value):
        return sum_event(-0.5 * (value**2 + LOG_2PI), len(self.shape))


@distribution("mean", "log_std", static=("event_ndims",))
class Normal:
    """Independent Gaussians N(mean, exp(log_std)^2); the last `event_ndims` axes are one event."""

    mean: jax.Array
    log_std: jax.Array
    event_ndims: int = 1

    def sample(self, key, sample_shape=()):
        return self.sample_and_log_prob(key, sample_shape)[0]

    def sample_and_log_prob(self, key, sample_shape=()):
        """A draw and its log density, taken from the noise that made it. The key is consumed."""
        log_std = jnp.broadcast_to(self.log_std, jnp.shape(self.mean))
        eps = standard_normal(key, sample_shape, self.mean.shape)
        log_prob = sum_event(-0.5 * (eps**2 + LOG_2PI) - log_std, self.event_ndims)
        return self.mean + std_from_log(log_std) * eps, log_prob

    def log_prob(self, value):
        return normal_log_prob(self.mean, self.log_std, value, self.event_ndims)


@distribution("logits", static=("event_ndims",))
class Bernoulli:
    """Independent coin flips with log odds `logits`; the last `event_ndims` axes are one event."""

    logits: jax.Array
    event_ndims: int = 1

    @property
    def mean(self):
        return jax.nn.sigmoid(self.logits)

    def sample(self, key, sample_shape=()):
        return jax.random.bernoulli(key, self.mean, (*sample_shape, *self.logits.shape)).astype(self.logits.dtype)

    def log_prob(self, value):
        return bernoulli_log_prob(self.logits, value, self.event_ndims)


def kl_normal_normal(q, p):
    """KL(q || p) of two diagonal Gaussians, summed over the event, nats; broadcasts p over q's batch."""
    difference = (q.mean - p.mean) * std_from_log(-p.log_std)
    return kl_standard_normal(difference, q.log_std - p.log_std, q.event_ndims)


CLOSED_FORM_KL = {
    (Normal, StandardNormal): lambda q, p: kl_standard_normal(q.mean, q.log_std, q.event_ndims),
    (Normal, Normal): kl_normal_normal,
}


def closed_form_kl(q, prior):
    """KL(q || prior) `[B]` in nats where this pair of families has a formula (CLOSED_FORM_KL), otherwise None."""
    formula = CLOSED_FORM_KL.get((type(q), type(prior)))
    return None if formula is None else formula(q, prior)


def kl_of_dimensions(q, prior):
    """KL(q_j || p_j) of each dimension `[B, Z]` in nats where both are diagonal Gaussians, otherwise None."""
    if not isinstance(q, Normal) or not isinstance(prior, StandardNormal | Normal):
        return None
    return closed_form_kl(*jax.tree.map(lambda leaf: leaf[..., None], (q, prior)))
