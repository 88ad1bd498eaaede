"""The pictures of one run: what a trained model generates and reconstructs, and its latent space.

What it generates depends on what it is conditional on (config.data.condition):

    label        a row for each class, the same noise down each column: it shares a style, not a class
    upper        half a test image, and below it what p(x|z,c) has for several draws of z from p(z|c)
    otherwise    the mean of p(x|z) at draws from the prior, for the conditions of test images if there are any
"""

import jax
import numpy as np

from vae_jax.data import preprocess
from vae_jax.evaluation import generation, latent_space
from vae_jax.evaluation.examples import in_chunks
from vae_jax.keys import prior_key
from vae_jax.plotting import images as image_plots
from vae_jax.plotting import latent_space as latent_plots
from vae_jax.plotting import likelihood as likelihood_plots
from vae_jax.plotting.toolkit import image_rows
from vae_jax.plotting.training import training_curves

PAIRS = 20  # images beside their reconstructions
CLASSES, DRAWS = 20, 12  # at most so many classes, and draws of z for each
COMPLETED, COMPLETIONS = 10, 6  # test images, and draws of z for each
UNKNOWN = 0.35  # the grey of what is to be completed
SHOWN, DRAWN, GRID, WALKS, HISTOGRAMS = 6, 9, 20, 8, 8  # images and draws in a picture, cells, dimensions


def draw_run(config, dataset, model, params, test, shown, records, codes) -> dict:
    """The pictures of a run's end.

    Args:
        config: the run's configuration.
        dataset: its data.
        model: its Model.
        params: its parameters.
        test: test examples, with the mean of q(z|x) where there are two latent dimensions.
        shown: PAIRS of them, `spread_out`, with the mean of q(z|x).
        records: the dicts of metrics.jsonl.
        codes: of an autoencoder, E_q[z|x] of training images `[N, Z]`; of another model None.

    Returns:
        {name: (Figure, caption)}.
    """
    drawn = {"curves": (training_curves(records), "The bound and its two terms, per example, during training.")}
    if model.latent_dim:
        means, stored = generation.reconstruct(model, params, shown), grey(config, dataset, shown["index"])
        drawn["reconstructions"] = (
            image_plots.reconstructions(shown["image"], means, stored),
            "Test images, of binary ones as they are stored and as the model sees them, and the mean of p(x|z) at the "
            "mean of q(z|x).",
        )
    drawn |= draw_generated(config, dataset, model, params, test, codes)
    if not model.layered and model.latent_dim == 2:
        drawn |= draw_codes(model, test)
    return drawn


def draw_evaluation(config, dataset, model, params, test, codes, spread) -> dict:
    """The further pictures of --mode=evaluate: every one that the model allows.

    Args:
        config, dataset, model, params: as for `draw_run`.
        test: test examples with q_params and the mean of q(z|x).
        codes: training examples with the mean of q(z|x).
        spread: how examples are spread over devices.

    Returns:
        {name: (Figure, caption)}.
    """
    drawn = {}
    if config.data.condition != "none":
        drawn |= draw_generated(config, dataset, model, params, test, codes["mean"])
    if model.layered or not model.latent_dim or not has_images(dataset):
        return drawn
    drawn |= draw_codes(model, test) | draw_decoded(dataset, model, params, test, codes)
    if model.has_density:
        drawn |= draw_posterior(config, model, params, test, spread)
    return drawn


def draw_bits(dataset, test, terms, curves, kind=("", "")):
    """What each test image costs, by the `terms` of its bound, and log p(x) by two estimates against their draws.

    `kind`: the words around 'bits' by which `evaluation.summary.kind_of` says what log p(x|z) is.
    """
    rate, distortion = terms["kl"] / np.log(2), -terms["log_likelihood"] / np.log(2)
    figure = likelihood_plots.bits(rate, distortion, test.get("label"), test["image"] if has_images(dataset) else None)
    drawn = {"bits": (figure, f"What each test image costs: z in bits, and x given z in {'bits'.join(kind)}.")}
    if curves:
        figure = likelihood_plots.estimates({f"{len(curves['q'][1])} test images": curves})
        caption = (
            "log p(x) from draws of the prior and of q, two standard errors to either side; below, how many count."
        )
        drawn["estimates"] = (figure, caption)
    return drawn


def spread_out(examples, count):
    """`count` of the examples, or all, at equal distances: of a set sorted by class, all classes are shown."""
    size = len(examples["image"])
    rows = np.linspace(0, size - 1, min(count, size)).astype(int)
    return jax.tree.map(lambda leaf: leaf[rows], examples)


