"""Densities of images against SciPy, quadrature, sums over all levels and a second computation in float64."""

import itertools
import math

import jax
import numpy as np
import pytest
import scipy.special
import scipy.stats
from checks import check_derivatives, within

from vae_jax.distributions import likelihoods


def compiled(function, **kwargs):
    """Whole, and with NumPy's arrays as results: op by op, the tests would spend most of their time in the compiler."""
    function = jax.jit(function, **kwargs)
    return lambda *args: jax.tree.map(np.asarray, function(*args))


log_prob = compiled(lambda p, value: p.log_prob(value))
mean = compiled(lambda p: p.mean)
sample = compiled(lambda p, key, shape=(): p.sample(key, shape), static_argnums=2)
gradients = compiled(jax.grad(lambda p, value: p.log_prob(value).sum()))


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def random_parameters(*shapes):
    rng = np.random.default_rng(3)
    return [rng.normal(size=shape) for shape in shapes]


def grid(levels):
    """All levels, `[levels, 1]`, for an event of one element."""
    return (np.arange(levels) / (levels - 1))[:, None]


# -------------------------------------------------------------------------------- continuous Bernoulli

LOGITS = [0.0, 1e-6, 0.01, 0.1999, 0.2001, 1.0, 9.0, 40.0]  # on both sides of NEAR_HALF
LOGITS = np.array(LOGITS + [-logit for logit in LOGITS[1:]])


def test_continuous_bernoulli_integrates_to_one_with_its_mean(float64):
    """Gauss and Legendre's rule of 100 points, exact to float64 for these exponentials."""
    nodes, weights = np.polynomial.legendre.leggauss(100)
    x, weights = (nodes + 1) / 2, weights / 2
    p = likelihoods.ContinuousBernoulli(np.asarray(LOGITS)[:, None])
    density = np.exp(np.asarray(log_prob(p, np.broadcast_to(x[:, None, None], (100, len(LOGITS), 1)))))
    np.testing.assert_allclose(weights @ density, 1, rtol=2e-10)  # where the series ends: 7e-11
    np.testing.assert_allclose((weights * x) @ density, mean(p)[:, 0], rtol=2e-7)  # its series is shorter


def exact_continuous_bernoulli(logits, x):
    """The density is e^(l x) l / (e^l - 1), mirrored for l > 0; float64."""
    logits, x = np.where(logits > 0, -logits, logits), np.where(logits > 0, 1 - x, x)
    with np.errstate(invalid="ignore", divide="ignore"):
        normalizer = np.where(logits == 0, 0, np.log(logits / np.expm1(logits)))
    return logits * x + normalizer


def test_continuous_bernoulli_in_float32():
    logits = np.float32([*LOGITS, 110, -110, 1e4, -1e4])
    p = likelihoods.ContinuousBernoulli(np.asarray(logits)[:, None])
    for x in np.float32([0.0, 0.3, 0.9, 1.0]):
        exact = exact_continuous_bernoulli(np.float64(logits), np.float64(x))
        np.testing.assert_allclose(log_prob(p, np.full(1, x)), exact, rtol=2e-6, atol=3e-7)
        # d/dl log p(x) = x - E[x]
        np.testing.assert_allclose(gradients(p, np.full(1, x)).logits[:, 0], x - mean(p)[:, 0], atol=2e-6)


def test_continuous_bernoulli_draws(key):
    """Mean and variance, which is the derivative of the mean in the logit; 20,000 draws, 5 standard errors."""
    p = likelihoods.ContinuousBernoulli(np.asarray(LOGITS, np.float32))
    x = np.asarray(sample(p, key, (20_000,)))
    assert x.min() >= 0 and x.max() <= 1
    within(x, mean(p))
    with jax.enable_x64(True):
        variance = compiled(jax.grad(lambda logits: likelihoods.ContinuousBernoulli(logits).mean.sum()))(LOGITS)
    within((x - mean(p)) ** 2, variance)
    extreme = sample(likelihoods.ContinuousBernoulli(np.array([-1e4, 1e4])), key, (100,))
    assert (extreme[:, 0] < 2e-3).all() and (extreme[:, 1] > 1 - 2e-3).all() and np.isfinite(extreme).all()


