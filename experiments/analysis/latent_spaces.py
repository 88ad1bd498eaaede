"""Latent spaces of trained runs and of PCA side by side: one table, one picture, and how continuous each space is.

    python experiments/analysis/latent_spaces.py --out=runs/compared RUN RUN ...

The runs have the same data and the same latent dimension, 1 or 2. PCA with as many components is fitted to the training
images here. Written into --out: comparison.md, comparison.png, comparison.json; the table is printed.
"""

import json
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import continuity
import jax
import latent_spaces_figure
import numpy as np
import several_runs
from sklearn import decomposition

from vae_jax import console
from vae_jax.console import guarded
from vae_jax.errors import ConfigError
from vae_jax.evaluation import bounds, generation, latent_space
from vae_jax.evaluation.examples import in_chunks, summarize
from vae_jax.keys import prior_key
from vae_jax.models.model import sample_prior
from vae_jax.parallel import devices
from vae_jax.reports import tables
from vae_jax.runs import directory, load
from vae_jax.runs import environment as environments
from vae_jax.training import setup as setups

PCA = "PCA"
SEED, SAMPLES = 0, 144  # of samples: their seed, how many
POINTS = 1000  # whose distance to the nearest training image goes into a mean, at most
GRID = 12  # cells of the picture's grid, either way
CODES, STEPS, CURVE = 5, 4, 400  # of the picture of a line: its middle codes, points to a gap, points of the curve
PER_ELEMENT = "per element"
PLACES = {  # where z is decoded and the distance of what comes out is measured -> in words
    "reconstruction": "at test codes",
    "halfway": "halfway",
    "empty": "no code near",
    "samples": "samples",
}
COLUMNS = {
    "error_train": "error, train",
    "error_test": "error, test",
    "elbo": "ELBO, nats",
    "kl": "KL, nats",
    **{f"nearest_{name}": f"d {place}" for name, place in PLACES.items()},
    "nearest_average": "d of average",
}
PAGE = """# PCA, autoencoders and VAEs compared

{data}. Made by

    {command}

{table}

{models}

Every number is a mean with its standard error, per element of x in [0, 1] where no unit is given.

- **error**: squared error of the reconstruction, of a VAE at the mean of q(z|x).
- **ELBO, KL**: of test images. An autoencoder and PCA have no density q, and so neither.
- **d**: squared distance to the nearest training image. The yardstick is that of test images themselves, in the first
  row. Below it lies a copy of a training image, or a blur near to many; hold d elsewhere against d at test codes.
- **at test codes**: of reconstructions of test images. **halfway**: between the codes of two training images drawn at
  random; on a line, of any two neighbours. **no code near**: uniformly over an ellipsoid that holds the training codes
  and a quarter more, farther from every code than 95 in 100 codes are from their nearest other. **samples**: at draws
  of the prior, or where there is none of a mixture of ten Gaussians fitted to the codes. **of average**: of the two
  images themselves, averaged, between whose codes halfway is: what fading one into the other would get.

The standard errors are over images and points; each run is one seed.
"""


class LatentSpace(NamedTuple):
    """A trained run or PCA, as codes of images and a decoder."""

    name: str
    about: str
    train: np.ndarray  # codes of the training images, [N, Z]
    test: np.ndarray
    decode: Callable  # z [P, Z] -> [P, *event]
    draws: np.ndarray  # z of the samples, [SAMPLES, Z]
    prior: bool = False  # whether the samples come from a prior, and not from a mixture fitted to the codes
    standard: bool = False  # whether that prior is the standard normal
    bound: dict | None = None  # ELBO and KL of the test images, as a summary has them; None where there is none


class Images(NamedTuple):
    """The images as the models see them, [N, *event], and the labels of the test images, or None."""

    train: np.ndarray
    test: np.ndarray
    label: np.ndarray | None


def main(arguments=None):
    runs, out = several_runs.parse(__file__, __doc__, arguments, out="DIR")
    numbers = guarded(lambda: compare(runs, out))
    console.write(tables.text(table(numbers)))
    console.write(f"written    {out}: comparison.md, comparison.png, comparison.json")


