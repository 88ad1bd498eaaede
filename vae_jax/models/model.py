"""A model is a tuple of pure functions, wired together here from a config."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vae_jax.config import WIDEST, WIDTHS, Key, at_least, choose, keys_of, one_of
from vae_jax.errors import ConfigError
from vae_jax.models import networks
from vae_jax.models.families import LIKELIHOODS, POSTERIORS, PRIORS
from vae_jax.models.fits import Ascent, make_ascent, natural
from vae_jax.models.inference import INFERENCES, STARTS, zero_q_params


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
    ascent: Ascent = natural()  # how q_params are fitted to an example
    has_encoder: bool = True  # whether q of a new x comes from an encoder; otherwise it is fitted
    conditional: bool = False  # whether the prior is one for each condition, with a batch shape [B]
    standard_normal: bool = False  # whether the prior is N(0, I)
    levels: int = 0  # of x where p(x|z) is a probability; 0: it is a density
    rounds: bool = True  # whether x between two levels counts as the nearer one
    bounded: bool = True  # whether x must lie in [0, 1]
    # parameters after a step that have a rule of their own
    closed_form_update: Callable = lambda params, old, gradient: params


def make_model(config: Any, info: Any, precision: str = "float32") -> Model:
    """The model that a configuration describes; it needs no data until `init`.

    Args:
        config: a whole configuration; its groups `model` and `inference` are read.
        info: of the data: `event_shape`, `condition_shape` and `num_train`.
        precision: what encoder and decoder compute in, 'float32' or 'bfloat16'; all else is float32.

    Returns:
        A tuple of pure functions.

    Raises:
        ConfigError: for a name that there is not, or a network, prior or likelihood that such data do not fit.
    """
    event_shape = tuple(info.event_shape)
    posterior, prior = families_of(config.model)
    likelihood = choose(LIKELIHOODS, config.model.likelihood, "model.likelihood")(config.model, event_shape)
    inference = choose(INFERENCES, config.inference.kind, "inference.kind")
    require_fit(config.model, prior, event_shape, info.condition_shape)
    start_q_params = partial(STARTS.get(config.inference.start, zero_q_params), posterior.heads)
    one_for_all = networks.constant(partial(zero_q_params, posterior.heads))
    encoder = networks.make_encoder(config.model, posterior.heads) if inference.sees_x else one_for_all
    encoder = networks.in_precision(encoder, precision)
    decoder = networks.make_decoder(config.model, event_shape, likelihood.num_outputs)
    decoder = networks.in_precision(decoder, precision, round_inputs=False)
    families = {"posterior": posterior, "prior": prior, "likelihood": likelihood}
    start_table = lambda key: start_q_params(jax.random.split(key, info.num_train))

    def encode(params, x, condition=None):
        require_encoder(params)
        return encoder.apply(params["encoder"], x, condition)

    def decode(params, z, condition=None):
        z = z["z1"] if isinstance(z, dict) else z
        return likelihood.make(params.get("likelihood", {}), decoder.apply(params["decoder"], z, condition))

    def make_q(params, q_params):
        return posterior.make(params.get("posterior", {}), q_params)

    def make_prior(params, condition=None):
        return prior.make(params.get("prior", {}), condition, lambda x: encode(params, x))

    return Model(
        init=partial(
            init_params, config.model, families, encoder, decoder, start_table if inference.has_table else None
        ),
        infer=inference.make(encode, make_q, make_ascent(config.inference, posterior.ascent), config.inference),
        start_q_params=start_q_params,
        make_q=make_q,
        encode=encode,
        decode=decode,
        prior=make_prior,
        latent_dim=config.model.latent_dim,
        **{name: getattr(posterior, name) for name in SHARED},
        **{name: getattr(likelihood, name) for name in ("levels", "rounds", "bounded")},
        has_encoder=not inference.has_table,
        conditional=prior.conditional,
        standard_normal=prior.standard_normal,
        closed_form_update=partial(closed_form_update, likelihood),
    )


def init_params(config, families, encoder, decoder, start_table, key, x_init, condition=None):
    """(params, table): networks from the key, the decoder's output bias from the mean of `x_init`.

    With `start_table`, (key) -> the table, there is no encoder; without, the table is ().
    """
    encoder_key, decoder_key, table_key, posterior_key, prior_key = jax.random.split(key, 5)
    condition = None if condition is None else condition[:1]
    decoder_params = decoder.init(decoder_key, jnp.zeros((1, 1, config.latent_dim)), condition)
    bias = families["likelihood"].bias(x_init.mean(0))
    learned = {
        "posterior": families["posterior"].init(posterior_key),
        "prior": families["prior"].init(prior_key, x_init, condition),
        "likelihood": families["likelihood"].init(),
    }
    params = {"decoder": networks.with_output_bias(decoder_params, bias)}
    params |= {name: weights for name, weights in learned.items() if weights}
    if start_table is not None:
        return params, start_table(table_key)
    return params | {"encoder": encoder.init(encoder_key, x_init[:1], condition)}, ()


SHARED = ("has_density", "density_anywhere", "layered", "ascent")  # of a model and its posterior


def closed_form_update(likelihood, params, old, gradient):
    """The parameters after a step, those of the likelihood by its own rule."""
    if "likelihood" not in params:
        return params
    return {
        **params,
        "likelihood": likelihood.closed_form_update(*(tree["likelihood"] for tree in (params, old, gradient))),
    }


def sample_prior(model: Model, params: Any, key: jax.Array, count: int, condition: Any = None) -> Any:
    """Draws from the prior, or one for each of as many conditions.

    Args:
        model, params: the model.
        key: one key; it is consumed.
        count: how many.
        condition: `[count, ...]`, or None.

    Returns:
        z `[1, count, Z]`, of a two-layer model a dict of such.
    """
    return model.prior(params, condition).sample(key, (1,) if model.conditional else (1, count))


def sample_each_prior(model: Model, params: Any, keys: jax.Array, num_samples: int, condition: Any) -> Any:
    """Draws from the prior for each of B examples, from a key of its own.

    Examples with the same key have the same draws, or with a prior of their own the same noise.

    Args:
        model, params: the model.
        keys: `[B]`; they are consumed.
        num_samples: K draws for each.
        condition: `[B, ...]`, or None.

    Returns:
        z `[K, B, Z]`, of a two-layer model a dict of such.
    """
    prior = model.prior(params, condition)
    if model.conditional:
        return prior.sample(keys, (num_samples,))
    return jax.vmap(lambda key: prior.sample(key, (num_samples,)), out_axes=1)(keys)


def families_of(config):
    """(Posterior, Prior) of `config` (config.model). Raises ConfigError for names that there are not."""
    posterior = choose(POSTERIORS, config.posterior, "model.posterior")(config)
    return posterior, choose(PRIORS, config.prior, "model.prior")(config)


def require_encoder(params):
    if "encoder" not in params:
        raise ValueError(
            "a model of inference.kind = per_datapoint has no encoder: fit q_params to x (evaluation.with_q_params)"
        )


def require_fit(config, prior, event_shape, condition_shape):
    """Raises ConfigError where data are not what networks and prior of `config` (config.model) need."""
    for part in ("encoder", "decoder"):
        if choose(networks.NETWORKS, config[part], f"model.{part}").images and len(event_shape) not in (2, 3):
            raise ConfigError(
                f"config.model.{part} = {config[part]} needs images [H, W, C] or [H, W], not {list(event_shape)}: "
                "use mlp"
            )
    if not condition_shape and not config.latent_dim:
        raise ConfigError(
            "config.model.latent_dim = 0 leaves the decoder nothing but a condition, and these data have none: use "
            "--config.data.condition=label"
        )
    if not condition_shape and prior.conditional:
        raise ConfigError(
            f"config.model.prior = {config.prior} needs data with a condition: use --config.data.condition=label"
        )
    if condition_shape and prior.needs_encoder:
        raise ConfigError(
            f"config.model.prior = {config.prior} encodes pseudo-inputs that have no condition: use conditional, "
            "mixture or flow"
        )


KEYS = {
    "model.latent_dim": Key(
        50, "Z, numbers in z; of a two-layer model, in z1; 0: no z, the decoder of a condition", at_least(0, WIDEST)
    ),
    "model.encoder": Key("mlp", "network from x to the parameters of q(z|x)", one_of(networks.NETWORKS)),
    "model.decoder": Key("mlp", "network from z to p(x|z)", one_of(networks.NETWORKS)),
    "model.hidden": Key((200, 200), "encoder widths from x to z; the decoder mirrors them", WIDTHS),
    "model.encoder_hidden": Key((), "encoder widths that the decoder does not mirror; (): hidden", WIDTHS),
    "model.activation": Key("tanh", "between the layers", one_of(networks.ACTIVATIONS)),
    "model.posterior": Key("normal", "family of q(z|x)", one_of(POSTERIORS)),
    "model.prior": Key("standard_normal", "p(z)", one_of(PRIORS)),
    "model.likelihood": Key("bernoulli", "family of p(x|z)", one_of(LIKELIHOODS)),
}


def model_keys():
    """{key: Key} of config.model: those of every model, and those that families and networks declare."""
    return KEYS | keys_of("model", networks.NETWORKS, POSTERIORS, PRIORS, LIKELIHOODS)
