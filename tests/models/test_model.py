"""A model is its formulas: networks, likelihood, first bias; for any shape of data, with a condition or without."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.commands import configuration
from vae_jax.data.splits import Info
from vae_jax.distributions.basic import Bernoulli, Normal, StandardNormal
from vae_jax.models import networks
from vae_jax.models.families import LIKELIHOODS, POSTERIORS, PRIORS
from vae_jax.models.model import make_model
from vae_jax.objectives.elbo import elbo_fn

K, B, Z = 3, 4, 2
SHAPES = [(8, 8, 1), (5,), (4, 4, 3)]


def make_config(likelihood="bernoulli", hidden=(6, 4), **changes):
    config = configuration.default()
    config.data.binarization = "none"  # a density of coin flips is refused
    config.model.update({"likelihood": likelihood, "hidden": hidden, "latent_dim": Z, **changes})
    return configuration.validate(config)


def make_info(event_shape):
    return Info("test", event_shape, 100, 0, (0.0, 1.0), None)


@functools.cache
def example(likelihood="bernoulli", event_shape=(2, 3), conditional=False, sigma=1.0):
    """(model, params, x [B, *event], z [K, B, Z], condition): small, with weights and biases from N(0, 1/4)."""
    model = make_model(make_config(likelihood, sigma=sigma), make_info(event_shape))
    rng = np.random.default_rng(0)
    x, z = rng.uniform(size=(B, *event_shape)).astype(np.float32), rng.normal(size=(K, B, Z)).astype(np.float32)
    condition = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]] if conditional else None
    shapes, _ = jax.eval_shape(model.init, jax.random.key(0), x, condition)
    params = jax.tree.map(lambda leaf: (rng.normal(size=leaf.shape) / 2).astype(leaf.dtype), shapes)
    return model, params, x, z, condition


def layer(params, h):
    return h @ np.asarray(params["kernel"]) + np.asarray(params["bias"])


def hidden_layers(params, h):
    for name in ("Dense_0", "Dense_1"):
        h = np.tanh(layer(params["MLP_0"][name], h))
    return h


def test_names_are_those_of_the_config():
    for field, table in [("posterior", POSTERIORS), ("prior", PRIORS), ("likelihood", LIKELIHOODS)]:
        assert configuration.keys()[f"model.{field}"].check.expected is table


@pytest.mark.parametrize("event_shape", SHAPES)
@pytest.mark.parametrize("likelihood, family", [("bernoulli", Bernoulli), ("normal", Normal)])
def test_shapes(likelihood, family, event_shape, key):
    """x [B, *event] -> rows [B, Z] -> q -> z [K, B, Z] -> p(x|z) with mean [K, B, *event] and log_prob [K, B]."""
    model = make_model(make_config(likelihood), make_info(event_shape))

    def use(key, x):
        params, local = model.init(key, x)
        assert local == ()
        rows = model.encode(params, x)
        q, prior = model.make_q(params, rows), model.prior(params)
        assert isinstance(q, Normal) and isinstance(prior, StandardNormal)
        z = q.sample(key, (K,))
        p = model.decode(params, z)
        assert isinstance(p, family)
        image = p.sample(key)
        return rows, q.log_prob(z), prior.log_prob(z), prior.sample(key, (K, B)), p.mean, image, p.log_prob(x)

    rows, log_q, log_prior, prior_z, mean, image, log_lik = jax.eval_shape(use, key, jnp.zeros((B, *event_shape)))
    assert {name: row.shape for name, row in rows.items()} == {"mean": (B, Z), "log_std": (B, Z)}
    assert log_q.shape == log_prior.shape == log_lik.shape == (K, B) and prior_z.shape == (K, B, Z)
    assert mean.shape == image.shape == (K, B, *event_shape)


def test_a_model_by_hand():
    """Widths 6, 4 from x to two heads, 4, 6 back from z to the logits, and the Bernoulli likelihood of them."""
    model, params, x, z, _ = example()
    h = hidden_layers(params["encoder"], x.reshape(B, 6))
    rows = model.encode(params, x)
    for name in ("mean", "log_std"):
        np.testing.assert_allclose(rows[name], layer(params["encoder"][name], h), rtol=1e-5, atol=1e-6)
    logits = layer(params["decoder"]["output"], hidden_layers(params["decoder"], z)).reshape(K, B, 2, 3)
    p = model.decode(params, z)
    mean = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(p.mean, mean, rtol=1e-5)
    log_prob = (x * np.log(mean) + (1 - x) * np.log(1 - mean)).sum((2, 3))
    np.testing.assert_allclose(p.log_prob(x), log_prob, rtol=1e-5)
    q = model.make_q(params, rows)
    assert q.mean is rows["mean"] and q.log_std is rows["log_std"]


@pytest.mark.parametrize("sigma", [1.0, 0.25])
def test_normal_likelihood_has_the_configs_sigma(sigma):
    """log N(x; f, sigma^2) = sum -(x - f)^2 / (2 sigma^2) - log sigma - log(2 pi) / 2 over 6 elements."""
    model, params, x, z, _ = example("normal", sigma=sigma)
    mean = layer(params["decoder"]["output"], hidden_layers(params["decoder"], z)).reshape(K, B, 2, 3)
    p = model.decode(params, z)
    np.testing.assert_allclose(p.mean, mean, rtol=1e-4, atol=1e-6)
    expected = (-((x - mean) ** 2) / (2 * sigma**2) - np.log(sigma) - 0.5 * np.log(2 * np.pi)).sum((2, 3))
    np.testing.assert_allclose(p.log_prob(x), expected, rtol=1e-4)


@pytest.mark.parametrize(
    "likelihood, event_shape, activation", [("bernoulli", (4, 4, 3), "tanh"), ("normal", (5,), "gelu")]
)
def test_an_untrained_decoder_emits_the_mean_image_at_zero(likelihood, event_shape, activation, key):
    """Biases start at 0 and these activations keep 0, so at z = 0 only the output bias is left; each pixel its own."""
    x = np.random.default_rng(0).uniform(size=(7, *event_shape)).astype(np.float32)
    model = make_model(make_config(likelihood, hidden=(3,), activation=activation), make_info(event_shape))
    params, _ = jax.jit(model.init)(key, x)
    np.testing.assert_allclose(model.decode(params, jnp.zeros((1, 1, Z))).mean[0, 0], x.mean(0), rtol=1e-5)


def test_pixels_always_off_or_on_start_just_inside(key):
    """The mean image 0, 1/2, 1 is clipped to 0.001 .. 0.999: logits log(1/999), 0 and log(999)."""
    x = np.float32([[0, 0, 1], [0, 1, 1]])
    model = make_model(make_config(hidden=()), make_info((3,)))
    params, _ = jax.jit(model.init)(key, x)
    np.testing.assert_allclose(params["decoder"]["output"]["bias"], np.log([1 / 999, 1, 999]), rtol=1e-4, atol=1e-6)


def test_init_is_a_function_of_the_key():
    """The same key, the same numbers; another key, another kernel; encoder and decoder do not share one."""
    model = make_model(make_config(hidden=(4, 4)), make_info((2, 3)))
    init = jax.jit(lambda key: model.init(key, jnp.full((5, 2, 3), 0.3))[0])
    one, again, other = init(jax.random.key(1)), init(jax.random.key(1)), init(jax.random.key(2))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    kernel = lambda params, network: np.asarray(params[network]["MLP_0"]["Dense_1"]["kernel"])
    assert np.abs(kernel(one, "encoder") - kernel(other, "encoder")).min() > 0
    assert np.abs(kernel(one, "encoder") - kernel(one, "decoder")).min() > 0


def test_params_are_plain_nested_dicts_of_float32():
    def check(params):
        assert type(params) is dict and all(isinstance(name, str) for name in params)
        for value in params.values():
            check(value) if isinstance(value, dict) else np.testing.assert_equal(value.dtype, np.float32)

    model = make_model(make_config(), make_info((2, 3)))
    params, _ = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2, 3)))
    assert set(params) == {"encoder", "decoder"}
    check(params)


def test_parameters_of_table_1(key):
    """784-200-200-50 tanh and its mirror: Burda et al. (2016), one stochastic layer.

    encoder  784*200+200 + 200*200+200 = 197,200 and two heads of 200*50+50 = 10,050:   217,300
    decoder  50*200+200 + 200*200+200 = 50,400 and 200*784+784 = 157,584:               207,984
    """
    model = make_model(configuration.validate(configuration.default()), make_info((28, 28, 1)))
    params = jax.eval_shape(model.init, key, jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32))[0]
    params = jax.tree.map(lambda leaf: np.empty(leaf.shape), params)
    assert [networks.count(params[name]) for name in ("encoder", "decoder")] == [217_300, 207_984]
    assert networks.count(params) == 425_284


def test_amortized_inference_is_the_encoder():
    model, params, x, _, condition = example(conditional=True)
    batch = {"image": x, "condition": condition}
    jax.tree.map(
        np.testing.assert_array_equal,
        model.infer(params, (), jax.random.split(jax.random.key(0), B), batch, None),
        model.encode(params, x, condition),
    )


def test_nothing_leaks_across_the_batch():
    """d rows[i] / d x[j] and d logits[k, i] / d z[l, j] are exactly zero unless i = j (and k = l), and then are not."""
    model, params, x, z, _ = example()
    rows = jax.jit(jax.jacrev(lambda x: model.encode(params, x)))(x)
    for jacobian in rows.values():  # [B, Z, B, 2, 3]
        touched = np.abs(jacobian).max((1, 3, 4)) > 0
        np.testing.assert_array_equal(touched, np.eye(B, dtype=bool))
    jacobian = jax.jit(jax.jacrev(lambda z: model.decode(params, z).logits))(z)  # [K, B, 2, 3, K, B, Z]
    touched = np.abs(jacobian).max((2, 3, 6)).reshape(K * B, K * B) > 0
    np.testing.assert_array_equal(touched, np.eye(K * B, dtype=bool))


@pytest.mark.parametrize("likelihood", ["bernoulli", "normal"])
def test_the_condition_reaches_its_own_example_in_both_networks(likelihood):
    """Exactly the example whose label changes gets other rows and, in every sample, another p(x|z)."""
    model, params, x, z, condition = example(likelihood, conditional=True)
    changed = condition.copy()
    changed[2] = condition[0]
    rows = [model.encode(params, x, c)["mean"] for c in (condition, changed)]
    np.testing.assert_array_equal((rows[0] != rows[1]).any(1), [False, False, True, False])
    means = [model.decode(params, z, c).mean for c in (condition, changed)]
    np.testing.assert_array_equal((means[0] != means[1]).any((2, 3)), [[False, False, True, False]] * K)
    assert model.prior(params, condition).log_prob(z).shape == (K, B)


@pytest.mark.parametrize("shape, width", [((), 1), ((3,), 3), ((2, 2), 4)])
def test_a_condition_of_any_shape_widens_both_first_layers(shape, width, key):
    """6 pixels or 2 latents, and the condition flattened beside them; a label [B] counts as one number."""
    model = make_model(make_config(), make_info((2, 3)))
    params = jax.eval_shape(model.init, key, jnp.zeros((B, 2, 3)), jnp.zeros((B, *shape)))[0]
    first = {name: params[name]["MLP_0"]["Dense_0"]["kernel"].shape[0] for name in params}
    assert first == {"encoder": 6 + width, "decoder": Z + width}


def mean_elbo(model, params, x):
    q = model.make_q(params, model.encode(params, x))
    return elbo_fn(jax.random.key(7), x, q, lambda z: model.decode(params, z), model.prior(params)).elbo.mean()


def test_every_parameter_gets_a_gradient():
    model, params, x, _, _ = example()
    gradient = jax.jit(jax.grad(lambda params: mean_elbo(model, params, x)))(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 1e-5, jax.tree_util.keystr(path)


def test_jit_and_vmap_over_params():
    """Two sets of parameters at once give what each gives alone."""
    model, params, x, z, _ = example()
    both = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), params)
    use = lambda params: (model.encode(params, x), model.decode(params, z).logits)
    together = jax.jit(jax.vmap(use))(both)
    for i, alone in enumerate([use(params), use(jax.tree.map(lambda p: 2 * p, params))]):
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5), together, alone)


def test_a_model_comes_back_from_json_without_its_data():
    """Configuration and info as a run saves them, lists for tuples: the saved parameters mean what they meant."""
    config, info = make_config("normal", sigma=0.5), make_info((2, 3))
    _, params, x, z, _ = example("normal", sigma=0.5)
    saved = json.loads(json.dumps([config.to_dict(), info._asdict()]))
    assert isinstance(saved[0]["model"]["hidden"], list) and isinstance(saved[1]["event_shape"], list)
    loaded = make_model(type(configuration.default())(saved[0]), Info(**saved[1]))
    model = make_model(config, info)
    for name in ("mean", "log_std"):
        np.testing.assert_array_equal(loaded.encode(params, x)[name], model.encode(params, x)[name])
    np.testing.assert_array_equal(loaded.decode(params, z).log_prob(x), model.decode(params, z).log_prob(x))
