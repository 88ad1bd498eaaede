"""The coupling flow against its full Jacobian, its inverse, quadrature and finite differences."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import flows
from vae_jax.distributions import Normal, StandardNormal, closed_form_kl
from vae_jax.elbo import draw, elbo_fn

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
        return q.mean + jnp.exp(q.log_std) * u

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
    np.testing.assert_allclose(q.sample(key, (6,)), z, rtol=1e-9)


def test_it_is_gaussian_with_initial_weights(key):
    q = make_flow()
    weights = jax.jit(lambda key: flows.init_coupling(key, LATENT, LAYERS, WIDTH, CONTEXT))(key)
    q = flows.CouplingFlow(q.mean, q.log_std, q.context, weights)
    gaussian = Normal(q.mean, q.log_std)
    ours, theirs = sample_and_log_prob(q, key, (4,)), sample_and_log_prob(gaussian, key, (4,))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)
    np.testing.assert_allclose(log_prob(q, ours[0]), log_prob(gaussian, ours[0]), rtol=1e-5)


def test_shared_weights_are_the_same_weights_for_each_example(key):
    q = make_flow()
    repeated = jax.tree.map(lambda leaf: np.stack([leaf] * BATCH), q.weights)
    each = flows.CouplingFlow(q.mean, q.log_std, q.context, repeated)
    for a, b in zip(sample_and_log_prob(q, key, (4,)), sample_and_log_prob(each, key, (4,)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_it_integrates_to_one_in_two_dimensions(key, float64):
    q = make_flow(batch=1, latent=2, context=0)
    draws = np.asarray(sample_and_log_prob(q, key, (20_000,))[0])[:, 0]
    low, high = draws.min(0) - 3 * draws.std(0), draws.max(0) + 3 * draws.std(0)
    axes = [np.linspace(a, b, 1500) for a, b in zip(low, high, strict=True)]
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
    rest = flows.CouplingFlow(q.mean[1:], q.log_std[1:], q.context[1:], q.weights)
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
        q = flows.CouplingFlow(jnp.full_like(q.mean, mean), jnp.full_like(q.log_std, log_std), q.context, weights)
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
