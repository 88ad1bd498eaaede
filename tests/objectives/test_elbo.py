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
from numpyro.distributions.flows import InverseAutoregressiveTransform
from numpyro.nn import AutoregressiveNN

from vae_jax.distributions import basic
from vae_jax.distributions.gaussians import NormalMixture
from vae_jax.distributions.likelihoods import Categorical
from vae_jax.objectives.elbo import Elbo, draw, elbo_fn, importance_bound, score

K, B, Z = 3, 4, 2
KEY = jax.random.key(42, impl="rbg")  # compiles three times as fast as the default, wherever one key serves a batch


@pytest.fixture
def key():
    return KEY


def assert_close(left, right, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), left, right)


def standard_error(samples):
    return np.std(samples, 0, ddof=1) / math.sqrt(len(samples))


# ------------------------------------------------------------------------------ the linear-Gaussian model, in float64


def decoder(weight, bias, sigma):
    """z -> p(x|z) = N(W z + b, sigma^2)."""
    return lambda z: basic.Normal(jnp.matmul(z, weight.T, precision="highest") + bias, jnp.log(sigma))


def posterior(model, shift=0.0, stretch=0.0):
    """q: the true posterior with its means moved by `shift` and its log stds by `stretch`; float64."""
    return basic.Normal(model.mean + shift, np.broadcast_to(model.log_std + stretch, model.mean.shape))


@partial(jax.jit, static_argnums=(3, 4))
def terms_of(x, q, parameters, num_samples, kl):
    return elbo_fn(KEY, x, q, decoder(*parameters), None, num_samples, kl=kl)


def linear_gaussian_terms(model, q, num_samples, kl="auto"):
    parameters = (model.weight, model.bias, model.sigma)
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, terms_of(model.x, q, parameters, num_samples, kl))


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


