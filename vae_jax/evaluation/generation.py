"""What a model generates, as arrays: reconstructions, draws from the prior, images by label, completions."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.distributions.basic import Normal
from vae_jax.evaluation.examples import in_chunks
from vae_jax.keys import Use, fold_each
from vae_jax.models.model import Model, sample_each_prior, sample_prior


@partial(jax.jit, static_argnums=0)
def decode_means(model: Model, params: Any, z: Any, condition: jax.Array | None = None) -> jax.Array:
    """E[x|z] of each z.

    Args:
        model, params: the trained model.
        z: `[N, Z]`, of a two-layer model a dict of such arrays.
        condition: `[N, ...]` where the model has one.

    Returns:
        The mean of p(x|z), `[N, *event]`.
    """
    return model.decode(params, jax.tree.map(lambda leaf: leaf[None], z), condition).mean[0]


@partial(jax.jit, static_argnums=0)
def reconstruct(model: Model, params: Any, chunk: dict) -> jax.Array:
    """The mean of p(x|z) at the mean of q(z|x).

    Args:
        model, params: the trained model.
        chunk: 'mean' as `with_means` makes it, and where there is one 'condition', each `[B, ...]`.

    Returns:
        Reconstructions `[B, *event]`.
    """
    return decode_means(model, params, chunk["mean"], chunk.get("condition"))


def squared_error(model, params, examples, config, spread):
    """The squared error of the reconstruction at E_q[z|x], a mean over the elements of each example `[N]`."""
    return in_chunks(partial(squared_errors, model, params), examples, config.chunk_images, spread)


@partial(jax.jit, static_argnums=0)
def squared_errors(model, params, chunk):
    error = (chunk["image"] - reconstruct(model, params, chunk)) ** 2
    return error.reshape(len(error), -1).mean(-1)


def normal_sigma(model: Model, params: Any, examples: dict) -> float | None:
    """sigma of a normal p(x|z), the geometric mean over an event where elements have their own.

    Args:
        model, params: the trained model.
        examples: 'mean' as `with_means` makes it, and where there is one 'condition', each `[N, ...]`.

    Returns:
        sigma, in units of x; None where p(x|z) is of another family.
    """
    z = jax.tree.map(lambda mean: jnp.asarray(mean)[None, :1], examples["mean"])
    p = model.decode(params, z, examples["condition"][:1] if "condition" in examples else None)
    return float(jnp.exp(p.log_std.mean())) if isinstance(p, Normal) else None


@partial(jax.jit, static_argnums=(0, 3))
def prior_means(model: Model, params: Any, key: jax.Array, count: int, condition: jax.Array | None = None) -> jax.Array:
    """The mean of p(x|z) at draws of z from the prior.

    Args:
        model, params: the trained model.
        key: one key, which is consumed.
        count: how many draws; with a condition the length of it.
        condition: `[count, ...]` where the model has one.

    Returns:
        `[count, *event]`.
    """
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

    With a conditional prior z differs between conditions, the noise from which it is made does not. The key is
    consumed.
    """
    if given is None:
        keys = jnp.broadcast_to(key, len(condition))
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
