"""k of importance weights against NumPyro's diagnostic, known tails and a ratio of Gaussians, and what is left out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer.importance import _psis_khat

from vae_jax.distributions.basic import Normal, StandardNormal
from vae_jax.evaluation import bounds
from vae_jax.evaluation.pareto import FEWEST, HIGH, numbers, pareto_k
from vae_jax.keys import split_keys
from vae_jax.models.model import Model

k_of = jax.jit(pareto_k)


@pytest.mark.parametrize("num_samples", [25, 100, 999, 5000])
def test_as_numpyro_does(num_samples):
    """Gaussian, heavy, bounded and rounded log weights, far from 0; NumPyro in float64."""
    rng = np.random.default_rng(num_samples)
    normal = rng.normal(size=(num_samples, 8)) * np.array([0.1, 0.5, 1, 2, 4, 8, 1, 1])
    normal[:, 6] = -rng.exponential(size=num_samples)
    normal[:, 7] = rng.exponential(size=num_samples)
    log_w = np.float32(normal - 700)
    expected = [_psis_khat(column) for column in np.float64(log_w).T]
    np.testing.assert_allclose(k_of(log_w), expected, atol=5e-3)


@pytest.mark.parametrize("index", [0.2, 0.5, 0.9])
def test_the_index_of_a_pareto_tail(index):
    """w = U^-k has the tail index k."""
    uniform = np.random.default_rng(0).uniform(size=(20_000, 30))
    found = k_of(np.float32(-index * np.log(uniform)))
    assert np.mean(found) == pytest.approx(index, abs=0.03)


def test_degenerate_weights_have_a_finite_k():
    """All equal; two values; one that outweighs all; none but one."""
    log_w = np.zeros((FEWEST, 5), np.float32) - 90
    log_w[::2, 1] += 1
    log_w[0, 2] += 300
    log_w[:, 3] = np.where(np.arange(FEWEST) == 7, 0, -np.inf)
    log_w[:, 4] = np.linspace(-1e6, 0, FEWEST)
    found = np.asarray(k_of(log_w))
    assert found[0] == found[1] == 0 and np.isfinite(found).all()
    assert (found[2:] > HIGH).all()


STRETCH = 0.4  # q's standard deviation over that of p(z|x)
K = 4000


def narrow_model():
    """p(x|z) p(z) of one dimension with p(z|x) = N(x / 2, 1/2), and what q there is: q_params as they are."""
    functions = {
        "make_q": lambda params, q_params: Normal(q_params["mean"], q_params["log_std"]),
        "decode": lambda params, z, condition=None: Normal(z, jnp.zeros_like(z)),
        "prior": lambda params, condition=None: StandardNormal((1,)),
    }
    return Model(**{**dict.fromkeys(Model._fields), **Model._field_defaults, **functions})


def test_a_q_too_narrow_is_told_by_k_and_not_by_the_effective_sample_size():
    """log w of N(0, s_p^2) over N(0, s_q^2) has the index 1 - s_q^2 / s_p^2: 0.84 here, a variance without end."""
    x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    chunk = {"image": x, "key": split_keys(0, "test", len(x))}
    found = {}
    for name, scale in (("narrow", STRETCH), ("wide", 1.3)):
        log_std = np.full_like(x, np.log(scale * np.sqrt(0.5)))
        q_params = {"mean": x / 2, "log_std": log_std}
        found[name] = bounds.importance_log_px(narrow_model(), {}, {**chunk, "q_params": q_params}, K, 50)
    summary = {name: numbers(each["pareto_k"]) for name, each in found.items()}
    assert summary["narrow"]["pareto_k"]["value"] == pytest.approx(1 - STRETCH**2, abs=0.1)
    assert summary["narrow"]["pareto_k_high"]["value"] > 0.6
    assert np.mean(found["narrow"]["ess"]) > 200  # of 4000: nothing to see
    assert summary["wide"]["pareto_k"]["value"] < 0.3 and summary["wide"]["pareto_k_high"]["value"] == 0


def test_too_few_draws_have_no_k():
    x = np.zeros((2, 1), np.float32)
    chunk = {"image": x, "key": split_keys(0, "test", 2), "q_params": {"mean": x, "log_std": x}}
    assert "pareto_k" not in bounds.importance_log_px(narrow_model(), {}, chunk, FEWEST - 1, 8)
    assert "pareto_k" in bounds.importance_log_px(narrow_model(), {}, chunk, FEWEST, 8)
