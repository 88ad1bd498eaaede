"""KL of two Gaussians, and to N(0, I), against hand arithmetic, NumPyro and quadrature."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.special
import scipy.stats
from checks import closed_form_kl, kl_standard_normal, value_and_gradients, vectors, within
from hypothesis import given

from vae_jax.distributions import basic


@pytest.mark.parametrize(
    ("mean", "log_std", "expected"),
    [
        ([0.0, 0.0], [0.0, 0.0], 0.0),  # the prior itself
        ([1.0], [0.0], 0.5),  # (1 + 1 - 1)/2 - 0
        ([1.0, -1.0, 2.0], [0.0, 0.0, 0.0], 3.0),  # (1 + 1 + 4)/2
        ([0.0], [math.log(2)], 1.5 - math.log(2)),  # (0 + 4 - 1)/2 - log 2 = 0.80685
        ([3.0], [math.log(0.5)], 4.125 + math.log(2)),  # (9 + 1/4 - 1)/2 + log 2 = 4.81815
    ],
)
def test_kl_standard_normal_by_hand(mean, log_std, expected):
    np.testing.assert_allclose(kl_standard_normal(jnp.array(mean), jnp.array(log_std)), expected, rtol=1e-6)


@pytest.mark.parametrize("log_std", [1e-4, -1e-4, 1e-3, 1e-2])
def test_kl_standard_normal_keeps_its_digits_near_the_prior(log_std):
    """KL at sigma = 1 + d is d^2 to first order: 1e-8 at 1e-4. In float32 sigma^2 - 1 is off by 6e-8, which is more."""
    exact = 0.5 * math.expm1(2 * float(np.float32(log_std))) - float(np.float32(log_std))
    np.testing.assert_allclose(kl_standard_normal(jnp.zeros(1), jnp.full(1, log_std)), exact, rtol=1e-3)


_kl = value_and_gradients(basic.kl_standard_normal, 2)


@given(vectors(3), vectors(3))
def test_kl_standard_normal_is_never_negative_nor_nan(mean, log_std):
    """Any finite input. Two terms of the size of log_std cancel, so rounding is allowed one part in 1e7 of them."""
    numbers = _kl(mean, log_std)
    assert not np.isnan(numbers).any()
    assert numbers[0] >= -1e-7 * np.abs(np.float64(log_std)).sum()


@given(vectors(3, 1e4), vectors(3, 20))
def test_kl_standard_normal_is_finite_in_value_and_gradient(mean, log_std):
    assert np.isfinite(_kl(mean, log_std)).all()


def test_kl_standard_normal_is_the_mean_log_ratio():
    """KL = E_q[log q - log p], both densities SciPy's, 20,000 draws, 5 standard errors; the KL is 1.6 nats."""
    mean, log_std = np.array([0.8, -1.2]), np.array([-0.5, 0.3])
    z = np.random.default_rng(0).normal(mean, np.exp(log_std), (20_000, 2))
    log_ratio = scipy.stats.norm.logpdf(z, mean, np.exp(log_std)) - scipy.stats.norm.logpdf(z)
    within(log_ratio.sum(-1), kl_standard_normal(jnp.array(mean), jnp.array(log_std)))


def test_kl_standard_normal_sums_the_event_and_no_more():
    mean, log_std = jnp.ones((2, 3, 4)), jnp.zeros((2, 3, 4))  # 0.5 nats for each element
    for event_ndims, expected in enumerate((np.full((2, 3, 4), 0.5), np.full((2, 3), 2.0), np.full(2, 6.0), 12.0)):
        np.testing.assert_array_equal(kl_standard_normal(mean, log_std, event_ndims), expected)


# --------------------------------------------------------------------------------- KL of two Gaussians


def numpyro_normal(mean, log_std):
    return dist.Normal(mean, jnp.exp(log_std)).to_event(1)


@pytest.fixture(scope="module")
def two_normals():
    """Means and log stds `[B, Z]` of q and of p."""
    rng = np.random.default_rng(1)
    return [rng.normal(size=(4, 3)).astype(np.float32) for _ in range(4)]


