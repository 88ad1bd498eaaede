"""Posteriors, priors and likelihoods by name: what each needs of a config, and how its parts make a distribution.

A posterior is described by q_params, {name: `[B, *shape]`}, that an encoder emits or a table holds, and perhaps by
weights that all examples share. A prior has weights of its own or none; a likelihood reads the decoder's outputs. All
are dicts from name to a function of config.model, so that a new family is one function and one line.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.config import DEEPEST, POSITIVE, WIDEST, WIDTHS, Key, at_least, declares, one_of
from vae_jax.distributions import flows, gaussians, likelihoods
from vae_jax.distributions.basic import Bernoulli, Normal, StandardNormal
from vae_jax.errors import ConfigError
from vae_jax.models import networks
from vae_jax.models.fits import Ascent, full_step, natural

SMALL = 0.01  # noise that tells equal pseudo-inputs apart


class Posterior(NamedTuple):
    """A family of q(z|x), and what it can do."""

    heads: dict  # name -> shape of one of q_params
    make: Callable  # (weights, q_params) -> q
    init: Callable = lambda key: {}  # key -> weights that all examples share
    has_density: bool = True  # False: a point mass, whose bound is minus infinity
    density_anywhere: bool = True  # False: known at its own draws only
    layered: bool = False  # z is a dict of arrays, one for each layer
    factorizes: bool = False  # q(z|x) = prod_j q(z_j|x), diagonal Gaussians
    ascent: Ascent = natural()  # how q_params of its own are fitted to an example
    least_dim: int = 0  # of z


class Prior(NamedTuple):
    """A family of p(z), and what it can do."""

    make: Callable  # (weights, condition, encode) -> p(z); encode: x -> q_params
    init: Callable = lambda key, x_init, condition: {}
    conditional: bool = False  # one p for each example: a batch shape of [B]
    standard_normal: bool = False  # N(0, I)
    reparameterized: bool = True  # the gradient through draws reaches all of its weights
    layered: bool = False  # z is a dict of arrays, one for each layer
    needs_encoder: bool = False  # and an encoder that sees no condition
    least_dim: int = 0  # of z


class Likelihood(NamedTuple):
    """A family of p(x|z)."""

    num_outputs: int  # what the decoder emits for each element of the event
    make: Callable  # (weights, outputs [..., *event, num_outputs]) -> p(x|z)
    bias: Callable  # mean image [*event] -> bias [*event, num_outputs] at which an untrained decoder emits that mean
    init: Callable = dict  # () -> what the likelihood learns beside the decoder
    closed_form_update: Callable = lambda new, old, gradient: new  # its weights after a step: see `optimal_sigma`
    levels: int = 0  # L, p(x|z) is a probability of x on 0, 1/(L-1), ..., 1; 0: a density
    rounds: bool = True  # x between two levels counts as the nearer one; False: log p is a cross-entropy there
    bounded: bool = True  # x lies in [0, 1]; False: x is any number


# ---- keys that several families share

FLOW_LAYERS = Key(4, "of a flow, posterior or prior", at_least(1, DEEPEST))
FLOW_WIDTH = Key(100, "of the hidden layer in each coupling or autoregressive layer", at_least(1, WIDEST))
COMPONENTS = Key(10, "of a mixture prior, or pseudo-inputs of a vamp prior", at_least(1, WIDEST))
LEVELS = Key(256, "of an image's values: categorical, logistic, logistic_mixture, beta_binomial", at_least(2, WIDEST))
LAYERS = {
    "upper_dim": Key(50, "two_layer: numbers in z2", at_least(1, WIDEST)),
    "upper_hidden": Key((100, 100), "two_layer: widths from z1 to z2; mirrored from z2, or a condition, to z1", WIDTHS),
}

# ---- posteriors


def gaussian_heads(config):
    return {"mean": (config.latent_dim,), "log_std": (config.latent_dim,)}


def normal_posterior(config):
    make = lambda weights, q_params: Normal(q_params["mean"], q_params["log_std"])
    return Posterior(gaussian_heads(config), make, factorizes=True)


def full_normal_posterior(config):
    """The entries below the diagonal come in a vector, divided by sqrt(Z): all of them count like one number."""
    dim = config.latent_dim
    where = np.tril_indices(dim, -1)

    def make(weights, q_params):
        lower = jnp.zeros((*q_params["mean"].shape, dim))
        if dim > 1:
            lower = lower.at[..., *where].set(q_params["lower"] / math.sqrt(dim))
        return gaussians.FullNormal(q_params["mean"], q_params["log_std"], lower)

    lower = {"lower": (dim * (dim - 1) // 2,)} if dim > 1 else {}
    ascent = natural(("mean", "log_std", "lower"), full_step) if dim > 1 else natural()
    return Posterior(gaussian_heads(config) | lower, make, ascent=ascent)


@declares(rank=Key(2, "low_rank: columns of the factor beside the diagonal", at_least(1, WIDEST)))
def low_rank_posterior(config):
    make = lambda weights, q_params: gaussians.LowRankNormal(q_params["mean"], q_params["log_std"], q_params["factor"])
    return Posterior(gaussian_heads(config) | {"factor": (config.latent_dim, config.rank)}, make)


@declares(flow_layers=FLOW_LAYERS)
def planar_posterior(config):
    def make(weights, q_params):
        return flows.PlanarFlow(q_params["mean"], q_params["log_std"], {name: q_params[name] for name in "wvb"})

    layers = (config.flow_layers, config.latent_dim)
    heads = gaussian_heads(config) | {"w": layers, "v": layers, "b": layers[:1]}
    return Posterior(heads, make, density_anywhere=False)


FLOW_CONTEXT = Key(
    50, "coupling, iaf posteriors: numbers that the encoder tells the flow of each x", at_least(1, WIDEST)
)


def shared_flow(family, init, density_anywhere=True, least_dim=0):
    """A flow whose network all examples share; what it sees of each is its own context."""

    @declares(flow_layers=FLOW_LAYERS, flow_width=FLOW_WIDTH, flow_context=FLOW_CONTEXT)
    def posterior(config):
        make = lambda weights, q_params: family(q_params["mean"], q_params["log_std"], q_params["context"], weights)
        size = (config.latent_dim, config.flow_layers, config.flow_width, config.flow_context)
        heads = gaussian_heads(config) | {"context": (config.flow_context,)}
        return Posterior(heads, make, lambda key: init(key, *size), True, density_anywhere, least_dim=least_dim)

    return posterior


@declares(**LAYERS)
def two_layer_posterior(config):
    """q(z1|x) from q_params, q(z2|z1) by a network that all examples share. z1 is latent_dim, z2 upper_dim long."""
    upper, normal = upper_network(config, config.upper_hidden, config.upper_dim)

    def make(weights, q_params):
        lower = Normal(q_params["mean"], q_params["log_std"])
        return gaussians.TwoLayerPosterior(lower, jax.tree_util.Partial(normal, weights))

    init = lambda key: upper.init(key, jnp.zeros((1, config.latent_dim)))
    return Posterior(gaussian_heads(config), make, init, layered=True)


def upper_network(config, widths, outputs):
    """(Network, (weights, z) -> Normal) between the layers of a two-layer model."""
    network = networks.make_heads(widths, config.activation, {"mean": (outputs,), "log_std": (outputs,)})
    return network, lambda weights, z: Normal(**network.apply(weights, z))


def dirac_posterior(config):
    make = lambda weights, q_params: gaussians.Dirac(q_params["mean"])
    return Posterior({"mean": (config.latent_dim,)}, make, has_density=False)


POSTERIORS = {
    "normal": normal_posterior,
    "full_normal": full_normal_posterior,
    "low_rank": low_rank_posterior,
    "planar": planar_posterior,
    "coupling": shared_flow(flows.CouplingFlow, flows.init_coupling, least_dim=2),
    "iaf": shared_flow(flows.InverseAutoregressiveFlow, flows.init_autoregressive, density_anywhere=False),
    "two_layer": two_layer_posterior,
    "dirac": dirac_posterior,
}


# ---- priors


def standard_normal_prior(config):
    return Prior(lambda weights, condition, encode: StandardNormal((config.latent_dim,)), standard_normal=True)


@declares(components=COMPONENTS)
def mixture_prior(config):
    """Components that begin at draws from N(0, I), equally likely."""

    def init(key, x_init, condition):
        mean = jax.random.normal(key, (config.components, config.latent_dim))
        return {"logits": jnp.zeros(config.components), "mean": mean, "log_std": jnp.zeros_like(mean)}

    return Prior(lambda weights, condition, encode: gaussians.NormalMixture(**weights), init, reparameterized=False)


@declares(
    components=COMPONENTS,
    vamp_inputs=Key("learned", "of a vamp prior; data: they stay training images", one_of(("learned", "data"))),
)
def vamp_prior(config):
    """1/C sum_c q(z|u_c), the encoder's base Gaussians at pseudo-inputs u_c. Tomczak and Welling (2018), eq. 9.

    The u_c begin at training images; vamp_inputs = data leaves them there.
    """

    def init(key, x_init, condition):
        chosen, noise = jax.random.split(key)
        order = jax.random.permutation(chosen, len(x_init))
        inputs = jnp.asarray(x_init)[order[jnp.arange(config.components) % len(x_init)]]
        return {"inputs": inputs + SMALL * jax.random.normal(noise, inputs.shape)}

    def make(weights, condition, encode):
        inputs = weights["inputs"]
        q_params = encode(jax.lax.stop_gradient(inputs) if config.vamp_inputs == "data" else inputs)
        return gaussians.NormalMixture(jnp.zeros(config.components), q_params["mean"], q_params["log_std"])

    return Prior(make, init, needs_encoder=True)


@declares(flow_layers=FLOW_LAYERS, flow_width=FLOW_WIDTH)
def flow_prior(config):
    """A coupling flow of N(0, I), the identity at first."""
    dim = config.latent_dim

    def make(weights, condition, encode):
        return flows.CouplingFlow(jnp.zeros(dim), jnp.zeros(dim), jnp.zeros(0), weights)

    init = lambda key, x_init, condition: flows.init_coupling(key, dim, config.flow_layers, config.flow_width)
    return Prior(make, init, least_dim=2)


@declares(**LAYERS)
def two_layer_prior(config):
    """p(z2) p(z1|z2), the network the mirror of the posterior's. Burda et al. (2016), section 5."""
    lower, normal = upper_network(config, config.upper_hidden[::-1], config.latent_dim)

    def make(weights, condition, encode):
        return gaussians.TwoLayerPrior(jax.tree_util.Partial(normal, weights), config.upper_dim)

    return Prior(make, lambda key, x_init, condition: lower.init(key, jnp.zeros((1, config.upper_dim))), layered=True)