def compare(runs, out):
    """Measures and draws the runs and PCA into the directory `out`; returns the numbers. Raises one-line errors."""
    spaces, images = open_all([str(Path(run)) for run in runs])
    decoded = [decode_all(space) for space in spaces]
    numbers = {
        "data": directory.read_info(runs[0]),
        "runs": [str(Path(run)) for run in runs],
        "environment": environments.describe(),
        "about": {space.name: space.about for space in spaces},
        "real_images": summarize(continuity.nearest_distance(images.test[:POINTS], images.train), PER_ELEMENT),
        "models": {s.name: measure(s, d, images) for s, d in zip(spaces, decoded, strict=True)},
    }
    figure = draw(spaces, decoded, images, numbers)
    out.mkdir(parents=True, exist_ok=True)
    (out / "comparison.json").write_text(json.dumps(numbers, indent=2) + "\n")
    figure.savefig(out / "comparison.png", dpi=120)
    (out / "comparison.md").write_text(page(numbers, out))
    return numbers


# ---- the latent spaces


def open_all(runs):
    """([LatentSpace of PCA, of each run], Images)."""
    require_comparable(runs)
    spaces = []
    for run in runs:
        console.write(f"measuring  {run}")
        space, images = space_of_run(run)
        spaces.append(space)
    return [space_of_pca(images, spaces[0].train.shape[-1]), *spaces], images


def require_comparable(runs):
    """Raises ConfigError for runs that cannot stand in one table: which, and why. RunError for what is no run."""
    names = [Path(run).name for run in runs]
    if len({PCA, *names}) <= len(names):
        raise ConfigError(f"the names of directories tell runs apart, not {', '.join(names)}: rename some")
    configs = [load.read_config(run) for run in runs]
    for run, config in zip(runs, configs, strict=True):
        several_runs.measured(run)
        if config.model.latent_dim not in (1, 2):
            raise ConfigError(f"{run} has latent_dim = {config.model.latent_dim}: 1 and 2 are compared, and drawn")
        if config.data.condition != "none" or several_runs.model_of(run).layered:
            raise ConfigError(f"{run} has a condition or two layers: z must be all that a decoder is given")
        if len(load.read_info(run).event_shape) < 2:
            raise ConfigError(f"{run} was trained on vectors: images are compared")
    several_runs.require_same_data(runs)
    sizes = [config.model.latent_dim for config in configs]
    if len(set(sizes)) > 1:
        raise ConfigError(f"the runs have latent_dim = {', '.join(map(str, sizes))}: compare those of 1, or those of 2")


def space_of_run(run):
    """(LatentSpace, Images) of a trained run, its data loaded again."""
    setup, params = setups.reopen(run)
    config, model, spread = setup.config, setup.model, devices.spread(setup.mesh)
    train = setups.run_examples(setup, params, "train", 0, setups.trained_table(setup, run))
    test = setups.run_examples(setup, params, "test", config.eval.max_examples)
    means = partial(generation.decode_means, model, params)
    decode = lambda z: in_chunks(means, z, config.eval.chunk_images, spread)
    space = LatentSpace(Path(run).name, describe(config, model), train["mean"], test["mean"], decode, None)
    images = Images(train["image"], test["image"], test.get("label"))
    if not model.has_density:
        return space._replace(draws=generation.code_draws(space.train, SAMPLES, SEED)), images
    space = space._replace(
        draws=jax.device_get(sample_prior(model, params, prior_key(SEED), SAMPLES))[0],
        prior=True,
        standard=model.standard_normal,
        bound=bounds.bound_numbers(model, params, test, config.eval, spread),
    )
    return space, images


def describe(config, model):
    """A run in a few words: its networks, its q and what it ascended."""
    keys, objective = config.model, config.objective
    widths = "" if keys.encoder == "linear" else " " + "-".join(map(str, keys.hidden))
    weights = f" {objective.beta:g}, reconstruction {objective.reconstruction:g}" * (objective.name == "beta")
    weighed = model.has_density and (keys.likelihood, keys.sigma_mode) == ("normal", "fixed")
    sigma = f", sigma {keys.sigma:g}" * weighed  # against the KL, that is: an autoencoder's does not matter
    return f"{keys.encoder}{widths}, {keys.posterior}, {objective.name}{weights}{sigma}"


