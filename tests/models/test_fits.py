"""Fits of q against linear-Gaussian models, whose best q and posterior are known, and arithmetic by hand."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_worlds import fit_config, latent, make_world, model_of

from vae_jax.evaluation.examples import fit_from, with_q_params
from vae_jax.keys import split_keys
from vae_jax.models import families, fits
from vae_jax.models.fits import fit_q_params, natural
from vae_jax.models.inference import STARTS


def fitted(world, posterior="normal", start="zeros", **changes):
    """{'q_params', 'stopped'} of a fit to every x of a world."""
    batch, dim = world.mean.shape
    keys = split_keys(0, "test", batch)
    if start == "far":
        q_params = {"mean": jnp.full((batch, dim), 5.0), "log_std": jnp.full((batch, dim), -5.0)}
    else:
        q_params = STARTS[start](families.POSTERIORS[posterior](latent(dim)).heads, keys)
    examples = {"image": world.x, "key": keys, "q_params": q_params}
    return fit_from(model_of(posterior, dim), world.params, examples, fit_config(**changes))


# ---- how near a fit comes


@pytest.mark.parametrize("start", ["zeros", "prior", "far"])
@pytest.mark.parametrize("sigma", [1, 0.01])
@pytest.mark.parametrize("dim", [2, 20])
def test_gaussian_fits_know_no_scale(dim, sigma, start):
    """However sharp the likelihood and wherever they begin, all end within 0.01 nats of the best, on the average."""
    world = make_world(dim, 64, sigma)
    shortfall = world.shortfall(fitted(world, start=start)["q_params"])
    assert shortfall.min() > -1e-4 and shortfall.mean() < 0.01, shortfall


@pytest.mark.slow
@pytest.mark.parametrize("dim", [2, 20, 50])
def test_gaussian_fits_over_the_whole_grid(dim):
    """128 dimensions, 64 examples, five sigmas and three starts: 0.01 nats for Z = 2 and 20, 0.02 for 50."""
    for sigma in (1, 0.3, 0.1, 0.03, 0.01):
        world = make_world(dim, 128, sigma, 64)
        for start in ("zeros", "prior", "far"):
            shortfall = world.shortfall(fitted(world, start=start)["q_params"])
            assert shortfall.min() > -1e-3 and shortfall.mean() < max(0.01, dim * 4e-4), (sigma, start, shortfall)


def kl_to_posterior(world, q):
    """KL(q || p(z|x)) `[B]` from draws, in float64."""
    z, log_q = jax.jit(lambda key: q.sample_and_log_prob(key, (500,)))(jax.random.key(7))
    off = np.asarray(z, float) - world.mean
    quadratic = np.einsum("kbi,ij,kbj->kb", off, world.precision, off)
    log_p = 0.5 * (np.linalg.slogdet(world.precision)[1] - quadratic - world.mean.shape[1] * np.log(2 * np.pi))
    return (np.asarray(log_q, float) - log_p).mean(0)


@pytest.mark.parametrize("sigma", [1, 0.01])
def test_a_full_covariance_reaches_the_posterior(sigma):
    """There log w is the same for all draws, so the gradient has no noise and the KL is 0 to float32's precision."""
    world = make_world(6, 16, sigma)
    q = model_of("full_normal", 6).make_q({}, fitted(world, "full_normal")["q_params"])
    assert np.abs(kl_to_posterior(world, q)).max() < 1e-3


@pytest.mark.parametrize("posterior", ["low_rank", "coupling"])
def test_what_bends_a_gaussian_does_not_unsettle_it(posterior):
    """A sharp likelihood: no worse than the best diagonal Gaussian, and 0.02 for the noise of 500 draws."""
    world = make_world(4, 16, 0.01)
    q = model_of(posterior, 4).make_q({}, fitted(world, posterior)["q_params"])
    diagonal = 0.5 * (np.log(np.diag(world.precision)).sum() - np.linalg.slogdet(world.precision)[1])
    assert kl_to_posterior(world, q).mean() < diagonal + 0.02


# ---- steps


def test_a_natural_step_by_hand():
    """Curvature h = 9 at sigma = 1, d = 1 - h sigma^2 = -8, rate 0.1: the variance is divided by 1 + 0.8.

    Then the mean, with a gradient of 2, moves by 0.1 * 2 / 1.8. At rate 1 a variance is but halved, and the mean, with
    a gradient of 50, moves by LONGEST_MOVE.
    """
    q_params = {"mean": jnp.zeros((2, 1)), "log_std": jnp.zeros((2, 1))}
    gradient = {"mean": jnp.array([[2.0], [50.0]]), "log_std": jnp.array([[-8.0], [-8.0]])}
    new = fits.diagonal_step(q_params, gradient, jnp.array([0.1, 1.0]))
    np.testing.assert_allclose(jnp.exp(2 * new["log_std"])[:, 0], [1 / 1.8, np.exp(-fits.LARGEST_GROWTH)], rtol=1e-6)
    np.testing.assert_allclose(new["mean"][:, 0], [0.2 / 1.8, fits.LONGEST_MOVE], rtol=1e-6)


