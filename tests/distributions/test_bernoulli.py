"""log p of coins against hand arithmetic, SciPy and finite differences, from any logit."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from checks import bernoulli_log_prob, check_derivatives, log_prob, sample, value_and_gradients, vectors, within
from hypothesis import given
from hypothesis import strategies as st

from vae_jax.distributions import basic


def plain_bernoulli(logits, x):
    """The formula as written, x l - softplus(l), for derivatives where it is well behaved."""
    return (x * logits - jax.nn.softplus(logits)).sum(-1)


@pytest.mark.parametrize("dim", [1, 55, 56, 57, 112, 784])
def test_bernoulli_at_logits_zero(dim):
    """A fair coin whatever x is: -D log 2. The sizes are those around blocks of 56, which an evaluation may use."""
    x = np.arange(dim) % 2
    np.testing.assert_allclose(bernoulli_log_prob(jnp.zeros(dim), x), -dim * math.log(2), rtol=1e-6)


def exact_bernoulli(logits, x):
    logits = np.float64(logits)
    return (x * scipy.special.log_expit(logits) + (1 - x) * scipy.special.log_expit(-logits)).sum(-1)


@pytest.mark.parametrize("dim", [1, 55, 56, 57, 784])
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0, 1e4])
@pytest.mark.parametrize("grey", [False, True])
def test_bernoulli_is_scipys(dim, scale, grey):
    """float64 log_expit, ordinary and saturated logits; rounding is 6e-8 a dimension and 2e-6 of the sum."""
    rng = np.random.default_rng(dim)
    logits = rng.normal(scale=scale, size=(3, dim)).astype(np.float32)
    x = rng.random((3, dim)).astype(np.float32)
    x = x if grey else np.round(x)
    ours = bernoulli_log_prob(logits, x)
    np.testing.assert_allclose(ours, exact_bernoulli(logits, x), rtol=2e-6, atol=1.2e-7 * dim)


def test_bernoulli_is_scipys_distribution():
    logits, x = np.array([-3.0, -0.5, 0.0, 2.0]), np.array([0, 1, 1, 0])
    scipys = scipy.stats.bernoulli.logpmf(x, 1 / (1 + np.exp(-logits))).sum()
    np.testing.assert_allclose(bernoulli_log_prob(logits, x), scipys, rtol=1e-6)


def test_bernoulli_takes_a_few_dimensions_at_every_size_of_logit():
    """One dimension, so that nothing can hide in a sum; float32 may drop what lies under 6e-8 nats."""
    logits = np.float32([-30, -17, -16, -9, -1, -1e-3, -1e-30, 0, 1e-30, 1e-3, 1, 9, 16, 17, 30])[:, None]
    for x in (0.0, 0.25, 1.0):
        ours = bernoulli_log_prob(jnp.array(logits), jnp.full((1,), x))
        np.testing.assert_allclose(ours, exact_bernoulli(logits, x), rtol=1e-6, atol=6e-8)


@pytest.mark.parametrize("size", [110.0, 1e4])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_bernoulli_saturated_by_hand(size, sign):
    """x on the logit's side: log p = 0, slope 0. On the other: log p = -|l|, slope -sign. x = 1/2: half of both."""
    logits = np.full(1, sign * size, np.float32)
    for x, loss in (((1 + sign) / 2, 0.0), ((1 - sign) / 2, 1.0), (0.5, 0.5)):
        value, slope = jax.value_and_grad(bernoulli_log_prob)(logits, np.full(1, x, np.float32))
        np.testing.assert_array_equal(value, -loss * size)
        np.testing.assert_array_equal(slope, [-loss * sign])


_bernoulli = value_and_gradients(basic.bernoulli_log_prob, 2)
unit = st.lists(st.floats(0, 1, width=32, allow_subnormal=False), min_size=3, max_size=3).map(np.float32)


@given(vectors(3), unit)
def test_bernoulli_is_never_nan(logits, x):
    assert not np.isnan(_bernoulli(logits, x)).any()


@given(vectors(3, 1e30), unit)
def test_bernoulli_is_finite_in_value_and_gradient(logits, x):
    """Three logits of 1e30 add up to less than the 3.4e38 of float32: all are finite, far beyond the 1e4 promised."""
    numbers = _bernoulli(logits, x)
    assert np.isfinite(numbers).all() and numbers[0] <= 0


