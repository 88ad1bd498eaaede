"""The convolutional autoencoder of the UvA deep learning course, tutorial 9, on CIFAR-10.

    python -m vae_jax.main --config=experiments/cifar10_ae.py --config.model.latent_dim=128

Channels 32, 32, 64, 64, 64 and their mirror with GELU, batches of 256, Adam at 1e-3 with 100 steps of warm-up and a
cosine, gradients clipped to a norm of 1, 500 epochs; experiments/sweeps/cifar10_ae.sh takes the four latent sizes. The
tutorial's loss is the squared error summed over pixels in [-1, 1]. Ours are in [0, 1], and with sigma^2 = 1/8 the
negative log-likelihood is the same number but for a constant, so the clipped gradient is the same too. Its decoder ends
in a tanh, ours is linear. With quick: 5 epochs.

TFDS prepares the data. An .npz with x_train, x_test `[N, 32, 32, 3]` and perhaps y_train, y_test does as well:

    python -m vae_jax.main --config=experiments/cifar10_ae.py:quick --config.data.name=npz --config.data.path=FILE.npz
"""

from vae_jax.commands.configuration import default
from vae_jax.config import by_variant


def get_config(variant=""):
    config = default()
    config.data.name = "cifar10"
    config.data.binarization = "none"
    config.model.latent_dim = 128
    config.model.encoder = config.model.decoder = "conv"
    config.model.channels = (32, 64, 64)
    config.model.between = 1
    config.model.hidden = ()
    config.model.activation = "gelu"
    config.model.posterior = "dirac"
    config.model.likelihood = "normal"
    config.model.sigma = 0.125**0.5
    config.objective.name = "autoencoder"
    config.train.batch_size = 256
    config.train.epochs = by_variant(variant, {"": 500, "quick": 5})
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.optimizer.clip_norm = 1.0
    if variant == "quick":
        config.train.eval_every = 1
        config.train.checkpoint_every = 1
    return config
