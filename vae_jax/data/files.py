"""Data on disk, found, verified and read: MNIST's IDX files, a user's .npz.

    read_digits() -> (image, label)                                   bundled with scikit-learn
    read_idx(name, manual_dir, data_dir) -> (arrays, files)           MNIST and its kin, downloaded where need be
    read_npz(path) -> {part: (image, label, condition)}               every array checked

Names, URLs and sha256 of the IDX files are those TFDS registers; its download manager fetches them (that part needs no
TensorFlow, preparing does) and its tables are only read. No byte is parsed before its checksum was found right.
"""

import gzip
import hashlib
import importlib.util
import os
import re
import socket
import threading
import urllib.parse
import urllib.request
import zlib

import numpy as np

from vae_jax.errors import DataError, one_line


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_digits():
    """The images `[1797, 8, 8]` uint8 in 0..16 and labels `[1797]` int32 of scikit-learn's load_digits."""
    package = importlib.util.find_spec("sklearn")
    path = os.path.join(os.path.dirname((package and package.origin) or ""), "datasets/data/digits.csv.gz")
    if os.path.isfile(path):  # importing scikit-learn to read this table takes 2 s, reading it 20 ms
        table = np.loadtxt(path, np.uint8, delimiter=",")
        return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int32)
    from sklearn.datasets import load_digits

    pixels, label = load_digits(return_X_y=True)
    return pixels.reshape(-1, 8, 8).astype(np.uint8), label.astype(np.int32)


# ---- the four files of MNIST and its kin

# of the decompressed bytes, so that a file compressed again is accepted and TFDS need not be imported
MNIST = {
    "train-images-idx3-ubyte.gz": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte.gz": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte.gz": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte.gz": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
FASHION_MNIST = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
PAYLOAD_SHA256, FILES = {"mnist": MNIST, "fashion_mnist": FASHION_MNIST}, tuple(MNIST)

DEBIAN = {"fashion_mnist": "; Debian's dataset-fashion-mnist has them in /usr/share/datasets/fashion-mnist"}
WAYS_ON = "--config.data.manual_dir=DIR reads the four official files in DIR, --config=experiments/digits.py needs none"


def read_idx(name, manual_dir, data_dir):
    """([array uint8 of each of FILES], {file: {'path', 'sha256', ...}}); images `[N, 28, 28]`, labels `[N]`.

    Looks in `manual_dir` and nowhere else if one is given, otherwise in TFDS's download cache under `data_dir`, then
    downloads. Raises DataError for a missing or altered file, or without a network.
    """
    if manual_dir:
        paths = manual_paths(name, os.path.expanduser(manual_dir))
    else:
        paths = cached_paths(name, data_dir) or download(name, data_dir)
    contents = {file: read_verified(name, file, path) for file, path in zip(FILES, paths, strict=True)}
    arrays = [parse_idx(payload) for payload, _ in contents.values()]
    return arrays, {file: about for file, (_, about) in contents.items()}


def manual_paths(name, directory):
    """Paths of FILES in a directory the user named. Raises DataError for the ones that are not there."""
    paths = {file: os.path.join(directory, file) for file in FILES}
    missing = [file for file, path in paths.items() if not os.path.isfile(path)]
    if missing:
        site = registered(name)[FILES[0]][0].rpartition("/")[0]
        raise DataError(
            f"data {name!r}: manual_dir {directory!r} has no {', '.join(missing)}; get it from {site}/ or leave "
            f"manual_dir empty to download; {WAYS_ON}{DEBIAN.get(name, '')}"
        )
    return list(paths.values())


def registered(name):
    """TFDS's record of each file: {file name: (url, UrlInfo with size and checksum)}."""
    import tensorflow_datasets as tfds

    return {info.filename: (url, info) for url, info in (tfds.builder_cls(name).url_infos or {}).items()}


def cached_paths(name, data_dir):
    """Paths of FILES in TFDS's download cache, or None unless all four are there."""
    from tensorflow_datasets.core.download.resource import get_dl_fname

    found = []
    for file in FILES:
        url, info = registered(name)[file]
        cached = get_dl_fname(url, info.checksum)
        places = (os.path.join(data_dir, "downloads", folder, cached) for folder in (name, ""))  # '': older releases
        found.append(next((path for path in places if os.path.isfile(path)), None))
    return found if all(found) else None


def download(name, data_dir):
    """Fetches FILES into TFDS's download cache and returns their paths. Raises DataError, offline within seconds."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import downloader

    urls = {file: registered(name)[file] for file in FILES}
    retries, downloader.MAX_RETRIES = downloader.MAX_RETRIES, 2  # its own ten hang for 204 s without a network
    try:
        require_reachable(urls[FILES[0]][0])
        manager = tfds.download.DownloadManager(
            download_dir=os.path.join(data_dir, "downloads"), dataset_name=name, url_infos=dict(urls.values())
        )
        paths = manager.download({file: url for file, (url, _) in urls.items()})
    except Exception as error:  # requests, TFDS and the file system each raise their own kinds
        looked = f"data {name!r} is not under {data_dir!r}, prepared or downloaded, and the download failed"
        raise DataError(f"{looked}: {one_line(error)}; {WAYS_ON}{DEBIAN.get(name, '')}") from error
    finally:
        downloader.MAX_RETRIES = retries
    return [os.fspath(paths[file]) for file in FILES]


def require_reachable(url, timeout=5.0):
    """Raises OSError unless a connection towards `url` opens within `timeout` seconds, name resolution included."""
    host, port = first_hop(url)
    failures: list[OSError | None] = [TimeoutError(f"no answer within {timeout:g} s")]

    def connect():
        try:
            socket.create_connection((host, port), timeout).close()
            failures.append(None)
        except OSError as error:
            failures.append(error)

    # Only a thread bounds name resolution, and only a daemon lets the process end while it hangs.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(timeout)
    if failures[-1]:
        raise OSError(f"cannot reach {host}: {one_line(failures[-1])}")


def first_hop(url):
    """(host, port) that a request for `url` connects to: the site's, or those of the proxy the environment names."""
    parts = urllib.parse.urlsplit(url)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme, proxies.get("all"))
    if proxy and not urllib.request.proxy_bypass(parts.hostname):
        parts = urllib.parse.urlsplit(proxy if "://" in proxy else "http://" + proxy)
    return parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme, 1080)


