"""Checkpoints: one pytree of arrays in, the same pytree out, on any number of devices.

A checkpoint is the folder `directory/<step>`, complete if it is there at all: orbax writes under another name, then
renames. Leaves are stored flat, by their path in the tree ('params/decoder/kernel'), so empty containers (`()`,
`optax.EmptyState`) cost nothing and the tree's classes live in `like`, never in a file. Every leaf comes back as a
`jax.Array`. Whenever the process is killed, the checkpoint before stays restorable: every move is one rename, and a
folder that is to go is renamed before it is emptied. Only this module knows orbax, and not its CheckpointManager, whose
`save` of a step that is there, or of one before the newest, returns False and saves nothing: a run that resumed from an
older checkpoint would lose what it does next.
"""

import contextlib
import logging
import pathlib
import re
import shutil
import sys
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from vae_jax.errors import CheckpointError
from vae_jax.runs import files

_WARNED: set[pathlib.Path] = set()
_ONE_AT_A_TIME = threading.Lock()  # the runs of a sweep are measured, and their best saved, in several threads
_WRITING, _UNSEALED, _REPLACED, _DOOMED = ".orbax-checkpoint-tmp", ".unsealed", ".replaced", ".doomed"


def save(directory: str | pathlib.Path, step: int, state: Any, *, keep: int = 2) -> None:
    """Stores a state as `directory/<step>`, complete on return.

    Args:
        directory: of the checkpoints of one run.
        step: its number; one that is there is replaced.
        state: a pytree of arrays.
        keep: how many checkpoints stay, the newest.

    Raises:
        CheckpointError: for a leaf that is a PRNG key, or two of one name; or where the disk takes no checkpoint, the
            ones before staying as they are.
        ValueError: step < 0 or keep < 1.
    """
    if step < 0 or keep < 1:
        raise ValueError(f"checkpoint.save wants step >= 0 and keep >= 1, not step={step} and keep={keep}")
    root, step = pathlib.Path(directory).absolute(), int(step)
    arrays = {name: leaf for name, leaf in _named(state).items() if leaf.size}  # orbax refuses arrays of size zero
    if jax.process_index() == 0:
        with _writable(root, step):
            _make_room(root, step)
    _meet("checkpoint.make_room")
    written = root / f"{step}{_UNSEALED}"
    with _writable(root, step):
        with _orbax() as orbax:
            orbax.save(written, ocp.args.PyTreeSave(arrays))
        if jax.process_index() == 0:
            files.seal(written)
            written.rename(root / str(step))
            files.sync(root)
            _prune(root, step, keep)
    _meet("checkpoint.sealed")


def restore(directory: str | pathlib.Path, like: Any, step: int | None = None, *, partial: bool = False) -> Any:
    """A saved state, with the tree, shapes, dtypes and shardings of `like`.

    Args:
        directory: of the checkpoints of one run.
        like: a pytree of arrays or `jax.ShapeDtypeStruct`s; a leaf without a sharding (or an uncommitted array) comes
            back on the default device, uncommitted.
        step: of the checkpoint; by default the newest that is undamaged, with a warning for each that is newer.
        partial: whether leaves of the checkpoint that `like` has not are left out; otherwise they are refused.

    Returns:
        The state, every leaf a `jax.Array`.

    Raises:
        CheckpointError: one line, for a checkpoint that is missing, damaged or of another shape.
    """
    folder = _find(pathlib.Path(directory).absolute(), step)
    wanted = _named(like, store=False)
    with _orbax() as orbax, _readable(folder):
        stored = dict(orbax.metadata(folder).item_metadata.tree)
        _check(folder, wanted, stored, partial)
        present = {name: leaf for name, leaf in wanted.items() if name in stored}
        arguments = {name: _restore_argument(leaf) for name, leaf in present.items()}
        read = orbax.restore(folder, ocp.args.PyTreeRestore(present, arguments, partial_restore=partial))
    leaves = [jnp.asarray(read.get(name, np.zeros(leaf.shape, leaf.dtype))) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def latest_step(directory: str | pathlib.Path) -> int | None:
    """The step of the newest checkpoint that is undamaged, which `restore` takes.

    Args:
        directory: of the checkpoints of one run; it need not exist.

    Returns:
        The step, None without a checkpoint.

    Raises:
        CheckpointError: where all are damaged.
    """
    root = pathlib.Path(directory).absolute()
    return int(_find(root, None).name.partition(".")[0]) if _complete(root) else None


def _named(tree, store=True) -> dict:
    """Leaves by path, as arrays (`store`) or as shapes with dtype and sharding."""
    named = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/") or "state"
        leaf = leaf if hasattr(leaf, "dtype") and hasattr(leaf, "shape") else jnp.asarray(leaf)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise CheckpointError(f"leaf {name} is a PRNG key, which no checkpoint holds: store the seed in the config")
        if name in named:
            raise CheckpointError(f"two leaves of the state are both called {name}: rename one")
        named[name] = (leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)) if store else _shape(leaf)
    return named


def _shape(leaf) -> jax.ShapeDtypeStruct:
    # An uncommitted array may go wherever a computation takes it; pinned, jit would refuse to mix it with others.
    sharding = None if isinstance(leaf, jax.Array) and not leaf.committed else getattr(leaf, "sharding", None)
    return jax.ShapeDtypeStruct(leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype), sharding=sharding)


