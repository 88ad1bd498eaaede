"""Evaluation against exact answers: log p(x) of a linear-Gaussian model, and every draw made again one by one."""

import math
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.commands import configuration
from vae_jax.distributions.basic import Normal, StandardNormal
from vae_jax.evaluation import bounds, generation, latent_space, summary
from vae_jax.evaluation.examples import bits_per_dim, in_chunks, summarize, with_q_params
from vae_jax.keys import Use, seed_key, split_keys
from vae_jax.models.model import Model, make_model
from vae_jax.parallel import devices

N, SEED, DRAWS = 10, 5, 7  # examples, evaluation seed, draws of each


@pytest.fixture(scope="module")
def model():
    """x = W z + b + sigma eps as a Model, written by hand; a condition is added to the mean of x."""

    def decode(params, z, condition=None):
        mean = z @ params["weight"].T + params["bias"]
        return Normal(mean if condition is None else mean + condition, jnp.log(params["sigma"]))

    functions = {
        "make_q": lambda params, rows: Normal(rows["mean"], rows["log_std"]),
        "decode": decode,
        "prior": lambda params, condition=None: StandardNormal(params["weight"].shape[1:]),
    }
    return Model(**{**dict.fromkeys(Model._fields), **Model._field_defaults, **functions})


@pytest.fixture(scope="module")
def params(linear_gaussian):
    return {name: np.float32(getattr(linear_gaussian, name)) for name in ("weight", "bias", "sigma")}


@pytest.fixture(scope="module")
def examples(linear_gaussian):
    """make(count, shift, widen) -> examples 0, 1, 2, 3, 0, 1, ... with keys of their own, as evaluation has them.

    Their q is the true posterior with the mean moved by `shift` and log_std by `widen`.
    """
    lg = linear_gaussian

    def make(count, shift=0.0, widen=0.0, dtype=np.float32):
        i = np.arange(count) % len(lg.x)
        log_std = np.broadcast_to(lg.log_std + widen, lg.mean.shape)
        rows = {"mean": (lg.mean[i] + shift).astype(dtype), "log_std": log_std[i].astype(dtype)}
        return {
            "image": lg.x[i].astype(dtype),
            "q_params": rows,
            "mean": rows["mean"],
            "key": split_keys(SEED, "test", count),
        }

    return make


