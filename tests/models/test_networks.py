"""Networks against the formulas they stand for, written out in NumPy."""

import json
import math
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.commands import configuration
from vae_jax.models import networks
from vae_jax.models.model import make_model

ACTIVATIONS = {
    "tanh": np.tanh,
    "relu": lambda h: np.maximum(h, 0),
    "elu": lambda h: np.where(h > 0, h, np.exp(np.minimum(h, 0)) - 1),
    "gelu": lambda h: 0.5 * h * (1 + np.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3))),
    "softplus": lambda h: np.log1p(np.exp(h)),
    "swish": lambda h: h / (1 + np.exp(-h)),
}


def layer(params, h):
    return h @ np.asarray(params["kernel"]) + np.asarray(params["bias"])


def random_params(network, *inputs):
    """Params of the network's own shapes from N(0, 1), biases too: one left out would not show at zero."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), shapes)


def test_every_activation_is_covered():
    assert set(ACTIVATIONS) == set(networks.ACTIVATIONS)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_is_layers_with_an_activation_after_each(activation):
    network = networks.functional(networks.MLP((3, 2), activation))
    x = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    params = random_params(network, x)
    h = x
    for name in ("Dense_0", "Dense_1"):
        h = ACTIVATIONS[activation](layer(params[name], h))
    assert h.shape == (4, 2)
    np.testing.assert_allclose(network.apply(params, x), h, rtol=1e-5, atol=1e-6)


def test_mlp_without_layers_is_the_identity(key):
    module = networks.MLP((), "tanh")
    np.testing.assert_array_equal(module.apply(module.init(key, jnp.arange(3.0)), jnp.arange(3.0)), [0, 1, 2])


def test_dense_is_glorot_uniform_with_zero_bias(key):
    """U(-a, a) with a = sqrt(6 / (300 + 100)): all 30,000 weights within, the largest near a, variance a^2 / 3."""
    network = networks.functional(networks.dense(100))
    params = jax.jit(network.init)(key, jnp.zeros((1, 300)))
    limit, kernel = math.sqrt(6 / 400), np.asarray(params["kernel"])
    assert kernel.shape == (300, 100) and 0.999 * limit < np.abs(kernel).max() <= limit * (1 + 1e-6)
    # the variance of u^2 for u ~ U(-a, a) is (1/5 - 1/9) a^4: standard error 0.0017 a^2 over 30,000 weights
    np.testing.assert_allclose(np.mean(kernel**2), limit**2 / 3, rtol=5 * 0.0017 * 3)
    np.testing.assert_array_equal(params["bias"], np.zeros(100))


@pytest.mark.parametrize(
    "condition, columns",
    [
        (np.eye(3)[[2, 0]], [[0, 0, 1], [1, 0, 0]]),  # one-hot labels
        (np.array([4, 7]), [[4], [7]]),  # integer labels, one number each
        (np.arange(8.0).reshape(2, 2, 2), [[0, 1, 2, 3], [4, 5, 6, 7]]),  # an array, flattened
    ],
)
@pytest.mark.parametrize("samples", [(), (3,)])
def test_with_condition_puts_each_examples_own_beside_it(condition, columns, samples):
    """Two examples, with or without three samples each: the same condition beside every sample of an example."""
    h = np.random.default_rng(0).normal(size=(*samples, 2, 5)).astype(np.float16)  # a type a condition would widen
    got = networks.with_condition(h, jnp.asarray(condition))
    assert got.dtype == np.float16 and got.shape == (*samples, 2, 5 + len(columns[0]))
    np.testing.assert_array_equal(got[..., :5], h)
    np.testing.assert_array_equal(got[..., 5:], np.broadcast_to(columns, got[..., 5:].shape))


def test_without_a_condition_nothing_is_added():
    h = jnp.ones((2, 3))
    assert networks.with_condition(h, None) is h


def test_encoder_by_hand():
    """An image [2, 2, 1] beside a condition of one number -> 3 tanh units -> a linear head for each entry of a row."""
    heads = {"mean": (2,), "matrix": (2, 3), "scalar": ()}
    network = networks.functional(networks.MLPEncoder((3,), "tanh", heads))
    x = np.random.default_rng(0).normal(size=(4, 2, 2, 1)).astype(np.float32)
    condition = np.arange(4.0, dtype=np.float32)
    params = random_params(network, x, condition)
    h = np.tanh(layer(params["MLP_0"]["Dense_0"], np.column_stack([x.reshape(4, 4), condition])))
    rows = network.apply(params, x, condition)
    assert set(rows) == set(heads)
    for name, shape in heads.items():
        np.testing.assert_allclose(rows[name], layer(params[name], h).reshape(4, *shape), rtol=1e-5, atol=1e-6)


def test_decoder_by_hand():
    """z [K, B, Z] beside a condition -> 3 tanh units -> two numbers for each of 2 x 3 elements, outputs last."""
    network = networks.functional(networks.MLPDecoder((3,), "tanh", (2, 3), 2))
    rng = np.random.default_rng(0)
    z, condition = [rng.normal(size=s).astype(np.float32) for s in ((5, 4, 2), (4, 1))]
    params = random_params(network, z, condition)
    beside = np.concatenate([z, np.broadcast_to(condition, (5, 4, 1))], -1)
    h = np.tanh(layer(params["MLP_0"]["Dense_0"], beside))
    got = network.apply(params, z, condition)
    np.testing.assert_allclose(got, layer(params["output"], h).reshape(5, 4, 2, 3, 2), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("hidden, own", [((6, 4), ()), ([6, 4], []), ((), ()), ((6, 4), (3,))])
def test_the_decoder_mirrors_the_encoder(hidden, own, key):
    """Widths 6, 4 from x to z and 4, 6 from z to x, as a tuple or as JSON's list; or widths of the encoder's own."""
    config = configuration.default().model
    config = type(config)({**config.to_dict(), "hidden": hidden, "encoder_hidden": own})
    encoder = networks.make_encoder(config, {"mean": (2,)})
    decoder = networks.make_decoder(config, (5,), 1)

    def widths(network, shape):
        params = jax.eval_shape(network.init, key, jax.ShapeDtypeStruct(shape, jnp.float32)).get("MLP_0", {})
        return [params[f"Dense_{i}"]["bias"].size for i in range(len(params))]

    assert widths(encoder, (1, 5)) == list(own or hidden)
    assert widths(decoder, (1, 1, 2)) == list(reversed(hidden))


def test_output_bias_replaces_one_leaf_and_changes_nothing_in_place():
    network = networks.functional(networks.MLPDecoder((3,), "tanh", (2, 2), 1))
    params = random_params(network, jnp.zeros((1, 1, 2)))
    params["MLP_0"]["Dense_0"]["bias"] *= 0
    before = params["output"]["bias"].copy()
    bias = jnp.arange(4.0).reshape(2, 2, 1)
    new = networks.with_output_bias(params, bias)
    np.testing.assert_array_equal(params["output"]["bias"], before)
    np.testing.assert_array_equal(new["output"]["bias"], [0, 1, 2, 3])
    assert new["output"]["kernel"] is params["output"]["kernel"] and new["MLP_0"] is params["MLP_0"]
    # tanh(0) = 0, so at z = 0 the bias is all that is left, in the shape of the event
    np.testing.assert_array_equal(network.apply(new, jnp.zeros((1, 1, 2)))[0, 0], bias)


def test_any_flax_module_becomes_a_pair_of_functions_over_plain_dicts(key):
    class Shift(nn.Module):
        @nn.compact
        def __call__(self, x, condition=None):
            return x + self.param("shift", nn.initializers.ones, (1,)) * (0 if condition is None else condition)

    network = networks.functional(Shift())
    params = jax.jit(network.init)(key, jnp.zeros(2))
    assert json.loads(json.dumps(jax.tree.map(np.ndarray.tolist, jax.device_get(params)))) == {"shift": [1.0]}
    np.testing.assert_array_equal(network.apply({"shift": np.ones(1)}, jnp.arange(2.0), np.array([1, 2])), [1, 3])


def test_count_by_hand():
    """2 * 3 weights, 3 biases and one number: 10."""
    assert networks.count({"a": {"kernel": np.zeros((2, 3)), "bias": np.zeros(3)}, "b": np.float32(1)}) == 10


def conv_config(**changes):
    config = configuration.default().model
    config.update({"encoder": "conv", "decoder": "conv", "channels": (2, 4, 6), "hidden": (), **changes})
    return config


def test_images_without_channels_are_those_of_one(key):
    """`[H, W]`: the same weights, the same numbers as `[H, W, 1]`."""
    config = conv_config()
    x, z = jax.random.uniform(key, (3, 9, 8)), jax.random.normal(key, (2, 3, 5))
    encoder = networks.make_encoder(config, {"mean": (5,)})
    flat, deep = (networks.make_decoder(config, shape, 1) for shape in ((9, 8), (9, 8, 1)))

    @jax.jit
    def applied(key):
        params = encoder.init(key, x)
        means = encoder.apply(params, x)["mean"], encoder.apply(params, x[..., None])["mean"]
        params = flat.init(key, z)
        with_axis = params | {"output": {"bias": params["output"]["bias"][:, :, None]}}
        return means, (flat.apply(params, z)[..., 0], deep.apply(with_axis, z)[..., 0, 0])

    for one, other in applied(key):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name, between", [("conv", 0), ("conv", 1), ("resnet", 2)])
def test_convolutions_mirror_each_other(name, between, key):
    """Features from x to z and back, kernels 3x3; a doubling emits four times its features."""
    config = conv_config(encoder=name, decoder=name, between=between)
    encoder, decoder = networks.make_encoder(config, {"mean": (5,)}), networks.make_decoder(config, (9, 8, 3), 1)
    down = jax.eval_shape(encoder.init, key, jax.ShapeDtypeStruct((1, 9, 8, 3), jnp.float32))
    up = jax.eval_shape(decoder.init, key, jax.ShapeDtypeStruct((1, 1, 5), jnp.float32))
    shapes = [leaf["kernel"].shape[2:] for path, leaf in down.items() if path.startswith("Conv_")]
    assert sorted(shapes) == sorted([(3, 2), (2, 4), (4, 6), *[(2, 2), (4, 4)] * between])
    doubled = [up[f"Doubling_{i}"]["Conv_0"]["kernel"].shape[2:] for i in range(3)]
    assert doubled == [(6, 4 * 4), (4, 4 * 2), (2, 4 * 3)]
    assert sorted(leaf["kernel"].shape[2:] for path, leaf in up.items() if path.startswith("Conv_")) == sorted(
        [(2, 2), (4, 4)] * between
    )
    assert up["Dense_0"]["kernel"].shape == (5, 2 * 1 * 6)
    outputs = jax.eval_shape(decoder.apply, up, jax.ShapeDtypeStruct((7, 4, 5), jnp.float32))
    assert outputs.shape == (7, 4, 9, 8, 3, 1) and up["output"]["bias"].shape == (9, 8, 3, 1)


def test_a_doubling_begins_as_a_resize_and_gives_each_of_four_pixels_features_of_its_own():
    """Equal kernels: each pixel of a convolution repeated 2 x 2. Four numbers of one pixel: 2 x 2, rows first."""
    network = networks.functional(networks.Doubling(3))
    h = np.random.default_rng(0).normal(size=(2, 4, 5, 2)).astype(np.float32)
    params = network.init(jax.random.key(0), h)
    kernel = np.asarray(params["Conv_0"]["kernel"])
    once = networks.convolve(h, kernel[..., :3])
    np.testing.assert_allclose(network.apply(params, h), once.repeat(2, 1).repeat(2, 2), rtol=1e-5, atol=1e-6)
    params = {"Conv_0": {"kernel": 0 * kernel, "bias": np.arange(12.0)}}
    got = network.apply(params, h)
    np.testing.assert_array_equal(got[0, 2:4, 4:6], np.arange(12.0).reshape(2, 2, 3))


# ---- precision


def test_bfloat16_rounds_what_is_computed_and_nothing_else():
    """Within bfloat16's 2^-8 of float32 and not equal to it; parameters, outputs and gradients are float32."""
    config = configuration.default().model
    network = networks.make_encoder(config, {"mean": (3,), "log_std": (3,)})
    x = jax.random.uniform(jax.random.key(1), (16, 4, 4, 1))
    params = jax.jit(network.init)(jax.random.key(0), x)
    low = networks.in_precision(network, "bfloat16")
    exact, rounded = (jax.jit(each.apply)(params, x)["mean"] for each in (network, low))
    assert rounded.dtype == jnp.float32 and 0 < abs(exact - rounded).max() < 2**-8 * 4 * abs(exact).max()
    gradient = jax.eval_shape(jax.grad(lambda params: low.apply(params, x)["mean"].sum()), params)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, gradient))} == {jnp.dtype("float32")}
    assert networks.in_precision(network, "float32") is network


