"""Muon's update against optax's own, and its orthogonal matrices against their singular values."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from vae_jax.training.muon import orthogonalize, polynomials
from vae_jax.training.optimizer import by_shape
from vae_jax.training.optimizer import muon as make_muon

AXES = {"dense": (0, 1), "square": (0, 1), "tall": (0, 1), "stack": (1, 2), "kernel": ((0, 1, 2), 3)}
SHAPES = {"dense": (6, 40), "square": (9, 8), "tall": (50, 7), "stack": (3, 5, 12), "kernel": (3, 3, 2, 10)}


def gradients(count=4):
    rng = np.random.default_rng(0)
    trees = {name: jnp.float32(rng.normal(size=(count, *shape))) for name, shape in SHAPES.items()}
    return {
        **trees,
        "bias": jnp.float32(rng.normal(size=(count, 5))),
        "inputs": jnp.float32(rng.normal(size=(count, 4, 3))),
    }


def updates(optimizer, trees):
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape[1:]), trees)

    def one(state, gradient):
        moves, state = optimizer.update(gradient, state, params)
        return state, moves

    return jax.jit(lambda: jax.lax.scan(one, optimizer.init(params), trees)[1])()


@pytest.mark.parametrize("num_steps", [1, 3, 5])
def test_updates_are_those_of_optax(num_steps):
    """Wide, tall, square, stacked and convolutional weights, on the Gram matrix or not; the rest by Adam."""

    def dimensions(params):
        return {n: optax.contrib.MuonDimensionNumbers(*AXES[n]) if n in AXES else None for n in params}

    config = ConfigDict({"momentum": 0.8, "b1": 0.7, "b2": 0.9, "weight_decay": 0.1, "newton_schulz_steps": num_steps})
    theirs = optax.contrib.muon(
        1.0, beta=0.8, adam_b1=0.7, adam_b2=0.9, weight_decay=0.1, ns_steps=num_steps, preconditioning="schatten",
        ns_coeffs=polynomials(num_steps),
        muon_weight_dimension_numbers=dimensions,
    )  # fmt: skip
    got, expected = updates(make_muon(config), gradients()), updates(theirs, gradients())
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], atol=2e-4, err_msg=name)


def test_what_is_orthogonalized():
    params = jax.tree.map(lambda leaf: leaf[0], gradients())
    adams = {name for name, label in by_shape(params).items() if label == "other"}
    assert adams == {"bias", "inputs"}


def test_three_polynomials_are_the_best_for_what_the_ones_before_them_leave():
    """Each has its largest error, 0.27 in the end, at four places with alternating signs: no quintic is nearer."""
    low, high, errors = 0.01, 1.0, []
    for a, b, c in polynomials(3):
        x = np.geomspace(low, high, 100_001)
        error = 1 - (a * x + b * x**3 + c * x**5)
        worst = np.abs(error).max()
        extreme = error[np.abs(error) > 0.999 * worst]
        assert np.count_nonzero(np.diff(np.sign(extreme))) >= 3
        low, high, errors = 1 - worst, 1 + worst, [*errors, worst]
    assert errors[0] > errors[1] > errors[2] and abs(errors[2] - 0.27) < 0.005


@pytest.mark.parametrize("num_steps", [3, 5])
@pytest.mark.parametrize("shape", [(30, 120), (40, 40)])
def test_singular_values_come_near_one_and_vectors_stay(shape, num_steps):
    """From 1 down to 0.03 to between 0.6 and 1.3; U and V are kept, so that x^T y is symmetric."""
    u, _, v = np.linalg.svd(np.random.default_rng(0).normal(size=shape), full_matrices=False)
    x = jnp.float32(u * np.geomspace(1, 0.03, len(u)) @ v)  # of the norm that is divided by, 0.01 and more
    y = orthogonalize(x, num_steps)
    values = np.linalg.svd(y, compute_uv=False)
    assert 0.6 < values.min() and values.max() < 1.3
    np.testing.assert_allclose(x @ y.T, y @ x.T, atol=1e-5)


def test_a_gradient_of_zeros_is_no_nan():
    np.testing.assert_array_equal(orthogonalize(jnp.zeros((3, 12)), 5), 0)