@pytest.fixture(scope="module")
def by_hand(linear_gaussian, examples):
    """(examples, log p(x|z), log p(z), log q(z|x), each [DRAWS, N]): a loop over examples and draws, in float64.

    The key of draw k of example i of the test split: fold_in(fold_in(fold_in(fold_in(root, 2), i), EVAL_DRAW), k).
    """
    lg, made = linear_gaussian, examples(N, 0.3, 0.2)
    fold_in = jax.jit(jax.random.fold_in)
    noise = jax.jit(lambda key: jax.random.normal(key, (1, lg.weight.shape[1]))[0])
    log_normal = lambda x, mean, std: (-0.5 * ((x - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)).sum()
    terms = np.zeros((3, DRAWS, N))
    for i in range(N):
        example_key = fold_in(fold_in(fold_in(seed_key(SEED, Use.SEED_EVALUATION), 2), i), Use.EVAL_DRAW)
        mean, std = lg.mean[i % 4] + 0.3, np.exp(lg.log_std + 0.2)
        for k in range(DRAWS):
            z = mean + std * np.asarray(noise(fold_in(example_key, k)), np.float64)
            likelihood = log_normal(lg.x[i % 4], lg.weight @ z + lg.bias, lg.sigma)
            terms[:, k, i] = likelihood, log_normal(z, 0, np.ones(len(z))), log_normal(z, mean, std)
    return made, *terms


def log_mean_exp(values):
    return np.log(np.exp(values).mean(0))


# log p(x)


def test_exact_at_the_true_posterior_from_one_draw(model, examples, linear_gaussian):
    """p(x|z) p(z) / q(z|x) is p(x) for any one z when q is the posterior."""
    with jax.enable_x64(True):
        params = {name: jnp.asarray(getattr(linear_gaussian, name), float) for name in ("weight", "bias", "sigma")}
        got = bounds.importance_log_px(model, params, examples(4, dtype=np.float64), 1, 1)
        np.testing.assert_allclose(got["log_px"], linear_gaussian.log_px, rtol=0, atol=1e-11)
        np.testing.assert_allclose(got["ess"], 1, rtol=1e-9)


def test_equal_weights_make_every_draw_count(model, params, examples, linear_gaussian):
    """At the posterior the mean of 7 equal weights is p(x), and the effective sample size is 7, not 9."""
    got = bounds.importance_log_px(model, params, examples(N), DRAWS, 3)
    np.testing.assert_allclose(got["log_px"], linear_gaussian.log_px[np.arange(N) % 4], rtol=2e-6)
    np.testing.assert_allclose(got["ess"], 7, rtol=1e-4)


def test_a_lower_bound_that_closes_with_more_draws(model, params, examples, linear_gaussian):
    """Off the posterior, over 4,000 repetitions of each example, within five standard errors:

    E L_1 = log p(x) - KL(q || p(z|x)), E L_1 < E L_8 <= log p(x), and E exp L_K = p(x) for every K.
    """
    lg, repeats = linear_gaussian, 4000
    chunk = examples(4 * repeats, 0.3, 0.2)
    means = []
    for num_samples in (1, 8):
        got = bounds.importance_log_px(model, params, chunk, num_samples, 8)
        assert (got["ess"] <= num_samples * 1.0001).all() and (got["ess"] > 0.999).all()
        gap = np.asarray(got["log_px"], np.float64).reshape(repeats, 4) - lg.log_px
        stderr = lambda values: 5 * values.std(0) / math.sqrt(repeats)
        np.testing.assert_array_less(np.abs(np.exp(gap).mean(0) - 1), stderr(np.exp(gap)))
        np.testing.assert_array_less(gap.mean(0), stderr(gap))
        if num_samples == 1:
            kl = lg.kl_to_posterior(lg.mean + 0.3, lg.log_std + 0.2)
            np.testing.assert_array_less(np.abs(gap.mean(0) + kl), stderr(gap))
            assert (kl > 0.2).all()
        means.append(gap.mean(0))
    assert (means[0] < 4 * means[1]).all()


@pytest.mark.parametrize("samples_at_once", [3, 50])
def test_exactly_the_k_draws_of_each_example_count(samples_at_once, model, params, by_hand):
    """7 draws in blocks of 3 and of 50 are the 7 draws made one by one; ESS = (sum w)^2 / sum w^2."""
    chunk, log_lik, log_prior, log_q = by_hand
    log_w = log_lik + log_prior - log_q
    got = bounds.importance_log_px(model, params, chunk, DRAWS, samples_at_once)
    np.testing.assert_allclose(got["log_px"], log_mean_exp(log_w), rtol=2e-6)
    weights = np.exp(log_w)
    np.testing.assert_allclose(got["ess"], weights.sum(0) ** 2 / (weights**2).sum(0), rtol=1e-4)


@pytest.mark.parametrize("size, num_devices", [(3, 0), (5, 4)])
def test_neither_chunks_nor_devices_change_a_number(size, num_devices, model, params, by_hand):
    """10 examples in chunks of 3, and of 5 made 8 to be shared by four devices."""
    chunk, log_lik, log_prior, log_q = by_hand
    spread = devices.spread(devices.make_mesh(num_devices)) if num_devices else devices.ONE_DEVICE
    used = set()

    def function(chunk):
        result = bounds.importance_log_px(model, params, chunk, DRAWS, 4)
        used.update(result["log_px"].sharding.device_set)
        return result

    got = in_chunks(function, chunk, size, spread)
    np.testing.assert_allclose(got["log_px"], log_mean_exp(log_lik + log_prior - log_q), rtol=2e-6)
    assert len(used) == max(1, num_devices)


def test_far_from_the_data_nothing_overflows(model, params, examples):
    """Log weights near -1e5, whose exponentials are all 0: the bound stays finite, and one draw carries the sum."""
    chunk = examples(N)
    got = bounds.importance_log_px(model, params, {**chunk, "image": chunk["image"] + 300}, DRAWS, 3)
    assert np.isfinite(got["log_px"]).all() and (got["log_px"] < -1e4).all()
    np.testing.assert_allclose(np.median(got["ess"]), 1, atol=0.01)
    assert got["ess"].max() < 1.5  # a second draw may come close to the best one


def test_the_condition_reaches_the_decoder(model, params, by_hand):
    """x + c given the condition c, which moves the mean of x by c, has the likelihood of x; without it, it has not."""
    chunk, log_lik, log_prior, log_q = by_hand
    condition = np.random.default_rng(0).normal(size=chunk["image"].shape).astype(np.float32)
    moved = {**chunk, "image": chunk["image"] + condition}
    got, lost = [
        bounds.importance_log_px(model, params, given, DRAWS, 3)["log_px"]
        for given in ({**moved, "condition": condition}, moved)
    ]
    expected = log_mean_exp(log_lik + log_prior - log_q)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert np.abs(lost - expected).max() > 1


# The bound and its terms


def test_terms_are_averages_over_the_same_draws(model, params, by_hand):
    """The first 3 of the draws above; KL(q || N(0, I)) = sum (m^2 + s^2 - 1) / 2 - log s needs none."""
    chunk, log_lik, _, _ = by_hand
    got = bounds.elbo_terms(model, params, chunk, 3)
    np.testing.assert_allclose(got["log_likelihood"], log_lik[:3].mean(0), rtol=2e-6)
    mean, log_std = [np.float64(chunk["q_params"][name]) for name in ("mean", "log_std")]
    np.testing.assert_allclose(got["kl"], (0.5 * (mean**2 + np.exp(2 * log_std) - 1) - log_std).sum(1), rtol=1e-5)
    np.testing.assert_allclose(got["elbo"], got["log_likelihood"] - got["kl"], rtol=1e-5)


# Keys


def test_split_keys_are_of_seed_split_and_example():
    data = lambda *args: jax.random.key_data(split_keys(*args))
    np.testing.assert_array_equal(data(0, "test", 5)[:3], data(0, "test", 3))
    everything = np.concatenate([data(seed, split, 4) for seed in (0, 1) for split in ("train", "valid", "test")])
    assert len(np.unique(everything, axis=0)) == 2 * 3 * 4


# Chunks


@pytest.mark.parametrize(
    "size, multiple, calls",
    [
        (3, 1, [[0, 1, 2], [3, 4, 5], [6, 6, 6]]),
        (7, 1, [[0, 1, 2, 3, 4, 5, 6]]),
        (100, 1, [[0, 1, 2, 3, 4, 5, 6]]),
        (3, 4, [[0, 1, 2, 3], [4, 5, 6, 4]]),  # a multiple of the devices
        (100, 4, [[0, 1, 2, 3, 4, 5, 6, 0]]),
    ],
)
def test_chunks_have_one_shape_and_keep_the_order(size, multiple, calls):
    """Seven examples: what each call gets; the filling is cut off again."""
    given, put, done = [], [], []
    arrays = {"a": np.arange(7), "b": (np.arange(14.0).reshape(7, 2), {"c": np.arange(7) < 3})}

    def function(chunk):
        given.append(chunk["a"].tolist())
        return {"square": chunk["a"] ** 2, "rest": chunk["b"]}

    spread = devices.Spread(lambda tree: (put.append(1), tree)[1], multiple)
    got = in_chunks(function, arrays, size, spread, done.append)
    assert given == calls and len(put) == len(calls)
    np.testing.assert_array_equal(got["square"], np.arange(7) ** 2)
    jax.tree.map(np.testing.assert_array_equal, got["rest"], arrays["b"])
    assert done == [min(7, len(calls[0]) * (i + 1)) for i in range(len(calls))]


def test_chunks_compile_once_and_carry_keys():
    """A jitted function is traced once, although the last chunk is not full; results are on the host."""
    traces, keys = [], split_keys(0, "valid", 7)

    @jax.jit
    def function(chunk):
        traces.append(1)
        return jax.vmap(jax.random.uniform)(chunk["key"]) + chunk["x"]

    got = in_chunks(function, {"key": keys, "x": np.arange(7.0, dtype=np.float32)}, 3)
    assert len(traces) == 1 and isinstance(got, np.ndarray)
    np.testing.assert_allclose(got, jax.vmap(jax.random.uniform)(keys) + np.arange(7), rtol=1e-6)


# Summaries


def test_bits_per_dim_by_hand():
    """64 ln 2 nats over 8 x 8 x 1 pixels: one bit each."""
    np.testing.assert_allclose(bits_per_dim(64 * math.log(2), (8, 8, 1)), 1)
    np.testing.assert_allclose(bits_per_dim(np.array([0, 10 * math.log(2)]), (5,)), [0, 2])


def test_active_units_by_hand():
    """Variances over the data 0, 0.0081, 0.0121 and 1, whatever the mean: the last two are above 0.01."""
    sign = np.array([1, -1, 1, -1])[:, None]
    assert latent_space.active_units(sign * [0, 0.09, 0.11, 1] + [5, 5, 5, 5]) == 2


def test_summary_by_hand():
    """1, 2, 3, 4: mean 5/2, variance 5/3, standard error sqrt(5/3 / 4)."""
    got = summarize(np.float32([1, 2, 3, 4]))
    assert got["value"] == 2.5 and got["unit"] == "nats"
    np.testing.assert_allclose(got["stderr"], math.sqrt(5 / 12), rtol=1e-12)


def test_summary_of_one_example_has_no_standard_error():
    assert summarize([3.0], "bits/dim") == {"value": 3.0, "stderr": None, "unit": "bits/dim"}


def test_summary_is_in_float64():
    """2^24 + 1 is not a float32: their sum would lose the 1."""
    assert summarize(np.float32([2**24, 1]))["value"] == 2**23 + 0.5


# A model as a run has it


@pytest.fixture(scope="module")
def measured():
    """(numbers, the same measured again, examples): a model with random weights, 24 images in chunks of 10."""
    config = configuration.default()
    config.model.hidden, config.model.latent_dim = (8,), 3
    config.eval.elbo_samples, config.eval.num_samples, config.eval.chunk_images = 5, 60, 500
    model = make_model(configuration.validate(config), SimpleNamespace(event_shape=(8, 8, 1), condition_shape=None))
    rng = np.random.default_rng(0)
    x = (rng.uniform(size=(24, 8, 8, 1)) < rng.uniform(size=(8, 8, 1))).astype(np.float32)
    shapes, _ = jax.eval_shape(model.init, jax.random.key(0), x)
    params = jax.tree.map(lambda leaf: (rng.normal(size=leaf.shape) / 2).astype(leaf.dtype), shapes)
    made = {"image": x, "key": split_keys(0, "test", 24), "index": np.arange(24)}
    chunks = SimpleNamespace(eval=SimpleNamespace(chunk_images=10), inference=SimpleNamespace(num_samples=1))
    rows = with_q_params(model, params, made, chunks, devices.ONE_DEVICE)["q_params"]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), rows, model.encode(params, x))
    made["q_params"], made["mean"] = rows, rows["mean"]
    measure = lambda: summary.measure_all(model, params, made, config, devices.ONE_DEVICE, shown=False)
    return measure(), measure(), made


