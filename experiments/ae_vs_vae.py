"""PCA's neighbours: autoencoders and VAEs on the same images, with the same networks and the same squared error.

    python -m vae_jax.main --config=experiments/ae_vs_vae.py
    bash experiments/ae_vs_vae.sh

The first trains the VAE; the second trains every variant and compares them with PCA, by `analysis/latent_spaces.py`.
Two numbers code an image:

    linear_ae, deep_ae        a point mass for q, the reconstruction alone: without hidden layers, and with
    only_reconstruction       a VAE with beta = 0; only_kl has the KL alone
    vae                       both: the ELBO; so is the variant ''

One number codes it, the networks are deeper, and there are 50 training images:

    line_ae                   learns them by heart
    line_vae, line_vae_noisy  at sigma = 0.2, where it pays log 50 nats for that, and at 0.5, where it does not

Each has an MNIST twin, say mnist_vae. The likelihood is N(f(z), 0.2^2) of grey values for all but the last. What an
autoencoder then minimizes is the squared error, as PCA does, whatever sigma is. For a VAE sigma weighs that error
against the KL: 0.2 is about the root mean squared error that two numbers leave on either data set, so near the best
sigma (Rybkin et al., 2021). It is one fixed number so that the ELBOs compare, and because a learned one would shrink
without end where training images are reproduced exactly.
"""

from vae_jax.commands.configuration import default
from vae_jax.config import by_variant

AUTOENCODER = {"model.posterior": "dirac", "objective.name": "autoencoder"}
LINE = {
    "model.latent_dim": 1,
    "model.hidden": (256, 256, 256),
    "data.num_train": 50,
    "optimizer.learning_rate": 1e-3,
    "optimizer.warmup_steps": 500,
    "train.batch_size": 50,
    "train.epochs": 8000,  # of one step each
    "train.log_every": 1000,
    "train.eval_every": 4000,
    "train.checkpoint_every": 4000,
}
MODELS = {
    "": {},
    "linear_ae": AUTOENCODER | {"model.encoder": "linear", "model.decoder": "linear"},
    "deep_ae": AUTOENCODER,
    "only_reconstruction": {"objective.name": "beta", "objective.beta": 0.0},
    "only_kl": {"objective.name": "beta", "objective.reconstruction": 0.0},
    "vae": {},
    "line_ae": LINE | AUTOENCODER,
    "line_vae": LINE,
    "line_vae_noisy": LINE | {"model.sigma": 0.5},
}
MNIST = {
    "data.name": "mnist",
    "model.hidden": (256, 128),
    "optimizer.learning_rate": 1e-3,
    "train.batch_size": 128,
    "train.epochs": 30,
    "train.log_every": 0,
    "train.eval_every": 10,
    "train.checkpoint_every": 10,
    "eval.max_examples": 1000,
}
VARIANTS = MODELS | {"quick": {"train.epochs": 20}} | {f"mnist_{name}": MNIST | MODELS[name] for name in MODELS if name}


def get_config(variant=""):
    changes = by_variant(variant, VARIANTS)
    config = default()
    config.data.binarization = "none"
    config.model.latent_dim = 2
    config.model.hidden = (128, 128)
    config.model.likelihood = "normal"
    config.model.sigma = 0.2
    config.optimizer.learning_rate = 3e-3
    config.optimizer.schedule = "cosine"
    config.train.batch_size = 100
    config.train.epochs = 300
    config.train.log_every = 140
    config.train.eval_every = 100
    config.train.checkpoint_every = 100
    config.eval.num_samples = 100
    config.update_from_flattened_dict(changes)
    return config
