"""The lower half of an MNIST digit given its upper half: a conditional VAE, and a regressor with the same decoder.

    python -m vae_jax.main --config=experiments/mnist_completion.py
    python -m vae_jax.main --config=experiments/mnist_completion.py:regressor
    python experiments/analysis/completions.py --out=completions.png \
        runs/mnist_completion runs/mnist_completion-regressor

After Sohn et al. (2015). The regressor is the same model without z: p(x|c) is the decoder of the upper half, so its
bound is log p(x|c) itself and one sample measures it. NLLs are nats of the lower half. Network, optimizer and epochs
are those of experiments/mnist.py; experiments/mnist_completion.sh runs all three commands.
"""

from pathlib import Path

from vae_jax.config import by_variant, from_experiment

CVAE = {"model.prior": "conditional", "model.upper_hidden": (200, 200)}
REGRESSOR = {"model.latent_dim": 0, "eval.elbo_samples": 1, "eval.num_samples": 1}
VARIANTS = {"": CVAE, "regressor": REGRESSOR, "quick": CVAE, "quick_regressor": REGRESSOR}


def get_config(variant=""):
    changes = by_variant(variant, VARIANTS)
    base = "quick" if variant.startswith("quick") else ""
    config = from_experiment(Path(__file__).with_name("mnist.py"), base)
    config.data.condition = "upper"
    config.update_from_flattened_dict(changes)
    return config
