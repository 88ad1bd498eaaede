"""Training data that stay on the host: windows of batches, read ahead while the devices work.

Which examples a step takes, and their noise, are those of data on the devices (order.py), so a run is the same either
way, wherever it stops and resumes. Arrays may be anything with a shape and a dtype that an array of numbers can index:
NumPy arrays, memory-mapped files, `Records`.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vae_jax.data import order as streams
from vae_jax.parallel import devices

T = TypeVar("T")
R = TypeVar("R")
WINDOW_BYTES = 64 * 2**20  # of batches that travel together; two such windows are on the devices at a time


class Source(NamedTuple):
    """The training set on the host, and how its batches are made up."""

    arrays: dict  # {name: array-like [N, ...]} in the order of examples
    order_key: jax.Array  # of `epoch_order`
    num_examples: int  # N
    num_streams: int  # S
    batch_size: int  # B


def size_of(arrays: dict) -> int:
    """Size of array-likes, which need not be in memory.

    Args:
        arrays: {name: array-like}.

    Returns:
        Bytes.
    """
    return sum(int(np.prod(a.shape, dtype=np.int64)) * np.dtype(a.dtype).itemsize for a in arrays.values())


def window_steps(source: Source, num_bytes: int = WINDOW_BYTES) -> int:
    """How many steps' batches are so many bytes.

    Args:
        source: the training set.
        num_bytes: of the batches.

    Returns:
        The number of steps, at least 1.
    """
    return max(1, num_bytes * source.num_examples // (size_of(source.arrays) * source.batch_size))


def pieces(start: int, end: int, window: int, limit: int) -> Iterator[tuple[int, int]]:
    """The steps from `start` to `end` in pieces, none across a multiple of `window`, none longer than `limit`.

    Args:
        start: the first step.
        end: the step after the last.
        window: steps.
        limit: steps.

    Returns:
        An iterator over (first step, number of steps).
    """
    while start < end:
        count = min(window - start % window, limit, end - start)
        yield start, count
        start += count


def make_load(source: Source, mesh: Mesh) -> Callable[[tuple[int, int]], tuple[int, dict[str, jax.Array]]]:
    """The function that puts the batches of consecutive steps on the devices; a process reads what its devices take.

    Args:
        source: the training set.
        mesh: the devices.

    Returns:
        load((step, count)) -> (count, {name: `[count, B, ...]`}) with the source's arrays, 'index' (the example's
        number) and 'slot' (its place in its device's block of a table).
    """
    num_streams, length = source.num_streams, streams.length(source.num_examples, source.num_streams)
    epoch_steps = streams.steps_per_epoch(source.num_examples, num_streams, source.batch_size)
    index = streams.example_index(source.num_examples, num_streams).reshape(num_streams, length)
    permute, place = jax.jit(streams.epoch_order), NamedSharding(mesh, P(None, devices.AXIS))
    order = lru_cache(2)(lambda epoch: np.asarray(permute(source.order_key, epoch, index)))
    each, first_slots = source.batch_size // num_streams, length * np.arange(num_streams)[:, None]

    def slots_at(step):
        epoch, within = divmod(step, epoch_steps)
        return (order(epoch)[:, within * each : (within + 1) * each] + first_slots).reshape(-1)

    def load(piece):
        start, count = piece
        slots = np.stack([slots_at(step) for step in range(start, start + count)])
        example = slots % length * num_streams + slots // length
        block = slots % (index.size // mesh.size)
        data = devices.put(place, {"index": example.astype(np.int32), "slot": block.astype(np.int32)})
        return count, data | {name: put_examples(array, example, place) for name, array in source.arrays.items()}

    return load


def put_examples(array, example, place):
    """The examples `[count, B]` of an array-like on the devices, read in their order on the disk."""

    def read(block):
        unique, inverse = np.unique(example[block[:2]], return_inverse=True)
        return np.asarray(array[unique])[inverse.reshape(example[block[:2]].shape)]

    return jax.make_array_from_callback((*example.shape, *array.shape[1:]), place, read)


def read_ahead(load: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """load(item) of each item in turn, the next one loaded by a thread while one is in use.

    Args:
        load: called in the thread; what it raises is raised where its result is due.
        items: its arguments.

    Returns:
        An iterator over the results.
    """
    with ThreadPoolExecutor(1) as pool:
        coming = (pool.submit(load, item) for item in items)
        ahead = next(coming, None)
        while ahead is not None:
            after = next(coming, None)
            yield ahead.result()
            ahead = after
