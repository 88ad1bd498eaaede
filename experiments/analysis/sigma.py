"""sigma of a normal likelihood: squared error, rate and active units of runs against it, with images of each run.

    python experiments/analysis/sigma.py --out=FILE.png RUN...

experiments/sweeps/sigma.sh trains such runs.
"""

import math

import numpy as np
import several_runs
from matplotlib.figure import Figure

from vae_jax import console
from vae_jax.errors import ConfigError
from vae_jax.evaluation import generation
from vae_jax.keys import prior_key
from vae_jax.plotting.toolkit import BLUE, ORANGE, image_grid, log_axis, plain
from vae_jax.training import setup as setups

SHOWN = 8  # images in a row
MEASURED = {  # a number of the summary -> its title
    "squared_error": "Squared error of a pixel",
    "kl": "Rate, nats",
    "active_units": "Active units",
}


def main(arguments=None):
    several_runs.draw(*several_runs.parse(__file__, __doc__, arguments), figure)


def figure(runs):
    """The picture, in the order of sigma; prints the numbers of each run."""
    found = sorted((measure(run) for run in runs), key=lambda one: one["sigma"])
    for one in found:
        shown = "  ".join(f"{name} {console.number(one['numbers'][name])}" for name in MEASURED)
        console.write(f"  {one['name']:16}  {shown}")
    return draw(found)


def measure(run):
    """sigma of a run, its numbers, and a few reconstructions and samples. Raises ConfigError if it has no one sigma."""
    numbers = several_runs.measured(run, *MEASURED)
    setup, params = setups.reopen(run)
    config = setup.config
    if config.model.likelihood != "normal" or config.model.sigma_mode == "per_dimension":
        raise ConfigError(f"{run} has no one sigma: config.model.likelihood = normal is needed, and not per_dimension")
    if len(setup.dataset.info.event_shape) < 2 or setup.dataset.info.condition_shape:
        raise ConfigError(f"{run}: images without a condition are needed for pictures of it")
    learned = config.model.sigma_mode != "fixed"
    value = math.exp(float(params["likelihood"]["log_sigma"])) if learned else config.model.sigma
    test = setups.run_examples(setup, params, "test", SHOWN)
    return {
        "name": f"σ = {value:.3g}" + (f", {config.model.sigma_mode}" if learned else ""),
        "sigma": value,
        "learned": learned,
        "numbers": numbers,
        "original": np.asarray(test["image"]),
        "reconstructions": np.asarray(generation.reconstruct(setup.model, params, test)),
        "samples": np.asarray(generation.prior_means(setup.model, params, prior_key(config.eval.seed), SHOWN)),
    }


# ---- the picture


def draw(runs):
    """The numbers of runs, as `measure` gives them, against sigma; of each a row of reconstructions and of samples."""
    rows = len(runs) + 1
    picture = Figure(figsize=(3.3 * len(MEASURED), 3.4 + 0.42 * rows), layout="constrained")
    above, below = picture.subfigures(2, 1, height_ratios=(3.2, 0.42 * rows + 0.3))
    axes = above.subplots(1, len(MEASURED))
    for ax, (name, title) in zip(axes, MEASURED.items(), strict=True):
        draw_against_sigma(ax, runs, name)
        ax.set_title(title, fontsize=10, loc="left")
    above.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    original = runs[0]["original"]
    left, right = below.subplots(1, 2)
    left.set_title("Test images, and the mean of p(x|z) at the mean of q(z|x)", fontsize=10, loc="left")
    ticks = draw_rows(left, [original, *(run["reconstructions"] for run in runs)])
    left.set_yticks(ticks, ["original", *(run["name"] for run in runs)], fontsize=8)
    right.set_title("The mean of p(x|z) at draws of the prior", fontsize=10, loc="left")
    draw_rows(right, [np.ones_like(original), *(run["samples"] for run in runs)])
    return picture


def draw_against_sigma(ax, runs, name):
    """A number with two standard errors against sigma; a star is what was learned, a dot what was set."""
    ax.plot([run["sigma"] for run in runs], [run["numbers"][name]["value"] for run in runs], color="0.6", linewidth=1)
    for learned, label, style in (
        (False, "set", {"color": BLUE, "marker": "o", "markersize": 5}),
        (True, "learned from the data", {"color": ORANGE, "marker": "*", "markersize": 13}),
    ):
        points = [(run["sigma"], run["numbers"][name]) for run in runs if run["learned"] == learned]
        if points:
            sigma, entries = zip(*points, strict=True)
            errors = [2 * (entry["stderr"] or 0.0) for entry in entries]
            ax.errorbar(sigma, [entry["value"] for entry in entries], errors, linestyle="", label=label, **style)
    ax.set(xlabel="σ of p(x|z)", ylim=(0, None))
    log_axis(ax)
    plain(ax)


def draw_rows(ax, rows):
    """Rows of images `[N, *event]`; returns the heights of their middles, for labels."""
    grid, height = image_grid(np.concatenate(rows), len(rows[0])), rows[0].shape[1]
    ax.imshow(grid, cmap="gray", vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return np.arange(len(rows)) * (len(grid) - height) / (len(rows) - 1) + (height - 1) / 2


if __name__ == "__main__":
    main()
