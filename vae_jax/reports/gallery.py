"""What a model generates: samples, samples for each label, completions of half an image; arrays, and a run's picture.

condition = label    a row for each class, the same noise down each column: it shares a style, not a class
condition = upper    half a test image, and below it what p(x|z,c) has for several draws of z from p(z|c)
otherwise            the mean of p(x|z) at draws from the prior, for the conditions of test images if there are any
"""

from types import SimpleNamespace

import jax
import numpy as np

from vae_jax.data import preprocess
from vae_jax.evaluation import bounds, generation, latent_space, out_of_distribution
from vae_jax.evaluation.examples import in_chunks, summarize, with_means, with_q_params
from vae_jax.evaluation.generation import completions, label_means
from vae_jax.keys import prior_key
from vae_jax.parallel import devices
from vae_jax.plotting import images as image_plots
from vae_jax.plotting import latent_space as latent_plots
from vae_jax.plotting import likelihood as likelihood_plots

CLASSES, DRAWS = 20, 12  # at most so many classes, and draws of z for each
COMPLETED, COMPLETIONS = 10, 6  # test images, and draws of z for each
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


def samples(setup, params, test, codes):
    """A grid of the mean of p(x|z) at draws from the prior; of an autoencoder, from a mixture fitted to its codes."""
    model, count, seed = setup.model, setup.config.figures.count, setup.config.eval.seed
    condition = test["condition"][:count] if "condition" in test else None
    count = count if condition is None else len(condition)
    if setup.config.model.posterior == "dirac":
        z = generation.code_draws(codes, count, seed)
        means = generation.decode_means(model, params, z, condition)
        caption = "The decoder at draws of a mixture of Gaussians fitted to the codes of training images."
    else:
        means = generation.prior_means(model, params, prior_key(setup.config.eval.seed), count, condition)
        caption = "The mean of p(x|z) at draws of z from the prior."
    return {"samples": (image_plots.samples(means), caption)}


# ---- for each label


def by_label(setup, params, test, codes):
    """A row for each class, the first CLASSES of them, of as many draws of z; without z there is one image of each."""
    config, classes = setup.config.model, setup.dataset.info.num_classes
    condition = np.eye(classes, dtype=np.float32)[:CLASSES]
    count, given = (DRAWS if config.latent_dim else 1), None
    if config.posterior == "dirac":
        given = generation.code_draws(codes, count, setup.config.eval.seed)
    means = label_means(setup.model, params, prior_key(setup.config.eval.seed), condition, count, given)
    rows = {f"label {number}": images for number, images in enumerate(np.swapaxes(means, 0, 1))}
    shared = "noise" if setup.model.conditional else "z"
    caption = f"The mean of p(x|z) for each label, a row each; a column has the same {shared}."
    return {"samples": (latent_plots.strips(rows, f"Samples by label, the same {shared} in a column"), caption)}


# ---- completions


def completed(setup, params, test, codes):
    """Upper halves of test images, each with several lower halves, and the image itself."""
    some = {name: test[name][:COMPLETED] for name in ("condition", "key")}
    if setup.config.model.latent_dim:
        title, lower = "Completions of test images", f"the mean of p(x|z) at {COMPLETIONS} draws of z from the prior"
    else:
        title, lower = "The lower half predicted from the upper", "the mean of p(x|c)"
    rows = halves_given(setup, some) | halves_drawn(setup, params, some) | originals(setup, COMPLETED)
    return {"completions": (latent_plots.strips(rows, title), f"The upper half is given, the lower half {lower}.")}


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
    lower = preprocess.preprocess(None, split.image[:count], setup.dataset.info.value_range, "none")
    return {"original": whole(split.condition[:count], lower)}


def whole(upper, lower):
    """Images `[N, H, W, ...]` of their two halves."""
    return np.concatenate([np.asarray(upper), np.asarray(lower)], axis=1)


SHOWN, DRAWN, GRID, WALKS, HISTOGRAMS = 6, 9, 20, 8, 8  # images and draws in a picture, cells, dimensions
UNLIKE = 20  # images of each kind off the manifold


