"""The one-layer VAE of Burda, Grosse and Salakhutdinov (2016), Table 1, L=1, k=1: 784-200-200-50 and its mirror, tanh.

    python -m vae_jax.main --config=experiments/mnist.py

Dynamic binarization, 59,600 training images, NLL from 5,000 samples on all 10,000 test images. Published: 86.76 nats
after 3,280 epochs of Adam; here 200 epochs of Muon on a cosine, 86.27 over three seeds (86.25 to 86.30), in some 13
minutes on two cores, and 5 for the NLL. Settings were chosen on the 400 validation images.
"""

from vae_jax.commands.configuration import default
from vae_jax.config import by_variant


def get_config(variant=""):
    config = default()
    config.data.name = "mnist"
    config.model.latent_dim = 50
    config.model.hidden = (200, 200)
    config.train.batch_size = 256
    config.train.epochs = by_variant(variant, {"": 200, "quick": 6})
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 1.6e-2
    config.optimizer.momentum = 0.95
    config.optimizer.newton_schulz_steps = 3
    config.optimizer.b2 = 0.99
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 400
    config.eval.num_samples = 5000
    if variant == "quick":
        config.train.eval_every = 2
        config.eval.num_samples = 100
    return config
