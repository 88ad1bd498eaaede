"""The bound against a model whose log p(x) is known, against NumPyro, and against its own definition."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from small_model import (
    KEY,
    B,
    K,
    Z,
    assert_close,
    linear_gaussian_terms,
    logits,
    our_decoder,
    our_prior,
    our_q,
    posterior,
    standard_error,
    their_decoder,
    their_prior,
    their_q,
)

from vae_jax.distributions import basic
from vae_jax.objectives.elbo import Elbo, draw, elbo_fn, importance_bound, score

# ------------------------------------------------------------------------------ the linear-Gaussian model, in float64


def test_the_oracle(linear_gaussian):
    """SciPy's multivariate normal gives log p(x); log p(x|z) + log p(z) - log p(z|x) is the same at any z."""
    model = linear_gaussian
    covariance = model.weight @ model.weight.T + model.sigma**2 * np.eye(5)
    scipys = scipy.stats.multivariate_normal.logpdf(model.x, model.bias, covariance)
    np.testing.assert_allclose(model.log_px, scipys, rtol=1e-12)
    z = np.random.default_rng(0).normal(size=model.mean.shape)
    log_lik = scipy.stats.norm.logpdf(model.x, z @ model.weight.T + model.bias, model.sigma).sum(-1)
    log_posterior = scipy.stats.norm.logpdf(z, model.mean, np.exp(model.log_std)).sum(-1)
    np.testing.assert_allclose(log_lik + scipy.stats.norm.logpdf(z).sum(-1) - log_posterior, model.log_px, rtol=1e-12)


def test_every_weight_is_the_evidence_at_the_posterior(linear_gaussian):
    """p(x|z) p(z) / p(z|x) = p(x) for each single draw, so the estimated bound is log p(x) with no noise at all."""
    terms = linear_gaussian_terms(linear_gaussian, posterior(linear_gaussian), 20_000, "monte_carlo")
    assert terms.log_weights.shape == (20_000, 4) and terms.z.shape == (20_000, 4, 3)
    np.testing.assert_allclose(terms.log_weights, np.tile(linear_gaussian.log_px, (20_000, 1)), rtol=1e-10)
    np.testing.assert_allclose(terms.elbo, linear_gaussian.log_px, rtol=1e-10)
    assert terms.log_lik.std(0).min() > 0.1  # while the likelihood alone is noisy


@pytest.mark.parametrize(("shift", "stretch"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.4), (-0.2, -0.3)])
@pytest.mark.parametrize("kl", ["auto", "monte_carlo"])
def test_the_bound_is_the_evidence_less_the_kl_to_the_posterior(linear_gaussian, shift, stretch, kl):
    """E ELBO = log p(x) - KL(q || p(z|x)), where the KL is 0 at the posterior: 20,000 draws, 5 standard errors."""
    q = posterior(linear_gaussian, shift, stretch)
    gap = linear_gaussian.kl_to_posterior(q.mean, q.log_std)
    terms = linear_gaussian_terms(linear_gaussian, q, 20_000, kl)
    samples = terms.log_lik - terms.kl if kl == "auto" else terms.log_weights
    np.testing.assert_allclose(samples.mean(0), terms.elbo, rtol=1e-9)
    bound = 5 * standard_error(samples) + 1e-9  # at the posterior there is no noise, only rounding
    np.testing.assert_array_less(np.abs(terms.elbo - (linear_gaussian.log_px - gap)), bound)
    if shift or stretch:
        assert (terms.elbo < linear_gaussian.log_px - 0.5 * gap).all() and (gap > 0.05).all()