def grey(config, dataset, rows):
    """Test images as they are stored, in [0, 1], where the model sees something else; None where it does not."""
    if config.data.binarization not in ("dynamic", "threshold"):
        return None
    return preprocess.preprocess(None, dataset.test.image[rows], dataset.info.value_range, "none")


def has_images(dataset):
    return len(dataset.info.event_shape) > 1


# What is generated.


def draw_generated(config, dataset, model, params, test, codes):
    """{name: (Figure, caption)} of what the model generates; `codes` `[N, Z]` are an autoencoder's."""
    return choose(config, dataset, model)(config, dataset, model, params, test, codes)


def choose(config, dataset, model):
    """The function that draws what such a model generates."""
    if config.data.condition == "label" and has_images(dataset):
        return by_label
    return completed if config.data.condition == "upper" and model.has_density else samples


def samples(config, dataset, model, params, test, codes):
    """A grid of the mean of p(x|z) at draws from the prior; of an autoencoder, from a mixture fitted to its codes."""
    condition = spread_out(test, config.figures.count)["condition"] if "condition" in test else None
    count = config.figures.count if condition is None else len(condition)
    if model.has_density:
        means = generation.prior_means(model, params, prior_key(config.eval.seed), count, condition)
        caption = "The mean of p(x|z) at draws of z from the prior."
    else:
        z = generation.code_draws(codes, count, config.eval.seed)
        means = generation.decode_means(model, params, z, condition)
        caption = "The decoder at draws of a mixture of Gaussians fitted to the codes of training images."
    return {"samples": (image_plots.samples(means), caption)}


def by_label(config, dataset, model, params, test, codes):
    """A row for each class, the first CLASSES of them, of as many draws of z; without z there is one image of each."""
    condition = np.eye(dataset.info.num_classes, dtype=np.float32)[:CLASSES]
    count, key = (DRAWS if model.latent_dim else 1), prior_key(config.eval.seed)
    given = None if model.has_density else generation.code_draws(codes, count, config.eval.seed)
    means = generation.label_means(model, params, key, condition, count, given)
    rows = {f"label {number}": images for number, images in enumerate(np.swapaxes(means, 0, 1))}
    shared = "noise" if model.conditional else "z"
    caption = f"The mean of p(x|z) for each label, a row each; a column has the same {shared}."
    return {"samples": (image_rows(rows, f"Samples by label, the same {shared} in a column"), caption)}


def completed(config, dataset, model, params, test, codes):
    """Upper halves of test images, each with several lower halves, and the image itself."""
    some = spread_out({name: test[name] for name in ("image", "condition", "key", "index")}, COMPLETED)
    if model.latent_dim:
        title, lower = "Completions of test images", f"the mean of p(x|z) at {COMPLETIONS} draws of z from the prior"
    else:
        title, lower = "The lower half predicted from the upper", "the mean of p(x|c)"
    rows = halves_given(dataset, some) | halves_drawn(model, params, some) | originals(dataset, some["index"])
    return {"completions": (image_rows(rows, title), f"The upper half is given, the lower half {lower}.")}


def halves_given(dataset, chunk) -> dict:
    """{row: images} of the upper halves, grey where the lower ones belong."""
    lower = np.full((len(chunk["condition"]), *dataset.info.event_shape), UNKNOWN, np.float32)
    return {"given": whole(chunk["condition"], lower)}


def halves_drawn(model, params, chunk) -> dict:
    """{row: images}, upper halves as they are given and lower halves that the model draws."""
    names = [f"draw {k + 1}" for k in range(COMPLETIONS)] if model.latent_dim else ["prediction"]
    lower = np.asarray(generation.completions(model, params, chunk, len(names)))
    return {name: whole(chunk["condition"], lower[:, k]) for k, name in enumerate(names)}


def originals(dataset, rows) -> dict:
    """{row: images} of test images as they are stored, grey unless drawn once."""
    lower = preprocess.preprocess(None, dataset.test.image[rows], dataset.info.value_range, "none")
    return {"original": whole(dataset.test.condition[rows], lower)}


def whole(upper, lower):
    """Images `[N, H, W, ...]` of their two halves."""
    return np.concatenate([np.asarray(upper), np.asarray(lower)], axis=1)


# The latent space.


