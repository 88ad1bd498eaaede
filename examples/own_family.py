"""A posterior, an objective and a network of your own, in an experiment file: the package is not edited.

    python -m vae_jax.main --config=examples/own_family.py --workdir=runs/own
    python -m vae_jax.main --config=examples/own_family.py --workdir=runs/own --mode=evaluate

POSTERIORS, OBJECTIVES and NETWORKS are dicts from name to function: adding to them is all there is to it. Here q(z|x)
is a Laplace distribution, the objective an importance-weighted bound with truncated weights, and the networks have skip
connections. Other modes want the same --config, and Python an import of this file, so that the names are there.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from vae_jax.commands import configuration
from vae_jax.distributions.protocol import distribution, typed
from vae_jax.models import families, networks
from vae_jax.objectives.elbo import elbo_fn, importance_bound
from vae_jax.objectives.loss import OBJECTIVES, Objective


@distribution("loc", "log_scale")
class Laplace:
    """q(z|x) = prod_j exp(-|z_j - loc_j| / b_j) / 2 b_j, b = exp(log_scale); both `[B, Z]`."""

    loc: jax.Array
    log_scale: jax.Array

    def sample_and_log_prob(self, key, sample_shape=()):
        """z = loc + b noise; `key` is one key, or one for each example `[B]`. The key is consumed."""
        keys = typed(key) if key.ndim else jax.random.split(key, len(self.loc))
        noise = jax.vmap(lambda k: jax.random.laplace(k, (*sample_shape, self.loc.shape[-1])))(keys)
        z = self.loc + jnp.exp(self.log_scale) * jnp.moveaxis(noise, 0, -2)
        return z, self.log_prob(z)

    def sample(self, key, sample_shape=()):
        return self.sample_and_log_prob(key, sample_shape)[0]

    def log_prob(self, value):
        return -(jnp.abs(value - self.loc) * jnp.exp(-self.log_scale) + self.log_scale + math.log(2)).sum(-1)


def laplace_posterior(config):
    """What an encoder emits, or a table holds for each example, and the distribution it makes."""
    heads = {"mean": (config.latent_dim,), "log_std": (config.latent_dim,)}
    return families.Posterior(heads, lambda weights, q_params: Laplace(q_params["mean"], q_params["log_std"]))


def truncated(key, x, q, decode, prior=None, num_samples=1, *, kl="auto"):
    """log 1/K sum_k min(w_k, sqrt(K) w), w the mean weight: no draw outweighs all others. Ionides (2008), section 2.

    At most the importance-weighted bound, and so a bound on log p(x).
    """
    terms = elbo_fn(key, x, q, decode, prior, num_samples, kl=kl)
    ceiling = importance_bound(terms.log_weights) + 0.5 * math.log(num_samples)
    return importance_bound(jnp.minimum(terms.log_weights, ceiling)), terms


class Skip(nn.Module):
    """Dense layers, each of which sees the input beside what the last one made of it."""

    widths: tuple
    shapes: dict  # name -> shape of an output

    @nn.compact
    def __call__(self, x, condition=None, event_ndims=1):
        x = inputs = networks.with_condition(x.reshape(*x.shape[: x.ndim - event_ndims], -1), condition)
        for width in self.widths:
            x = jnp.concatenate([nn.gelu(nn.Dense(width)(x)), inputs], axis=-1)
        heads = {name: nn.Dense(math.prod(shape), name=name)(x) for name, shape in self.shapes.items()}
        return {name: h.reshape(*h.shape[:-1], *self.shapes[name]) for name, h in heads.items()}


def skip_encoder(config, heads):
    network = networks.functional(Skip(tuple(config.hidden), heads))
    flat = lambda x: x.reshape(len(x), -1)
    return networks.Network(
        lambda key, x, condition=None: network.init(key, flat(x), condition),
        lambda params, x, condition=None: network.apply(params, flat(x), condition),
    )


def skip_decoder(config, event_shape, num_outputs):
    network = networks.functional(Skip(tuple(config.hidden)[::-1], {"output": (*event_shape, num_outputs)}))
    return networks.Network(
        network.init, lambda params, z, condition=None: network.apply(params, z, condition)["output"]
    )


families.POSTERIORS["laplace"] = laplace_posterior
OBJECTIVES["truncated"] = Objective(truncated)
networks.NETWORKS["skip"] = networks.Architecture(skip_encoder, skip_decoder)


def get_config(variant=""):
    config = configuration.default()
    config.data.name = "digits"
    config.data.binarization = "threshold"
    config.model.latent_dim, config.model.hidden = 8, (64,)
    config.model.encoder = config.model.decoder = "skip"
    config.model.posterior = "laplace"
    config.objective.name, config.objective.num_samples = "truncated", 5
    config.train.batch_size, config.train.epochs, config.train.eval_every = 100, 60, 10
    config.optimizer.learning_rate = 3e-3
    config.eval.num_samples = 500
    return config
