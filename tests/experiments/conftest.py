"""What the tests of scripts share: the scripts' folders on the path, and small trained runs, each trained once."""

import os
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from vae_jax import config as configs
from vae_jax.commands import configuration
from vae_jax.commands.train import train_run

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


def small_config(kind):
    """The config of a small run on 200 digits, two latent dimensions unless `kind` says otherwise."""
    config = configs.from_experiment(ROOT / "experiments" / "digits.py", "quick")
    config.model.hidden, config.model.upper_hidden, config.train.epochs = (16,), (8,), 2
    config.data.num_train, config.figures.count, config.fit.max_steps = 200, 4, 20
    config.eval.num_samples, config.eval.elbo_samples, config.eval.curve_examples = 20, 3, 10
    config.eval.max_examples, config.eval.train_examples = 40, 30
    config.update_from_flattened_dict(KINDS[kind])
    return configuration.validate(config)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """trained(kind) -> the directory of a small run of KINDS, trained once for all modules, in whatever process."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "trained"
    folder.mkdir(exist_ok=True)

    def make(kind):
        workdir = folder / kind
        with FileLock(f"{workdir}.lock"):
            if not (workdir / "summary.json").exists():
                train_run(small_config(kind), workdir, 1)
        return str(workdir)

    return make