def read_verified(name, file, path):
    """(decompressed bytes, {'path', 'sha256', 'bytes', 'payload'}) of one official .gz. Raises DataError."""
    try:
        with open(path, "rb") as stream:
            packed = stream.read()
    except OSError as error:
        raise DataError(f"data {name!r}: cannot read {path}: {one_line(error)}; {WAYS_ON}") from error
    about = {"path": path, "sha256": sha256(packed), "bytes": len(packed)}
    try:
        payload, reason = gzip.decompress(packed), "wrong checksum"
    except (OSError, EOFError, zlib.error) as error:
        payload, reason = b"", f"broken gzip: {one_line(error)}"
    about["payload"] = sha256(payload)
    if about["payload"] == PAYLOAD_SHA256.get(name, {}).get(file):
        return payload, about
    url, official = registered(name)[file]
    if about["sha256"] == official.checksum:
        return payload, about
    raise DataError(
        f"data {name!r}: {path}: {reason}: expected {int(official.size)} bytes with sha256 {official.checksum}, got "
        f"{about['bytes']} bytes with sha256 {about['sha256']}; put {url} in its place; {WAYS_ON}"
    )


def parse_idx(payload):
    """An IDX file of bytes: 0, 0, 8 (uint8), the number of axes, each length as a big-endian uint32, the values."""
    axes = payload[3]
    shape = np.frombuffer(payload, ">u4", axes, offset=4)
    return np.frombuffer(payload, np.uint8, offset=4 + 4 * axes).reshape(shape)


# ---- a user's .npz, or a directory of .npy

SAVE = "write it by numpy.savez(FILE, x_train=..., x_test=...)"


def read_npz(path):
    """{'train', 'valid'?, 'test': (image, label or None, condition or None)}. Raises DataError naming the array."""
    arrays = open_npz(path)
    valid = ["valid"] if any(f"{prefix}_valid" in arrays for prefix in ("x", "y", "condition")) else []
    return {part: npz_part(path, arrays, part) for part in ("train", *valid, "test")}


