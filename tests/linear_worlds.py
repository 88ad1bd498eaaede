"""Linear-Gaussian models with dense weights, whose best diagonal q is known, and models and fits of them."""

from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.commands import configuration
from vae_jax.distributions.basic import Normal, StandardNormal
from vae_jax.models import families
from vae_jax.models.inference import STARTS
from vae_jax.models.model import Model


def make_world(dim, width, sigma, batch=16):
    """x = W z + sigma eps with dense W [width, dim]; by NumPy in float64 what the best diagonal q is for each x.

    p(z|x) = N(mean, P^-1) with P = I + W'W / sigma^2; of diagonal q, N(mean, diag(1 / P_jj)) has the least KL to it.
    """
    rng = np.random.default_rng(3)
    weight = rng.normal(size=(width, dim))
    x = rng.normal(size=(batch, dim)) @ weight.T + sigma * rng.normal(size=(batch, width))
    precision = np.eye(dim) + weight.T @ weight / sigma**2
    mean = np.linalg.solve(precision, weight.T @ x.T / sigma**2).T

    def shortfall(q_params):
        """max L - L[q] of diagonal q, `[B]`."""
        off, log_std = np.asarray(q_params["mean"], float) - mean, np.asarray(q_params["log_std"], float)
        quadratic = np.exp(2 * log_std) @ np.diag(precision) + np.einsum("bi,ij,bj->b", off, precision, off)
        return 0.5 * (quadratic - dim - np.log(np.diag(precision)).sum()) - log_std.sum(-1)

    params = {"weight": jnp.asarray(weight, jnp.float32), "log_sigma": jnp.float32(np.log(sigma))}
    return SimpleNamespace(x=np.float32(x), params=params, mean=mean, precision=precision, shortfall=shortfall)


@cache
def model_of(posterior, dim):
    """A linear model whose q is a family of ours; its fit does not compile anew for another sigma."""
    config = configuration.default().model
    config.latent_dim = dim
    family = families.POSTERIORS[posterior](config)
    weights = family.init(jax.random.key(0))
    decode = lambda params, z, condition=None: Normal(z @ params["weight"].T, params["log_sigma"], 1)
    prior = lambda params, condition=None: StandardNormal((dim,))
    start = lambda keys: STARTS["zeros"](family.heads, keys)
    make_q = lambda params, q_params: family.make(weights, q_params)
    can = {name: getattr(family, name) for name in ("density_anywhere", "ascent")}
    return Model(None, None, start, make_q, None, decode, prior, has_encoder=False, **can)


def fit_config(**changes):
    config = configuration.default()
    config.fit.update(changes)
    return configuration.validate(config).fit


def latent(dim):
    config = configuration.default().model
    config.latent_dim = dim
    return config
