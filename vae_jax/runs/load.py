"""The trained model in a run directory, without its data or its optimizer."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from vae_jax.data import datasets
from vae_jax.models.model import Model, make_model
from vae_jax.runs import checkpoint, directory

CHECKPOINTS, BEST = "checkpoints", "checkpoints/best"


class Loaded(NamedTuple):
    """A trained model, which needs neither its data nor its optimizer."""

    config: Any
    info: datasets.Info
    model: Model
    params: Any


def load_run(workdir):
    """The trained model in a run directory. Raises RunError or CheckpointError, one line each."""
    config, info = read_config(workdir), read_info(workdir)
    model, averaged = make_model(config, info), config.optimizer.ema > 0
    x_init = jax.ShapeDtypeStruct((1, *info.event_shape), jnp.float32)
    condition = jax.ShapeDtypeStruct((1, *info.condition_shape), jnp.float32) if info.condition_shape else None
    params, _ = jax.eval_shape(model.init, jax.random.key(0), x_init, condition)
    name = "ema" if averaged else "params"
    folder = selected(config, workdir)
    return Loaded(config, info, model, checkpoint.restore(folder, {name: params}, partial=True)[name])


def selected(config, workdir):
    """The directory of the checkpoints that a finished run is measured by."""
    return Path(workdir) / (BEST if config.train.select == "best" else CHECKPOINTS)


def read_info(workdir):
    """The data's Info of a run directory, tuples where JSON has lists."""
    tupled = {name: tuple(v) if isinstance(v, list) else v for name, v in directory.read_info(workdir).items()}
    return datasets.Info(**tupled)


def read_config(workdir):
    """The configuration of a run directory, frozen, tuples where JSON has lists. Raises RunError."""
    tupled = lambda value: {k: tupled(v) for k, v in value.items()} if isinstance(value, dict) else untupled(value)
    untupled = lambda value: tuple(value) if isinstance(value, list) else value
    return ml_collections.FrozenConfigDict(tupled(directory.read_config(workdir)))
