"""Linear-Gaussian models with dense weights, whose best diagonal q is known, and models and fits of them."""

import sys
from functools import cache
from pathlib import Path

import jax

from vae_jax.commands import configuration
from vae_jax.distributions.basic import Normal, StandardNormal
from vae_jax.models import families
from vae_jax.models.inference import STARTS
from vae_jax.models.model import Model

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import fits


def make_world(dim, width, sigma, batch=16):
    """`benchmarks.fits.linear_world`: x, parameters, the posterior's mean and precision, and `shortfall(q_params)`."""
    return fits.linear_world(dim, sigma, width, batch, seed=3)


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