def test_kl_of_two_normals_is_numpyros(two_normals):
    q_mean, q_log_std, p_mean, p_log_std = two_normals
    ours = closed_form_kl(basic.Normal(q_mean, q_log_std), basic.Normal(p_mean, p_log_std))
    theirs = dist.kl_divergence(numpyro_normal(q_mean, q_log_std), numpyro_normal(p_mean, p_log_std))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    standard = numpyro_normal(jnp.zeros(3), jnp.zeros(3))
    ours = closed_form_kl(basic.Normal(q_mean, q_log_std), basic.StandardNormal((3,)))
    np.testing.assert_allclose(ours, dist.kl_divergence(numpyro_normal(q_mean, q_log_std), standard), rtol=1e-5)


def test_kl_of_two_normals_is_the_integral(two_normals):
    """The integral of q (log q - log p), one dimension at a time, by the trapezoid rule over 12 sigma; float64."""
    q_mean, q_log_std, p_mean, p_log_std = np.float64(two_normals)
    grid = np.linspace(-12, 12, 4001)[:, None, None]
    z = q_mean + np.exp(q_log_std) * grid
    log_q = scipy.stats.norm.logpdf(z, q_mean, np.exp(q_log_std))
    log_ratio = log_q - scipy.stats.norm.logpdf(z, p_mean, np.exp(p_log_std))
    integral = (np.trapezoid(scipy.stats.norm.pdf(grid) * log_ratio, grid, axis=0)).sum(-1)
    with jax.enable_x64(True):
        kl = closed_form_kl(*(basic.Normal(*map(jnp.array, p)) for p in ((q_mean, q_log_std), (p_mean, p_log_std))))
        np.testing.assert_allclose(kl, integral, rtol=1e-10)


def test_kl_of_two_normals_broadcasts_the_prior(two_normals):
    """A prior without a batch, `[Z]`, serves every q of the batch; a scalar log_std serves every dimension."""
    q_mean, q_log_std, p_mean, _ = two_normals
    kl = closed_form_kl(basic.Normal(q_mean, q_log_std), basic.Normal(p_mean[0], jnp.float32(0.5)))
    each = [
        closed_form_kl(basic.Normal(q_mean[b], q_log_std[b]), basic.Normal(p_mean[0], jnp.full(3, 0.5)))
        for b in range(4)
    ]
    np.testing.assert_allclose(kl, each, rtol=1e-6)


def test_kl_of_a_normal_to_itself_is_zero():
    normal = basic.Normal(jnp.array([[1e4, -3.0]]), jnp.array([[-20.0, 20.0]]))
    np.testing.assert_array_equal(closed_form_kl(normal, normal), 0)


_kl_two = value_and_gradients(lambda m, s, n, t: closed_form_kl(basic.Normal(m, s), basic.Normal(n, t)), 4)


@given(vectors(2), vectors(2), vectors(2), vectors(2))
def test_kl_of_two_normals_is_never_nan(q_mean, q_log_std, p_mean, p_log_std):
    assert not np.isnan(_kl_two(q_mean, q_log_std, p_mean, p_log_std)).any()


@given(vectors(2, 1e4), vectors(2, 20), vectors(2, 1e4), vectors(2, 20))
def test_kl_of_two_normals_is_finite_in_value_and_gradient(q_mean, q_log_std, p_mean, p_log_std):
    assert np.isfinite(_kl_two(q_mean, q_log_std, p_mean, p_log_std)).all()


def test_no_closed_form_where_there_is_none():
    normal = basic.Normal(jnp.zeros((2, 3)), jnp.zeros((2, 3)))
    assert closed_form_kl(normal, numpyro_normal(jnp.zeros(3), jnp.zeros(3))) is None
    assert closed_form_kl(numpyro_normal(jnp.zeros(3), jnp.zeros(3)), basic.StandardNormal((3,))) is None
