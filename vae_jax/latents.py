"""Looking into a latent space: what to decode, and what comes out. Arrays of images in, out of the model's functions.

A grid over the prior's quantiles, straight lines between two codes, walks along one dimension, draws of one image's
posterior, the nearest images by code. The pictures of them are in pictures.py.
"""

from functools import partial
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.inference import fold_in_each

STEPS = 9  # of a line or a walk
REACH = 3.0  # standard deviations of the prior that a walk covers to either side
POSTERIOR = 33  # what an example's key is used for here


def quantile_grid(count):
    """z `[count^2, 2]` by rows, evenly spaced in the probability of a standard normal; z2 rises from bottom to top."""
    axis = np.float32([NormalDist().inv_cdf((i + 0.5) / count) for i in range(count)])
    return plane(axis, axis)


def code_grid(codes, count):
    """z `[count^2, 2]` by rows, evenly spaced in the quantiles of each dimension of the codes `[N, 2]`, like that."""
    return plane(*np.quantile(codes, (np.arange(count) + 0.5) / count, axis=0).T.astype(np.float32))


def plane(axis1, axis2):
    """Every pair of the two axes' values, z2 rising from bottom to top."""
    z1, z2 = np.meshgrid(axis1, axis2[::-1])
    return np.stack([z1.ravel(), z2.ravel()], axis=-1)


def lines(start, end, steps=STEPS):
    """Straight lines from start to end `[N, Z]`: `[N, steps, Z]`."""
    share = np.linspace(0, 1, steps, dtype=np.float32)[:, None]
    return (1 - share) * start[:, None] + share * end[:, None]


def walks(mean, dimensions, steps=STEPS, reach=REACH):
    """From one code `[Z]`, each of the dimensions in turn from -reach to reach: `[len(dimensions), steps, Z]`."""
    z = np.tile(mean, (len(dimensions), steps, 1)).astype(np.float32)
    for row, dimension in enumerate(dimensions):
        z[row, :, dimension] = np.linspace(-reach, reach, steps)
    return z


def most_used(mean, count):
    """The dimensions whose posterior means `[N, Z]` vary most over the data, the most varied first."""
    return np.argsort(-np.var(mean, axis=0))[:count]


@partial(jax.jit, static_argnums=(0, 3))
def posterior_draws(model, params, chunk, count):
    """The mean of p(x|z) at draws of z from each example's q: `[B, count, *event]`."""
    q = model.make_q(params, chunk["rows"])
    z = q.sample(fold_in_each(chunk["key"], POSTERIOR), (count,))
    return jnp.swapaxes(model.decode(params, z, chunk.get("condition")).mean, 0, 1)


@partial(jax.jit, static_argnums=0)
def aggregate_draws(model, params, chunk):
    """One draw of z from each example's q, `[B, Z]`: draws of the aggregate posterior."""
    z = model.make_q(params, chunk["rows"]).sample(fold_in_each(chunk["key"], POSTERIOR), (1,))
    return jax.tree.map(lambda leaf: leaf[0], z)


def nearest(queries, codes, count):
    """Which of the codes `[N, Z]` are nearest to each query `[Q, Z]`, nearest first: `[Q, count]`."""
    squares = (queries**2).sum(-1)[:, None] - 2 * queries @ codes.T + (codes**2).sum(-1)
    return np.argsort(squares, axis=1)[:, :count]


def principal(mean):
    """Codes `[N, Z]` on their two principal components, `[N, 2]`, and the shares of the variance these carry."""
    centered = mean - mean.mean(0)
    _, scale, axes = np.linalg.svd(centered, full_matrices=False)
    return centered @ axes[:2].T, (scale**2 / (scale**2).sum())[:2]