@declares(upper_hidden=LAYERS["upper_hidden"])
def conditional_prior(config):
    """p(z|c) = N(mean(c), sigma(c)^2), by a network. Sohn et al. (2015), section 4.1."""
    network, normal = upper_network(config, config.upper_hidden[::-1], config.latent_dim)
    flat = lambda condition: condition.reshape(len(condition), -1).astype(float)

    def make(weights, condition, encode):
        return normal(weights, flat(condition))

    return Prior(make, lambda key, x_init, condition: network.init(key, flat(condition)), conditional=True)


PRIORS = {
    "standard_normal": standard_normal_prior,
    "mixture": mixture_prior,
    "vamp": vamp_prior,
    "flow": flow_prior,
    "two_layer": two_layer_prior,
    "conditional": conditional_prior,
}


# ---- likelihoods

START_LOG_SCALE = -2.0  # of a logistic, in units of the range [0, 1]


def logit(mean):
    """The logit of the mean image, clipped to [1e-3, 1 - 1e-3]. Burda et al. (2016), published code."""
    mean = jnp.clip(mean, 1e-3, 1 - 1e-3)
    return jnp.log(mean / (1 - mean))


def continuous_logit(mean) -> Any:
    """The logit at which a continuous Bernoulli has this mean, by bisection."""

    def halve(_, ends):
        middle = (ends[0] + ends[1]) / 2
        above = likelihoods.ContinuousBernoulli(middle).mean > mean
        return jnp.where(above, ends[0], middle), jnp.where(above, middle, ends[1])

    mean = jnp.clip(mean, 1e-3, 1 - 1e-3)
    return sum(jax.lax.fori_loop(0, 40, halve, (jnp.full_like(mean, -1e3), jnp.full_like(mean, 1e3)))) / 2


