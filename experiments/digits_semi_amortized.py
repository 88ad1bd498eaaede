"""The digits with an encoder whose proposal is refined by five natural-gradient steps on each image's own bound.

    python -m vae_jax.main --config=experiments/digits_semi_amortized.py

Compare with experiments/digits.py: same images, same decoder, same bound, same steps. `:two` binarizes once: compare
with digits.py:two at --config.data.binarization=fixed.
"""

from pathlib import Path

from vae_jax.config import from_experiment


def get_config(variant=""):
    config = from_experiment(Path(__file__).with_name("digits.py"), variant)
    if config.data.binarization == "dynamic":  # of `:two`, for one q is for one x
        config.data.binarization = "fixed"
    config.inference.kind = "semi_amortized"
    config.inference.steps = 5
    return config