def draw_codes(model, test):
    """The latent means, on their principal components where there are more than two."""
    mean, label = test["mean"], test.get("label")
    if mean.shape[-1] < 2:
        return {}
    if mean.shape[-1] == 2:  # with circles where the prior is the standard normal
        figure = latent_plots.latent_scatter(mean, label, prior=model.standard_normal and model.has_density)
        return {"latent": (figure, "The mean of q(z|x) of every test image.")}
    projected, share = latent_space.principal(mean)
    names = [f"Principal component {i} ({part:.0%} of variance)" for i, part in enumerate(share, 1)]
    figure = latent_plots.latent_scatter(projected, label, axis_labels=names, prior=False)
    return {"latent": (figure, "The mean of q(z|x) of test images, on its two principal components.")}


def draw_decoded(dataset, model, params, test, codes):
    """Lines, walks, neighbours and for two dimensions the manifold."""
    some = spread_out(test, 2 * SHOWN)
    mean, condition = some["mean"], some.get("condition")

    def decode(z, given=None):  # z [..., Z], given: a condition for each of its rows
        given = None if given is None else np.repeat(given, z[0, ..., 0].size, axis=0)
        x = generation.decode_means(model, params, z.reshape(-1, z.shape[-1]), given)
        return np.asarray(x).reshape(*z.shape[:-1], *dataset.info.event_shape)

    conditions = lambda rows: None if condition is None else condition[rows]
    lines = decode(latent_space.lines(mean[:SHOWN], mean[SHOWN : 2 * SHOWN]), conditions(slice(0, SHOWN)))
    dimensions = latent_space.most_used(test["mean"], min(WALKS, mean.shape[-1]))
    walks = decode(latent_space.walks(mean[0], dimensions), conditions([0] * len(dimensions)))
    walks = {f"$z_{{{dimension + 1}}}$": walk for dimension, walk in zip(dimensions, walks, strict=True)}
    near = codes["image"][latent_space.nearest(mean[:SHOWN], codes["mean"], DRAWN - 1)]
    drawn = {
        "interpolations": (
            image_rows(numbered("pair", lines), "Decoded along lines between the codes of two test images"),
            "What lies between the codes of two test images.",
        ),
        "traversals": (
            image_rows(walks, "Decoded along one dimension from −3 to 3, the others at one image's code"),
            "One latent dimension at a time, the most used first.",
        ),
        "neighbours": (
            beside(some["image"], near, "Each test image (left), and the training images nearest by latent mean"),
            f"The nearest of {len(codes['mean']):,} training images by the mean of q(z|x).",
        ),
    }
    if mean.shape[-1] == 2 and condition is None:
        grid, of = latent_space.quantile_grid(GRID), "a standard normal"
        if not model.has_density:
            grid, of = latent_space.code_grid(codes["mean"], GRID), "the training codes"
        title = f"Decoded at quantiles of {of}: $z_1$ to the right, $z_2$ upwards"
        manifold = image_plots.samples(decode(grid[None])[0], title=title, columns=GRID)
        drawn["manifold"] = (manifold, f"The decoder over the quantiles of {of}.")
    return drawn


def draw_posterior(config, model, params, test, spread):
    """Draws of single posteriors, of all of them together, and the KL of each dimension."""
    some = spread_out(test, SHOWN)
    several = latent_space.posterior_draws(model, params, some, DRAWN - 1)
    each = lambda chunk: latent_space.aggregate_draws(model, params, chunk)
    draws = in_chunks(each, test, config.eval.chunk_images, spread)
    dimensions = latent_space.most_used(test["mean"], min(HISTOGRAMS, draws.shape[-1]))
    title = "Each test image (left), and the mean of p(x|z) at draws of its own q(z|x)"
    drawn = {
        "posterior": (beside(some["image"], several, title), "Draws from the posterior of single images."),
        "aggregate": (latent_plots.aggregate(draws, dimensions), "A draw of z for each test image, by dimension."),
    }
    kl = latent_space.mean_kl(model, params, test, config.eval, spread)
    return drawn if kl is None else drawn | {"kl": (latent_plots.kl_bars(kl), "Where the rate goes.")}


def numbered(word, rows):
    return {f"{word} {number}": row for number, row in enumerate(rows, 1)}


def beside(images, others, title):
    """A row for each of `others` `[N, count, *event]`, the image that they go with before them."""
    rows = [np.concatenate([image[None], row]) for image, row in zip(np.asarray(images), others, strict=False)]
    return image_rows(numbered("image", rows), title)
