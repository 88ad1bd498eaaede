"""The trained model in a run directory, without its data or its optimizer."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import FrozenConfigDict

from vae_jax.data.splits import Info
from vae_jax.models.model import Model, make_model
from vae_jax.runs import checkpoint, directory

CHECKPOINTS, BEST = "checkpoints", "checkpoints/best"


class Loaded(NamedTuple):
    """A trained model, which needs neither its data nor its optimizer."""

    config: FrozenConfigDict
    info: Info
    model: Model
    params: Any


def load_run(workdir: str | Path) -> Loaded:
    """The trained model in a run directory: the newest checkpoint, or the best where the run selects that.

    Args:
        workdir: the directory of a run that has saved a checkpoint.

    Returns:
        Its config, the Info of its data, the Model, and the parameters to measure: their average where one is kept.

    Raises:
        RunError: no run directory, or one of another format.
        CheckpointError: no checkpoint in it that reads.
    """
    config, info = read_config(workdir), read_info(workdir)
    model = make_model(config, info)
    x_init = jax.ShapeDtypeStruct((1, *info.event_shape), jnp.float32)
    condition = jax.ShapeDtypeStruct((1, *info.condition_shape), jnp.float32) if info.condition_shape else None
    params, _ = jax.eval_shape(model.init, jax.random.key(0), x_init, condition)
    name = "ema" if config.optimizer.ema > 0 else "params"
    params = checkpoint.restore(selected(config, workdir), {name: params}, partial=True)[name]
    return Loaded(config, info, model, params)


def selected(config, workdir):
    """The directory of the checkpoints that a finished run is measured by."""
    return Path(workdir) / (BEST if config.train.select == "best" else CHECKPOINTS)


def read_info(workdir):
    """The data's Info of a run directory."""
    return Info(**tupled(directory.read_info(workdir)))


def read_config(workdir) -> Any:
    """The config of a run directory as it was stored, which is complete; frozen."""
    return FrozenConfigDict(tupled(directory.read_config(workdir)))


def tupled(value) -> Any:
    """Tuples where JSON has lists."""
    if isinstance(value, dict):
        return {name: tupled(item) for name, item in value.items()}
    return tuple(map(tupled, value)) if isinstance(value, list) else value
