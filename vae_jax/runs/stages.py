"""What the finished stages of a long measurement have found, so that one that was stopped goes on from there."""

import io
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vae_jax import console
from vae_jax.runs import files

IDENTITY = "identity"


def identity_of(settings: str, params: Any) -> str:
    """What a measurement is of: settings and code as text, and the sum of the parameters' bytes."""
    total = 0
    for leaf in jax.tree.leaves(jax.device_get(params)):
        total = zlib.crc32(np.asarray(leaf).tobytes(), total)
    return f"{total:08x} {settings}"


def keeper(folder: Path, identity: str) -> Callable:
    """A function keep(name, measure) -> dict of arrays: `measure()`, which it stores, or what an earlier call stored.

    Args:
        folder: where; nothing is kept where its parent cannot be written.
        identity: of `identity_of`; what was stored of anything else is removed.

    Returns:
        keep; its dicts may be nested.
    """
    if not os.access(folder.parent, os.W_OK):
        return lambda name, measure: measure()
    mark = folder / IDENTITY
    if not mark.exists() or mark.read_text() != identity:
        shutil.rmtree(folder, ignore_errors=True)

    def keep(name, measure):
        path = folder / f"{name}.npz"
        if (found := read(path)) is not None:
            console.write(f"{name}: measured before this call, which goes on from there")
            return found
        found = measure()
        try:
            if not mark.exists():
                files.make(folder)
                files.replace(mark, identity.encode())
            write(path, found)
        except OSError as error:  # what is kept only saves time
            console.write(f"{name} is not kept for a later call: {path}: {error.strerror}")
        return found

    return keep


def write(path, found):
    content, arrays = io.BytesIO(), dict(flatten_dict(found, sep="."))
    np.savez(content, **arrays)  # pyright: ignore[reportArgumentType]  (its stub takes them for its own options)
    files.replace(path, content.getvalue())


def read(path):
    """What a stage has left, None if that is nothing that reads."""
    try:
        with np.load(io.BytesIO(path.read_bytes())) as stored:
            return unflatten_dict(dict(stored), sep=".")
    except (OSError, ValueError, zipfile.BadZipFile):
        return None
