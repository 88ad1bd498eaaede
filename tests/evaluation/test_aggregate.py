"""The aggregate posterior against sums written out, what a probe reads off codes, and where to look among codes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.special import logsumexp
from sklearn.decomposition import PCA

from vae_jax.distributions.basic import Normal, StandardNormal, kl_standard_normal
from vae_jax.evaluation import generation, latent_space
from vae_jax.keys import Use, fold_each, split_keys
from vae_jax.models.model import Model
from vae_jax.parallel import devices

N, Z, D = 12, 2, 3
W = np.float32([[1.0, 0.5, -0.5], [0.0, 1.0, 2.0]])


class Few:
    chunk_images = 5


@pytest.fixture(scope="module")
def model():
    functions = {
        "make_q": lambda params, rows: Normal(rows["mean"], rows["log_std"]),
        "decode": lambda params, z, condition=None: Normal(z @ W, jnp.zeros(D)),
        "prior": lambda params, condition=None: StandardNormal((Z,)),
    }
    return Model(**{**dict.fromkeys(Model._fields), **Model._field_defaults, **functions})


@pytest.fixture(scope="module")
def examples():
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
    rows = {"mean": normal(N, Z), "log_std": 0.3 * normal(N, Z) - 0.5}
    keys = split_keys(0, "test", N)
    return {"image": normal(N, D), "q_params": rows, "mean": rows["mean"], "key": keys}


def test_the_aggregate_posterior_is_the_mean_of_all(model, examples):
    """I and KL(q(z) || p(z)) from the same draws, in float64; the chunks do not matter; I is at most log N."""
    numbers = latent_space.mixture_numbers(model, {}, examples, Few, devices.ONE_DEVICE)
    mean, std = np.float64(examples["q_params"]["mean"]), np.exp(np.float64(examples["q_params"]["log_std"]))
    keys = fold_each(examples["key"], Use.AGGREGATE)
    eps = np.stack([np.asarray(jax.random.normal(key, (1, Z)))[0] for key in keys])
    z = mean + std * eps
    each = scipy.stats.norm.logpdf(z[:, None], mean, std).sum(-1)  # [draw, example]
    mixture, prior = logsumexp(each, axis=1) - np.log(N), scipy.stats.norm.logpdf(z).sum(-1)
    np.testing.assert_allclose(numbers["mutual_information"]["value"], (each.diagonal() - mixture).mean(), rtol=1e-4)
    np.testing.assert_allclose(numbers["kl_aggregate"]["value"], (mixture - prior).mean(), rtol=1e-3, atol=1e-4)
    assert numbers["mutual_information"]["value"] < np.log(N)
    assert numbers["mutual_information"]["unit"] == f"nats, at most log {N} = {np.log(N):.2f}"


def test_the_kl_of_each_dimension_adds_up(model, examples):
    kl = latent_space.mean_kl(model, {}, examples, Few, devices.ONE_DEVICE)
    whole = kl_standard_normal(examples["q_params"]["mean"], examples["q_params"]["log_std"]).mean()
    assert kl.shape == (Z,)
    np.testing.assert_allclose(kl.sum(), whole, rtol=1e-5)
    numbers = latent_space.further_numbers(model, {}, examples, Few, devices.ONE_DEVICE)
    assert numbers["active_units_kl"] == {"value": 2, "stderr": None, "unit": "of 2"}
    error = np.mean((examples["image"] - examples["mean"] @ W) ** 2)
    got = generation.squared_error(model, {}, examples, Few, devices.ONE_DEVICE)
    np.testing.assert_allclose(got.mean(), error, rtol=1e-5)


def test_probes_read_what_is_there_and_nothing_else():
    """Two clusters are told apart by both; a ring around a disc by neighbours alone; labels at random by neither."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 400)
    apart = rng.normal(size=(400, Z)) * 0.3 + 4 * label[:, None]
    angle = rng.uniform(0, 2 * np.pi, 400)
    ring = (1 + 2 * label)[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1) + 0.1 * rng.normal(size=(400, Z))
    noise = rng.normal(size=(400, Z))
    got = {}
    for name, code in {"apart": apart, "ring": ring, "noise": noise}.items():
        numbers = latent_space.accuracies(code[:200], label[:200], code[200:], label[200:])
        got[name] = [numbers[probe]["value"] for probe in ("linear_probe_accuracy", "knn_accuracy")]
    assert min(got["apart"]) > 0.99 and got["ring"][1] > 0.99
    assert got["ring"][0] < 0.65 and max(got["noise"]) < 0.65


def test_where_to_look():
    """The quantile grid is symmetric and z2 rises upwards; lines and walks end where they should; the nearest are."""
    grid = latent_space.quantile_grid(5)
    assert grid.shape == (25, 2)
    np.testing.assert_allclose(scipy.stats.norm.cdf(grid[:5, 0]), np.arange(0.1, 1, 0.2), rtol=1e-5)
    np.testing.assert_allclose(grid, -grid[::-1], atol=1e-6)
    assert grid[0, 1] > grid[-1, 1]
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(30, 4)).astype(np.float32) * [1, 3, 2, 0.1]
    between = latent_space.lines(codes[:2], codes[2:4], 5)
    np.testing.assert_allclose(
        between[:, [0, 2, 4]].swapaxes(0, 1), [codes[:2], (codes[:2] + codes[2:4]) / 2, codes[2:4]]
    )
    assert list(latent_space.most_used(codes, 3)) == [1, 2, 0]
    walked = latent_space.walks(codes[0], [1, 3], 3, 2.0)
    np.testing.assert_allclose(walked[0, :, 1], [-2, 0, 2])
    np.testing.assert_allclose(walked[1, :, :3], np.tile(codes[0, :3], (3, 1)), rtol=1e-6)
    found = latent_space.nearest(codes[:3], codes, 4)
    far = np.linalg.norm(codes[:3, None] - codes, axis=-1)
    np.testing.assert_array_equal(found, np.argsort(far, axis=1)[:, :4])
    pca = PCA(2).fit(codes)
    projected, share = latent_space.principal(codes)
    np.testing.assert_allclose(np.abs(projected), np.abs(pca.transform(codes)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(share, pca.explained_variance_ratio_, rtol=1e-4)


def test_draws_of_a_posterior_are_each_examples_own(model, examples):
    """What an example's draws decode to does not change with who else is in the chunk."""
    some = lambda rows: {name: jax.tree.map(lambda leaf: leaf[rows], leaf) for name, leaf in examples.items()}
    both, alone = (latent_space.posterior_draws(model, {}, some(rows), 4) for rows in (slice(0, 2), slice(1, 2)))
    assert both.shape == (2, 4, D)
    np.testing.assert_allclose(both[1], alone[0], rtol=1e-5)
    z = latent_space.aggregate_draws(model, {}, some(slice(0, 3)))
    assert z.shape == (3, Z)
