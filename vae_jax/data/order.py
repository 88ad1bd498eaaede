"""Order belongs to examples, never to devices.

Example i lives in stream i mod S. Arrays over examples are stored stream-major, `[S * L, ...]` with L = ceil(N / S):
slot s * L + p holds example p * S + s, and slots past the end of a stream are padding. A device owns S / D whole
streams, so its share is one contiguous block, and the examples of a step do not depend on how many devices there are.
"""

import jax
import jax.numpy as jnp
import numpy as np


def length(num_examples: int, num_streams: int) -> int:
    """L = ceil(N / S), the padded length of a stream."""
    return -(-num_examples // num_streams)


def steps_per_epoch(num_examples: int, num_streams: int, batch_size: int) -> int:
    """Steps of an epoch: floor(floor(N / S) / (B / S)), B / S examples of each stream a step, the remainder left out.

    Args:
        num_examples: N.
        num_streams: S, which divides the batch size.
        batch_size: B.

    Returns:
        The number of steps.
    """
    return (num_examples // num_streams) // (batch_size // num_streams)


def to_slots(array: np.ndarray, num_streams: int) -> np.ndarray:
    """An array in the order of examples as it is stored: stream-major, padded with zeros.

    Args:
        array: `[N, ...]`.
        num_streams: S.

    Returns:
        `[S * L, ...]`.
    """
    array = np.asarray(array)
    padding = -len(array) % num_streams
    array = np.concatenate([array, np.zeros((padding, *array.shape[1:]), array.dtype)])
    return array.reshape(-1, num_streams, *array.shape[1:]).swapaxes(0, 1).reshape(array.shape)


def from_slots(slots: np.ndarray, num_examples: int, num_streams: int) -> np.ndarray:
    """The inverse of `to_slots`.

    Args:
        slots: `[S * L, ...]`.
        num_examples: N.
        num_streams: S.

    Returns:
        `[N, ...]` in the order of examples.
    """
    array = np.asarray(slots).reshape(num_streams, -1, *slots.shape[1:]).swapaxes(0, 1).reshape(slots.shape)
    return array[:num_examples]


def example_index(num_examples: int, num_streams: int) -> np.ndarray:
    """The example in each slot.

    Args:
        num_examples: N.
        num_streams: S.

    Returns:
        `[S * L]` int32, -1 in the padding.
    """
    return to_slots(np.arange(num_examples, dtype=np.int32) + 1, num_streams) - 1


def slot_of(example: jax.Array, num_examples: int, num_streams: int) -> jax.Array:
    """The slot in which an example is stored: (i mod S) L + floor(i / S).

    Args:
        example: i, its number in the training set, or an array of them.
        num_examples: N.
        num_streams: S.

    Returns:
        The slot, or an array of them.
    """
    return example % num_streams * length(num_examples, num_streams) + example // num_streams


def epoch_order(key: jax.Array, epoch: jax.Array, index: jax.Array) -> jax.Array:
    """The order in which an epoch takes the examples of a device's streams; of each by (key, epoch, stream) alone.

    Args:
        key: of the order, one for a run. It is consumed.
        epoch: number of the epoch.
        index: the example in each slot of the device's streams, `[s, L]`, -1 in the padding.

    Returns:
        Positions `[s, L]` within each stream, the padding last.
    """
    epoch_key = jax.random.fold_in(key, epoch)

    def one(example):
        bits = jax.random.bits(jax.random.fold_in(epoch_key, example[0]), example.shape, jnp.uint32) >> 1
        return jnp.argsort(jnp.where(example < 0, jnp.uint32(2**32 - 1), bits))  # example[0] is the stream's number

    return jax.vmap(one)(index)


def batch_slots(order: jax.Array, step: jax.Array, per_stream: int) -> jax.Array:
    """The slots that a step of an epoch takes.

    Args:
        order: positions `[s, L]` as from `epoch_order`.
        step: number of the step in its epoch.
        per_stream: how many examples of each stream.

    Returns:
        Slots `[s * per_stream]`, counted within the device's block.
    """
    positions = jax.lax.dynamic_slice_in_dim(order, step * per_stream, per_stream, axis=1)
    return (positions + order.shape[1] * jnp.arange(order.shape[0])[:, None]).reshape(-1)
