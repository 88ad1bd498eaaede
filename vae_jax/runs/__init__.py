"""Run directories and checkpoints: what a run leaves on a disk, and the trained model in it."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vae_jax.runs.checkpoint import latest_step, restore, save
    from vae_jax.runs.directory import read_config, read_metrics, read_summary
    from vae_jax.runs.load import load_run

__all__ = ["latest_step", "load_run", "read_config", "read_metrics", "read_summary", "restore", "save"]


def __getattr__(name):
    """Imports the file that has it only when asked: reading a summary need not wait a second for orbax."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    file = {"load_run": "load", **dict.fromkeys(("latest_step", "restore", "save"), "checkpoint")}.get(
        name, "directory"
    )
    return getattr(importlib.import_module(f"vae_jax.runs.{file}"), name)
