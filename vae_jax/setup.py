"""What a run is made of: data, model, optimizer, devices, the compiled program and the state it starts from."""

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax import checkpoint, data, evaluate, feed, parallel, rundir, step, streams
from vae_jax.config import ConfigError, default, num_streams, validate
from vae_jax.model import Model, make_model
from vae_jax.objectives import OBJECTIVES
from vae_jax.optimizer import make_learning_rate, make_optimizer, make_row_optimizer
from vae_jax.parts import make_corruption, make_objective, make_refine, make_weights

CHECKPOINTS, BEST = "checkpoints", "checkpoints/best"
INIT_EXAMPLES = 10_000  # enough training images for the mean image of a data-dependent initialization


class Setup(NamedTuple):
    """What a run is made of. Nothing in it changes while the run goes on."""

    config: Any
    dataset: data.Dataset
    model: Model
    optimizer: Any
    prepare: Any  # (keys, image) -> x: how the stored images become the model's data
    mesh: jax.sharding.Mesh
    epoch_steps: int
    num_steps: int


def make_setup(config, num_devices=0):
    """Data, model, optimizer and devices of a validated config. Raises one-line errors for what does not fit."""
    dataset = data.load(config.data)
    if config.model.likelihood != "normal":
        data.require_unit_interval(dataset, config.data.binarization)
    count, batch = num_streams(config), config.train.batch_size
    num_devices = num_devices or parallel.largest_divisor(count)
    mesh = parallel.make_mesh(num_devices)
    parallel.check(num_devices, count, batch)
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
    return jax.jit(lambda keys, image: data.preprocess(keys, image, info.value_range, binarization))


