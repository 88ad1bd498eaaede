"""What a model generates: samples, samples for each label, completions of half an image; arrays, and a run's picture.

condition = label    a row for each class, the same noise down each column: it shares a style, not a class
condition = upper    half a test image, and below it what p(x|z,c) has for several draws of z from p(z|c)
otherwise            the mean of p(x|z) at draws from the prior, for the conditions of test images if there are any
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax import data, evaluate, figures, pictures
from vae_jax.inference import fold_in_each
from vae_jax.model import sample_each_prior

CLASSES, DRAWS = 20, 12  # at most so many classes, and draws of z for each
COMPLETED, COMPLETIONS = 10, 6  # test images, and draws of z for each
COMPLETE = 34  # what an example's key is used for here
UNKNOWN = 0.35  # the grey of what is to be completed


def generated(setup, params, test, codes):
    """{name: (Figure, caption)} of what the model generates; `codes` [N, Z] are an autoencoder's of training images."""
    return choose(setup)(setup, params, test, codes)


def choose(setup):
    """The function that draws what such a model generates."""
    condition, is_image = setup.config.data.condition, len(setup.dataset.info.event_shape) > 1
    if condition == "label" and is_image:
        return by_label
    return completed if condition == "upper" and setup.config.model.posterior != "dirac" else samples


def prior_key(setup):
    return jax.random.fold_in(jax.random.key(setup.config.eval.seed), len(evaluate.SPLITS))


def samples(setup, params, test, codes):
    """A grid of the mean of p(x|z) at draws from the prior; of an autoencoder, from a mixture fitted to its codes."""
    model, count, seed = setup.model, setup.config.figures.count, setup.config.eval.seed
    condition = test["condition"][:count] if "condition" in test else None
    count = count if condition is None else len(condition)
    if setup.config.model.posterior == "dirac":
        z = evaluate.code_draws(codes, count, seed)
        means = evaluate.decode_means(model, params, z, condition)
        caption = "The decoder at draws of a mixture of Gaussians fitted to the codes of training images."
    else:
        means = evaluate.prior_means(model, params, prior_key(setup), count, condition)
        caption = "The mean of p(x|z) at draws of z from the prior."
    return {"samples": (figures.samples(means), caption)}


# ---- for each label


def by_label(setup, params, test, codes):
    """A row for each class, the first CLASSES of them, of as many draws of z; without z there is one image of each."""
    config, classes = setup.config.model, setup.dataset.info.num_classes
    condition = np.eye(classes, dtype=np.float32)[:CLASSES]
    count, given = (DRAWS if config.latent_dim else 1), None
    if config.posterior == "dirac":
        given = evaluate.code_draws(codes, count, setup.config.eval.seed)
    means = label_means(setup.model, params, prior_key(setup), condition, count, given)
    rows = {f"label {number}": images for number, images in enumerate(np.swapaxes(means, 0, 1))}
    shared = "noise" if setup.model.conditional else "z"
    caption = f"The mean of p(x|z) for each label, a row each; a column has the same {shared}."
    return {"samples": (pictures.strips(rows, f"Samples by label, the same {shared} in a column"), caption)}


@partial(jax.jit, static_argnums=(0, 4))
def label_means(model, params, key, condition, count, given=None):
    """The mean of p(x|z,c) for C conditions at the same `count` draws of z, or given ones: `[count, C, *event]`.

    Of a conditional prior z differs from row to row, the noise from which it is made does not. The key is consumed.
    """
    keys = jnp.broadcast_to(key, len(condition))
    if given is None:
        z = sample_each_prior(model, params, keys, count, condition)
    else:
        z = jnp.broadcast_to(given[:, None], (count, len(condition), given.shape[-1]))
    return model.decode(params, z, condition).mean


# ---- completions


def completed(setup, params, test, codes):
    """Upper halves of test images, each with several lower halves, and the image itself."""
    some = {name: test[name][:COMPLETED] for name in ("condition", "key")}
    if setup.config.model.latent_dim:
        title, lower = "Completions of test images", f"the mean of p(x|z) at {COMPLETIONS} draws of z from the prior"
    else:
        title, lower = "The lower half predicted from the upper", "the mean of p(x|c)"
    rows = halves_given(setup, some) | halves_drawn(setup, params, some) | originals(setup, COMPLETED)
    return {"completions": (pictures.strips(rows, title), f"The upper half is given, the lower half {lower}.")}


def halves_given(setup, chunk):
    """{row: images} of the upper halves, grey where the lower ones belong."""
    lower = np.full((len(chunk["condition"]), *setup.dataset.info.event_shape), UNKNOWN, np.float32)
    return {"given": whole(chunk["condition"], lower)}


def halves_drawn(setup, params, chunk):
    """{row: images}, upper halves as they are given and lower halves that the model draws."""
    count = COMPLETIONS if setup.config.model.latent_dim else 1
    lower = np.asarray(completions(setup.model, params, chunk, count))
    names = [f"draw {k + 1}" for k in range(count)] if setup.config.model.latent_dim else ["prediction"]
    return {name: whole(chunk["condition"], lower[:, k]) for k, name in enumerate(names)}


def originals(setup, count):
    """{row: images} of the first test images as they are stored, grey unless drawn once."""
    split = setup.dataset.test
    lower = data.preprocess(None, split.image[:count], setup.dataset.info.value_range, "none")
    return {"original": whole(split.condition[:count], lower)}


def whole(upper, lower):
    """Images `[N, H, W, ...]` of their two halves."""
    return np.concatenate([np.asarray(upper), np.asarray(lower)], axis=1)


@partial(jax.jit, static_argnums=(0, 3))
def completions(model, params, chunk, count):
    """The mean of p(x|z,c) at `count` draws of z from the prior, by each example's key: `[B, count, *event]`."""
    keys, condition = fold_in_each(chunk["key"], COMPLETE), chunk["condition"]
    z = sample_each_prior(model, params, keys, count, condition)
    return jnp.swapaxes(model.decode(params, z, condition).mean, 0, 1)


@partial(jax.jit, static_argnums=2)
def squared_errors(answers, x, best):
    """Of answers `[B, count, *event]` to x `[B, *event]`, means over elements `[B]`: (of their average, of the best of
    the first `best`)."""
    answers, x = answers.reshape(*answers.shape[:2], -1), x.reshape(len(x), 1, -1)
    error = lambda answers: ((answers - x) ** 2).mean(-1)
    return error(answers.mean(1, keepdims=True))[:, 0], error(answers[:, :best]).min(1)
