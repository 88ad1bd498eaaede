"""Checkpoints come back bit for bit, on any number of devices, whenever the process that wrote them died."""

import asyncio
import logging
import resource
import signal
import subprocess
import sys
import threading
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vae_jax.errors import CheckpointError
from vae_jax.runs import checkpoint, files


class State(NamedTuple):
    step: Any
    params: Any
    opt_state: Any
    table: Any


def make_state(value=1.0, width=6):
    params = {"encoder": {"kernel": jnp.full((8, width), value)}, "a/b.c": jnp.arange(8, dtype=jnp.bfloat16)}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))  # EmptyState, (), NamedTuples
    return State(jnp.asarray(3, jnp.int32), params, optimizer.init(params), ())


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert isinstance(a, jax.Array) and a.dtype == b.dtype and a.shape == b.shape
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def one_line(caught) -> str:
    text = str(caught.value)
    assert "\n" not in text and len(text) < 400
    return text


def mesh_of(count):
    if jax.device_count() < count:
        pytest.skip(f"{count} devices wanted, {jax.device_count()} there")
    return jax.make_mesh((count,), ("devices",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])


def test_round_trip_keeps_every_bit_and_every_class(tmp_path):
    state = make_state()._replace(
        table={"none": None, "q_params": jnp.zeros((0, 4)), "nan": jnp.asarray([jnp.nan, -0.0])}
    )
    checkpoint.save(tmp_path, 3, state)
    restored = checkpoint.restore(tmp_path, state)
    assert_same(restored, state)
    assert type(restored) is State and type(restored.opt_state[1][0]) is type(state.opt_state[1][0])


def test_restore_from_shapes_alone(tmp_path):
    state = make_state()
    checkpoint.save(tmp_path, 0, state)
    assert_same(checkpoint.restore(tmp_path, jax.eval_shape(make_state)), state)


def test_plain_numbers_and_a_lone_array_are_states_too(tmp_path):
    checkpoint.save(tmp_path / "numbers", 0, {"count": 3, "rate": np.float64(0.5)})
    assert_same(
        checkpoint.restore(tmp_path / "numbers", {"count": 0, "rate": 0.0}),
        {"count": jnp.int32(3), "rate": 0.5 * jnp.ones(())},
    )
    checkpoint.save(tmp_path / "lone", 0, jnp.arange(3))
    assert_same(checkpoint.restore(tmp_path / "lone", jnp.zeros(3, int)), jnp.arange(3))


@pytest.mark.parametrize("before, after", [(2, 4), (4, 1), (1, 2)])
def test_saved_on_some_devices_restored_onto_others(tmp_path, before, after):
    state, spec = make_state(), PartitionSpec("devices")

    def place(tree, mesh):
        sharded = NamedSharding(mesh, spec)
        split = lambda leaf: sharded if leaf.ndim else NamedSharding(mesh, PartitionSpec())
        return jax.tree.map(lambda leaf: jax.device_put(leaf, split(leaf)), tree)

    checkpoint.save(tmp_path, 1, place(state, mesh_of(before)))
    like = place(make_state(0.0), mesh_of(after))
    restored = checkpoint.restore(tmp_path, like)
    assert_same(restored, state)
    for leaf, wanted in zip(jax.tree.leaves(restored), jax.tree.leaves(like), strict=True):
        assert leaf.sharding == wanted.sharding
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
    assert checkpoint.restore(tmp_path, shapes).params["a/b.c"].sharding == like.params["a/b.c"].sharding


def test_a_leaf_without_sharding_mixes_with_any_device(tmp_path):
    checkpoint.save(tmp_path, 0, {"a": jnp.ones(4)})
    restored = checkpoint.restore(tmp_path, {"a": jnp.zeros(4)})["a"]
    assert not restored.committed
    other = jax.device_put(jnp.ones(4), jax.devices()[-1])
    assert (jax.jit(jnp.add)(restored, other) == 2).all()


def test_a_restored_state_may_be_donated(tmp_path):
    checkpoint.save(tmp_path, 0, {"a": jnp.arange(4096.0)})
    restored = checkpoint.restore(tmp_path, {"a": jnp.zeros(4096)})
    step = jax.jit(lambda tree: {"a": tree["a"] + 1}, donate_argnums=0)
    assert (step(step(restored))["a"] == jnp.arange(4096.0) + 2).all()
    assert (checkpoint.restore(tmp_path, {"a": jnp.zeros(4096)})["a"] == jnp.arange(4096.0)).all()


