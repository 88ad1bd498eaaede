"""Normal densities and samplers against hand arithmetic, SciPy and finite differences."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from checks import (
    LOG_2PI,
    bernoulli_log_prob,
    check_derivatives,
    kl_standard_normal,
    log_prob,
    normal_log_prob,
    reparameterize,
    sample,
    sample_and_log_prob,
    value_and_gradients,
    vectors,
    within,
)
from hypothesis import given
from hypothesis import strategies as st

from vae_jax.distributions import basic


@pytest.mark.parametrize(
    ("mean", "log_std", "x", "expected"),
    [
        (0.0, 0.0, 0.0, -0.5 * LOG_2PI),  # -0.91894
        (1.0, math.log(2), 4.0, -9 / 8 - math.log(2) - 0.5 * LOG_2PI),  # -3^2/(2 * 4) - log 2
        (2.0, -20.0, 2.0, 20 - 0.5 * LOG_2PI),
        (2.0, -1e3, 2.0, 1e3 - 0.5 * LOG_2PI),  # sigma underflows, its logarithm does not
        (2.0, 1e3, 5.0, -1e3 - 0.5 * LOG_2PI),  # sigma overflows: the residual is nothing beside it
    ],
)
def test_normal_log_prob_by_hand(mean, log_std, x, expected):
    ours = normal_log_prob(*(np.full(1, value, np.float32) for value in (mean, log_std, x)))
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


@pytest.mark.parametrize("log_std", [-20.0, -5.0, 0.0, 5.0, 20.0])
@pytest.mark.parametrize("mean", [0.0, 1e4, -1e4])
def test_normal_log_prob_is_scipys(mean, log_std):
    """float64 SciPy, 7 dimensions, at ordinary and extreme parameters."""
    sigma = math.exp(log_std)
    x = np.float32(mean + np.array([0, 1, -3, 0.1, 1e-3, 1e4, -2e4]))
    ours = normal_log_prob(np.full(7, mean, np.float32), np.full(7, log_std, np.float32), x)
    np.testing.assert_allclose(ours, scipy.stats.norm.logpdf(np.float64(x), mean, sigma).sum(), rtol=1e-5)


_normal = value_and_gradients(basic.normal_log_prob, 3)


@given(vectors(3), vectors(3, 1e30), vectors(3), st.booleans())
def test_normal_log_prob_is_never_nan(mean, log_std, x, at_the_mean):
    """Any finite mean and x. Three log stds near 3e38 would add up to an inf of their own, so they stop at 1e30."""
    assert not np.isnan(_normal(mean, log_std, mean if at_the_mean else x)).any()


@given(vectors(3, 1e4), vectors(3, 20), vectors(3, 1e4))
def test_normal_log_prob_is_finite_in_value_and_gradient(mean, log_std, x):
    assert np.isfinite(_normal(mean, log_std, x)).all()


def test_normal_log_prob_derivatives_are_finite_differences():
    """In mean, log_std and x, float64."""
    with jax.enable_x64(True):
        point = np.random.default_rng(0).normal(size=6)
        check_derivatives(lambda all_: basic.normal_log_prob(all_[:2], all_[2:4], all_[4:]), point)


@pytest.mark.parametrize("event_ndims", range(4))
def test_normal_sums_the_event_and_no_more(event_ndims):
    """Densities `[2, 2, 3, 5]` of SciPy summed over the last axes, of a given value and of a draw with its own."""
    rng = np.random.default_rng(0)
    mean, log_std, x = (rng.normal(size=(2, 2, 3, 5)).astype(np.float32) for _ in range(3))
    normal = basic.Normal(mean, log_std, event_ndims)
    summed = tuple(range(-event_ndims, 0))
    expected = scipy.stats.norm.logpdf(x, mean, np.exp(log_std)).sum(summed)
    np.testing.assert_allclose(log_prob(normal, x), expected, rtol=1e-5)
    z, log_q = normal.sample_and_log_prob(jax.random.key(0, impl="rbg"), (4,))
    assert z.shape == (4, 2, 2, 3, 5) and log_q.shape == (4, *expected.shape)
    expected = scipy.stats.norm.logpdf(np.float64(z), mean, np.exp(log_std)).sum(summed)
    np.testing.assert_allclose(log_q, expected, rtol=1e-4, atol=1e-4)


def test_normal_log_std_broadcasts_to_every_dimension():
    """One log_std for 3 dimensions counts 3 times: log N = 3 (-log 2 - log(2 pi)/2) at the mean."""
    expected = 3 * (-math.log(2) - 0.5 * LOG_2PI)
    ones = np.ones((2, 3), np.float32)
    for shape in ((), (1,), (2, 1)):
        log_std = np.full(shape, math.log(2), np.float32)
        np.testing.assert_allclose(normal_log_prob(ones, log_std, ones), [expected] * 2, rtol=1e-6)
    normal = basic.Normal(ones, np.float32(math.log(2)))
    z, log_q = sample_and_log_prob(jax.random.key(0), normal, (4,))
    np.testing.assert_allclose(log_q, scipy.stats.norm.logpdf(z, 1, 2).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(log_prob(normal, z), scipy.stats.norm.logpdf(z, 1, 2).sum(-1), rtol=1e-5)


def test_standard_normal_log_prob_is_scipys():
    z = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)
    density = scipy.stats.norm.logpdf(z)
    np.testing.assert_allclose(log_prob(basic.StandardNormal((3,)), z), density.sum(-1), rtol=1e-5)
    np.testing.assert_allclose(log_prob(basic.StandardNormal((2, 3)), z), density.sum((1, 2)), rtol=1e-5)


def test_standard_normal_sample_is_standard(key):
    z = sample(key, basic.StandardNormal((2,)), (20_000,))
    assert z.shape == (20_000, 2)
    within(z, 0.0)
    within(z**2, 1.0)


# -------------------------------------------------------------------------------------- reparameterize


def test_reparameterize_recovers_its_noise(key):
    """(z - mean) / sigma is the same key's noise, whatever mean and sigma are, and that noise is standard normal."""
    mean, log_std = np.linspace([-3, -2], [3, 2], 20_000, dtype=np.float32).T
    eps = (np.float64(reparameterize(key, mean, log_std)) - mean) / np.exp(np.float64(log_std))
    np.testing.assert_allclose(eps, reparameterize(key, np.zeros_like(mean), np.zeros_like(mean)), atol=2e-5)
    assert scipy.stats.kstest(eps, "norm").pvalue > 1e-3
    within(eps, 0.0)
    within(eps**2, 1.0)


