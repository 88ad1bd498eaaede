"""vae_jax.data: what is loaded, how it becomes x, and what is said when it cannot be had."""

import gzip
import hashlib
import http.server
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import zipfile
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from scipy import stats

from vae_jax.data import datasets, files
from vae_jax.data.preprocess import preprocess as to_x
from vae_jax.data.splits import Info, Split, assemble
from vae_jax.errors import DataError
from vae_jax.keys import Use, seed_key

NUM_TRAIN, NUM_TEST = 450, 12


def config(name, **fields):
    blank = {
        "manual_dir": "",
        "data_dir": "",
        "path": "",
        "num_train": 0,
        "binarization": "none",
        "binarization_seed": 0,
        "condition": "none",
    }
    return SimpleNamespace(name=name, **(blank | fields))


def refusal(name, **fields):
    """The message of the DataError that loading raises."""
    with pytest.raises(DataError) as caught:
        datasets.load(config(name, **fields))
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1200
    return message


preprocess = jax.jit(to_x, static_argnums=(2, 3))


def keys_of(count):
    return jax.random.split(jax.random.key(0), count)


# ---- preprocess


def test_preprocess_scales_and_thresholds():
    image = np.array([[[0], [1], [127], [128], [255]]], np.uint8)
    grey = preprocess(None, image, (0.0, 255.0), "none")
    assert grey.dtype == np.float32 and grey.shape == image.shape
    np.testing.assert_allclose(grey, image / 255, rtol=1e-6)
    np.testing.assert_array_equal(to_x(None, image, (0.0, 255.0), "threshold")[0, :, 0], [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(to_x(None, np.float32([[-3.5, 2.0]]), (0.0, 1.0), "none"), [[-3.5, 2.0]])


def test_preprocess_refuses_an_unknown_binarization():
    with pytest.raises(ValueError, match="'dynamic'"):
        to_x(None, np.zeros((1, 4), np.uint8), (0.0, 1.0), "fixed")


def test_dynamic_binarization_has_the_right_means_and_is_exact_at_the_ends():
    count = 20_000
    levels = np.arange(256, dtype=np.uint8)
    draws = np.asarray(preprocess(keys_of(count), np.tile(levels, (count, 1)), (0.0, 255.0), "dynamic"))
    assert draws.dtype == np.float32 and set(np.unique(draws)) == {0, 1}
    p = levels / 255
    mean = draws.mean(0, dtype=np.float64)
    assert mean[0] == 0 and mean[255] == 1
    assert np.all(abs(mean - p) <= 5 * np.sqrt(p * (1 - p) / count))
    correlation = np.corrcoef(draws[:, 100:120].T) - np.eye(20)  # two pixels come out of one 32-bit word
    assert abs(correlation).max() < 5 / np.sqrt(count)


@pytest.mark.parametrize("shape", [(7, 5), (6, 4, 4, 1)])
def test_a_row_depends_on_its_own_key_alone(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    keys = keys_of(len(image))
    whole = np.asarray(preprocess(keys, image, (0.0, 255.0), "dynamic"))
    rows = np.array([4, 1])
    part = preprocess(keys[rows], image[rows], (0.0, 255.0), "dynamic")
    np.testing.assert_array_equal(part, whole[rows])


# ---- fixed binarization


def grey_dataset(num_train, seed=0):
    rng = np.random.default_rng(seed)
    splits = [Split(rng.integers(0, 256, (n, 3, 2), np.uint8)) for n in (num_train, 4, 4)]
    return assemble("grey", *splits, {"source": "test"})


def test_fixed_draws_each_example_once_by_its_split_and_index():
    dataset = grey_dataset(4200)  # more than a chunk
    fixed = datasets.binarize_fixed(dataset, 7)
    assert fixed.info.value_range == (0.0, 1.0) and fixed.info.event_shape == (3, 2)
    assert fixed.provenance == {"source": "test", "binarization_seed": 7}
    for number, index in ((0, 3), (0, 4150), (1, 2), (2, 0)):
        key = jax.random.fold_in(jax.random.fold_in(seed_key(7, Use.SEED_BINARIZE), number), index)
        expected = preprocess(key[None], dataset[number].image[index][None], (0.0, 255.0), "dynamic")[0]
        assert fixed[number].image.dtype == np.uint8
        np.testing.assert_array_equal(fixed[number].image[index], expected)


def test_fixed_does_not_depend_on_num_train_and_load_applies_it():
    whole = datasets.load(config("digits", binarization="fixed"))
    cut = datasets.load(config("digits", binarization="fixed", num_train=50))
    assert set(np.unique(whole.train.image)) == {0, 1} and whole.info.value_range == (0.0, 1.0)
    np.testing.assert_array_equal(cut.train.image, whole.train.image[:50])
    np.testing.assert_array_equal(cut.test.image, whole.test.image)


@pytest.mark.parametrize("binarization", ["fixed", "dynamic", "threshold"])
def test_values_that_are_no_probabilities_are_not_binarized(binarization):
    message = refusal("ppca", binarization=binarization)
    assert "[-8.0" in message and "--config.data.binarization=none" in message


# ---- named sets


def test_digits_are_scikit_learns_in_one_fixed_order(monkeypatch):
    dataset = datasets.load(config("digits"))
    assert [len(s.image) for s in dataset[:3]] == [1400, 97, 300]
    assert dataset.info == Info("digits", (8, 8, 1), 1400, 10, (0.0, 16.0), None)
    assert dataset.train.image.dtype == np.uint8 and dataset.train.label.dtype == np.int32
    assert dataset.provenance["sha256"] == "41f1cde3d1230a38e792f9a5b7538d701dc4c6b5f65fa9e2628873d25280409c"
    json.dumps(dataset.provenance)

    isfile = os.path.isfile
    monkeypatch.setattr(files.os.path, "isfile", lambda path: "digits.csv" not in path and isfile(path))
    again = datasets.load(config("digits"))  # by scikit-learn's own load_digits
    for ours, theirs in zip(dataset[:3], again[:3], strict=True):
        np.testing.assert_array_equal(ours.image, theirs.image)
        np.testing.assert_array_equal(ours.label, theirs.label)


def test_num_train_keeps_the_first_examples():
    whole, cut = (datasets.load(config("digits", num_train=n)) for n in (0, 10))
    assert cut.info.num_train == 10 and cut.provenance["sizes"] == {"train": 10, "valid": 97, "test": 300}
    np.testing.assert_array_equal(cut.train.image, whole.train.image[:10])
    np.testing.assert_array_equal(cut.train.label, whole.train.label[:10])
    message = refusal("digits", num_train=1401)
    assert "1401" in message and "1400" in message and "0: all" in message


def test_ppca_has_the_density_it_states():
    dataset = datasets.load(config("ppca"))
    assert dataset.info == Info("ppca", (8,), 2000, 0, (0.0, 1.0), None)
    assert [len(s.image) for s in dataset[:3]] == [2000, 200, 500] and dataset.train.label is None
    weights, mean, sigma = datasets.ppca_params()
    assert weights.shape == (8, 2) and mean.shape == (8,) and sigma == 0.5
    law = stats.multivariate_normal(mean, weights @ weights.T + 0.25 * np.eye(8))
    log_prob = datasets.ppca_log_prob(dataset.test.image)
    np.testing.assert_allclose(log_prob, law.logpdf(dataset.test.image.astype(np.float64)), rtol=1e-9)
    entropy = law.entropy()  # E log p = -entropy, Var log p = D/2
    everything = np.concatenate([s.image for s in dataset[:3]])
    assert abs(datasets.ppca_log_prob(everything).mean() + entropy) < 5 * np.sqrt(4 / len(everything))


def test_the_folder_imports_neither_scikit_learn_nor_tfds():
    """Each takes seconds, and most runs need neither."""
    code = "import sys, vae_jax.data; print({'sklearn', 'tensorflow', 'tensorflow_datasets'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


# ---- IDX files, with a small set of four in place of the real ones


def idx_bytes(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


@pytest.fixture
def official(tmp_path, monkeypatch):
    """Four small files that TFDS's table and ours call official: .directory, .arrays, .data_dir, .base (settable)."""
    from tensorflow_datasets.core.download.checksums import UrlInfo

    rng = np.random.default_rng(0)
    sizes = [(NUM_TRAIN, 28, 28), (NUM_TRAIN,), (NUM_TEST, 28, 28), (NUM_TEST,)]
    arrays = [rng.integers(0, 256 if len(s) == 3 else 10, s, np.uint8) for s in sizes]
    directory = tmp_path / "official"
    directory.mkdir()
    packed = {file: gzip.compress(idx_bytes(array), mtime=0) for file, array in zip(files.FILES, arrays, strict=True)}
    for file, content in packed.items():
        (directory / file).write_bytes(content)
    made = SimpleNamespace(
        directory=directory, arrays=arrays, data_dir=tmp_path / "data", base="https://site.invalid/set"
    )
    infos = {f: UrlInfo(len(c), hashlib.sha256(c).hexdigest(), f) for f, c in packed.items()}
    monkeypatch.setattr(files, "registered", lambda name: {f: (f"{made.base}/{f}", info) for f, info in infos.items()})
    payload = {f: hashlib.sha256(idx_bytes(a)).hexdigest() for f, a in zip(files.FILES, arrays, strict=True)}
    monkeypatch.setattr(files, "PAYLOAD_SHA256", {"mnist": payload})
    return made


def check_mnist(dataset, arrays):
    np.testing.assert_array_equal(dataset.train.image[..., 0], arrays[0][:-400])
    np.testing.assert_array_equal(dataset.valid.image[..., 0], arrays[0][-400:])
    np.testing.assert_array_equal(dataset.valid.label, arrays[1][-400:])
    np.testing.assert_array_equal(dataset.test.image[..., 0], arrays[2])
    np.testing.assert_array_equal(dataset.test.label, arrays[3])
    assert dataset.info.event_shape == (28, 28, 1) and dataset.info.num_classes == 10
    assert dataset.info.value_range == (0.0, 255.0) and dataset.info.num_train == NUM_TRAIN - 400
    assert dataset.train.image.dtype == np.uint8 and dataset.train.label.dtype == np.int32
    json.dumps(dataset.provenance)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist"])
def test_idx_files_of_manual_dir(official, name):
    dataset = datasets.load(config(name, manual_dir=str(official.directory)))
    check_mnist(dataset, official.arrays)
    about = dataset.provenance["files"]["train-images-idx3-ubyte.gz"]
    assert about["path"].startswith(str(official.directory)) and len(about["sha256"]) == 64


def test_a_recompressed_file_is_as_good(official):
    path = official.directory / files.FILES[0]
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 1))
    check_mnist(datasets.load(config("mnist", manual_dir=str(official.directory))), official.arrays)


def test_manual_dir_without_the_files_is_refused(official):
    (official.directory / files.FILES[3]).unlink()
    message = refusal("mnist", manual_dir=str(official.directory))
    assert files.FILES[3] in message and files.FILES[0] not in message and str(official.directory) in message
    assert "--config.data.manual_dir=DIR" in message and "--config=experiments/digits.py" in message
    assert files.FILES[0] in refusal("mnist", manual_dir="/nowhere")


def flip_a_byte(content):
    payload = bytearray(gzip.decompress(content))
    payload[-1] ^= 1
    return gzip.compress(bytes(payload), mtime=0)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip_a_byte, "wrong checksum"),
        (lambda content: content[: len(content) // 2], "broken gzip"),
        (lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:], "broken gzip"),
        (lambda content: content[:40] + b"\xff" * 40 + content[80:], "broken gzip"),
        (lambda content: b"<html>not found</html>", "broken gzip"),
        (lambda content: b"", "wrong checksum"),
    ],
    ids=["byte", "truncated", "crc", "deflate", "html", "empty"],
)
def test_a_damaged_file_is_refused(official, damage, reason):
    path = official.directory / files.FILES[0]
    content = path.read_bytes()
    damaged = damage(content)
    path.write_bytes(damaged)
    message = refusal("mnist", manual_dir=str(official.directory))
    assert f"{path}: {reason}" in message and "site.invalid" in message
    for expected in (content, damaged):
        assert hashlib.sha256(expected).hexdigest() in message and f"{len(expected)} bytes" in message
    assert "--config.data.manual_dir=DIR" in message and "--config=experiments/digits.py" in message