def test_bernoulli_gradient_is_x_minus_the_probability():
    logits = jnp.array([-110.0, -2.0, 0.0, 1.5, 110.0])
    x = jnp.array([1.0, 0.3, 1.0, 0.0, 0.0])
    slope, slope_x = jax.grad(basic.bernoulli_log_prob, (0, 1))(logits, x)
    np.testing.assert_allclose(slope, np.float64(x) - scipy.special.expit(np.float64(logits)), rtol=1e-6)
    np.testing.assert_array_equal(slope_x, logits)  # d/dx of x l


def test_bernoulli_second_derivatives():
    """-p (1 - p) on the diagonal in the logits, -1/4 at a logit of exactly 0, where max(l, 0) has its corner.

    Across, between l and x, it is 1: the plain formula's, all of it.
    """
    logits = jnp.array([-2.0, 0.0, 0.0, 1.5])
    x = jnp.array([0.3, 1.0, 0.0, 0.0])
    hessian = jax.jit(jax.hessian(basic.bernoulli_log_prob, (0, 1)))(logits, x)
    plain = jax.jit(jax.hessian(plain_bernoulli, (0, 1)))(logits, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), hessian, plain)
    np.testing.assert_allclose(jnp.diag(hessian[0][0])[1:3], -0.25)
    np.testing.assert_array_equal(hessian[0][1], np.eye(4))