def hyperparameters(config):
    """Everything a compiled program takes as an argument, so that no value of it is compiled in."""
    weights = OBJECTIVES[config.objective.name].weights
    _, order, noise = step.seed_keys(config.seed)
    return {
        "order": order,
        "noise": noise,
        "learning_rate": jnp.float32(config.optimizer.learning_rate),
        "row_learning_rate": jnp.float32(config.inference.learning_rate),
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


def make_program(setup):
    """program(num_steps) -> the compiled run of so many steps, see `step.make_run_steps`."""
    train_step = make_train_step(setup, parallel.axis(setup.mesh))
    return cache(lambda steps: step.make_run_steps(train_step, steps, *sizes(setup), setup.mesh))


SHARE = 0.5  # of the devices' free memory that training data may take


def stays_on_host(setup):
    """Whether training data are fed from the host: as `config.data.placement` says, 'auto' if they are too large."""
    placement, on_disk = setup.config.data.placement, isinstance(setup.dataset.train.image, data.Records)
    free = parallel.free_bytes(setup.mesh)
    too_large = free is not None and feed.size_of(training_arrays(setup)) > SHARE * free * setup.mesh.size
    return placement == "host" or (placement == "auto" and (on_disk or too_large))


def make_advance(setup, done, on_host):
    """advance(hyper, state, count) -> (state, metrics [count] on the host): the next steps after step `done`."""
    if not on_host:
        program, arrays = make_program(setup), training_data(setup)

        def advance(hyper, state, count):
            state, metrics = program(count)(hyper, state, arrays)
            return state, jax.device_get(metrics)

        return advance
    order_key = step.seed_keys(setup.config.seed)[step.ORDER]
    batch_size, num_train, count = sizes(setup)
    source = feed.Source(training_arrays(setup), order_key, num_train, count, batch_size)
    windows = feed.pieces(done, setup.num_steps, log_window(setup), feed.window_steps(source))
    batches = feed.read_ahead(feed.make_load(source, setup.mesh), windows)
    run = step.make_run_batches(make_train_step(setup, parallel.axis(setup.mesh)), setup.mesh)

    def advance_fed(hyper, state, count):
        parts = []
        while count:
            steps, data = next(batches)
            state, metrics = run(hyper, state, data)
            parts, count = [*parts, metrics], count - steps
        return state, jax.tree.map(lambda *each: np.concatenate(each), *jax.device_get(parts))

    return advance_fed


def log_window(setup):
    """The steps of one compiled call, and of one record of training."""
    return setup.config.train.log_every or setup.epoch_steps


def make_members_program(setup, mesh, batching):
    """program(num_steps) -> the compiled runs of many such setups side by side, see `step.make_run_members`."""
    train_step = make_train_step(setup, parallel.ALONE)
    return cache(lambda steps: step.make_run_members(train_step, steps, *sizes(setup), mesh, batching))


def sizes(setup):
    """(B, N, S)"""
    config = setup.config
    return config.train.batch_size, setup.dataset.info.num_train, num_streams(config)


def make_train_step(setup, axis):
    """The training step of a setup, see `step.make_train_step`."""
    config = setup.config
    row_rate = make_learning_rate(config.optimizer, setup.num_steps, "row_learning_rate")
    updates = step.RowUpdates(make_row_optimizer(), row_rate, config.inference.inner_steps)
    rounded = config.train.precision != "float32"
    return step.make_train_step(
        make_model(config, setup.dataset.info, config.train.precision) if rounded else setup.model,
        setup.optimizer,
        make_objective(config, setup.dataset.info.num_train, axis),
        learning_rate=make_learning_rate(config.optimizer, setup.num_steps),
        weights=make_weights(config.objective, setup.epoch_steps, setup.num_steps),
        refine=make_refine(config.objective),
        prepare=setup.prepare,
        corrupt=make_corruption(config.inference),
        ema=config.optimizer.ema,
        rows=updates if has_table(config) else None,
        axis=axis,
    )


def has_table(config):
    return config.inference.kind == "per_datapoint"


def training_data(setup):
    """The training set on the devices, stream-major."""
    return parallel.put_split(setup.mesh, training_rows(setup))


def training_rows(setup):
    """The training set on the host, stream-major."""
    count = num_streams(setup.config)
    rows = {name: streams.to_rows(array, count) for name, array in training_arrays(setup).items()}
    return {**rows, "index": example_index(setup)}


def training_arrays(setup):
    """The training set as it was loaded, in the order of examples."""
    split = setup.dataset.train
    arrays = {"image": split.image, "label": split.label, "condition": split.condition}
    return {name: array for name, array in arrays.items() if array is not None}


def example_index(setup):
    """The example in each stream-major row, -1 in the padding."""
    return streams.example_index(setup.dataset.info.num_train, num_streams(setup.config))


def make_init(setup):
    """init(seed) -> the state before the first step, on the devices; the config's own seed by default."""
    config, split = setup.config, setup.dataset.train
    image = split.image[:: max(1, len(split.image) // INIT_EXAMPLES)]
    condition = None if split.condition is None else split.condition[:1]
    options = {"with_ema": config.optimizer.ema > 0, "row_optimizer": make_row_optimizer()}

    def init(key, image, index):
        x_init = data.preprocess(None, image, setup.dataset.info.value_range, "none")
        return step.init_state(setup.model, setup.optimizer, key, x_init, condition, index=index, **options)

    init = jax.jit(init, out_shardings=parallel.shardings(setup.mesh, step.STATE_SPECS))
    index = example_index(setup)
    return lambda seed=config.seed: init(step.seed_keys(seed)[step.INIT], image, index)


def abstract_state(setup, init=None):
    """Shapes, types and places of a state: what a checkpoint is restored into, on this run's devices."""
    state = jax.eval_shape(init or make_init(setup))
    placed = lambda place, tree: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), tree)
    return jax.tree.map(placed, parallel.shardings(setup.mesh, step.STATE_SPECS), state)


def starting_state(setup, workdir, init=None):
    """The newest checkpoint of the run; without one a fresh state, with parameters of `config.init_from` if given.

    `init`: what `make_init` gave for a setup that shares its programs with this one, lest it be compiled again.
    """
    init = init or make_init(setup)
    if checkpoint.latest_step(workdir / CHECKPOINTS) is not None:
        return checkpoint.restore(workdir / CHECKPOINTS, abstract_state(setup, init))
    state = init(setup.config.seed)
    if has_table(setup.config) and setup.config.inference.start == "encoder":
        state = state._replace(local=encoded_table(setup))
    if not setup.config.init_from:
        return state
    source, _, number = setup.config.init_from.partition("@")
    like = {name: getattr(abstract_state(setup, init), name) for name in ("params", "local")}
    old = checkpoint.restore(Path(source) / CHECKPOINTS, like, int(number) if number else None, partial=True)
    ema = jax.tree.map(jnp.copy, old["params"]) if setup.config.optimizer.ema else ()
    return state._replace(**old, ema=ema)


def encoded_table(setup):
    """The table of rows that the encoder of another run gives to the training examples."""
    source, wanted = setup.config.inference.encoder_run, (setup.config.model.latent_dim, setup.dataset.info.event_shape)
    encoder = load_run(source)
    if has_table(encoder.config) or (encoder.config.model.latent_dim, encoder.info.event_shape) != wanted:
        raise ConfigError(
            f"config.inference.encoder_run = {source!r}: expected a run with an encoder, latent_dim {wanted[0]} and "
            f"images of shape {wanted[1]}"
        )
    spread, size = parallel.spread(setup.mesh), setup.config.eval.chunk_rows
    split, prepare = setup.dataset.train, setup.prepare
    examples = {"image": split.image} | ({} if split.condition is None else {"condition": split.condition})
    encode = lambda c: encoder.model.encode(encoder.params, prepare(None, c["image"]), c.get("condition"))
    rows = evaluate.in_chunks(jax.jit(encode), examples, size, spread)
    rows = jax.tree.map(lambda column: streams.to_rows(column, num_streams(setup.config)), rows)
    rows = parallel.put_split(setup.mesh, rows)
    init = jax.jit(jax.vmap(make_row_optimizer().init), out_shardings=parallel.split(setup.mesh))
    return step.Local(rows, init(rows))


class Loaded(NamedTuple):
    """A trained model, which needs neither its data nor its optimizer."""

    config: Any
    info: data.Info
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
    tupled = {name: tuple(v) if isinstance(v, list) else v for name, v in rundir.read_info(workdir).items()}
    return data.Info(**tupled)


def read_config(workdir):
    """The validated config of a run directory; keys it does not know yet have their defaults."""
    config = default()
    config.update(rundir.read_config(workdir))
    return validate(config)


GIVEN = {"label": "the label", "upper": "the upper half"}  # config.data.condition -> what a number is conditional on


def name_condition(setup, numbers):
    """The numbers of a run, of a conditional model in units that say so."""
    if not setup.dataset.info.condition_shape:
        return numbers
    return evaluate.conditional_on(numbers, GIVEN.get(setup.config.data.condition, "the condition"))


def evaluation_params(state):
    """The parameters to measure: their average where one is kept."""
    return state.ema if state.ema != () else state.params


def evaluation_examples(setup, split_name, limit=0):
    """A split as a dict of arrays [N, ...] with a key for each example; binarized by the evaluation's seed."""
    split = getattr(setup.dataset, split_name)
    count = min(limit or len(split.image), len(split.image))
    keys = evaluate.split_keys(setup.config.eval.seed, split_name, count)
    image = prepared(setup.prepare, split.image[:count], keys)
    arrays = {"label": split.label, "condition": split.condition}
    examples = {name: array[:count] for name, array in arrays.items() if array is not None}
    return {**examples, "image": image, "key": keys, "index": np.arange(count)}


def prepared(prepare, image, keys):
    """Stored images as the model's data, each by its own key."""
    binarize = lambda chunk: prepare(evaluate.fold_in_each(chunk["key"], evaluate.BINARIZE), chunk["image"])
    return evaluate.in_chunks(binarize, {"image": image, "key": keys}, 2500)


def with_rows(setup, params, examples, local=()):
    """The examples with the rows of q: from the table `local` if given, otherwise as the run's inference finds them."""
    config = setup.config
    if local != ():
        where = streams.row_of(examples["index"], setup.dataset.info.num_train, num_streams(config))
        rows = parallel.fetch(jax.tree.map(lambda column: column[where], local.rows))
    else:
        rows = found_rows(config, setup.model, params, examples, parallel.spread(setup.mesh))
    return {**examples, "rows": rows}


def found_rows(config, model, params, examples, spread):
    """The rows of q: fitted to each example where the run has no encoder, otherwise as its inference finds them."""
    if has_table(config):
        return evaluate.fit_examples(model, params, examples, config.fit, config.eval.chunk_rows, spread)
    return evaluate.find_rows(model, params, examples, config.eval, spread)


def with_codes(setup, params, examples, local=()):
    """`with_rows`, and the mean of q(z|x) of every example."""
    examples = with_rows(setup, params, examples, local)
    return {**examples, "mean": evaluate.latent_means(setup.model, params, examples, parallel.spread(setup.mesh))}
