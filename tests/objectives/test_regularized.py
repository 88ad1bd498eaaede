"""Every objective against its formula, written from the weights, and the gradients that follow from it."""

import inspect
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from jax.sharding import PartitionSpec as P

from vae_jax.commands import configuration
from vae_jax.distributions import basic
from vae_jax.distributions.flows import InverseAutoregressiveFlow, PlanarFlow, init_autoregressive
from vae_jax.distributions.gaussians import FullNormal, NormalMixture, TwoLayerPosterior, TwoLayerPrior
from vae_jax.objectives.elbo import elbo_fn
from vae_jax.objectives.importance import iwae
from vae_jax.objectives.loss import OBJECTIVES, make_refine, make_table_objective, paired, to_refine
from vae_jax.objectives.regularized import autoencoder, beta_elbo, beta_tc, capacity, elbo, free_bits, mmd, squared_mmd
from vae_jax.parallel import devices

K, B, Z = 6, 4, 2
KEY = jax.random.key(7, impl="rbg")  # compiles faster than the default
quick = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # half the time to compile
STATIC = ("kl", "groups", "partitions", "num_examples")


@partial(jax.jit, static_argnums=(0, 2), static_argnames=STATIC)
def bound(objective, rows, num_samples=K, **keywords):
    """The objective of a small Bernoulli model at the parameters in `rows`, always from the same noise."""
    q = basic.Normal(rows["mean"], rows["log_std"])
    decode = lambda z: basic.Bernoulli(jnp.matmul(z, rows["weight"], precision="highest"))
    return objective(KEY, rows["x"], q, decode, None, num_samples, **keywords)


# ----------------------------------------------------------------------------------------------------------- formulas


def log_mean_exp(log_weights, axis=0):
    return scipy.special.logsumexp(log_weights, axis=axis) - np.log(log_weights.shape[axis])


def free_bits_by_hand(t, rows, free):
    mean, log_std = np.float64(rows["mean"]), np.float64(rows["log_std"])
    kl = 0.5 * (mean**2 + np.exp(2 * log_std) - 1) - log_std
    return t.log_lik.mean(0) - sum(max(free, kl[:, j].mean()) for j in range(Z))


def beta_tc_by_hand(t, rows, beta, num_examples):
    """The three terms in loops over samples, examples and dimensions."""
    value = t.log_lik.mean(0)
    density = lambda z, b: scipy.stats.norm.pdf(z, rows["mean"][b], np.exp(np.float64(rows["log_std"][b])))
    for k, b in np.ndindex(K, B):
        each = np.array([density(t.z[k, b], other) for other in range(B)]) / (num_examples * B)  # [B', Z]
        log_q = np.log((each * num_examples * B).prod(-1).sum() / (num_examples * B))
        log_q_product = np.log(each.sum(0)).sum()
        information = np.log(density(t.z[k, b], b)).sum() - log_q
        dimensions = log_q_product - scipy.stats.norm.logpdf(t.z[k, b]).sum()
        value[b] -= (information + beta * (log_q - log_q_product) + dimensions) / K
    return value