def test_bernoulli_derivatives_are_finite_differences():
    """In the logits and in x, float64."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        check_derivatives(
            lambda both: basic.bernoulli_log_prob(both[:3], both[3:]), np.append(rng.normal(size=3), rng.random(3))
        )


def test_bernoulli_under_jit_jvp_vmap():
    rng = np.random.default_rng(0)
    logits, x = rng.normal(size=(4, 57)).astype(np.float32), rng.random((4, 57)).astype(np.float32)
    expected = exact_bernoulli(logits, x)
    np.testing.assert_allclose(basic.bernoulli_log_prob(logits, x), expected, rtol=1e-6)
    np.testing.assert_allclose(bernoulli_log_prob(logits, x), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(basic.bernoulli_log_prob))(logits, x), expected, rtol=1e-6)
    every_pair = jax.jit(jax.vmap(jax.vmap(basic.bernoulli_log_prob, (None, 0)), (0, None)))(logits, x)
    np.testing.assert_allclose(every_pair, exact_bernoulli(logits[:, None], x), rtol=1e-6)
    direction = rng.normal(size=(4, 57)).astype(np.float32)
    jvp = jax.jit(lambda *tangents: jax.jvp(basic.bernoulli_log_prob, (logits, x), tangents))
    value, tangent = jvp(direction, 2 * direction)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    slope = x - scipy.special.expit(logits) + 2 * logits  # d/dlogits along the direction, d/dx along twice it
    np.testing.assert_allclose(tangent, (slope * direction).sum(-1), rtol=1e-4)


def test_bernoulli_of_many_samples_and_its_gradient_in_x():
    """x [B, D] against logits [K, B, D]: log p [K, B], and d/dx_b sums the logits of all K samples."""
    rng = np.random.default_rng(0)
    logits, x = rng.normal(size=(5, 2, 7)).astype(np.float32), rng.random((2, 7)).astype(np.float32)
    np.testing.assert_allclose(bernoulli_log_prob(logits, x), exact_bernoulli(logits, x), rtol=1e-6)
    slope, slope_x = jax.jit(jax.grad(lambda *pair: basic.bernoulli_log_prob(*pair).sum(), (0, 1)))(logits, x)
    np.testing.assert_allclose(slope_x, logits.sum(0), rtol=1e-5)
    np.testing.assert_allclose(slope, x - scipy.special.expit(logits), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 1), (2, 1), (2, 3)])
def test_bernoulli_broadcasts_logits_inside_the_event(shape):
    """Logits of 0 are a fair coin for each of the 3 dimensions of x `[2, 3]` however they are spelt: -3 log 2."""
    logits, x = np.zeros(shape, np.float32), np.ones((2, 3), np.float32)
    np.testing.assert_allclose(bernoulli_log_prob(logits, x), [-3 * math.log(2)] * 2, rtol=1e-6)
    slope = jax.jit(jax.grad(lambda logits: basic.bernoulli_log_prob(logits, x).sum()))(logits)
    assert slope.shape == shape  # 6 elements have slope 1/2 each
    np.testing.assert_allclose(slope.sum(), 3.0)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, bool])
def test_bernoulli_of_integers_and_booleans(dtype):
    logits, x = np.float32([0.5, -1.0, 2.0]), np.array([1, 0, 1])
    expected = exact_bernoulli(logits, x)
    np.testing.assert_allclose(bernoulli_log_prob(logits, x.astype(dtype)), expected, rtol=1e-6)
    slope = jax.grad(basic.bernoulli_log_prob)(logits, x.astype(dtype))
    np.testing.assert_allclose(slope, x - scipy.special.expit(logits), rtol=1e-6)


def test_bernoulli_refuses_values_outside_the_unit_interval_that_it_can_see():
    """Constants of a trace, too, and floats; what rounding does to a grey image of [0, 1] is let through."""
    logits = np.zeros(3, np.float32)
    for x in (np.array([0, 255, 7], np.uint8), np.float32([0, 0.5, 255]), np.float32([-1, 0, 1]), jnp.array([0, 2, 1])):
        for run in (basic.bernoulli_log_prob, jax.jit(lambda logits, x=x: basic.bernoulli_log_prob(logits, x))):
            with pytest.raises(ValueError, match=r"values in \[0, 1\], not .* to .*: divide bytes by 255, or binarize"):
                run(logits, x) if run is basic.bernoulli_log_prob else run(logits)
    np.testing.assert_allclose(basic.bernoulli_log_prob(logits, np.float32([-1e-4, 1.0001, 0.5])), -3 * math.log(2))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_bytes_that_it_cannot_see_have_probability_zero(dtype):
    """Under jit 0 and 1 are what they are, and 255 is no value of a Bernoulli: never a positive log-likelihood."""
    logits, x = np.float32([[2.0, -1.0]] * 3), np.array([[0, 1], [0, 255], [2, 1]], dtype)
    value, slope = jax.jit(jax.value_and_grad(lambda *pair: basic.bernoulli_log_prob(*pair)[0]))(logits, x)
    found = np.asarray(bernoulli_log_prob(logits, x))
    np.testing.assert_allclose(found[0], exact_bernoulli(logits, x)[0], rtol=1e-6)
    np.testing.assert_array_equal(found[1:], -np.inf)
    np.testing.assert_allclose([value], found[:1], rtol=1e-6)
    np.testing.assert_allclose(slope[0], x[0] - scipy.special.expit(logits[0]), rtol=1e-6)


def test_bernoulli_of_integer_logits_keeps_grey():
    """1/2 - log(1 + e) = -0.8133 for l = 1, x = 1/2: an x cast to the logits' type would be 0."""
    np.testing.assert_allclose(bernoulli_log_prob(np.array([1]), np.array([0.5])), 0.5 - math.log1p(math.e), rtol=1e-6)


@pytest.mark.parametrize("event_ndims", range(4))
def test_bernoulli_sums_the_event_and_no_more(event_ndims):
    logits, x = np.random.default_rng(0).normal(size=(2, 2, 3, 5)), np.ones((2, 2, 3, 5))
    expected = scipy.special.log_expit(logits).sum(tuple(range(4 - event_ndims, 4)))
    ours = log_prob(basic.Bernoulli(logits, event_ndims), x)
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_bernoulli_samples_have_its_mean(key):
    bernoulli = basic.Bernoulli(jnp.array([[-2.0, 0.0, 1.0]]))
    x = sample(key, bernoulli, (20_000,))
    assert x.shape == (20_000, 1, 3) and x.dtype == jnp.float32 and set(np.unique(x)) == {0, 1}
    within(x, scipy.special.expit([[-2.0, 0.0, 1.0]]))
    np.testing.assert_allclose(bernoulli.mean, scipy.special.expit([[-2.0, 0.0, 1.0]]), rtol=1e-6)
