"""What fits fall short, against linear-Gaussian models where it is known, and the warning that it gives."""

from types import SimpleNamespace

import numpy as np
import pytest
from linear_worlds import fit_config, make_world, model_of

from vae_jax import console
from vae_jax.evaluation.examples import with_q_params
from vae_jax.evaluation.shortfall import best_of, make_runner, mean_log_weight, shortfall_numbers
from vae_jax.keys import Use, split_keys

BATCH = 40


def measured(fit):
    """(the numbers, the true shortfall of the examples) of fits with sigma = 0.03."""
    world = make_world(4, 32, 0.03, BATCH)
    model, keys = model_of("normal", 4), split_keys(0, "test", BATCH)
    settings = SimpleNamespace(fit=fit, eval=SimpleNamespace(chunk_images=2500))
    examples = with_q_params(model, world.params, {"image": world.x, "key": keys}, settings)
    run = make_runner(model, world.params, 2500)
    return shortfall_numbers(run, examples, fit), world.shortfall(examples["q_params"])


@pytest.mark.parametrize("max_steps", [10, 40])
def test_a_fit_that_ends_too_early_says_so(max_steps):
    """The bound is below the true shortfall, and above 0.3 of it: the second fit has as few steps, but two starts."""
    found, known = measured(fit_config(max_steps=max_steps, window=10, check_examples=BATCH))
    short = found["fit_shortfall"]
    assert known.mean() > 0.05, "the fit must be short of something"
    assert short["value"] < known.mean() + 2 * short["stderr"]
    assert short["value"] > 0.3 * known.mean()
    assert short["num_examples"] == BATCH and found["fit_stopped"]["value"] == 0
    assert len(console.warnings({"test": found})) == 1


def test_a_fit_that_converged_says_so():
    """Within two standard errors of what is known, which is next to nothing; no warning."""
    found, known = measured(fit_config(check_examples=16))
    short = found["fit_shortfall"]
    assert known.mean() < 0.005
    assert abs(short["value"] - known.mean()) < max(2 * short["stderr"], 0.002)
    assert short["num_examples"] == 16 and found["fit_stopped"]["value"] > 0.5
    assert console.warnings({"test": found}) == []


def test_no_check_where_none_is_asked():
    found, _ = measured(fit_config(max_steps=2, check_examples=0))
    assert list(found) == ["fit_stopped"]


def test_the_best_of_several_is_chosen_for_each_example():
    """Two versions, each of which is the best q for every other example."""
    world = make_world(2, 8, 0.5, 6)
    run = make_runner(model_of("normal", 2), world.params, 100)
    log_std = np.broadcast_to(-0.5 * np.log(np.diag(world.precision)), world.mean.shape)
    base = {"image": world.x, "key": split_keys(0, "test", 6)}
    even = np.arange(6)[:, None] % 2 == 0
    versions = [
        {**base, "q_params": {"mean": np.float32(world.mean + 3 * off), "log_std": np.float32(log_std)}}
        for off in (even, ~even)
    ]
    best, number = best_of(run, "", Use.CHECK_JUDGE, versions, 50)
    np.testing.assert_array_equal(number, [1, 0] * 3)
    np.testing.assert_allclose(best["q_params"]["mean"], world.mean, rtol=1e-5)


def test_the_bound_by_mean_log_weights():
    """L of the best diagonal q is log p(x) minus its KL, which the draws give with little noise."""
    world = make_world(2, 8, 0.5, 6)
    run = make_runner(model_of("normal", 2), world.params, 100)
    log_std = np.broadcast_to(-0.5 * np.log(np.diag(world.precision)), world.mean.shape)
    q_params = {"mean": np.float32(world.mean), "log_std": np.float32(log_std)}
    examples = {"image": world.x, "key": split_keys(0, "test", 6), "q_params": q_params}
    weight = np.asarray(world.params["weight"], float)
    covariance = weight @ weight.T + 0.25 * np.eye(8)
    mahalanobis = np.einsum("bi,ij,bj->b", world.x, np.linalg.inv(covariance), world.x)
    log_px = -0.5 * (mahalanobis + np.linalg.slogdet(2 * np.pi * covariance)[1])
    kl = 0.5 * (np.log(np.diag(world.precision)).sum() - np.linalg.slogdet(world.precision)[1])
    found = mean_log_weight(run, "", Use.CHECK_REPORT, examples, 400)
    np.testing.assert_allclose(found, log_px - kl, atol=0.15)
    np.testing.assert_allclose(found.mean(), (log_px - kl).mean(), atol=0.05)


def test_a_warning_needs_both_a_size_and_significance():
    warnings = lambda split, *pair: console.warnings(
        {split: {"fit_shortfall": dict(zip(("value", "stderr"), pair, strict=True))}}
    )
    for pair, count in (((0.2, 0.01), 1), ((0.2, 0.15), 0), ((0.04, 0.001), 0), ((1.0, None), 1)):
        assert len(warnings("test", *pair)) == count
    for split, group in (("test", "fit"), ("gaps", "gaps.fit")):
        (line,) = warnings(split, 0.2, 0.01)
        assert f"on {split} end at least 0.200 ± 0.010 nats" in line
        assert line.endswith(f"raise max_steps or num_samples of config.{group}")
