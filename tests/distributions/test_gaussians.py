"""Correlated, mixed and layered Gaussians against SciPy, NumPyro, formulas in float64 and quadrature."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.special
import scipy.stats
from checks import within

from vae_jax.distributions import gaussians
from vae_jax.distributions.basic import Normal, StandardNormal, closed_form_kl
from vae_jax.distributions.protocol import density_anywhere, has_density

BATCH, LATENT, RANK = 3, 4, 2
CORRELATED = ["full", "low_rank"]
FEW, MANY = 5, 40  # components: the density one by one, and by products of matrices


def compiled(function, **kwargs):
    """Whole, and with NumPy's arrays as results: op by op, the tests would spend most of their time in the compiler."""
    function = jax.jit(function, **kwargs)
    return lambda *args: jax.tree.map(np.asarray, function(*args))


log_prob = compiled(lambda q, value: q.log_prob(value))
sample_and_log_prob = compiled(lambda q, key, shape=(): q.sample_and_log_prob(key, shape), static_argnums=2)
sample = compiled(lambda q, key, shape=(): q.sample(key, shape), static_argnums=2)
kl = compiled(closed_form_kl)


@compiled
def draw_twice(q, key):
    """z, log q(z) from its noise, log q(z) by log_prob, and z of `sample`."""
    z, log_q = q.sample_and_log_prob(key, (5, 2))
    return z, log_q, q.log_prob(z), q.sample(key, (5, 2))


apply = compiled(lambda layer, h: layer(h))


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def correlated(name, batch=BATCH, latent=LATENT, size=1.0):
    """A q with every number drawn from N(0, 1), and its covariances `[B, Z, Z]` by NumPy."""
    rng = np.random.default_rng(7)
    mean, log_std = rng.normal(size=(2, batch, latent))
    sigma, eye = np.exp(0.5 * log_std), np.eye(latent)
    if name == "full":
        matrix = size * rng.normal(size=(batch, latent, latent))  # what lies on and above the diagonal does not count
        root = sigma[..., None] * (np.tril(matrix, -1) + eye)
        covariance, family = root @ root.swapaxes(1, 2), gaussians.FullNormal
    else:
        matrix = size * rng.normal(size=(batch, latent, RANK))
        covariance = sigma[..., None] * (eye + matrix @ matrix.swapaxes(1, 2)) * sigma[:, None]
        family = gaussians.LowRankNormal
    return family(mean, 0.5 * log_std, matrix), covariance


def mixture(components, latent=LATENT):
    rng = np.random.default_rng(components)
    logits, mean, log_std = (rng.normal(size=s) for s in (components, (components, latent), (components, latent)))
    return gaussians.NormalMixture(logits, 2 * mean, 0.5 * log_std)


def exact_mixture(p, value):
    """log p(value) by SciPy in float64."""
    logits, mean, log_std = (np.asarray(leaf, np.float64) for leaf in (p.logits, p.mean, p.log_std))
    each = scipy.stats.norm.logpdf(np.asarray(value, np.float64)[..., None, :], mean, np.exp(log_std)).sum(-1)
    return scipy.special.logsumexp(scipy.special.log_softmax(logits) + each, axis=-1)


def layer(weights, h):
    """A Normal in the next layer: a bent mean, and a scale that depends on h too."""
    return Normal(jnp.tanh(h @ weights["in"]) @ weights["out"], 0.5 * jnp.tanh(h @ weights["scale"]))


def two_layers(low=2, high=3, batch=BATCH):
    """(q, p) with random weights: z1 `[B, low]` and z2 `[B, high]`."""
    rng = np.random.default_rng(11)
    weights = lambda i, o: {
        name: rng.normal(size=size) for name, size in {"in": (i, 4), "out": (4, o), "scale": (i, o)}.items()
    }
    lower = Normal(*(0.5 * rng.normal(size=(batch, low)) for _ in range(2)))
    q = gaussians.TwoLayerPosterior(lower, jax.tree_util.Partial(layer, weights(low, high)))
    return q, gaussians.TwoLayerPrior(jax.tree_util.Partial(layer, weights(high, low)), high)


