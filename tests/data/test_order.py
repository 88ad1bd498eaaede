"""Which examples a step takes: all of them in turn, and the same ones on any number of devices."""

from functools import partial

import jax
import numpy as np
import pytest

from vae_jax.data import order as streams

# examples, streams, batch: N a multiple of S and not, shorter streams in plenty, one stream, leftovers and none
SIZES = [(64, 8, 16), (61, 8, 16), (57, 8, 8), (100, 4, 20), (23, 1, 5), (64, 2, 64)]
sizes = pytest.mark.parametrize(("num_examples", "num_streams", "batch_size"), SIZES)


@sizes
@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_rows_hold_the_examples_stream_by_stream(num_examples, num_streams, batch_size, shape):
    """Row s L + p holds example p S + s, zeros past the end of a stream; and back."""
    array = np.random.default_rng(0).integers(1, 256, (num_examples, *shape)).astype(np.uint8)
    rows = streams.to_slots(array, num_streams)
    length = -(-num_examples // num_streams)
    assert streams.length(num_examples, num_streams) == length
    assert rows.shape == (num_streams * length, *shape) and rows.dtype == np.uint8
    for s in range(num_streams):
        for p in range(length):
            example = p * num_streams + s
            expected = array[example] if example < num_examples else np.zeros(shape)
            np.testing.assert_array_equal(rows[s * length + p], expected)
    np.testing.assert_array_equal(streams.from_slots(rows, num_examples, num_streams), array)


def test_rows_by_hand():
    """7 examples in 3 streams of 3: 0 3 6, 1 4 -, 2 5 -."""
    index = streams.example_index(7, 3)
    np.testing.assert_array_equal(index, [0, 3, 6, 1, 4, -1, 2, 5, -1])
    assert index.dtype == np.int32
    np.testing.assert_array_equal(streams.to_slots(10 * np.arange(7), 3), [0, 30, 60, 10, 40, 0, 20, 50, 0])


@pytest.mark.parametrize(
    ("num_examples", "num_streams", "batch_size", "steps"),
    [
        (64, 8, 16, 4),  # 8 in a stream, 2 a step
        (61, 8, 16, 3),  # the shortest stream has 7: three steps of 2, 1 left
        (59_600, 8, 512, 116),  # MNIST: 7,450 in a stream, 64 a step
        (10, 4, 8, 1),
        (7, 8, 8, 0),  # a stream is empty: there is no step to take
    ],
)
def test_steps_per_epoch_by_hand(num_examples, num_streams, batch_size, steps):
    assert streams.steps_per_epoch(num_examples, num_streams, batch_size) == steps


@partial(jax.jit, static_argnums=(2, 3, 4))
def _epoch(key, epoch, num_examples, num_streams, num_blocks):
    index = streams.example_index(num_examples, num_streams).reshape(num_blocks, num_streams // num_blocks, -1)
    return jax.lax.map(partial(streams.epoch_order, key, epoch), index)


def epoch_order(seed, epoch, num_examples, num_streams, num_blocks=1):
    """The order `[D, S/D, L]` of each of D devices, which each know their own streams only."""
    return np.asarray(_epoch(jax.random.key(seed), epoch, num_examples, num_streams, num_blocks))


def examples_of(order, step, num_examples, num_streams, batch_size):
    """The examples `[D, B/D]` that `num_blocks` devices take at a step."""
    index = streams.example_index(num_examples, num_streams).reshape(len(order), -1)
    rows = [streams.batch_slots(each, step, batch_size // num_streams) for each in order]
    return np.stack([block[np.asarray(row)] for block, row in zip(index, rows, strict=True)])


@sizes
def test_an_epochs_order_is_a_permutation_with_the_padding_last(num_examples, num_streams, batch_size):
    (order,) = epoch_order(0, 3, num_examples, num_streams)
    length = streams.length(num_examples, num_streams)
    np.testing.assert_array_equal(np.sort(order), np.tile(np.arange(length), (num_streams, 1)))
    index = np.take_along_axis(streams.example_index(num_examples, num_streams).reshape(num_streams, -1), order, 1)
    for s, row in enumerate(index):
        members = len(range(s, num_examples, num_streams))
        assert (row[:members] >= 0).all() and (row[members:] == -1).all()
        if members > 3:
            assert (np.diff(row[:members]) < 0).any()  # shuffled


@sizes
def test_an_epoch_sees_no_example_twice(num_examples, num_streams, batch_size):
    """steps B different examples, B / S from each stream at each step, and never the padding."""
    order = epoch_order(0, 0, num_examples, num_streams)
    steps = streams.steps_per_epoch(num_examples, num_streams, batch_size)
    batches = [examples_of(order, t, num_examples, num_streams, batch_size).reshape(-1) for t in range(steps)]
    seen = np.concatenate(batches)
    assert len(seen) == len(np.unique(seen)) == steps * batch_size and seen.min() >= 0
    for batch in batches:
        np.testing.assert_array_equal(
            np.bincount(batch % num_streams, minlength=num_streams), batch_size // num_streams
        )
    assert num_examples - len(seen) < batch_size + num_streams  # and leaves none that would make another step


@pytest.mark.parametrize("num_examples", [64, 61])
def test_the_examples_of_a_step_do_not_depend_on_the_devices(num_examples):
    """1, 2, 4 or 8 devices, each shuffling its own streams: the same batch at each step, even in the same order."""
    orders = {d: epoch_order(0, 2, num_examples, 8, d) for d in (1, 2, 4, 8)}
    for step in range(streams.steps_per_epoch(num_examples, 8, 16)):
        batches = {d: examples_of(order, step, num_examples, 8, 16) for d, order in orders.items()}
        for d, batch in batches.items():
            assert batch.shape == (d, 16 // d)
            np.testing.assert_array_equal(batch.reshape(-1), batches[1].reshape(-1))
            for device, own in enumerate(batch):
                np.testing.assert_array_equal(own % 8 // (8 // d), device)  # a device's examples are of its streams


def test_epochs_seeds_and_streams_differ():
    """Another epoch or seed: another order and other leftovers. The streams of an epoch are not shuffled alike."""
    order = lambda seed, epoch: epoch_order(seed, epoch, 100, 4)[0]
    first = order(0, 0)
    np.testing.assert_array_equal(first, order(0, 0))
    for other in (order(0, 1), order(0, 2), order(1, 0)):
        assert (first != other).any(1).all()
    assert len({tuple(row) for row in first}) == 4

    def leftovers(epoch):  # 25 in a stream, 4 a step: one is left in each
        order = epoch_order(0, epoch, 100, 4)
        seen = [examples_of(order, t, 100, 4, 16) for t in range(streams.steps_per_epoch(100, 4, 16))]
        return frozenset(range(100)) - set(np.concatenate(seen, axis=None).tolist())

    left = [leftovers(epoch) for epoch in range(3)]
    assert [len(each) for each in left] == [4, 4, 4] and len(set(left)) == 3


def test_every_example_is_as_likely_at_every_place():
    """Over 4,000 epochs each of the 5 examples of a stream comes first 800 times, within 5 binomial errors of 25."""
    firsts = jax.jit(
        jax.vmap(lambda epoch: streams.epoch_order(jax.random.key(0), epoch, streams.example_index(9, 2).reshape(2, 5)))
    )(np.arange(4000))[..., 0]
    counts = [np.bincount(np.asarray(firsts)[:, s], minlength=5) for s in (0, 1)]
    assert np.abs(counts[0] - 800).max() < 5 * 25.3  # sqrt(4000 * 0.2 * 0.8)
    assert counts[1][4] == 0 and np.abs(counts[1][:4] - 1000).max() < 5 * 27.4  # 4 examples, then padding


def test_batch_rows_by_hand():
    """Two streams of 3 rows, 1 from each a step: step 1 takes the second entries, 1 and 0, at rows 0 + 1 and 3 + 0."""
    order = np.array([[2, 1, 0], [1, 0, 2]])
    np.testing.assert_array_equal(streams.batch_slots(order, 0, 1), [2, 4])
    np.testing.assert_array_equal(streams.batch_slots(order, 1, 1), [1, 3])
    np.testing.assert_array_equal(streams.batch_slots(np.array([[3, 1, 0, 2], [0, 2, 1, 3]]), 1, 2), [0, 2, 5, 7])
