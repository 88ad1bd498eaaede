"""Flows against their full Jacobians, their inverses, quadrature and finite differences."""

import dataclasses
import itertools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.distributions import basic, flows
from vae_jax.distributions.basic import Normal, StandardNormal, closed_form_kl
from vae_jax.distributions.protocol import density_anywhere, has_density
from vae_jax.objectives.elbo import draw, elbo_fn

BATCH, LATENT, LAYERS, WIDTH, CONTEXT = 3, 5, 4, 7, 2


def make_flow(batch=BATCH, latent=LATENT, per_example=False, context=CONTEXT, layers=LAYERS):
    """A flow far from the identity: every weight drawn from N(0, 0.7^2)."""
    rng = np.random.default_rng(5)
    shapes = jax.eval_shape(lambda key: flows.init_coupling(key, latent, layers, WIDTH, context), jax.random.key(0))
    batched = (batch,) if per_example else ()
    weights = {name: jnp.asarray(0.7 * rng.normal(size=batched + leaf.shape)) for name, leaf in shapes.items()}
    mean, log_std, seen = (jnp.asarray(rng.normal(size=(batch, n))) for n in (latent, latent, context))
    return flows.CouplingFlow(mean, 0.5 * log_std, seen, weights)


sample_and_log_prob = jax.jit(lambda q, key, shape: q.sample_and_log_prob(key, shape), static_argnums=2)
sample = jax.jit(lambda q, key, shape: q.sample(key, shape), static_argnums=2)
log_prob = jax.jit(lambda q, value: q.log_prob(value))


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("per_example", [False, True])
def test_log_density_is_that_of_the_noise_less_the_full_log_determinant(key, float64, per_example):
    """z = g(eps): log q(z) = log N(eps) - log |det dg/deps|, with the Jacobian by automatic differentiation."""
    q = make_flow(per_example=per_example)
    eps = jax.random.normal(jax.random.fold_in(key, 99), (BATCH, LATENT))

    def forward(eps):  # g, with the noise put in by hand
        u = eps
        for number in range(LAYERS):
            scale, shift = q.scale_and_shift(jax.tree.map(lambda leaf, number=number: leaf[number], q.layers()), u)
            u = u * jnp.exp(scale) + shift
        return q.base_mean + jnp.exp(q.base_log_std) * u

    jacobian = jax.jit(jax.jacfwd(forward))(eps)  # [B, Z, B, Z]
    own = np.stack([jacobian[b, :, b] for b in range(BATCH)])
    for b in range(BATCH):
        np.testing.assert_array_equal(np.delete(jacobian[b], b, axis=1), 0)  # examples do not touch one another
    expected = -0.5 * (eps**2 + np.log(2 * np.pi)).sum(-1) - np.linalg.slogdet(own)[1]
    np.testing.assert_allclose(log_prob(q, jax.jit(forward)(eps)), expected, rtol=1e-10)


@pytest.mark.parametrize("per_example", [False, True])
def test_a_draw_and_its_inverse_agree(key, float64, per_example):
    q = make_flow(per_example=per_example)
    z, log_q = sample_and_log_prob(q, key, (6,))
    assert z.shape == (6, BATCH, LATENT) and log_q.shape == (6, BATCH)
    np.testing.assert_allclose(log_prob(q, z), log_q, rtol=1e-9)
    np.testing.assert_allclose(sample(q, key, (6,)), z, rtol=1e-9)


def test_it_is_gaussian_with_initial_weights(key):
    q = make_flow()
    weights = jax.jit(lambda key: flows.init_coupling(key, LATENT, LAYERS, WIDTH, CONTEXT))(key)
    q = flows.CouplingFlow(q.base_mean, q.base_log_std, q.context, weights)
    gaussian = Normal(q.base_mean, q.base_log_std)
    ours, theirs = sample_and_log_prob(q, key, (4,)), sample_and_log_prob(gaussian, key, (4,))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)
    np.testing.assert_allclose(log_prob(q, ours[0]), log_prob(gaussian, ours[0]), rtol=1e-5)


