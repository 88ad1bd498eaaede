"""The compiled programs of training: many steps in one scan, on data on the devices or fed from the host."""

from functools import cache

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from vae_jax.config import num_streams
from vae_jax.data import feed, tfds
from vae_jax.data import order as streams
from vae_jax.data.preprocess import make_corruption
from vae_jax.keys import seed_keys
from vae_jax.models.inference import has_table
from vae_jax.models.model import make_model
from vae_jax.objectives.loss import make_objective, make_refine, make_weights
from vae_jax.parallel import devices
from vae_jax.training import step
from vae_jax.training.optimizer import make_learning_rate, make_table_optimizer
from vae_jax.training.setup import example_index, log_window, sizes
from vae_jax.training.step import MEMBERS_SPECS, STATE_SPECS


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

    data: 'image', 'index' and the like, stream-major (see streams.py) and split over the devices. hyper: 'order' and
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
    the devices tell one another nothing. Runs on one device go one after another (batching 'map') or together ('vmap').
    The state is donated. `train_step` is a step for one device, see `parallel.NO_AXIS`.
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
    specs = MEMBERS_SPECS
    return devices.device_program(device_members, mesh, (split, specs, P()), (specs, split), donate=(1,))


def make_program(setup):
    """program(num_steps) -> the compiled run of so many steps, see `step.make_run_steps`."""
    train_step = make_train_step(setup, devices.axis(setup.mesh))
    return cache(lambda steps: make_run_steps(train_step, steps, *sizes(setup), setup.mesh))


SHARE = 0.5  # of the devices' free memory that training data may take


def stays_on_host(setup):
    """Whether training data are fed from the host: as `config.data.placement` says, 'auto' if they are too large."""
    placement, on_disk = setup.config.data.placement, isinstance(setup.dataset.train.image, tfds.Records)
    free = devices.free_bytes(setup.mesh)
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
    order_key = seed_keys(setup.config.seed)[1]
    batch_size, num_train, count = sizes(setup)
    source = feed.Source(training_arrays(setup), order_key, num_train, count, batch_size)
    windows = feed.pieces(done, setup.num_steps, log_window(setup), feed.window_steps(source))
    batches = feed.read_ahead(feed.make_load(source, setup.mesh), windows)
    run = make_run_batches(make_train_step(setup, devices.axis(setup.mesh)), setup.mesh)

    def advance_fed(hyper, state, count):
        parts = []
        while count:
            steps, data = next(batches)
            state, metrics = run(hyper, state, data)
            parts, count = [*parts, metrics], count - steps
        return state, jax.tree.map(lambda *each: np.concatenate(each), *jax.device_get(parts))

    return advance_fed


def make_members_program(setup, mesh, batching):
    """program(num_steps) -> the compiled runs of many such setups side by side, see `step.make_run_members`."""
    train_step = make_train_step(setup, devices.NO_AXIS)
    return cache(lambda steps: make_run_members(train_step, steps, *sizes(setup), mesh, batching))


def make_train_step(setup, axis):
    """The training step of a setup, see `step.make_train_step`."""
    config = setup.config
    table_rate = make_learning_rate(config.optimizer, setup.num_steps, "table_learning_rate")
    updates = step.TableUpdates(make_table_optimizer(), table_rate, config.inference.inner_steps)
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
        table_updates=updates if has_table(config) else None,
        axis=axis,
    )


def training_data(setup):
    """The training set on the devices, stream-major."""
    return devices.put_split(setup.mesh, stream_major_data(setup))


def stream_major_data(setup):
    """The training set on the host, stream-major."""
    count = num_streams(setup.config)
    data = {name: streams.to_slots(array, count) for name, array in training_arrays(setup).items()}
    return {**data, "index": example_index(setup)}


def training_arrays(setup):
    """The training set as it was loaded, in the order of examples."""
    split = setup.dataset.train
    arrays = {"image": split.image, "label": split.label, "condition": split.condition}
    return {name: array for name, array in arrays.items() if array is not None}