def squared_mmd_by_hand(a, b):
    scales = 2 * a.shape[1] * np.array([0.1, 0.2, 0.5, 1, 2, 5, 10])
    kernel = lambda u, v: sum(c / (c + ((u - v) ** 2).sum()) for c in scales)
    within = lambda s: np.mean([kernel(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j])
    return within(a) + within(b) - 2 * np.mean([kernel(u, v) for u in a for v in b])


def mmd_by_hand(t, rows, beta, mmd):
    keys = jax.random.split(KEY, B)
    of_prior = jax.vmap(lambda key: basic.StandardNormal((Z,)).sample(jax.random.fold_in(key, 1), (1,))[0])(keys)
    return t.log_lik.mean(0) - beta * t.kl - mmd * squared_mmd_by_hand(t.z[0], np.float64(of_prior))


def miwae_by_hand(t, rows, groups):
    return np.mean([log_mean_exp(t.log_weights[m::groups]) for m in range(groups)], axis=0)


def tvo_by_hand(t, rows, first, partitions):
    edges = [0.0, *np.geomspace(first, 1, partitions)]
    tempered = lambda b: (scipy.special.softmax(b * t.log_weights, axis=0) * t.log_weights).sum(0)
    return sum((high - low) * tempered(low) for low, high in itertools.pairwise(edges))


# name -> (its weights and options, the value [B] from the terms and the parameters, all in float64)
FORMULAS = {
    "elbo": ({}, lambda t, rows: t.log_lik.mean(0) - t.kl),
    "beta": (
        {"beta": 0.3, "reconstruction": 0.7},
        lambda t, rows, beta, reconstruction: reconstruction * t.log_lik.mean(0) - beta * t.kl,
    ),
    "capacity": (
        {"beta": 4.0, "capacity": 1.0},
        lambda t, rows, beta, capacity: t.log_lik.mean(0) - beta * np.abs(t.kl.mean() - capacity),
    ),
    "free_bits": ({"free": 0.2}, free_bits_by_hand),
    "beta_tc": ({"beta": 3.0, "num_examples": 100}, beta_tc_by_hand),
    "mmd": ({"beta": 0.2, "mmd": 5.0}, mmd_by_hand),
    "iwae": ({}, lambda t, rows: log_mean_exp(t.log_weights)),
    "stl": ({}, lambda t, rows: t.log_weights.mean(0)),
    "dreg": ({}, lambda t, rows: log_mean_exp(t.log_weights)),
    "miwae": ({"groups": 3}, miwae_by_hand),
    "piwae": ({"groups": 3}, lambda t, rows, groups: log_mean_exp(t.log_weights)),
    "ciwae": (
        {"alpha": 0.3},
        lambda t, rows, alpha: alpha * (t.log_lik.mean(0) - t.kl) + (1 - alpha) * log_mean_exp(t.log_weights),
    ),
    "vr": ({"alpha": -1.5}, lambda t, rows, alpha: log_mean_exp((1 - alpha) * t.log_weights) / (1 - alpha)),
    "tvo": ({"first": 0.1, "partitions": 4}, tvo_by_hand),
    "autoencoder": (
        {"code": 0.3},
        lambda t, rows, code: t.log_lik[0] - 0.5 * code * (np.float64(rows["mean"]) ** 2).sum(-1),
    ),
}
WEIGHTS = {
    name: {each: value for each, value in keywords.items() if each in OBJECTIVES[name].weights}
    for name, (keywords, _) in FORMULAS.items()
}
OPTIONS = {
    name: {each: value for each, value in keywords.items() if each not in OBJECTIVES[name].weights}
    for name, (keywords, _) in FORMULAS.items()
}
CLOSED_FORM_UNUSED = ("stl", "dreg", "tvo")
TRACES = []


@partial(quick, static_argnames="kl")
def every_objective(rows, weights, kl="auto"):
    """All of them in one program: {name: (value [B], Elbo)}."""
    TRACES.append(kl)
    value = lambda name: bound(OBJECTIVES[name].function, rows, kl=kl, **weights[name], **OPTIONS[name])
    return {name: value(name) for name in OBJECTIVES}


def test_every_objective_has_its_formula_here():
    assert set(FORMULAS) == set(OBJECTIVES)
    for name, objective in OBJECTIVES.items():
        assert set(WEIGHTS[name]) == set(objective.weights)
        assert set(OPTIONS[name]) - {"num_examples"} == set(objective.options)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("kl", ["auto", "monte_carlo"])
def test_the_value_is_the_formula_and_the_elbo_the_bound(rows, name, kl):
    """Whatever is optimized, the second result is `elbo_fn`'s; an autoencoder has none."""
    keywords, formula = FORMULAS[name]
    value, terms = every_objective(rows, WEIGHTS, kl=kl)[name]
    expected = formula(jax.tree.map(lambda leaf: np.array(leaf, float), terms), rows, **keywords)
    assert value.shape == (B,)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    if name == "autoencoder":
        log_lik = basic.bernoulli_log_prob(rows["mean"] @ rows["weight"], rows["x"])
        np.testing.assert_allclose(terms.log_likelihood, log_lik, rtol=1e-5)
        assert [field for field, each in terms._asdict().items() if each is not None] == [
            "log_likelihood",
            "log_lik",
            "z",
        ]
        return
    kl = "monte_carlo" if name in CLOSED_FORM_UNUSED else kl
    closed = basic.kl_standard_normal(rows["mean"], rows["log_std"])
    estimated = (terms.log_q - terms.log_prior).mean(0)
    np.testing.assert_allclose(terms.kl, closed if kl == "auto" else estimated, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(terms.elbo, terms.log_likelihood - terms.kl, rtol=1e-6)
    same = partial(np.testing.assert_allclose, rtol=2e-6, atol=2e-6)
    jax.tree.map(same, terms, bound(elbo_fn, rows, kl=kl))


# ------------------------------------------------------------------------------------- arguments, flags and refinement


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_take_the_arguments_of_elbo_fn(name):
    """Then by keyword their weights, which are floats, their options, and what brings the batch together."""
    objective = OBJECTIVES[name]
    own = inspect.signature(objective.function).parameters
    shared = inspect.signature(elbo_fn).parameters
    assert list(own)[: len(shared)] == list(shared)
    for each in shared:
        default = 2 if (name, each) == ("tvo", "num_samples") else shared[each].default
        assert own[each].kind == shared[each].kind and own[each].default == default
    rest = {each: own[each] for each in list(own)[len(shared) :]}
    together = ("num_examples", "gather") if objective.coupled else ()
    assert set(rest) == {*objective.weights, *objective.options, *together}
    assert all(parameter.kind == inspect.Parameter.KEYWORD_ONLY for parameter in rest.values())
    kinds = dict.fromkeys(objective.weights, float) | dict.fromkeys(objective.options, int)
    assert all(type(rest[each].default) is kinds.get(each, type(None)) for each in rest)


def test_the_weights_are_traced(rows):
    """A sweep over them compiles once, and each of them matters to its own objective."""
    values = lambda weights: {name: np.asarray(value) for name, (value, _) in every_objective(rows, weights).items()}
    plain, traces = values(WEIGHTS), len(TRACES)
    for name, weights in WEIGHTS.items():
        for each in weights:
            other = values(WEIGHTS | {name: weights | {each: weights[each] + 0.7}})
            for same in set(OBJECTIVES) - {name}:
                np.testing.assert_array_equal(other[same], plain[same])
            assert (np.abs(other[name] - plain[name]) > 1e-3).all(), (name, each)
    assert len(TRACES) == traces


def planar(rows):
    fill = lambda *shape: np.full(shape, 0.3, np.float32)
    return PlanarFlow(rows["mean"], rows["log_std"], {"w": fill(B, 1, Z), "v": fill(B, 1, Z), "b": fill(B, 1)})


def autoregressive(rows):
    weights = init_autoregressive(KEY, Z, 2, 3)
    return InverseAutoregressiveFlow(rows["mean"], rows["log_std"], np.zeros((B, 0), np.float32), weights)


@pytest.mark.parametrize(("make_q", "message"), [(planar, "planar flow"), (autoregressive, "inverse autoregressive")])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_density_says_who_refuses_a_flow_with_no_density_elsewhere(rows, name, make_q, message):
    decode = lambda z: basic.Bernoulli(z @ rows["weight"])
    run = partial(OBJECTIVES[name].function, KEY, rows["x"], make_q(rows), decode, None, K)
    if OBJECTIVES[name].density:
        with pytest.raises(ValueError, match="diagonal Gaussian" if name == "beta_tc" else message):
            jax.eval_shape(run)
    elif name == "autoencoder":  # its base's mean is not that of z
        with pytest.raises(TypeError, match=r"decodes the mean of q, and .*Flow has none"):
            jax.eval_shape(run)
    else:
        assert jax.eval_shape(run)[0].shape == (B,)


def test_surrogate_says_whose_gradient_is_not_the_derivative_of_its_value(rows):
    """Central differences along one direction of q's parameters, at the same noise."""
    rng = np.random.default_rng(1)
    direction = {name: rng.normal(size=rows[name].shape).astype(np.float32) for name in ("mean", "log_std")}
    values_of = lambda found: {name: value for name, (value, _) in found.items()}
    inside = lambda at: values_of(every_objective.__wrapped__(rows | at, WEIGHTS))
    values = lambda at: values_of(every_objective(rows | at, WEIGHTS))
    moved = lambda step: {name: rows[name] + np.float32(step) * direction[name] for name in direction}
    tangents = quick(lambda at: jax.jvp(inside, (at,), (direction,))[1])(moved(0))
    high, low = values(moved(0.01)), values(moved(-0.01))
    for name, objective in OBJECTIVES.items():
        error = np.abs(tangents[name] - (high[name] - low[name]) / 0.02)
        assert error.max() > 0.1 if objective.surrogate else error.max() < 0.003, (name, error)


def test_refinement_ascends_what_belongs_to_each_example():
    own = {"elbo", "beta", "iwae", "miwae", "ciwae", "vr", "autoencoder"}
    assert {name for name in OBJECTIVES if to_refine(name) == name} == own
    assert {to_refine(name) for name in set(OBJECTIVES) - own} == {"elbo"}


# ------------------------------------------------------------------------------------------------ beta, iwae, the code


@pytest.mark.parametrize("name", OBJECTIVES)
def test_q_params_ascend_by_pairs_of_draws_where_the_objective_may(rows, name):
    """In a table elbo and beta, with weights of their own; in a refinement also the ELBO where they cannot serve."""
    config, given = configuration.default(), lambda *arguments, **weights: None
    config.objective.name, weights = name, {"beta": 3.0} if name == "beta" else {}
    table, refined = make_table_objective(config, given), make_refine(config)
    assert (table is given) == (name not in ("elbo", "beta"))
    assert (refined is None) == (to_refine(name) not in ("elbo", "beta"))
    q, decode = basic.Normal(rows["mean"], rows["log_std"]), lambda z: basic.Bernoulli(z @ rows["weight"])
    for ascended in {table, refined} - {given, None}:
        value, terms = quick(partial(ascended, decode=decode, prior=None, **weights))(KEY, rows["x"], q)
        np.testing.assert_allclose(terms.z.sum(0), 2 * rows["mean"], atol=1e-5)
        expected = terms.log_likelihood - weights.get("beta", 1.0) * terms.kl
        np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("stopped", [True, False])
def test_paired_draws_have_the_gradient_of_their_objective(linear_gaussian, stopped):
    """By q's parameters, 20,000 draws against the closed forms: grad ELBO = -grad KL(q || p(z|x)), and with
    grad KL(q || p(z)) = (mean, sigma^2 - 1), grad(r E_q log p(x|z) - beta KL) = r (grad ELBO + grad KL) - beta grad KL.

    At q = p(z|x) the gradient of the ELBO is zero for every draw if the parameters are stopped in log q, else not.
    """
    g, names = linear_gaussian, ("mean", "log_std")
    x, weight = jnp.float32(g.x), jnp.float32(g.weight)
    decode = lambda z: basic.Normal(z @ weight.T + jnp.float32(g.bias), jnp.full(len(g.bias), jnp.log(g.sigma)))
    posterior = {"mean": jnp.float32(g.mean), "log_std": jnp.broadcast_to(jnp.float32(g.log_std), g.mean.shape)}

    @partial(jax.jit, static_argnums=(0, 1))
    def gradient(objective, count, q_params, **weights):
        value = paired(OBJECTIVES[objective].function, count, stopped)
        of = lambda q_params: value(KEY, x, basic.Normal(**q_params), decode, None, **weights)[0].sum()
        return jax.grad(of)(q_params)

    q_params = {"mean": posterior["mean"] + 0.3, "log_std": posterior["log_std"] + 0.2}
    var, q_var = np.exp(2 * g.log_std), np.exp(2 * np.float64(q_params["log_std"]))
    of_elbo = {"mean": -0.3 / var + 0 * q_var, "log_std": 1 - q_var / var}
    of_kl = {"mean": np.float64(q_params["mean"]), "log_std": q_var - 1}
    weighed = {name: 2 * (of_elbo[name] + of_kl[name]) - 0.5 * of_kl[name] for name in names}
    found = gradient("beta", 20_000, q_params, beta=0.5, reconstruction=2.0)
    for name in names:
        np.testing.assert_allclose(gradient("elbo", 20_000, q_params)[name], of_elbo[name], atol=0.05)
        np.testing.assert_allclose(found[name], weighed[name], atol=0.1)
    noise = max(np.abs(leaf).max() for leaf in gradient("elbo", 2, posterior).values())
    assert noise < 1e-4 if stopped else noise > 0.1


def test_beta_one_is_the_elbo_and_beta_zero_the_reconstruction(rows):
    value, terms = bound(elbo, rows, kl="auto")
    np.testing.assert_array_equal(value, terms.elbo)
    beta = jax.jit(lambda **weights: bound(beta_elbo, rows, kl="auto", **weights)[0])
    np.testing.assert_allclose(beta(), value, rtol=1e-6)  # 1 is the default
    np.testing.assert_allclose(beta(beta=1.0, reconstruction=1.0), value, rtol=1e-6)
    np.testing.assert_allclose(beta(beta=0.0, reconstruction=1.0), terms.log_likelihood, rtol=1e-6)
    np.testing.assert_allclose(beta(beta=1.0, reconstruction=0.0), -terms.kl, rtol=1e-6)
    assert (beta(beta=4.0, reconstruction=1.0) < value).all()


@jax.jit
def estimated_elbo_and_iwae(rows):
    """With one sample and with K: [2, 2, B]."""
    return jnp.array([[bound(elbo, rows, k, kl="monte_carlo")[0], bound(iwae, rows, k)[0]] for k in (1, K)])


def test_one_importance_sample_is_the_estimated_elbo(rows):
    """log 1/1 w_1 = log w_1; with more it lies above their mean, by Jensen's inequality."""
    one, many = estimated_elbo_and_iwae(rows)
    np.testing.assert_allclose(one[1], one[0], rtol=1e-6)
    assert (many[1] > many[0] + 1e-3).all()


def test_the_gradient_of_iwae_weights_the_gradients_of_the_samples(rows):
    """d L_K = sum_k (w_k / sum_j w_j) d log w_k: a mean with the better samples counting more, not the worse."""

    def value_and_log_weights(rows):
        value, terms = bound(iwae, rows, kl="auto")
        return value, terms.log_weights

    gradient, jacobian = quick(jax.jacrev(value_and_log_weights))(rows)
    weights = scipy.special.softmax(np.float64(bound(iwae, rows, kl="auto")[1].log_weights), axis=0)
    assert weights.max() > 0.4  # far from equal
    for name in ("mean", "log_std", "weight"):
        expected = np.einsum("kb,kb...->b...", weights, np.float64(jacobian[name]))
        np.testing.assert_allclose(gradient[name], expected, rtol=1e-4, atol=1e-5)


def test_an_autoencoder_has_neither_noise_nor_width(rows):
    value, terms = bound(autoencoder, rows)
    np.testing.assert_array_equal(terms.z, rows["mean"][None])
    np.testing.assert_array_equal(value, bound(autoencoder, rows | {"log_std": rows["log_std"] + 1}, 1)[0])


# --------------------------------------------------------------------------------------------------- the whole batch


def test_free_bits_between_the_elbo_and_the_reconstruction(rows):
    """free = 0 takes the same in sum over the batch; a large one takes the KL out of the gradient."""
    sums = lambda rows: [
        bound(objective, rows, **weights)[0].sum()
        for objective, weights in (
            (free_bits, {"free": 0.0}),
            (elbo, {}),
            (free_bits, {"free": 1e3}),
            (beta_elbo, {"beta": 0.0}),
        )
    ]
    zero, all_of_it, large, reconstruction = quick(sums)(rows)
    np.testing.assert_allclose(zero, all_of_it, rtol=1e-6)
    np.testing.assert_allclose(large, reconstruction - B * Z * 1e3, rtol=1e-6)
    zero, all_of_it, large, reconstruction = quick(jax.jacrev(sums))(rows)
    same = partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-6)
    jax.tree.map(same, zero, all_of_it)
    jax.tree.map(same, large, reconstruction)


def test_capacity_is_asked_of_the_batch_not_of_each_example(rows):
    """KLs on both sides of C whose mean is C cost nothing, and the gradient is beta times that of the mean KL."""
    kl = np.asarray(basic.kl_standard_normal(rows["mean"], rows["log_std"]))
    assert kl.min() < kl.mean() - 0.1 < kl.max() - 0.2
    value, terms = bound(capacity, rows, beta=100.0, capacity=float(kl.mean()))
    np.testing.assert_allclose(value, terms.log_likelihood, atol=2e-4)

    def below(rows):
        value, terms = bound(capacity, rows, beta=3.0, capacity=kl.mean() + 1)
        return value.sum(), terms.log_likelihood.sum() + 3.0 * terms.kl.sum()

    found, expected = quick(jax.jacrev(below))(rows)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), found, expected)


