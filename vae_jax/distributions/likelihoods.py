"""Densities of images beside Bernoulli and Normal: for grey values in [0, 1], and for values on a grid of levels.

All follow protocol.py (`sample`, `mean`, `log_prob`; nats; pytrees) with parameters `[K, B, *event]` whose
last `event_ndims` axes are one event. A grid of L levels is 0, 1/(L-1), ..., 1; bytes have 256 levels. `log_prob` is
then the log probability of the level nearest to a value, so that the probabilities of all levels add up to one.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln

from vae_jax.distributions.basic import bernoulli_log_prob, flat_event, sum_event
from vae_jax.distributions.protocol import Shape, distribution

GRID = ("levels", "event_ndims")  # static fields of a distribution of levels
NEAR_HALF = 0.2  # |logit| below which the normalizer of a continuous Bernoulli is a series, to float32's last digit


@distribution("logits", static=("event_ndims",), event="logits")
class ContinuousBernoulli:
    """p(x) = C(l) s^x (1-s)^(1-x) on [0, 1] with s = sigmoid(l), C(l) = l / tanh(l/2), C(0) = 2.

    Attributes:
        logits: l, `[K, B, *event]`.
        event_ndims: how many of the last axes are one event.

    Source: Loaiza-Ganem and Cunningham (2019).
    """

    logits: jax.Array
    event_ndims: int = 1

    @property
    def mean(self) -> jax.Array:
        """1 / (1 - e^-l) - 1/l, which is 1/2 at l = 0."""
        near, away = split_near_half(self.logits)
        small = jnp.where(near, self.logits, 0)
        # 1/2 coth(l/2) - 1/l without cancellation near 0
        return jnp.where(near, 0.5 + small / 12 - small**3 / 720, 0.5 + 0.5 / jnp.tanh(away / 2) - 1 / away)

    def sample(self, key: jax.Array, sample_shape: Shape = ()) -> jax.Array:
        """Draws by the inverse distribution function: x = log(1 + u (e^l - 1)) / l for l < 0, 1 - x of -l for l > 0.

        The key is consumed.
        """
        u = jax.random.uniform(key, (*sample_shape, *self.logits.shape))
        negative = -jnp.maximum(jnp.abs(self.logits), 1e-6)
        x = jnp.clip(jnp.log1p(u * jnp.expm1(negative)) / negative, 0, 1)
        return jnp.where(self.logits < 0, x, 1 - x)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log densities in nats, `[..., B, *event]` -> `[..., B]`."""
        log_normalizer = sum_event(log_continuous_normalizer(self.logits), self.event_ndims)
        return bernoulli_log_prob(self.logits, value, self.event_ndims) + log_normalizer


def split_near_half(logits):
    """(whether each |l| is small, l with those replaced by 1): both branches of a `where` need finite gradients."""
    near = jnp.abs(logits) < NEAR_HALF
    return near, jnp.where(near, 1.0, logits)


def log_continuous_normalizer(logits):
    """log(l / tanh(l/2)), even in l; log 2 + y^2/3 - 7 y^4/90 + 62 y^6/2835 - ... with y = l/2 near 0."""
    near, away = split_near_half(logits)
    y = jnp.where(near, logits, 0) ** 2 / 4
    series = jnp.log(2.0) + y / 3 - 7 * y**2 / 90 + 62 * y**3 / 2835
    return jnp.where(near, series, jnp.log(jnp.abs(away)) - jnp.log(jnp.tanh(jnp.abs(away) / 2)))


def to_level(value, levels):
    """The nearest level of a value in [0, 1], 0 ... levels - 1, as a float."""
    return jnp.clip(jnp.round(value * (levels - 1)), 0, levels - 1)


