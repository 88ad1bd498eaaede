"""What a run is made of: data, model, devices, the state it starts from, and the examples it is measured on."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vae_jax.config import lookup, num_streams
from vae_jax.data import datasets, preprocess
from vae_jax.data import order as streams
from vae_jax.data.splits import Dataset
from vae_jax.errors import ConfigError
from vae_jax.evaluation.examples import in_chunks, split_examples, with_entries, with_means, with_q_params
from vae_jax.keys import seed_keys
from vae_jax.models.fits import make_ascent
from vae_jax.models.inference import INFERENCES
from vae_jax.models.model import Model, make_model
from vae_jax.objectives.loss import OBJECTIVES
from vae_jax.parallel import devices, processes
from vae_jax.runs import checkpoint, directory, load
from vae_jax.training import step
from vae_jax.training.optimizer import encoder_first, make_optimizer

CODES = 10_000  # training images of which an autoencoder's codes are taken
INIT_EXAMPLES = 10_000  # enough training images for the mean image of a data-dependent initialization


class Setup(NamedTuple):
    """What a run is made of. Nothing in it changes while the run goes on."""

    config: Any  # validated, frozen
    dataset: Dataset
    model: Model
    prepare: Any  # (keys, image) -> x: how the stored images become the model's data
    mesh: jax.sharding.Mesh

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(B, N, S): examples in a batch, in the training set, and streams."""
        return self.config.train.batch_size, self.dataset.info.num_train, num_streams(self.config)

    @property
    def epoch_steps(self):
        batch_size, num_train, count = self.sizes
        return streams.steps_per_epoch(num_train, count, batch_size)

    @property
    def num_steps(self):
        return self.config.train.epochs * self.epoch_steps

    @property
    def window(self):
        """The steps of one compiled call, and of one record of training."""
        return self.config.train.log_every or self.epoch_steps

    @property
    def optimizer(self):
        """Of the parameters."""
        inference, optimizer = self.config.inference, make_optimizer(self.config.optimizer)
        steps = inference.encoder_steps if "encoder_steps" in INFERENCES[inference.kind].keys else 1
        return encoder_first(optimizer, steps, inference.encoder_epochs * self.epoch_steps)

    @property
    def ascent(self):
        """How the entries of a table climb."""
        return make_ascent(self.config.inference, self.model.ascent)

    @property
    def spread(self):
        return devices.spread(self.mesh)


def make_setup(config: Any, num_devices: int = 0, dataset: Dataset | None = None) -> Setup:
    """Data, model and devices of a run.

    Args:
        config: what `config.validate` returned.
        num_devices: how many devices share the streams of examples; 0: as many as can.
        dataset: the data, if they are not those that `config.data` names.

    Returns:
        The Setup from which training, evaluation and drawing take what they need.

    Raises:
        ConfigError, DataError, DeviceError: one line about what does not fit the data or the devices.
    """
    dataset = dataset or datasets.load(config.data)
    model = make_model(config, dataset.info)
    if model.bounded:
        datasets.require_unit_interval(dataset, config.data.binarization)
    count, batch_size = num_streams(config), config.train.batch_size
    num_devices = num_devices or devices.largest_divisor(count)
    mesh = devices.make_mesh(num_devices)
    devices.check(num_devices, count, batch_size)
    setup = Setup(config, dataset, model, preparation(config, dataset.info), mesh)
    if not setup.epoch_steps:
        raise ConfigError(
            f"config.train.batch_size = {batch_size} is more than {dataset.info.num_train} training examples in "
            f"{count} streams hold: lower it, or config.data.streams"
        )
    return setup


def preparation(config, info, fixed="none"):
    """(keys, image) -> x, compiled once: how the stored images become the model's data.

    fixed: what is done for data.binarization = fixed, whose draws are part of a data set that was loaded.
    """
    binarization = fixed if config.data.binarization == "fixed" else config.data.binarization
    return jax.jit(lambda keys, image: preprocess.preprocess(keys, image, info.value_range, binarization))


# name of a hyperparameter -> the key that it is
SCALARS = {
    "learning_rate": "optimizer.learning_rate",
    "table_natural_rate": "inference.natural_rate",
    "table_learning_rate": "inference.learning_rate",
    "warmup_steps": "optimizer.warmup_steps",
    "schedule_epochs": "objective.schedule_epochs",
}
# The keys that only `hyperparameters` and the first state read: runs that differ in no other share their programs.
WEIGHTS = {f"objective.{name}" for objective in OBJECTIVES.values() for name in objective.weights}
TRACED = frozenset({"seed", *SCALARS.values(), *WEIGHTS})


def hyperparameters(config):
    """Everything a compiled program takes as an argument, so that no value of it is compiled in."""
    _, order, noise = seed_keys(config.seed)
    weights = {name: jnp.float32(config.objective[name]) for name in OBJECTIVES[config.objective.name].weights}
    scalars = {name: jnp.float32(lookup(config, key)) for name, key in SCALARS.items()}
    return {"order": order, "noise": noise, "objective": weights, **scalars}


def make_init(setup):
    """init(seed) -> the state before the first step, on the devices; the config's own seed by default."""
    config, split = setup.config, setup.dataset.train
    image = split.image[:: max(1, len(split.image) // INIT_EXAMPLES)]
    condition = None if split.condition is None else split.condition[:1]
    options = {"with_ema": config.optimizer.ema > 0, "ascent": setup.ascent}

    def init(key, image, index):
        x_init = preprocess.preprocess(None, image, setup.dataset.info.value_range, "none")
        return step.init_state(setup.model, setup.optimizer, key, x_init, condition, index=index, **options)

    init = jax.jit(init, out_shardings=devices.shardings(setup.mesh, step.STATE_SPECS))
    index = streams.example_index(*setup.sizes[1:])
    return lambda seed=config.seed: init(seed_keys(seed)[0], image, index)


def abstract_state(setup, init=None):
    """Shapes, types and places of a state: what a checkpoint is restored into, on this run's devices."""
    state = jax.eval_shape(init or make_init(setup))
    placed = lambda place, tree: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), tree)
    return jax.tree.map(placed, devices.shardings(setup.mesh, step.STATE_SPECS), state)


