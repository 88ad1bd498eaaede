"""Posteriors and priors that transform a Gaussian: affine coupling, inverse autoregressive and planar layers.

    eps ~ N(0, I),   u = f_L(...f_1(eps)),   z = mean + exp(log_std) u
    log q(z) = log N(eps; 0, I) - sum_l log |det df_l / du| - sum log_std

    coupling        u' = m u + (1 - m) (u exp(s) + t),  s, t = net(m u, context)     Dinh et al. (2017), eq. 7 to 9
    autoregressive  u'_i = u_i exp(s_i) + t_i,  s_i, t_i = net(u_<i, context)        Kingma et al. (2016), eq. 10
    planar          u' = u + v tanh(w.u + b)                                         Rezende and Mohamed (2015), eq. 10

m is a mask of zeros and ones: a coupling layer changes one part of u by a function of the other part, so its inverse
costs as much as the layer itself. The density of the other two is known at their own draws only. A flow works on
standardized u, whatever the scale of the posterior; with the weights of `init_coupling` or `init_autoregressive` it is
the identity and z is Gaussian. Everything follows protocol.py, and every parameter is a leaf.
"""

import math

import jax
import jax.numpy as jnp

from vae_jax.distributions.basic import LOG_2PI, standard_normal, std_from_log, sum_event
from vae_jax.distributions.protocol import Shape, distribution

MAX_SCALE = 2.0  # a layer stretches by at most e^2, so that a flow is finite, and invertible, whatever its weights


