"""Convolutions against sums written out and jax's own gradients, of the second order too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.models.networks import convolve

SAME = {"padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC")}


def arrays(height, width, side=3):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, height, width, 3)), rng.normal(size=(side, side, 3, 4))
    return x.astype(np.float32), kernel.astype(np.float32)


def test_a_pixel_by_hand():
    """At row 1, column 2 of a 3x3 kernel: the sum over the 3 x 3 pixels around it and the channels."""
    x, kernel = arrays(5, 6)
    expected = np.einsum("nhwc,hwcf->nf", x[:, 0:3, 1:4], kernel)
    np.testing.assert_allclose(convolve(x, kernel)[:, 1, 2], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size, stride, side", [((5, 6), 1, 3), ((7, 8), 2, 3), ((5, 5), 3, 2), ((4, 6), 2, 1)])
def test_gradients_are_jaxs_own(size, stride, side):
    """Value, both gradients, and the gradient of a function of them, as refinement differentiates them."""
    x, kernel = arrays(*size, side)
    theirs = lambda x, kernel: jax.lax.conv_general_dilated(x, kernel, (stride, stride), **SAME)
    ours = lambda x, kernel: convolve(x, kernel, stride)

    def orders(conv):
        loss = lambda x, kernel: jnp.sin(conv(x, kernel)).sum()
        first = jax.grad(loss, (0, 1))
        second = jax.grad(lambda x, kernel: sum(jnp.sum(g**2) for g in first(x, kernel)), (0, 1))
        return conv(x, kernel), first(x, kernel), second(x, kernel)

    for got, want in zip(jax.tree.leaves(orders(ours)), jax.tree.leaves(orders(theirs)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_it_stays_in_the_compilers_form():
    """Two gradients deep, every convolution is [N, H, W, C] with [h, w, C, features]: the only one fast in a loop."""
    x, kernel = arrays(6, 6)
    first = lambda kernel: jax.grad(lambda x: (convolve(x, kernel, 2) ** 3).sum())(x)
    text = str(jax.make_jaxpr(jax.grad(lambda kernel: (first(kernel) ** 2).sum()))(kernel))
    layouts = {line for line in text.replace(" ", "").splitlines() if "lhs_spec" in line}
    convolutions = text.count("conv_general_dilated[")
    form = "lhs_spec=(0,3,1,2),rhs_spec=(3,2,0,1),out_spec=(0,3,1,2)"
    assert convolutions >= 4 and text.replace(" ", "").count(form) == convolutions, layouts