@pytest.fixture(scope="module")
def rows():
    """Parameters and data of a small model with a Bernoulli likelihood, float32."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
    return {
        "mean": normal(B, Z),
        "log_std": 0.3 * normal(B, Z),
        "prior_mean": normal(Z),
        "prior_log_std": 0.3 * normal(Z),
        "weight": normal(Z, 5),
        "x": (rng.random((B, 5)) < 0.5).astype(np.float32),
    }


def our_q(rows):
    return basic.Normal(rows["mean"], rows["log_std"])


def their_q(rows):
    return dist.Normal(rows["mean"], jnp.exp(rows["log_std"])).to_event(1)


def our_prior(rows):
    return basic.Normal(rows["prior_mean"], rows["prior_log_std"])


def their_prior(rows):
    return dist.Normal(rows["prior_mean"], jnp.exp(rows["prior_log_std"])).to_event(1)


def logits(rows, z):
    return jnp.matmul(z, rows["weight"], precision="highest")


def our_decoder(rows):
    return lambda z: basic.Bernoulli(logits(rows, z))


def their_decoder(rows):
    return lambda z: dist.Bernoulli(logits=logits(rows, z)).to_event(1)


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


# --------------------------------------------------------------------------------------------- draws and their log q


def iaf(params, mean, apply):
    base = dist.Normal(mean, jnp.ones_like(mean)).to_event(1)
    return dist.TransformedDistribution(base, InverseAutoregressiveTransform(partial(apply, params)))


@pytest.fixture(scope="module")
def iaf_network():
    init, apply = AutoregressiveNN(Z, [4])
    _, params = init(KEY, (Z,))
    return jax.tree.map(lambda leaf: leaf + 0.1, params), apply


def test_a_flows_log_q_comes_with_its_draw(rows, key, iaf_network, monkeypatch):
    """An inverse autoregressive flow inverts one dimension at a time; its draws know their density without that."""
    params, apply = iaf_network
    q = iaf(params, rows["mean"], apply)
    z = q.sample(key, (K,))
    inverted = q.log_prob(z)

    def refuse(self, y):
        raise AssertionError("the flow was inverted")

    monkeypatch.setattr(InverseAutoregressiveTransform, "_inverse", refuse)
    terms = elbo_fn(key, rows["x"], q, our_decoder(rows), our_prior(rows), K)
    np.testing.assert_array_equal(terms.z, z)
    np.testing.assert_allclose(terms.log_q, inverted, rtol=1e-5)
    assert np.abs(inverted - dist.Normal(rows["mean"], 1).to_event(1).log_prob(z)).min() > 1e-3  # a flow worth the name
    expected = score(rows["x"], z, inverted, our_decoder(rows), our_prior(rows))
    assert_close(terms, expected, rtol=1e-5, atol=1e-5)


def normal_draw(q_mean, q_log_std, stop):
    return draw(KEY, basic.Normal(q_mean, q_log_std), K, stop)


def test_gradients_of_log_q_by_hand(rows):
    """For z = m + s eps, with s = e^l: log q = -(z - m)^2/(2 s^2) - l.

    stop     d/dm        d/dl
    None     0           -1              both paths: log q = -eps^2/2 - l
    'q'      -eps/s      -eps^2          through z alone: dlog q/dz = -eps/s, dz/dm = 1, dz/dl = s eps
    'z'      eps/s       eps^2 - 1       the score; it adds up to the first with the second
    """
    mean, log_std = rows["mean"], rows["log_std"]
    z, _ = normal_draw(mean, log_std, None)
    sigma = np.exp(log_std)
    eps = (z - mean) / sigma
    expected = {
        None: (np.zeros_like(eps), -np.ones_like(eps)),
        "q": (-eps / sigma, -(eps**2)),
        "z": (eps / sigma, eps**2 - 1),
    }
    for stop, (d_mean, d_log_std) in expected.items():
        log_q = lambda mean, log_std, stop=stop: normal_draw(mean, log_std, stop)[1]
        summed = jax.jit(jax.grad(lambda mean, log_std, f=log_q: f(mean, log_std).sum(), (0, 1)))(mean, log_std)
        np.testing.assert_allclose(log_q(mean, log_std), normal_draw(mean, log_std, None)[1], rtol=1e-5)
        np.testing.assert_allclose(summed[0], d_mean.sum(0), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(summed[1], d_log_std.sum(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("stop", "slope"), [(None, K), ("q", K), ("z", 0)])
def test_stopping_z_stops_the_sample_and_nothing_else_does(rows, stop, slope):
    """dz/dm = 1 for each of K samples unless z itself is stopped; the samples are the same in each case."""
    z, pullback = jax.vjp(lambda mean: normal_draw(mean, rows["log_std"], stop)[0], jnp.array(rows["mean"]))
    np.testing.assert_array_equal(z, normal_draw(rows["mean"], rows["log_std"], None)[0])
    np.testing.assert_array_equal(pullback(jnp.ones_like(z))[0], slope)


def test_the_expected_score_is_zero():
    """E_q[d log q / d parameters] = 0, for the mean and the log std: 20,000 draws, 5 standard errors."""
    q = basic.Normal(np.float32([[0.5, -1.0]]), np.float32([[0.3, -0.7]]))
    scores = jax.jit(jax.jacfwd(lambda q: draw(KEY, q, 20_000, "z")[1][:, 0]))(q)
    for of_each in (scores.mean, scores.log_std):  # [20000, 1, 2]
        np.testing.assert_array_less(np.abs(of_each.mean(0)), 5 * standard_error(of_each))
    np.testing.assert_allclose(scores.log_std.var(0), 2.0, rtol=0.1)  # Var(eps^2 - 1) = 2: these are scores indeed


def test_the_path_derivative_has_no_noise_at_the_posterior(linear_gaussian):
    """With q stopped, d log w / d q's parameters is 0 for every draw where q = p(z|x). Roeder et al. (2017).

    Without, it is the score on top of that, which is not.
    """

    def log_weights(q, stop):
        z, log_q = draw(KEY, q, 5, stop)
        decode = decoder(linear_gaussian.weight, linear_gaussian.bias, linear_gaussian.sigma)
        return score(linear_gaussian.x, z, log_q, decode).log_weights

    with jax.enable_x64(True):
        slopes = lambda stop: jax.jit(jax.jacrev(partial(log_weights, stop=stop)))(posterior(linear_gaussian))
        for leaf in jax.tree.leaves(slopes("q")):
            np.testing.assert_allclose(leaf, 0, atol=1e-10)
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(slopes(None))) > 1


NUMPYROS = {
    "normal": lambda mean: dist.Normal(mean, 1.5).to_event(1),
    "full covariance": lambda mean: dist.MultivariateNormal(mean, jnp.array([[2.0, 0.5], [0.5, 1.0]])),
    "transformed": lambda mean: dist.TransformedDistribution(
        dist.Normal(mean, 1.0).to_event(1), [dist.transforms.ExpTransform(), dist.transforms.AffineTransform(mean, 2.0)]
    ),
}


@pytest.mark.parametrize("name", NUMPYROS)
def test_numpyros_parameters_are_stopped(rows, key, name):
    """Only the path through z is left: the pull-back of d log q/dz along the draw. No family here is refused."""
    mean, make = jnp.array(rows["mean"]), NUMPYROS[name]
    gradient = jax.jit(jax.grad(lambda mean: draw(key, make(mean), K, "q")[1].sum()))(mean)

    @jax.jit
    def path(mean):
        z, pullback = jax.vjp(lambda mean: make(mean).sample(key, (K,)), mean)
        return pullback(jax.grad(lambda z: make(mean).log_prob(z).sum())(z))[0]

    np.testing.assert_allclose(gradient, path(mean), rtol=1e-4, atol=1e-5)


def twice(params):
    return jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), params)


# every way of differentiating or compiling a function of parameters; a shape is enough, since they raise when traced
TRANSFORMATIONS = {
    "grad": lambda loss, params: jax.grad(loss)(params),
    "jit": lambda loss, params: jax.jit(loss)(params),
    "jit of grad": lambda loss, params: jax.jit(jax.grad(loss))(params),
    "grad of jit": lambda loss, params: jax.grad(jax.jit(loss))(params),
    "vmap of grad": lambda loss, params: jax.eval_shape(jax.vmap(jax.grad(loss)), twice(params)),
    "grad of vmap": lambda loss, params: jax.eval_shape(jax.grad(lambda p: jax.vmap(loss)(p).sum()), twice(params)),
    "jit of vmap": lambda loss, params: jax.jit(jax.vmap(loss))(twice(params)),
    "jvp": lambda loss, params: jax.eval_shape(lambda p: jax.jvp(loss, (p,), (p,)), params),
    "scan": lambda loss, params: jax.eval_shape(
        jax.grad(lambda p: jax.lax.scan(lambda total, _: (total + loss(p), None), 0.0, length=2)[0]), params
    ),
    "checkpoint": lambda loss, params: jax.eval_shape(jax.grad(jax.checkpoint(loss)), params),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_a_network_that_cannot_be_stopped_is_refused(rows, key, iaf_network, name):
    """NumPyro's IAF holds its network outside its leaves, where stopping would leave it its gradient without a word."""
    params, apply = iaf_network
    loss = lambda params: draw(key, iaf(params, rows["mean"], apply), K, "q")[1].sum()
    with pytest.raises(ValueError, match=r"TransformedDistribution.*not leaves of its pytree"):
        TRANSFORMATIONS[name](loss, params)