def plane(half_width, points=401):
    """The points `[points^2, 1, 2]` of a square around 0, for a batch of one, and the area of each."""
    axis = np.linspace(-half_width, half_width, points)
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 1, 2), (axis[1] - axis[0]) ** 2


# ---------------------------------------------------------------------------- full and low-rank Gaussians


@pytest.mark.parametrize("name", CORRELATED)
def test_density_is_scipys(float64, name):
    q, covariance = correlated(name)
    value = np.random.default_rng(1).normal(scale=2, size=(6, BATCH, LATENT))
    scipys = [scipy.stats.multivariate_normal(q.mean[b], covariance[b]).logpdf(value[:, b]) for b in range(BATCH)]
    np.testing.assert_allclose(log_prob(q, value), np.transpose(scipys), rtol=1e-10)
    single = jax.tree.map(lambda leaf: leaf[0], q)  # no batch
    np.testing.assert_allclose(log_prob(single, value[:, 0]), scipys[0], rtol=1e-10)


@pytest.mark.parametrize("name", CORRELATED)
def test_a_draw_has_its_own_density(key, float64, name):
    z, log_q, again, drawn = draw_twice(correlated(name)[0], key)
    assert z.shape == (5, 2, BATCH, LATENT) and log_q.shape == (5, 2, BATCH)
    np.testing.assert_allclose(again, log_q, rtol=1e-10)
    np.testing.assert_allclose(drawn, z, rtol=1e-12)


@pytest.mark.parametrize("name", CORRELATED)
def test_draws_have_the_mean_and_covariance(key, name):
    """20,000 draws, 5 standard errors."""
    q, covariance = correlated(name)
    z = np.asarray(sample(q, key, (20_000,)))
    within(z, q.mean)
    centered = z - q.mean
    within(centered[..., None] * centered[..., None, :], covariance)


@pytest.mark.parametrize("name", CORRELATED)
def test_kl_is_the_formula_of_its_covariance(float64, name):
    """KL(N(m, C) || N(0, I)) = (tr C + m.m - Z - log det C) / 2."""
    q, covariance = correlated(name)
    trace, log_det = np.trace(covariance, axis1=1, axis2=2), np.linalg.slogdet(covariance)[1]
    expected = 0.5 * (trace + (np.asarray(q.mean) ** 2).sum(-1) - LATENT - log_det)
    np.testing.assert_allclose(kl(q, StandardNormal((LATENT,))), expected, rtol=1e-12)
    assert closed_form_kl(q, q) is None


@pytest.mark.parametrize("name", CORRELATED)
def test_without_correlations_it_is_the_diagonal_gaussian(key, name):
    q, _ = correlated(name, size=0.0)
    diagonal = Normal(q.mean, q.log_std)
    value = sample(diagonal, key, (4,))
    np.testing.assert_allclose(log_prob(q, value), log_prob(diagonal, value), rtol=1e-6)
    prior = StandardNormal((LATENT,))
    np.testing.assert_allclose(kl(q, prior), kl(diagonal, prior), rtol=1e-6)


def test_only_what_lies_below_the_diagonal_counts(key, float64):
    def everything(q):
        z, log_q = q.sample_and_log_prob(key, (2,))
        return z.sum() + log_q.sum() + q.log_prob(jnp.ones(LATENT)).sum() + closed_form_kl(q, prior).sum()

    q, prior = correlated("full")[0], StandardNormal((LATENT,))
    gradient = np.asarray(jax.jit(jax.grad(everything))(q).lower)
    counts = np.broadcast_to(np.tril(np.ones((LATENT, LATENT)), -1) == 1, gradient.shape)
    assert (gradient[~counts] == 0).all() and (gradient[counts] != 0).all()


