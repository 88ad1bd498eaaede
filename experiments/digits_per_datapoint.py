"""The digits without an encoder: every training image has a mean and a log standard deviation of its own.

    python -m vae_jax.main --config=experiments/digits_per_datapoint.py

Images are binarized once, since an entry of the table describes q(z|x) of one fixed x. Compare with
experiments/digits.py at --config.data.binarization=fixed: same decoder, same bound, same steps.
"""

from pathlib import Path

from vae_jax.config import from_experiment


def get_config(variant=""):
    config = from_experiment(Path(__file__).with_name("digits.py"), variant)
    config.data.binarization = "fixed"
    config.inference.kind = "per_datapoint"
    return config