def open_npz(path):
    """{name: array} of x_*, y_*, condition_*. Raises DataError for a file that is missing, broken or no .npz."""
    try:
        if os.path.isdir(path):  # which may be larger than memory
            stems = [name for name in sorted(os.listdir(path)) if re.fullmatch(r"(x|y|condition)_\w+\.npy", name)]
            return {name[:-4]: np.load(os.path.join(path, name), mmap_mode="r") for name in stems}
        with open(path, "rb") as stream:  # np.load leaves its own open when the archive is broken
            archive = np.load(stream, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("it holds a single array, as a .npy does")
            names = [name for name in archive.files if name.startswith(("x_", "y_", "condition_"))]
            return {name: np.asanyarray(archive[name]) for name in names}  # a member that is no .npy is read as bytes
    except FileNotFoundError as error:
        raise DataError(f"config.data.path = {path!r}: no such file; --config.data.path=FILE.npz names it") from error
    except Exception as error:  # numpy and zipfile raise a dozen kinds for broken, locked and lying files
        raise DataError(f"config.data.path = {path!r} is not a readable .npz: {one_line(error)}; {SAVE}") from error


def npz_part(path, arrays, part):
    """(image, label, condition) of one part, checked. Raises DataError naming the array, its trouble, the remedy."""
    x = f"x_{part}"
    if x not in arrays:
        raise DataError(f"{path}: no array {x!r}, only {', '.join(arrays) or 'others'}; {SAVE}")
    image, found = as_images(path, x, arrays[x]), []
    for prefix, convert in (("y", as_labels), ("condition", as_floats)):
        name = f"{prefix}_{part}"
        array = convert(path, name, arrays[name]) if name in arrays else None
        if array is not None and array.shape[:1] != image.shape[:1]:
            raise DataError(f"{path}: {name} has shape {array.shape}, {x} {image.shape}; give one row for each example")
        found.append(array)
    label, condition = found
    if condition is not None and not condition[:1].size:
        raise DataError(f"{path}: condition_{part} has shape {condition.shape}; give at least one number each, or none")
    return image, label, condition[:, None] if condition is not None and condition.ndim == 1 else condition


def as_images(path, name, array):
    """uint8 (bool too) stays or becomes uint8, float becomes float32. Raises DataError for anything else or empty."""
    if array.ndim < 2 or not array.size:
        raise DataError(f"{path}: {name} has shape {array.shape}; give at least one example of one value, [N, ...]")
    if array.dtype in (np.uint8, np.bool_):
        return array.astype(np.uint8, copy=False)
    if array.dtype.kind != "f":
        raise DataError(f"{path}: {name} has dtype {array.dtype}; save it as uint8 in 0..255 or as float32")
    return as_floats(path, name, array)


CHECKED = 10_000  # examples at a time: the array may be on disk


def as_floats(path, name, array):
    """float32. Raises DataError for what is not a number, NaN or infinite."""
    if array.dtype.kind not in "fiub" or not array.ndim:
        raise DataError(f"{path}: {name} has dtype {array.dtype}, shape {array.shape}; save it as float32, [N, ...]")
    with np.errstate(over="ignore"):  # becomes an infinity, reported below
        array = array.astype(np.float32, copy=False)
    parts = (array[start : start + CHECKED] for start in range(0, len(array), CHECKED))
    bad = array.size - sum(int(np.isfinite(part).sum()) for part in parts)
    if bad:
        raise DataError(f"{path}: {name} has {bad} values that are NaN or infinite in float32; remove or replace them")
    return array


def as_labels(path, name, array):
    """`[N]` int32. Raises DataError for anything but classes 0, 1, 2, ..."""
    whole = array.ndim == 1 and array.dtype.kind in "iub"
    if not whole or (array.size and (array.min() < 0 or array.max() > np.iinfo(np.int32).max)):
        what = f"values from {array.min()}" if whole else f"shape {array.shape}, dtype {array.dtype}"
        raise DataError(f"{path}: {name} has {what}; give one class 0, 1, 2, ... per example, [N] integers")
    return array.astype(np.int32)
