"""A model is a tuple of pure functions, wired together here from a config."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vae_jax import networks
from vae_jax.distributions import Bernoulli, Normal, StandardNormal
from vae_jax.inference import INFERENCES, STARTS


class Model(NamedTuple):
    """Pure functions over `params`, which devices share, and `local`, the table of per-datapoint rows, or ()."""

    init: Callable  # (key, x_init [M, *event], condition=None) -> (params, local)
    infer: Callable  # (params, rows, key, batch, bound) -> rows; how q is found, see inference.py
    start_rows: Callable  # keys [B] -> rows from which a fit to an example begins
    make_q: Callable  # (params, rows [B, ...]) -> q(z|x)
    encode: Callable  # (params, x [B, *event], condition=None) -> rows
    decode: Callable  # (params, z [K, B, Z], condition=None) -> p(x|z)
    prior: Callable  # (params, condition=None) -> p(z)


class Posterior(NamedTuple):
    heads: Callable  # latent_dim -> {name: shape}, the rows that describe one q
    make: Callable  # (params, rows) -> q


class Likelihood(NamedTuple):
    num_outputs: int  # what the decoder emits for each element of the event
    make: Callable  # (config.model, outputs [..., *event, num_outputs], event_ndims) -> p(x|z)
    bias: Callable  # mean image [*event] -> bias [*event, num_outputs] at which an untrained decoder emits that mean


def bernoulli_bias(mean):
    """The logit of the mean image, clipped to [1e-3, 1 - 1e-3]. Burda et al. (2016), published code."""
    mean = jnp.clip(mean, 1e-3, 1 - 1e-3)
    return jnp.log(mean / (1 - mean))[..., None]


def normal_likelihood(config, outputs, event_ndims):
    mean = outputs[..., 0]
    return Normal(mean, jnp.full_like(mean, jnp.log(config.sigma)), event_ndims)


POSTERIORS = {
    "normal": Posterior(
        heads=lambda latent_dim: {"mean": (latent_dim,), "log_std": (latent_dim,)},
        make=lambda params, rows: Normal(rows["mean"], rows["log_std"]),
    ),
}

PRIORS = {"standard_normal": lambda latent_dim, params, condition=None: StandardNormal((latent_dim,))}

LIKELIHOODS = {
    "bernoulli": Likelihood(1, lambda config, outputs, n: Bernoulli(outputs[..., 0], n), bernoulli_bias),
    "normal": Likelihood(1, normal_likelihood, lambda mean: mean[..., None]),
}


def make_model(config, info):
    """The model that `config` describes, for data like `info` (event_shape); needs no data until `init`."""
    posterior = POSTERIORS[config.model.posterior]
    likelihood = LIKELIHOODS[config.model.likelihood]
    event_shape = tuple(info.event_shape)
    heads = posterior.heads(config.model.latent_dim)
    encoder = networks.make_encoder(config.model, heads)
    decoder = networks.make_decoder(config.model, event_shape, likelihood.num_outputs)

    def encode(params, x, condition=None):
        if "encoder" not in params:
            raise ValueError(
                "a model of inference.kind = per_datapoint has no encoder: fit rows to x (setup.with_rows)"
            )
        return encoder.apply(params["encoder"], x, condition)

    def decode(params, z, condition=None):
        return likelihood.make(config.model, decoder.apply(params["decoder"], z, condition), len(event_shape))

    def init(key, x_init, condition=None):
        """Networks from the key, the decoder's output bias from the mean of `x_init`; a table where rows are stored."""
        encoder_key, decoder_key, table_key = jax.random.split(key, 3)
        condition = None if condition is None else condition[:1]
        decoder_params = decoder.init(decoder_key, jnp.zeros((1, 1, config.model.latent_dim)), condition)
        params = {"decoder": networks.with_output_bias(decoder_params, likelihood.bias(x_init.mean(0)))}
        if config.inference.kind == "per_datapoint":
            return params, start_rows(jax.random.split(table_key, info.num_train))
        return params | {"encoder": encoder.init(encoder_key, x_init[:1], condition)}, ()

    def start_rows(keys):
        start = "zeros" if config.inference.start == "encoder" else config.inference.start
        return STARTS[start](heads, keys)

    return Model(
        init=init,
        infer=INFERENCES[config.inference.kind](encode, posterior.make, config.inference),
        start_rows=start_rows,
        make_q=posterior.make,
        encode=encode,
        decode=decode,
        prior=partial(PRIORS[config.model.prior], config.model.latent_dim),
    )
