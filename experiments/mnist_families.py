"""The network of Table 1 (experiments/mnist.py) with other objectives, posteriors and priors, ten minutes each.

    python -m vae_jax.main --config=experiments/mnist_families.py:iwae

Variants: iwae and dreg (K = 5), full_normal, iaf, vamp (500 pseudo-inputs). Data, optimizer, batch and evaluation are
those of mnist.py; epochs are fewer where a step costs more. Burda et al. (2016) give 85.54 for iwae after 3,280 epochs;
docs/results.md has the rest.
"""

from pathlib import Path

from vae_jax.config import by_variant, from_experiment

VARIANTS = {
    "": {},
    "iwae": {"objective.name": "iwae", "objective.num_samples": 5, "train.epochs": 40},
    "dreg": {"objective.name": "dreg", "objective.num_samples": 5, "train.epochs": 40},
    "full_normal": {"model.posterior": "full_normal", "train.epochs": 40},
    "iaf": {"model.posterior": "iaf", "train.epochs": 60},
    "vamp": {"model.prior": "vamp", "model.components": 500, "train.epochs": 60},
}


def get_config(variant=""):
    changes = by_variant(variant, VARIANTS)
    config = from_experiment(Path(__file__).with_name("mnist.py"))
    config.update_from_flattened_dict(changes)
    return config