def bernoulli(config, event_shape):
    make = lambda weights, out: Bernoulli(out[..., 0], len(event_shape))
    return Likelihood(1, make, lambda mean: logit(mean)[..., None], levels=2, rounds=False)


def continuous_bernoulli(config, event_shape):
    make = lambda weights, outputs: likelihoods.ContinuousBernoulli(outputs[..., 0], len(event_shape))
    return Likelihood(1, make, lambda mean: continuous_logit(mean)[..., None])


@declares(
    sigma=Key(1.0, "standard deviation of the normal likelihood, or where it begins", POSITIVE),
    sigma_mode=Key(
        "fixed",
        "learned: one number; per_dimension; optimal: the batches' best, in closed form",
        one_of(("fixed", "learned", "per_dimension", "optimal")),
    ),
)
def normal(config, event_shape):
    """N(f(z), sigma^2): sigma sets how much a nat of KL is worth, since the squared error is divided by 2 sigma^2.

    sigma_mode: fixed; learned, one number; per_dimension, one for each element; optimal, one number that each step
    moves towards the sigma that maximizes the likelihood of its batch: `optimal_sigma`.
    """
    mode, log_sigma = config.sigma_mode, math.log(config.sigma)
    shape = event_shape if mode == "per_dimension" else ()

    def make(weights, outputs):
        mean = outputs[..., 0]
        return Normal(mean, jnp.broadcast_to(weights.get("log_sigma", log_sigma), mean.shape), len(event_shape))

    init = dict if mode == "fixed" else lambda: {"log_sigma": jnp.full(shape, log_sigma)}
    update: Any = {"closed_form_update": partial(optimal_sigma, math.prod(event_shape))} if mode == "optimal" else {}
    return Likelihood(1, make, lambda mean: mean[..., None], init, **update, bounded=False)


