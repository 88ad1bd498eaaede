"""Rows of real numbers of your own, float `[N, D]` in an .npz (docs/own-data.md), standardized by column.

    python -m vae_jax.main --config=experiments/own_table.py --config.data.path=FILE.npz --workdir=runs/table

Each column has a noise of its own, learned. Numbers are nats of a density. `:quick` trains 5 epochs.
"""

from vae_jax.commands.configuration import default
from vae_jax.config import by_variant


def get_config(variant=""):
    config = default()
    config.data.name, config.data.path = "npz", "table.npz"
    config.data.binarization = "none"
    config.model.hidden = (128, 128)
    config.model.latent_dim = 10
    config.model.likelihood = "normal"
    config.model.sigma_mode = "per_dimension"
    config.train.batch_size = 100
    config.train.epochs = by_variant(variant, {"": 200, "quick": 5})
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    return config
