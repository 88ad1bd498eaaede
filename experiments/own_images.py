"""Grey or colour images of your own, uint8 `[N, H, W]` or `[N, H, W, C]` in an .npz: docs/own-data.md.

    python -m vae_jax.main --config=experiments/own_images.py --config.data.path=FILE.npz --workdir=runs/images

By convolutions, for images of any size. The likelihood is normal and its sigma the one that explains the images best,
so that reconstruction and KL need no balance by hand. `:quick` trains 5 epochs.
"""

from vae_jax.commands.configuration import default
from vae_jax.config import by_variant


def get_config(variant=""):
    config = default()
    config.data.name, config.data.path = "npz", "images.npz"
    config.data.binarization = "none"
    config.model.encoder = config.model.decoder = "conv"
    config.model.hidden = (256,)
    config.model.latent_dim = 32
    config.model.likelihood = "normal"
    config.model.sigma_mode = "optimal"
    config.train.batch_size = 64
    config.train.epochs = by_variant(variant, {"": 100, "quick": 5})
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.eval.num_samples, config.eval.train_examples = 100, 200  # decodings of a convolution are slow on a CPU
    return config
