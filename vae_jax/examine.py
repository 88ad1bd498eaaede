"""--mode=evaluate: every number and picture of a trained run, into its summary and its report."""

import jax
import numpy as np

from vae_jax import (
    aggregate,
    checkpoint,
    estimates,
    evaluate,
    figures,
    generate,
    latents,
    outside,
    parallel,
    pictures,
    readings,
    train,
)
from vae_jax import setup as setups
from vae_jax.families import DRAWS_ONLY

SHOWN, DRAWN, GRID, WALKS, HISTOGRAMS = 6, 9, 20, 8, 8  # images and draws in a picture, cells, dimensions
UNLIKE = 20  # images of each kind off the manifold
CODES = 10_000  # training images among which neighbours are looked for, and from which probes learn


def examine(setup, params, workdir):
    """Measures train and test and draws; returns ({split: numbers}, {name: (Figure, caption)})."""
    limit, numbers = setup.config.eval.train_examples, {}
    if limit:  # by themselves, as at the run's end: in other chunks a matrix product rounds otherwise
        numbers["train"] = measure(setup, params, with_codes(setup, params, "train", limit, workdir))
    test = with_codes(setup, params, "test", setup.config.eval.max_examples, workdir)
    codes = with_codes(setup, params, "train", CODES, workdir)
    numbers["test"] = measure(setup, params, test)
    if isinstance(test["mean"], np.ndarray) and test["mean"].size and "label" in test:
        numbers["test"] |= aggregate.accuracies(codes["mean"], codes["label"], test["mean"], test["label"])
    likelihoods, drawn = in_bits(setup, params, test)
    unlike, shown = off_manifold(setup, params, test)
    numbers["test"] |= likelihoods
    return numbers | unlike, drawn | shown | draw(setup, params, test, codes)


def in_bits(setup, params, test):
    """log p(x) by two estimates, as numbers and a picture, and the bits of each image; nothing without a bound or z."""
    if setup.config.model.posterior == "dirac" or not setup.config.model.latent_dim:
        return {}, {}
    config, spread = setup.config.eval, parallel.spread(setup.mesh)
    terms = evaluate.in_chunks(
        lambda chunk: evaluate.elbo_terms(setup.model, params, chunk, config.elbo_samples),
        test,
        config.chunk_rows,
        spread,
    )
    is_image = len(setup.dataset.info.event_shape) > 1
    rate, distortion = terms["kl"] / np.log(2), -terms["log_likelihood"] / np.log(2)
    figure = readings.bits(rate, distortion, test.get("label"), test["image"] if is_image else None)
    drawn = {"bits": (figure, "What each test image costs: bits of z, and bits of x given z.")}
    if not config.curve_examples:
        return {}, drawn
    weights = estimates.measure(setup.model, params, test, config, spread)
    figure = readings.estimates({f"{len(weights['q'])} test images": estimates.curves(weights)})
    caption = "log p(x) from draws of the prior and of q, two standard errors to either side; below, draws that count."
    return estimates.numbers(weights), drawn | {"estimates": (figure, caption)}


def off_manifold(setup, params, test):
    """What becomes of images that are not like the data: ({'off_manifold': squared errors}, the picture)."""
    if len(setup.dataset.info.event_shape) < 2 or not setup.config.model.latent_dim:
        return {}, {}
    some = {name: array[:UNLIKE] for name, array in test.items() if name in ("image", "key", "condition")}
    kinds, errors = {}, {}
    for name, images in outside.probes(some["image"], setup.config.eval.seed).items():
        examples = setups.with_codes(setup, params, some | {"image": images})
        means = np.asarray(evaluate.reconstruct(setup.model, params, examples))
        kinds[name], errors[name] = (images, means), ((images - means) ** 2).reshape(len(images), -1).mean(-1)
    all_errors = evaluate.squared_error(setup.model, params, test, setup.config.eval, parallel.spread(setup.mesh))
    numbers = {name: evaluate.summarize(values, "squared error per element") for name, values in errors.items()}
    picture = readings.off_manifold(kinds, errors, all_errors), "What is reconstructed of images unlike the data."
    return {"off_manifold": numbers}, {"off_manifold": picture}


def with_codes(setup, params, split, limit, workdir):
    """Examples of a split with the rows and means of q: of training images those of the run's table, if it has one."""
    local = trained_rows(setup, workdir) if split == "train" else ()
    return setups.with_codes(setup, params, setups.evaluation_examples(setup, split, limit), local)


def trained_rows(setup, workdir):
    """The run's table of rows of q, () if it has none."""
    if not setups.has_table(setup.config):
        return ()
    like = {"local": setups.abstract_state(setup).local}
    return checkpoint.restore(setups.selected(setup.config, workdir), like, partial=True)["local"]


