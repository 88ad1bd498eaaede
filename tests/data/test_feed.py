"""Data fed from the host train the run that data on the devices train: same batches, same noise, same numbers."""

import threading
from functools import partial

import jax
import numpy as np
import pytest

from vae_jax import config as configs
from vae_jax.commands import configuration
from vae_jax.commands.train import train_run
from vae_jax.data import datasets, feed
from vae_jax.data import order as streams
from vae_jax.errors import DataError
from vae_jax.parallel import devices
from vae_jax.runs import directory
from vae_jax.training import setup as setups
from vae_jax.training.program import batch_source, make_advance, stays_on_host, training_arrays

NUM, BATCH, STREAMS = 203, 24, 8  # epochs of 8 steps, in each of which 11 examples are left over


def make_config(**changes):
    config = configs.from_experiment("experiments/digits.py", "two_quick")
    config.data.num_train, config.train.batch_size, config.model.hidden = NUM, BATCH, (8,)
    config.train.epochs, config.train.log_every, config.train.eval_every = 3, 5, 3
    config.eval.num_samples, config.eval.max_examples, config.eval.train_examples = 5, 20, 10
    config.optimizer.name, config.optimizer.learning_rate = "sgd", 1e-3
    config.update_from_flattened_dict(changes)
    return configuration.validate(config)