def _restore_argument(leaf: jax.ShapeDtypeStruct):
    if leaf.sharding is None:
        return ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype)
    return ocp.ArrayRestoreArgs(sharding=leaf.sharding, global_shape=leaf.shape, dtype=leaf.dtype)


def _check(folder, wanted: dict, stored: dict, partial: bool) -> None:
    """Raise at the first leaf that differs. orbax itself would cast, pad or print a page."""
    for name, leaf in wanted.items():
        if name not in stored and leaf.size:
            raise CheckpointError(f"{folder} has no leaf {name} (wanted: {_spell(leaf)}): it holds another model")
        if name in stored and _spell(stored[name]) != _spell(leaf):
            raise CheckpointError(f"{folder}: leaf {name} is {_spell(stored[name])}, wanted {_spell(leaf)}")
    extra = [] if partial else [name for name in stored if name not in wanted]
    if extra:
        raise CheckpointError(f"{folder} has a leaf {extra[0]} ({_spell(stored[extra[0]])}) that is not wanted")


def _spell(leaf) -> str:
    return f"{np.dtype(leaf.dtype).name}[{','.join(map(str, leaf.shape))}]"


def _find(root: pathlib.Path, step) -> pathlib.Path:
    found = _complete(root)
    if not found:
        raise CheckpointError(f"no checkpoint in {root}")
    if step is not None and int(step) not in found:
        raise CheckpointError(f"no checkpoint of step {step} in {root}; there is {', '.join(map(str, sorted(found)))}")
    broken = {}
    for number in sorted(found, reverse=True) if step is None else [int(step)]:
        why = files.damage(found[number])
        if why is None:
            _warn(broken, found[number])
            return found[number]
        broken[found[number]] = why
    listed = "; ".join(f"{folder}: {why}" for folder, why in list(broken.items())[:2])
    way = "train anew in another directory" if step is None else "leave out the step for the newest that is undamaged"
    raise CheckpointError(f"no undamaged checkpoint ({listed}): nothing was deleted, {way}")


def _warn(broken: dict[pathlib.Path, str], used: pathlib.Path) -> None:
    """One line for each damaged checkpoint, once in a process."""
    for folder, why in broken.items():
        if folder not in _WARNED:
            _WARNED.add(folder)
            print(f"warning: {folder} is damaged ({why}): {used} is used instead", file=sys.stderr)


def _complete(root: pathlib.Path) -> dict[int, pathlib.Path]:
    """Checkpoints by step, damaged ones too. '7.replaced' stands in for '7' where a save of 7 was killed."""
    found = {}
    for path in sorted(root.glob("[0-9]*")):  # '7' comes before '7.replaced'
        match = re.fullmatch(rf"(\d+)({re.escape(_REPLACED)})?", path.name)
        if match and path.is_dir():
            found.setdefault(int(match[1]), path)
    return found


def _make_room(root: pathlib.Path, step: int) -> None:
    """Clear what killed processes left, and move an older checkpoint of the same step aside (still restorable)."""
    files.make(root)
    for path in {path for left in (_WRITING, _UNSEALED, _DOOMED) for path in root.glob(f"*{left}*")}:
        shutil.rmtree(path)
    old, aside = root / str(step), root / f"{step}{_REPLACED}"
    if old.exists():
        _remove(aside)
        old.rename(aside)


def _prune(root: pathlib.Path, step: int, keep: int) -> None:
    _remove(root / f"{step}{_REPLACED}")
    found = {number: path for number, path in _complete(root).items() if (path / files.SUMS).is_file()}
    for old in sorted(found)[:-keep]:  # what has lost its sums is damaged: not counted, nor deleted
        if old != step:  # a run may have gone back: never delete what was just saved
            _remove(found[old])


def _remove(path: pathlib.Path) -> None:
    if path.exists():
        shutil.rmtree(path.rename(path.with_name(path.name + _DOOMED)))


def _meet(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def _orbax():
    """A synchronous orbax checkpointer (it leaves no threads behind); its log lines, many under absl's app.run, off."""
    logger = logging.getLogger("absl")
    with _ONE_AT_A_TIME:
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
                yield checkpointer
        finally:
            logger.setLevel(level)


@contextlib.contextmanager
def _writable(root: pathlib.Path, step: int):
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:  # orbax wraps what the disk said
        first = (str(error).splitlines() or [""])[0][:200]
        if first.startswith("RESOURCE_EXHAUSTED: Out of memory"):
            raise
        kept = ", ".join(map(str, sorted(_complete(root)))) or "none"
        raise CheckpointError(
            f"checkpoint {step} cannot be written in {root} ({type(error).__name__}: {first}): make room or choose "
            f"another --workdir; checkpoints there: {kept}"
        ) from error


@contextlib.contextmanager
def _readable(folder: pathlib.Path):
    try:
        yield
    except CheckpointError:
        raise
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        first = (str(error).splitlines() or [""])[0][:200]
        way = f"delete {folder.name} to go on from the checkpoint before"
        raise CheckpointError(f"{folder} cannot be read ({type(error).__name__}: {first}); {way}") from error
