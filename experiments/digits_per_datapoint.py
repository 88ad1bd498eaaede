"""The digits without an encoder: every training image has a mean and a log standard deviation of its own.

    python -m vae_jax.main --config=experiments/digits_per_datapoint.py

Compare with experiments/digits.py: same images, same decoder, same bound, same steps. `:two` binarizes once, since an
entry of the table describes q(z|x) of one x: compare with digits.py:two at --config.data.binarization=fixed.
"""

from pathlib import Path

from vae_jax.config import from_experiment


def get_config(variant=""):
    config = from_experiment(Path(__file__).with_name("digits.py"), variant)
    if config.data.binarization == "dynamic":  # of `:two`, for one q is for one x
        config.data.binarization = "fixed"
    config.inference.kind = "per_datapoint"
    return config