def test_a_network_held_in_leaves_is_stopped(rows, key):
    """`Partial(apply, params)` holds its parameters as leaves: the log q they make has no gradient but through z."""

    @jax.tree_util.register_pytree_node_class
    class Shifted:
        """N(shift(), 1)"""

        def __init__(self, shift):
            self.shift = shift

        def sample(self, key, sample_shape=()):
            return self.shift() + jax.random.normal(key, (*sample_shape, B, Z))

        def log_prob(self, z):
            return basic.normal_log_prob(self.shift(), 0.0, z)

        def tree_flatten(self):
            return (self.shift,), None

        @classmethod
        def tree_unflatten(cls, _, leaves):
            return cls(*leaves)

    def log_q(scale, stop):
        shift = jax.tree_util.Partial(lambda scale: scale * rows["mean"], scale)
        return draw(key, Shifted(shift), K, stop)[1].sum()

    eps = Shifted(lambda: 0.0).sample(key, (K,))
    path = -(eps * rows["mean"]).sum()  # dlog q/dz = -eps and dz/dscale = mean
    for stop, expected in ((None, 0.0), ("q", path), ("z", -path)):
        np.testing.assert_allclose(jax.grad(log_q)(2.0, stop), expected, rtol=1e-4, atol=1e-4)


def test_a_q_that_is_no_pytree_is_refused(key):
    class Plain:
        def sample(self, key, sample_shape=()):
            return jax.random.normal(key, (*sample_shape, B, Z))

        def log_prob(self, z):
            return basic.StandardNormal((Z,)).log_prob(z)

    assert draw(key, Plain(), K)[1].shape == (K, B)
    with pytest.raises(ValueError, match=r"Plain.*not a pytree"):
        draw(key, Plain(), K, "q")