def test_measured_again_every_number_is_the_same(measured):
    assert measured[0] == measured[1]


def test_the_bounds_are_in_order(measured):
    """ELBO < -NLL: 60 draws bound log p(x) more tightly than one."""
    numbers = {name: entry["value"] for name, entry in measured[0].items()}
    assert numbers["elbo"] < -numbers["nll"] < 0
    np.testing.assert_allclose(numbers["elbo"], numbers["log_likelihood"] - numbers["kl"], rtol=1e-6)
    assert numbers["kl"] > 0 and measured[0]["elbo"]["stderr"] > 0


def test_every_number_has_its_unit(measured):
    numbers, _, made = measured
    units = {name: entry["unit"] for name, entry in numbers.items()}
    assert units == {
        **dict.fromkeys(("elbo", "log_likelihood", "kl", "nll"), "nats"),
        **dict.fromkeys(("elbo_bits_per_dim", "nll_bits_per_dim"), "bits/dim"),
        "squared_error": "per element",
        "ess": "of 60",
        "pareto_k": "",
        "pareto_k_high": "of examples, k > 0.7",
        "active_units": "of 3",
    }
    assert numbers["nll"]["num_samples"] == 60 and 1 < numbers["ess"]["value"] < 60
    assert numbers["active_units"]["value"] == latent_space.active_units(made["q_params"]["mean"])
    for name in ("elbo", "nll"):
        for what in ("value", "stderr"):
            bits = numbers[name][what] / (64 * math.log(2))
            np.testing.assert_allclose(numbers[f"{name}_bits_per_dim"][what], bits, rtol=1e-6)


# Pictures


def test_reconstructions_decode_the_mean_of_q(model, params, examples, linear_gaussian):
    chunk, lg = examples(4, 0.3), linear_gaussian
    got = generation.reconstruct(model, params, chunk)
    np.testing.assert_allclose(got, (lg.mean + 0.3) @ lg.weight.T + lg.bias, rtol=1e-5, atol=1e-6)


def test_samples_decode_draws_from_the_prior(model, params, linear_gaussian, key):
    got, lg = generation.prior_means(model, params, key, 6), linear_gaussian
    z = np.asarray(jax.random.normal(key, (6, lg.weight.shape[1])))
    np.testing.assert_allclose(got, z @ lg.weight.T + lg.bias, rtol=1e-5, atol=1e-5)