@distribution("logits", static=("event_ndims",), has_rsample=False, event="logits", after=1)
class Categorical:
    """Independent levels, each with a probability of its own; values i / (L-1).

    Attributes:
        logits: of the L levels, `[K, B, *event, L]`.
        event_ndims: how many of the axes before the last are one event.
    """

    logits: jax.Array
    event_ndims: int = 1

    @property
    def mean(self) -> jax.Array:
        """E[x], `[K, B, *event]`."""
        return jax.nn.softmax(self.logits) @ jnp.linspace(0, 1, self.logits.shape[-1])

    def sample(self, key: jax.Array, sample_shape: Shape = ()) -> jax.Array:
        """Draws `[*sample_shape, K, B, *event]`. The key is consumed."""
        level = jax.random.categorical(key, self.logits, shape=(*sample_shape, *self.logits.shape[:-1]))
        return level / (self.logits.shape[-1] - 1)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log probabilities in nats, `[..., B, *event]` -> `[..., B]`."""
        *event, levels = self.logits.shape
        shape = jnp.broadcast_shapes(jnp.shape(value), event)
        level = jnp.broadcast_to(to_level(value, levels), shape).astype(int)
        logits = jnp.broadcast_to(self.logits, (*shape, levels))
        log_p = jnp.take_along_axis(logits, level[..., None], -1)[..., 0] - jax.nn.logsumexp(self.logits, -1)
        return sum_event(log_p, self.event_ndims)


@distribution("log_a", "log_b", static=GRID, has_rsample=False, event="log_a")
class BetaBinomial:
    """(L-1) x ~ BetaBinomial(L-1, a, b): a Binomial whose probability is Beta(a, b), so it may be narrow or wide.

    Attributes:
        log_a: log a, `[K, B, *event]`.
        log_b: log b, `[K, B, *event]`.
        levels: L.
        event_ndims: how many of the last axes are one event.
    """

    log_a: jax.Array
    log_b: jax.Array
    levels: int = 256
    event_ndims: int = 1

    @property
    def mean(self) -> jax.Array:
        """E[x], `[K, B, *event]`."""
        return jax.nn.sigmoid(self.log_a - self.log_b)

    def concentrations(self):
        """(a, b) inside e^-20 ... e^20, where float32 keeps beta functions finite."""
        return [jnp.exp(jax.lax.clamp(-20.0, log, 20.0)) for log in (self.log_a, self.log_b)]

    def sample(self, key: jax.Array, sample_shape: Shape = ()) -> jax.Array:
        """Draws `[*sample_shape, K, B, *event]`. The key is consumed."""
        shape, (beta_key, count_key) = (*sample_shape, *self.log_a.shape), jax.random.split(key)
        probability = jax.random.beta(beta_key, *self.concentrations(), shape=shape)
        return jax.random.binomial(count_key, self.levels - 1, probability, shape=shape) / (self.levels - 1)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """log of  n! / (k! (n-k)!) B(k + a, n - k + b) / B(a, b)  with n = L - 1."""
        (a, b), n = self.concentrations(), self.levels - 1.0
        k = to_level(value, self.levels)
        choose = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
        if self.levels <= FEW:
            return sum_event(choose + log_ratios(a, b, k, self.levels - 1), self.event_ndims)
        # cancels in the sum of the three terms, and keeps each of them small
        scale = jax.lax.stop_gradient(jnp.maximum(a + b, 1.0))
        beta = log_rising(a, k, scale) + log_rising(b, n - k, scale) - log_rising(a + b, n, scale)
        return sum_event(choose + beta, self.event_ndims)


FEW = 33  # levels up to which a product of L - 1 ratios and its gradient cost less than those of gamma functions


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def log_ratios(a, b, k, n):
    """log B(k + a, n - k + b) / B(a, b) = sum_i log r_i,  r_i = (a + i if i < k else b + i - k) / (a + b + i),  i < n.

    Two share a logarithm: r_i may be 1e-18. With a gradient of its own it is one pass over the elements.
    """
    ratio = lambda i: jnp.where(i < k, a + i, b + (i - k)) / (a + b + i) if i < n else 1.0
    return sum(jnp.log(ratio(i) * ratio(i + 1)) for i in range(0, n, 2))


@log_ratios.defjvp
def _log_ratios_jvp(n, primals, tangents):
    (a, b, k), (a_dot, b_dot, _) = primals, tangents
    both = sum(1 / (a + b + i) for i in range(n))
    by_a = sum(jnp.where(i < k, 1 / (a + i), 0) for i in range(n)) - both
    by_b = sum(jnp.where(i < n - k, 1 / (b + i), 0) for i in range(n)) - both
    return log_ratios(a, b, k, n), by_a * a_dot + by_b * b_dot


def log_rising(x, k, scale):
    """log Gamma(x + k) - log Gamma(x) - k log scale, by Stirling's series where x is large.

    There the difference of the two loses its digits: log Gamma(1e8) is 2e9, where neighbours in float32 are 128 apart.
    """
    small, large = jnp.minimum(x, 8), jnp.maximum(x, 8)
    series = lambda r: r * (1 / 12 - r**2 * (1 / 360 - r**2 / 1260))
    stirling = (large - 0.5) * jnp.log1p(k / large) + k * (jnp.log((large + k) / scale) - 1)
    stirling = stirling + series(1 / (large + k)) - series(1 / large)
    return jnp.where(x < 8, gammaln(small + k) - gammaln(small) - k * jnp.log(scale), stirling)


def logistic_level_log_prob(mean, log_scale, value, levels):
    """log P(level of value): the logistic's mass in a bin of width 1/(L-1), the first and last open. Elementwise.

    Salimans et al. (2017), section 2.1. log(e^b - e^a) of log distribution functions keeps the digits of a thin tail.
    """
    # a mean far outside [0, 1] or a scale far below a bin still has finite logs and gradients here
    inverse = jnp.exp(-jax.lax.clamp(-20.0, log_scale, 20.0))
    level, half = to_level(value, levels), 0.5 / (levels - 1)
    center = level / (levels - 1) - mean
    low, high = (center - half) * inverse, (center + half) * inverse
    # log(sigmoid(high) - sigmoid(low)) = log sigmoid(high) + log sigmoid(-low) + log(1 - e^(low - high))
    width = 2 * half * inverse
    inside = jax.nn.log_sigmoid(high) + jax.nn.log_sigmoid(-low) + jnp.log(-jnp.expm1(-width))
    edge = jnp.where(level <= 0, jax.nn.log_sigmoid(high), jax.nn.log_sigmoid(-low))
    return jnp.where((level <= 0) | (level >= levels - 1), edge, inside)


@distribution("mean_logistic", "log_scale", static=GRID, has_rsample=False, event="mean_logistic")
class DiscretizedLogistic:
    """A logistic distribution cut into levels: the mass of each level's bin, the first and last bins open.

    Attributes:
        mean_logistic: mean of the logistic, `[K, B, *event]`.
        log_scale: log of its scale, `[K, B, *event]`.
        levels: L.
        event_ndims: how many of the last axes are one event.

    Source: Kingma et al. (2016), appendix.
    """

    mean_logistic: jax.Array
    log_scale: jax.Array
    levels: int = 256
    event_ndims: int = 1

    @property
    def mean(self) -> jax.Array:
        """E[x] of the discretized distribution, `[K, B, *event]`: the exact sum 1/(L-1) sum_i P(level >= i)."""
        return expected_level(self.mean_logistic, self.log_scale, self.levels)

    def sample(self, key: jax.Array, sample_shape: Shape = ()) -> jax.Array:
        """Draws `[*sample_shape, K, B, *event]`. The key is consumed."""
        shape = (*sample_shape, *self.mean_logistic.shape)
        noise = jax.random.logistic(key, shape)
        return snap(self.mean_logistic + jnp.exp(self.log_scale) * noise, self.levels)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log probabilities in nats, `[..., B, *event]` -> `[..., B]`."""
        log_p = logistic_level_log_prob(self.mean_logistic, self.log_scale, value, self.levels)
        return sum_event(log_p, self.event_ndims)