def test_more_samples_tighten_the_bound(linear_gaussian):
    """ELBO <= L_5 <= L_50 <= log p(x), the first two by more than 5 standard errors: 20,000 weights in groups of K."""
    terms = linear_gaussian_terms(linear_gaussian, posterior(linear_gaussian, 0.3, 0.3), 20_000)
    many = jax.jit(jax.vmap(importance_bound))
    groups = {k: many(terms.log_weights.reshape(-1, k, 4)) for k in (1, 5, 50)}
    bound = {k: np.mean(values, 0) for k, values in groups.items()}
    error = {k: standard_error(values) for k, values in groups.items()}
    assert (bound[1] + 5 * np.hypot(error[1], error[5]) < bound[5]).all()
    assert (bound[5] + 5 * np.hypot(error[5], error[50]) < bound[50]).all()
    assert (bound[50] < linear_gaussian.log_px + 5 * error[50]).all()
    assert (bound[50] > linear_gaussian.log_px - 0.1).all()  # and it gets there: the ELBO is 0.5 nats or more below
    assert (bound[1] < linear_gaussian.log_px - 0.5).all()


def test_importance_bound_by_hand():
    """log((1 + 3)/2) = log 2; a common factor of e^+-1e4 moves it by +-1e4; one weight is itself; -inf counts as 0."""
    log_weights = np.log([[1], [3]]) + np.array([0, 1e4, -1e4])
    bound = jax.jit(importance_bound)
    np.testing.assert_allclose(bound(log_weights), math.log(2) + np.array([0, 1e4, -1e4]), rtol=1e-6)
    np.testing.assert_array_equal(bound(np.array([[-3.0, 2.0]])), [-3.0, 2.0])
    np.testing.assert_allclose(bound(np.array([[0.0], [-np.inf]])), [-math.log(2)], rtol=1e-6)


# ------------------------------------------------------------------------------------------- terms, arguments, shapes


def reference(rows, z):
    """The bound's terms at z `[K, B, Z]` by SciPy, the KL estimated."""
    z, logits = np.float64(z), np.float64(z) @ np.float64(rows["weight"])
    log_q = scipy.stats.norm.logpdf(z, rows["mean"], np.exp(rows["log_std"])).sum(-1)
    log_prior = scipy.stats.norm.logpdf(z, rows["prior_mean"], np.exp(rows["prior_log_std"])).sum(-1)
    log_lik = scipy.stats.bernoulli.logpmf(rows["x"], 1 / (1 + np.exp(-logits))).sum(-1)
    log_weights, kl = log_lik + log_prior - log_q, (log_q - log_prior).mean(0)
    return Elbo(log_weights.mean(0), log_lik.mean(0), kl, log_weights, log_q, log_prior, log_lik, z)


eight = pytest.mark.parametrize(
    ("make_q", "make_prior", "make_decoder"),
    [(q, p, d) for q in (our_q, their_q) for p in (our_prior, their_prior) for d in (our_decoder, their_decoder)],
    ids=lambda function: function.__name__,
)


@eight
def test_numpyro_and_ours_agree_at_given_draws(rows, make_q, make_prior, make_decoder):
    """Every term, to 1e-5, against SciPy, with each of the three distributions from either library."""
    z = np.random.default_rng(1).normal(size=(K, B, Z)).astype(np.float32)
    terms = jax.jit(lambda z: score(rows["x"], z, make_q(rows).log_prob(z), make_decoder(rows), make_prior(rows)))(z)
    assert_close(terms, reference(rows, z), rtol=1e-5, atol=1e-5)


@eight
def test_numpyro_and_ours_agree_in_their_own_draws(rows, make_q, make_prior, make_decoder, key):
    """NumPyro draws z = mean + sigma eps from the same eps, so one key gives one z; every term to 1e-5."""
    terms = elbo_fn(key, rows["x"], make_q(rows), make_decoder(rows), make_prior(rows), K, kl="monte_carlo")
    np.testing.assert_allclose(terms.z, our_q(rows).sample(key, (K,)), rtol=1e-6)
    assert_close(terms, reference(rows, terms.z), rtol=1e-5, atol=1e-5)


