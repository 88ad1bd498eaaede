"""Order belongs to examples, never to devices.

Example i lives in stream i mod S. Arrays over examples are stored stream-major, `[S * L, ...]` with L = ceil(N / S):
slot s * L + p holds example p * S + s, and slots past the end of a stream are padding. A device owns S / D whole
streams, so its share is one contiguous block, and the examples of a step do not depend on how many devices there are.
"""

import jax
import jax.numpy as jnp
import numpy as np


def length(num_examples, num_streams):
    """L, the padded length of a stream."""
    return -(-num_examples // num_streams)


def steps_per_epoch(num_examples, num_streams, batch_size):
    """Steps of an epoch: what the shortest stream holds, batch_size / num_streams at a time; the rest waits."""
    return (num_examples // num_streams) // (batch_size // num_streams)


def to_slots(array, num_streams):
    """`[N, ...]` in the order of examples -> `[S * L, ...]` stream-major, padded with zeros."""
    array = np.asarray(array)
    padding = -len(array) % num_streams
    array = np.concatenate([array, np.zeros((padding, *array.shape[1:]), array.dtype)])
    return array.reshape(-1, num_streams, *array.shape[1:]).swapaxes(0, 1).reshape(array.shape)


def from_slots(slots, num_examples, num_streams):
    """The inverse of `to_slots`."""
    slots = np.asarray(slots)
    array = slots.reshape(num_streams, -1, *slots.shape[1:]).swapaxes(0, 1).reshape(slots.shape)
    return array[:num_examples]


def example_index(num_examples, num_streams):
    """The example in each slot, `[S * L]` int32, -1 in the padding."""
    return to_slots(np.arange(num_examples, dtype=np.int32) + 1, num_streams) - 1


def slot_of(example, num_examples, num_streams):
    """The slot in which an example is stored."""
    return example % num_streams * length(num_examples, num_streams) + example // num_streams


def epoch_order(key, epoch, index):
    """A device's permutation of its streams in an epoch: index `[s, L]` of its slots -> positions `[s, L]`.

    The order of a stream depends on (key, epoch, stream) alone. The key is consumed.
    """

    def one(slot):
        stream_key = jax.random.fold_in(
            jax.random.fold_in(key, epoch), slot[0]
        )  # a stream's first example is its number
        bits = jax.random.bits(stream_key, slot.shape, jnp.uint32) >> 1
        return jnp.argsort(jnp.where(slot < 0, jnp.uint32(2**32 - 1), bits))

    return jax.vmap(one)(index)


def batch_slots(order, step, per_stream):
    """Rows `[s * per_stream]` of a device's block that step `step` of an epoch takes, `per_stream` from each stream."""
    positions = jax.lax.dynamic_slice_in_dim(order, step * per_stream, per_stream, axis=1)
    return (positions + order.shape[1] * jnp.arange(order.shape[0])[:, None]).reshape(-1)