def test_low_rank_keeps_digits_for_strong_directions(key):
    """float32, U of size 30: y (I + U U')^-1 y cancels 1e3 to about 1; a draw's density is right to 1e-3."""
    q, covariance = correlated("low_rank", size=30.0)
    z, log_q = sample_and_log_prob(q, key, (50,))
    each = [scipy.stats.multivariate_normal(q.mean[b], covariance[b]).logpdf(z[:, b]) for b in range(BATCH)]
    np.testing.assert_allclose(log_q, np.transpose(each), atol=5e-3)


# ------------------------------------------------------------------------------------------- mixtures


@pytest.mark.parametrize("components", [FEW, MANY])
def test_mixture_is_numpyros_and_scipys(components):
    """float32; the products of matrices round at 1e-7 |z / sigma|^2."""
    assert FEW <= gaussians.FEW < MANY
    p = mixture(components)
    value = np.random.default_rng(2).normal(scale=2, size=(7, 3, LATENT)).astype(np.float32)
    ours = log_prob(p, value)
    numpyros = dist.MixtureSameFamily(
        dist.Categorical(logits=p.logits), dist.Normal(p.mean, jnp.exp(p.log_std)).to_event(1)
    )
    np.testing.assert_allclose(ours, compiled(numpyros.log_prob)(value), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(ours, exact_mixture(p, value), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("components", [FEW, MANY])
def test_mixture_far_from_all_components(float64, components):
    p, value = mixture(components), np.array([[1e4] * LATENT, [-300.0, 0, 40, 2], [0.0] * LATENT])
    np.testing.assert_allclose(log_prob(p, value), exact_mixture(p, value), rtol=1e-10)


def test_both_paths_have_the_same_gradient(float64, monkeypatch):
    p, value = mixture(MANY), np.random.default_rng(3).normal(size=(5, LATENT))
    function = lambda p, value: p.log_prob(value).sum()
    products = jax.jit(jax.grad(function, argnums=(0, 1)))(p, value)
    monkeypatch.setattr(gaussians, "FEW", MANY)
    one_by_one = jax.jit(jax.grad(lambda p, value: function(p, value), argnums=(0, 1)))(p, value)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10), products, one_by_one)


@pytest.mark.parametrize("components", [FEW, MANY, 200])
def test_mixture_of_narrow_components_is_scipys(components):
    """float32 at sigma = 0.003, 50 draws from it in 20 dimensions: no component loses digits to |z / sigma|^2 = 1e5."""
    rng = np.random.default_rng(components)
    mean = rng.normal(size=(components, 20)).astype(np.float32)
    logits, log_std = rng.normal(size=components).astype(np.float32), np.full_like(mean, np.log(0.003))
    p = gaussians.NormalMixture(logits, mean, log_std)
    value = (mean[rng.integers(components, size=50)] + 0.003 * rng.normal(size=(50, 20))).astype(np.float32)
    np.testing.assert_allclose(log_prob(p, value), exact_mixture(p, value), rtol=2e-6, atol=2e-4)


def test_mixture_draws(key):
    """Means and second moments of 20,000 draws, 5 standard errors."""
    p = mixture(FEW)
    z = sample(p, key, (20_000,))
    pi = scipy.special.softmax(p.logits)
    within(z, pi @ p.mean)
    within(np.asarray(z) ** 2, pi @ (p.mean**2 + np.exp(2 * p.log_std)))
    for shape in ((), (2, 3)):
        assert jax.eval_shape(lambda p, shape=shape: p.sample(key, shape), p).shape == (*shape, LATENT)


# ------------------------------------------------------------------------------- normalization, extremes


def test_densities_integrate_to_one(float64):
    points, area = plane(20.0, 501)
    q, p = two_layers(low=1, high=1, batch=1)
    pair = {"z1": points[..., :1], "z2": points[..., 1:]}
    named = {name: correlated(name, batch=1, latent=2)[0] for name in CORRELATED}
    named |= {f"mixture of {n}": mixture(n, latent=2) for n in (FEW, MANY)}
    log_densities = {name: log_prob(one, points) for name, one in named.items()}
    log_densities |= {"q of two layers": log_prob(q, pair), "p of two layers": log_prob(p, pair)}
    for name, log_density in log_densities.items():
        assert np.exp(np.asarray(log_density)).sum() * area == pytest.approx(1, abs=1e-6), name