def test_free_bits_of_other_families_are_for_z_as_a_whole(rows):
    """A diagonal Gaussian q and any such prior have them for each dimension, even where the bound estimates its KL."""
    decode = lambda z: basic.Bernoulli(z @ rows["weight"])
    full = FullNormal(rows["mean"], rows["log_std"], np.full((B, Z, Z), 0.5, np.float32))
    run = quick(lambda q, prior: free_bits(KEY, rows["x"], q, decode, prior, K, kl="monte_carlo", free=5.0))
    value, terms = run(full, None)
    assert terms.kl.mean() < 5.0
    np.testing.assert_allclose(value, terms.log_likelihood - 5.0, rtol=1e-6)
    q, prior = basic.Normal(rows["mean"], rows["log_std"]), basic.Normal(np.float32([0.5, -1]), np.float32([0.2, -0.3]))
    value, terms = run(q, prior)
    np.testing.assert_allclose(value, terms.log_likelihood - Z * 5.0, rtol=1e-6)


def test_the_three_terms_of_beta_tc_add_up(rows):
    """At beta = 1 they are log q(z|x) - log p(z) for each draw, whatever N is."""
    run = quick(lambda beta: [bound(beta_tc, rows, beta=beta, num_examples=n)[0] for n in (None, B, 10_000)])
    expected = bound(elbo, rows, kl="monte_carlo")[0]
    for value in run(1.0):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    by_default, of_the_batch, of_many = run(3.0)
    np.testing.assert_array_equal(by_default, of_the_batch)
    np.testing.assert_allclose(of_many - by_default, (3 - 1) * (1 - Z) * np.log(10_000 / B), rtol=1e-4)


