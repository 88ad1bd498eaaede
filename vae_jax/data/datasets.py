"""Data sets: named sources that all return the same thing, and how a stored image becomes an x.

    load(config.data) -> Dataset(train, valid, test, info, provenance)           numpy, in memory, order fixed
    preprocess(keys, image, info.value_range, binarization) -> x                 jax, inside the compiled step

Integer images stay uint8: in [0, 16] for digits, else in [0, 255], or in [0, 1] if they hold nothing else; `preprocess`
maps `info.value_range` to [0, 1]. Float arrays are taken as they are: value_range (0, 1), the identity.
`valid` is for choosing settings, `test` for reporting. Whatever is wrong with the data is a DataError, one line that
says what was looked for, where, and what to do; one set never stands in for another.
"""

import hashlib
import importlib.metadata
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.data import files, tfds
from vae_jax.data.preprocess import preprocess
from vae_jax.data.splits import Dataset, Split, assemble, change_splits, hold_out, keep_first, require_in_memory, take
from vae_jax.errors import DataError
from vae_jax.keys import Use, keys_of_each, seed_key


def load(config: Any) -> Dataset:
    """The data set that a config names.

    Args:
        config: `config.data`; cut to its `num_train`, drawn once if its `binarization` is 'fixed'.

    Returns:
        The data set.

    Raises:
        DataError: the data cannot be had or do not fit the config; one line with what to do.
    """
    dataset = keep_first(SETS.get(config.name, tfds_set)(config), config.num_train)
    if config.condition != "none":
        dataset = CONDITIONS[config.condition](dataset)
    if config.binarization != "none":
        require_unit_interval(dataset, config.binarization)
    if config.binarization == "fixed":
        dataset = binarize_fixed(dataset, config.binarization_seed)
    sizes = {part: len(getattr(dataset, part).image) for part in ("train", "valid", "test")}
    return dataset._replace(provenance=dataset.provenance | {"name": config.name, "sizes": sizes})


def given_label(dataset):
    """Every example with its label, one-hot, as its condition. Raises DataError where there are none."""
    info = dataset.info
    if not info.num_classes:
        raise DataError(f"data {info.name!r} has no labels: config.data.condition = label needs them; use none")
    if info.num_classes > MOST_CLASSES:
        raise DataError(
            f"data {info.name!r} has labels up to {info.num_classes - 1:,}: config.data.condition = label takes "
            f"{MOST_CLASSES:,} classes at most; number them 0, 1, 2, ... or give condition_* of your own"
        )
    one_hot = lambda split: split._replace(condition=np.eye(info.num_classes, dtype=np.float32)[split.label])
    return change_splits(dataset, one_hot, condition_shape=(info.num_classes,))


def given_upper(dataset):
    """The lower half of every image, with the upper half, grey, as its condition. Raises DataError for no images."""
    info = dataset.info
    if len(info.event_shape) < 2:
        raise DataError(f"data {info.name!r} are no images: config.data.condition = upper needs rows; use none")
    if info.event_shape[0] < 2:
        raise DataError(f"data {info.name!r} have one row each: config.data.condition = upper needs two; use none")
    require_in_memory(dataset, "config.data.condition = 'upper'", "make the halves x and condition of .npy files")
    (low, high), half = info.value_range, info.event_shape[0] // 2
    upper = lambda image: ((image[:, :half] - np.float32(low)) / np.float32(high - low)).astype(np.float32)
    halves = lambda split: split._replace(image=split.image[:, half:], condition=upper(split.image))
    (height, *rest), condition_shape = info.event_shape, (half, *info.event_shape[1:])
    return change_splits(dataset, halves, event_shape=(height - half, *rest), condition_shape=condition_shape)


MOST_CLASSES = 10_000  # of which each example holds a one-hot vector
CONDITIONS: dict[str, Callable[[Dataset], Dataset]] = {"label": given_label, "upper": given_upper}


