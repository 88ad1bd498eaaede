"""--mode=evaluate: every number and picture of a trained run, into its summary and its report."""

from pathlib import Path

import jax
import numpy as np

from vae_jax import aggregate, checkpoint, evaluate, figures, latents, parallel, pictures, terminal
from vae_jax import setup as setups

SHOWN, DRAWN, GRID, WALKS, HISTOGRAMS = 6, 9, 20, 8, 8  # images and draws in a picture, cells, dimensions
CODES = 10_000  # training images among which neighbours are looked for, and from which probes learn


def examine(setup, params, workdir):
    """Measures train and test and draws; returns ({split: numbers}, {name: (Figure, caption)})."""
    numbers, examples = {}, {}
    for split, limit in (("train", setup.config.eval.train_examples), ("test", setup.config.eval.max_examples)):
        if split == "test" or limit:
            examples[split] = with_rows(setup, params, split, limit, workdir)
            numbers[split] = measure(setup, params, examples[split], split)
    test, codes = examples["test"], with_rows(setup, params, "train", CODES, workdir)
    if isinstance(test["mean"], np.ndarray) and "label" in test:
        numbers["test"] |= aggregate.accuracies(codes["mean"], codes["label"], test["mean"], test["label"])
    return numbers, draw(setup, params, test, codes)


def with_rows(setup, params, split, limit, workdir):
    """Examples of a split with the rows of q: of the training set those of the run's own table, if it has one."""
    examples, local = setups.evaluation_examples(setup, split, limit), ()
    if split == "train" and setups.has_table(setup.config):
        like = {"local": setups.abstract_state(setup).local}
        best = setups.BEST if setup.config.train.select == "best" else setups.CHECKPOINTS
        local = checkpoint.restore(Path(workdir) / best, like, partial=True)["local"]
    return setups.with_rows(setup, params, examples, local)


def measure(setup, params, examples, split):
    """The numbers of a run's end and those of the aggregate posterior."""
    config, shape, spread = setup.config.eval, setup.dataset.info.event_shape, parallel.spread(setup.mesh)
    progress = terminal.Progress(f"{split}: log p(x), {config.num_samples} samples each,", len(examples["index"]))
    report = lambda done: progress.update(done, f"{split}: {done:,} examples")
    numbers = evaluate.all_numbers(setup.model, params, examples, shape, config, spread, report)
    progress.close()
    numbers |= aggregate.further_numbers(setup.model, params, examples, config, spread)
    if setup.config.model.posterior not in ("planar", "iaf", "dirac"):  # which have no density at others' draws
        numbers |= aggregate.mixture_numbers(setup.model, params, examples, config, spread)
    return numbers


def draw(setup, params, test, codes):
    """Every picture that the model allows: {name: (Figure, caption)}."""
    if not isinstance(test["mean"], np.ndarray) or len(setup.dataset.info.event_shape) < 2:
        return {}  # two layers, or no images
    drawn = scatter(setup, test) | strips(setup, params, test, codes)
    if setup.config.model.posterior != "dirac":
        drawn |= posterior(setup, params, test)
    return drawn


def scatter(setup, test):
    """The latent means, on their principal components where there are more than two."""
    mean, label = test["mean"], test.get("label")
    standard = setup.config.model.prior == "standard_normal" and setup.config.model.posterior != "dirac"
    if mean.shape[-1] == 2:
        return {"latent": (figures.latent_scatter(mean, label, prior=standard), "The mean of q(z|x) of test images.")}
    if mean.shape[-1] < 2:
        return {}
    projected, share = latents.principal(mean)
    names = [f"Principal component {i} ({part:.0%} of variance)" for i, part in enumerate(share, 1)]
    figure = figures.latent_scatter(projected, label, axis_labels=names, prior=False)
    return {"latent": (figure, "The mean of q(z|x) of test images, on its two principal components.")}


def strips(setup, params, test, codes):
    """Lines, walks, neighbours and for two dimensions the manifold."""
    model, mean = setup.model, test["mean"]
    shape = setup.dataset.info.event_shape
    condition = lambda rows, times: (
        None if "condition" not in test else np.repeat(test["condition"][rows], times, axis=0)
    )
    decode = lambda z, given: np.asarray(
        latents.decode_means(model, params, z.reshape(-1, z.shape[-1]), given)
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
        manifold = pictures.manifold(decode(latents.quantile_grid(GRID), None), GRID)
        drawn["manifold"] = (manifold, "The decoder over the quantiles of a standard normal.")
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
    kl = aggregate.kl_of_dimensions(model, params, test, config, spread)
    return drawn if kl is None else drawn | {"kl": (pictures.kl_bars(kl), "Where the rate goes.")}