def space_of_pca(images, dim):
    """PCA of the training images with `dim` components."""
    vectors = lambda x: x.reshape(len(x), -1)
    pca = decomposition.PCA(dim, random_state=SEED).fit(vectors(images.train))
    decode = lambda z: pca.inverse_transform(z).reshape(-1, *images.train.shape[1:]).astype(np.float32)
    train, test = (pca.transform(vectors(x)).astype(np.float32) for x in (images.train, images.test))
    return LatentSpace(PCA, "principal components", train, test, decode, generation.code_draws(train, SAMPLES, SEED))


# ---- what they decode to, measured


def decode_all(space):
    """{where z lies: what it decodes to}, in one pass: those of PLACES, 'train', and 'grid', or 'strip' and 'curve'."""
    train = space.train
    z = {
        "train": train,
        "reconstruction": space.test,
        "halfway": train[continuity.pairs(train, POINTS, SEED)].mean(1),
        "empty": continuity.empty(train, POINTS, SEED, space.standard),
        "samples": space.draws,
    }
    if train.shape[-1] == 2:
        z["grid"] = latent_space.quantile_grid(GRID) if space.standard else latent_space.code_grid(train, GRID)
    else:
        z |= {"strip": continuity.along(train, CODES, STEPS)[1], "curve": curve_points(train)}
    decoded = space.decode(np.concatenate(list(z.values())).astype(np.float32))
    return dict(zip(z, np.split(decoded, np.cumsum([len(points) for points in z.values()])[:-1]), strict=True))


def curve_points(codes):
    """Points along the line of codes `[N, 1]`, and a tenth of its length beyond either end: `[CURVE, 1]`."""
    beyond = 0.1 * np.ptp(codes)
    return np.linspace(codes.min() - beyond, codes.max() + beyond, CURVE, dtype=np.float32)[:, None]


def measure(space, decoded, images):
    """{name: {value, stderr, unit}}: squared errors, the bound, and distances to the nearest training image."""
    error = lambda x, other: summarize(((x - other) ** 2).reshape(len(x), -1).mean(-1), PER_ELEMENT)
    average = images.train[continuity.pairs(space.train, POINTS, SEED)].mean(1)
    compared = {name: decoded[name][:POINTS] for name in PLACES} | {"average": average}
    distances = {name: continuity.nearest_distance(x, images.train) for name, x in compared.items()}
    return {
        "error_train": error(images.train, decoded["train"]),
        "error_test": error(images.test, decoded["reconstruction"]),
        **{name: space.bound[name] for name in ("elbo", "kl") if name in (space.bound or {})},
        **{f"nearest_{name}": summarize(values, PER_ELEMENT) for name, values in distances.items()},
    }


# ---- table, page and figure


def table(numbers):
    """A row for each model; in the first row the yardstick of distances."""
    cell = lambda entry: tables.Cell(console.measured(entry["value"], entry["stderr"]))
    rows = {"the images themselves": {"nearest_reconstruction": numbers["real_images"]}, **numbers["models"]}
    cells = [
        [tables.Cell(name, is_number=False), *(cell(row[c]) if c in row else tables.Cell("") for c in COLUMNS)]
        for name, row in rows.items()
    ]
    return tables.Grid("Mean ± standard error over images", ["", *COLUMNS.values()], cells)


def page(numbers, out):
    """The table as a page: what was compared, what each column says."""
    script = ["python", "experiments/analysis/latent_spaces.py"]
    return PAGE.format(
        data=f"{numbers['data']['name']}, {numbers['data']['num_train']:,} training images",
        command=shlex.join([*script, f"--out={out}", *numbers["runs"]]),
        table=tables.markdown(table(numbers)),
        models="\n".join(f"- {name}: {about}" for name, about in numbers["about"].items()),
    )


def draw(spaces, decoded, images, numbers):
    """The figure of planes or of lines."""
    rows, yardstick = [], numbers["real_images"]["value"]
    for space, found in zip(spaces, decoded, strict=True):
        rows.append(space._asdict() | {"images": found, "numbers": numbers["models"][space.name]})
        if "curve" in found:
            distance = continuity.nearest_distance(found["curve"], images.train)
            order, _ = continuity.along(space.train, CODES, STEPS)
            rows[-1] |= {"curve": (curve_points(space.train)[:, 0], distance), "middle": images.train[order]}
    if "curve" in rows[0]:
        return latent_spaces_figure.lines(rows, yardstick, STEPS)
    return latent_spaces_figure.planes(rows, images.label, yardstick, PLACES)


if __name__ == "__main__":
    main()
