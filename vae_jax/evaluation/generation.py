"""What a model generates, as arrays: reconstructions, draws from the prior, images by label, completions."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.evaluation.examples import in_chunks
from vae_jax.keys import Use, fold_each
from vae_jax.models.model import sample_each_prior, sample_prior


@partial(jax.jit, static_argnums=0)
def decode_means(model, params, z, condition=None):
    """The mean of p(x|z) for z `[N, Z]`, or a dict of such, [N, *event]."""
    return model.decode(params, jax.tree.map(lambda leaf: leaf[None], z), condition).mean[0]


@partial(jax.jit, static_argnums=0)
def reconstruct(model, params, chunk):
    """The mean of p(x|z) at the mean of q(z|x), [B, *event]."""
    return decode_means(model, params, chunk["mean"], chunk.get("condition"))


def squared_error(model, params, examples, config, spread):
    """The squared error of the reconstruction at E_q[z|x], a mean over the elements of each example `[N]`."""
    function = lambda chunk: squared_errors(model, params, chunk)
    return in_chunks(function, examples, config.chunk_images, spread)


@partial(jax.jit, static_argnums=0)
def squared_errors(model, params, chunk):
    error = (chunk["image"] - reconstruct(model, params, chunk)) ** 2
    return error.reshape(len(error), -1).mean(-1)


@partial(jax.jit, static_argnums=(0, 3))
def prior_means(model, params, key, count, condition=None):
    """The mean of p(x|z) at `count` draws of z from the prior, [count, *event]. The key is consumed."""
    z = sample_prior(model, params, key, count, condition)
    return model.decode(params, z, condition).mean[0]


CODE_COMPONENTS = 10  # of the mixture from which an autoencoder's codes are drawn


def code_draws(codes, count, seed):
    """`count` draws of a mixture of Gaussians fitted to the codes [N, Z] of an autoencoder: [count, Z].

    Ghosh et al. (2020), section 4.
    """
    from sklearn.mixture import GaussianMixture

    components = min(CODE_COMPONENTS, len(codes))
    codes = np.asarray(codes, np.float64)  # in float32 the covariance of a few codes may fail to be one
    z, _ = GaussianMixture(components, random_state=seed).fit(codes).sample(count)
    return np.random.default_rng(seed).permutation(z).astype(np.float32)  # they come sorted by component


@partial(jax.jit, static_argnums=(0, 4))
def label_means(model, params, key, condition, count, given=None):
    """The mean of p(x|z,c) for C conditions at the same `count` draws of z, or given ones: `[count, C, *event]`.

    Of a conditional prior z differs from row to row, the noise from which it is made does not. The key is consumed.
    """
    keys = jnp.broadcast_to(key, len(condition))
    if given is None:
        z = sample_each_prior(model, params, keys, count, condition)
    else:
        z = jnp.broadcast_to(given[:, None], (count, len(condition), given.shape[-1]))
    return model.decode(params, z, condition).mean


@partial(jax.jit, static_argnums=(0, 3))
def completions(model, params, chunk, count):
    """The mean of p(x|z,c) at `count` draws of z from the prior, by each example's key: `[B, count, *event]`."""
    keys, condition = fold_each(chunk["key"], Use.COMPLETION), chunk["condition"]
    z = sample_each_prior(model, params, keys, count, condition)
    return jnp.swapaxes(model.decode(params, z, condition).mean, 0, 1)