def test_reparameterize_gradients(key):
    """dz/dmean = 1; dz/dlog_std = sigma eps = z - mean."""
    mean, log_std = jnp.array([1.0, -2.0, 0.0]), jnp.array([0.5, -1.0, 2.0])
    z, pullback = jax.vjp(partial(reparameterize, key), mean, log_std)
    d_mean, d_log_std = pullback(jnp.ones(3))
    np.testing.assert_array_equal(d_mean, 1.0)
    np.testing.assert_allclose(d_log_std, z - mean, rtol=1e-5)


def test_reparameterize_noise_is_the_keys(key):
    """The same key, the same z; another key, another z."""
    mean, log_std = jnp.zeros((2, 3)), jnp.zeros((2, 3))
    z = reparameterize(key, mean, log_std)
    np.testing.assert_array_equal(z, reparameterize(key, mean, log_std))
    for other in jax.random.split(key):
        assert not np.isin(reparameterize(other, mean, log_std), z).any()
    np.testing.assert_array_equal(z, reparameterize(jax.random.key_data(key), mean, log_std))  # an old-style key


def test_reparameterize_gives_every_element_its_own_noise(key):
    """Also where mean is broadcast: one eps shared by a batch would be no batch of draws."""
    for mean, log_std in ((np.zeros(2), np.zeros((3, 2))), (0.0, np.zeros((3, 2))), (np.zeros((3, 2)), 0.0)):
        z = reparameterize(key, mean, log_std)
        assert z.shape == (3, 2) and len(np.unique(z)) == 6


@jax.jit
def draws_per_example(keys, rows):
    """A draw `[B, Z]` and several `[2, 3, B, Z]` from a batch of rows with keys `[B]`."""
    return basic.reparameterize(keys, rows, 0.1 * rows), basic.Normal(rows, 0.1 * rows).sample(keys, (2, 3))


def test_a_rows_noise_depends_on_its_own_key_alone():
    """Any subset of a batch, in any order, draws the rows it would have drawn in the whole batch; rows differ."""
    keys = jax.random.split(jax.random.key(1), 5)
    rows, subset = np.arange(10, dtype=np.float32).reshape(5, 2), np.array([3, 0, 4])
    for whole, part in zip(draws_per_example(keys, rows), draws_per_example(keys[subset], rows[subset]), strict=True):
        np.testing.assert_array_equal(part, np.asarray(whole)[..., subset, :])
    eps = reparameterize(keys, np.zeros((5, 2)), np.zeros((5, 2)))
    assert len(np.unique(eps)) == 10
    np.testing.assert_array_equal(eps, [reparameterize(one, np.zeros(2), np.zeros(2)) for one in keys])