def binarize_fixed(dataset, seed):
    """Every example drawn once: uint8 in {0, 1} with value_range (0, 1). Raises DataError for images on disk.

    Example i of split s (train 0, valid 1, test 2) has the key fold_in(fold_in(k, s), i), k the seed's SEED_BINARIZE,
    so that its pixels depend neither on `num_train` nor on anything else in the set.
    """
    require_in_memory(dataset, "config.data.binarization = 'fixed'", "binarize the files and use none, or use dynamic")
    value_range, chunk = dataset.info.value_range, 4096

    @jax.jit
    def draw(key, start, image):
        return preprocess(keys_of_each(key, start + jnp.arange(chunk)), image, value_range, "dynamic").astype(jnp.uint8)

    def draw_split(key, image):
        drawn = np.empty(image.shape, np.uint8)
        for start in range(0, len(image), chunk):
            part = image[start : start + chunk]
            padded = np.resize(part, (chunk, *part.shape[1:]))  # one shape is one compilation
            drawn[start : start + chunk] = draw(key, start, padded)[: len(part)]
        return drawn

    keys = iter(keys_of_each(seed_key(seed, Use.SEED_BINARIZE), jnp.arange(3)))
    dataset = dataset._replace(provenance=dataset.provenance | {"binarization_seed": seed})
    drawn = lambda split: split._replace(image=draw_split(next(keys), split.image))
    return change_splits(dataset, drawn, value_range=(0.0, 1.0))


def require_unit_interval(dataset: Dataset, binarization: str) -> None:
    """Refuses to binarize float images that leave [0, 1], since they cannot be probabilities.

    Args:
        dataset: whose images are to be binarized; bytes always can be.
        binarization: the name of `config.data.binarization`.

    Raises:
        DataError: the range of the values, and what to do.
    """
    images = [split.image for split in dataset[:3]]
    if images[0].dtype == np.uint8:
        return
    low, high = min(image.min() for image in images), max(image.max() for image in images)
    if low < 0 or high > 1:
        raise DataError(
            f"data {dataset.info.name!r} has values in [{low:.4g}, {high:.4g}], config.data.binarization = "
            f"{binarization!r} needs [0, 1]; rescale the arrays, or use --config.data.binarization=none "
            "with --config.model.likelihood=normal"
        )


# ---- the named sets


def digits(config):
    """scikit-learn's bundled 8x8 digits, 1,797 images in one fixed order: 1,400 train, 97 valid, 300 test."""
    image, label = files.read_digits()
    order = np.random.default_rng(0).permutation(len(image))
    everything = Split(image[order, ..., None], label[order])
    digest = hashlib.sha256(everything.image.tobytes()).hexdigest()
    source = f"scikit-learn {importlib.metadata.version('scikit-learn')}, load_digits"
    provenance = {"source": source, "sha256": digest, "sums": {"images": digest}}
    train, valid, test = (take(everything, slice(*ends)) for ends in ((0, 1400), (1400, 1497), (1497, 1797)))
    return assemble(config.name, train, valid, test, provenance, value_range=(0.0, 16.0))


def mnist_like(config):
    """MNIST, Fashion-MNIST or KMNIST: 59,600 train, the last 400 training images valid, 10,000 test.

    From `manual_dir` alone if it is given, otherwise from the first of these that is there: a directory TFDS prepared,
    TFDS's download cache, the network. Raises DataError.
    """
    builder = None if config.manual_dir else open_prepared(config)
    if builder:
        train, test = (Split(*tfds.read_split(builder, name, config.placement)) for name in ("train", "test"))
        provenance = tfds.provenance(builder)
    else:
        arrays, about = files.read_idx(config.name, config.manual_dir, data_dir(config))
        train, test = (Split(arrays[i][..., None], arrays[i + 1].astype(np.int32)) for i in (0, 2))
        sums = {"payload": files.sha256("".join(entry["payload"] for entry in about.values()).encode())}
        provenance = {"source": "the four official IDX files", "files": about, "sums": sums}
    provenance["valid"] = "the last 400 training images"
    return assemble(config.name, *hold_out(train, 400), test, provenance)


def open_prepared(config):
    """TFDS's builder of a set it has prepared, or None. TFDS is not even imported where it never made a directory."""
    directory = data_dir(config)
    if not os.path.isdir(os.path.join(directory, config.name)):
        return None
    builder = tfds.open_builder(config.name, directory, SETS)
    return builder if tfds.random_access(builder) else None