def at_extremes(build, function):
    """A function of (distribution, value) at |mean| = 1e4 and |log_std| = 20: value and gradients are finite."""
    run = compiled(jax.value_and_grad(function, argnums=(0, 1)))
    for mean, log_std in itertools.product((-1e4, 1e4), (-20.0, 20.0)):
        for value in (0.0, mean, -mean):
            results = run(build(mean, log_std), np.full((2, BATCH, LATENT), value))
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(results)), (mean, log_std, value)


@pytest.mark.parametrize("name", CORRELATED)
def test_extremes_are_finite_in_value_and_gradient(key, name):
    start = correlated(name, size=3.0)[0]

    def build(mean, log_std):
        return type(start)(
            np.full_like(start.mean, mean), np.full_like(start.log_std, log_std), jax.tree.leaves(start)[2]
        )

    def everything(q, value):
        z, log_q = q.sample_and_log_prob(key, (2,))
        return (
            1e-6 * z.sum() + log_q.sum() + q.log_prob(value).sum() + closed_form_kl(q, StandardNormal((LATENT,))).sum()
        )

    at_extremes(build, everything)


@pytest.mark.parametrize("components", [FEW, MANY])
def test_extreme_mixtures_are_finite_in_value_and_gradient(components):
    """Half of the components at the extreme and half at its mirror image; then the logits there too."""
    sign = np.where(np.arange(components) % 2 == 0, 1.0, -1.0)
    for logit in (0.0, 1e4):
        build = lambda mean, log_std, logit=logit: gaussians.NormalMixture(
            logit * sign, mean * sign[:, None] * np.ones(LATENT), np.full((components, LATENT), log_std)
        )
        at_extremes(build, lambda p, value: p.log_prob(value).sum())


# ----------------------------------------------------------------------------------- two layers and none


def scipy_normal(normal, value):
    return scipy.stats.norm.logpdf(value, normal.mean, np.exp(normal.log_std)).sum(-1)


def test_two_layers_have_the_sum_of_their_densities(key, float64):
    q, p = two_layers()
    z, log_q, again, drawn = draw_twice(q, key)
    assert z["z1"].shape == (5, 2, BATCH, 2) and z["z2"].shape == (5, 2, BATCH, 3) and log_q.shape == (5, 2, BATCH)
    expected = scipy_normal(q.lower, z["z1"]) + scipy_normal(apply(q.upper, z["z1"]), z["z2"])
    np.testing.assert_allclose(log_q, expected, rtol=1e-10)
    np.testing.assert_allclose(again, expected, rtol=1e-10)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), drawn, z)
    expected = scipy.stats.norm.logpdf(z["z2"]).sum(-1) + scipy_normal(apply(p.lower, z["z2"]), z["z1"])
    np.testing.assert_allclose(log_prob(p, z), expected, rtol=1e-10)


def test_draws_of_two_layers_are_from_their_densities(key):
    """E_q[p / q] = 1 for a narrower p, and the moments of each layer; 20,000 draws, 5 standard errors."""
    q, p = two_layers(batch=1)
    z, log_q = sample_and_log_prob(q, key, (20_000,))
    within(z["z1"], q.lower.mean)
    within(z["z2"] - apply(q.upper, z["z1"]).mean, 0)
    narrow = gaussians.TwoLayerPosterior(Normal(q.lower.mean, q.lower.log_std - 0.5), q.upper)
    within(np.exp(log_prob(narrow, z) - log_q), 1)
    drawn = sample(p, key, (20_000, 1))
    assert drawn["z1"].shape == (20_000, 1, 2) and drawn["z2"].shape == (20_000, 1, 3)
    within(drawn["z2"], 0)
    within(drawn["z2"] ** 2, 1)
    given = apply(p.lower, drawn["z2"])
    residual = (drawn["z1"] - given.mean) * np.exp(-given.log_std)
    within(residual, 0)
    within(residual**2, 1)


