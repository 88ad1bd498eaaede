"""Trained runs and PCA side by side: one table, one picture, and how continuous each latent space is.

    python -m vae_jax.compare --out=runs/compared RUN RUN ...

The runs have the same data and the same latent dimension, 1 or 2. PCA with as many components is fitted to the training
images here. Written into --out: comparison.md, comparison.png, comparison.json; the table is printed.
"""

import json
import shlex
from pathlib import Path

import numpy as np

from vae_jax import console, continuity, subjects
from vae_jax.console import Parser, guarded
from vae_jax.errors import RunError
from vae_jax.evaluation import latent_space
from vae_jax.evaluation.examples import summarize
from vae_jax.runs import directory
from vae_jax.subjects import SEED

POINTS = 1000  # whose distance to the nearest training image goes into a mean, at most
GRID = 12  # cells of the picture's grid, either way
CODES, STEPS, CURVE = 5, 4, 400  # of the picture of a line: its middle codes, points to a gap, points of the curve
PER_ELEMENT = "per element"
WHERE = {  # distances that are measured: name -> what decodes there
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
    **{f"nearest_{name}": f"d {place}" for name, place in WHERE.items()},
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


def compare(workdirs, out):
    """Measures and draws the runs and PCA into the directory `out`; returns the numbers. Raises one-line errors."""
    workdirs, found, real = [str(Path(workdir)) for workdir in workdirs], [], None
    subjects.require_alike(workdirs)
    for workdir in workdirs:
        console.write(f"measuring  {workdir}")
        subject, real = subjects.run_subject(workdir)
        found.append(subject)
    found.insert(0, subjects.pca_subject(real, found[0].train.shape[-1]))
    decoded = [decode_all(subject) for subject in found]
    numbers = {
        "data": directory.read_info(workdirs[0]),
        "runs": workdirs,
        "environment": directory.environment(),
        "about": {subject.name: subject.about for subject in found},
        "real_images": summarize(continuity.nearest_distance(real.test[:POINTS], real.train), PER_ELEMENT),
        "models": {s.name: measure(s, images, real) for s, images in zip(found, decoded, strict=True)},
    }
    write(Path(out), numbers, draw(found, decoded, real, numbers))
    return numbers


def decode_all(subject):
    """{where z lies: what it decodes to}, in one pass: those of WHERE, 'train', and 'grid', or 'strip' and 'curve'."""
    train = subject.train
    z = {
        "train": train,
        "reconstruction": subject.test,
        "halfway": train[continuity.pairs(train, POINTS, SEED)].mean(1),
        "empty": continuity.empty(train, POINTS, SEED, subject.standard),
        "samples": subject.draws,
    }
    if train.shape[-1] == 2:
        z["grid"] = latent_space.quantile_grid(GRID) if subject.standard else latent_space.code_grid(train, GRID)
    else:
        z |= {"strip": continuity.along(train, CODES, STEPS)[1], "curve": curve_points(train)}
    images = subject.decode(np.concatenate(list(z.values())).astype(np.float32))
    return dict(zip(z, np.split(images, np.cumsum([len(points) for points in z.values()])[:-1]), strict=True))


def curve_points(codes):
    """Points along the line of codes `[N, 1]`, and a tenth of its length beyond either end: `[CURVE, 1]`."""
    beyond = 0.1 * np.ptp(codes)
    return np.linspace(codes.min() - beyond, codes.max() + beyond, CURVE, dtype=np.float32)[:, None]


def measure(subject, images, real):
    """{name: {value, stderr, unit}}: squared errors, the bound, and distances to the nearest training image."""
    error = lambda x, decoded: summarize(((x - decoded) ** 2).reshape(len(x), -1).mean(-1), PER_ELEMENT)
    numbers = {
        "error_train": error(real.train, images["train"]),
        "error_test": error(real.test, images["reconstruction"]),
        **{name: subject.bound[name] for name in ("elbo", "kl") if name in subject.bound},
    }
    average = real.train[continuity.pairs(subject.train, POINTS, SEED)].mean(1)
    places = {name: images[name][:POINTS] for name in WHERE} | {"average": average}
    distances = {name: continuity.nearest_distance(x, real.train) for name, x in places.items()}
    return numbers | {f"nearest_{name}": summarize(values, PER_ELEMENT) for name, values in distances.items()}


def table(numbers):
    """The numbers as aligned Markdown, a row for each model; in the first row the yardstick of distances."""
    first = {"nearest_reconstruction": numbers["real_images"]}
    rows = [["", *COLUMNS.values()]]
    for name, entries in {"the images themselves": first, **numbers["models"]}.items():
        rows.append([name, *(cell(entries[column]) if column in entries else "" for column in COLUMNS)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def cell(entry):
    return console.number({**entry, "unit": ""}).strip()


def draw(found, decoded, real, numbers):
    """The figure of planes or of lines."""
    from vae_jax import panels  # matplotlib

    rows, yardstick = [], numbers["real_images"]["value"]
    for subject, images in zip(found, decoded, strict=True):
        row = {"name": subject.name, "about": subject.about, "prior": subject.prior, "images": images}
        row |= {"standard": subject.standard, "codes": subject.test, "numbers": numbers["models"][subject.name]}
        if "curve" in images:
            distance = continuity.nearest_distance(images["curve"], real.train)
            order, _ = continuity.along(subject.train, CODES, STEPS)
            row |= {"codes": subject.train[:, 0], "curve": (curve_points(subject.train)[:, 0], distance)}
            row["strip"] = np.full_like(images["strip"], np.nan), images["strip"]
            row["strip"][0][::STEPS] = real.train[order]
        rows.append(row)
    if "curve" in rows[0]:
        return panels.lines(rows, yardstick, STEPS)
    return panels.planes(rows, real.label, yardstick, WHERE)


def write(out, numbers, figure):
    """comparison.json, comparison.png and comparison.md in `out`, which may not exist yet. Raises RunError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "comparison.json").write_text(json.dumps(numbers, indent=2) + "\n")
        figure.savefig(out / "comparison.png", dpi=120)
        (out / "comparison.md").write_text(page(numbers, out))
    except OSError as error:
        raise RunError(f"--out={out} cannot be written: {error.strerror}") from error


def page(numbers, out):
    """The table as a page: what was compared, what each column says."""
    return PAGE.format(
        data=f"{numbers['data']['name']}, {numbers['data']['num_train']:,} training images",
        command=shlex.join(["python", "-m", "vae_jax.compare", f"--out={out}", *numbers["runs"]]),
        table=table(numbers),
        models="\n".join(f"- {name}: {about}" for name, about in numbers["about"].items()),
    )


def main(arguments=None):
    """The command: every foreseen mistake is one line and exit status 2."""
    parser = Parser("compare", __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the directory of a finished run")
    parser.add_argument("--out", required=True, help="the directory of the table and the picture")
    given = parser.parse_args(arguments)
    numbers = guarded(lambda: compare(given.runs, given.out))
    console.write(table(numbers))
    console.write(f"written    {given.out}: comparison.md, comparison.png, comparison.json")


if __name__ == "__main__":
    main()