def data_dir(config):
    """Where TFDS keeps its data: the config's directory, otherwise TFDS's own rule."""
    return os.path.expanduser(config.data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def ppca_params() -> tuple[np.ndarray, np.ndarray, float]:
    """(W `[8, 2]`, mu `[8]`, sigma) of the synthetic set 'ppca', always the same."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(8, 2)), rng.normal(size=8), 0.5


def ppca(config):
    """x = W z + mu + sigma eps with z ~ N(0, I_2), eps ~ N(0, I_8), whose log p(x) is known: 2,000, 200 and 500."""
    weights, mean, sigma = ppca_params()
    rng = np.random.default_rng(1)

    def sample(count):
        noise = sigma * rng.normal(size=(count, len(mean)))
        return Split((rng.normal(size=(count, weights.shape[1])) @ weights.T + mean + noise).astype(np.float32))

    return assemble(config.name, sample(2000), sample(200), sample(500), {"source": "synthetic, vae_jax.data.ppca"})


def ppca_log_prob(x: np.ndarray) -> np.ndarray:
    """log p(x) = log N(x; mu, W W^T + sigma^2 I) of the synthetic set 'ppca', exact.

    Args:
        x: `[N, 8]`.

    Returns:
        Log densities `[N]` in nats.

    Source: Tipping and Bishop (1999).
    """
    weights, mean, sigma = ppca_params()
    covariance = weights @ weights.T + sigma**2 * np.eye(len(mean))
    residual = np.asarray(x, np.float64) - mean
    squares = (residual * np.linalg.solve(covariance, residual.T).T).sum(-1)
    return -0.5 * (squares + np.linalg.slogdet(2 * np.pi * covariance)[1])


def npz(config):
    """The user's arrays x_train, x_test and perhaps x_valid, with y_* and condition_* for all of these or for none.

    In an .npz, or as x_train.npy and so on in a directory: these are memory-mapped and may be larger than memory.
    x `[N, *event]` uint8, bool or float, y `[N]` classes 0, 1, 2, ..., condition `[N]` (becomes `[N, 1]`) or `[N, *c]`.
    Without x_valid the last tenth of x_train, at least 1 and at most 1,000 examples, is valid. Raises DataError.
    """
    path = os.path.expanduser(config.path)
    splits = {part: Split(*arrays) for part, arrays in files.read_npz(path).items()}
    return from_parts(config.name, path, splits, {"source": path, **identity(path)})


def identity(path):
    """What tells a file from another, by its content; of a directory, which may be huge, the sizes of its files."""
    if os.path.isdir(path):
        sizes = {name: os.path.getsize(os.path.join(path, name)) for name in sorted(os.listdir(path))}
        return {"bytes": sizes, "sums": {"sizes": files.sha256(repr(sizes).encode())}}
    with open(path, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"sha256": digest, "bytes": os.path.getsize(path), "sums": {"file": digest}}


def tfds_set(config):
    """Any set TFDS has prepared that has an 'image' and the splits 'train' and 'test'. Raises DataError."""
    name, directory = config.name, data_dir(config)
    builder = tfds.open_builder(name, directory, SETS)
    if "image" not in tfds.features_of(builder):
        raise DataError(f"data {name!r} has no feature 'image'; use one of {', '.join(SETS)}, or an image set of TFDS")
    if not tfds.random_access(builder):
        raise DataError(tfds.how_to_prepare(name, directory))
    missing = {"train", "test"} - set(builder.info.splits)
    if missing:
        found = ", ".join(builder.info.splits)
        raise DataError(f"data {name!r} has no split {', '.join(missing)}, only {found}; make an .npz of it instead")
    parts = {"train": "train", "valid": "validation", "test": "test"}
    given = {part: split for part, split in parts.items() if split in builder.info.splits}
    splits = {part: Split(*tfds.read_split(builder, split, config.placement)) for part, split in given.items()}
    return from_parts(name, f"data {name!r}", splits, tfds.provenance(builder))


def from_parts(name, source, splits, provenance):
    """A Dataset of {'train', 'valid'?, 'test'}; a missing valid is held out of train. Raises DataError if unlike."""
    require_alike(source, splits)
    train, count = splits["train"], len(splits["train"].image)
    if "valid" in splits:
        return assemble(name, train, splits["valid"], splits["test"], provenance)
    if count < 2:
        raise DataError(f"{source}: one training example leaves none for validation; add x_valid, or more examples")
    apart = min(max(count // 10, 1), 1000)
    provenance = provenance | {"valid": f"the last {apart} training examples"}
    return assemble(name, *hold_out(train, apart), splits["test"], provenance)


def require_alike(source, splits):
    """Raises DataError where the parts of a set differ in shape, in type, or in what comes with them."""
    shape_of = lambda a: "absent" if a is None else f"{a.dtype} [{', '.join(['N', *map(str, a.shape[1:])])}]"
    for part, split in splits.items():
        for prefix, a, b in zip(("x", "y", "condition"), splits["train"], split, strict=True):
            ours, theirs = shape_of(a), shape_of(b)
            if ours != theirs:
                raise DataError(
                    f"{source}: {prefix}_train is {ours}, {prefix}_{part} is {theirs}; all parts need the same"
                )


SETS: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "mnist": mnist_like,
    "fashion_mnist": mnist_like,
    "kmnist": mnist_like,
    "npz": npz,
    "ppca": ppca,
}
