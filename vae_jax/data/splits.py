"""What a data set is: three splits of examples and what a model must know of them; how splits are cut and changed."""

from typing import Any, NamedTuple

import numpy as np

from vae_jax.data.tfds import Records
from vae_jax.errors import DataError


class Split(NamedTuple):
    """Examples in a fixed order.

    Attributes:
        image: `[N, *event]`, uint8 or float32: a NumPy array, or for a set larger than memory a memmap or `Records`.
        label: `[N]` int32, or None.
        condition: `[N, *c]` float32, or None.
    """

    image: Any
    label: np.ndarray | None = None
    condition: np.ndarray | None = None


class Info(NamedTuple):
    """What a model must know of its data; JSON-able, so that a model loads without them.

    Attributes:
        name: of the set.
        event_shape: shape of one x.
        num_train: N.
        num_classes: 0 without labels.
        value_range: the stored values that mean 0 and 1.
        condition_shape: of one condition, or None.
    """

    name: str
    event_shape: tuple[int, ...]
    num_train: int
    num_classes: int
    value_range: tuple[float, float]
    condition_shape: tuple[int, ...] | None


class Dataset(NamedTuple):
    """Three splits, what they are (`info`) and where their bytes came from (`provenance`, JSON-able)."""

    train: Split
    valid: Split
    test: Split
    info: Info
    provenance: dict


def assemble(
    name: str, train: Split, valid: Split, test: Split, provenance: dict, value_range: tuple[float, float] | None = None
) -> Dataset:
    """A data set of three splits; shapes, classes and range of its `info` are read off the arrays.

    Args:
        name: of the set.
        train, valid, test: with arrays of the same shapes and types.
        provenance: where the bytes came from; JSON-able.
        value_range: the stored values that mean 0 and 1; None: (0, 255), of binary bytes and of floats (0, 1).

    Returns:
        The data set.
    """
    splits = (train, valid, test)
    info = Info(
        name=name,
        event_shape=train.image.shape[1:],
        num_train=len(train.image),
        num_classes=1 + int(max((split.label.max() for split in splits if split.label is not None), default=-1)),
        value_range=value_range or stored_range(splits),
        condition_shape=None if train.condition is None else train.condition.shape[1:],
    )
    return Dataset(*splits, info, provenance)


RANGE_EXAMPLES = 1000  # of records on disk are read to find their range


def stored_range(splits):
    """The values that stand for 0 and 1. Bytes that never exceed 1 are binary already."""
    if splits[0].image.dtype != np.uint8:
        return 0.0, 1.0
    images = (s.image[:RANGE_EXAMPLES] if isinstance(s.image, Records) else s.image for s in splits)
    return (0.0, 255.0 if max(image.max() for image in images) > 1 else 1.0)


def take(split, which):
    """The examples of a slice, of every array of a split; records on disk stay there."""

    def cut(array) -> Any:
        return array.cut(which) if isinstance(array, Records) else array[which]

    return Split(*(array if array is None else cut(array) for array in split))


def change_splits(dataset, change, **info):
    """`change(split)` of every split in turn, and these fields of the info."""
    train, valid, test = map(change, dataset[:3])
    return dataset._replace(train=train, valid=valid, test=test, info=dataset.info._replace(**info))


def hold_out(train, count):
    """The last `count` examples apart: (train, valid)."""
    return take(train, slice(None, -count)), take(train, slice(-count, None))


def keep_first(dataset, num_train):
    """The first `num_train` training examples, all of them for 0. Raises DataError if there are fewer."""
    info = dataset.info
    if num_train > info.num_train:
        raise DataError(
            f"config.data.num_train = {num_train}, but {info.name!r} has {info.num_train} training examples; 0: all"
        )
    if num_train <= 0:
        return dataset
    return dataset._replace(train=take(dataset.train, slice(num_train)), info=info._replace(num_train=num_train))


def require_in_memory(dataset, what, instead):
    """Raises DataError for images on disk, of which `what` would need a copy in memory."""
    if isinstance(dataset.train.image, np.memmap | Records):
        raise DataError(f"{what} would make all of {dataset.provenance['source']} anew in memory: {instead}")