def test_shared_weights_are_the_same_weights_for_each_example(key):
    q = make_flow()
    repeated = jax.tree.map(lambda leaf: np.stack([leaf] * BATCH), q.weights)
    each = flows.CouplingFlow(q.base_mean, q.base_log_std, q.context, repeated)
    for a, b in zip(sample_and_log_prob(q, key, (4,)), sample_and_log_prob(each, key, (4,)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_it_integrates_to_one_in_two_dimensions(key, float64):
    q = make_flow(batch=1, latent=2, context=0)
    draws = np.asarray(sample_and_log_prob(q, key, (20_000,))[0])[:, 0]
    low, high = draws.min(0) - 3 * draws.std(0), draws.max(0) + 3 * draws.std(0)
    axes = [np.linspace(a, b, 700) for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 1, 2)
    cell = np.prod([axis[1] - axis[0] for axis in axes])
    density = np.exp(np.asarray(log_prob(q, grid))).reshape(-1)
    assert density.sum() * cell == pytest.approx(1, abs=1e-3)
    mean = (grid[:, 0] * density[:, None]).sum(0) * cell  # and the density is the one that is drawn from
    assert np.all(np.abs(mean - draws.mean(0)) < 5 * draws.std(0) / np.sqrt(len(draws)))


@pytest.mark.slow
def test_every_dimension_comes_to_depend_on_every_other(key):
    layers = 2 * int(np.ceil(np.log2(LATENT)))
    q = make_flow(batch=1, context=0, layers=layers)
    z = sample_and_log_prob(q, key, ())[0]
    hessian = jax.jit(jax.hessian(lambda z: q.log_prob(z[None])[0]))(z[0])
    assert (np.abs(hessian) > 1e-6).all()


def test_an_example_has_its_own_noise(key):
    """A key per example: a row's draws do not depend on the batch around it."""
    q, keys = make_flow(), jax.random.split(key, BATCH)
    whole = sample_and_log_prob(q, keys, (4,))[0]
    rest = flows.CouplingFlow(q.base_mean[1:], q.base_log_std[1:], q.context[1:], q.weights)
    part = sample_and_log_prob(rest, keys[1:], (4,))[0]
    np.testing.assert_allclose(whole[:, 1:], part, rtol=1e-6, atol=2e-6)  # another batch, other float32 sums


def densities(q, value, key):
    z, log_q = q.sample_and_log_prob(key, (2,))
    return log_q.sum() + q.log_prob(value).sum() + 1e-6 * z.sum()


def test_extremes_are_finite_in_value_and_gradient(key):
    function = jax.jit(jax.value_and_grad(densities, argnums=(0, 1)))
    for size, mean, log_std in itertools.product((1.0, 1e3), (-1e4, 1e4), (-20.0, 20.0)):
        q = make_flow()
        weights = jax.tree.map(lambda leaf, size=size: size * leaf, q.weights)
        q = flows.CouplingFlow(
            jnp.full_like(q.base_mean, mean), jnp.full_like(q.base_log_std, log_std), q.context, weights
        )
        for value in (0.0, -mean):
            results = function(q, jnp.full((1, BATCH, LATENT), value), key)
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(results))


def test_every_parameter_is_a_leaf_and_can_be_stopped(key):
    """stop='q' (sticking the landing) leaves the gradient through z alone; nothing hides from it."""
    q, prior = make_flow(), StandardNormal((LATENT,))
    assert len(jax.tree.leaves(q)) == 3 + 4
    assert closed_form_kl(q, prior) is None
    stopped = jax.jit(jax.grad(lambda q: draw(key, q, 3, stop="q")[1].sum()))(q)
    through_z = jax.jit(jax.grad(lambda q, frozen: frozen.log_prob(q.sample(key, (3,))).sum()))(q, q)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), stopped, through_z)
    assert any((np.abs(leaf) > 1e-3).any() for leaf in jax.tree.leaves(stopped))


def test_its_kl_is_estimated(key):
    """No closed form: elbo_fn averages log q - log p over the draws, exactly."""
    q, prior = make_flow(), StandardNormal((LATENT,))
    x = jnp.zeros((BATCH, LATENT))
    result = jax.jit(lambda q: elbo_fn(key, x, q, lambda z: Normal(z, jnp.zeros_like(z)), num_samples=8))(q)
    z, log_q = sample_and_log_prob(q, key, (8,))
    np.testing.assert_allclose(result.kl, (log_q - prior.log_prob(z)).mean(0), rtol=1e-4)
    np.testing.assert_allclose(result.elbo, result.log_weights.mean(0), rtol=1e-4)


def test_one_dimension_is_refused(key):
    with pytest.raises(ValueError, match="latent_dim >= 2, got 1"):
        flows.init_coupling(key, 1, 2, 8)


# ------------------------------------------------------------------------ autoregressive and planar layers

DRAWS_ONLY = ["autoregressive", "planar"]


