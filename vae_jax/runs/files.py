"""Files that survive a loss of power, folders whose bytes are checked, and one writer at a time."""

import contextlib
import json
import os
import pathlib
import socket
import zlib
from concurrent.futures import ThreadPoolExecutor

import filelock

from vae_jax.errors import RunError

SUMS, LOCK, HOLDER = "crc32.json", ".lock", ".lock.holder"
PART, CHUNK = 2**22, 2**18  # bytes of one sum, and of one read


def sync(path: pathlib.Path) -> None:
    """Everything written to a file, or every name in a folder, is on the disk on return."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make(folder: pathlib.Path) -> None:
    """A folder and those above it are there, and stay there after a loss of power."""
    if not folder.exists():
        make(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def replace(path: pathlib.Path, content: bytes) -> None:
    """Puts content in place of a file at once: after a loss of power it holds the old bytes or the new ones."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def sums(folder: pathlib.Path) -> dict[str, list[int]]:
    """CRC-32 of every 4 MB of every file below a folder but its list of sums, by relative path.

    It finds every flipped bit and every run of up to 32 bad ones, at twice the speed of sha256.
    """
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    paths.pop(SUMS, None)
    parts = [(name, start) for name, path in paths.items() for start in range(0, path.stat().st_size or 1, PART)]
    found: dict[str, list[int]] = {name: [] for name in paths}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        values = pool.map(lambda part: checksum(paths[part[0]], part[1]), parts)
        for (name, _), value in zip(parts, values, strict=True):
            found[name].append(value)
    return found


def checksum(path: pathlib.Path, start: int) -> int:
    """Of the part of a file that begins at a byte."""
    value, left = 0, PART
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        while left and (read := file.read(min(CHUNK, left))):  # which may be less than was asked for
            value, left = zlib.crc32(read, value), left - len(read)
    return value


def seal(folder: pathlib.Path) -> None:
    """Writes the sums of a complete folder into it; while they are taken, a thread brings its files to the disk."""
    paths = [*folder.rglob("*")]
    with ThreadPoolExecutor(1) as pool:
        synced = pool.submit(lambda: [sync(path) for path in paths])
        (folder / SUMS).write_text(json.dumps(sums(folder)))
        synced.result()
    sync(folder / SUMS)
    sync(folder)


def damage(folder: pathlib.Path) -> str | None:
    """What differs from the time a folder was sealed, None if nothing does."""
    try:
        wanted, found = json.loads((folder / SUMS).read_bytes()), sums(folder)
    except (OSError, ValueError) as error:
        return f"{SUMS} does not read ({type(error).__name__})"
    if not isinstance(wanted, dict):
        return f"{SUMS} holds no list of files"
    for name in sorted({*wanted, *found}):
        if wanted.get(name) != found.get(name):
            return f"{name} is {'missing' if name not in found else 'not what was written'}"
    return None


@contextlib.contextmanager
def locked(workdir: str | os.PathLike):
    """Holds a run directory as its only writer. The operating system drops the lock when its process ends.

    A directory that was made for it, and into which nothing was written, is taken away again.

    Raises:
        RunError: naming the process that holds it.
    """
    root = pathlib.Path(workdir)
    new = not root.exists()
    lock = filelock.FileLock(root / LOCK, timeout=0)
    try:
        make(root)
        lock.acquire()
    except filelock.Timeout:
        holder = root / HOLDER
        who = holder.read_text() if holder.exists() else "another process"
        raise RunError(f"{root} is in use by {who}: wait for it, or choose another --workdir") from None
    except OSError as error:
        raise RunError(f"{root} cannot be used: {error.strerror}; choose another --workdir") from error
    holder = root / HOLDER
    try:
        with contextlib.suppress(OSError):  # a full disk: the lock holds without a name
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        with contextlib.suppress(OSError):
            holder.unlink()
        lock.release()
        if new and os.listdir(root) == [LOCK]:
            (root / LOCK).unlink()
            root.rmdir()
