"""Pictures of a latent space: arrays in, `matplotlib.figure.Figure` out, as in figures.py."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vae_jax.figures import BLUE, ORANGE, image_rows, samples

COLUMNS = 4  # histograms side by side


def manifold(x, count, of="the prior"):
    """What a grid of `count` x `count` quantiles of the prior decodes to; z2 rises from bottom to top."""
    return samples(x, title=f"Decoded at quantiles of {of}: $z_1$ to the right, $z_2$ upwards", columns=count)


def interpolations(x):
    """Straight lines in the latent space, `[N, steps, *event]`, between the codes of two images each."""
    rows = {f"pair {number}": line for number, line in enumerate(x, 1)}
    return strips(rows, "Decoded along lines between the codes of two test images")


def traversals(x, dimensions):
    """One row for each dimension `[len(dimensions), steps, *event]`, walked from -3 to 3."""
    rows = {f"$z_{{{dimension + 1}}}$": walk for dimension, walk in zip(dimensions, x, strict=True)}
    return strips(rows, "Decoded along one dimension from −3 to 3, the others at one image's code")


def posterior_samples(originals, x):
    """Images `[N, *event]`, each with what draws of its own q(z|x) decode to `[N, count, *event]`."""
    return strips(beside(originals, x), "Each test image (left), and the mean of p(x|z) at draws of its own q(z|x)")


def neighbours(queries, found):
    """Test images `[Q, *event]`, each with the training images nearest by code `[Q, count, *event]`."""
    return strips(beside(queries, found), "Each test image (left), and the training images nearest by latent mean")


def beside(first, others):
    """{label: an image and the others that go with it} for `[N, *event]` and `[N, count, *event]`."""
    return {f"image {i + 1}": np.concatenate([one[None], others[i]]) for i, one in enumerate(np.asarray(first))}


def strips(rows, title):
    """{label: images [columns, *event]} as one labelled row of images each."""
    columns = len(next(iter(rows.values())))
    return image_rows(rows, title, columns)


def kl_bars(kl):
    """The KL of each dimension `[Z]`, the largest first, against its rank; how much it takes to be active."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    ax = figure.subplots()
    ordered = np.sort(kl)[::-1]
    ax.bar(np.arange(1, len(kl) + 1), ordered, color=BLUE)
    active = int((kl > 0.01).sum())
    ax.set_title(f"KL of each latent dimension: {active} of {len(kl)} above 0.01 nats", fontsize=11)
    ax.set(xlabel="Dimension, by rank", ylabel="Mean KL(q || p), nats", xlim=(0.3, len(kl) + 0.7))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def aggregate(z, dimensions):
    """Draws of the aggregate posterior `[N, Z]` in some dimensions, as histograms, the standard normal over them."""
    rows = -(-len(dimensions) // COLUMNS)
    columns = min(COLUMNS, len(dimensions))
    figure = Figure(figsize=(max(2.3 * columns + 0.4, 6.0), 2.0 * rows + 0.9), layout="constrained")
    axis = np.linspace(-4, 4, 201)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for ax in axes[len(dimensions) :]:
        ax.set_visible(False)
    for ax, dimension in zip(axes, dimensions, strict=False):
        inside = np.clip(z[:, dimension], -4, 4)  # what lies beyond stands in the outermost bins
        ax.hist(inside, bins=40, range=(-4, 4), density=True, color=BLUE, label="aggregate posterior")
        ax.plot(axis, np.exp(-(axis**2) / 2) / np.sqrt(2 * np.pi), color=ORANGE, linewidth=1.8, label="standard normal")
        ax.set_title(f"$z_{{{dimension + 1}}}$", fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.suptitle("Aggregate posterior against a standard normal, the most used dimensions first", fontsize=11)
    figure.supylabel("Density", fontsize=10)
    return figure
