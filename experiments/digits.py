"""An amortized VAE on scikit-learn's bundled 8x8 digits: real data, no files, no network.

python -m vae_jax.main --config=experiments/digits.py
"""

from vae_jax.commands.configuration import default
from vae_jax.config import by_variant


def get_config(variant=""):
    config = default()
    config.data.name = "digits"
    config.model.latent_dim = 2
    config.model.hidden = (128, 128)
    config.train.batch_size = 100
    config.train.epochs = by_variant(variant, {"": 300, "quick": 20})
    config.train.log_every = 140
    config.train.eval_every = 20
    config.train.checkpoint_every = 100
    config.optimizer.learning_rate = 3e-3
    config.optimizer.schedule = "cosine"
    return config