def test_old_style_keys_draw_what_new_ones_do():
    old = jax.random.split(jax.random.PRNGKey(1), 5)
    assert old.shape == (5, 2) and old.dtype == np.uint32
    eps = reparameterize(old, np.zeros((5, 2)), np.zeros((5, 2)))
    np.testing.assert_array_equal(
        eps, reparameterize(jax.random.wrap_key_data(old), np.zeros((5, 2)), np.zeros((5, 2)))
    )


def test_samples_of_a_row_differ():
    keys = jax.random.split(jax.random.key(1), 5)
    z = sample(keys, basic.Normal(np.zeros((5, 2)), np.zeros((5, 2))), (3,))
    assert z.shape == (3, 5, 2) and len(np.unique(z)) == 30


@pytest.mark.parametrize("legacy", [False, True])
def test_a_wrong_number_of_keys_is_refused(legacy):
    keys = jax.random.split(jax.random.PRNGKey(1) if legacy else jax.random.key(1), 4)
    with pytest.raises(ValueError, match=r"one key per example.*\(4,\) keys.*\(5, 2\)"):
        reparameterize(keys, jnp.zeros((5, 2)), jnp.zeros((5, 2)))
    with pytest.raises(ValueError, match="one key per example"):
        basic.Normal(jnp.zeros((5, 2)), jnp.zeros((5, 2))).sample(keys)


_draw = value_and_gradients(lambda m, s: jnp.abs(basic.reparameterize(jax.random.key(0, impl="rbg"), m, s)).sum(), 2)
_own = value_and_gradients(lambda m, s: basic.Normal(m, s).sample_and_log_prob(jax.random.key(0, impl="rbg"))[1], 2)


@given(vectors(3), vectors(3, 1e30))
def test_a_draw_is_never_nan(mean, log_std):
    assert not np.isnan(_draw(mean, log_std)).any() and not np.isnan(_own(mean, log_std)).any()


@given(vectors(3, 1e4), vectors(3, 20))
def test_a_draw_is_finite_in_value_and_gradient(mean, log_std):
    assert np.isfinite(_draw(mean, log_std)).all() and np.isfinite(_own(mean, log_std)).all()


# --------------------------------------------------------------------------------------------- pytrees


def test_distributions_are_pytrees_whose_parameters_are_leaves():
    normal = basic.Normal(jnp.zeros((2, 3)), jnp.ones((2, 3)))
    assert len(jax.tree.leaves(normal)) == 2 and len(jax.tree.leaves(basic.Bernoulli(jnp.zeros(3)))) == 1
    assert jax.tree.leaves(basic.StandardNormal((3,))) == []
    doubled = jax.tree.map(lambda leaf: 2 * leaf, normal)
    assert type(doubled) is basic.Normal and doubled.event_ndims == 1
    np.testing.assert_array_equal(doubled.log_std, 2.0)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_allclose(jax.vmap(log_prob)(normal, x), log_prob(normal, x), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_parameters_of_any_float_are_taken(dtype, key):
    mean, log_std, x = np.ones((3, 2, 3), dtype)
    assert normal_log_prob(mean, log_std, x).dtype == dtype
    assert kl_standard_normal(mean, log_std).dtype == dtype
    assert bernoulli_log_prob(mean, x).dtype == dtype
    assert jnp.isfinite(reparameterize(key, mean, log_std)).all()
    with jax.enable_x64(True):  # float32 stays float32 in a program that uses float64 elsewhere
        assert normal_log_prob(mean, log_std, x).dtype == dtype


@pytest.mark.parametrize("size", [1, 63, 64, 100, 784, 1536, 1537, 3072])
def test_logarithms_of_products_are_sums_of_logarithms(size):
    """Against float64, e from 0 to 1 and at both ends: products of many factors neither overflow nor lose digits."""
    rng = np.random.default_rng(size)
    for e in (rng.random((3, size)), np.ones((2, size)), np.zeros((2, size)), np.full((2, size), 1e-7)):
        e = e.astype(np.float32)
        expected = np.log1p(e.astype(np.float64)).sum(-1)
        np.testing.assert_allclose(basic.sum_log1p(e), expected, rtol=2e-6, atol=1e-7 * size)
