"""Networks: Flax Linen modules behind pairs of pure functions. Nothing outside this file knows Flax.

A network plugs in as any Flax module with one of two signatures, an optional `condition` [B, ...] beside the input:

    encoder(x [B, *event], condition=None) -> {name: [B, *shape]}            the parameters of a posterior family
    decoder(z [K, B, Z], condition=None)   -> [K, B, *event, num_outputs]    the parameters of a likelihood
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vae_jax.config import DEEPEST, NO_KEYS, WIDTHS, Key, at_least

ACTIVATIONS = {
    "tanh": nn.tanh,
    "relu": nn.relu,
    "elu": nn.elu,
    "gelu": nn.gelu,
    "softplus": nn.softplus,
    "swish": nn.swish,
}


class Network(NamedTuple):
    """A pair of pure functions."""

    init: Callable  # (key, *inputs) -> params
    apply: Callable  # (params, *inputs) -> output


def dense(width, name=None):
    """A layer as in Burda et al. (2016): Glorot-uniform weights, zero bias; in the precision of its weights."""
    kept = {"promote_dtype": lambda *arrays, dtype: arrays, "dot_general": product}
    return nn.Dense(width, kernel_init=nn.initializers.glorot_uniform(), name=name, **kept)


def product(h, kernel, dimensions, precision=None):
    """h `[..., I]` times a matrix `[I, O]`, rounded to the kernel's precision when it is summed, not before."""
    precision = precision if h.dtype == kernel.dtype else "highest"
    return jnp.dot(h, kernel, precision=precision).astype(kernel.dtype)


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
    """x -> hidden layers -> one linear head for each entry of q_params, say mean and log_std."""

    widths: tuple
    activation: str
    heads: dict  # name -> shape
    event_ndims: int | None = None  # how many of x's last axes the network takes; None: all but the first

    @nn.compact
    def __call__(self, x, condition=None):
        batch = x.shape[:1] if self.event_ndims is None else x.shape[: x.ndim - self.event_ndims]
        h = with_condition(x.reshape(*batch, -1), condition)
        h = MLP(self.widths, self.activation)(h)
        return {name: dense(math.prod(s), name)(h).reshape(*batch, *s) for name, s in self.heads.items()}


class MLPDecoder(nn.Module):
    """z -> hidden layers -> `num_outputs` numbers for each element of the event."""

    widths: tuple
    activation: str
    event_shape: tuple
    num_outputs: int

    @nn.compact
    def __call__(self, z, condition=None):
        h = with_condition(z, condition)
        h = h.reshape(-1, h.shape[-1])  # gradients of products with more axes begin with a transposed copy
        h = MLP(self.widths, self.activation)(h)
        output = dense(math.prod(self.event_shape) * self.num_outputs, "output")(h)
        return output.reshape(*z.shape[:-1], *self.event_shape, self.num_outputs)


class Residual(nn.Module):
    """h + conv(act(conv(act(h)))), 3x3."""

    activation: str

    @nn.compact
    def __call__(self, h):
        act, features = ACTIVATIONS[self.activation], h.shape[-1]
        return h + convolution(features)(act(convolution(features)(act(h))))


def convolution(features, stride=1, bias=True, init=None):
    """3x3, Glorot-uniform weights unless `init` says otherwise, zero bias; flax's, with our `convolve` for the work."""
    init = init or nn.initializers.glorot_uniform()
    apply = lambda x, kernel, strides, *rest, **options: convolve(x, kernel, strides[0])
    return nn.Conv(features, (3, 3), stride, use_bias=bias, kernel_init=init, conv_general_dilated=apply)


class ConvEncoder(nn.Module):
    """x `[B, H, W, C]`, or `[B, H, W]` -> for each of `channels` one of stride 2 and residual blocks -> dense.

    Between two changes of size stand `between` further convolutions.
    """

    channels: tuple
    blocks: int
    between: int
    widths: tuple
    activation: str
    heads: dict

    @nn.compact
    def __call__(self, x, condition=None):
        act = ACTIVATIONS[self.activation]
        x = x[..., None] if x.ndim == 3 else x
        for number, features in enumerate(self.channels):
            for _ in range(self.between if number else 0):
                x = act(convolution(x.shape[-1])(x))
            x = act(convolution(features, stride=2)(x))
            for _ in range(self.blocks):
                x = Residual(self.activation)(x)
        return MLPEncoder(self.widths, self.activation, self.heads)(x, condition)