def snap(value, levels):
    """Onto the grid of levels in [0, 1]."""
    return to_level(value, levels) / (levels - 1)


def expected_level(mean, log_scale, levels):
    """E[level] / (L-1) = 1/(L-1) sum_{i=1}^{L-1} sigmoid((mean - (i - 1/2)/(L-1)) / scale), one level at a time."""
    inverse = jnp.exp(-jax.lax.clamp(-20.0, log_scale, 20.0))
    add = lambda i, total: total + jax.nn.sigmoid((mean - (i - 0.5) / (levels - 1)) * inverse)
    return jax.lax.fori_loop(1, levels, add, jnp.zeros_like(mean * inverse)) / (levels - 1)


@distribution("logits", "means", "log_scales", "coefficients", static=GRID, has_rsample=False, event="means", after=1)
class LogisticMixture:
    """A mixture of M discretized logistics for each pixel; the channels of a pixel have the same component.

    In component m the mean of green is mean_g + c_g r, that of blue mean_b + c_b r + c_r g, where r and g are the red
    and green values of the pixel and c_r, c_g, c_b the tanh of the coefficients of the channels. With one channel the
    coefficients are not used.

    Attributes:
        logits: `[K, B, *event, M]` with channels the last axis of the event; a pixel's are summed over its channels.
        means: `[K, B, *event, M]`.
        log_scales: `[K, B, *event, M]`.
        coefficients: `[K, B, *event, M]`.
        levels: L.
        event_ndims: how many of the axes before the last are one event.

    Source: Salimans et al. (2017).
    """

    logits: jax.Array
    means: jax.Array
    log_scales: jax.Array
    coefficients: jax.Array
    levels: int = 256
    event_ndims: int = 1

    def pixel_logits(self):
        """log pi_m of each pixel, `[K, B, *pixels, M]`."""
        return jax.nn.log_softmax(self.logits.sum(-2))

    def channel_means(self, value):
        """The means `[..., channels, M]` of each channel given the values `[..., channels]` of those before it."""
        if self.means.shape[-2] != 3:
            return self.means
        c, value = jnp.tanh(self.coefficients), value[..., None]
        red, green = value[..., 0, :], value[..., 1, :]
        r, g, b = (self.means[..., i, :] for i in range(3))
        g, b = g + c[..., 1, :] * red, b + c[..., 2, :] * red + c[..., 0, :] * green
        return jnp.stack(jnp.broadcast_arrays(r, g, b), axis=-2)

    def sample(self, key: jax.Array, sample_shape: Shape = ()) -> jax.Array:
        """Draws the component of each pixel, then its channels in turn. The key is consumed."""
        which, noise_key = jax.random.split(key)
        logits = jnp.broadcast_to(self.pixel_logits(), (*sample_shape, *self.pixel_logits().shape))
        component = jax.random.categorical(which, logits)[..., None, None]
        repeat = lambda array: jnp.broadcast_to(array, (*sample_shape, *self.means.shape))
        take = lambda array: jnp.take_along_axis(repeat(array), component, -1)[..., 0]
        noise = jax.random.logistic(noise_key, (*sample_shape, *self.means.shape[:-1])) * jnp.exp(take(self.log_scales))
        value = jnp.zeros_like(noise)
        for channel in range(noise.shape[-1]):
            mean = take(self.channel_means(value))[..., channel]
            value = value.at[..., channel].set(snap(mean + noise[..., channel], self.levels))
        return value

    @property
    def mean(self) -> jax.Array:
        """E[x], `[K, B, *event]`: exact for one channel; of three, each at the means of the channels before it."""
        weights = jnp.exp(self.pixel_logits())[..., None, :]
        value = (weights * expected_level(self.means, self.log_scales, self.levels)).sum(-1)
        for channel in range(1, value.shape[-1] if value.shape[-1] == 3 else 1):
            level = expected_level(self.channel_means(value), self.log_scales, self.levels)
            value = value.at[..., channel].set((weights * level).sum(-1)[..., channel])
        return value

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log probabilities in nats, `[..., B, *event]` -> `[..., B]`."""
        value = jnp.broadcast_to(value, jnp.broadcast_shapes(jnp.shape(value), self.means.shape[:-1]))
        grid = snap(value, self.levels)
        log_p = logistic_level_log_prob(self.channel_means(grid), self.log_scales, grid[..., None], self.levels)
        pixels = jax.nn.logsumexp(self.pixel_logits() + log_p.sum(-2), axis=-1)
        return flat_event(pixels, self.event_ndims - 1).sum(-1) if self.event_ndims > 1 else pixels
