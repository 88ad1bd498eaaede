"""A VAE on scikit-learn's bundled 8x8 digits: real data, no files, no network.

    python -m vae_jax.main --config=experiments/digits.py

The 17 grey levels have probabilities (beta-binomial): nats are those of a code, and any way of finding q explains the
same images. `:two` has two latent dimensions, which can be drawn whole, and coin flips for grey values as is usual for
MNIST. `:quick` and `:two_quick` train 20 epochs.
"""

from vae_jax.commands.configuration import default
from vae_jax.config import by_variant


def get_config(variant=""):
    config = default()
    config.data.name = "digits"
    config.train.epochs = by_variant(variant, {"": 150, "quick": 20, "two": 300, "two_quick": 20})
    config.model.hidden = (128, 128)
    config.train.batch_size = 100
    config.train.log_every = 140
    config.train.eval_every = 20
    config.train.checkpoint_every = 100
    config.optimizer.learning_rate = 3e-3
    config.optimizer.schedule = "cosine"
    if variant.startswith("two"):
        config.model.latent_dim = 2
        return config
    config.data.binarization = "none"
    config.model.latent_dim = 10
    config.model.likelihood = "beta_binomial"
    config.model.levels = 17
    if variant:
        config.eval.num_samples, config.eval.max_examples = 100, 100
    return config
