"""NUTS against a posterior that is known, and what it says of q, q* and the particles of AIS."""

import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.commands import configuration
from vae_jax.distributions.basic import Normal, StandardNormal
from vae_jax.evaluation import gaps
from vae_jax.keys import split_keys
from vae_jax.models.model import Model

SHIFT, STRETCH = 0.7, 0.3  # in standard deviations, and of log_std: how far q is off


def small(config):
    config.gaps.num_examples, config.gaps.num_samples, config.gaps.elbo_samples = 4, 10, 10
    config.gaps.flow.num_examples = config.gaps.ais.num_simulated = 0
    config.gaps.ais.num_examples, config.gaps.ais.starts, config.gaps.ais.num_chains = 4, ("q",), 400
    config.gaps.ais.num_temperatures = config.gaps.ais.pilot_temperatures = 20
    config.gaps.fit.max_steps, config.gaps.fit.num_samples = 400, 4
    config.gaps.nuts.num_examples, config.gaps.nuts.num_warmup, config.gaps.nuts.num_samples = 3, 200, 500
    return configuration.validate(config).gaps


@pytest.fixture(scope="module")
def measured(linear_gaussian):
    g = linear_gaussian
    log_sigma = jnp.full(len(g.bias), np.log(g.sigma), jnp.float32)

    def decode(params, z, condition=None):
        mean = z @ jnp.float32(g.weight.T) + jnp.float32(g.bias)
        return Normal(mean, jnp.broadcast_to(log_sigma, mean.shape))

    zeros = lambda keys: jnp.zeros((len(keys), g.mean.shape[1]))
    functions = {
        "make_q": lambda params, q_params: Normal(q_params["mean"], q_params["log_std"]),
        "start_q_params": lambda keys: {"mean": zeros(keys), "log_std": zeros(keys)},
        "decode": decode,
        "prior": lambda params, condition=None: StandardNormal((g.mean.shape[1],)),
    }
    model = Model(**{**dict.fromkeys(Model._fields), **Model._field_defaults, **functions})
    log_std = np.broadcast_to(g.log_std, g.mean.shape)
    q_params = {"mean": np.float32(g.mean + SHIFT * np.exp(log_std)), "log_std": np.float32(log_std + STRETCH)}
    examples = {"image": np.float32(g.x), "key": split_keys(0, "test", len(g.x)), "q_params": q_params}
    return gaps.measure_gaps(model, {}, examples, small(configuration.default()))


def expected_log_likelihood(g, mean, log_std):
    """E log N(x; W z + b, sigma^2) under N(mean, e^(2 log_std))."""
    residual = ((g.x - g.bias - mean @ g.weight.T) ** 2).sum(-1) + (g.weight**2 @ np.exp(2 * log_std)).sum()
    return -0.5 * residual / g.sigma**2 - 0.5 * len(g.bias) * np.log(2 * np.pi * g.sigma**2)


def test_nuts_draws_from_the_posterior(measured, linear_gaussian):
    """2000 draws: moments within five standard errors for the effective sample size that it claims."""
    g, (numbers, values) = linear_gaussian, measured
    ess, std = values["nuts_ess"][:, None], np.exp(g.log_std)
    assert values["nuts_mean"].shape == (3, 3) and (ess > 400).all() and (values["nuts_rhat"] < 1.02).all()
    assert (np.abs(values["nuts_mean"] - g.mean[:3]) < 5 * std / np.sqrt(ess)).all()
    assert (np.abs(values["nuts_std"] / std - 1) < 5 / np.sqrt(2 * ess)).all()
    expected = expected_log_likelihood(g, g.mean, g.log_std)[:3]
    np.testing.assert_allclose(values["nuts_log_likelihood"], expected, atol=0.3)
    assert numbers["nuts_divergent"]["value"] < 0.01 and numbers["nuts_ess"]["unit"] == "of 2000"


def test_what_stands_beside_it_is_judged_by_it(measured, linear_gaussian):
    """q is off by SHIFT and e^STRETCH; q* and the particles of AIS are the posterior, which is in the family."""
    numbers, values = measured
    value = lambda name: numbers[name]["value"]
    assert value("nuts_mean_error_q") == pytest.approx(SHIFT, abs=0.06)
    assert value("nuts_std_q") == pytest.approx(np.exp(STRETCH), abs=0.06)
    for name in ("q_star", "ais_q"):
        assert value(f"nuts_mean_error_{name}") < 0.15 and abs(value(f"nuts_std_{name}") - 1) < 0.1
        assert abs(value(f"nuts_log_likelihood_{name}") - value("nuts_log_likelihood")) < 0.3
    g = linear_gaussian
    off = expected_log_likelihood(g, g.mean + SHIFT * np.exp(g.log_std), g.log_std + STRETCH)[:3]
    np.testing.assert_allclose(values["nuts_log_likelihood_q"], off, atol=0.3)
    assert "ais_q_z" not in values and "nuts_mean" not in numbers
