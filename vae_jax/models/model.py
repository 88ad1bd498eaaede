"""A model is a tuple of pure functions, wired together here from a config."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vae_jax.errors import ConfigError
from vae_jax.models import networks
from vae_jax.models.families import LIKELIHOODS, POSTERIORS, PRIORS
from vae_jax.models.inference import INFERENCES, STARTS


class Model(NamedTuple):
    """Pure functions over `params`, which devices share, and `table`, the table of per-datapoint q_params, or ().

    z is an array `[K, B, Z]`, or for a two-layer model a dict of such.
    """

    init: Callable  # (key, x_init [M, *event], condition=None) -> (params, table)
    infer: Callable  # (params, q_params, key, batch, bound) -> q_params; how q is found, see inference.py
    start_q_params: Callable  # keys [B] -> q_params from which a fit to an example begins
    make_q: Callable  # (params, q_params [B, ...]) -> q(z|x)
    encode: Callable  # (params, x [B, *event], condition=None) -> q_params
    decode: Callable  # (params, z [K, B, Z], condition=None) -> p(x|z)
    prior: Callable  # (params, condition=None) -> p(z)
    latent_dim: int = 0  # Z; of a two-layer model that of z1; 0: no z, p(x|c) is the decoder of a condition
    has_density: bool = True  # whether q has a density; without one there is no bound, no KL and no NLL
    density_anywhere: bool = True  # whether q's density is known at any z, not at its own draws only
    layered: bool = False  # whether z is a dict of arrays, one for each layer
    has_encoder: bool = True  # whether q of a new x comes from an encoder; otherwise it is fitted
    conditional: bool = False  # whether the prior is one for each condition, with a batch shape [B]
    standard_normal: bool = False  # whether the prior is N(0, I)
    closed_form_update: Callable = lambda params, old, gradient: (
        params
    )  # parameters after a step that have a rule of their own


def make_model(config, info, precision="float32"):
    """The model that `config` describes, for data like `info` (event_shape); needs no data until `init`.

    precision: what encoder and decoder compute in, 'float32' or 'bfloat16'; all else is float32.
    Raises ConfigError for a network, prior or likelihood that cannot work with such data.
    """
    event_shape = tuple(info.event_shape)
    require_fit(config.model, event_shape, info.condition_shape)
    posterior, prior = POSTERIORS[config.model.posterior](config.model), PRIORS[config.model.prior](config.model)
    likelihood = LIKELIHOODS[config.model.likelihood](config.model, event_shape)
    start = "zeros" if config.inference.start == "encoder" else config.inference.start
    start_q_params = partial(STARTS[start], posterior.heads)
    encoder = networks.in_precision(networks.make_encoder(config.model, posterior.heads), precision)
    decoder = networks.make_decoder(config.model, event_shape, likelihood.num_outputs)
    decoder = networks.in_precision(decoder, precision)

    def encode(params, x, condition=None):
        if "encoder" not in params:
            raise ValueError(
                "a model of inference.kind = per_datapoint has no encoder: fit q_params to x (setup.with_q_params)"
            )
        return encoder.apply(params["encoder"], x, condition)

    def decode(params, z, condition=None):
        z = z["z1"] if isinstance(z, dict) else z
        return likelihood.make(params.get("likelihood", {}), decoder.apply(params["decoder"], z, condition))

    def make_q(params, q_params):
        return posterior.make(params.get("posterior", {}), q_params)

    def make_prior(params, condition=None):
        return prior.make(params.get("prior", {}), condition, lambda x: encode(params, x))

    def init(key, x_init, condition=None):
        """Networks from the key, the decoder's output bias from the mean of `x_init`; a table if needed."""
        encoder_key, decoder_key, table_key, posterior_key, prior_key = jax.random.split(key, 5)
        condition = None if condition is None else condition[:1]
        decoder_params = decoder.init(decoder_key, jnp.zeros((1, 1, config.model.latent_dim)), condition)
        params = {"decoder": networks.with_output_bias(decoder_params, likelihood.bias(x_init.mean(0)))}
        learned = {
            "posterior": posterior.init(posterior_key),
            "prior": prior.init(prior_key, x_init, condition),
            "likelihood": likelihood.init(),
        }
        params |= {name: weights for name, weights in learned.items() if weights}
        if config.inference.kind == "per_datapoint":
            return params, start_q_params(jax.random.split(table_key, info.num_train))
        return params | {"encoder": encoder.init(encoder_key, x_init[:1], condition)}, ()

    return Model(
        init=init,
        infer=INFERENCES[config.inference.kind](encode, make_q, config.inference),
        start_q_params=start_q_params,
        make_q=make_q,
        encode=encode,
        decode=decode,
        prior=make_prior,
        latent_dim=config.model.latent_dim,
        **{name: getattr(posterior, name) for name in ("has_density", "density_anywhere", "layered")},
        has_encoder=config.inference.kind != "per_datapoint",
        conditional=prior.conditional,
        standard_normal=prior.standard_normal,
        closed_form_update=partial(closed_form_update, likelihood),
    )


def closed_form_update(likelihood, params, old, gradient):
    """The parameters after a step, those of the likelihood by its own rule."""
    if "likelihood" not in params:
        return params
    return {
        **params,
        "likelihood": likelihood.closed_form_update(*(tree["likelihood"] for tree in (params, old, gradient))),
    }


def sample_prior(model, params, key, count, condition=None):
    """`count` draws from the prior, or one for each of as many conditions: z `[1, count, ...]`. The key is consumed."""
    return model.prior(params, condition).sample(key, (1,) if model.conditional else (1, count))


def sample_each_prior(model, params, keys, num_samples, condition):
    """Draws for each of B conditions from its own key `[B]`: z `[num_samples, B, ...]`. The keys are consumed.

    Conditions with the same key have the same draws, or with a prior of their own the same noise.
    """
    prior = model.prior(params, condition)
    if model.conditional:
        return prior.sample(keys, (num_samples,))
    return jax.vmap(lambda key: prior.sample(key, (num_samples,)), out_axes=1)(keys)


def require_fit(config, event_shape, condition_shape):
    """Raises ConfigError where data are not what a network, prior or likelihood of `config` (config.model) needs."""
    for part in ("encoder", "decoder"):
        if networks.NETWORKS[config[part]].images and len(event_shape) != 3:
            raise ConfigError(
                f"config.model.{part} = {config[part]} needs images [H, W, C], not {list(event_shape)}: use mlp"
            )
    if config.likelihood == "logistic_mixture" and event_shape[-1] not in (1, 3):
        raise ConfigError(
            f"config.model.likelihood = logistic_mixture needs a last axis of 1 or 3 channels, the data are "
            f"{list(event_shape)}: use logistic"
        )
    if not config.latent_dim and not condition_shape:
        raise ConfigError(
            "config.model.latent_dim = 0 leaves the decoder nothing but a condition, and these data have none: use "
            "--config.data.condition=label"
        )
    if config.prior == "conditional" and not condition_shape:
        raise ConfigError(
            "config.model.prior = conditional needs data with a condition: use --config.data.condition=label"
        )
    if config.prior == "vamp" and condition_shape:
        raise ConfigError(
            "config.model.prior = vamp encodes pseudo-inputs that have no condition: use conditional, mixture or flow"
        )
