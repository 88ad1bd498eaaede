"""Distances to real images, and points between and beside codes, against brute force."""

import continuity
import numpy as np
import pytest
from scipy.spatial.distance import cdist


def test_the_nearest_image_is_that_of_brute_force():
    """In float64, over all pairs; with copies a ten-thousandth away, where |a|^2 - 2ab + |b|^2 has lost all digits."""
    rng = np.random.default_rng(0)
    real = rng.uniform(size=(700, 6, 5, 1)).astype(np.float32)
    far = rng.uniform(size=(300, 6, 5, 1)).astype(np.float32)
    near = real[::7] + 1e-4 * rng.normal(size=real[::7].shape).astype(np.float32)
    x = np.concatenate([far, near])
    flat = lambda images: images.reshape(len(images), -1).astype(np.float64)
    expected = (cdist(flat(x), flat(real)) ** 2).min(1) / 30
    np.testing.assert_allclose(continuity.nearest_distance(x, real), expected, rtol=1e-5)
    assert expected[300:].max() < 3e-8 < expected[:300].min()


def test_pairs_share_no_code_and_of_a_line_are_neighbours():
    codes = np.random.default_rng(1).normal(size=(31, 2))
    pairs = continuity.pairs(codes, 100, 0)
    assert pairs.shape == (15, 2) and len(np.unique(pairs)) == 30
    assert continuity.pairs(codes, 4, 0).shape == (4, 2)
    assert (continuity.pairs(codes, 100, 1) != pairs).any()
    line = np.array([[3.0], [-1.0], [7.0], [0.0]])
    np.testing.assert_array_equal(continuity.pairs(line, 2, 0), [[1, 3], [3, 0], [0, 2]])


@pytest.mark.parametrize("dim", [1, 2])
def test_no_code_lies_where_none_is_said_to(dim):
    """Two clusters of unlike scales: every point keeps its distance, around the codes and in the gap between them."""
    rng = np.random.default_rng(2)
    codes = np.concatenate([rng.normal(-4, 0.3, (200, dim)), rng.normal(4, 0.3, (200, dim))]) * [10.0, 0.1][:dim]
    points = continuity.empty(codes, 500, 0)
    assert points.shape == (500, dim)
    inverse = np.linalg.inv(np.atleast_2d(np.cov(codes.T, bias=True)))
    metric = {"metric": "mahalanobis", "VI": inverse}
    among = cdist(codes, codes, **metric) + 1e9 * np.eye(len(codes))
    assert cdist(points, codes, **metric).min() > np.quantile(among.min(1), 0.95) * 0.999
    norm = lambda x: cdist(x, codes.mean(0)[None], **metric).ravel()
    assert norm(codes).max() < norm(points).max() <= 1.2501 * norm(codes).max()
    assert norm(points).min() < 0.5  # between the clusters


def test_where_no_code_lies_does_not_depend_on_scale_or_rotation():
    """The same codes, turned and stretched alike in all directions: distances to the nearest are stretched, no more."""
    codes = np.random.default_rng(4).gamma(2.0, size=(300, 2)) * [1, 5]
    turn = 7 * np.array([[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]])
    nearest = lambda codes: cdist(continuity.empty(codes, 1000, 0), codes).min(1)
    one, other = nearest(codes), nearest(codes @ turn + 3) / 7
    assert abs(one.mean() - other.mean()) < 4 * np.hypot(one.std(), other.std()) / np.sqrt(1000)


def test_the_prior_is_looked_at_where_codes_fill_little_of_it():
    codes = np.random.default_rng(3).normal(0, 1e-3, (100, 2))
    assert np.abs(continuity.empty(codes, 200, 0)).max() < 0.1
    far = np.linalg.norm(continuity.empty(codes, 200, 0, prior=True), axis=1)
    assert 2.3 < far.max() < 2.51 and far.min() < 0.5
    collapsed = continuity.empty(np.zeros((50, 2)), 20, 0)
    assert collapsed.shape == (20, 2) and (np.abs(collapsed).max(1) > 0).all()


def test_along_a_line_every_so_many_points_are_codes():
    codes = np.array([[5.0], [1.0], [2.0], [9.0], [4.0]])
    order, z = continuity.along(codes, 3, 4)
    np.testing.assert_array_equal(order, [2, 4, 0])
    np.testing.assert_allclose(z[:, 0], [2, 2.5, 3, 3.5, 4, 4.25, 4.5, 4.75, 5])
    assert continuity.along(codes, 50, 2)[1].shape == (9, 1)
