"""The picture of several latent spaces, a row each: arrays in, `matplotlib.figure.Figure` out.

A row is a dict: name, about, prior (whether z has one), standard (whether that is the standard normal), codes `train`
and `test`, images {what: [N, *event]}, numbers {name: {value, stderr}}; of a line also curve and middle. Images are in
[0, 1]; values outside are clipped.
"""

import numpy as np
from matplotlib.figure import Figure

from vae_jax.plotting.latent_space import draw_latents
from vae_jax.plotting.toolkit import BLACK, BLUE, ORANGE, image_grid, plain

YARDSTICK = {"color": BLACK, "linestyle": "--", "linewidth": 1.0, "label": "held-out real images"}
AVERAGE = {"color": ORANGE, "markersize": 5, "fillstyle": "none", "linestyle": "", "label": "the two images averaged"}
NAME = {"fontsize": 12, "weight": "bold"}


def planes(rows, label, yardstick, where):
    """Models with two latent dimensions: codes of test images, decoded grid, samples, distances to real images.

    `yardstick`: the mean distance of held-out images; `where`: {name of a distance: what decodes there}.
    """
    figure = Figure(figsize=(13.2, 2.9 * len(rows) + 0.5), layout="constrained")
    axes = figure.subplots(len(rows), 4, squeeze=False, width_ratios=(1.25, 1, 1, 1.1))
    for (latent, grid, samples, distances), row in zip(axes, rows, strict=True):
        draw_latents(latent, row["test"], label, prior=row["standard"], fontsize=6)
        latent.set_title(row["about"], fontsize=9)
        latent.set(xlabel="$z_1$", ylabel="$z_2$")
        latent.annotate(
            row["name"], (-0.2, 0.5), xycoords="axes fraction", rotation=90, va="center", ha="right", **NAME
        )
        draw_images(grid, row["images"]["grid"])
        grid.set_title("over quantiles of " + ("the prior" if row["standard"] else "its codes"), fontsize=9)
        draw_images(samples, row["images"]["samples"])
        samples.set_title("from the prior" if row["prior"] else "from a mixture fitted to its codes", fontsize=9)
        draw_distances(distances, row["numbers"], yardstick, where)
    for ax, heading in zip(axes[0], ("Codes of test images", "Decoded grid", "Samples", "Continuity"), strict=True):
        ax.annotate(heading, (0.5, 1.17), xycoords="axes fraction", ha="center", **NAME)
    share_limits(axes[:, 3])
    axes[-1, 3].set_xlabel(
        "Squared distance to the nearest\ntraining image, per pixel, ± 2 standard errors", fontsize=9
    )
    figure.legend(
        *axes[0, 3].get_legend_handles_labels(), loc="outside lower right", ncols=3, frameon=False, fontsize=9
    )
    return figure


def draw_images(ax, x, columns=0):
    """A grid of images, a square one by default, without ticks; returns its pixels."""
    picture = image_grid(x, columns or round(len(x) ** 0.5))
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return picture


def draw_distances(ax, numbers, yardstick, where):
    """Mean distances with two standard errors as points and bars, the yardstick as a line."""
    entries = [numbers[f"nearest_{name}"] for name in where]
    values, errors = ([entry[part] or 0.0 for entry in entries] for part in ("value", "stderr"))
    ax.axvline(yardstick, **YARDSTICK)
    ax.errorbar(
        values,
        range(len(where)),
        xerr=2 * np.array(errors),
        fmt="o",
        color=BLUE,
        markersize=5,
        capsize=3,
        label="decoded",
    )
    ax.plot(numbers["nearest_average"]["value"], list(where).index("halfway"), marker="D", **AVERAGE)
    ax.set_yticks(range(len(where)), where.values(), fontsize=9)
    ax.set_ylim(len(where) - 0.4, -0.6)
    plain(ax)


def share_limits(axes):
    """The same horizontal limits from 0 for all of them."""
    most = max(ax.get_xlim()[1] for ax in axes)
    for ax in axes:
        ax.set_xlim(0, most)


def lines(rows, yardstick, steps):
    """Models with one latent dimension: distances along the line with the codes marked, and its middle decoded.

    A row's curve: (z, distances); its middle: the training images at every `steps`-th place of images['strip'].
    """
    figure = Figure(figsize=(14.5, 2.3 * len(rows) + 0.5), layout="constrained")
    axes = figure.subplots(len(rows), 2, squeeze=False, width_ratios=(1, 1.9))
    highest = max(row["curve"][1].max() for row in rows)
    for (curve, strip), row in zip(axes, rows, strict=True):
        curve.axhline(yardstick, **YARDSTICK)
        curve.plot(*row["curve"], color=BLUE, linewidth=1.2, label="decoded along the line")
        curve.plot(row["train"], np.zeros_like(row["train"]), "|", color=ORANGE, markersize=11, label="training codes")
        curve.set_ylim(-0.08 * highest, 1.05 * highest)
        curve.set_title(f"{row['name']}: {row['about']}", fontsize=10, loc="left")
        curve.set(xlabel="$z$", ylabel="Squared distance\nto nearest training\nimage, per pixel")
        curve.spines[["top", "right"]].set_visible(False)
        draw_strip(strip, row["middle"], row["images"]["strip"], steps)
        strip.set_title(in_words(row["numbers"]), fontsize=9)
    heading = (
        "The middle of the line: training images in the order of their codes, and what decodes from one to the next"
    )
    axes[0, 1].annotate(heading, (0.5, 1.4), xycoords="axes fraction", ha="center", fontsize=10, weight="bold")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=3, frameon=False, fontsize=9)
    return figure


def in_words(numbers):
    """The errors and distances of a row."""
    value = lambda name: f"{numbers[name]['value']:.4f}"
    return (
        f"error {value('error_train')} on training images, {value('error_test')} on test images; distance halfway "
        f"{value('nearest_halfway')}, of two neighbours averaged {value('nearest_average')}"
    )


def draw_strip(ax, middle, decoded, steps):
    """Training images above what decodes at their codes and between them, each code marked."""
    above, columns = np.ones_like(decoded), len(decoded)
    above[::steps] = middle
    picture = draw_images(ax, np.concatenate([above, decoded]), columns)
    places = (np.arange(0, columns, steps) + 0.5) * picture.shape[1] / columns
    ax.set_xticks(places, ["code"] * len(places), fontsize=8, color=ORANGE)
    ax.set_yticks(picture.shape[0] * np.array([0.25, 0.75]), ["training", "decoded"], fontsize=9)
    ax.tick_params(length=3, color=ORANGE)