# ----------------------------------------------------------------------------------------- on a grid


def families(levels, *shape):
    """Each family on a grid with random parameters; the mixture has a channel axis of 1."""
    a, b, logits = random_parameters(shape, shape, (*shape, levels))
    three = (*shape, 1, 3)
    return {
        "categorical": likelihoods.Categorical(logits),
        "beta_binomial": likelihoods.BetaBinomial(a, b, levels),
        "logistic": likelihoods.DiscretizedLogistic(0.5 + 0.5 * a, b - 2, levels),
        "logistic_mixture": likelihoods.LogisticMixture(
            *[scale * leaf for scale, leaf in zip((1, 0.5, 1, 1), random_parameters(*[three] * 4), strict=True)],
            levels,
            2,
        ),
    }


@pytest.mark.parametrize("levels", [4, 256])
def test_levels_sum_to_one_and_have_the_mean(float64, levels):
    """Also halfway to the next level, which log_prob rounds away."""
    for name, p in families(levels, 5, 1).items():
        value = np.broadcast_to(grid(levels)[:, None], (levels, 5, 1))
        at = value[..., None] if name == "logistic_mixture" else value
        probability = np.exp(np.asarray(log_prob(p, at)))
        np.testing.assert_allclose(probability.sum(0), 1, rtol=1e-8, err_msg=name)
        np.testing.assert_allclose((value[..., 0] * probability).sum(0), np.ravel(mean(p)), rtol=1e-8, err_msg=name)
        off = np.clip(at + 0.3 / (levels - 1), 0, 1)
        np.testing.assert_allclose(np.exp(log_prob(p, off)), probability, rtol=1e-8, err_msg=name)


def test_draws_are_from_the_density(key):
    """The frequency of each of 4 levels in 10,000 draws, 5 standard errors; draws of any shape have a density."""
    for name, p in families(4, 2, 1).items():
        x = sample(p, key, (10_000,))
        levels = np.asarray(x).reshape(10_000, 2) * 3
        np.testing.assert_allclose(levels, np.round(levels), atol=1e-5)
        at = np.broadcast_to(grid(4)[:, None], (4, 2, 1))
        probability = np.exp(log_prob(p, at[..., None] if name == "logistic_mixture" else at))
        errors = np.sqrt(probability * (1 - probability) / 10_000)
        frequency = (np.round(levels)[:, None] == np.arange(4)[:, None]).mean(0)
        assert (np.abs(frequency - probability) < 5 * errors + 1e-6).all(), name
        assert jax.eval_shape(p.log_prob, x).shape == (10_000, 2), name


def test_events_of_any_shape_sum_their_elements():
    """An image's log density is the sum of its elements', for draws of the parameters `[K, B]` and values `[B]`."""
    shape, value = (2, 3, 4, 4, 3), np.random.default_rng(5).random((3, 4, 4, 3)).astype(np.float32)
    a, b, logits = random_parameters(shape, shape, (*shape, 8))
    for family, arguments in [
        (likelihoods.ContinuousBernoulli, (a,)),
        (likelihoods.Categorical, (logits,)),
        (likelihoods.BetaBinomial, (a, b, 8)),
        (likelihoods.DiscretizedLogistic, (a, b, 8)),
    ]:
        ours, elements = (log_prob(family(*arguments, event_ndims), value) for event_ndims in (3, 0))
        assert ours.shape == (2, 3) and elements.shape == shape
        np.testing.assert_allclose(ours, elements.sum((2, 3, 4)), rtol=2e-5)


