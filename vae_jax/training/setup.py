"""What a run is made of: data, model, optimizer, devices, the compiled program and the state it starts from."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vae_jax.config import num_streams
from vae_jax.data import datasets, preprocess
from vae_jax.data import order as streams
from vae_jax.errors import ConfigError
from vae_jax.evaluation.examples import in_chunks, split_examples, with_entries, with_means, with_q_params
from vae_jax.keys import seed_keys
from vae_jax.models import inference
from vae_jax.models.inference import has_table
from vae_jax.models.model import Model, make_model
from vae_jax.objectives.loss import OBJECTIVES
from vae_jax.parallel import devices
from vae_jax.runs import checkpoint, load
from vae_jax.runs.load import CHECKPOINTS, load_run
from vae_jax.training import step
from vae_jax.training.optimizer import make_optimizer, make_table_optimizer

CODES = 10_000  # training images of which an autoencoder's codes are taken
INIT_EXAMPLES = 10_000  # enough training images for the mean image of a data-dependent initialization


class Setup(NamedTuple):
    """What a run is made of. Nothing in it changes while the run goes on."""

    config: Any
    dataset: datasets.Dataset
    model: Model
    optimizer: Any
    prepare: Any  # (keys, image) -> x: how the stored images become the model's data
    mesh: jax.sharding.Mesh
    epoch_steps: int
    num_steps: int


def make_setup(config, num_devices=0):
    """Data, model, optimizer and devices of a validated config. Raises one-line errors for what does not fit."""
    dataset = datasets.load(config.data)
    if config.model.likelihood != "normal":
        datasets.require_unit_interval(dataset, config.data.binarization)
    count, batch = num_streams(config), config.train.batch_size
    num_devices = num_devices or devices.largest_divisor(count)
    mesh = devices.make_mesh(num_devices)
    devices.check(num_devices, count, batch)
    num_train = dataset.info.num_train
    epoch_steps = streams.steps_per_epoch(num_train, count, batch)
    if not epoch_steps:
        raise ConfigError(
            f"config.train.batch_size = {batch} is more than {num_train} training examples in {count} streams hold: "
            "lower it, or config.data.streams"
        )
    num_steps = config.train.epochs * epoch_steps
    return Setup(
        config,
        dataset,
        make_model(config, dataset.info),
        make_optimizer(config.optimizer),
        preparation(config, dataset.info),
        mesh,
        epoch_steps,
        num_steps,
    )


def preparation(config, info):
    """(keys, image) -> x, compiled once: how the stored images become the model's data."""
    binarization = config.data.binarization
    binarization = "none" if binarization == "fixed" else binarization  # 'fixed' was drawn when the data was loaded
    return jax.jit(lambda keys, image: preprocess.preprocess(keys, image, info.value_range, binarization))


def hyperparameters(config):
    """Everything a compiled program takes as an argument, so that no value of it is compiled in."""
    weights = OBJECTIVES[config.objective.name].weights
    _, order, noise = seed_keys(config.seed)
    return {
        "order": order,
        "noise": noise,
        "learning_rate": jnp.float32(config.optimizer.learning_rate),
        "table_learning_rate": jnp.float32(config.inference.learning_rate),
        "warmup_steps": jnp.float32(config.optimizer.warmup_steps),
        "schedule_epochs": jnp.float32(config.objective.schedule_epochs),
        "objective": {name: jnp.float32(config.objective[name]) for name in weights},
    }


# The keys that only `hyperparameters` and the first state read: runs that differ in no other share their programs.
TRACED = frozenset(
    {"seed", "optimizer.learning_rate", "optimizer.warmup_steps", "inference.learning_rate"}
    | {"objective.schedule_epochs"}
    | {f"objective.{name}" for objective in OBJECTIVES.values() for name in objective.weights}
)


def log_window(setup):
    """The steps of one compiled call, and of one record of training."""
    return setup.config.train.log_every or setup.epoch_steps


def sizes(setup):
    """(B, N, S)"""
    config = setup.config
    return config.train.batch_size, setup.dataset.info.num_train, num_streams(config)


def example_index(setup):
    """The example in each slot, -1 in the padding."""
    return streams.example_index(setup.dataset.info.num_train, num_streams(setup.config))