class ConvDecoder(nn.Module):
    """The mirror of ConvEncoder, its last convolution emits the outputs; their bias is one for each pixel."""

    channels: tuple
    blocks: int
    between: int
    widths: tuple
    activation: str
    event_shape: tuple
    num_outputs: int

    @nn.compact
    def __call__(self, z, condition=None):
        act = ACTIVATIONS[self.activation]
        height, width, depth = (*self.event_shape, 1)[:3]
        sizes: list[tuple] = [(height, width)]
        for _ in self.channels:
            sizes.append(tuple(-(-side // 2) for side in sizes[-1]))
        h = MLP(self.widths, self.activation)(with_condition(z, condition))
        h = act(dense(math.prod(sizes[-1]) * self.channels[-1])(h))
        h = h.reshape(-1, *sizes[-1], self.channels[-1])
        features = (depth * self.num_outputs, *self.channels[:-1])
        for number in reversed(range(len(self.channels))):
            for _ in range(self.blocks):
                h = Residual(self.activation)(h)
            h = Doubling(features[number], bias=number > 0)(h)[:, : sizes[number][0], : sizes[number][1]]
            for _ in range(self.between if number else 0):
                h = convolution(features[number])(act(h))
            h = act(h) if number else h
        outputs = h.reshape(*z.shape[:-1], *self.event_shape, self.num_outputs)
        return OutputBias(len(self.event_shape) + 1, name="output")(outputs)


class Doubling(nn.Module):
    """`[N, H, W, C]` -> `[N, 2H, 2W, features]`: 4 features for each pixel, dealt out to 2 x 2. Shi et al. (2016).

    As many multiplications as a resize and then a convolution, in less than half the time on a CPU, which convolves
    small images to many features best.
    """

    features: int
    bias: bool = True

    @nn.compact
    def __call__(self, h):
        count, height, width = h.shape[:3]
        h = convolution(4 * self.features, bias=self.bias, init=alike)(h)
        h = h.reshape(count, height, width, 2, 2, self.features).transpose(0, 1, 3, 2, 4, 5)
        return h.reshape(count, 2 * height, 2 * width, self.features)


def alike(key, shape, dtype):
    """Glorot-uniform weights, equal for the four pixels: no checkerboard to begin with. Aitken et al. (2017)."""
    return jnp.tile(nn.initializers.glorot_uniform()(key, (*shape[:-1], shape[-1] // 4), dtype), 4)


class OutputBias(nn.Module):
    """A bias for each element of the last axes, [H, W, C, num_outputs]."""

    axes: int

    @nn.compact
    def __call__(self, h):
        return h + self.param("bias", nn.initializers.zeros, h.shape[-self.axes :])


class Architecture(NamedTuple):
    """What a name of model.encoder and model.decoder stands for; `config` is config.model.

    The decoder's last layer is called 'output' and has a bias for each of its outputs: see `with_output_bias`.
    """

    encoder: Callable  # (config, heads {name: shape}) -> Network from x to q_params
    decoder: Callable  # (config, event_shape, num_outputs) -> Network from z to what a likelihood reads
    images: bool = False  # takes events [H, W, C] and [H, W] alone
    keys: dict = NO_KEYS  # of config.model, that these networks alone read


def encoder_widths(config):
    """The widths of the encoder's hidden layers."""
    return tuple(config.encoder_hidden or config.hidden)


def dense_layers(hidden=True):
    """Dense layers, with or without hidden ones."""
    used = lambda widths: tuple(widths) if hidden else ()
    return Architecture(
        lambda config, heads: functional(MLPEncoder(used(encoder_widths(config)), config.activation, heads)),
        lambda config, *outputs: functional(MLPDecoder(used(config.hidden)[::-1], config.activation, *outputs)),
    )


CONVOLUTIONS = {
    "channels": Key((32, 64), "conv, resnet: the encoder's before the hidden layers; the decoder mirrors them", WIDTHS),
    "between": Key(
        0, "conv, resnet: further convolutions between two changes of an image's size", at_least(0, DEEPEST)
    ),
}


def convolutions(blocks):
    """Convolutions of stride 2, each followed by so many residual blocks, then dense layers."""

    def encoder(config, heads):
        sizes = (tuple(config.channels), blocks, config.between, encoder_widths(config))
        return functional(ConvEncoder(*sizes, config.activation, heads))

    def decoder(config, *outputs):
        widths = tuple(config.hidden)[::-1]
        sizes = (tuple(config.channels), blocks, config.between, widths)
        return functional(ConvDecoder(*sizes, config.activation, *outputs))

    return Architecture(encoder, decoder, images=True, keys=CONVOLUTIONS)


NETWORKS = {
    "linear": dense_layers(hidden=False),
    "mlp": dense_layers(),
    "conv": convolutions(blocks=0),
    "resnet": convolutions(blocks=1),
}


def make_encoder(config, heads):
    """The encoder of `config` (config.model) as a Network; `heads` are the names and shapes of q_params."""
    if not any(math.prod(shape) for shape in heads.values()):
        return nothing_to_say(heads)
    return NETWORKS[config.encoder].encoder(config, heads)


def make_decoder(config, event_shape, num_outputs):
    """The decoder of `config` (config.model) as a Network; its hidden widths mirror the encoder's."""
    return NETWORKS[config.decoder].decoder(config, event_shape, num_outputs)


def nothing_to_say(heads):
    """The network of q_params without a number in them, those of latent_dim = 0: it has no weights."""
    return Network(
        lambda key, *inputs: {},
        lambda params, x, *condition: {name: jnp.zeros((len(x), *shape)) for name, shape in heads.items()},
    )


def constant(init):
    """The network that gives every x the same q_params, its weights; init: keys [1] -> {name: [1, *shape]}."""

    def apply(params, x, *condition):
        return {name: jnp.broadcast_to(value, (len(x), *value.shape)) for name, value in params.items()}

    return Network(lambda key, *inputs: {name: value[0] for name, value in init(key[None]).items()}, apply)


def make_heads(widths, activation, heads):
    """A Network from vectors `[..., D]` to {name: `[..., *shape]`} by hidden layers."""
    return functional(MLPEncoder(tuple(widths), activation, heads, event_ndims=1))


def functional(module):
    """A Linen module as a pair of pure functions over plain nested dicts."""
    init = lambda key, *inputs: module.init(key, *inputs)["params"]
    apply = lambda params, *inputs: module.apply({"params": params}, *inputs)
    return Network(init, apply)


def in_precision(network, precision, round_inputs=True):
    """A Network that computes in 'bfloat16' what it takes and gives in float32; 'float32' leaves it as it is.

    Parameters stay float32 and are rounded on their way in, so what an optimizer adds to them is not lost. With
    `round_inputs` False, as for a decoder, whose z may differ by less than bfloat16 tells apart, a `dense` first layer
    multiplies in float32 and rounds its sums.
    """
    if precision == "float32":
        return network

    def cast(tree, dtype):
        return jax.tree.map(lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)

    def apply(params, *inputs):
        inputs = cast(inputs, jnp.dtype(precision)) if round_inputs else inputs
        return cast(network.apply(cast(params, jnp.dtype(precision)), *inputs), jnp.float32)

    return network._replace(apply=apply)


def with_output_bias(params, bias):
    """A decoder's params with the bias of its last layer, named 'output', set to `bias`."""
    output = {**params["output"], "bias": jnp.reshape(bias, jnp.shape(params["output"]["bias"]))}
    return {**params, "output": output}


def count(params):
    """How many numbers a pytree of parameters holds."""
    return sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(params))


LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolve(x, kernel, stride=1):
    """x `[N, H, W, C]` with kernel `[h, w, C, features]`, padded as 'SAME': ceil(H / stride) rows."""
    sides = list(zip(x.shape[1:3], kernel.shape[:2], strict=True))
    totals = [max((-(-n // stride) - 1) * stride + k - n, 0) for n, k in sides]
    return conv(x, kernel, stride, tuple((total // 2, total - total // 2) for total in totals), 1, 1)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def conv(x, kernel, stride, padding, x_dilation, kernel_dilation):
    """`lax.conv_general_dilated`, strides and dilations alike on both axes, padding ((top, bottom), (left, right))."""
    dilations = (x_dilation,) * 2, (kernel_dilation,) * 2
    return jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, padding, *dilations, dimension_numbers=LAYOUT)


def forward(x, kernel, *options):
    return conv(x, kernel, *options), (x, kernel)


def backward(stride, padding, x_dilation, kernel_dilation, saved, gradient):
    """The gradient convolved with the kernel turned around, and x with the gradient; strides and dilations swap."""
    x, kernel = saved
    to_x, to_kernel = [], []
    for n, k, m, (before, _) in zip(x.shape[1:3], kernel.shape[:2], gradient.shape[1:3], padding, strict=True):
        n, k, m = (n - 1) * x_dilation + 1, (k - 1) * kernel_dilation + 1, (m - 1) * stride + 1
        to_x.append((k - 1 - before, n - m + before))
        to_kernel.append((before, k - 1 + m - n - before))
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    dx = conv(gradient, turned, x_dilation, tuple(to_x), stride, kernel_dilation)
    swapped = jnp.transpose(x, (3, 1, 2, 0)), jnp.transpose(gradient, (1, 2, 0, 3))
    dkernel: Any = conv(*swapped, kernel_dilation, tuple(to_kernel), x_dilation, stride)
    return dx, jnp.transpose(dkernel, (1, 2, 0, 3))


conv.defvjp(forward, backward)