def test_the_newest_are_kept_and_any_of_them_can_be_asked_for(tmp_path):
    assert checkpoint.latest_step(tmp_path / "nowhere") is None
    for step in (5, 10, 100):
        checkpoint.save(tmp_path, step, {"a": jnp.full(3, float(step))}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10", "100"]
    assert checkpoint.latest_step(tmp_path) == 100
    like = {"a": jnp.zeros(3)}
    assert checkpoint.restore(tmp_path, like)["a"][0] == 100 and checkpoint.restore(tmp_path, like, 10)["a"][0] == 10
    checkpoint.save(tmp_path, 7, {"a": jnp.full(3, 7.0)}, keep=1)  # a run that went back keeps what it just saved
    assert sorted(path.name for path in tmp_path.iterdir()) == ["100", "7"]


def test_the_same_step_can_be_saved_again(tmp_path):
    for value in (1.0, 2.0):
        checkpoint.save(tmp_path, 4, {"a": jnp.full(3, value)})
    assert checkpoint.restore(tmp_path, {"a": jnp.zeros(3)})["a"][0] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["4"]


def test_what_a_killed_process_leaves_is_ignored_and_then_removed(tmp_path):
    like = {"a": jnp.zeros(3)}
    checkpoint.save(tmp_path, 1, {"a": jnp.ones(3)})
    half = tmp_path / "2.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "_CHECKPOINT_METADATA").write_text("{")
    (tmp_path / "0.doomed").mkdir()
    (tmp_path / "3").mkdir()  # empty: no checkpoint
    (tmp_path / "notes.txt").write_text("the user's own")
    assert checkpoint.latest_step(tmp_path) == 1 and checkpoint.restore(tmp_path, like)["a"][0] == 1
    checkpoint.save(tmp_path, 2, {"a": jnp.full(3, 2.0)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "3", "notes.txt"]


def test_killed_while_saving_the_same_step_again(tmp_path):
    like = {"a": jnp.zeros(3)}
    checkpoint.save(tmp_path, 1, {"a": jnp.ones(3)})
    (tmp_path / "1").rename(tmp_path / "1.replaced")  # as `save` does before it writes
    assert checkpoint.latest_step(tmp_path) == 1 and checkpoint.restore(tmp_path, like, 1)["a"][0] == 1
    checkpoint.save(tmp_path, 1, {"a": jnp.full(3, 2.0)})
    assert [path.name for path in tmp_path.iterdir()] == ["1"] and checkpoint.restore(tmp_path, like)["a"][0] == 2


def test_nothing_to_restore(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        checkpoint.restore(tmp_path / "none", {})
    assert one_line(caught) == f"no checkpoint in {tmp_path / 'none'}"
    checkpoint.save(tmp_path, 2, {"a": jnp.ones(3)})
    with pytest.raises(CheckpointError) as caught:
        checkpoint.restore(tmp_path, {"a": jnp.ones(3)}, 9)
    assert "step 9" in one_line(caught) and one_line(caught).endswith("there is 2")


@pytest.mark.parametrize(
    "like, words",
    [
        ({"a": {"b": jnp.ones((3, 5))}, "c": jnp.ones(2)}, "leaf a/b is float32[3,4], wanted float32[3,5]"),
        ({"a": {"b": jnp.ones((3, 4), int)}, "c": jnp.ones(2)}, "leaf a/b is float32[3,4], wanted int32[3,4]"),
        ({"a": {"d": jnp.ones((3, 4))}, "c": jnp.ones(2)}, "has no leaf a/d (wanted: float32[3,4])"),
        ({"c": jnp.ones(2)}, "has a leaf a/b (float32[3,4]) that is not wanted"),
    ],
)
def test_another_tree_is_refused_by_name(tmp_path, capfd, like, words):
    checkpoint.save(tmp_path, 2, {"a": {"b": jnp.ones((3, 4))}, "c": jnp.ones(2)})
    with pytest.raises(CheckpointError) as caught:
        checkpoint.restore(tmp_path, like)
    assert words in one_line(caught) and str(tmp_path / "2") in one_line(caught)
    assert capfd.readouterr() == ("", "")


def test_part_of_a_checkpoint_on_request(tmp_path):
    state = make_state(2.0)
    checkpoint.save(tmp_path, 0, state)
    part = checkpoint.restore(tmp_path, State((), make_state().params, (), ()), partial=True)
    assert_same(part.params, state.params)


@pytest.mark.parametrize("damage", ["no_tree", "bad_bytes", "no_file", "no_sums"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(tmp_path, capfd, damage):
    like = {"a": jnp.zeros(300)}
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {"a": jnp.arange(300) * 0.1})
    if damage == "no_tree":
        (tmp_path / "2" / "_METADATA").write_text("{")
    if damage == "no_sums":
        (tmp_path / "2" / files.SUMS).unlink()
    for file in (tmp_path / "2").rglob("d/*"):
        if damage == "bad_bytes":
            file.write_bytes(file.read_bytes()[:-20] + bytes(20))
        elif damage == "no_file":
            file.unlink()
    assert checkpoint.latest_step(tmp_path) == 1
    assert_same(checkpoint.restore(tmp_path, like), {"a": jnp.arange(300) * 0.1})
    out, err = capfd.readouterr()
    assert (
        out == "" and err.count("\n") == 1 and f"{tmp_path / '2'} is damaged" in err and f"{tmp_path / '1'} is" in err
    )
    with pytest.raises(CheckpointError, match="no undamaged checkpoint"):
        checkpoint.restore(tmp_path, like, 2)


def test_where_all_are_damaged_one_error_and_nothing_deleted(tmp_path):
    checkpoint.save(tmp_path, 1, {"a": jnp.ones(3)})
    (tmp_path / "1" / "_METADATA").unlink()
    before = sorted(tmp_path.rglob("*"))
    for action in (checkpoint.latest_step, lambda root: checkpoint.restore(root, {"a": jnp.ones(3)})):
        with pytest.raises(CheckpointError) as caught:
            action(tmp_path)
        assert "_METADATA is missing" in one_line(caught)
    assert sorted(tmp_path.rglob("*")) == before


def test_no_flipped_bit_is_silent(tmp_path):
    checkpoint.save(tmp_path, 1, make_state())
    folder, random = tmp_path / "1", np.random.default_rng(0)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = np.array([path.stat().st_size for path in paths])
    for place in random.integers(sizes.sum(), size=300):
        number = int(np.searchsorted(sizes.cumsum(), place, side="right"))
        content = paths[number].read_bytes()
        flipped = bytearray(content)
        flipped[place - (sizes.cumsum() - sizes)[number]] ^= 1 << int(random.integers(8))
        paths[number].write_bytes(flipped)
        assert files.damage(folder), paths[number]
        paths[number].write_bytes(content)
    assert files.damage(folder) is None


def test_a_full_disk_is_one_line_and_the_checkpoint_before_stays(tmp_path, capfd):
    checkpoint.save(tmp_path, 1, {"a": jnp.ones(3)})
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(CheckpointError) as caught:
            checkpoint.save(tmp_path, 2, {"a": jax.random.normal(jax.random.key(0), (100_000,))})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "checkpoint 2 cannot be written" in str(caught.value) and "checkpoints there: 1" in one_line(caught)
    assert checkpoint.latest_step(tmp_path) == 1 and "Traceback" not in capfd.readouterr().err


def test_states_that_cannot_be_stored(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        checkpoint.save(tmp_path, 0, {"rng": jax.random.key(0)})
    assert "leaf rng is a PRNG key" in one_line(caught)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.save(tmp_path, 0, {"a/b": jnp.ones(1), "a": {"b": jnp.ones(1)}})
    assert "both called a/b" in one_line(caught)
    with pytest.raises(ValueError, match="keep >= 1"):
        checkpoint.save(tmp_path, 0, {"a": jnp.ones(1)}, keep=0)
    assert not any(tmp_path.iterdir())


def test_silent_and_without_threads_even_where_absl_logs(tmp_path, capfd, caplog):
    logger = logging.getLogger("absl")
    level, threads = logger.level, set(threading.enumerate())
    logger.setLevel(logging.DEBUG)
    try:
        checkpoint.save(tmp_path, 0, {"a": jnp.ones(3)})
        checkpoint.restore(tmp_path, {"a": jnp.ones(3)})
        assert logger.level == logging.DEBUG
    finally:
        logger.setLevel(level)
    assert capfd.readouterr() == ("", "") and not caplog.records
    assert set(threading.enumerate()) == threads


def test_works_inside_a_running_event_loop_as_in_a_notebook(tmp_path):
    async def cell():
        checkpoint.save(tmp_path, 0, {"a": jnp.ones(3)})
        return checkpoint.restore(tmp_path, {"a": jnp.zeros(3)})

    assert asyncio.run(cell())["a"][0] == 1


KILLED = """
import sys
import jax.numpy as jnp
from vae_jax.runs import checkpoint, files
directory, again = sys.argv[1], int(sys.argv[2])
step = checkpoint.latest_step(directory) or 0
if step:
    state = checkpoint.restore(directory, {"step": jnp.zeros((), int), "a": jnp.zeros((100, 1000))})
    assert int(state["step"]) == step and (state["a"] == step).all()
print("restored", step, flush=True)
while True:
    step += not again
    checkpoint.save(directory, step, {"step": jnp.asarray(step), "a": jnp.full((100, 1000), float(step))}, keep=1)
    print("saved", step, flush=True)
"""


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path):
    """Twelve times, and on a machine so busy that few saves come to an end more often, 60 times at most."""
    delays, saved = np.random.default_rng(0).uniform(0.05, 0.8, 60), 0
    for trial, delay in enumerate(delays):
        if trial >= 12 and saved > 12:
            break
        command = [sys.executable, "-W", "error", "-c", KILLED, str(tmp_path), str(int(trial % 4 == 3))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            first = process.stdout.readline()
            time.sleep(delay)
            process.kill()
            output, errors = process.communicate()
        assert first.startswith("restored") and int(first.split()[1]) >= saved, errors
        saved = max([saved, *(int(line.split()[1]) for line in output.splitlines() if line.startswith("saved "))])
    assert saved > 12