def make_draws_only(name, batch=BATCH, latent=LATENT, layers=LAYERS, size=0.7):
    """A flow with known draws only, far from the identity; the second planar layer would fold: w.v = -5."""
    rng = np.random.default_rng(6)
    mean, log_std, seen = (rng.normal(size=(batch, n)) for n in (latent, latent, CONTEXT))
    if name == "planar":
        w, v, b = (rng.normal(size=(batch, layers, *n)) for n in ((latent,), (latent,), ()))
        v[:, 1] -= (5 + (w[:, 1] * v[:, 1]).sum(-1, keepdims=True)) * w[:, 1] / (w[:, 1] ** 2).sum(-1, keepdims=True)
        return flows.PlanarFlow(mean, 0.5 * log_std, {"w": w, "v": v, "b": b})
    shapes = jax.eval_shape(
        lambda key: flows.init_autoregressive(key, latent, layers, WIDTH, CONTEXT), jax.random.key(0)
    )
    weights = {name: size * rng.normal(size=leaf.shape) for name, leaf in shapes.items()}
    return flows.InverseAutoregressiveFlow(mean, 0.5 * log_std, seen, weights)


def from_noise(q, eps):
    """(z, log q(z)) of a draw whose noise is given."""
    with mock.patch.object(flows, "standard_normal", lambda *_: eps):
        return q.sample_and_log_prob(None)


@jax.jit
def jacobian_and_log_prob(q, eps):
    return jax.jacfwd(lambda eps: from_noise(q, eps), has_aux=True)(eps)


def own_jacobians(q, eps):
    """dz_b / deps_b `[B, Z, Z]`, having seen that examples do not touch one another, and log q(z) `[B]`."""
    jacobian, log_q = jax.tree.map(np.asarray, jacobian_and_log_prob(q, eps))
    for b in range(len(eps)):
        np.testing.assert_array_equal(np.delete(jacobian[b], b, axis=1), 0)
    return np.stack([jacobian[b, :, b] for b in range(len(eps))]), log_q


@pytest.mark.parametrize(("name", "latent"), [("autoregressive", LATENT), ("autoregressive", 1), ("planar", LATENT)])
def test_density_at_a_draw_is_that_of_the_noise_less_the_full_log_determinant(float64, name, latent):
    q, eps = make_draws_only(name, latent=latent), np.random.default_rng(1).normal(size=(BATCH, latent))
    own, log_q = own_jacobians(q, eps)
    expected = -0.5 * (eps**2 + np.log(2 * np.pi)).sum(-1) - np.linalg.slogdet(own)[1]
    np.testing.assert_allclose(log_q, expected, rtol=1e-9)
    assert (np.linalg.slogdet(own)[0] == 1).all()


def test_an_autoregressive_layer_is_triangular_and_the_next_one_the_other_way(float64):
    eps = np.random.default_rng(1).normal(size=(BATCH, LATENT))
    own, _ = own_jacobians(make_draws_only("autoregressive", layers=1), eps)
    below = np.tril(np.ones((LATENT, LATENT))) == 1
    assert (own[:, ~below] == 0).all() and (own[:, below] != 0).all()
    own, _ = own_jacobians(make_draws_only("autoregressive", layers=2), eps)
    assert (own != 0).all()


