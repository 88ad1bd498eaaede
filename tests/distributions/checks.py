"""What the tests of densities check them by; the functions of `basic`, compiled."""

import math

import jax
import numpy as np
from hypothesis import strategies as st

from vae_jax.distributions import basic

LOG_2PI = math.log(2 * math.pi)
MAX = float(np.finfo(np.float32).max)

# compiled whole: op by op, the tests would spend most of their time in the compiler
kl_standard_normal = jax.jit(basic.kl_standard_normal, static_argnums=2)
closed_form_kl = jax.jit(basic.closed_form_kl)
bernoulli_log_prob = jax.jit(basic.bernoulli_log_prob, static_argnums=2)
normal_log_prob = jax.jit(basic.normal_log_prob, static_argnums=3)
reparameterize = jax.jit(basic.reparameterize)
sample = jax.jit(lambda key, distribution, shape=(): distribution.sample(key, shape), static_argnums=2)
sample_and_log_prob = jax.jit(lambda key, q, shape=(): q.sample_and_log_prob(key, shape), static_argnums=2)
log_prob = jax.jit(lambda distribution, value: distribution.log_prob(value))


def vectors(size, bound=MAX):
    """Vectors of `size` float32 numbers of at most `bound`, the corners among them."""
    bound = float(np.float32(bound))
    number = st.floats(-bound, bound, allow_nan=False, allow_infinity=False, allow_subnormal=False, width=32)
    corners = st.sampled_from([0.0, 1.0, bound, -bound])
    return st.lists(number | corners, min_size=size, max_size=size).map(np.float32)


def value_and_gradients(function, num_arguments):
    """function of vectors -> float64 [values and all the gradients], compiled once."""
    both = jax.jit(jax.value_and_grad(function, tuple(range(num_arguments))))

    def flat(*arguments):
        value, gradients = both(*arguments)
        return np.concatenate([np.ravel(np.asarray(each, np.float64)) for each in (value, *gradients)])

    return flat


def central_differences(function, point, step=1e-5):
    """d function / d point by central differences, `[size of point, ...]`; call it in float64."""
    steps = step * np.eye(len(point))
    many = jax.jit(jax.vmap(function))
    return (np.asarray(many(point + steps)) - np.asarray(many(point - steps))) / (2 * step)


def check_derivatives(function, point):
    """The gradient of a function of one float64 vector and its second derivatives, against differences of the value.

    Reverse mode gives the gradient, forward over reverse and reverse over forward give the Hessian.
    """
    gradient = jax.jit(jax.grad(function))
    np.testing.assert_allclose(gradient(point), central_differences(function, point), rtol=1e-6, atol=1e-8)
    expected = central_differences(jax.grad(function), point)
    for hessian in (jax.jacfwd(jax.grad(function)), jax.jacrev(jax.jacfwd(function))):
        np.testing.assert_allclose(jax.jit(hessian)(point), expected, rtol=1e-6, atol=1e-8)


def within(samples, expected, errors=5):
    """Asserts that the mean of independent samples `[N, ...]` is what is expected, within `errors` standard errors."""
    samples = np.asarray(samples, np.float64)
    stderr = samples.std(0, ddof=1) / math.sqrt(len(samples))
    assert (stderr > 0).all()
    np.testing.assert_array_less(np.abs(samples.mean(0) - expected), errors * stderr)