def test_a_full_step_of_a_diagonal_gaussian_is_the_diagonal_step():
    """To first order in the rate, with no correlations to begin with and none in the curvature."""
    mean, log_std = jnp.array([[0.3, -0.2]]), jnp.array([[0.1, -0.4]])
    gradient = {"mean": jnp.array([[1.0, -2.0]]), "log_std": jnp.array([[0.5, -0.3]]), "lower": jnp.zeros((1, 1))}
    full = {"mean": mean, "log_std": log_std, "lower": jnp.zeros((1, 1))}
    rate = jnp.array([1e-3])
    both = jax.jit(lambda *of: (fits.full_step(*of), fits.diagonal_step(*of)))
    new, expected = both(full, gradient, rate)
    for name in expected:
        np.testing.assert_allclose(new[name], expected[name], atol=1e-6)
    np.testing.assert_allclose(new["lower"], 0, atol=1e-7)


def test_a_full_step_goes_to_a_known_posterior():
    """The expected gradient of a Gaussian target in float32, without draws: 60 steps at 0.3 reach its covariance."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 3))
    precision, target = jnp.float32(root @ root.T + np.eye(3)), jnp.float32(rng.normal(size=3))

    def value(q_params):
        q = families.full_normal_posterior(latent(3)).make({}, q_params)
        factor = jnp.exp(q.log_std)[..., None] * (jnp.eye(3) + jnp.tril(q.lower, -1))
        off = q.mean - target
        trace = jnp.einsum("bik,ij,bjk->b", factor, precision, factor)
        return (q.log_std.sum(-1) - 0.5 * (trace + jnp.einsum("bi,ij,bj->b", off, precision, off))).sum()

    step = jax.jit(lambda q_params: fits.full_step(q_params, jax.grad(value)(q_params), jnp.full(1, 0.3)))
    q_params = {name: jnp.zeros((1, 3)) for name in ("mean", "log_std", "lower")}
    for _ in range(60):
        q_params = step(q_params)
    q = families.full_normal_posterior(latent(3)).make({}, q_params)
    factor = jnp.exp(q.log_std)[..., None] * (jnp.eye(3) + jnp.tril(q.lower, -1))
    np.testing.assert_allclose(q.mean[0], target, atol=1e-3)
    np.testing.assert_allclose(factor[0] @ factor[0].T @ precision, np.eye(3), atol=1e-3)


# ---- when a fit ends, and what is its answer

RATES = {"natural_rate": 0.3, "learning_rate": 0.1}


def keys_of(count):
    return jax.random.split(jax.random.key(0), count)


def test_a_fit_does_not_see_its_companions():
    """Each example fitted alone, and in a batch of 16: the same q_params after the same number of steps."""
    world = make_world(2, 8, 0.3)
    keys = split_keys(0, "test", 16)
    model = model_of("normal", 2)
    examples = {"image": world.x, "key": keys, "q_params": STARTS["prior"]({"mean": (2,), "log_std": (2,)}, keys)}
    together = fit_from(model, world.params, examples, fit_config(max_steps=200, window=20, patience=5))
    assert len(set(together["stopped"].tolist())) > 1, "examples of one batch stop at different times"
    for i in (0, 5):
        own = jax.tree.map(lambda column, i=i: column[i : i + 1], examples)
        alone = fit_from(model, world.params, own, fit_config(max_steps=200, window=20, patience=5))
        assert alone["stopped"][0] == together["stopped"][i]
        for name, value in alone["q_params"].items():
            np.testing.assert_allclose(value[0], together["q_params"][name][i], atol=1e-5)


def test_examples_stop_each_on_its_own():
    """value = -|m - target|^2, Adam: who starts at the target stops after 1 + patience windows, who is far goes on.

    At the target every gradient is 0 and no window after the first is better than it: 4 windows of 25 steps.
    """
    target = jnp.array([[0.0], [8.0], [0.0]])
    value = lambda keys, q_params: -((q_params["mean"] - target) ** 2).sum(-1)
    start = {"mean": jnp.zeros((3, 1))}
    options = {**RATES, "window": 25, "patience": 3}
    fit = fit_q_params(value, start, keys_of(3), natural(), max_steps=1000, **options)
    assert fit.steps.tolist()[::2] == [100, 100] and 125 <= fit.steps[1] < 1000
    np.testing.assert_allclose(fit.average["mean"], target, atol=1e-2)
    np.testing.assert_array_equal(fit.average["mean"][::2], 0)
    fit = fit_q_params(value, start, keys_of(3), natural(), max_steps=110, **options)
    assert fit.steps.tolist() == [100, 100, 100] and fit.stale.tolist() == [3, 0, 3]


@pytest.mark.parametrize("max_steps, taken", [(4, 4), (25, 20)])
def test_few_steps_are_steps_all_the_same(max_steps, taken):
    """A window longer than the whole fit is cut to it; steps beyond the last whole window are not taken."""
    value = lambda keys, q_params: -((q_params["mean"] - 1) ** 2).sum(-1)
    options = {**RATES, "window": 10, "patience": 3, "max_steps": max_steps}
    fit = fit_q_params(value, {"mean": jnp.zeros((2, 1))}, keys_of(2), natural(), **options)
    assert fit.steps.tolist() == [taken, taken]
    assert (fit.average["mean"] > 0.05).all()


def test_the_rate_falls_and_the_average_of_the_last_window_is_the_answer():
    """One window of four steps of Adam with the gradient 1, whose updates are 1, worked by hand.

    Rates: level at 0 and 1/4 of the way; at 1/2 and 3/4 LAST_RATE to the power of (1/2 - 0.4) / (1 - 0.4) = 1/6 and of
    (3/4 - 0.4) / (1 - 0.4) = 7/12. Iterates are their sums, the answer the mean of the iterates.
    """
    value = lambda keys, q_params: q_params["mean"][:, 0]
    options = {**RATES, "max_steps": 4, "window": 4, "patience": 1}
    fit = fit_q_params(value, {"mean": jnp.zeros((1, 1))}, keys_of(1), natural(), **options)
    iterates = np.cumsum([0.1, 0.1, 0.1 * 0.01 ** (1 / 6), 0.1 * 0.01 ** (7 / 12)])
    np.testing.assert_allclose(fit.average["mean"], iterates.mean(), rtol=1e-4)


def test_a_stale_window_calms_the_steps():
    """Windows of one step on a value that is always 0 but has the gradient 1: rates times 0.3^stale, 0, 0, 1."""
    value = lambda keys, q_params: q_params["mean"][:, 0] - jax.lax.stop_gradient(q_params["mean"][:, 0])
    options = {**RATES, "max_steps": 3, "window": 1, "patience": 9}
    fit = fit_q_params(value, {"mean": jnp.zeros((1, 1))}, keys_of(1), natural(), **options)
    falling = 0.01 ** ((2 / 3 - 0.4) / 0.6)
    np.testing.assert_allclose(fit.average["mean"], 0.1 + 0.1 + 0.1 * 0.3 * falling, rtol=1e-4)


def test_chunks_do_not_change_a_fit():
    """`with_q_params` in chunks of 2 and of 5 examples (the last one filled up) gives the same q_params."""
    world, fit = make_world(2, 8, 0.3, 8), fit_config()
    chunks = lambda size: SimpleNamespace(fit=fit, eval=SimpleNamespace(chunk_images=size * fit.num_samples))
    examples = {"image": world.x, "key": split_keys(0, "test", 8)}
    found = lambda size: with_q_params(model_of("normal", 2), world.params, examples, chunks(size))
    two, five = found(2), found(5)
    np.testing.assert_array_equal(two["stopped"], five["stopped"])
    for name in two["q_params"]:
        np.testing.assert_allclose(two["q_params"][name], five["q_params"][name], atol=1e-5)


@pytest.mark.parametrize("posterior", ["normal", "full_normal", "low_rank", "coupling", "planar", "two_layer"])
def test_antithetic_draws_come_in_pairs(posterior):
    """For a Gaussian z and 2 mean - z; for all of them the noise of a pair cancels, so densities at the start agree."""
    model = model_of(posterior, 3)
    keys = keys_of(2)
    heads = families.POSTERIORS[posterior](latent(3)).heads
    gaussian = posterior in ("normal", "full_normal", "low_rank")

    @jax.jit
    def draws(keys):
        rows = {name: jax.random.normal(jax.random.key(1), (2, *shape)) for name, shape in heads.items()}
        q = model.make_q({}, rows)
        paired = q.sample_and_log_prob(keys, (5,), antithetic=True)
        return *paired, q.sample_and_log_prob(keys, (3,))[0], q.mean if gaussian else ()

    z, log_q, first, mean = draws(keys)
    leaf = lambda z: z["z1"] if isinstance(z, dict) else z
    np.testing.assert_allclose(leaf(z)[:3], leaf(first), rtol=1e-6)
    assert leaf(z).shape == (5, 2, 3) and log_q.shape == (5, 2)
    if gaussian:
        np.testing.assert_allclose(z[3:], 2 * mean - first[:2], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(log_q[3:], log_q[:2], rtol=1e-4)