def test_autoregressive_layers_are_undone_in_one_pass_for_each_dimension(float64):
    """u_i = (u'_i - t_i) exp(-s_i), where s and t of the right u_<i are right, whatever the rest is."""
    q, eps = make_draws_only("autoregressive"), np.random.default_rng(2).normal(size=(4, BATCH, LATENT))
    z, _ = jax.jit(from_noise)(q, eps)
    into, out = flows.autoregressive_masks(*q.weights["in"].shape, LATENT)
    weights = {**q.weights, "in": into * q.weights["in"], "out": out * q.weights["out"]}
    network = jax.jit(flows.network)
    u = (np.asarray(z) - q.base_mean) * np.exp(-q.base_log_std)
    for number in reversed(range(LAYERS)):
        after, u = u, np.full_like(u, 3.0)
        for _ in range(LATENT):
            scale, shift = map(
                np.asarray, network({name: leaf[number] for name, leaf in weights.items()}, u, q.context)
            )
            u = (after - shift) * np.exp(-scale)
    np.testing.assert_allclose(u, eps, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("scale_w", [1.0, 1e-3])
def test_planar_layers_are_undone_by_bisection_along_w(float64, scale_w):
    """With a = w.u: w.u' = a + w.v' tanh(a + b), which grows with a while w.v' > -1; then u = u' - v' tanh(a + b)."""
    q, eps = make_draws_only("planar"), np.random.default_rng(2).normal(size=(4, BATCH, LATENT))
    weights = {"w": scale_w * q.weights["w"], "v": q.weights["v"] / scale_w, "b": q.weights["b"]}
    q = flows.PlanarFlow(q.base_mean, q.base_log_std, weights)
    u = (np.asarray(jax.jit(from_noise)(q, eps)[0]) - q.base_mean) * np.exp(-q.base_log_std)
    for number in reversed(range(LAYERS)):
        w, v, b = (weights[name][:, number] for name in "wvb")
        dot = (w * v).sum(-1)
        kept = np.log1p((np.e - 1) * np.exp(dot)) - 1
        assert (kept > -1).all() and (number != 1 or np.allclose(dot, -5))
        v = v + ((kept - dot) / (w**2).sum(-1))[:, None] * w
        target = (u * w).sum(-1)
        low, high = target - np.abs(kept) - 1, target + np.abs(kept) + 1
        for _ in range(80):
            middle = (low + high) / 2
            above = middle + kept * np.tanh(middle + b) > target
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        u = u - v * np.tanh(low + b)[..., None]
    np.testing.assert_allclose(u, eps, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", DRAWS_ONLY)
def test_it_is_gaussian_at_its_start(key, name):
    """The weights of init_autoregressive, also for Z = 1; v = 0 whatever w and b are."""
    for latent in (1, LATENT):
        q = make_draws_only(name, latent=latent)
        if name == "planar":
            q = flows.PlanarFlow(q.base_mean, q.base_log_std, {**q.weights, "v": np.zeros_like(q.weights["v"])})
        else:
            weights = flows.init_autoregressive(key, latent, LAYERS, WIDTH, CONTEXT)
            q = flows.InverseAutoregressiveFlow(q.base_mean, q.base_log_std, q.context, weights)
        eps = np.random.default_rng(3).normal(size=(4, BATCH, latent))
        z, log_q = jax.jit(from_noise)(q, eps)
        np.testing.assert_allclose(z, q.base_mean + np.exp(q.base_log_std) * eps, rtol=1e-5, atol=1e-6)
        expected = (-0.5 * (eps**2 + np.log(2 * np.pi)) - q.base_log_std).sum(-1)
        np.testing.assert_allclose(log_q, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", DRAWS_ONLY)
def test_its_density_is_normalized(key, name):
    """E_q[p / q] = 1 for a narrower Gaussian p amid 50,000 draws in two dimensions, 5 standard errors of at most 1%."""
    q = make_draws_only(name, batch=1, latent=2, layers=2, size=0.5)
    z, log_q = map(np.asarray, sample_and_log_prob(q, key, (50_000,)))
    center, std = z.mean(0), 0.4 * z.std(0)
    log_p = (-0.5 * ((z - center) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)).sum(-1)
    ratio = np.exp(log_p - log_q)
    error = ratio.std() / np.sqrt(len(ratio))
    assert error < 0.01 and abs(ratio.mean() - 1) < 5 * error


@pytest.mark.parametrize(
    ("name", "says"), [("autoregressive", "inverse autoregressive flow"), ("planar", "planar flow")]
)
def test_a_density_elsewhere_is_refused(name, says):
    q = make_draws_only(name)
    assert not density_anywhere(q) and density_anywhere(make_flow()) and has_density(q)
    with pytest.raises(ValueError, match=says):
        q.log_prob(np.zeros((BATCH, LATENT)))
    assert closed_form_kl(q, StandardNormal((LATENT,))) is None


@pytest.mark.parametrize("name", DRAWS_ONLY)
def test_draws_only_with_extremes_are_finite_and_every_parameter_is_a_leaf(name):
    """Value and gradient; each leaf has one that is not 0 for ordinary parameters."""
    q, eps = make_draws_only(name), np.random.default_rng(4).normal(size=(2, BATCH, LATENT))
    function = jax.jit(jax.value_and_grad(lambda q: sum(1e-6 * part.sum() for part in from_noise(q, eps))))
    leaves = jax.tree.leaves(function(q)[1])
    assert len(leaves) == (3 + 4 if name == "autoregressive" else 2 + 3)
    assert all((np.abs(leaf) > 1e-9).any() for leaf in leaves)
    for size, mean, log_std in itertools.product((0.0, 1e-8, 1.0, 1e3), (-1e4, 1e4), (-20.0, 20.0)):
        weights = {name: size * leaf for name, leaf in q.weights.items()}
        scaled = dataclasses.replace(
            q,
            base_mean=np.full_like(q.base_mean, mean),
            base_log_std=np.full_like(q.base_log_std, log_std),
            weights=weights,
        )
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(function(scaled)))


@pytest.mark.parametrize("name", DRAWS_ONLY)
def test_a_draw_is_the_flow_of_its_own_keys_noise(name):
    """A key per example: its noise is that of standard_normal, and nothing else is drawn."""
    q, keys = make_draws_only(name), jax.random.split(jax.random.key(5), BATCH)
    eps = basic.standard_normal(keys, (2,), (BATCH, LATENT))
    expected = jax.jit(from_noise)(q, eps)
    for ours, theirs in zip(sample_and_log_prob(q, keys, (2,)), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(sample(q, keys, (2,)), expected[0], rtol=1e-6, atol=1e-5)