# ------------------------------------------------------------------------- a q that the gradient cannot go through

WITHOUT_PATH = {
    "BernoulliLogits": lambda logits: dist.Bernoulli(logits=logits).to_event(1),
    "MixtureSameFamily": lambda logits: dist.MixtureSameFamily(
        dist.Categorical(logits=logits), dist.Normal(jnp.arange(4.0).reshape(2, Z), jnp.ones((B, 2, Z))).to_event(1)
    ),
    "Bernoulli": basic.Bernoulli,
    "NormalMixture": lambda logits: NormalMixture(logits[0], jnp.eye(Z), jnp.zeros((Z, Z))),
    "DistraxBernoulli": lambda logits: DistraxBernoulli(logits),
}


class DistraxBernoulli:
    """Its methods' arguments as Distrax has them, and integers for z; it does not say that it has no path."""

    def __init__(self, logits):
        self.q = dist.Bernoulli(logits=logits).to_event(1)

    def sample(self, *, seed, sample_shape=()):
        return self.q.sample(seed, sample_shape)

    def sample_and_log_prob(self, *, seed, sample_shape=()):
        z = self.sample(seed=seed, sample_shape=sample_shape)
        return z, self.log_prob(z)

    def log_prob(self, value):
        return self.q.log_prob(value)


def of_logits(family, rows, stop=None):
    def loss(logits):
        z, log_q = draw(KEY, WITHOUT_PATH[family](logits), K, stop)
        return jnp.cos(z @ rows["weight"]).sum() + log_q.sum()

    return loss


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_a_gradient_without_its_score_is_refused(rows, name):
    """Under every transformation that differentiates; those that do not have the values of the draws."""
    loss = of_logits("BernoulliLogits", rows)
    if "grad" in name or name in ("jvp", "scan", "checkpoint"):
        with pytest.raises(ValueError, match=r"BernoulliLogits .*has_rsample = False.* tvo, .*reparameterized"):
            TRANSFORMATIONS[name](loss, jnp.array(rows["mean"]))
    else:
        TRANSFORMATIONS[name](loss, jnp.array(rows["mean"]))


@pytest.mark.parametrize("family", WITHOUT_PATH)
def test_families_without_a_path_are_named_and_can_be_measured_and_scored(rows, family):
    """Their values are unchanged, with stop='z' their gradient is the score's, and the decoder's is as ever."""
    logits = jnp.array(rows["mean"])
    for stop in (None, "q"):
        with pytest.raises(ValueError, match=f"draws of {family} carry"):
            jax.grad(of_logits(family, rows, stop))(logits)
    scored, slope = jax.jit(jax.value_and_grad(of_logits(family, rows, "z")))(logits)
    assert jnp.abs(slope).max() > 0
    np.testing.assert_allclose(jax.jit(of_logits(family, rows))(logits), scored, rtol=1e-5)


