"""Every objective against its formula, written from the weights, and the gradients that follow from it."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from vae_jax import distributions as D
from vae_jax.elbo import draw, elbo_fn, score
from vae_jax.objectives import OBJECTIVES, beta_elbo, elbo, iwae

K, B, Z = 5, 4, 2
KEY = jax.random.key(7, impl="rbg")  # compiles faster than the default


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
    return {
        "mean": normal(B, Z),
        "log_std": 0.3 * normal(B, Z),
        "weight": normal(Z, 5),
        "x": np.round(rng.random((B, 5))),
    }


@partial(jax.jit, static_argnums=(0, 2), static_argnames="kl")
def bound(objective, rows, num_samples=K, **keywords):
    """The objective of a small Bernoulli model at the parameters in `rows`, always from the same noise."""
    q = D.Normal(rows["mean"], rows["log_std"])
    decode = lambda z: D.Bernoulli(jnp.matmul(z, rows["weight"], precision="highest"))
    return objective(KEY, rows["x"], q, decode, None, num_samples, **keywords)


# name -> (its weights, the value [B] from log p(x|z), log p(z), log q(z|x) [K, B] and the KL [B])
FORMULAS = {
    "elbo": ({}, lambda log_lik, log_prior, log_q, kl: log_lik.mean(0) - kl),
    "beta": ({"beta": 0.3}, lambda log_lik, log_prior, log_q, kl: log_lik.mean(0) - 0.3 * kl),
    "iwae": (
        {},
        lambda log_lik, log_prior, log_q, kl: scipy.special.logsumexp(log_lik + log_prior - log_q, axis=0) - np.log(K),
    ),
}


def test_every_objective_has_its_formula_here():
    assert set(FORMULAS) == set(OBJECTIVES)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("kl", ["auto", "monte_carlo"])
def test_the_value_is_the_formula_and_the_elbo_the_bound(rows, name, kl):
    """Whatever is optimized, the second result is `elbo_fn`'s."""
    weights, formula = FORMULAS[name]
    value, terms = bound(OBJECTIVES[name].function, rows, kl=kl, **weights)
    expected = formula(*(np.float64(each) for each in (terms.log_lik, terms.log_prior, terms.log_q, terms.kl)))
    assert value.shape == (B,)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    closed = D.kl_standard_normal(rows["mean"], rows["log_std"])
    estimated = (terms.log_q - terms.log_prior).mean(0)
    np.testing.assert_allclose(terms.kl, closed if kl == "auto" else estimated, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(terms.elbo, terms.log_likelihood - terms.kl, rtol=1e-6)
    same = partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6)
    jax.tree.map(same, terms, bound(elbo_fn, rows, kl=kl))


def test_beta_one_is_the_elbo_and_beta_zero_the_reconstruction(rows):
    value, terms = bound(elbo, rows, kl="auto")
    np.testing.assert_array_equal(value, terms.elbo)
    beta = lambda **weights: bound(beta_elbo, rows, kl="auto", **weights)[0]
    np.testing.assert_allclose(beta(), value, rtol=1e-6)  # 1 is the default
    np.testing.assert_allclose(beta(beta=1.0), value, rtol=1e-6)
    np.testing.assert_allclose(beta(beta=0.0), terms.log_likelihood, rtol=1e-6)
    assert (beta(beta=4.0) < value).all()


def test_one_importance_sample_is_the_estimated_elbo(rows):
    """log 1/1 w_1 = log w_1; with more it lies above their mean, by Jensen's inequality."""
    one = bound(iwae, rows, 1)[0]
    np.testing.assert_allclose(one, bound(elbo, rows, 1, kl="monte_carlo")[0], rtol=1e-6)
    assert (bound(iwae, rows, kl="auto")[0] > bound(elbo, rows, kl="monte_carlo")[0] + 1e-3).all()


def test_the_gradient_of_iwae_weights_the_gradients_of_the_samples(rows):
    """d L_K = sum_k (w_k / sum_j w_j) d log w_k: a mean with the better samples counting more, not the worse."""

    def value_and_log_weights(rows):
        value, terms = bound(iwae, rows, kl="auto")
        return value, terms.log_weights

    gradient, jacobian = jax.jit(jax.jacrev(value_and_log_weights))(rows)
    weights = scipy.special.softmax(np.float64(bound(iwae, rows, kl="auto")[1].log_weights), axis=0)
    assert weights.max() > 0.4  # far from equal
    for name in ("mean", "log_std", "weight"):
        expected = np.einsum("kb,kb...->b...", weights, np.float64(jacobian[name]))
        np.testing.assert_allclose(gradient[name], expected, rtol=1e-4, atol=1e-5)


def test_sticking_the_landing_needs_no_more_than_draw_and_score(rows):
    """An objective of a researcher's own: the same value as the estimated ELBO, another gradient."""

    def stl(key, x, q, decode, prior=None, num_samples=1):
        z, log_q = draw(key, q, num_samples, stop="q")
        return score(x, z, log_q, decode, prior).elbo

    mean_of = lambda objective: jax.jit(jax.value_and_grad(lambda rows: jnp.mean(bound(objective, rows))))(rows)
    value, gradient = mean_of(stl)
    expected, other = mean_of(lambda *arguments: elbo(*arguments, kl="monte_carlo")[0])
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient["weight"], other["weight"], rtol=1e-5, atol=1e-6)  # theta's is untouched
    assert np.abs(gradient["mean"] - other["mean"]).max() > 1e-3


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_take_the_arguments_of_elbo_fn(name):
    """Then their weights, by keyword and with a default; nothing else."""
    function, weights = OBJECTIVES[name].function, OBJECTIVES[name].weights
    own = inspect.signature(function).parameters
    shared = inspect.signature(elbo_fn).parameters
    assert list(own) == [*shared, *weights]
    for each in shared:
        assert own[each].kind == shared[each].kind and own[each].default == shared[each].default
    for each in weights:
        assert own[each].kind == inspect.Parameter.KEYWORD_ONLY and isinstance(own[each].default, float)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if OBJECTIVES[name].weights])
def test_another_weight_is_no_other_program(rows, name):
    """The weights are traced: a sweep over them compiles once."""
    traces = []

    @jax.jit
    def value(rows, weights):
        traces.append(weights)
        return bound(OBJECTIVES[name].function, rows, **weights)[0]

    values = [value(rows, dict.fromkeys(OBJECTIVES[name].weights, weight)) for weight in (0.5, 1.0, 4.0)]
    assert len(traces) == 1
    assert (values[0] != values[1]).all() and (values[1] != values[2]).all()