def test_numpyros_kl_is_our_closed_form(rows, key):
    """The same bound from 'auto' on our pair and from NumPyro's kl_divergence, passed as a function, on theirs."""
    ours = elbo_fn(key, rows["x"], our_q(rows), our_decoder(rows), our_prior(rows), K)
    theirs = elbo_fn(key, rows["x"], their_q(rows), their_decoder(rows), their_prior(rows), K, kl=dist.kl_divergence)
    assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kl", ["auto", "monte_carlo", lambda q, prior: jnp.arange(4.0)])
def test_the_terms_add_up(rows, key, kl):
    """elbo = log_likelihood - kl, each a mean over the K draws; the log weights are made of the three densities."""
    terms = elbo_fn(key, rows["x"], our_q(rows), our_decoder(rows), our_prior(rows), K, kl=kl)
    assert_close(terms.elbo, terms.log_likelihood - terms.kl)
    assert_close(terms.log_likelihood, terms.log_lik.mean(0), rtol=1e-6)
    assert_close(terms.log_weights, terms.log_lik + terms.log_prior - terms.log_q)
    assert_close(terms.log_lik, our_decoder(rows)(terms.z).log_prob(rows["x"]))
    if kl == "monte_carlo":
        expected = (terms.log_q - terms.log_prior).mean(0)
        np.testing.assert_allclose(terms.elbo, terms.log_weights.mean(0), rtol=1e-5)
    else:
        expected = np.arange(4) if callable(kl) else basic.closed_form_kl(our_q(rows), our_prior(rows))
    np.testing.assert_allclose(terms.kl, expected, rtol=1e-5, atol=1e-6)
    assert {name: value.shape for name, value in terms._asdict().items()} == {
        **dict.fromkeys(("elbo", "log_likelihood", "kl"), (B,)),
        **dict.fromkeys(("log_weights", "log_q", "log_prior", "log_lik"), (K, B)),
        "z": (K, B, Z),
    }


def test_the_prior_is_standard_unless_given(rows, key):
    """None, our N(0, I), NumPyro's and a Normal with zeros are the same; a KL function is given N(0, I) for None."""
    bound = lambda prior, kl: elbo_fn(key, rows["x"], our_q(rows), our_decoder(rows), prior, K, kl=kl)
    expected = bound(None, "monte_carlo")
    for prior in (basic.StandardNormal((Z,)), dist.Normal(0, 1).expand((Z,)).to_event(1)):
        assert_close(bound(prior, "monte_carlo"), expected, rtol=1e-6)
    closed = basic.kl_standard_normal(rows["mean"], rows["log_std"])
    np.testing.assert_allclose(bound(None, "auto").kl, closed, rtol=1e-6)
    np.testing.assert_allclose(bound(basic.Normal(jnp.zeros(Z), jnp.zeros(Z)), "auto").kl, closed, rtol=1e-6)
    np.testing.assert_allclose(bound(None, basic.closed_form_kl).kl, closed, rtol=1e-6)


@pytest.mark.parametrize("kl", ["exact", None, 0.5])
def test_an_unknown_kl_is_refused(rows, key, kl):
    with pytest.raises(ValueError, match=r"kl = .*expected 'auto', 'monte_carlo' or a function"):
        elbo_fn(key, rows["x"], our_q(rows), our_decoder(rows), kl=kl)


@pytest.mark.parametrize("shape", [(), (1,), (B, 1), (K, B)])
def test_a_kl_that_is_not_one_number_per_example_is_refused(rows, key, shape):
    """Any of these would broadcast."""
    with pytest.raises(ValueError, match=r"kl has shape .*expected one number per example, \(4,\)"):
        elbo_fn(key, rows["x"], our_q(rows), our_decoder(rows), num_samples=K, kl=lambda q, prior: jnp.zeros(shape))


