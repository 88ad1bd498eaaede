"""What the tests of scripts share: the scripts' folders on the path, and small trained runs, each trained once."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT / "experiments" / "analysis"), str(ROOT / "experiments" / "reproduce")]

GREY = {"data.binarization": "none", "model.likelihood": "normal", "model.sigma": 0.4}
AUTOENCODER = {"model.posterior": "dirac", "objective.name": "autoencoder"}
LINEAR = AUTOENCODER | {"model.encoder": "linear", "model.decoder": "linear"}
HALF = {"data.condition": "upper"}
KINDS = {
    "vae": GREY,
    "linear_ae": GREY | LINEAR,
    "line_vae": GREY | {"model.latent_dim": 1},
    "line_ae": GREY | LINEAR | {"model.latent_dim": 1},
    "optimal_sigma": GREY | {"model.sigma_mode": "optimal"},
    "completion": HALF | {"model.prior": "conditional", "model.latent_dim": 3},
    "regressor": HALF | {"model.latent_dim": 0, "eval.num_samples": 1},
    "labels": {"data.condition": "label"},
}


@pytest.fixture(scope="module")
def trained(trained_run):
    """trained(kind) -> the directory of a small run of KINDS, trained once for all modules, in whatever process."""
    return lambda kind: str(trained_run(KINDS[kind]))