def in_bits(setup, params, test):
    """log p(x) by two estimates, as numbers and a picture, and the bits of each image; nothing without a bound or z."""
    if setup.config.model.posterior == "dirac" or not setup.config.model.latent_dim:
        return {}, {}
    config, spread = setup.config.eval, devices.spread(setup.mesh)
    terms = in_chunks(
        lambda chunk: bounds.elbo_terms(setup.model, params, chunk, config.elbo_samples),
        test,
        config.chunk_images,
        spread,
    )
    is_image = len(setup.dataset.info.event_shape) > 1
    rate, distortion = terms["kl"] / np.log(2), -terms["log_likelihood"] / np.log(2)
    figure = likelihood_plots.bits(rate, distortion, test.get("label"), test["image"] if is_image else None)
    drawn = {"bits": (figure, "What each test image costs: bits of z, and bits of x given z.")}
    if not config.curve_examples:
        return {}, drawn
    weights = bounds.measure(setup.model, params, test, config, spread)
    figure = likelihood_plots.estimates({f"{len(weights['q'])} test images": bounds.curves(weights)})
    caption = "log p(x) from draws of the prior and of q, two standard errors to either side; below, draws that count."
    return bounds.numbers(weights), drawn | {"estimates": (figure, caption)}


def off_manifold(setup, params, test):
    """What becomes of images that are not like the data: ({'off_manifold': squared errors}, the picture)."""
    if len(setup.dataset.info.event_shape) < 2 or not setup.config.model.latent_dim:
        return {}, {}
    some = {name: array[:UNLIKE] for name, array in test.items() if name in ("image", "key", "condition")}
    kinds, errors = {}, {}
    for name, images in out_of_distribution.probes(some["image"], setup.config.eval.seed).items():
        examples = some | {"image": images}
        examples = with_q_params(setup.model, params, examples, setup.config, devices.spread(setup.mesh))
        examples = with_means(setup.model, params, examples, devices.spread(setup.mesh))
        means = np.asarray(generation.reconstruct(setup.model, params, examples))
        kinds[name], errors[name] = (images, means), ((images - means) ** 2).reshape(len(images), -1).mean(-1)
    all_errors = generation.squared_error(setup.model, params, test, setup.config.eval, devices.spread(setup.mesh))
    numbers = {name: summarize(values, "squared error per element") for name, values in errors.items()}
    picture = (
        likelihood_plots.off_manifold(kinds, errors, all_errors),
        "What is reconstructed of images unlike the data.",
    )
    return {"off_manifold": numbers}, {"off_manifold": picture}


def draw(setup, params, test, codes):
    """Every picture that the model allows: {name: (Figure, caption)}."""
    drawn = {} if setup.config.data.condition == "none" else generated(setup, params, test, codes["mean"])
    if not isinstance(test["mean"], np.ndarray) or not test["mean"].size or len(setup.dataset.info.event_shape) < 2:
        return drawn  # two layers, no z, or no images
    drawn |= scatter(setup, test) | strips(setup, params, test, codes)
    if setup.config.model.posterior != "dirac":
        drawn |= posterior(setup, params, test)
    return drawn


def scatter(setup, test):
    """The latent means, on their principal components where there are more than two."""
    if test["mean"].shape[-1] == 2:
        return {"latent": latent_picture(setup.config, test)}
    if test["mean"].shape[-1] < 2:
        return {}
    projected, share = latent_space.principal(test["mean"])
    names = [f"Principal component {i} ({part:.0%} of variance)" for i, part in enumerate(share, 1)]
    figure = latent_plots.latent_scatter(projected, test.get("label"), axis_labels=names, prior=False)
    return {"latent": (figure, "The mean of q(z|x) of test images, on its two principal components.")}


