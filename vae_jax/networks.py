"""Networks: Flax Linen modules behind pairs of pure functions. Nothing outside this file knows Flax.

A network plugs in as any Flax module with one of two signatures, an optional `condition` [B, ...] beside the input:

    encoder(x [B, *event], condition=None) -> {name: [B, *shape]}            the rows of a posterior family
    decoder(z [K, B, Z], condition=None)   -> [K, B, *event, num_outputs]    the parameters of a likelihood
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

ACTIVATIONS = {
    "tanh": nn.tanh,
    "relu": nn.relu,
    "elu": nn.elu,
    "gelu": nn.gelu,
    "softplus": nn.softplus,
    "swish": nn.swish,
}


class Network(NamedTuple):
    init: Callable  # (key, *inputs) -> params
    apply: Callable  # (params, *inputs) -> output


def dense(width, name=None):
    """A layer as in Burda et al. (2016): Glorot-uniform weights, zero bias."""
    return nn.Dense(width, kernel_init=nn.initializers.glorot_uniform(), name=name)


def with_condition(h, condition):
    """h `[..., D]` and a condition `[B, ...]`, flattened and repeated over samples, side by side."""
    if condition is None:
        return h
    condition = condition.reshape(condition.shape[0], -1).astype(h.dtype)
    return jnp.concatenate([h, jnp.broadcast_to(condition, (*h.shape[:-1], condition.shape[-1]))], axis=-1)


class MLP(nn.Module):
    """Dense layers of the given widths with one activation; no widths: the identity."""

    widths: tuple
    activation: str

    @nn.compact
    def __call__(self, h):
        for width in self.widths:
            h = ACTIVATIONS[self.activation](dense(width)(h))
        return h


class MLPEncoder(nn.Module):
    """x -> hidden layers -> one linear head for each entry of a row, say mean and log_std."""

    widths: tuple
    activation: str
    heads: dict  # name -> shape

    @nn.compact
    def __call__(self, x, condition=None):
        h = with_condition(x.reshape(x.shape[0], -1), condition)
        h = MLP(self.widths, self.activation)(h)
        return {name: dense(math.prod(s), name)(h).reshape(-1, *s) for name, s in self.heads.items()}


class MLPDecoder(nn.Module):
    """z -> hidden layers -> `num_outputs` numbers for each element of the event."""

    widths: tuple
    activation: str
    event_shape: tuple
    num_outputs: int

    @nn.compact
    def __call__(self, z, condition=None):
        h = MLP(self.widths, self.activation)(with_condition(z, condition))
        output = dense(math.prod(self.event_shape) * self.num_outputs, "output")(h)
        return output.reshape(*z.shape[:-1], *self.event_shape, self.num_outputs)


ENCODERS = {"mlp": MLPEncoder}
DECODERS = {"mlp": MLPDecoder}


def make_encoder(config, heads):
    """The encoder of `config` (config.model) as a Network; `heads` are the names and shapes of a row."""
    return functional(ENCODERS[config.encoder](tuple(config.hidden), config.activation, heads))


def make_decoder(config, event_shape, num_outputs):
    """The decoder of `config` (config.model) as a Network; its hidden widths mirror the encoder's."""
    widths = tuple(reversed(config.hidden))
    return functional(DECODERS[config.decoder](widths, config.activation, event_shape, num_outputs))


def functional(module):
    """A Linen module as a pair of pure functions over plain nested dicts."""
    init = lambda key, *inputs: module.init(key, *inputs)["params"]
    apply = lambda params, *inputs: module.apply({"params": params}, *inputs)
    return Network(init, apply)


def with_output_bias(params, bias):
    """A decoder's params with the bias of its last layer, named 'output', set to `bias`."""
    output = {**params["output"], "bias": jnp.reshape(bias, jnp.shape(params["output"]["bias"]))}
    return {**params, "output": output}


def count(params):
    """How many numbers a pytree of parameters holds."""
    return sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(params))
