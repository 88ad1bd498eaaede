"""MNIST with an encoder whose proposal is refined by five natural-gradient steps on each image's own bound.

    python -m vae_jax.main --config=experiments/mnist_semi_amortized.py

Compare with experiments/mnist.py at --config.data.binarization=fixed: same decoder, same bound, same steps.
"""

from pathlib import Path

from vae_jax.config import from_experiment


def get_config(variant=""):
    config = from_experiment(Path(__file__).with_name("mnist.py"), variant)
    config.data.binarization = "fixed"
    config.inference.kind = "semi_amortized"
    config.inference.steps = 5
    return config
