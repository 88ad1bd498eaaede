"""Fixtures of the tests of objectives."""

import numpy as np
import pytest
from small_model import KEY, B, Z


@pytest.fixture
def key():
    return KEY


@pytest.fixture(scope="module")
def rows():
    """Parameters and data of a small model with a Bernoulli likelihood, float32."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
    return {
        "mean": normal(B, Z),
        "log_std": 0.3 * normal(B, Z),
        "prior_mean": normal(Z),
        "prior_log_std": 0.3 * normal(Z),
        "weight": normal(Z, 5),
        "x": (rng.random((B, 5)) < 0.5).astype(np.float32),
    }