def test_beta_tc_needs_what_factorizes(rows):
    q, decode = basic.Normal(rows["mean"], rows["log_std"]), lambda z: basic.Bernoulli(z @ rows["weight"])
    full = FullNormal(rows["mean"], rows["log_std"], np.zeros((B, Z, Z), np.float32))
    for posterior, prior in ((full, None), (q, basic.Normal(np.zeros(Z), np.zeros(Z)))):
        with pytest.raises(ValueError, match="beta_tc needs diagonal Gaussian"):
            jax.eval_shape(partial(beta_tc, KEY, rows["x"], posterior, decode, prior, K))


def test_mmd_is_zero_in_expectation_between_equals():
    """4000 pairs of 8 draws from the same Gaussian within 5 standard errors; far outside between others."""
    a, b = jax.random.normal(KEY, (2, 4000, 8, Z))
    many = jax.jit(jax.vmap(squared_mmd))
    score = lambda values: np.mean(values) / (np.std(values) / np.sqrt(len(values)))
    assert abs(score(many(a, b))) < 5
    assert (np.asarray(many(a, b)) < 0).any()  # unbiased, not a square
    assert score(many(a, b + 0.5)) > 20 and score(many(a, 0.5 * b)) > 20
    np.testing.assert_allclose(many(a, b)[0], squared_mmd_by_hand(np.float64(a[0]), np.float64(b[0])), atol=1e-5)


