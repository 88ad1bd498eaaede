"""Images unlike the data: each kind is what its name says, in the range and the shape of the images beside it."""

import numpy as np
import pytest

from vae_jax.evaluation import out_of_distribution


@pytest.fixture(params=[(6, 16, 16, 3), (6, 10, 7, 1), (6, 12, 12)], ids=str)
def images(request):
    return np.random.default_rng(3).uniform(-1, 3, request.param).astype(np.float32)


def test_kinds(images):
    made = out_of_distribution.probes(images, 0)
    low, high = images.min(), images.max()
    for array in made.values():
        assert array.shape == images.shape and array.dtype == images.dtype
        assert array.min() >= low - 1e-5 and array.max() <= high + 1e-5
    flat = {name: array.reshape(6, images.shape[1] * images.shape[2], -1) for name, array in made.items()}
    np.testing.assert_array_equal(made["test images"], images)
    np.testing.assert_array_equal(made["upside down"][:, 0], images[:, -1])
    moved = flat["pixels permuted"]
    assert (moved != flat["test images"]).mean() > 0.8
    np.testing.assert_array_equal(np.sort(moved.sum(-1)), np.sort(flat["test images"].sum(-1)))
    assert np.ptp(flat["constant colour"], axis=1).max() == 0 and np.ptp(flat["constant colour"][:, 0]) > 0.5
    np.testing.assert_allclose(flat["uniform noise"].mean(), (low + high) / 2, atol=0.15 * (high - low))
    board = made["checkerboard"]
    side = max(1, images.shape[1] // 8)
    np.testing.assert_allclose(board[:, 0, 0] + board[:, 0, side], low + high, rtol=1e-5)
    np.testing.assert_array_equal(board[:, 0, 0], board[:, side, side])
    stroke = flat["drawn stroke"]
    assert np.all(stroke.max(1) > low + 0.8 * (high - low)) and 0.02 < (stroke > (low + high) / 2).mean() < 0.7
    assert all(np.array_equal(made[name], again) for name, again in out_of_distribution.probes(images, 0).items())
    assert not np.array_equal(made["uniform noise"], out_of_distribution.probes(images, 1)["uniform noise"])


def test_binary_data_has_binary_probes():
    images = np.random.default_rng(0).integers(0, 2, (5, 8, 8, 1)).astype(np.float32)
    for array in out_of_distribution.probes(images, 0).values():
        assert set(np.unique(array)) <= {0, 1}


def test_the_distance_from_a_line():
    """A line from (0, 0) to (0, 4): beside it the distance is across, beyond its end to the end."""
    pixels = np.array([[[3.0, 2.0], [0.0, 7.0]]])
    np.testing.assert_allclose(out_of_distribution.line_distance(pixels, np.array([[0.0, 0.0], [0.0, 4.0]])), [[3, 3]])
