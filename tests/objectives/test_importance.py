"""Bounds made of importance weights: their order where log p(x) is known, and what their gradients estimate.

An estimator is compared with another whose expectation is its target, on the same 2000 draws: the mean difference lies
within 5 standard errors in every component. Each comparison must also refuse an estimator known to be wrong.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from vae_jax.distributions import basic
from vae_jax.distributions.gaussians import FullNormal, NormalMixture, TwoLayerPosterior, TwoLayerPrior
from vae_jax.objectives.elbo import draw, importance_bound, score
from vae_jax.objectives.importance import ciwae, dreg, effective_sample_size, iwae, miwae, piwae, stl, tvo, vr
from vae_jax.objectives.loss import OBJECTIVES
from vae_jax.objectives.regularized import elbo

KEY = jax.random.key(5, impl="rbg")  # compiles faster than the default
REPEATS = 2000
quick = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # half the time to compile

# ---------------------------------------------------------------------------------- bounds where log p(x) is known


def normal_decoder(weight, bias, sigma):
    """z -> p(x|z) = N(W z + b, sigma^2)."""
    return lambda z: basic.Normal(jnp.matmul(z, weight.T, precision="highest") + bias, jnp.log(sigma))


def posterior(model, shift=0.0, stretch=0.0):
    """The true posterior, its means moved by `shift` and its log stds by `stretch`; float64."""
    return basic.Normal(model.mean + shift, np.broadcast_to(model.log_std + stretch, model.mean.shape))


def test_effective_sample_size_by_hand():
    """Weights 1 and 3: 16 / 10; equal ones: their number; one that carries all: 1. A common factor changes nothing."""
    log_w = jnp.log(jnp.array([[1.0, 3.0], [2.0, 2.0], [1.0, 0.0]]))
    for shift in (0.0, -1e4):
        np.testing.assert_allclose(effective_sample_size(log_w + shift, axis=1), [1.6, 2, 1], rtol=2e-3)
    np.testing.assert_allclose(effective_sample_size(log_w.T), [1.6, 2, 1], rtol=1e-5)


ALPHAS = (-1.0, 0.0, 0.5, 1 - 1e-3, 1.0, 1 + 1e-3, 2.0)


@quick
def every_bound(x, q, parameters):
    """All of them from the same 6 draws: {name: [B]}."""
    decode = normal_decoder(*parameters)
    run = lambda objective, **keywords: objective(KEY, x, q, decode, None, 6, kl="monte_carlo", **keywords)[0]
    bounds = {"elbo": run(elbo), "iwae": run(iwae), "stl": run(stl), "dreg": run(dreg)}
    bounds |= {f"miwae {groups}": run(miwae, groups=groups) for groups in (1, 2, 6)}
    bounds |= {f"piwae {groups}": run(piwae, groups=groups) for groups in (1, 2, 6)}
    bounds |= {f"ciwae {alpha}": run(ciwae, alpha=alpha) for alpha in (0.0, 0.5, 1.0)}
    bounds |= {f"vr {alpha}": run(vr, alpha=alpha) for alpha in ALPHAS}
    return bounds | {f"tvo {partitions}": run(tvo, partitions=partitions) for partitions in (1, 2, 5)}


def bounds_of(model, q, parameters=None):
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, every_bound(model.x, q, parameters or model[1:4]))


def test_every_bound_is_the_evidence_at_the_posterior(linear_gaussian):
    """log w is log p(x) at every draw, so nothing is left to chance or to the choice of a bound."""
    for name, value in bounds_of(linear_gaussian, posterior(linear_gaussian)).items():
        np.testing.assert_allclose(value, linear_gaussian.log_px, rtol=1e-9, err_msg=name)


def test_every_bound_is_the_evidence_at_a_correlated_posterior(linear_gaussian):
    """W with columns that are not orthogonal: the posterior needs a full covariance."""
    x, weight, bias, sigma = linear_gaussian[:4]
    weight = weight @ np.array([[1.0, 0.5, -0.4], [0.0, 1.0, 0.8], [0.0, 0.0, 1.0]])
    covariance = np.linalg.inv(np.eye(3) + weight.T @ weight / sigma**2)
    factor = np.linalg.cholesky(covariance)
    std = np.diagonal(factor)
    batch = lambda leaf: np.broadcast_to(leaf, (len(x), *leaf.shape))
    q = FullNormal((x - bias) @ weight @ covariance / sigma**2, batch(np.log(std)), batch(factor / std[:, None]))
    marginal = weight @ weight.T + sigma**2 * np.eye(5)
    square = np.einsum("bi,ij,bj->b", x - bias, np.linalg.inv(marginal), x - bias)
    log_px = -0.5 * (square + np.linalg.slogdet(2 * np.pi * marginal)[1])
    for name, value in bounds_of(linear_gaussian, q, (weight, bias, sigma)).items():
        np.testing.assert_allclose(value, log_px, rtol=1e-9, err_msg=name)


def test_the_bounds_meet_at_their_end_points(linear_gaussian):
    """On the same draws, some way off the posterior."""
    bounds = bounds_of(linear_gaussian, posterior(linear_gaussian, 0.5, 0.3))
    for name in ("stl", "miwae 6", "ciwae 1.0", "vr 1.0", "tvo 1"):
        np.testing.assert_allclose(bounds[name], bounds["elbo"], rtol=1e-12, err_msg=name)
    for name in ("dreg", "miwae 1", "piwae 1", "piwae 2", "piwae 6", "ciwae 0.0", "vr 0.0"):
        np.testing.assert_allclose(bounds[name], bounds["iwae"], rtol=1e-12, err_msg=name)
    np.testing.assert_allclose(bounds["ciwae 0.5"], (bounds["elbo"] + bounds["iwae"]) / 2, rtol=1e-12)
    for name in ("miwae 2", "tvo 2", "tvo 5"):
        assert (bounds["elbo"] < bounds[name]).all() and (bounds[name] < bounds["iwae"]).all(), name


def test_the_renyi_bound_falls_in_alpha(linear_gaussian):
    """Of the same weights, by the inequality of power means; through the ELBO at 1 with no jump."""
    bounds = bounds_of(linear_gaussian, posterior(linear_gaussian, 0.5, 0.3))
    falling = np.array([bounds[f"vr {alpha}"] for alpha in ALPHAS])
    assert (np.diff(falling, axis=0) < 0).all()
    np.testing.assert_allclose(falling[3] - falling[5], 0, atol=0.01)


def test_more_samples_tighten_the_bound(linear_gaussian):
    """E ELBO < E IWAE_5 < E IWAE_50 <= log p(x), 2000 repeats, 5 standard errors."""
    q = jax.tree.map(np.float32, posterior(linear_gaussian, 0.3, 0.3))
    x, *parameters = (np.float32(each) for each in linear_gaussian[:4])
    decode = normal_decoder(*parameters)
    one = lambda key: [
        objective(key, x, q, decode, None, num_samples)[0]
        for objective, num_samples in ((elbo, 1), (iwae, 5), (iwae, 50))
    ]
    values = [np.float64(value) for value in jax.jit(jax.vmap(one))(jax.random.split(KEY, 2000))]
    mean, error = [value.mean(0) for value in values], [value.std(0) / np.sqrt(2000) for value in values]
    for low in (0, 1):
        assert (mean[low] + 5 * np.hypot(error[low], error[low + 1]) < mean[low + 1]).all()
    assert (mean[2] < linear_gaussian.log_px + 5 * error[2]).all() and (mean[2] > linear_gaussian.log_px - 0.1).all()


def test_what_the_arguments_must_be(linear_gaussian):
    q, decode = posterior(linear_gaussian), normal_decoder(*linear_gaussian[1:4])
    with pytest.raises(ValueError, match="num_samples >= 2"):
        jax.eval_shape(lambda: tvo(KEY, linear_gaussian.x, q, decode, None, 1))
    for objective in (miwae, piwae):
        with pytest.raises(ValueError, match="4 groups do not divide 6 samples"):
            jax.eval_shape(lambda objective=objective: objective(KEY, linear_gaussian.x, q, decode, None, 6, groups=4))


# ----------------------------------------------------------------------------------------------- gradient estimators


def linear(weight, z):
    return jnp.matmul(z, weight, precision="highest")


def layer(weight, z):
    """N(z W, e^-1) as a conditional distribution."""
    return basic.Normal(linear(weight, z), jnp.full((*z.shape[:-1], weight.shape[-1]), -0.5))


def with_mixture_prior(p):
    return basic.Normal(p["mean"], p["log_std"]), decoder(p), NormalMixture(p["logits"], p["centers"], p["widths"])


def with_two_layers(p):
    q = TwoLayerPosterior(basic.Normal(p["mean"], p["log_std"]), jax.tree_util.Partial(layer, p["up"]))
    return q, decoder(p), TwoLayerPrior(jax.tree_util.Partial(layer, p["down"]), 3)


def decoder(p):
    return lambda z: basic.Bernoulli(linear(p["weight"], z["z1"] if isinstance(z, dict) else z))


OF_Q = {"mean": (2, 2), "log_std": (2, 2)}
OF_P = {"weight": (2, 3)}
SHAPES = {  # of q's parameters and of the others
    with_mixture_prior: (OF_Q, OF_P | {"logits": (3,), "centers": (3, 2), "widths": (3, 2)}),
    with_two_layers: (OF_Q | {"up": (2, 3)}, OF_P | {"down": (3, 2)}),
}
X = np.array([[1, 0, 1], [0, 0, 1]], np.float32)


def errors(left, right, names):
    """Standard errors between the means of two estimators on the same draws, the worst component of each parameter."""
    difference = {name: left[name] - right[name] for name in names}
    standard = lambda d: np.abs(d.mean(0)) / (d.std(0) / np.sqrt(REPEATS) + 1e-5)
    return np.array([standard(each).max() for each in difference.values()])


def same_draw_by_draw(left, right, names):
    for name in names:
        assert np.abs(left[name]).max() > 0.1
        np.testing.assert_allclose(left[name], right[name], rtol=1e-3, atol=1e-4, err_msg=name)


def stopped(bound):
    """A bound of the weights with q stopped in them."""

    def objective(key, x, q, decode, prior, num_samples):
        z, log_q = draw(key, q, num_samples, stop="q")
        terms = score(x, z, log_q, decode, prior)
        return bound(terms.log_weights), terms

    return objective


naive_dreg = stopped(importance_bound)  # v in place of v^2


def naive_stl(key, x, q, decode, prior, num_samples):
    """Stops log q as a whole, and with it the gradient that goes through z."""
    z, log_q = draw(key, q, num_samples)
    terms = score(x, z, jax.lax.stop_gradient(log_q), decode, prior)
    return terms.log_weights.mean(0), terms


def naive_tvo(key, x, q, decode, prior, num_samples):
    """A single partition with the covariance divided by K."""
    z, log_q = draw(key, q, num_samples, stop="z")
    terms = score(x, z, log_q, decode, prior)
    centered = jax.lax.stop_gradient(terms.log_weights - terms.log_weights.mean(0))
    return terms.log_weights.mean(0) + (centered * log_q).mean(0), terms


FOR_BOTH = {
    "elbo": partial(elbo, kl="monte_carlo"),
    "stl": stl,
    "naive_stl": naive_stl,
    "iwae": iwae,
    "dreg": dreg,
    "naive_dreg": naive_dreg,
}
FOR_ONE_LAYER = {
    "miwae": partial(miwae, groups=2),
    "piwae": partial(piwae, groups=2),
    "tvo": partial(tvo, partitions=1),
    "naive_tvo": naive_tvo,
}


@partial(quick, static_argnums=0)
def gradients(build, params):
    """{objective: gradients [REPEATS, ...] of the sum over the batch with K = 4}, the same draws for all."""
    objectives = FOR_BOTH if build is with_two_layers else FOR_BOTH | FOR_ONE_LAYER

    def one(key):
        def values(params):
            q, decode, prior = build(params)
            return {name: each(key, X, q, decode, prior, 4)[0].sum() for name, each in objectives.items()}

        return jax.jacrev(values)(params)

    return jax.vmap(one)(jax.random.split(KEY, REPEATS))


@pytest.fixture(scope="module", params=SHAPES)
def setting(request):
    """(the gradients, names of q's parameters, names of the others), for both priors."""
    return one_setting(request.param)


@cache
def one_setting(build):
    rng = np.random.default_rng(4)
    of_q, of_p = SHAPES[build]
    params = {name: 0.7 * rng.normal(size=shape).astype(np.float32) for name, shape in (of_q | of_p).items()}
    return jax.tree.map(np.float64, gradients(build, params)), list(of_q), list(of_p)


def test_dreg_is_iwaes_gradient(setting):
    """The same for decoder and prior, draw by draw; unbiased for q, where v in place of v^2 is not."""
    found, of_q, of_p = setting
    same_draw_by_draw(found["dreg"], found["iwae"], of_p)
    assert errors(found["dreg"], found["iwae"], of_q).max() < 5
    assert errors(found["naive_dreg"], found["iwae"], of_q).min() > 8


def test_stl_is_the_elbos_gradient(setting):
    """Likewise; the wrong one stops log q in z too."""
    found, of_q, of_p = setting
    same_draw_by_draw(found["stl"], found["elbo"], of_p)
    assert errors(found["stl"], found["elbo"], of_q).max() < 5
    assert errors(found["naive_stl"], found["elbo"], of_q).max() > 8


def test_one_partition_is_the_elbos_gradient():
    """No reparameterization and a covariance divided by K - 1; divided by K it is too small."""
    found, of_q, of_p = one_setting(with_mixture_prior)
    same_draw_by_draw(found["tvo"], found["elbo"], of_p)
    assert errors(found["tvo"], found["elbo"], of_q).max() < 5
    assert errors(found["naive_tvo"], found["elbo"], of_q).max() > 8


def test_piwae_gives_each_its_own_gradient():
    """The decoder's and the prior's are IWAE's and q's is MIWAE's, draw by draw; the two differ."""
    found, of_q, of_p = one_setting(with_mixture_prior)
    same_draw_by_draw(found["piwae"], found["iwae"], of_p)
    same_draw_by_draw(found["piwae"], found["miwae"], of_q)
    assert all(np.abs(found["iwae"][name] - found["miwae"][name]).max() > 0.1 for name in (*of_q, *of_p))


@quick
def gradients_in_q(x, q, parameters):
    """{name: of each of 50 draws of K = 5, [50, B, Z] for mean and log_std}."""
    sum_of = lambda objective, q, key: objective(key, x, q, normal_decoder(*parameters), None, 5)[0].sum()
    over_keys = lambda objective: jax.vmap(jax.grad(partial(sum_of, objective)), (None, 0))(q, keys)
    keys = jax.random.split(KEY, 50)
    return {"stl": over_keys(stl), "dreg": over_keys(dreg), "iwae": over_keys(iwae)}


def test_at_the_posterior_stl_and_dreg_have_no_noise(linear_gaussian):
    """Zero, up to rounding, at every draw."""
    x, *parameters = [np.float32(each) for each in linear_gaussian[:4]]
    found = jax.device_get(gradients_in_q(x, jax.tree.map(np.float32, posterior(linear_gaussian)), parameters))
    for name in ("stl", "dreg"):
        np.testing.assert_allclose(found[name].mean, 0, atol=2e-5)
        np.testing.assert_allclose(found[name].log_std, 0, atol=2e-5)
    assert found["iwae"].mean.std(0).min() > 0.1 and found["iwae"].log_std.std(0).min() > 0.1


# ------------------------------------------------------------------------------------- the thermodynamic integral


def exact_tvo(params, edges, x, bias, sigma):
    """sum_s (b_{s+1} - b_s) E_{b_s}[log w] summed over x: q^(1-b) p(x, z)^b is a Gaussian in z."""
    weight = params["weight"]
    eye, (dim, latent) = jnp.eye(weight.shape[1]), weight.shape
    joint = eye + weight.T @ weight / sigma**2

    def expected(x, mean, log_std, b):
        precision = jnp.exp(-2 * log_std) * eye
        covariance = jnp.linalg.inv((1 - b) * precision + b * joint)
        center = covariance @ ((1 - b) * precision @ mean + b * weight.T @ (x - bias) / sigma**2)
        residual, off = x - bias - weight @ center, center - mean
        square = residual @ residual + jnp.trace(weight @ covariance @ weight.T)
        log_lik = -0.5 * (square / sigma**2 + dim * jnp.log(2 * jnp.pi * sigma**2))
        log_prior = -0.5 * (center @ center + jnp.trace(covariance) + latent * jnp.log(2 * jnp.pi))
        log_q = -0.5 * (off @ precision @ off + jnp.trace(precision @ covariance) + latent * jnp.log(2 * jnp.pi))
        return log_lik + log_prior - log_q + log_std.sum()

    each = jax.vmap(jax.vmap(expected, (None, None, None, 0)), (0, 0, 0, None))
    return (each(x, params["mean"], params["log_std"], edges[:-1]) @ jnp.diff(edges)).sum()


def test_tvo_against_the_integral(linear_gaussian):
    """Value and gradient where both are exact, 20 times 10,000 draws, 5 standard errors; bounds that rise to log p(x).

    The gradient of one partition, the ELBO's, is far outside.
    """
    x, weight, bias, sigma = [np.float32(each) for each in linear_gaussian[:4]]
    q = jax.tree.map(np.float32, posterior(linear_gaussian, 0.3, 0.3))
    params = {"mean": q.mean, "log_std": q.log_std, "weight": weight}
    later = [np.geomspace(0.1, 1, partitions) for partitions in (2, 4, 8)]
    edges = np.array([[0.0, *each, *[1.0] * (8 - len(each))] for each in ([1.0], *later)], np.float32)
    exactly = partial(exact_tvo, x=x, bias=bias, sigma=sigma)

    def value(params, key):
        decode = normal_decoder(params["weight"], bias, sigma)
        q = basic.Normal(params["mean"], params["log_std"])
        return tvo(key, x, q, decode, None, 10_000, partitions=4, first=0.1)[0].sum()

    @jax.jit
    def everything(params, keys):
        found = jax.lax.map(lambda key: jax.value_and_grad(value)(params, key), keys)
        return found, jax.vmap(jax.value_and_grad(exactly), (None, 0))(params, edges)

    found, (rising, exact) = jax.device_get(everything(params, jax.random.split(KEY, 20)))
    of_elbo, exact = ({name: values[i] for name, values in exact.items()} for i in (0, 2))
    inside = lambda draws, truth: (np.abs(draws.mean(0) - truth) < 5 * draws.std(0) / np.sqrt(20)).all()
    assert all(jax.tree.leaves(jax.tree.map(inside, found, (rising[2], exact))))
    assert not any(jax.tree.leaves(jax.tree.map(inside, found[1], of_elbo)))
    log_px = linear_gaussian.log_px.sum()
    gap = linear_gaussian.kl_to_posterior(q.mean, q.log_std).sum()
    np.testing.assert_allclose(rising[0], log_px - gap, rtol=1e-5)  # one partition is the ELBO
    assert (np.diff([*rising, log_px]) > 0).all() and found[0].mean() < log_px


# ------------------------------------------------------------------------------------------- a discrete z, three bits

BITS = 3


def bits_model(params, x):
    """(q, decode, prior, log p(x, z) - log q(z|x) `[8, B]` of all z, q(z|x) `[8, B]`), Bernoulli and of NumPyro."""
    q, prior = (dist.Bernoulli(logits=params[name]).to_event(1) for name in ("q", "prior"))
    decode = lambda z: dist.Bernoulli(logits=z @ params["weight"]).to_event(1)
    z = np.array(np.unravel_index(np.arange(2**BITS), (2,) * BITS)).T[:, None] * np.ones((1, 2, 1), int)
    log_q = q.log_prob(z)
    return q, decode, prior, decode(z).log_prob(x) + prior.log_prob(z) - log_q, jnp.exp(log_q)


def bits_example():
    rng = np.random.default_rng(0)
    shapes = {"q": (2, BITS), "prior": (BITS,), "weight": (BITS, 4)}
    return {n: jnp.float32(rng.normal(size=s)) for n, s in shapes.items()}, jnp.float32(rng.random((2, 4)) > 0.5)


def test_tvo_is_right_for_a_q_without_a_path():
    """With one partition the ELBO's gradient, here an exact sum over all z, within 5 standard errors of 4000 draws."""
    params, x = bits_example()

    def exact(params):
        *_, log_weights, probability = bits_model(params, x)
        return (probability * log_weights).sum()

    def one(params, key):
        q, decode, prior, *_ = bits_model(params, x)
        return tvo(key, x, q, decode, prior, 4, partitions=1)[0].sum()

    found = quick(jax.vmap(jax.value_and_grad(one), (None, 0)))(params, jax.random.split(jax.random.key(0), 4000))
    expected = jax.jit(jax.value_and_grad(exact))(params)
    for draws, truth in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        error = np.std(draws, 0) / np.sqrt(len(draws))
        assert (np.abs(np.mean(draws, 0) - truth) < 5 * error).all()
        assert (np.abs(truth) > 10 * error).any()  # and that says something


@pytest.mark.parametrize("name", OBJECTIVES)
def test_who_takes_a_gradient_through_draws_refuses_a_q_without_one(name):
    """All but the thermodynamic one, which takes the score, and the autoencoder, which does not draw."""
    params, x = bits_example()

    def value(logits):
        q, decode, prior, *_ = bits_model(params | {"q": logits}, x)
        return OBJECTIVES[name].function(KEY, x, q, decode, prior, 4)[0].sum()

    if name in ("tvo", "autoencoder"):
        assert jax.eval_shape(jax.grad(value), params["q"]).shape == (2, BITS)
    else:
        message = "diagonal Gaussian" if name == "beta_tc" else "draws of BernoulliLogits carry a part of its gradient"
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(jax.grad(value), params["q"])
        if name not in ("beta_tc", "mmd"):
            assert jax.eval_shape(value, params["q"]).shape == ()