def test_mmd_compares_one_array(rows):
    layer = lambda weight, z: basic.Normal(z @ weight, jnp.zeros_like(z))
    q = TwoLayerPosterior(basic.Normal(rows["mean"], rows["log_std"]), jax.tree_util.Partial(layer, np.eye(Z)))
    prior = TwoLayerPrior(jax.tree_util.Partial(layer, np.eye(Z)), Z)
    decode = lambda z: basic.Bernoulli(z["z1"] @ rows["weight"])
    with pytest.raises(ValueError, match="'mmd' compares z of one array"):
        jax.eval_shape(lambda: mmd(KEY, rows["x"], q, decode, prior, K))


def test_mmd_refuses_a_gradient_in_a_mixtures_weights(rows):
    """Draws of a mixture have none; components that are moved at weights that are not, as a VampPrior's, have all."""
    q, decode = basic.Normal(rows["mean"], rows["log_std"]), lambda z: basic.Bernoulli(z @ rows["weight"])
    value = lambda logits, mean: mmd(KEY, rows["x"], q, decode, NormalMixture(logits, mean, 0 * mean))[0].sum()
    with pytest.raises(ValueError, match="draws of NormalMixture carry a part of its gradient only"):
        jax.eval_shape(jax.grad(value), jnp.zeros(3), jnp.ones((3, Z)))
    assert jax.eval_shape(jax.grad(value, 1), jnp.zeros(3), jnp.ones((3, Z))).shape == (3, Z)
    assert jax.eval_shape(value, jnp.zeros(3), jnp.ones((3, Z))).shape == ()