@pytest.mark.parametrize("jit", [True, False])
def test_the_decoder_learns_under_a_discrete_q(rows, jit):
    """q held, d/dweight E_q log p(x|z) through draws is exact, and is not refused."""
    q, prior = dist.Bernoulli(logits=rows["mean"]).to_event(1), dist.Bernoulli(logits=jnp.zeros(Z)).to_event(1)
    bound = lambda w: elbo_fn(KEY, rows["x"], q, our_decoder(rows | {"weight": w}), prior, K).elbo.sum()
    z = np.asarray(draw(KEY, q, K)[0], float)
    found = jax.grad(jax.jit(bound) if jit else bound)(rows["weight"])
    error = np.asarray(rows["x"]) - scipy.special.expit(z @ rows["weight"])
    np.testing.assert_allclose(found, np.einsum("kbz,kbd->zd", z, error) / K, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------ arguments that are wrong


def test_distraxs_draws_are_understood(rows, key):
    """A q whose methods take keywords alone; of keys of examples it takes the first."""

    class DistraxNormal(DistraxBernoulli):
        def __init__(self):
            self.q = their_q(rows)

    for keys in (key, jax.random.split(key, B)):
        terms = elbo_fn(keys, rows["x"], DistraxNormal(), our_decoder(rows), num_samples=K)
        assert_close(terms, elbo_fn(keys, rows["x"], their_q(rows), our_decoder(rows), num_samples=K), rtol=1e-6)


def broken(**changes):
    """The arguments of `elbo_fn` with K = 3, B = 4, Z = 2 and D = 5, some of them replaced."""
    zeros = jnp.zeros
    right = {
        "key": KEY,
        "x": np.zeros((B, 5), np.float32),
        "q": basic.Normal(zeros((B, Z)), zeros((B, Z))),
        "decode": lambda z: basic.Bernoulli(zeros((K, B, 5))),
        "prior": None,
        "num_samples": K,
    }
    return lambda **more: elbo_fn(**right | changes, **more)


def numpyro_logits(*shape):
    return lambda z: dist.Bernoulli(logits=jnp.zeros(shape)).to_event(1)


class PairOfLayers:
    """A q of two layers, whose z is a dict."""

    def sample(self, key, sample_shape=()):
        return {"z1": jnp.zeros((*sample_shape, B, Z)), "z2": jnp.zeros((*sample_shape, B, Z))}

    def log_prob(self, z):
        return jnp.zeros(z["z1"].shape[:-1])


WRONG = {
    "logits [K, B, 1]": ({"decode": lambda z: basic.Bernoulli(jnp.zeros((K, B, 1)))}, r"decode\(z\) .*\(1,\).*\(5,\)"),
    "logits of numpyro": ({"decode": numpyro_logits(K, B, 1)}, r"decode\(z\) .*\(1,\).*\(5,\)"),
    "x [B, 1]": ({"x": np.zeros((B, 1))}, r"decode\(z\) .*\(5,\).*\(1,\)"),
    "x [B, 1] and numpyro": ({"x": np.zeros((B, 1)), "decode": numpyro_logits(K, B, 5)}, r"decode\(z\) .*\(5,\)"),
    "levels [K, B, 1, L]": ({"decode": lambda z: Categorical(jnp.zeros((K, B, 1, 7)))}, r"\(1,\).*\(5,\)"),
    "prior [1]": ({"prior": basic.Normal(jnp.zeros(1), jnp.zeros(1))}, r"^prior .*\(1,\).*\(2,\)"),
    "standard normal [1]": ({"prior": basic.StandardNormal((1,))}, r"^prior .*\(1,\).*\(2,\)"),
    "mixture [C, 1]": ({"prior": NormalMixture(np.zeros(3), *np.zeros((2, 3, 1)))}, r"^prior .*\(1,\).*\(2,\)"),
    "prior of numpyro [1]": ({"prior": dist.Normal(jnp.zeros(1), 1).to_event(1)}, r"^prior .*\(1,\).*\(2,\)"),
    "no draws": ({"num_samples": 0}, r"num_samples = 0: expected K >= 1"),
    "an array from the decoder": ({"decode": lambda z: jnp.zeros((K, B, 5))}, r"decode\(z\) is a .*not a distribution"),
    "a seed": ({"key": 0}, r"key = 0: expected .*jax.random.key"),
    "an integer array": ({"key": jnp.int32(3)}, "key"),
    "a dict z": ({"q": PairOfLayers()}, r"z is a dict .*give its prior"),
    "swapped": (
        {"decode": basic.StandardNormal((Z,)), "prior": lambda z: basic.Bernoulli(z)},
        r"prior is a function, not a distribution \(order: key, x, q, decode, prior\)",
    ),
    "bytes": ({"x": np.full((B, 5), 255, np.uint8)}, r"\[0, 1\], not 255 to 255: divide bytes by 255, or binarize"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_would_be_a_wrong_number_is_one_line(case):
    changes, message = WRONG[case]
    for kl in ("auto", "monte_carlo"):
        with pytest.raises((ValueError, TypeError), match=message) as error:
            broken(**changes)(kl=kl)
    assert "\n" not in str(error.value) or case == "an integer array"  # jax's own message


def test_the_arguments_that_those_replace_are_right():
    assert broken()().elbo.shape == (B,)


@pytest.mark.parametrize("stop", ["both", True, "Q"])
def test_an_unknown_stop_is_refused(rows, stop):
    with pytest.raises(ValueError, match=r"stop = .*expected None, 'q' or 'z'"):
        normal_draw(rows["mean"], rows["log_std"], stop)
