"""Annealed importance sampling against log p(x) in closed form and by quadrature."""

import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.distributions.basic import Bernoulli, Normal, StandardNormal
from vae_jax.evaluation import ais

SETTINGS = ais.Annealing(
    num_chains=8, num_temperatures=300, num_leapfrog=5, schedule="linear", pilot_chains=4, pilot_temperatures=60
)
SHORT = SETTINGS._replace(num_chains=2, num_temperatures=25, num_leapfrog=3, pilot_temperatures=25)
REPEATS = 500  # independent estimates for each example


def linear_gaussian_target(weight, bias, log_sigma, example):
    """From the q in the example, which may be the prior, to p(x, z) of conftest's model."""
    log_joint = lambda z: Normal(weight @ z + bias, log_sigma).log_prob(example["x"]) + prior.log_prob(z)
    prior = StandardNormal((weight.shape[-1],))
    return Normal(*example["q"]), log_joint


@partial(jax.jit, static_argnums=(3, 4))
def run(keys, examples, arguments, target, settings):
    """Forward and, from examples['z'], reverse estimates with the same frozen step sizes."""
    target = partial(target, *arguments)
    log_steps = ais.tune(keys, examples, target, settings)
    up = ais.estimate(keys, examples, target, log_steps, settings)
    return up, ais.reverse(keys, examples, examples["z"], target, log_steps, settings), log_steps


@pytest.fixture(scope="module")
def problem(linear_gaussian):
    """repeat(n, q) -> examples, each n times, with an exact draw of p(z|x) in 'z'; and the model's arguments.

    Without a q the start is the prior, as a q: the same compiled program serves both.
    """
    g = linear_gaussian
    arguments = jax.tree.map(jnp.float32, (g.weight, g.bias, np.full(len(g.bias), np.log(g.sigma))))

    def repeat(count, q=(0.0, 0.0)):
        noise = np.random.default_rng(0).normal(size=(count * len(g.x), len(g.log_std)))
        examples = {"x": g.x.repeat(count, 0), "z": g.mean.repeat(count, 0) + np.exp(g.log_std) * noise}
        examples["q"] = tuple(np.broadcast_to(part, g.mean.shape).repeat(count, 0) for part in q)
        return jax.tree.map(jnp.float32, examples)

    return repeat, arguments


@pytest.mark.slow
def test_long_runs_equal_log_px(linear_gaussian, problem):
    repeat, arguments = problem
    settings = SETTINGS._replace(num_chains=256, num_temperatures=1500)
    keys = jax.random.split(jax.random.key(0), len(linear_gaussian.x))
    up, down, _ = run(keys, repeat(1), arguments, linear_gaussian_target, settings)
    assert np.abs(up.log_px - linear_gaussian.log_px).mean() < 0.02
    assert np.abs(down.log_px - linear_gaussian.log_px).mean() < 0.04  # the same z begins all chains
    assert up.ess.mean() > 0.92 * settings.num_chains  # 0.95 over many keys, single ones +- 0.017
    assert up.ess.min() > 0.85 * settings.num_chains
    assert (np.abs(up.acceptance - ais.TARGET_ACCEPTANCE) < 0.2).all() and up.acceptance.shape == (
        len(keys),
        ais.STRETCHES,
    )
    std, z = np.exp(linear_gaussian.log_std), np.asarray(up.z)  # and the chains have become draws of p(z|x)
    assert (np.abs(z.mean(1) - linear_gaussian.mean) < 5 * std / np.sqrt(settings.num_chains)).all()
    np.testing.assert_allclose(z.std(1), np.broadcast_to(std, linear_gaussian.mean.shape), rtol=0.25)


@pytest.mark.parametrize("start", ["prior", "q"])
def test_estimates_are_unbiased_and_bounds_hold(linear_gaussian, problem, start):
    """Short, bad runs: E[p^(x)] = p(x) within 5 standard errors all the same, and in logarithms below and above it."""
    repeat, arguments = problem
    count = REPEATS
    q = [(linear_gaussian.mean + 0.3, linear_gaussian.log_std + 0.3)] if start == "q" else []
    keys = jax.random.split(jax.random.key(1), count * len(linear_gaussian.x))
    up, down, _ = run(keys, repeat(count, *q), arguments, linear_gaussian_target, SHORT)
    error = np.float64(up.log_px) - linear_gaussian.log_px.repeat(count)
    ratio = np.exp(error).reshape(-1, count)
    assert (ratio.std(1) > 0.02).all()  # there is something to be biased
    assert (np.abs(ratio.mean(1) - 1) < 5 * ratio.std(1) / np.sqrt(count)).all()
    above = np.float64(down.log_px) - linear_gaussian.log_px.repeat(count)
    for bound, sign in ((error, -1), (above, 1)):
        assert sign * bound.mean() > 2 * bound.std() / np.sqrt(len(bound))  # on its side of log p(x), clearly
    ratio = np.exp(-above)
    assert np.abs(ratio.mean() - 1) < 5 * ratio.std() / np.sqrt(len(ratio))