def make_init(setup):
    """init(seed) -> the state before the first step, on the devices; the config's own seed by default."""
    config, split = setup.config, setup.dataset.train
    image = split.image[:: max(1, len(split.image) // INIT_EXAMPLES)]
    condition = None if split.condition is None else split.condition[:1]
    options = {"with_ema": config.optimizer.ema > 0, "table_optimizer": make_table_optimizer()}

    def init(key, image, index):
        x_init = preprocess.preprocess(None, image, setup.dataset.info.value_range, "none")
        return step.init_state(setup.model, setup.optimizer, key, x_init, condition, index=index, **options)

    init = jax.jit(init, out_shardings=devices.shardings(setup.mesh, step.STATE_SPECS))
    index = example_index(setup)
    return lambda seed=config.seed: init(seed_keys(seed)[0], image, index)


def abstract_state(setup, init=None):
    """Shapes, types and places of a state: what a checkpoint is restored into, on this run's devices."""
    state = jax.eval_shape(init or make_init(setup))
    placed = lambda place, tree: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), tree)
    return jax.tree.map(placed, devices.shardings(setup.mesh, step.STATE_SPECS), state)


def starting_state(setup, workdir, init=None):
    """The newest checkpoint of the run; without one a fresh state, with parameters of `config.init_from` if given.

    `init`: what `make_init` gave for a setup that shares its programs with this one, lest it be compiled again.
    """
    init = init or make_init(setup)
    if checkpoint.latest_step(workdir / CHECKPOINTS) is not None:
        return checkpoint.restore(workdir / CHECKPOINTS, abstract_state(setup, init))
    state = init(setup.config.seed)
    if has_table(setup.config) and setup.config.inference.start == "encoder":
        state = state._replace(table=encoded_table(setup))
    if not setup.config.init_from:
        return state
    source, _, number = setup.config.init_from.partition("@")
    like = {name: getattr(abstract_state(setup, init), name) for name in ("params", "table")}
    old = checkpoint.restore(Path(source) / CHECKPOINTS, like, int(number) if number else None, partial=True)
    ema = jax.tree.map(jnp.copy, old["params"]) if setup.config.optimizer.ema else ()
    return state._replace(**old, ema=ema)


def encoded_table(setup):
    """The table that the encoder of another run gives to the training examples."""
    source, wanted = setup.config.inference.encoder_run, (setup.config.model.latent_dim, setup.dataset.info.event_shape)
    encoder = load_run(source)
    if has_table(encoder.config) or (encoder.config.model.latent_dim, encoder.info.event_shape) != wanted:
        raise ConfigError(
            f"config.inference.encoder_run = {source!r}: expected a run with an encoder, latent_dim {wanted[0]} and "
            f"images of shape {wanted[1]}"
        )
    spread, size = devices.spread(setup.mesh), setup.config.eval.chunk_images
    split, prepare = setup.dataset.train, setup.prepare
    examples = {"image": split.image} | ({} if split.condition is None else {"condition": split.condition})
    encode = lambda c: encoder.model.encode(encoder.params, prepare(None, c["image"]), c.get("condition"))
    q_params = in_chunks(jax.jit(encode), examples, size, spread)
    q_params = jax.tree.map(lambda column: streams.to_slots(column, num_streams(setup.config)), q_params)
    q_params = devices.put_split(setup.mesh, q_params)
    init = jax.jit(jax.vmap(make_table_optimizer().init), out_shardings=devices.split(setup.mesh))
    return step.Table(q_params, init(q_params))


def reopen(workdir, config=None, num_devices=0):
    """(setup, params) of a trained run; `config` in place of its own may differ in keys that touch no parameter."""
    loaded = load.load_run(workdir)
    setup = make_setup(config or loaded.config, num_devices)
    return setup._replace(model=loaded.model), devices.put_replicated(setup.mesh, loaded.params)


def run_examples(setup, params, split, limit=0, table=()):
    """Examples of a split with q_params, from the run's `table` if it is given, and the mean of q(z|x) of each."""
    examples, spread = split_of(setup, split, limit), devices.spread(setup.mesh)
    if table != ():
        examples = with_entries(examples, table, setup.dataset.info.num_train, num_streams(setup.config))
    else:
        examples = with_q_params(setup.model, params, examples, setup.config, spread)
    return with_means(setup.model, params, examples, spread)


def split_of(setup, split, limit=0):
    """The first `limit` examples of a split, 0 for all, as evaluation takes them."""
    return split_examples(setup.dataset, split, setup.prepare, setup.config.eval.seed, limit)


def training_codes(setup, params, table):
    """E_q[z|x] `[N, Z]` of training images, of an autoencoder, whose samples are made from them; else None."""
    if setup.config.model.posterior != "dirac":
        return None
    return run_examples(setup, params, "train", CODES, table)["mean"]


def trained_table(setup, workdir):
    """The run's table of q_params, () if it has none."""
    if not inference.has_table(setup.config):
        return ()
    like = {"table": abstract_state(setup).table}
    return checkpoint.restore(load.selected(setup.config, workdir), like, partial=True)["table"]