def strips(setup, params, test, codes):
    """Lines, walks, neighbours and for two dimensions the manifold."""
    model, mean = setup.model, test["mean"]
    shape = setup.dataset.info.event_shape
    condition = lambda rows, times: (
        None if "condition" not in test else np.repeat(test["condition"][rows], times, axis=0)
    )
    decode = lambda z, given: np.asarray(
        generation.decode_means(model, params, z.reshape(-1, z.shape[-1]), given)
    ).reshape(*z.shape[:-1], *shape)
    first = slice(0, SHOWN)
    between = latent_space.lines(mean[first], mean[SHOWN : 2 * SHOWN])
    dimensions = latent_space.most_used(mean, min(WALKS, mean.shape[-1]))
    walked = latent_space.walks(mean[0], dimensions)
    near = latent_space.nearest(mean[first], codes["mean"], DRAWN - 1)
    drawn = {
        "interpolations": (
            latent_plots.interpolations(decode(between, condition(first, latent_space.STEPS))),
            "What lies between the codes of two test images.",
        ),
        "traversals": (
            latent_plots.traversals(decode(walked, condition([0], walked[..., 0].size)), dimensions),
            "One latent dimension at a time, the most used first.",
        ),
        "neighbours": (
            latent_plots.neighbours(test["image"][first], codes["image"][near]),
            f"The nearest of {len(codes['mean']):,} training images by the mean of q(z|x).",
        ),
    }
    if mean.shape[-1] == 2 and "condition" not in test:
        grid, of = latent_space.quantile_grid(GRID), "a standard normal"
        if setup.config.model.posterior == "dirac":
            grid, of = latent_space.code_grid(codes["mean"], GRID), "the training codes"
        manifold = latent_plots.manifold(decode(grid, None), GRID, of)
        drawn["manifold"] = (manifold, f"The decoder over the quantiles of {of}.")
    return drawn


def posterior(setup, params, test):
    """Draws of single posteriors, of all of them together, and the KL of each dimension."""
    model, config, spread = setup.model, setup.config.eval, devices.spread(setup.mesh)
    some = {name: jax.tree.map(lambda leaf: leaf[:SHOWN], leaf) for name, leaf in test.items()}
    several = latent_space.posterior_draws(model, params, some, DRAWN - 1)
    draws = in_chunks(lambda c: latent_space.aggregate_draws(model, params, c), test, config.chunk_images, spread)
    dimensions = latent_space.most_used(test["mean"], min(HISTOGRAMS, draws.shape[-1]))
    drawn = {
        "posterior": (
            latent_plots.posterior_samples(some["image"], several),
            "Draws from the posterior of single images.",
        ),
        "aggregate": (latent_plots.aggregate(draws, dimensions), "A draw of z for each test image, by dimension."),
    }
    kl = latent_space.mean_kl(model, params, test, config, spread)
    return drawn if kl is None else drawn | {"kl": (latent_plots.kl_bars(kl), "Where the rate goes.")}


PAIRS = 20  # images beside their reconstructions


def draw_run(config, dataset, model, params, examples, records, codes):
    """The pictures of a run: {name: (Figure, caption)}. `codes` [N, Z] are an autoencoder's, of training images."""
    setup = SimpleNamespace(config=config, dataset=dataset, model=model)
    from vae_jax.plotting import images as image_plots
    from vae_jax.plotting import (
        training as training_plots,  # matplotlib takes a second that the first step need not wait for
    )

    drawn = {
        "curves": (training_plots.training_curves(records), "Loss and its two terms, per example, during training.")
    }
    if setup.config.model.latent_dim:
        shown = jax.tree.map(lambda array: array[:PAIRS], examples)
        drawn["reconstructions"] = (
            image_plots.reconstructions(shown["image"], generation.reconstruct(setup.model, params, shown)),
            "Test images as the model sees them, and the mean of p(x|z) at the mean of q(z|x).",
        )
    drawn |= generated(setup, params, examples, codes)
    if isinstance(examples["mean"], np.ndarray) and examples["mean"].shape[-1] == 2:
        drawn["latent"] = latent_picture(setup.config, examples)
    return drawn


def latent_picture(config, examples):
    """(Figure, caption) of the latent means `[N, 2]`, with circles where the prior is the standard normal."""
    from vae_jax.plotting import latent_space as latent_plots

    standard = config.model.prior == "standard_normal" and config.model.posterior != "dirac"
    scatter = latent_plots.latent_scatter(examples["mean"], examples.get("label"), prior=standard)
    return scatter, "The mean of q(z|x) of every test image."