def test_a_start_at_the_posterior_is_exact(linear_gaussian, problem):
    """log p(x, z) - log p(z|x) = log p(x) at any z: every weight is exact, whatever the transitions do."""
    repeat, arguments = problem
    examples = repeat(REPEATS, (linear_gaussian.mean, linear_gaussian.log_std))
    keys = jax.random.split(jax.random.key(2), len(examples["x"]))
    for result in run(keys, examples, arguments, linear_gaussian_target, SHORT)[:2]:
        np.testing.assert_allclose(result.log_px, linear_gaussian.log_px.repeat(REPEATS), rtol=1e-4)
        np.testing.assert_allclose(result.ess, SHORT.num_chains, rtol=1e-4)


def test_an_example_does_not_depend_on_its_batch(linear_gaussian, problem):
    """Other companions with other keys change no bit of it."""
    repeat, arguments = problem
    settings, examples = SETTINGS._replace(num_temperatures=40, num_chains=4), repeat(1)
    keys = jax.random.split(jax.random.key(3), len(linear_gaussian.x))
    whole = run(keys, examples, arguments, linear_gaussian_target, settings)
    others = jax.tree.map(lambda array: array.at[:2].add(1.0), examples)
    keys = keys.at[:2].set(jax.random.split(jax.random.key(4), 2))
    among_others = run(keys, others, arguments, linear_gaussian_target, settings)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[2:], b[2:]), whole, among_others)
    assert np.abs(np.diff(whole[0].log_px)).min() > 1e-3
    assert np.abs(whole[0].log_px - among_others[0].log_px)[:2].min() > 1e-3


def bernoulli_target(weight, example):
    prior = StandardNormal((2,))
    logits = lambda z: jnp.tanh(z @ weight[:2]) @ weight[2:].T
    return prior, lambda z: Bernoulli(logits(z)).log_prob(example["x"]) + prior.log_prob(z)


@pytest.mark.slow
def test_a_network_by_quadrature():
    """Two dimensions, a tanh layer, Bernoulli pixels: log p(x) by a sum over a grid in float64."""
    rng = np.random.default_rng(1)
    weight = np.concatenate([rng.normal(size=(2, 6)), rng.normal(size=(9, 6))])
    x = rng.integers(0, 2, size=(3, 9))
    axis = np.linspace(-7, 7, 701)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    logits = np.tanh(grid @ weight[:2]) @ weight[2:].T
    log_joint = logits @ x.T - np.logaddexp(0, logits).sum(-1, keepdims=True) - 0.5 * (grid**2).sum(-1, keepdims=True)
    log_px = np.log(np.exp(log_joint).sum(0)) + 2 * np.log(axis[1] - axis[0]) - np.log(2 * np.pi)
    examples = {"x": jnp.float32(x), "z": jnp.zeros((3, 2))}
    settings = SETTINGS._replace(num_chains=512, num_temperatures=300, schedule="sigmoidal")
    up, _, _ = run(jax.random.split(jax.random.key(5), 3), examples, (jnp.float32(weight),), bernoulli_target, settings)
    assert np.abs(up.log_px - log_px).mean() < 0.02


@pytest.mark.parametrize("schedule", sorted(ais.SCHEDULES))
def test_schedules_rise_from_0_to_1(schedule):
    betas = np.asarray(ais.temperatures(schedule, 50))
    assert betas[0] == 0 and betas[-1] == 1 and len(betas) == 51 and (np.diff(betas) > 0).all()
    np.testing.assert_allclose(betas, 1 - betas[::-1], atol=1e-6)


def test_the_sigmoid_by_hand():
    """t = 1/4, delta = 4: (sigmoid(-2) - sigmoid(-4)) / (sigmoid(4) - sigmoid(-4)) = 0.10122 / 0.96403."""
    assert float(ais.sigmoidal(0.25)) == pytest.approx(0.10122 / 0.96403, rel=1e-4)


def test_ais_knows_only_the_mathematics():
    """No network, model or configuration: a target is two functions."""
    imported = set(re.findall(r"from (vae_jax\.\w+)", Path(ais.__file__).read_text()))
    assert imported == {"vae_jax.keys", "vae_jax.objectives"}