def test_an_unreadable_file_is_refused(official):
    (official.directory / files.FILES[1]).unlink()
    (official.directory / files.FILES[1]).symlink_to(official.directory)
    assert files.FILES[1] in refusal("mnist", manual_dir=str(official.directory))
    with pytest.raises(DataError, match="cannot read"):
        files.read_verified("mnist", files.FILES[1], str(official.directory))


def serve(directory):
    handler = lambda *args: QuietHandler(*args, directory=str(directory))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def no_proxy(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def test_download_then_cache(official, no_proxy):
    server = serve(official.directory)
    official.base = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        dataset = datasets.load(config("mnist", data_dir=str(official.data_dir)))
    finally:
        server.shutdown()
        server.server_close()
    check_mnist(dataset, official.arrays)
    cached = datasets.load(config("mnist", data_dir=str(official.data_dir)))  # the server is gone
    check_mnist(cached, official.arrays)
    path = cached.provenance["files"][files.FILES[0]]["path"]
    assert path.startswith(str(official.data_dir)) and cached.provenance == dataset.provenance

    with open(path, "r+b") as stream:
        stream.truncate(1000)
    assert f"{path}: broken gzip" in refusal("mnist", data_dir=str(official.data_dir))


@pytest.mark.parametrize("trouble", ["absent", "altered"])
def test_a_failed_download_is_one_line(official, no_proxy, trouble):
    path = official.directory / files.FILES[0]
    path.unlink() if trouble == "absent" else path.write_bytes(flip_a_byte(path.read_bytes()))
    server = serve(official.directory)
    official.base = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        message = refusal("mnist", data_dir=str(official.data_dir))
    finally:
        server.shutdown()
        server.server_close()
    assert {"absent": "404", "altered": "wrong checksum"}[trouble] in message
    assert "--config.data.manual_dir=DIR" in message and "--config=experiments/digits.py" in message


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist"])
def test_without_a_network_it_fails_at_once_and_says_what_to_do(name, tmp_path, monkeypatch, no_proxy):
    from tensorflow_datasets.core.download import downloader

    def unresolved(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    retries, start = downloader.MAX_RETRIES, time.monotonic()
    message = refusal(name, data_dir=str(tmp_path / "none"))
    assert time.monotonic() - start < 5
    assert downloader.MAX_RETRIES == retries
    host = {"mnist": "storage.googleapis.com", "kmnist": "codh.rois.ac.jp"}.get(name, "fashion-mnist.s3")
    assert f"{name!r}" in message and host in message and str(tmp_path / "none") in message
    assert "Name or service not known" in message
    assert "--config.data.manual_dir=DIR" in message and "--config=experiments/digits.py" in message
    assert not (tmp_path / "none").exists()


def test_a_resolver_that_never_answers_is_not_waited_for(monkeypatch, no_proxy):
    done = threading.Event()
    monkeypatch.setattr(socket, "create_connection", lambda *args: done.wait(20) and SimpleNamespace(close=done.set))
    start = time.monotonic()
    with pytest.raises(OSError, match=r"site\.invalid: no answer within 0\.1 s"):
        files.require_reachable("https://site.invalid/a.gz", timeout=0.1)
    assert time.monotonic() - start < 5
    monkeypatch.undo()
    done.set()


def test_a_proxy_is_what_must_be_reachable(monkeypatch, no_proxy):
    assert files.first_hop("https://site.invalid/a") == ("site.invalid", 443)
    assert files.first_hop("http://site.invalid:81/a") == ("site.invalid", 81)
    monkeypatch.setenv("https_proxy", "proxy.invalid:3128")
    assert files.first_hop("https://site.invalid/a") == ("proxy.invalid", 3128)
    monkeypatch.setenv("no_proxy", "site.invalid")
    assert files.first_hop("https://site.invalid/a") == ("site.invalid", 443)


def test_the_checksum_tables_are_tfds_own():
    for name in ("mnist", "fashion_mnist", "kmnist"):
        table = files.registered(name)
        assert set(table) == set(files.FILES)
        assert all(len(info.checksum) == 64 and url.endswith(file) for file, (url, info) in table.items())


@pytest.mark.data
def test_real_mnist():
    directory = os.environ.get("VAE_JAX_MNIST")
    if not directory:
        pytest.skip("VAE_JAX_MNIST names no directory")
    dataset = datasets.load(config("mnist", manual_dir=directory))
    assert [len(s.image) for s in dataset[:3]] == [59_600, 400, 10_000]
    assert dataset.info == Info("mnist", (28, 28, 1), 59_600, 10, (0.0, 255.0), None)
    np.testing.assert_array_equal(dataset.train.label[:5], [5, 0, 4, 1, 9])
    np.testing.assert_array_equal(dataset.test.label[:5], [7, 2, 1, 0, 4])
    for file, about in dataset.provenance["files"].items():  # our payload sums and TFDS's .gz sums name the same files
        assert about["sha256"] == files.registered("mnist")[file][1].checksum


@pytest.mark.data
def test_real_fashion_mnist_compressed_anew(tmp_path):
    """As Debian packs it: other bytes, the same payload, and TFDS's table is not asked."""
    directory = os.environ.get("VAE_JAX_FASHION_MNIST")
    if not directory:
        pytest.skip("VAE_JAX_FASHION_MNIST names no directory")
    for file in files.FILES:
        with open(os.path.join(directory, file), "rb") as stream:
            (tmp_path / file).write_bytes(gzip.compress(gzip.decompress(stream.read()), 1, mtime=7))
    dataset = datasets.load(config("fashion_mnist", manual_dir=str(tmp_path)))
    assert [len(s.image) for s in dataset[:3]] == [59_600, 400, 10_000]
    np.testing.assert_array_equal(dataset.train.label[:5], [9, 0, 0, 3, 0])


def test_where_fashion_mnist_is_packed_is_said(official):
    assert "dataset-fashion-mnist" in refusal("fashion_mnist", manual_dir="/nowhere")


# ---- npz


def save(tmp_path, **arrays):
    path = tmp_path / "set.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return str(path)


def images(count, dtype=np.float32):
    values = np.random.default_rng(count).random((count, 4, 3))
    return (values * 255).astype(dtype) if dtype == np.uint8 else values.astype(dtype)


def test_npz_with_everything(tmp_path):
    arrays = {f"x_{p}": images(n) for p, n in (("train", 20), ("valid", 5), ("test", 6))}
    arrays |= {f"y_{p}": np.arange(n) % 3 for p, n in (("train", 20), ("valid", 5), ("test", 6))}
    arrays |= {f"condition_{p}": np.arange(n) for p, n in (("train", 20), ("valid", 5), ("test", 6))}
    path = save(tmp_path, **arrays)
    dataset = datasets.load(config("npz", path=path, binarization="dynamic"))
    assert dataset.info == Info("npz", (4, 3), 20, 3, (0.0, 1.0), (1,))
    np.testing.assert_array_equal(dataset.valid.image, arrays["x_valid"])
    assert dataset.train.label.dtype == np.int32 and dataset.train.condition.dtype == np.float32
    np.testing.assert_array_equal(dataset.test.condition[:, 0], np.arange(6))
    with open(path, "rb") as stream:
        assert dataset.provenance["sha256"] == hashlib.sha256(stream.read()).hexdigest()
    assert "valid" not in dataset.provenance
    json.dumps(dataset.provenance)


def test_npz_of_other_content_has_another_sum(tmp_path):
    """By which a run knows its data again; the same content has the same, wherever the file lies."""
    paths = [tmp_path / str(number) / "set.npz" for number in range(3)]
    for path, seed in zip(paths, (0, 0, 1), strict=True):
        path.parent.mkdir()
        x = np.random.default_rng(seed).random((9, 3))
        np.savez(path, x_train=x, x_test=x)
    sums = [datasets.load(config("npz", path=str(path))).provenance["sums"] for path in paths]
    assert sums[0] == sums[1] and sums[0].keys() == sums[2].keys() == {"file"} and sums[0] != sums[2]


@pytest.mark.parametrize(("count", "apart"), [(2, 1), (19, 1), (57, 5), (12_000, 1000)])
def test_npz_without_x_valid_holds_out_the_last_tenth(tmp_path, count, apart):
    x = np.arange(count * 2, dtype=np.float64).reshape(count, 2)
    dataset = datasets.load(
        config("npz", path=save(tmp_path, x_train=x, x_test=x[:1], y_train=[0] * count, y_test=[0]))
    )
    np.testing.assert_array_equal(dataset.train.image, x[:-apart])
    np.testing.assert_array_equal(dataset.valid.image, x[-apart:])
    assert len(dataset.valid.label) == apart and dataset.info.event_shape == (2,)
    assert dataset.provenance["valid"] == f"the last {apart} training examples"


@pytest.mark.parametrize(
    ("x", "value_range"),
    [
        (images(9, np.uint8), (0.0, 255.0)),
        (images(9, np.uint8) // 128, (0.0, 1.0)),
        (images(9) > 0.5, (0.0, 1.0)),
        (images(9, np.float16), (0.0, 1.0)),
        (images(9) * 40 - 3, (0.0, 1.0)),
    ],
    ids=["bytes", "binary bytes", "bool", "half", "wide"],
)
def test_npz_value_ranges(tmp_path, x, value_range):
    dataset = datasets.load(config("npz", path=save(tmp_path, x_train=x, x_test=x)))
    assert dataset.info.value_range == value_range
    grey = to_x(None, dataset.test.image, value_range, "none")
    np.testing.assert_allclose(grey, x.astype(np.float32) / value_range[1], rtol=1e-6)


NAN = np.where(np.arange(12).reshape(4, 3) < 5, np.nan, images(9))

BAD_ARRAYS = {
    "no test": (dict(x_test=None), ["no array 'x_test'", "x_train", "numpy.savez"]),
    "nothing": (dict(x_train=None, x_test=None, z=images(2)), ["no array 'x_train'"]),
    "y of no x": (dict(y_train=np.zeros(9, int), y_test=np.zeros(9, int), y_valid=[0]), ["no array 'x_valid'"]),
    "shape": (dict(x_test=np.zeros((9, 4), np.float32)), ["x_train is float32 [N, 4, 3]", "x_test is float32 [N, 4]"]),
    "type": (dict(x_test=images(9, np.uint8)), ["x_train is float32", "x_test is uint8"]),
    "nan": (dict(x_train=NAN), ["x_train has 45 values that are NaN or infinite"]),
    "inf": (dict(x_test=np.full((9, 4, 3), -np.inf)), ["x_test has 108 values", "remove or replace"]),
    "overflow": (dict(x_test=images(9).astype(float) + 1e300), ["x_test has 108 values"]),
    "nan condition": (dict(condition_train=NAN, condition_test=NAN), ["condition_train has 45 values"]),
    "empty": (dict(x_train=np.zeros((0, 4, 3))), ["x_train has shape (0, 4, 3)"]),
    "empty event": (dict(x_train=np.zeros((9, 0))), ["x_train has shape (9, 0)"]),
    "flat": (dict(x_train=np.zeros(9)), ["x_train has shape (9,)", "[N, ...]"]),
    "one": (dict(x_train=images(1)), ["one training example", "x_valid"]),
    "long y": (
        dict(y_train=np.zeros(8, int), y_test=np.zeros(9, int)),
        ["y_train has shape (8,)", "x_train (9, 4, 3)"],
    ),
    "long condition": (dict(condition_train=np.zeros((8, 2))), ["condition_train has shape (8, 2)"]),
    "y of train only": (dict(y_train=np.zeros(9, int)), ["y_train is int32 [N]", "y_test is absent"]),
    "float y": (dict(y_train=np.zeros(9)), ["y_train has shape (9,), dtype float64", "[N] integers"]),
    "one-hot y": (dict(y_train=np.eye(9, dtype=int)), ["y_train has shape (9, 9)"]),
    "negative y": (dict(y_train=np.arange(9) - 1), ["y_train has values from -1"]),
    "int64": (dict(x_train=images(9).astype(int)), ["x_train has dtype int64", "uint8 in 0..255"]),
    "text": (dict(condition_train=np.array(["a"] * 9)), ["condition_train has dtype <U1"]),
    "empty condition": (dict(condition_train=np.zeros((9, 0))), ["condition_train has shape (9, 0)", "at least one"]),
    "one condition for all": (dict(condition_train=np.float32(1)), ["condition_train has dtype float32, shape ()"]),
    "object": (dict(x_train=np.array([None] * 9)), ["not a readable .npz", "Object arrays"]),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_npz_with_a_wrong_array_is_refused(tmp_path, case):
    changes, parts = BAD_ARRAYS[case]
    path = save(tmp_path, **({"x_train": images(9), "x_test": images(9)} | changes))
    message = refusal("npz", path=path)
    for part in (path, *parts):
        assert part in message


@pytest.mark.parametrize("size", [0, 100, 1000])
def test_npz_cut_short_is_refused(tmp_path, size):
    path = save(tmp_path, x_train=images(50), x_test=images(50))
    os.truncate(path, size)
    message = refusal("npz", path=path)
    assert path in message and "not a readable .npz" in message and "numpy.savez" in message


def test_npz_with_a_flipped_byte_is_refused(tmp_path):
    path = save(tmp_path, x_train=images(50), x_test=images(50))
    with open(path, "r+b") as stream:
        stream.seek(500)
        stream.write(b"\xff\xff")
    assert "Bad CRC-32" in refusal("npz", path=path)


def npy_header(shape):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue()


MEMBERS = {  # name of x_train's member, its bytes, what is said
    "no array": ("x_train.npy", b"hello", "x_train has shape ()"),
    "no npy": ("x_train", b"hello", "x_train has shape ()"),
    "8 TB": ("x_train.npy", npy_header((2**41,)) + bytes(64), "numpy.savez"),
    "shorter than it says": ("x_train.npy", npy_header((9, 4, 3)) + bytes(64), "numpy.savez"),
}


@pytest.mark.parametrize("case", MEMBERS)
def test_npz_with_a_member_that_lies_is_refused(tmp_path, case):
    name, data, expected = MEMBERS[case]
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        archive.writestr(name, data)
        stream = io.BytesIO()
        np.save(stream, images(9))
        archive.writestr("x_test.npy", stream.getvalue())
    message = refusal("npz", path=str(tmp_path / "set.npz"))
    assert expected in message and str(tmp_path / "set.npz") in message


def test_an_encrypted_npz_is_refused(tmp_path):
    """Flag bit 0 of a member says so; NumPy has no password for it."""
    path = tmp_path / "set.npz"
    np.savez(path, x_train=images(9), x_test=images(9))
    data = bytearray(path.read_bytes())
    for at in (m.start() for m in re.finditer(b"PK\x01\x02", bytes(data))):
        data[at + 8] |= 1
    path.write_bytes(bytes(data))
    assert "password required" in refusal("npz", path=str(path))


def test_conditions_that_cannot_be_are_refused(tmp_path):
    """One-hot labels of two billion classes; the upper half of one row."""
    large = save(tmp_path, x_train=images(9), x_test=images(9), y_train=[2 * 10**9] * 9, y_test=[0] * 9)
    assert "labels up to 2,000,000,000" in refusal("npz", path=large, condition="label")
    row = save(tmp_path, x_train=images(9)[:, :1], x_test=images(9)[:, :1])
    assert "have one row each" in refusal("npz", path=row, condition="upper")


def test_what_is_no_npz_is_refused(tmp_path):
    (tmp_path / "text").write_text("hello")
    np.save(tmp_path / "one.npy", images(3))
    assert "numpy.savez" in refusal("npz", path=str(tmp_path / "text"))
    assert "single array" in refusal("npz", path=str(tmp_path / "one.npy"))
    assert "numpy.savez" in refusal("npz", path=str(tmp_path))
    for path in ("", str(tmp_path / "missing.npz")):
        message = refusal("npz", path=path)
        assert f"{path!r}: no such file" in message and "--config.data.path=FILE.npz" in message
