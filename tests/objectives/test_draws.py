"""Draws of q and their log density: where their gradient goes, and where it is refused."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats
from numpyro.distributions.flows import InverseAutoregressiveTransform
from numpyro.nn import AutoregressiveNN
from small_model import (
    KEY,
    TRANSFORMATIONS,
    B,
    DistraxBernoulli,
    K,
    Z,
    assert_close,
    decoder,
    normal_draw,
    our_decoder,
    our_prior,
    posterior,
    standard_error,
)

from vae_jax.distributions import basic
from vae_jax.distributions.gaussians import NormalMixture
from vae_jax.objectives.elbo import draw, elbo_fn, score


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


# ---- a q that the gradient cannot go through

WITHOUT_PATH = {
    "BernoulliLogits": lambda logits: dist.Bernoulli(logits=logits).to_event(1),
    "MixtureSameFamily": lambda logits: dist.MixtureSameFamily(
        dist.Categorical(logits=logits), dist.Normal(jnp.arange(4.0).reshape(2, Z), jnp.ones((B, 2, Z))).to_event(1)
    ),
    "Bernoulli": basic.Bernoulli,
    "NormalMixture": lambda logits: NormalMixture(logits[0], jnp.eye(Z), jnp.zeros((Z, Z))),
    "DistraxBernoulli": lambda logits: DistraxBernoulli(logits),
}


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
