"""The compiled programs of training: many steps in one scan, on data on the devices or fed from the host."""

from functools import cache

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from vae_jax.data import feed, tfds
from vae_jax.data import order as streams
from vae_jax.data.preprocess import make_corruption
from vae_jax.keys import seed_keys
from vae_jax.models.inference import natural_rate
from vae_jax.models.model import make_model
from vae_jax.objectives.loss import make_objective, make_refine, make_table_objective, make_weights
from vae_jax.parallel import devices
from vae_jax.training.optimizer import make_learning_rate
from vae_jax.training.step import MEMBERS_SPECS, STATE_SPECS, TableUpdates, make_train_step

SHARE = 0.5  # of the devices' free memory that training data may take


# ---- many steps as one program


def make_device_steps(train_step, num_steps, batch_size, num_examples, num_streams):
    """steps(hyper, state, data) -> (state, metrics [num_steps]): consecutive steps, on one device, in one scan."""
    epoch_steps = streams.steps_per_epoch(num_examples, num_streams, batch_size)
    stream_length = streams.length(num_examples, num_streams)
    per_stream = batch_size // num_streams

    def device_steps(hyper, state, data):
        index = data["index"].reshape(-1, stream_length)
        new_order = lambda step: streams.epoch_order(hyper["order"], step // epoch_steps, index)

        def one(carry, _):
            state, order = carry
            within = state.step % epoch_steps
            order = jax.lax.cond(within == 0, lambda: new_order(state.step), lambda: order)
            slots = streams.batch_slots(order, within, per_stream)
            batch = {name: array[slots] for name, array in data.items()} | {"slot": slots}
            state, metrics = train_step(hyper["noise"], hyper, state, batch)
            return (state, order), metrics

        (state, _), metrics = jax.lax.scan(one, (state, new_order(state.step)), length=num_steps)
        return state, metrics

    return device_steps


def make_run_steps(train_step, num_steps, batch_size, num_examples, num_streams, mesh):
    """run(hyper, state, data) -> (state, metrics [num_steps]): consecutive steps in one compiled scan on every device.

    data: 'image', 'index' and the like, stream-major (see data/order.py) and split over the devices. hyper: 'order' and
    'noise' are keys. The state is donated. Which examples a step takes depends on its absolute number, so a run may
    stop and resume anywhere.
    """
    device_steps = make_device_steps(train_step, num_steps, batch_size, num_examples, num_streams)
    in_specs, out_specs = (P(), STATE_SPECS, P(devices.AXIS)), (STATE_SPECS, P())
    return devices.device_program(device_steps, mesh, in_specs, out_specs, donate=(1,))


def make_run_batches(train_step, mesh):
    """run(hyper, state, batches) -> (state, metrics): `make_run_steps` on batches `[num_steps, B, ...]` from a feed."""

    def device_steps(hyper, state, batches):
        return jax.lax.scan(lambda state, batch: train_step(hyper["noise"], hyper, state, batch), state, batches)

    in_specs, out_specs = (P(), STATE_SPECS, P(None, devices.AXIS)), (STATE_SPECS, P())
    return devices.device_program(device_steps, mesh, in_specs, out_specs, donate=(1,))


def make_run_members(train_step, num_steps, batch_size, num_examples, num_streams, mesh, batching):
    """run(hyper, state, data) -> (state, metrics [M, num_steps]): M runs at the same step, split over the devices.

    Leaves of hyper and state are [M, ...] but for the step, which the runs share; data are whole on every device, and
    the devices exchange nothing. Runs on one device go one after another (batching 'map') or together ('vmap'). The
    state is donated. `train_step` is a step for one device, see `devices.NO_AXIS`.
    """
    device_steps = make_device_steps(train_step, num_steps, batch_size, num_examples, num_streams)

    def device_members(hyper, state, data):
        step, data = state.step, devices.axis(mesh).vary(data)

        def one(member):
            hyper, state = member
            state, metrics = device_steps(hyper, state._replace(step=step), data)
            return state._replace(step=()), metrics

        batched = jax.vmap(one) if batching == "vmap" else lambda members: jax.lax.map(one, members)
        state, metrics = batched((hyper, state._replace(step=())))
        return state._replace(step=step + num_steps), metrics

    split = P(devices.AXIS)
    in_specs, out_specs = (split, MEMBERS_SPECS, P()), (MEMBERS_SPECS, split)
    return devices.device_program(device_members, mesh, in_specs, out_specs, donate=(1,))


# ---- of a setup


def setup_step(setup, axis):
    """The training step of a setup, see `step.make_train_step`."""
    config, num_steps = setup.config, setup.num_steps
    objective = make_objective(config, setup.dataset.info.num_train, axis)
    rounded = config.train.precision != "float32"
    return make_train_step(
        make_model(config, setup.dataset.info, config.train.precision) if rounded else setup.model,
        setup.optimizer,
        objective,
        learning_rate=make_learning_rate(config.optimizer, num_steps),
        weights=make_weights(config.objective, setup.epoch_steps, num_steps),
        refine=make_refine(config),
        prepare=setup.prepare,
        corrupt=make_corruption(config.inference),
        ema=config.optimizer.ema,
        table_updates=None if setup.model.has_encoder else make_table_updates(setup, objective),
        axis=axis,
    )


def make_table_updates(setup, objective):
    """How the entries of the table of a setup are updated, `objective` being what its parameters ascend."""
    config = setup.config
    adam_rate = make_learning_rate(config.optimizer, setup.num_steps, "table_learning_rate")
    rates = lambda hyper, step, number: (natural_rate(hyper["table_natural_rate"], number), adam_rate(hyper, step))
    return TableUpdates(setup.ascent, make_table_objective(config, objective), rates, config.inference.inner_steps)


def make_program(setup):
    """program(num_steps) -> the compiled run of so many steps, see `make_run_steps`."""
    train_step = setup_step(setup, devices.axis(setup.mesh))
    batch, num, num_streams = setup.sizes
    return cache(lambda steps: make_run_steps(train_step, steps, batch, num, num_streams, setup.mesh))


def make_members_program(setup, mesh, batching):
    """program(num_steps) -> the compiled runs of many such setups side by side, see `make_run_members`."""
    train_step = setup_step(setup, devices.NO_AXIS)
    batch, num, num_streams = setup.sizes
    return cache(lambda steps: make_run_members(train_step, steps, batch, num, num_streams, mesh, batching))


# ---- batch sources


def make_advance(program, next_window):
    """advance(hyper, state, count) -> (state, metrics [M, count] on the host): the next `count` steps of M runs.

    `program` and `next_window` are a batch source: next_window(count) -> (steps, data), data for the next `steps` <=
    `count` steps; program(steps)(hyper, state, data) -> (state, metrics [M, steps], or [steps] of one run).
    """

    def advance(hyper, state, count):
        parts = []
        while count:
            steps, data = next_window(count)
            state, metrics = program(steps)(hyper, state, data)
            parts, count = [*parts, metrics], count - steps
        join = lambda *each: np.atleast_2d(np.concatenate(each, axis=-1))
        return state, jax.tree.map(join, *jax.device_get(parts))

    return advance


def resident(program, data):
    """The batch source of data that are on the devices: any number of steps at once."""
    return program, lambda count: (count, data)


def batch_source(setup, done, on_host):
    """The batch source of a run after step `done`: (program, next_window), see `make_advance`.

    on_host: whether the data stay on the host, from where windows of batches are read ahead in the order of the steps.
    """
    if not on_host:
        return resident(make_program(setup), training_data(setup))
    batch_size, num_train, count = setup.sizes
    source = feed.Source(training_arrays(setup), seed_keys(setup.config.seed)[1], num_train, count, batch_size)
    windows = feed.pieces(done, setup.num_steps, setup.window, feed.window_steps(source))
    batches = feed.read_ahead(feed.make_load(source, setup.mesh), windows)
    run = make_run_batches(setup_step(setup, devices.axis(setup.mesh)), setup.mesh)
    return lambda steps: run, lambda count: next(batches)


def stays_on_host(setup):
    """Whether training data are fed from the host: as `config.data.placement` says, 'auto' if they are too large."""
    placement, on_disk = setup.config.data.placement, isinstance(setup.dataset.train.image, tfds.Records)
    free = devices.free_bytes(setup.mesh)
    too_large = free is not None and feed.size_of(training_arrays(setup)) > SHARE * free * setup.mesh.size
    return placement == "host" or (placement == "auto" and (on_disk or too_large))


def training_data(setup):
    """The training set on the devices, stream-major."""
    return devices.put_split(setup.mesh, stream_major_data(setup))


def stream_major_data(setup):
    """The training set on the host, stream-major."""
    num_examples, count = setup.sizes[1:]
    data = {name: streams.to_slots(array, count) for name, array in training_arrays(setup).items()}
    return {**data, "index": streams.example_index(num_examples, count)}


def training_arrays(setup):
    """The training set as it was loaded, in the order of examples."""
    split = setup.dataset.train
    arrays = {"image": split.image, "label": split.label, "condition": split.condition}
    return {name: array for name, array in arrays.items() if array is not None}