def test_an_autoencoders_decoder_may_not_broadcast(rows):
    q = basic.Normal(rows["mean"], rows["log_std"])
    with pytest.raises(ValueError, match=r"decode\(z\) has event shape \(1,\)"):
        jax.eval_shape(lambda: autoencoder(KEY, rows["x"], q, lambda z: basic.Bernoulli(z[..., :1])))


COUPLED = [name for name in OBJECTIVES if OBJECTIVES[name].coupled]


def coupled_step(axis, gather):
    """(params, x, keys) -> {name: (values [b], gradient of their sum over all devices)}, as step.py takes them."""

    def value(params, name, x, keys):
        q = basic.Normal(x @ params["mean"], 0.3 * x @ params["log_std"])
        decode = lambda z: basic.Bernoulli(jnp.matmul(z, params["weight"], precision="highest"))
        keywords = WEIGHTS[name] | {"num_examples": 100, "gather": gather}
        each = OBJECTIVES[name].function(keys, x, q, decode, None, 2, **keywords)[0]
        return each.sum(), each

    def step(params, x, keys):
        params = axis.vary(params)
        found = {name: jax.grad(value, has_aux=True)(params, name, x, keys) for name in COUPLED}
        return {name: (each, axis.sum(gradient)) for name, (gradient, each) in found.items()}

    return step


