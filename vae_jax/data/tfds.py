"""Sets that TFDS prepared on disk, without TensorFlow: read whole, or record by record as they are indexed.

open_builder(name, directory, known), random_access(builder)    TFDS's builder, and whether its format can be read
read_split(builder, split, placement) -> (image, label, None)   arrays; of a large set the images are Records
"""

import difflib
import importlib.util
import math
import os
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vae_jax.errors import DataError, one_line

SHARE = 0.5  # of this machine's memory that the images of a split may take
CHUNK = 1000  # records at a time where all are read


@dataclass(frozen=True)
class Records:
    """Images on disk, read and decoded when indexed by a slice or an array of numbers.

    Attributes:
        read: numbers `[n]` -> images `[n, *event]`.
        shape: (N, *event).
        dtype: of the images.
        first: the number of the first of them.
    """

    read: Callable[[np.ndarray], np.ndarray]
    shape: tuple[int, ...]
    dtype: np.dtype
    first: int = 0

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: slice | np.ndarray) -> np.ndarray:
        numbers = np.arange(*which.indices(len(self))) if isinstance(which, slice) else np.asarray(which)
        return self.read(self.first + numbers)

    def cut(self, which: slice) -> "Records":
        """The records of a slice without a step, which are not read."""
        start, stop, _ = which.indices(len(self))
        return replace(self, first=self.first + start, shape=(stop - start, *self.shape[1:]))


def read_split(builder, split, placement):
    """(image, label or None, None) of a split, in TFDS's order. Raises DataError for what cannot be read.

    `placement`, that of config.data: 'host' leaves the images on disk, 'device' reads them, 'auto' leaves them if they
    would take more than half of this machine's memory. Labels are read at once, which is a pass over the files.
    """
    with readable(builder, split):
        source = builder.as_data_source(split=split)
        one = source[0]["image"]
    shape = (len(source), *one.shape)
    too_large = math.prod(shape) * one.itemsize > SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    stays = placement == "host" or (placement == "auto" and too_large)
    has_label = getattr(features_of(builder).get("label"), "num_classes", None) is not None
    names = [name for name, wanted in (("image", not stays), ("label", has_label)) if wanted]
    found: dict[str, Any] = make_read(builder, split, source, names)(np.arange(len(source))) if names else {}
    if stays:
        read = make_read(builder, split, source, ["image"])
        found["image"] = Records(lambda numbers: read(numbers)["image"], shape, one.dtype)
    return found["image"], found["label"].astype(np.int32) if has_label else None, None


def features_of(builder) -> dict[str, Any]:
    """{name: feature} of a set whose features are a dict, otherwise {}."""
    return dict(builder.info.features or {})


def make_read(builder, split, source, names):
    """read(numbers [n]) -> {name: `[n, ...]`} of those records, no other feature decoded. Raises DataError."""
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict({name: builder.info.features[name] for name in names})

    def read(numbers):
        parts = np.split(numbers, range(CHUNK, len(numbers), CHUNK))
        with readable(builder, split):
            raw = (record for part in parts for record in source.data_source.__getitems__(part.tolist()))
            records: list[Any] = [features.deserialize_example_np(record) for record in raw]
            return {name: np.stack([record[name] for record in records]) for name in names}

    return read


@contextmanager
def readable(builder, split):
    """Turns whatever reading raises (array_record, Pillow and numpy each raise their own kinds) into a DataError."""
    try:
        yield
    except Exception as error:
        raise DataError(
            f"data {builder.name!r}: cannot read split {split!r} in {os.fspath(builder.data_path)!r}: {one_line(error)}"
            "; the images need one shape; if the files are damaged, delete the directory and prepare it again"
        ) from error


def open_builder(name, directory, known):
    """TFDS's builder of a name. Raises DataError if TFDS has none, listing the names that are `known` here."""
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=directory)
    except Exception as error:  # a bad name, a package that one set needs, a broken directory: each its own kind
        reason = str(error).strip().partition("\n")[0].rstrip(".")  # a list of all of TFDS's names follows
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]!r}?" if close else "its names: https://www.tensorflow.org/datasets/catalog"
        raise DataError(
            f"config.data.name = {name!r}: not one of {', '.join(known)}, and TFDS cannot open it under {directory!r}: "
            f"{reason}; {hint}"
        ) from error


def random_access(builder):
    """Whether the builder's data are prepared in a format that needs no TensorFlow."""
    try:
        builder.as_data_source(split="train")
    except Exception:  # not prepared, TFRECORD, another version: whatever the reason, another way must be found
        return False
    return True


def how_to_prepare(name, directory):
    """One line for a set that TFDS knows and has not prepared here."""
    need = "" if importlib.util.find_spec("tensorflow") else "pip install tensorflow (only preparing needs it) and "
    call = f"tfds.builder({name!r}, data_dir={directory!r}, file_format='array_record').download_and_prepare()"
    return (
        f"data {name!r} is not prepared under {directory!r} in a format readable without TensorFlow; once, {need}run "
        f'python -c "import tensorflow_datasets as tfds; {call}"'
    )


def provenance(builder):
    """Name, version and directory of a prepared set, and that its order is TFDS's shuffled one."""
    source = f"TFDS {builder.info.full_name}, prepared, in its shuffled order"
    shards = sorted(str(split.shard_lengths) for split in builder.info.splits.values())
    sums = {"tfds": f"{builder.info.full_name}, {builder.info.dataset_size} bytes in shards of {', '.join(shards)}"}
    return {"source": source, "path": os.fspath(builder.data_path), "sums": sums}
