"""Data sets by name; order.py: who is in a batch; feed.py: batches from the host; preprocess.py: x from an image."""

from vae_jax.data.datasets import CONDITIONS, SETS, load, ppca_log_prob
from vae_jax.data.splits import Dataset, Info, Split, assemble
from vae_jax.data.tfds import Records

__all__ = ["CONDITIONS", "SETS", "Dataset", "Info", "Records", "Split", "assemble", "load", "ppca_log_prob"]