@pytest.fixture(scope="module")
def on_one_device():
    """The arguments of a step, what it finds, and what it finds where the second half of the batch is another."""
    rng = np.random.default_rng(2)
    shapes = {"mean": (5, Z), "log_std": (5, Z), "weight": (Z, 5)}
    params = {name: 0.5 * rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    x = np.round(rng.random((8, 5))).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 8)
    step = quick(coupled_step(devices.NO_AXIS, None))
    other = step(params, np.concatenate([x[:4], 1 - x[4:]]), keys)
    return (params, x, keys), step(params, x, keys), other


@pytest.mark.parametrize("num_devices", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_the_number_of_devices_does_not_matter(on_one_device, num_devices):
    """The values and summed gradients of what couples the batch; each example's value depends on the others."""
    arguments, alone, other = on_one_device
    specs = (P(), P(devices.AXIS), P(devices.AXIS)), dict.fromkeys(COUPLED, (P(devices.AXIS), P()))
    step = coupled_step(devices.DEVICES, devices.DEVICES.gather)
    together = devices.device_program(step, devices.make_mesh(num_devices), *specs)(*arguments)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5), together, alone)
    for name in COUPLED:
        assert (np.abs(alone[name][0][:4] - other[name][0][:4]) > 1e-4).all(), name