def test_categorical_is_scipys(float64):
    (logits,) = random_parameters((3, 2, 5))
    value = np.array([[0.0, 0.25], [0.5, 0.75], [1.0, 0.0]])
    expected = scipy.special.log_softmax(logits, axis=-1)
    expected = np.take_along_axis(expected, np.int64(value * 4)[..., None], -1)[..., 0].sum(-1)
    np.testing.assert_allclose(log_prob(likelihoods.Categorical(logits), value), expected, rtol=1e-12)


CONCENTRATIONS = [(1e-8, 1e-8), (0.5, 2.0), (7.9, 8.1), (30.0, 70.0), (1e3, 1e3), (1e5, 3e5), (4e8, 4e8), (1e-3, 1e6)]


def scipys_beta_binomial(levels):
    """(log a, log b, values of every level, their log probabilities) at CONCENTRATIONS."""
    log_a, log_b = np.log(np.transpose(CONCENTRATIONS))[..., None]
    k, n = (levels - 1) * grid(levels)[:, None], levels - 1
    at = np.broadcast_to(grid(levels)[:, None], (levels, len(log_a), 1))
    return log_a, log_b, at, scipy.stats.betabinom.logpmf(k, n, np.exp(log_a), np.exp(log_b))[..., 0]


@pytest.mark.parametrize("levels", [2, 16, 17, 256])  # few are a product of ratios, two by two
def test_beta_binomial_is_scipys(float64, levels):
    log_a, log_b, at, scipys = scipys_beta_binomial(levels)
    p = likelihoods.BetaBinomial(log_a, log_b, levels)
    np.testing.assert_allclose(log_prob(p, at), scipys, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("concentrations", CONCENTRATIONS[1:4])  # where differences have digits
def test_few_levels_have_the_derivatives_of_their_value(float64, concentrations):
    """The rule of `log_ratios`, and the derivative of that rule, against differences."""
    weights = np.random.default_rng(8).normal(size=17)
    each = lambda log_a_b: likelihoods.BetaBinomial(log_a_b[:1], log_a_b[1:], 17).log_prob(grid(17))
    check_derivatives(lambda log_a_b: (weights * each(log_a_b)).sum(), np.log(concentrations))


@pytest.mark.parametrize("levels", [17, 256])
def test_beta_binomial_keeps_its_digits_in_float32(levels):
    """Value to 5e-4 nats at any concentration, where a difference of log Gammas is off by 200; then the gradient.

    For large a and b the gradient is that of a Binomial: k - n a / (a + b) in the log odds, to order n^2 / (a + b).
    """
    log_a, log_b, at, scipys = scipys_beta_binomial(levels)
    n = levels - 1
    p = likelihoods.BetaBinomial(np.float32(log_a), np.float32(log_b), levels)
    np.testing.assert_allclose(log_prob(p, np.float32(at)), scipys, rtol=1e-6, atol=1e-3)
    np.testing.assert_allclose(np.exp(log_prob(p, np.float32(at))).sum(0), 1, atol=5e-4)
    for k in (0, 100 * n // 255, n):
        q = likelihoods.BetaBinomial(np.log(np.full(1, 4e8)), np.log(np.full(1, 1e8)), levels)
        one = gradients(q, np.full(1, k / n))
        np.testing.assert_allclose(one.log_a, k - n * 0.8, atol=0.02)
        np.testing.assert_allclose(one.log_b, -(k - n * 0.8), atol=0.02)


def test_beta_binomial_draws_at_extremes(key):
    """All in one level, half in the first and half in the last, and a fair Binomial."""
    draw = lambda a, b: sample(likelihoods.BetaBinomial(np.array(a)[:, None], np.array(b)[:, None], 4), key, (10_000,))[
        ..., 0
    ]
    one, either = draw([20.0, -20.0], [-20.0, -20.0]).T
    np.testing.assert_array_equal(one, 1)
    assert set(either) == {0, 1}
    fair, none = draw([20.0, -20.0], [20.0, 20.0]).T
    np.testing.assert_array_equal(none, 0)
    within(np.stack([either, fair, (fair - 0.5) ** 2], axis=1), [0.5, 0.5, 1 / 12])


def exact_logistic(center, log_scale, value, levels):
    """log of the mass of a bin by differences of distribution functions, float64; the first and last are open."""
    level, half = np.round(value * (levels - 1)), 0.5 / (levels - 1)
    cdf = lambda x: scipy.special.expit((x - center) / np.exp(log_scale))
    high = np.where(level == levels - 1, 1, cdf(level / (levels - 1) + half))
    return np.log(high - np.where(level == 0, 0, cdf(level / (levels - 1) - half)))


@pytest.mark.parametrize("levels", [4, 256])
def test_logistic_is_a_difference_of_distribution_functions(levels):
    """float32 against float64, where the difference keeps digits enough."""
    center, log_scale = np.array([[0.5], [0.1], [1.3]]), np.array([[-2.0], [-3.0], [-1.0]])
    p = likelihoods.DiscretizedLogistic(np.asarray(center), np.asarray(log_scale), levels)
    value = np.broadcast_to(grid(levels)[:, None], (levels, 3, 1))
    expected = exact_logistic(center, log_scale, value, levels)[..., 0]
    np.testing.assert_allclose(log_prob(p, value), expected, rtol=1e-5, atol=1e-5)


def test_logistic_keeps_thin_tails():
    """sigma far below a bin: the mass of level i is sigmoid'(x) to first order, log P = -distance / scale."""
    p = likelihoods.DiscretizedLogistic(np.full(1, 0.8), np.full(1, -9.0))
    scale, level = math.exp(-9), 100
    distance = 0.8 - (level + 0.5) / 255  # to the nearer edge
    tail = -distance / scale + math.log(-math.expm1(-1 / 255 / scale))
    np.testing.assert_allclose(log_prob(p, np.full(1, level / 255)), tail, rtol=1e-5)
    np.testing.assert_allclose(gradients(p, np.full(1, level / 255)).mean_logistic, -1 / scale, rtol=1e-5)


# ------------------------------------------------------------------------------- mixtures of logistics


def rgb(levels, *pixels, components=2, event_ndims=1):
    shape = (*pixels, 3, components)
    logits, means, log_scales, coefficients = random_parameters(shape, shape, shape, shape)
    return likelihoods.LogisticMixture(
        logits, 0.5 + 0.4 * means, 0.5 * log_scales - 1.5, coefficients, levels, event_ndims
    )


def exact_rgb(p, value):
    """One pixel `[3]` by loops: log sum_m pi_m P(r | m) P(g | r, m) P(b | r, g, m), float64."""
    logits, means, log_scales = (np.asarray(leaf, np.float64) for leaf in (p.logits, p.means, p.log_scales))
    c, (red, green, _) = np.tanh(np.asarray(p.coefficients, np.float64)), value
    log_pi = scipy.special.log_softmax(logits.sum(0))
    terms = []
    for m in range(logits.shape[-1]):
        centers = (means[0, m], means[1, m] + c[1, m] * red, means[2, m] + c[2, m] * red + c[0, m] * green)
        channels = [exact_logistic(centers[i], log_scales[i, m], value[i], p.levels) for i in range(3)]
        terms.append(log_pi[m] + sum(channels))
    return scipy.special.logsumexp(terms)


def test_colour_is_the_chain_of_channels_and_sums_to_one(float64):
    p, triples = rgb(4), np.array(list(itertools.product(grid(4)[:, 0], repeat=3)))
    ours = log_prob(p, triples)
    np.testing.assert_allclose(ours, [exact_rgb(p, triple) for triple in triples], rtol=1e-9)
    assert np.exp(ours).sum() == pytest.approx(1, rel=1e-9)


def test_colour_of_images():
    """float32 and 256 levels; an image's density is the sum of its pixels'."""
    p, value = rgb(256, 2, 2, event_ndims=3), np.round(255 * np.random.default_rng(6).random((5, 2, 2, 3))) / 255
    pixels = [(i, j) for i in range(2) for j in range(2)]
    one = {at: likelihoods.LogisticMixture(*(leaf[at] for leaf in jax.tree.leaves(p)), 256) for at in pixels}
    expected = [sum(exact_rgb(one[at], image[at]) for at in pixels) for image in value]
    np.testing.assert_allclose(log_prob(p, value.astype(np.float32)), expected, rtol=1e-5)


def test_colour_draws(key):
    """The frequency of all 4^3 colours in 50,000 draws, 5 standard errors; and the mean where it is exact."""
    p, triples = rgb(4), np.array(list(itertools.product(range(4), repeat=3)))
    x = np.asarray(sample(p, key, (50_000,)))
    number = np.round(x * 3) @ [16, 4, 1]
    probability = np.exp(log_prob(p, triples / 3))
    errors = np.sqrt(probability * (1 - probability) / len(x))
    assert (np.abs((number[:, None] == np.arange(64)).mean(0) - probability) < 5 * errors + 1e-6).all()
    alone = likelihoods.LogisticMixture(p.logits, p.means, p.log_scales, 0 * p.coefficients, 4)
    expected = np.exp(np.asarray(log_prob(alone, triples / 3))) @ (triples / 3)
    np.testing.assert_allclose(mean(alone), expected, rtol=1e-5)


# ------------------------------------------------------------------------------------------- extremes


def extreme(name, location, log_scale):
    at = lambda number, *shape: np.full((2, 1, *shape), number)
    sign = np.array([1.0, -1.0, 0.5])
    if name == "continuous_bernoulli":
        return likelihoods.ContinuousBernoulli(at(location))
    if name == "categorical":
        return likelihoods.Categorical(location * np.linspace(-1, 1, 256) * np.ones((2, 1, 1)))
    if name.startswith("beta_binomial"):
        levels = 17 if name == "beta_binomial of few levels" else 256
        return likelihoods.BetaBinomial(at(math.copysign(20.0, location)), at(log_scale), levels)
    if name == "logistic":
        return likelihoods.DiscretizedLogistic(at(location), at(log_scale))
    channels = (1,) if name == "logistic_mixture" else ()
    axes = (2, *channels, 3 if not channels else 1, 3)
    full = lambda number: number * sign * np.ones(axes)
    return likelihoods.LogisticMixture(full(location), full(location), np.full(axes, log_scale), full(location), 256, 1)


EXTREMES = ("continuous_bernoulli", "categorical", "beta_binomial", "beta_binomial of few levels")


@pytest.mark.parametrize("name", [*EXTREMES, "logistic", "logistic_mixture", "colour"])
def test_extremes_are_finite_in_value_and_gradient(name):
    """|logit|, |mean| = 1e4 and |log scale| = 20, at the darkest, the brightest and a grey value."""
    function = jax.jit(jax.value_and_grad(lambda p, value: p.log_prob(value).sum() + 1e-3 * p.mean.sum()))
    for location, log_scale in itertools.product((-1e4, -110.0, 110.0, 1e4), (-20.0, 20.0)):
        p = extreme(name, location, log_scale)
        for value in (0.0, 0.4, 1.0):
            leaves = jax.tree.leaves(function(p, np.full(3 if name == "colour" else 1, value)))
            assert all(np.isfinite(leaf).all() for leaf in leaves), (location, log_scale, value)


def test_every_parameter_is_a_leaf():
    for name, p in (
        families(8, 2, 1) | {"continuous_bernoulli": likelihoods.ContinuousBernoulli(np.ones((2, 1)))}
    ).items():
        numbers = {"categorical": 1, "continuous_bernoulli": 1, "logistic_mixture": 4}
        assert len(jax.tree.leaves(p)) == numbers.get(name, 2), name
    one = rgb(8, 2)
    gradient = gradients(one, np.full((2, 3), 3 / 7))
    assert all((np.abs(leaf) > 1e-6).any() for leaf in jax.tree.leaves(gradient))