@pytest.mark.parametrize("decoder", ["mlp", "conv", "linear"])
def test_bfloat16_does_not_round_z_before_the_decoder(decoder):
    """Draws of N(1, 0.003^2), of which bfloat16 knows 4: their decoded means differ, and rise with z as in float32."""
    config = configuration.default().model
    config.update({"decoder": decoder, "hidden": (64,), "channels": (8,), "latent_dim": 2})
    network = networks.make_decoder(config, (4, 4, 1), 1)
    z = jnp.stack([1 + 0.003 * jax.random.normal(jax.random.key(1), (1, 400)), jnp.full((1, 400), 0.7)], -1)
    assert len(np.unique(z[..., 0].astype(jnp.bfloat16))) < 6
    params = jax.jit(network.init)(jax.random.key(0), z)
    low = networks.in_precision(network, "bfloat16", round_inputs=False)
    exact, rounded = (np.asarray(jax.jit(each.apply)(params, z)).reshape(400, -1) for each in (network, low))
    assert len(np.unique(rounded, axis=0)) > 40 and rounded.dtype == np.float32
    direction = np.linalg.svd(exact - exact.mean(0), full_matrices=False)[2][0]
    assert np.corrcoef(exact @ direction, rounded @ direction)[0, 1] > 0.9
    np.testing.assert_allclose(rounded, exact, atol=0.03)


