"""Sets that TFDS prepared, read without TensorFlow: small ones, prepared here with PNGs that Pillow encodes."""

import io
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from vae_jax import config as configs
from vae_jax.commands import configuration, train
from vae_jax.commands.train import train_run
from vae_jax.data import datasets, feed, files
from vae_jax.data.splits import Info
from vae_jax.data.tfds import Records
from vae_jax.errors import DataError
from vae_jax.runs import directory
from vae_jax.training import setup as setups
from vae_jax.training.program import stays_on_host


def config(name, directory, **fields):
    blank = {"manual_dir": "", "path": "", "num_train": 0, "binarization": "none", "binarization_seed": 0}
    blank |= {"condition": "none", "placement": "auto"}
    return SimpleNamespace(name=name, data_dir=str(directory), **(blank | fields))


def refusal(name, directory):
    with pytest.raises(DataError) as caught:
        datasets.load(config(name, directory))
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1000
    return message


def png(array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def prepare(name, directory, sizes, image_of, with_label=True):
    """Prepares a set called `name` with sizes[s] examples in the split s: image_of(i) and the label i % 3."""
    features = {"image": tfds.features.Image(shape=(None, None, 1))}
    features |= {"label": tfds.features.ClassLabel(num_classes=10)} if with_label else {}

    def info(self):
        return tfds.core.DatasetInfo(builder=self, description=name, features=tfds.features.FeaturesDict(features))

    def examples(self, count):
        for i in range(count):
            yield i, {"image": png(image_of(i))} | ({"label": i % 3} if with_label else {})

    body = {
        "name": name,
        "VERSION": tfds.core.Version("3.0.1"),
        "_info": info,
        "_split_generators": lambda self, manager: {split: self._generate_examples(n) for split, n in sizes.items()},
        "_generate_examples": examples,
        "__module__": __name__,
    }
    with tfds.core.registered.skip_registration():
        builder = type("Small", (tfds.core.GeneratorBasedBuilder,), body)
    builder(data_dir=str(directory), file_format="array_record").download_and_prepare()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data directory with a small 'mnist', 'small', 'binary', 'ragged', 'no_test'. Tests only read it."""
    directory = tmp_path_factory.mktemp("tfds")
    tfds.disable_progress_bar()
    full = lambda shape: lambda i: np.full(shape, i % 256, np.uint8)
    prepare("mnist", directory, {"train": 410, "test": 7}, full((28, 28)))
    prepare("small", directory, {"train": 30, "validation": 4, "test": 5}, full((4, 3)))
    prepare("binary", directory, {"train": 30, "test": 5}, lambda i: np.full((4, 3), i % 2, np.uint8), with_label=False)
    prepare("ragged", directory, {"train": 9, "test": 5}, lambda i: np.zeros((4, 3 + i), np.uint8))
    prepare("no_test", directory, {"train": 9}, full((4, 3)))
    tfds.enable_progress_bar()
    return directory


def test_a_prepared_mnist_comes_before_files_and_network(prepared, monkeypatch):
    monkeypatch.setattr(files, "read_idx", None)
    dataset = datasets.load(config("mnist", prepared))
    assert [len(s.image) for s in dataset[:3]] == [10, 400, 7]
    assert dataset.info == Info("mnist", (28, 28, 1), 10, 3, (0.0, 255.0), None)
    everything = np.concatenate([dataset.train.image, dataset.valid.image])[:, 0, 0, 0]
    assert sorted(everything) == sorted(i % 256 for i in range(410))
    assert "3.0.1" in dataset.provenance["source"] and dataset.provenance["path"].startswith(str(prepared))
    assert dataset.provenance["valid"] == "the last 400 training images"


def test_manual_dir_comes_before_a_prepared_mnist(prepared, tmp_path):
    with pytest.raises(DataError, match="manual_dir"):
        datasets.load(config("mnist", prepared, manual_dir=str(tmp_path)))


def test_a_directory_that_holds_nothing_prepared_is_passed_over(tmp_path, monkeypatch):
    (tmp_path / "mnist" / "3.0.1").mkdir(parents=True)  # what a failed preparation leaves

    def read_idx(*args):
        raise DataError("asked for files")

    monkeypatch.setattr(files, "read_idx", read_idx)
    assert refusal("mnist", tmp_path) == "asked for files"


def test_any_prepared_image_set(prepared):
    dataset = datasets.load(config("small", prepared))
    assert dataset.info == Info("small", (4, 3, 1), 30, 3, (0.0, 255.0), None)
    assert sorted(dataset.valid.image[:, 0, 0, 0]) == [0, 1, 2, 3] and "valid" not in dataset.provenance
    np.testing.assert_array_equal(dataset.train.label, dataset.train.image[:, 0, 0, 0] % 3)
    again = datasets.load(config("small", prepared, num_train=8))
    np.testing.assert_array_equal(again.train.image, dataset.train.image[:8])


def test_a_set_without_labels_or_validation(prepared):
    dataset = datasets.load(config("binary", prepared))
    assert dataset.info == Info("binary", (4, 3, 1), 27, 0, (0.0, 1.0), None)
    assert dataset.train.label is None and dataset.provenance["valid"] == "the last 3 training examples"


def test_a_set_that_is_not_prepared_says_how_to_prepare_it(tmp_path):
    message = refusal("cifar10", tmp_path / "empty")
    assert "pip install tensorflow" in message and "download_and_prepare()" in message
    assert "'cifar10'" in message and str(tmp_path / "empty") in message and "array_record" in message


def test_an_unknown_name_lists_the_known_ones(tmp_path):
    message = refusal("minst", tmp_path)
    assert "digits, mnist, fashion_mnist, kmnist, npz, ppca" in message and "did you mean 'mnist'?" in message
    assert "tensorflow.org/datasets" in refusal("nothing_like_it", tmp_path)
    assert "'a b'" in refusal("a b", tmp_path)


def test_sets_that_do_not_fit(prepared, tmp_path):
    assert "no feature 'image'" in refusal("ag_news_subset", tmp_path)
    assert "no split test, only train" in refusal("no_test", prepared)
    assert "one shape" in refusal("ragged", prepared)


def test_left_on_disk_a_set_is_the_set(prepared):
    """Every part, cut and uncut, by slices and by numbers in any order."""
    whole, left = (datasets.load(config("mnist", prepared, placement=p)) for p in ("device", "host"))
    assert left.info == whole.info and left.provenance == whole.provenance
    for there, here in zip(left[:3], whole[:3], strict=True):
        assert isinstance(there.image, Records) and isinstance(here.image, np.ndarray)
        assert (there.image.shape, there.image.dtype) == (here.image.shape, here.image.dtype)
        np.testing.assert_array_equal(there.label, here.label)
        for rows in (slice(None), slice(1, 6, 2), np.array([3, 0, 3]), slice(2)):
            np.testing.assert_array_equal(there.image[rows], here.image[rows])
    few = datasets.load(config("mnist", prepared, placement="host", num_train=4))
    np.testing.assert_array_equal(few.train.image[:], whole.train.image[:4])


def test_what_is_left_on_disk_goes_by_size(prepared, monkeypatch):
    assert isinstance(datasets.load(config("small", prepared)).train.image, np.ndarray)
    monkeypatch.setattr("vae_jax.data.tfds.SHARE", 1e-12)
    assert isinstance(datasets.load(config("small", prepared)).train.image, Records)
    assert isinstance(datasets.load(config("small", prepared, placement="device")).train.image, np.ndarray)


@pytest.mark.parametrize("changes", [{"binarization": "fixed"}, {"condition": "upper"}])
def test_what_would_copy_records_into_memory_is_refused(changes, prepared):
    with pytest.raises(DataError, match=r"would make all of TFDS small/3.0.1.* anew in memory") as caught:
        datasets.load(config("small", prepared, placement="host", **changes))
    assert "\n" not in str(caught.value)


def test_a_run_from_records_is_the_run(prepared, tmp_path, monkeypatch):
    """Trained from disk in windows of two steps: the batches and noise, so the numbers, of data on the device."""
    c = configs.from_experiment("experiments/digits.py", "two_quick")
    c.data.name, c.data.data_dir, c.data.condition = "small", str(prepared), "label"
    c.model.hidden, c.train.batch_size, c.train.epochs, c.eval.num_samples = (8,), 8, 3, 5
    monkeypatch.setattr(feed, "window_steps", lambda source: 2)
    monkeypatch.setattr(train, "draw", lambda *_: {})
    found = {}
    for c.data.placement in ("device", "host"):
        assert stays_on_host(setups.make_setup(configuration.validate(c), 1)) == (c.data.placement == "host")
        found[c.data.placement] = train_run(configuration.validate(c), tmp_path / c.data.placement, 1)["splits"]
    for split in ("train", "test"):
        for name in ("elbo", "nll"):
            ours, theirs = (found[place][split][name]["value"] for place in ("host", "device"))
            np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert directory.run_status(tmp_path / "host", configuration.validate(c).to_dict()) == "finished"


def test_a_record_that_goes_bad_while_training_is_one_line(prepared, tmp_path):
    shutil.copytree(prepared / "small", tmp_path / "small")
    image = datasets.load(config("small", tmp_path, placement="host")).train.image
    for path in (tmp_path / "small" / "3.0.1").glob("*array_record*"):
        path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(DataError, match="prepare it again"):
        image[:]


def test_a_damaged_directory_says_to_prepare_again(prepared, tmp_path):
    shutil.copytree(prepared / "small", tmp_path / "small")
    for path in (tmp_path / "small" / "3.0.1").glob("*array_record*"):
        path.write_bytes(path.read_bytes()[:100])
    message = refusal("small", tmp_path)
    assert str(tmp_path) in message and "prepare" in message