def starting_state(setup, workdir, init=None):
    """The newest checkpoint of the run; without one a fresh state, with parameters of `config.init_from` if given.

    `init`: what `make_init` gave for a setup that shares its programs with this one, so that it is compiled once.
    """
    config, init = setup.config, init or make_init(setup)
    processes.everywhere(lambda: require_memory(setup, abstract_state(setup, init)))
    if checkpoint.latest_step(workdir / load.CHECKPOINTS) is not None:
        return checkpoint.restore(workdir / load.CHECKPOINTS, abstract_state(setup, init))
    state = init(config.seed)
    if not setup.model.has_encoder and config.inference.start == "encoder":
        state = state._replace(table=encoded_table(setup))
    if not config.init_from:
        return state
    source, _, number = config.init_from.partition("@")
    like = {name: getattr(abstract_state(setup, init), name) for name in ("params", "table")}
    old = checkpoint.restore(Path(source) / load.CHECKPOINTS, like, int(number) if number else None, partial=True)
    ema = jax.tree.map(jnp.copy, old["params"]) if config.optimizer.ema else ()
    return state._replace(**old, ema=ema)


def require_memory(setup, state):
    """Raises ConfigError where what a step must at least hold is more than the memory that is free for each device.

    That is the state, a gradient, and K B decoded events with theirs, in float32; XLA needs more, by how much it says
    only when it has compiled.
    """
    size = lambda tree: sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(tree))
    events = (
        setup.config.objective.num_samples * setup.config.train.batch_size * math.prod(setup.dataset.info.event_shape)
    )
    shared = size(state.table) + 8 * events
    needed = size(state._replace(table=())) + size(state.params) + shared // setup.mesh.size
    free = devices.free_bytes(setup.mesh)
    if free is not None and needed > free:
        raise ConfigError(
            f"this run needs at least {needed / 2**30:.3g} GiB on each device, where {free / 2**30:.3g} are free; "
            f"its parameters take {size(state.params) / 2**30:.3g}: narrow model.hidden and its like, or lower "
            "config.train.batch_size or config.objective.num_samples"
        )


def encoded_table(setup):
    """The table that the encoder of another run gives to the training examples."""
    source, shape = setup.config.inference.encoder_run, setup.dataset.info.event_shape
    encoder, latent_dim = load.load_run(source), setup.model.latent_dim
    if not encoder.model.has_encoder or (encoder.model.latent_dim, encoder.info.event_shape) != (latent_dim, shape):
        raise ConfigError(
            f"config.inference.encoder_run = {source!r}: expected a run with an encoder, latent_dim {latent_dim} and "
            f"images of shape {shape}"
        )
    split = setup.dataset.train
    examples = {"image": split.image} | ({} if split.condition is None else {"condition": split.condition})
    encode = lambda c: encoder.model.encode(encoder.params, setup.prepare(None, c["image"]), c.get("condition"))
    q_params = in_chunks(jax.jit(encode), examples, setup.config.eval.chunk_images, setup.spread)
    q_params = jax.tree.map(lambda column: streams.to_slots(column, num_streams(setup.config)), q_params)
    q_params = devices.put_split(setup.mesh, q_params)
    init = jax.jit(setup.ascent.init, out_shardings=devices.split(setup.mesh))
    return step.Table(q_params, init(q_params))


def reopen(workdir: str | Path, config: Any = None, num_devices: int = 0) -> tuple[Setup, Any]:
    """A trained run, set up as it was.

    Args:
        workdir: its directory.
        config: in place of the run's own, from which it may differ in keys that touch no parameter.
        num_devices: how many devices to use; 0: as many as can share its streams.

    Returns:
        Its Setup, and the parameters to measure, on the devices.

    Raises:
        RunError, CheckpointError: where there is no such run.
    """
    loaded = load.load_run(workdir)
    setup = make_setup(config or loaded.config, num_devices)
    directory.require_same_data(workdir, setup.dataset.provenance)
    return setup._replace(model=loaded.model), devices.put_replicated(setup.mesh, loaded.params)


def run_examples(setup, params, split, limit=0, table=()):
    """Examples of a split with q_params, from the run's `table` if it is given, and the mean of q(z|x) of each."""
    return with_codes(setup, params, split_of(setup, split, limit), table)


def with_codes(setup, params, examples, table=()):
    """Examples and their q_params, from the run's `table` if it is given, and the mean of q(z|x) of each."""
    if table != ():
        examples = with_entries(examples, table, *setup.sizes[1:])
    else:
        examples = with_q_params(setup.model, params, examples, setup.config, setup.spread)
    return with_means(setup.model, params, examples, setup.spread)


def split_of(setup, split, limit=0):
    """The first `limit` examples of a split, 0 for all, as evaluation takes them."""
    return split_examples(setup.dataset, split, setup.prepare, setup.config.eval.seed, limit)


def training_codes(setup, params, table):
    """E_q[z|x] `[N, Z]` of training images, of an autoencoder, whose samples are made from them; else None."""
    return None if setup.model.has_density else run_examples(setup, params, "train", CODES, table)["mean"]


def trained_table(setup, workdir):
    """The run's table of q_params, () if it has none."""
    if setup.model.has_encoder:
        return ()
    like = {"table": abstract_state(setup).table}
    return checkpoint.restore(load.selected(setup.config, workdir), like, partial=True)["table"]
