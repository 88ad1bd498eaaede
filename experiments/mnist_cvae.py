"""A conditional VAE on MNIST, given the label: the network and optimizer of experiments/mnist.py and a prior p(z|c).

    python -m vae_jax.main --config=experiments/mnist_cvae.py

Sohn et al. (2015); the NLL is -log p(x|c), from 5,000 samples on all 10,000 test images. One replication of Burda et
al.'s network with a learned prior and k = 1 has 82.32 after 3,280 epochs of Adam. Of a one-hot label a linear map is
every function there is, so the prior has no hidden layers. Variant standard: z does not know the label, p(z) = N(0, I).
The report shows samples of each class.
"""

from pathlib import Path

from vae_jax.config import by_variant, from_experiment

VARIANTS = {
    "": {},
    "standard": {"model.prior": "standard_normal"},
    "quick": {},
    "quick_standard": {"model.prior": "standard_normal"},
}


def get_config(variant=""):
    changes = by_variant(variant, VARIANTS)
    base = "quick" if variant.startswith("quick") else ""
    config = from_experiment(Path(__file__).with_name("mnist.py"), base)
    config.data.condition = "label"
    config.model.prior = "conditional"
    config.model.upper_hidden = ()
    config.update_from_flattened_dict(changes)
    return config