def measure(setup, params, examples):
    """The numbers of a run's end and those of the aggregate posterior."""
    rest = (setup.model, params, examples, setup.config.eval, parallel.spread(setup.mesh))
    numbers = train.measure_all(setup, params, examples) | aggregate.further_numbers(*rest)
    if setup.config.model.latent_dim and setup.config.model.posterior not in (
        "dirac",
        *DRAWS_ONLY,
    ):  # which have no density at others' draws
        numbers |= aggregate.mixture_numbers(*rest)
    return numbers


def draw(setup, params, test, codes):
    """Every picture that the model allows: {name: (Figure, caption)}."""
    drawn = {} if setup.config.data.condition == "none" else generate.generated(setup, params, test, codes["mean"])
    if not isinstance(test["mean"], np.ndarray) or not test["mean"].size or len(setup.dataset.info.event_shape) < 2:
        return drawn  # two layers, no z, or no images
    drawn |= scatter(setup, test) | strips(setup, params, test, codes)
    if setup.config.model.posterior != "dirac":
        drawn |= posterior(setup, params, test)
    return drawn


def scatter(setup, test):
    """The latent means, on their principal components where there are more than two."""
    if test["mean"].shape[-1] == 2:
        return {"latent": train.latent_picture(setup.config, test)}
    if test["mean"].shape[-1] < 2:
        return {}
    projected, share = latents.principal(test["mean"])
    names = [f"Principal component {i} ({part:.0%} of variance)" for i, part in enumerate(share, 1)]
    figure = figures.latent_scatter(projected, test.get("label"), axis_labels=names, prior=False)
    return {"latent": (figure, "The mean of q(z|x) of test images, on its two principal components.")}


def strips(setup, params, test, codes):
    """Lines, walks, neighbours and for two dimensions the manifold."""
    model, mean = setup.model, test["mean"]
    shape = setup.dataset.info.event_shape
    condition = lambda rows, times: (
        None if "condition" not in test else np.repeat(test["condition"][rows], times, axis=0)
    )
    decode = lambda z, given: np.asarray(
        evaluate.decode_means(model, params, z.reshape(-1, z.shape[-1]), given)
    ).reshape(*z.shape[:-1], *shape)
    first = slice(0, SHOWN)
    between = latents.lines(mean[first], mean[SHOWN : 2 * SHOWN])
    dimensions = latents.most_used(mean, min(WALKS, mean.shape[-1]))
    walked = latents.walks(mean[0], dimensions)
    near = latents.nearest(mean[first], codes["mean"], DRAWN - 1)
    drawn = {
        "interpolations": (
            pictures.interpolations(decode(between, condition(first, latents.STEPS))),
            "What lies between the codes of two test images.",
        ),
        "traversals": (
            pictures.traversals(decode(walked, condition([0], walked[..., 0].size)), dimensions),
            "One latent dimension at a time, the most used first.",
        ),
        "neighbours": (
            pictures.neighbours(test["image"][first], codes["image"][near]),
            f"The nearest of {len(codes['mean']):,} training images by the mean of q(z|x).",
        ),
    }
    if mean.shape[-1] == 2 and "condition" not in test:
        grid, of = latents.quantile_grid(GRID), "a standard normal"
        if setup.config.model.posterior == "dirac":
            grid, of = latents.code_grid(codes["mean"], GRID), "the training codes"
        manifold = pictures.manifold(decode(grid, None), GRID, of)
        drawn["manifold"] = (manifold, f"The decoder over the quantiles of {of}.")
    return drawn


def posterior(setup, params, test):
    """Draws of single posteriors, of all of them together, and the KL of each dimension."""
    model, config, spread = setup.model, setup.config.eval, parallel.spread(setup.mesh)
    some = {name: jax.tree.map(lambda leaf: leaf[:SHOWN], leaf) for name, leaf in test.items()}
    several = latents.posterior_draws(model, params, some, DRAWN - 1)
    draws = evaluate.in_chunks(lambda c: latents.aggregate_draws(model, params, c), test, config.chunk_rows, spread)
    dimensions = latents.most_used(test["mean"], min(HISTOGRAMS, draws.shape[-1]))
    drawn = {
        "posterior": (pictures.posterior_samples(some["image"], several), "Draws from the posterior of single images."),
        "aggregate": (pictures.aggregate(draws, dimensions), "A draw of z for each test image, by dimension."),
    }
    kl = aggregate.mean_kl(model, params, test, config, spread)
    return drawn if kl is None else drawn | {"kl": (pictures.kl_bars(kl), "Where the rate goes.")}