def test_pieces_cover_every_step_once_and_straddle_no_window():
    for start, end, window, limit in ((0, 24, 5, 3), (7, 24, 5, 100), (0, 3, 10, 1)):
        found = list(feed.pieces(start, end, window, limit))
        assert [step for first, n in found for step in range(first, first + n)] == list(range(start, end))
        assert all(n <= limit and first // window == (first + n - 1) // window for first, n in found)


def test_one_is_read_while_one_is_in_use():
    """The thread is at item k + 1 when item k is handed out, and not further."""
    begun, gate = [], threading.Semaphore(0)

    def load(item):
        begun.append(item)
        gate.acquire(timeout=10)
        return item

    gate.release()
    found = feed.read_ahead(load, range(4))
    assert next(found) == 0
    gate.release()
    assert next(found) == 1 and begun in ([0, 1], [0, 1, 2])
    gate.release(2)
    assert list(found) == [2, 3]


def test_what_fails_in_the_thread_is_raised_where_it_is_used():
    def load(item):
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(feed.read_ahead(load, range(2)))


@pytest.mark.parametrize("num_devices", [1, 4])
def test_batches_are_those_of_the_order_on_the_devices(num_devices):
    """Steps 6 to 17, over two ends of epochs, against `streams` one step at a time."""
    image = np.random.default_rng(0).integers(0, 256, (NUM, 3), np.uint8)
    key = jax.random.key(7)
    source = feed.Source({"image": image}, key, NUM, STREAMS, BATCH)
    mesh = devices.make_mesh(num_devices)
    count, found = feed.make_load(source, mesh)((6, 12))
    assert count == 12 and found["image"].shape == (12, BATCH, 3) and found["image"].dtype == np.uint8
    length, epoch_steps = streams.length(NUM, STREAMS), streams.steps_per_epoch(NUM, STREAMS, BATCH)
    index = streams.example_index(NUM, STREAMS)
    for i, step in enumerate(range(6, 18)):
        order = streams.epoch_order(key, step // epoch_steps, index.reshape(STREAMS, length))
        rows = np.asarray(streams.batch_slots(order, step % epoch_steps, BATCH // STREAMS))
        np.testing.assert_array_equal(found["index"][i], index[rows])
        np.testing.assert_array_equal(found["image"][i], image[index[rows]])
        np.testing.assert_array_equal(found["slot"][i], rows % (STREAMS // num_devices * length))


def advance_to_the_end(setup, on_host, start=0):
    state, hyper = setups.make_init(setup)(), devices.put_replicated(setup.mesh, setups.hyperparameters(setup.config))
    advance, done, metrics = make_advance(*batch_source(setup, start, on_host)), start, []
    state = state._replace(step=jax.device_put(np.int32(start), state.step.sharding))
    while done < setup.num_steps:
        count = min(setup.window - done % setup.window, setup.num_steps - done)
        state, window = advance(hyper, state, count)
        metrics.append(window["elbo"][0])
        done += count
    return jax.device_get((state.params, state.table)), np.concatenate(metrics)


TABLE = {"inference.kind": "per_datapoint", "data.binarization": "fixed"}


@pytest.mark.parametrize(
    "changes, num_devices, start",
    [({"train.log_every": 6}, 1, 0), pytest.param({}, 4, 11, marks=pytest.mark.slow), (TABLE, 2, 11)],
    ids=["one", "four", "table"],
)
def test_a_fed_run_is_the_run(changes, num_devices, start, monkeypatch):
    """Parameters, table and every step's ELBO after 24 steps of plain SGD, windows of two steps read ahead."""
    setup = setups.make_setup(make_config(**changes), num_devices)
    monkeypatch.setattr(feed, "window_steps", lambda source: 2)
    (here, here_elbo), (there, there_elbo) = (advance_to_the_end(setup, host, start) for host in (False, True))
    np.testing.assert_allclose(there_elbo, here_elbo, rtol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), there, here)


def test_placement_is_by_size_unless_it_is_said(monkeypatch):
    setup = setups.make_setup(make_config(), 1)
    size = feed.size_of(training_arrays(setup))
    assert size == NUM * (64 + 4)
    for free, expected in ((3 * size, False), (size, True), (None, False)):
        monkeypatch.setattr(devices, "free_bytes", lambda mesh, free=free: free)
        assert stays_on_host(setup) == expected
    assert stays_on_host(setup._replace(config=make_config(**{"data.placement": "host"})))
    monkeypatch.setattr(devices, "free_bytes", lambda mesh: 1)
    assert not stays_on_host(setup._replace(config=make_config(**{"data.placement": "device"})))


def test_windows_are_as_large_as_asked():
    source = feed.Source({"image": np.zeros((100, 50), np.uint8), "label": np.zeros(100, np.int32)}, None, 100, 1, 10)
    assert feed.window_steps(source, 54 * 10 * 7) == 7 and feed.window_steps(source, 1) == 1


def write_files(folder, binary=False):
    """digits as .npy files."""
    digits = datasets.load(make_config().data)
    image = (digits.train.image > 8).astype(np.uint8) if binary else digits.train.image
    for name, split in (("train", digits.train._replace(image=image)), ("test", digits.test)):
        np.save(folder / f"x_{name}.npy", split.image)
        np.save(folder / f"y_{name}.npy", split.label)


def test_a_directory_of_npy_files_is_mapped_not_read(tmp_path):
    write_files(tmp_path)
    config = make_config(**{"data.name": "npz", "data.path": str(tmp_path), "data.num_train": 0})
    dataset = datasets.load(config.data)
    assert isinstance(dataset.train.image, np.memmap) and dataset.train.image.dtype == np.uint8
    assert dataset.info.num_train == NUM - NUM // 10 and dataset.provenance["bytes"]["x_train.npy"] > NUM * 64
    with pytest.raises(DataError, match=r"'fixed' would make all of .* in memory"):
        datasets.load(make_config(**{"data.name": "npz", "data.path": str(tmp_path), "data.num_train": 0} | FIXED).data)
    (tmp_path / "x_test.npy").unlink()
    with pytest.raises(DataError, match="no array 'x_test'"):
        datasets.load(config.data)


FIXED = {"data.binarization": "fixed"}


@pytest.mark.slow
def test_a_run_from_mapped_files_by_the_command(tmp_path):
    """Trained from the host by itself, and with the data on the devices: placement is no part of a run's identity."""
    write_files(tmp_path)
    changes = {"data.name": "npz", "data.path": str(tmp_path), "data.num_train": 0}
    fed = train_run(make_config(**changes, **{"data.placement": "host"}), tmp_path / "fed", 2)
    kept = train_run(make_config(**changes), tmp_path / "kept", 2)
    for name in ("elbo", "nll"):
        np.testing.assert_allclose(fed["splits"]["test"][name]["value"], kept["splits"]["test"][name]["value"], 1e-5)
    assert directory.run_status(tmp_path / "fed", make_config(**changes).to_dict()) == "resume"