def square_distributions(library, forgets):
    """q, prior and decoder with K = B = Z = D = 3, where a missing event axis broadcasts; `forgets` lacks its own."""
    if library == "ours":
        normal = lambda name: partial(basic.Normal, log_std=jnp.zeros((3, 3)), event_ndims=0 if name == forgets else 1)
    else:
        normal = lambda name: lambda mean: dist.Normal(mean, jnp.ones((3, 3))).to_event(0 if name == forgets else 1)
    return normal("q")(jnp.zeros((3, 3))), normal("prior")(jnp.zeros((3, 3))), normal("decode")


def trace_square(library, forgets, kl):
    """Traces the bound, which is when shapes are known, without compiling it."""
    q, prior, decode = square_distributions(library, forgets)
    bound = lambda key, x: elbo_fn(key, x, q, decode, prior, 3, kl=kl)
    return jax.eval_shape(bound, KEY, np.zeros((3, 3)))


@pytest.mark.parametrize("library", ["ours", "numpyro"])
@pytest.mark.parametrize("kl", ["auto", "monte_carlo"])
@pytest.mark.parametrize("forgets", ["q", "prior", "decode"])
def test_a_forgotten_event_axis_is_refused_by_name(library, forgets, kl):
    with pytest.raises(ValueError, match=rf"^{forgets}.*\.log_prob has shape \(3, 3, 3\).*= \(3, 3\).*\.to_event"):
        trace_square(library, forgets, kl)
    assert trace_square(library, None, kl).elbo.shape == (3,)


def test_one_event_axis_too_many_is_refused():
    """Summing over the batch is as silent."""
    x = jnp.zeros((3, 3))
    normal = lambda event_ndims: lambda mean: basic.Normal(mean, x, event_ndims)
    with pytest.raises(ValueError, match=r"^q.log_prob has shape \(3,\)"):
        jax.eval_shape(lambda key: elbo_fn(key, x, normal(2)(x), normal(1), num_samples=3), KEY)
    with pytest.raises(ValueError, match=r"^decode\(z\).log_prob has shape \(3,\)"):
        jax.eval_shape(lambda key: elbo_fn(key, x, normal(1)(x), normal(2), num_samples=3), KEY)


class PairPrior:
    """N(0, 1) over two latents of unlike shapes, {'global': [..., 2], 'local': [..., 3, 1]}."""

    def log_prob(self, z):
        log_density = lambda value: -0.5 * (value**2 + math.log(2 * math.pi))
        return log_density(z["global"]).sum(-1) + log_density(z["table"]).sum((-2, -1))


def test_z_may_be_any_pytree_where_the_prior_is_given():
    rng = np.random.default_rng(0)
    z = {"global": rng.normal(size=(K, B, 2)), "table": rng.normal(size=(K, B, 3, 1))}
    x, log_q = rng.normal(size=(B, 3)), rng.normal(size=(K, B))
    decode = lambda z: basic.Normal(z["table"][..., 0] + z["global"].sum(-1, keepdims=True), 0.0)
    terms = score(x, z, log_q, decode, PairPrior())
    log_lik = scipy.stats.norm.logpdf(x, z["table"][..., 0] + z["global"].sum(-1, keepdims=True)).sum(-1)
    log_prior = sum(scipy.stats.norm.logpdf(each).reshape(K, B, -1).sum(-1) for each in z.values())
    np.testing.assert_allclose(terms.log_weights, log_lik + log_prior - log_q, rtol=1e-5)
    np.testing.assert_allclose(terms.elbo, (log_lik + log_prior - log_q).mean(0), rtol=1e-5)
    assert terms.z is z


def test_x_may_be_any_pytree(rows, key):
    class Both:
        def __init__(self, z):
            self.z = z

        def log_prob(self, x):
            return basic.Bernoulli(logits(rows, self.z)).log_prob(x["image"]) + x["bonus"]

    x = {"image": rows["x"], "bonus": np.arange(4, dtype=np.float32)}
    pair = elbo_fn(key, x, our_q(rows), Both, num_samples=K)
    alone = elbo_fn(key, rows["x"], our_q(rows), our_decoder(rows), num_samples=K)
    np.testing.assert_allclose(pair.elbo, alone.elbo + np.arange(4), rtol=1e-5)


