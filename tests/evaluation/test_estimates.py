"""log p(x) from draws of the prior and of q on a model whose log p(x) is known."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from vae_jax.distributions.basic import Normal, StandardNormal
from vae_jax.evaluation import bounds
from vae_jax.keys import split_keys
from vae_jax.models.model import Model
from vae_jax.parallel import devices

K = 4096


class Options:
    curve_examples, num_samples, chunk_images = 4, K, 100


@pytest.fixture(scope="module")
def model(linear_gaussian):
    g = linear_gaussian
    log_sigma = jnp.full(5, np.log(g.sigma), jnp.float32)

    def decode(params, z, condition=None):
        mean = z @ jnp.float32(g.weight.T) + jnp.float32(g.bias)
        return Normal(mean, jnp.broadcast_to(log_sigma, mean.shape))

    functions = {
        "make_q": lambda params, rows: Normal(rows["mean"], rows["log_std"]),
        "decode": decode,
        "prior": lambda params, condition=None: StandardNormal((3,)),
        "conditional": False,
    }
    return Model(**{**dict.fromkeys(Model._fields), **Model._field_defaults, **functions})


def examples(g, shift=0.0, widen=0.0):
    """x with q = p(z|x), moved and widened."""
    log_std = np.broadcast_to(g.log_std + widen, g.mean.shape)
    rows = {"mean": np.float32(g.mean + shift), "log_std": np.float32(log_std)}
    return {"image": np.float32(g.x), "q_params": rows, "key": split_keys(0, "test", 4)}


@pytest.fixture(scope="module")
def weights(model, linear_gaussian):
    """log w of both sources, of a q that is off."""
    return bounds.measure(model, {}, examples(linear_gaussian, 0.2, 0.2), Options, devices.ONE_DEVICE)


@pytest.mark.parametrize("source", ["prior", "q"])
def test_both_converge_to_log_px(weights, linear_gaussian, source):
    """Within five standard errors, sqrt(1/ESS - 1/K) of the log of a mean; of q's draws more count."""
    estimate, ess = (value[:, 0] for value in bounds.running(weights[source], np.array([K])))
    assert weights[source].shape == (4, K)
    assert np.all(np.abs(estimate - linear_gaussian.log_px) < 5 * np.sqrt(1 / ess - 1 / K))
    assert ess.min() > (0.5 * K if source == "q" else 20)
    if source == "prior":
        assert np.all(ess < 0.5 * bounds.running(weights["q"], np.array([K]))[1][:, 0])


def test_at_the_true_posterior_one_draw_is_enough(model, linear_gaussian):
    found = bounds.measure(model, {}, examples(linear_gaussian), Options, devices.ONE_DEVICE)["q"]
    np.testing.assert_allclose(found[:, :1], linear_gaussian.log_px[:, None], atol=2e-5)
    np.testing.assert_allclose(bounds.running(found, np.array([1, 7, K]))[1], np.tile([1, 7, K], (4, 1)), rtol=1e-4)


def test_the_prior_estimate_rises_to_log_px(weights, linear_gaussian):
    """A lower bound in expectation: the mean over many blocks of k draws rises with k and stays below log p(x)."""
    log_w = weights["prior"].astype(np.float64)
    blocks = [np.logaddexp.reduce(log_w.reshape(4, -1, k), 2) - np.log(k) for k in (1, 8, 64, 512)]
    bounds = [block.mean(1) for block in blocks]
    assert np.all(np.diff(bounds, axis=0) > 0)
    assert np.all(bounds[1] < linear_gaussian.log_px)
    assert np.all(bounds[2] < linear_gaussian.log_px + 4 * scipy.stats.sem(blocks[2], axis=1))


def test_draws_are_nested_and_those_of_the_nll(model, weights, linear_gaussian):
    chunk = examples(linear_gaussian, 0.2, 0.2)
    nll = bounds.importance_log_px(model, {}, chunk, 37, 10)
    (estimate,), (ess,) = (value.T for value in bounds.running(weights["q"], np.array([37])))
    np.testing.assert_allclose(estimate, nll["log_px"], rtol=1e-5)
    np.testing.assert_allclose(ess, nll["ess"], rtol=1e-4)
    fewer = type("Fewer", (Options,), {"num_samples": 37, "chunk_images": 40})
    again = bounds.measure(model, {}, chunk, fewer, devices.ONE_DEVICE)
    for source, log_w in again.items():
        np.testing.assert_allclose(log_w, weights[source][:, :37], rtol=1e-4, atol=1e-4)


def test_each_example_has_draws_of_its_own(weights, linear_gaussian):
    """Else errors would not be independent over examples: the same x twice has other weights."""
    assert np.abs(np.corrcoef(np.exp(weights["prior"] - weights["prior"].max(1, keepdims=True)))[0, 1:]).max() < 0.9


def test_a_conditional_prior_draws_from_each_examples_own(model, linear_gaussian):
    """Given the true posterior as p(z|c), the mean of log w is E log p(x|z) under it, a closed form."""
    g = linear_gaussian
    own = Normal(jnp.float32(g.mean), jnp.broadcast_to(jnp.float32(g.log_std), g.mean.shape))
    given = model._replace(conditional=True, prior=lambda params, condition=None: own)
    log_w = bounds.log_weights(given, {}, examples(g), "prior", 2000, 100).T
    residual = ((g.x - g.bias - g.mean @ g.weight.T) ** 2).sum(-1) + (g.weight**2 * np.exp(2 * g.log_std)).sum()
    expected = -0.5 * residual / g.sigma**2 - 2.5 * np.log(2 * np.pi * g.sigma**2)
    stderr = np.std(log_w, axis=1) / np.sqrt(2000)
    assert np.all(np.abs(np.mean(log_w, axis=1) - expected) < 5 * stderr)


def test_counts_and_numbers_by_hand():
    assert list(bounds.counts(1)) == [1]
    assert list(bounds.counts(8)) == [1, 2, 4, 8]
    assert list(bounds.counts(11)) == [1, 2, 4, 8, 11]
    weights = np.log([[1.0, 3.0], [2.0, 2.0]])
    estimate, ess = bounds.running(weights, np.array([1, 2]))
    np.testing.assert_allclose(np.exp(estimate), [[1, 2], [2, 2]])
    np.testing.assert_allclose(ess, [[1, 16 / 10], [1, 2]])
    numbers = bounds.numbers({"prior": weights})
    assert numbers["log_px_from_prior"]["value"] == pytest.approx(np.log(2))
    assert numbers["log_px_from_prior"]["unit"] == "nats, 2 draws, 2 examples"
    assert numbers["ess_from_prior"]["value"] == pytest.approx(1.8)
    assert numbers["ess_from_prior"]["stderr"] == pytest.approx(0.2)
