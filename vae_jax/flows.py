"""Posteriors that bend a Gaussian: affine coupling layers. Dinh, Sohl-Dickstein and Bengio (2017), RealNVP.

    eps ~ N(0, I),   u = f_L(...f_1(eps)),   z = mean + exp(log_std) u
    f_l:  u' = m u + (1 - m) (u exp(s) + t),   s, t = net_l(m u, context),   |s| < MAX_SCALE       their eq. 7 to 9
    log q(z) = log N(eps; 0, I) - sum_l sum (1 - m) s_l - sum log_std

m is a mask of zeros and ones: a layer moves one part of u by what the other part says, so its inverse is as cheap as
itself. The flow works on standardized u, whatever the scale of the posterior; with `init_coupling`'s weights it is the
identity and z is Gaussian. Everything follows the protocol of distributions.py, and every parameter is a leaf.
"""

import math

import jax
import jax.numpy as jnp

from vae_jax.distributions import LOG_2PI, distribution, standard_normal, std_from_log, sum_event

MAX_SCALE = 2.0  # a layer stretches by at most e^2, so that a flow is finite, and invertible, whatever its weights


@distribution("mean", "log_std", "context", "weights")
class CouplingFlow:
    """q(z) of a Gaussian sent through coupling layers; z `[K, B, Z]`, Z >= 2.

    mean, log_std: `[B, Z]`. context: `[B, C]` what the layers' networks see of each example; C may be 0.
    weights: a dict as from `init_coupling`, shared by the batch, or with a leading axis `[B, ...]`, one set for each.
    """

    mean: jax.Array
    log_std: jax.Array
    context: jax.Array
    weights: dict

    def sample(self, key, sample_shape=()):
        return self.sample_and_log_prob(key, sample_shape)[0]

    def sample_and_log_prob(self, key, sample_shape=()):
        """A draw and its log density from the noise that made it, with no inversion. The key is consumed."""
        eps = standard_normal(key, sample_shape, self.mean.shape)

        def forward(carry, layer):
            u, log_scale = carry
            scale, shift = self.scale_and_shift(layer, u)
            return (u * jnp.exp(scale) + shift, log_scale + scale.sum(-1)), None

        start = (eps, jnp.zeros_like(eps[..., 0]))
        (u, log_scale), _ = jax.lax.scan(forward, start, self.layers())
        return self.mean + std_from_log(self.log_std) * u, base_log_prob(eps, self.log_std) - log_scale

    def log_prob(self, value):
        """log q(value): the layers are undone from the last to the first, each in closed form."""

        def backward(carry, layer):
            u, log_scale = carry
            scale, shift = self.scale_and_shift(layer, u)
            return ((u - shift) * jnp.exp(-scale), log_scale + scale.sum(-1)), None

        u = (value - self.mean) * std_from_log(-self.log_std)
        start = (u, jnp.zeros_like(u[..., 0]))
        (eps, log_scale), _ = jax.lax.scan(backward, start, self.layers(), reverse=True)
        return base_log_prob(eps, self.log_std) - log_scale

    def layers(self):
        """(mask, weights) with the layers in front, for a scan: [layers, Z] and [layers, ...] or [layers, B, ...]."""
        per_example = self.weights["in"].ndim == 4
        weights = {name: jnp.moveaxis(leaf, 1, 0) if per_example else leaf for name, leaf in self.weights.items()}
        return masks(len(weights["in"]), self.mean.shape[-1]), weights

    def scale_and_shift(self, layer, u):
        """What a layer does to u `[..., B, Z]`: log scale and shift, both 0 in the part that it keeps."""
        keep, weights = layer
        context = jnp.broadcast_to(self.context, (*u.shape[:-1], self.context.shape[-1]))
        hidden = jnp.concatenate([keep * u, context], axis=-1)
        hidden = jnp.tanh(affine(weights["in"], weights["in_bias"], hidden))
        scale, shift = jnp.split(affine(weights["out"], weights["out_bias"], hidden), 2, axis=-1)
        return (1 - keep) * MAX_SCALE * jnp.tanh(scale / MAX_SCALE), (1 - keep) * shift


def base_log_prob(eps, log_std):
    return sum_event(-0.5 * (eps**2 + LOG_2PI) - log_std, 1)


def affine(weight, bias, h):
    """h `[..., B, I]` -> `[..., B, O]` by a matrix `[I, O]` or, one for each example, `[B, I, O]`."""
    return jnp.einsum("...bi,bio->...bo" if weight.ndim == 3 else "...bi,io->...bo", h, weight) + bias


def masks(layers, latent_dim):
    """1 where a layer keeps u and 0 where it moves it, `[layers, Z]`: a bit of each index, then that bit inverted.

    Layers 2b and 2b + 1 split by bit b, so that two dimensions, differing in some bit, come to act on each other.
    """
    number, bits = jnp.arange(layers)[:, None], max(1, math.ceil(math.log2(latent_dim)))
    chosen = (jnp.arange(latent_dim) >> (number // 2 % bits)) & 1
    return jnp.where(number % 2 == 0, chosen, 1 - chosen).astype(float)


def init_coupling(key, latent_dim, layers, width, context=0):
    """Weights of `layers` coupling layers with one tanh hidden layer each, at which the flow is the identity.

    The hidden layers are Glorot-uniform, the outputs zero. `context`: C, how many numbers of context there are.
    For one flow per example: `jax.vmap` over keys. Raises ValueError for a single dimension. The key is consumed.
    """
    if latent_dim < 2:
        raise ValueError(f"a coupling flow needs latent_dim >= 2, got {latent_dim}: one part of z moves the other")
    inputs = latent_dim + context
    limit = math.sqrt(6 / (inputs + width))
    return {
        "in": jax.random.uniform(key, (layers, inputs, width), minval=-limit, maxval=limit),
        "in_bias": jnp.zeros((layers, width)),
        "out": jnp.zeros((layers, width, 2 * latent_dim)),
        "out_bias": jnp.zeros((layers, 2 * latent_dim)),
    }
