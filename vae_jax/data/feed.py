"""Training data that stay on the host: windows of batches, read ahead while the devices work.

Which examples a step takes, and their noise, are those of data on the devices (streams.py), so a run is the same either
way, wherever it stops and resumes. Arrays may be anything with a shape and a dtype that gives rows for an array of
numbers: NumPy arrays, memory-mapped files.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vae_jax.data import order as streams
from vae_jax.parallel import devices

WINDOW_BYTES = 64 * 2**20  # of batches that travel together; two such windows are on the devices at a time


class Source(NamedTuple):
    """The training set on the host, and how its batches are made up."""

    arrays: dict  # {name: array-like [N, ...]} in the order of examples
    order_key: Any
    num_examples: int
    num_streams: int
    batch_size: int


def size_of(arrays):
    """Bytes of a dict of array-likes, which need not be in memory."""
    return sum(int(np.prod(a.shape, dtype=np.int64)) * np.dtype(a.dtype).itemsize for a in arrays.values())


def window_steps(source, num_bytes=WINDOW_BYTES):
    """How many steps' batches are so many bytes; one at least."""
    return max(1, num_bytes * source.num_examples // (size_of(source.arrays) * source.batch_size))


def pieces(start, end, window, limit):
    """(step, count) from step `start` to `end`, none across a multiple of `window`, none longer than `limit`."""
    while start < end:
        count = min(window - start % window, limit, end - start)
        yield start, count
        start += count


def make_load(source, mesh):
    """load((step, count)) -> (count, {name: [count, B, ...]}): the batches of consecutive steps, on the devices.

    Each process reads what its own devices take. 'slot' is where an example is in its device's block of a table.
    """
    num_examples, num_streams = source.num_examples, source.num_streams
    length = streams.length(num_examples, num_streams)
    epoch_steps = streams.steps_per_epoch(num_examples, num_streams, source.batch_size)
    index = streams.example_index(num_examples, num_streams).reshape(num_streams, length)
    permute, place = jax.jit(streams.epoch_order), NamedSharding(mesh, P(None, devices.AXIS))
    order = lru_cache(2)(lambda epoch: np.asarray(permute(source.order_key, epoch, index)))

    def load(piece):
        parts = [
            (first // epoch_steps, first % epoch_steps, n) for first, n in pieces(*ends(piece), epoch_steps, 2**31)
        ]
        slots = np.concatenate([slots_of(order(epoch), within, n, source) for epoch, within, n in parts])
        example = slots % length * num_streams + slots // length
        whole = {
            "index": example.astype(np.int32),
            "slot": (slots % (len(index) // mesh.size * length)).astype(np.int32),
        }
        data = {name: put(array, place) for name, array in whole.items()}
        return piece[1], data | {name: put_examples(array, example, place) for name, array in source.arrays.items()}

    return load


def ends(piece):
    step, count = piece
    return step, step + count


def slots_of(order, within, count, source):
    """Stream-major slots `[count, B]` of some steps of an epoch, as `streams.batch_slots` has them one by one."""
    each, (num_streams, length) = source.batch_size // source.num_streams, order.shape
    positions = order[:, within * each : (within + count) * each].reshape(num_streams, count, each)
    slots = positions + length * np.arange(num_streams)[:, None, None]
    return slots.swapaxes(0, 1).reshape(count, source.batch_size)


def put(array, place):
    return jax.make_array_from_callback(array.shape, place, lambda block: array[block])


def put_examples(array, example, place):
    """The slots `example` `[count, B]` of an array-like on the devices, read in the order they have on a disk."""

    def read(block):
        unique, inverse = np.unique(example[block[:2]], return_inverse=True)
        return np.asarray(array[unique])[inverse.reshape(example[block[:2]].shape)]

    return jax.make_array_from_callback((*example.shape, *array.shape[1:]), place, read)


def read_ahead(load, items):
    """load(item) of each in turn, the next one loaded by a thread while one is in use."""
    with ThreadPoolExecutor(1) as pool:
        ahead = None
        for item in items:
            coming = pool.submit(load, item)
            if ahead is not None:
                yield ahead.result()
            ahead = coming
        if ahead is not None:
            yield ahead.result()
