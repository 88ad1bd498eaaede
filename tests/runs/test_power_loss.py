"""A disk that forgets what was not synced: every moment at which power could fail, and what is found after it.

Every fsync and rename of a run is a moment. Between two of them the disk may hold the names and the contents of each
folder and file as of its own last sync, or anything later, so each moment is replayed with the oldest and the newest of
both, and with half of what was written to a file since.
"""

import itertools
import os
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

from vae_jax.commands.train import train_run
from vae_jax.errors import UserError
from vae_jax.runs import checkpoint, directory, load

pytestmark = pytest.mark.slow


class Disk:
    """The contents of each file and the names in each folder below `root`, now and as of its last sync."""

    def __init__(self, root):
        self.root, self.opened = root, {}  # a file that stays open keeps its inode's number from the next one
        self.names, self.contents, self.synced_names, self.synced = {}, {}, {}, {}
        self.moments: list[tuple] = []
        self.look()
        self.synced_names = {root.stat().st_ino: self.names[root.stat().st_ino]}

    def look(self):
        """What is there now."""
        for folder, folders, files in os.walk(self.root):
            paths = [Path(folder) / name for name in [*folders, *files]]
            inodes = {path.name: path.stat().st_ino for path in paths}
            for path in paths:
                if inodes[path.name] not in self.opened:
                    self.opened[inodes[path.name]] = os.open(path, os.O_RDONLY)
            self.names[Path(folder).stat().st_ino] = inodes
            self.contents |= {inodes[name]: (Path(folder) / name).read_bytes() for name in files}

    def sync(self, inode):
        self.look()
        if inode in self.contents:
            self.synced[inode] = self.contents[inode]
        elif inode in self.names:
            self.synced_names[inode] = self.names[inode]

    def after_loss(self, names, content):
        """{relative path: bytes, or None for a folder} of a disk with these names and contents."""
        found, folders = {}, [("", self.root.stat().st_ino)]
        while folders:
            prefix, inode = folders.pop()
            for name, child in names.get(inode, {}).items():
                is_folder = child not in self.contents
                found[prefix + name] = None if is_folder else content(child)
                folders += [(f"{prefix}{name}/", child)] * is_folder
        return found

    def states(self):
        """What may be found if power fails now."""
        self.look()
        synced = lambda inode: self.synced.get(inode, b"")
        written = self.contents.__getitem__

        def half(inode):
            kept, new = synced(inode), written(inode)
            return new[: (len(kept) + len(new)) // 2] if new.startswith(kept) else new

        pairs = itertools.product((self.synced_names, self.names), (synced, half, written))
        return [self.after_loss(names, content) for names, content in pairs]

    def close(self):
        for descriptor in self.opened.values():
            os.close(descriptor)


@pytest.fixture
def losses(tmp_path, monkeypatch):
    """(root, moments, moment): what is done below `root` is kept as [(what may be found, what was saved by then)].

    `moment()` adds what may be found now.
    """
    root = tmp_path / "disk"
    root.mkdir()
    disk, saved, moments, seen = Disk(root), [], [], set()
    one_at_a_time = threading.Lock()

    def moment(known=()):
        for state in disk.states():
            key = hash(frozenset(state.items()))
            if (key, len(saved)) not in known:
                seen.add((key, len(saved)))
                moments.append((state, list(saved)))

    def wrapped(owner, name, before):
        original = getattr(owner, name)

        def call(*args, **kwargs):
            with one_at_a_time:  # a checkpoint's files are synced by a thread of their own
                if before:
                    moment(seen)
                result = original(*args, **kwargs)
                if name == "fsync":
                    disk.sync(os.fstat(args[0]).st_ino)
                moment(seen)
            return result

        monkeypatch.setattr(owner, name, call)

    wrapped(os, "fsync", False)
    wrapped(os, "rename", True)
    wrapped(os, "replace", True)
    save = checkpoint.save

    def save_and_count(folder, step, state, **rest):
        save(folder, step, state, **rest)
        if Path(folder).name == load.CHECKPOINTS:
            saved.append((step, jax.device_get(state)))

    monkeypatch.setattr(checkpoint, "save", save_and_count)
    yield root, moments, moment
    disk.close()


def build(state, place):
    """A folder that holds what was found."""
    for name, content in state.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(content)


def test_whenever_power_fails_the_run_goes_on_from_the_last_checkpoint_that_was_saved(
    losses, config_of, tmp_path, capsys
):
    """With every record up to it; a summary that says complete is whole; nothing is damaged, and nothing foreign."""
    (root, moments, moment), small = losses, {"train.checkpoint_every": 1, "train.log_every": 2, "train.select": "best"}
    config, changed = config_of(small), config_of({**small, "eval.num_samples": 10})
    train_run(config, root / "runs" / "run", 1)
    ended = len(moments)
    moment()
    begun = len(moments)
    train_run(changed, root / "runs" / "run", 1)  # which reopens the directory, and measures again
    capsys.readouterr()
    steps = [step for step, _ in moments[-1][1]]
    assert len(moments) > 100 and len(steps) == 2
    restored = set()
    for number, (state, saved) in enumerate(moments):
        place, where = tmp_path / "found" / str(number), f"moment {number} of {len(moments)}, {len(saved)} saved"
        build(state, place)
        run = place / "runs" / "run"
        newest = require_whole(run, config if number < begun else changed, saved, steps, where)
        assert not ended <= number < begun or directory.run_status(run, config.to_dict()) == "finished", where
        found = frozenset((name, content) for name, content in state.items() if load.CHECKPOINTS in name)
        if saved and newest == saved[-1][0] and found not in restored:
            restored.add(found)
            again = jax.device_get(checkpoint.restore(run / load.CHECKPOINTS, saved[-1][1]))
            assert all(jax.tree.leaves(jax.tree.map(np.array_equal, again, saved[-1][1]))), where
    assert "damaged" not in capsys.readouterr().err


def require_whole(run, config, saved, steps, where):
    """The step from which the run found goes on."""
    try:
        status = directory.run_status(run, config.to_dict())
        newest = checkpoint.latest_step(run / load.CHECKPOINTS)
        summary = directory.read_summary(run) if status != "new" else None
        records = directory.read_metrics(run) if status != "new" else []
    except UserError as error:
        pytest.fail(f"{where}: {error}")
    assert status in ("new", "resume", "finished"), where
    assert newest is None or newest in steps, where
    assert not saved or (newest is not None and newest >= saved[-1][0]), where
    found = {record["step"] for record in records if record["split"] == "train"}
    assert newest is None or set(range(2, newest + 1, 2)) <= found, where
    assert summary is None or not summary["complete"] or "test" in summary["splits"], where
    assert status != "finished" or newest == steps[-1], where
    return newest
