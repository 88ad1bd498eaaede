"""Densities, samplers and divergences against hand arithmetic, SciPy, NumPyro, quadrature and finite differences."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from vae_jax.distributions import basic

LOG_2PI = math.log(2 * math.pi)
MAX = float(np.finfo(np.float32).max)

# compiled whole: op by op, the tests would spend most of their time in the compiler
kl_standard_normal = jax.jit(basic.kl_standard_normal, static_argnums=2)
closed_form_kl = jax.jit(basic.closed_form_kl)
bernoulli_log_prob = jax.jit(basic.bernoulli_log_prob, static_argnums=2)
normal_log_prob = jax.jit(basic.normal_log_prob, static_argnums=3)
reparameterize = jax.jit(basic.reparameterize)
sample = jax.jit(lambda key, distribution, shape=(): distribution.sample(key, shape), static_argnums=2)
sample_and_log_prob = jax.jit(lambda key, q, shape=(): q.sample_and_log_prob(key, shape), static_argnums=2)
log_prob = jax.jit(lambda distribution, value: distribution.log_prob(value))


def vectors(size, bound=MAX):
    """Vectors of `size` float32 numbers of at most `bound`, the corners among them."""
    bound = float(np.float32(bound))
    number = st.floats(-bound, bound, allow_nan=False, allow_infinity=False, allow_subnormal=False, width=32)
    corners = st.sampled_from([0.0, 1.0, bound, -bound])
    return st.lists(number | corners, min_size=size, max_size=size).map(np.float32)


def value_and_gradients(function, num_arguments):
    """function of vectors -> float64 [values and all the gradients], compiled once."""
    both = jax.jit(jax.value_and_grad(function, tuple(range(num_arguments))))

    def flat(*arguments):
        value, gradients = both(*arguments)
        return np.concatenate([np.ravel(np.asarray(each, np.float64)) for each in (value, *gradients)])

    return flat


def central_differences(function, point, step=1e-5):
    """d function / d point by central differences, `[size of point, ...]`; call it in float64."""
    steps = step * np.eye(len(point))
    many = jax.jit(jax.vmap(function))
    return (np.asarray(many(point + steps)) - np.asarray(many(point - steps))) / (2 * step)


def check_derivatives(function, point):
    """The gradient of a function of one float64 vector and its second derivatives, against differences of the value.

    Reverse mode gives the gradient, forward over reverse and reverse over forward give the Hessian.
    """
    gradient = jax.jit(jax.grad(function))
    np.testing.assert_allclose(gradient(point), central_differences(function, point), rtol=1e-6, atol=1e-8)
    expected = central_differences(jax.grad(function), point)
    for hessian in (jax.jacfwd(jax.grad(function)), jax.jacrev(jax.jacfwd(function))):
        np.testing.assert_allclose(jax.jit(hessian)(point), expected, rtol=1e-6, atol=1e-8)


def within(samples, expected, errors=5):
    """Asserts that the mean of independent samples `[N, ...]` is what is expected, within `errors` standard errors."""
    samples = np.asarray(samples, np.float64)
    stderr = samples.std(0, ddof=1) / math.sqrt(len(samples))
    assert (stderr > 0).all()
    np.testing.assert_array_less(np.abs(samples.mean(0) - expected), errors * stderr)


# ---------------------------------------------------------------------------------- kl_standard_normal


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


# ---------------------------------------------------------------------------------- bernoulli_log_prob


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


# ------------------------------------------------------------------------------------- normal_log_prob


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