def test_a_models_decoder_takes_z_as_it_is_and_its_encoder_x_rounded():
    config = configuration.default()
    config.model.latent_dim, config.model.hidden, config.model.encoder = 2, (64,), "linear"
    info = SimpleNamespace(event_shape=(4, 4, 1), condition_shape=None, num_train=8)
    x = jnp.full((8, 4, 4, 1), 0.5)
    model = make_model(config, info, "bfloat16")
    params, _ = jax.jit(model.init)(jax.random.key(0), x)
    z = 1 + 0.003 * jax.random.normal(jax.random.key(1), (1, 400, 2))
    logits = jax.jit(lambda params: model.decode(params, z).logits)(params)
    assert len(np.unique(logits.reshape(400, -1), axis=0)) > 40
    encode = jax.jit(model.encode)
    assert (encode(params, x + 1e-4)["mean"] == encode(params, x)["mean"]).all()


def test_small_updates_are_not_lost_in_bfloat16():
    """A parameter of 1 that gains 2^-12 a hundred times: in bfloat16 itself it would never move."""
    low = networks.in_precision(networks.Network(None, lambda params, x: params["w"] * x), "bfloat16")
    params = {"w": jnp.ones(())}
    for _ in range(100):
        gradient = jax.grad(lambda params: low.apply(params, jnp.ones(())))(params)
        params = {"w": params["w"] + 2**-12 * gradient["w"]}
    np.testing.assert_allclose(params["w"], 1 + 100 * 2**-12, rtol=1e-6)
    assert low.apply(params, jnp.ones(())) == jnp.bfloat16(params["w"])