@distribution("base_mean", "base_log_std", "context", "weights", event="base_mean")
class CouplingFlow:
    """q(z) of a Gaussian transformed by coupling layers; z `[K, B, Z]`, Z >= 2.

    Attributes:
        base_mean: of the Gaussian, `[B, Z]`; the layers move the mean of z, which has no formula.
        base_log_std: `[B, Z]`.
        context: `[B, C]`, what the layers' networks see of each example; C may be 0.
        weights: a dict as from `init_coupling`, shared by the batch, or with a leading axis `[B, ...]`, one set each.

    Source: Dinh et al. (2017), eq. 7 to 9.
    """

    base_mean: jax.Array
    base_log_std: jax.Array
    context: jax.Array
    weights: dict

    def sample(self, key: jax.Array, sample_shape: Shape = ()) -> jax.Array:
        """Draws `[*sample_shape, B, Z]` by one key or a key for each example. The key is consumed."""
        return self.sample_and_log_prob(key, sample_shape)[0]

    def sample_and_log_prob(
        self, key: jax.Array, sample_shape: Shape = (), antithetic: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Draws and their log densities, computed from the noise without an inverse. The key is consumed."""
        return push(self, key, sample_shape, antithetic, affine_step(self.scale_and_shift), self.layers())

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log densities in nats, `[..., B, Z]` -> `[..., B]`: the inverse layers from the last to the first."""

        def backward(carry, layer):
            u, log_scale = carry
            scale, shift = self.scale_and_shift(layer, u)
            return ((u - shift) * jnp.exp(-scale), log_scale + scale.sum(-1)), None

        u = (value - self.base_mean) * std_from_log(-self.base_log_std)
        start = (u, jnp.zeros_like(u[..., 0]))
        (eps, log_scale), _ = jax.lax.scan(backward, start, self.layers(), reverse=True)
        return base_log_prob(eps, self.base_log_std) - log_scale

    def layers(self):
        """(mask, weights) with the layers in front, for a scan: [layers, Z] and [layers, ...] or [layers, B, ...]."""
        per_example = self.weights["in"].ndim == 4
        weights = {name: jnp.moveaxis(leaf, 1, 0) if per_example else leaf for name, leaf in self.weights.items()}
        return masks(len(weights["in"]), self.base_mean.shape[-1]), weights

    def scale_and_shift(self, layer, u):
        """What a layer does to u `[..., B, Z]`: log scale and shift, both 0 in the part that it keeps."""
        keep, weights = layer
        scale, shift = network(weights, keep * u, self.context)
        return (1 - keep) * scale, (1 - keep) * shift


@distribution("base_mean", "base_log_std", "context", "weights", density_anywhere=False, event="base_mean")
class InverseAutoregressiveFlow:
    """q(z) of a Gaussian transformed by autoregressive layers, each in the opposite order; z `[K, B, Z]`.

    Attributes:
        base_mean: of the Gaussian, `[B, Z]`; the layers move the mean of z, which has no formula.
        base_log_std: `[B, Z]`.
        context: `[B, C]`, what the layers' networks see of each example; C may be 0.
        weights: a dict as from `init_autoregressive`, shared by the batch.

    Source: Kingma et al. (2016), eq. 10.
    """

    base_mean: jax.Array
    base_log_std: jax.Array
    context: jax.Array
    weights: dict

    def sample(self, key: jax.Array, sample_shape: Shape = ()) -> jax.Array:
        """Draws `[*sample_shape, B, Z]` by one key or a key for each example. The key is consumed."""
        return self.sample_and_log_prob(key, sample_shape)[0]

    def sample_and_log_prob(
        self, key: jax.Array, sample_shape: Shape = (), antithetic: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Draws and their log densities, computed from the noise of the draw. The key is consumed."""
        layers, inputs, width = self.weights["in"].shape
        into, out = autoregressive_masks(layers, inputs, width, self.base_mean.shape[-1])
        weights = {**self.weights, "in": into * self.weights["in"], "out": out * self.weights["out"]}
        step = affine_step(lambda layer, u: network(layer, u, self.context))
        return push(self, key, sample_shape, antithetic, step, weights)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Raises ValueError: the inverse at a given value would take Z passes one after the other."""
        raise ValueError(OWN_DRAWS_ONLY.format("inverse autoregressive flow ('iaf')"))


@distribution("base_mean", "base_log_std", "weights", density_anywhere=False, event="base_mean")
class PlanarFlow:
    """q(z) of a Gaussian transformed by planar layers with weights for each example; z `[K, B, Z]`.

    Where w.v < -1, for which a layer has no inverse, v is moved along w (appendix A.1); v = 0 is the identity.

    Attributes:
        base_mean: of the Gaussian, `[B, Z]`; the layers move the mean of z, which has no formula.
        base_log_std: `[B, Z]`.
        weights: {'w': `[B, layers, Z]`, 'v': `[B, layers, Z]`, 'b': `[B, layers]`}.

    Source: Rezende and Mohamed (2015), eq. 10.
    """

    base_mean: jax.Array
    base_log_std: jax.Array
    weights: dict

    def sample(self, key: jax.Array, sample_shape: Shape = ()) -> jax.Array:
        """Draws `[*sample_shape, B, Z]` by one key or a key for each example. The key is consumed."""
        return self.sample_and_log_prob(key, sample_shape)[0]

    def sample_and_log_prob(
        self, key: jax.Array, sample_shape: Shape = (), antithetic: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Draws and their log densities, computed from the noise of the draw. The key is consumed."""
        layers = {name: jnp.moveaxis(leaf, 1, 0) for name, leaf in self.weights.items()}
        return push(self, key, sample_shape, antithetic, planar_step, layers)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Raises ValueError: a planar layer has no inverse in closed form."""
        raise ValueError(OWN_DRAWS_ONLY.format("planar flow"))


OWN_DRAWS_ONLY = (
    "the density of an {} is known at its own draws only, and something asks for it elsewhere: use the posterior "
    "'coupling', or an objective that leaves q as it is"
)


def push(q, key, sample_shape, antithetic, step, layers):
    """Draws eps, applies the layers `step((u, log_det), layer)`, then q's scale and mean: (z, log q(z))."""
    eps = standard_normal(key, sample_shape, q.base_mean.shape, antithetic)
    (u, log_det), _ = jax.lax.scan(step, (eps, jnp.zeros_like(eps[..., 0])), layers)
    return q.base_mean + std_from_log(q.base_log_std) * u, base_log_prob(eps, q.base_log_std) - log_det


def affine_step(scale_and_shift):
    """u' = u exp(s) + t with (s, t) = scale_and_shift(layer, u), as a step of `push`."""

    def step(carry, layer):
        u, log_det = carry
        scale, shift = scale_and_shift(layer, u)
        return (u * jnp.exp(scale) + shift, log_det + scale.sum(-1)), None

    return step


def planar_step(carry, layer):
    """u' = u + v' tanh(w.u + b) with w.v' = softplus(w.v + log(e - 1)) - 1 > -1."""
    (u, log_det), (w, v) = carry, (layer["w"], layer["v"])
    dot = (w * v).sum(-1)
    # w.v' - w.v, exactly 0 at 0; linear below -80, where e^-w.v is no float32 number
    more = jnp.log1p(jnp.expm1(-jnp.maximum(dot, -80)) / math.e) + jnp.maximum(-80 - dot, 0)
    v = v + (more / jnp.maximum((w**2).sum(-1), 1e-12))[..., None] * w
    h = jnp.tanh((w * u).sum(-1) + layer["b"])
    stretch = (w * v).sum(-1) * (1 - h**2)
    return (u + v * h[..., None], log_det + jnp.log1p(jnp.maximum(stretch, -1 + 1e-6))), None


def network(weights, u, context):
    """Log scale, within MAX_SCALE, and shift `[..., B, Z]` by one hidden layer from u `[..., B, Z]` and a context."""
    context = jnp.broadcast_to(context, (*u.shape[:-1], context.shape[-1]))
    hidden = jnp.tanh(affine(weights["in"], weights["in_bias"], jnp.concatenate([u, context], axis=-1)))
    scale, shift = jnp.split(affine(weights["out"], weights["out_bias"], hidden), 2, axis=-1)
    return MAX_SCALE * jnp.tanh(scale / MAX_SCALE), shift


def base_log_prob(eps, log_std):
    return sum_event(-0.5 * (eps**2 + LOG_2PI) - log_std, 1)


def affine(weight, bias, h):
    """h `[..., B, I]` -> `[..., B, O]` by a matrix `[I, O]` or, one for each example, `[B, I, O]`."""
    return jnp.einsum("...bi,bio->...bo" if weight.ndim == 3 else "...bi,io->...bo", h, weight) + bias


def masks(layers, latent_dim):
    """1 where a layer keeps u and 0 where it changes it, `[layers, Z]`: a bit of each index, then that bit inverted.

    Layers 2b and 2b + 1 split the dimensions by bit b of their index: any two differ in some bit, whose layers make
    each of them depend on the other.
    """
    number, bits = jnp.arange(layers)[:, None], max(1, math.ceil(math.log2(latent_dim)))
    chosen = (jnp.arange(latent_dim) >> (number // 2 % bits)) & 1
    return jnp.where(number % 2 == 0, chosen, 1 - chosen).astype(float)


def autoregressive_masks(layers, inputs, width, latent_dim):
    """Masks of the two matrices of each layer, `[layers, inputs, width]` and `[layers, width, 2 Z]`. Germain (2015).

    Input i has degree i, counted from the front or, in odd layers, from the back. A hidden unit takes inputs of at
    most its own degree, and the context; an output takes hidden units of lower degree.
    """
    forward = jnp.arange(1, latent_dim + 1)
    degree = jnp.where((jnp.arange(layers) % 2 == 0)[:, None], forward, forward[::-1])
    hidden = jnp.arange(width) * latent_dim // width
    into = (degree[:, :, None] <= hidden).astype(float)
    context = jnp.ones((layers, inputs - latent_dim, width))
    out = (hidden[:, None] < jnp.concatenate([degree, degree], axis=-1)[:, None]).astype(float)
    return jnp.concatenate([into, context], axis=1), out


def init_coupling(key: jax.Array, latent_dim: int, layers: int, width: int, context: int = 0) -> dict[str, jax.Array]:
    """Weights of coupling layers with one tanh hidden layer each, at which the flow is the identity.

    The hidden layers are Glorot-uniform, the outputs zero. For one flow per example: `jax.vmap` over keys.

    Args:
        key: one key, which is consumed.
        latent_dim: Z, at least 2.
        layers: how many layers.
        width: of the hidden layer.
        context: C, how many numbers of context each example has.

    Returns:
        {'in': `[layers, Z + C, width]`, 'in_bias': `[layers, width]`, 'out': `[layers, width, 2 Z]`,
        'out_bias': `[layers, 2 Z]`}.

    Raises:
        ValueError: a single dimension, of which no part is left to change the other.
    """
    if latent_dim < 2:
        raise ValueError(f"a coupling flow needs latent_dim >= 2, got {latent_dim}: one part of z moves the other")
    return init_autoregressive(key, latent_dim, layers, width, context)


def init_autoregressive(
    key: jax.Array, latent_dim: int, layers: int, width: int, context: int = 0
) -> dict[str, jax.Array]:
    """Weights of autoregressive layers with one tanh hidden layer each, at which the flow is the identity.

    Args:
        key: one key, which is consumed.
        latent_dim: Z, at least 1.
        layers: how many layers.
        width: of the hidden layer.
        context: C, how many numbers of context each example has.

    Returns:
        Arrays of the names and shapes of `init_coupling`.
    """
    inputs = latent_dim + context
    limit = math.sqrt(6 / (inputs + width))
    return {
        "in": jax.random.uniform(key, (layers, inputs, width), minval=-limit, maxval=limit),
        "in_bias": jnp.zeros((layers, width)),
        "out": jnp.zeros((layers, width, 2 * latent_dim)),
        "out_bias": jnp.zeros((layers, 2 * latent_dim)),
    }