OPTIMAL_RATE = 0.1  # how much of the way to its batch's optimum sigma^2 goes in a step


def optimal_sigma(size, new, old, gradient):
    """The variance a step nearer to the mean squared error, in closed form. Rybkin et al. (2021), eq. 6.

    D log sigma + SSE / (2 sigma^2) has the gradient D (1 - SSE / D / sigma^2) by log sigma, which tells the optimum.
    """
    factor = jnp.maximum(1 - OPTIMAL_RATE * gradient["log_sigma"] / size, 0.5)
    return {"log_sigma": old["log_sigma"] + 0.5 * jnp.log(factor)}


@declares(levels=LEVELS)
def categorical(config, event_shape):
    make = lambda weights, outputs: likelihoods.Categorical(outputs, len(event_shape))
    bias = lambda mean: continuous_logit(mean)[..., None] * jnp.linspace(0, 1, config.levels)
    return Likelihood(config.levels, make, bias, levels=config.levels)


@declares(levels=LEVELS)
def logistic(config, event_shape):
    def make(weights, outputs):
        return likelihoods.DiscretizedLogistic(outputs[..., 0], outputs[..., 1], config.levels, len(event_shape))

    return Likelihood(2, make, lambda m: jnp.stack([m, jnp.full_like(m, START_LOG_SCALE)], -1), levels=config.levels)


@declares(levels=LEVELS, mixture_size=Key(5, "logistic_mixture: logistics for each pixel", at_least(1, 100)))
def logistic_mixture(config, event_shape):
    """For each element and component a logit, a mean, a log scale and a coefficient; components begin side by side."""
    if event_shape[-1] not in (1, 3):
        raise ConfigError(
            f"config.model.likelihood = logistic_mixture needs a last axis of 1 or 3 channels, the data are "
            f"{list(event_shape)}: use logistic"
        )
    count = config.mixture_size

    def make(weights, outputs):
        parts = outputs.reshape(*outputs.shape[:-1], 4, count)
        logits, means, log_scales, coefficients = (parts[..., i, :] for i in range(4))
        return likelihoods.LogisticMixture(logits, means, log_scales, coefficients, config.levels, len(event_shape))

    def bias(mean):
        spread = jnp.linspace(-0.2, 0.2, count) if count > 1 else jnp.zeros(1)
        means, none = mean[..., None] + spread, jnp.zeros((*mean.shape, count))
        return jnp.concatenate([none, means, none + START_LOG_SCALE, none], -1)

    return Likelihood(4 * count, make, bias, levels=config.levels)


@declares(levels=LEVELS)
def beta_binomial(config, event_shape):
    make = lambda weights, out: likelihoods.BetaBinomial(out[..., 0], out[..., 1], config.levels, len(event_shape))
    return Likelihood(2, make, lambda mean: jnp.stack([logit(mean) / 2, -logit(mean) / 2], -1), levels=config.levels)


LIKELIHOODS = {
    "bernoulli": bernoulli,
    "continuous_bernoulli": continuous_bernoulli,
    "normal": normal,
    "categorical": categorical,
    "logistic": logistic,
    "logistic_mixture": logistic_mixture,
    "beta_binomial": beta_binomial,
}
