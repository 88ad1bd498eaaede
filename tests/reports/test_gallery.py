"""What a model generates: the same noise for every label, draws of its own for each half image, halves put together."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.commands import configuration
from vae_jax.data import datasets
from vae_jax.distributions.basic import Normal, StandardNormal
from vae_jax.evaluation import generation
from vae_jax.keys import split_keys
from vae_jax.models.model import Model
from vae_jax.reports import gallery

Z, CLASSES = 2, 3
MEAN = np.float32([[0, 0], [5, -5], [20, 3]])  # of p(z|c), a row for each label
LOG_STD = np.float32([[0, 0], [1, -1], [0.5, 2]])
STANDARD = lambda params, condition=None: StandardNormal((Z,))
LEARNED = lambda params, condition=None: Normal(condition @ MEAN, condition @ LOG_STD)


def make_model(prior, conditional):
    """A model whose p(x|z,c) has the mean (z, label): what it generates says what it was given."""

    def decode(params, z, condition=None):
        label = jnp.broadcast_to(condition.argmax(-1), z.shape[:-1])[..., None]
        return Normal(jnp.concatenate([z, label], -1), jnp.zeros(Z + 1))

    return Model(*[None] * 5, decode, prior, conditional=conditional)


@pytest.mark.parametrize("conditional", [False, True])
def test_labels_share_the_noise_of_a_column(conditional):
    """z itself where the prior is one for all, (z - mean(c)) / std(c) where each label has its own."""
    model = make_model(LEARNED if conditional else STANDARD, conditional)
    got = np.asarray(generation.label_means(model, {}, jax.random.key(0), np.eye(CLASSES, dtype=np.float32), 400))
    assert got.shape == (400, CLASSES, Z + 1)
    np.testing.assert_array_equal(got[..., Z], np.tile(np.arange(CLASSES), (400, 1)))
    noise = (got[..., :Z] - MEAN) / np.exp(LOG_STD) if conditional else got[..., :Z]
    np.testing.assert_allclose(noise, np.tile(noise[:, :1], (1, CLASSES, 1)), atol=1e-4)
    assert abs(noise.mean()) < 4 / np.sqrt(800) and abs(noise.std() - 1) < 0.1
    assert len(np.unique(noise[:, 0, 0])) == 400


def test_codes_of_an_autoencoder_are_shared_like_draws():
    given = np.random.default_rng(0).normal(size=(5, Z)).astype(np.float32)
    got = generation.label_means(
        make_model(STANDARD, False), {}, jax.random.key(0), np.eye(CLASSES, dtype=np.float32), 5, given
    )
    np.testing.assert_array_equal(got[..., :Z], np.tile(given[:, None], (1, CLASSES, 1)))


@pytest.mark.parametrize("conditional", [False, True])
def test_completions_are_draws_from_each_examples_prior(conditional):
    """Mean and spread as p(z|c) has them, within 5 standard errors; an example's draws do not depend on the others."""
    model = make_model(LEARNED if conditional else STANDARD, conditional)
    chunk = {"condition": np.eye(CLASSES, dtype=np.float32), "key": split_keys(0, "test", CLASSES)}
    drawn = np.asarray(generation.completions(model, {}, chunk, 2000))
    assert drawn.shape == (CLASSES, 2000, Z + 1)
    mean, std = (MEAN, np.exp(LOG_STD)) if conditional else (0 * MEAN, np.ones_like(MEAN))
    np.testing.assert_array_less(np.abs(drawn[..., :Z].mean(1) - mean) / std, 5 / np.sqrt(2000))
    np.testing.assert_allclose(drawn[..., :Z].std(1), std, rtol=5 / np.sqrt(2 * 2000))
    alone = generation.completions(model, {}, jax.tree.map(lambda a: a[1:2], chunk), 2000)
    np.testing.assert_allclose(alone[0], drawn[1], rtol=1e-5, atol=1e-5)
    assert np.abs(drawn[0, 0, :Z] - drawn[1, 0, :Z]).max() > 1e-3


def test_examples_of_a_sorted_set_are_of_all_classes():
    examples = {"image": np.arange(100), "label": np.repeat(np.arange(10), 10), "none": None}
    shown = gallery.spread_out(examples, 20)
    assert sorted(set(shown["label"])) == [*range(10)] and shown["image"][[0, -1]].tolist() == [0, 99]
    assert len(gallery.spread_out(examples, 200)["image"]) == 100


def test_only_what_is_drawn_anew_has_a_grey_original():
    """Where the model sees the stored images, drawn once or grey, one row is enough."""
    config = configuration.default()
    dataset = datasets.load(config.data)
    np.testing.assert_allclose(gallery.grey(config, dataset, [3, 7]), dataset.test.image[[3, 7]] / 16, atol=1e-6)
    for binarization in ("none", "fixed"):
        config.data.binarization = binarization
        assert gallery.grey(config, dataset, [3, 7]) is None


def test_halves_make_the_image_again():
    """The originals are the test images, and what is given is their upper halves over grey."""
    config = configuration.default()
    plain = datasets.load(config.data).test.image[:5] / 16
    config.data.condition = "upper"
    dataset = datasets.load(config.data)
    np.testing.assert_allclose(gallery.originals(dataset, np.arange(5))["original"], plain, atol=1e-6)
    (given,) = gallery.halves_given(dataset, {"condition": dataset.test.condition[:5]}).values()
    np.testing.assert_allclose(given[:, :4], plain[:, :4], atol=1e-6)
    assert (given[:, 4:] == np.float32(gallery.UNKNOWN)).all()


@pytest.mark.parametrize(
    "condition, event_shape, has_density, expected",
    [
        ("none", (8, 8, 1), True, "samples"),
        ("label", (8, 8, 1), True, "by_label"),
        ("label", (8, 8, 1), False, "by_label"),
        ("label", (5,), True, "samples"),
        ("upper", (4, 8, 1), True, "completed"),
        ("upper", (4, 8, 1), False, "samples"),
    ],
)
def test_the_picture_fits_the_condition(condition, event_shape, has_density, expected):
    config = configuration.default()
    config.data.condition = condition
    dataset = SimpleNamespace(info=SimpleNamespace(event_shape=event_shape))
    model = make_model(STANDARD, False)._replace(has_density=has_density)
    assert gallery.choose(config, dataset, model) is getattr(gallery, expected)