@pytest.mark.parametrize("keys", ["one", "each"])
def test_nothing_leaks_across_the_batch(rows, key, keys):
    """The gradient of elbo[i] in x[j] and in row j of q is exactly 0 for j != i, and is not for j = i."""
    key = key if keys == "one" else jax.random.split(key, B)
    bound = lambda x, q: elbo_fn(key, x, q, our_decoder(rows), our_prior(rows), K, kl="monte_carlo").elbo
    jacobian = jax.jit(jax.jacrev(bound, (0, 1)))(rows["x"], our_q(rows))
    leaves = jax.tree.leaves(jacobian)
    assert len(leaves) == 3
    for leaf in leaves:  # [B, B, ...]
        sizes = np.abs(leaf).sum(-1)
        np.testing.assert_array_equal(sizes[~np.eye(B, dtype=bool)], 0)
        assert (np.diag(sizes) > 0).all()


def test_the_same_key_gives_the_same_bound_jitted_or_not(rows, key):
    bound = lambda key: elbo_fn(key, rows["x"], our_q(rows), our_decoder(rows), our_prior(rows), K)
    first = bound(key)
    jax.tree.map(np.testing.assert_array_equal, first, bound(key))
    assert_close(jax.jit(bound)(key), first, rtol=1e-5, atol=1e-6)
    other = bound(jax.random.fold_in(key, 1))
    assert (other.log_likelihood != first.log_likelihood).all()
    np.testing.assert_array_equal(other.kl, first.kl)  # the closed form has no noise


def test_keys_of_examples_make_the_bound_a_function_of_the_example(rows):
    """Half of a batch has the numbers it has in the whole one."""
    keys, half = jax.random.split(jax.random.key(1), B), np.array([3, 1])

    @jax.jit
    def bound(keys, x, q):
        return elbo_fn(keys, x, q, our_decoder(rows), num_samples=K)

    whole = bound(keys, rows["x"], our_q(rows))
    part = bound(keys[half], rows["x"][half], jax.tree.map(lambda leaf: leaf[half], our_q(rows)))
    np.testing.assert_array_equal(part.z, np.asarray(whole.z)[:, half])
    np.testing.assert_allclose(part.elbo, np.asarray(whole.elbo)[half], rtol=1e-6)


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey])
def test_a_foreign_q_takes_the_first_of_the_keys(rows, make):
    """NumPyro knows one key for the whole batch, of the new kind or the old."""
    keys = jax.random.split(make(1), B)
    z, log_q = draw(keys, their_q(rows), K)
    np.testing.assert_array_equal(z, their_q(rows).sample(keys[0], (K,)))
    np.testing.assert_allclose(log_q, their_q(rows).log_prob(z), rtol=1e-6)


four = lambda bound: st.lists(st.floats(-bound, bound, width=32), min_size=4, max_size=4).map(np.float32)


@jax.jit
@partial(jax.value_and_grad, argnums=(0, 1, 2))
def _extreme(mean, log_std, weight):
    """A batch of 2 with 2 latents and 2 pixels, whose logits are `weight` or its negative as z is positive or not."""
    q = basic.Normal(mean.reshape(2, 2), log_std.reshape(2, 2))
    decode = lambda z: basic.Bernoulli(jnp.sign(z) * weight.reshape(2, 2) + 0.0 * z)
    return elbo_fn(KEY, jnp.eye(2), q, decode, num_samples=2, kl="monte_carlo").elbo.sum()


@given(four(1e4), four(20.0), four(1e4))
def test_the_bound_is_finite_in_value_and_gradient(mean, log_std, weight):
    """|mean|, |logit| <= 1e4 and |log_std| <= 20."""
    value, gradient = _extreme(mean, log_std, weight)
    assert np.isfinite(value) and all(np.isfinite(leaf).all() for leaf in gradient)