def test_extreme_layers_are_finite_in_value_and_gradient(key):
    def everything(q, value):
        z, log_q = q.sample_and_log_prob(key, (2,))
        return log_q.sum() + q.log_prob(z).sum() + q.log_prob({"z1": value, "z2": value}).sum() + p.log_prob(z).sum()

    p = gaussians.TwoLayerPrior(jax.tree_util.Partial(lambda scale, h: Normal(h, h * scale), np.zeros(())), LATENT)
    upper = lambda parameters, h: Normal(parameters["mean"] + jnp.tanh(h), parameters["log_std"] + jnp.tanh(h) * 0)

    def build(mean, log_std):
        full = lambda number: np.full((BATCH, LATENT), number)
        parameters = {"mean": full(-mean), "log_std": full(log_std)}
        return gaussians.TwoLayerPosterior(Normal(full(mean), full(log_std)), jax.tree_util.Partial(upper, parameters))

    at_extremes(build, everything)


@pytest.mark.parametrize("name", [*CORRELATED, "two_layers"])
def test_an_example_has_its_own_noise(name):
    """A key per example: a row's draws do not depend on the batch around it."""
    q = two_layers(low=6, high=6)[0] if name == "two_layers" else correlated(name, latent=6 if name == "full" else 4)[0]
    keys = jax.random.split(jax.random.key(4), BATCH)
    moved = lambda tree: jax.tree.map(lambda leaf: leaf + np.array([1, 0, 1]).reshape(-1, *[1] * (leaf.ndim - 1)), tree)
    around = gaussians.TwoLayerPosterior(moved(q.lower), q.upper) if name == "two_layers" else moved(q)
    whole, other = (sample_and_log_prob(q, keys, (4,)), sample_and_log_prob(around, keys[np.array([2, 1, 0])], (4,)))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:, 1], b[:, 1]), whole, other)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(other), strict=True):
        assert (np.abs(a[:, ::2] - b[:, ::2]) > 1e-6).all()  # and the others have noise of theirs


def test_layers_have_different_noise_and_take_old_style_keys(key):
    """Two layers that pass their noise on: z1 = eps1, z2 = eps2."""
    lower = Normal(np.zeros((BATCH, 2)), np.zeros((BATCH, 2)))
    q = gaussians.TwoLayerPosterior(lower, jax.tree_util.Partial(lambda h: Normal(0 * h, 0 * h)))
    z, _ = sample_and_log_prob(q, key, (2000,))
    within(np.asarray(z["z1"] * z["z2"]), 0)
    old, new = (sample(q, make(5), (4,)) for make in (jax.random.PRNGKey, jax.random.key))
    jax.tree.map(np.testing.assert_array_equal, old, new)


def test_dirac_is_its_mean_and_has_no_density(key):
    point = gaussians.Dirac(jnp.arange(6.0).reshape(3, 2))
    np.testing.assert_array_equal(point.sample(key, (4,)), np.broadcast_to(point.mean, (4, 3, 2)))
    assert point.sample(key).shape == (3, 2)
    assert not hasattr(point, "log_prob") and closed_form_kl(point, StandardNormal((2,))) is None
    assert not has_density(point) and not density_anywhere(point)


def test_every_parameter_is_a_leaf():
    """Their number, and all of them move the density."""
    q, p = two_layers()
    value = np.random.default_rng(4).normal(size=(2, BATCH, LATENT))
    pair = {"z1": value[..., :2], "z2": value[..., 1:]}
    cases = [(correlated("full")[0], 3, value), (correlated("low_rank")[0], 3, value), (mixture(FEW), 3, value)]
    ones, numbers, ats = zip(*cases, (q, 2 + 3, pair), (p, 3, pair), strict=True)
    total = lambda ones: sum(one.log_prob(at).sum() for one, at in zip(ones, ats, strict=True))
    for gradient, number in zip(compiled(jax.grad(total))(ones), numbers, strict=True):
        assert len(jax.tree.leaves(gradient)) == number
        assert all((np.abs(leaf) > 1e-6).any() for leaf in jax.tree.leaves(gradient))
