"""Tables and pictures of the runs of amortization.sh: what each way of finding q is worth, and when.

    python experiments/analysis/amortization.py --runs=DIR --out=DIR

What has not been run yet is said to be so. Several seeds of a cell are averaged.
"""

import json
from pathlib import Path

import numpy as np

from vae_jax import console
from vae_jax.console import Parser, guarded
from vae_jax.plotting.toolkit import BLACK, BLUE, ORANGE, band, legend, panels, plain, signed
from vae_jax.reports import collect, statistics, tables
from vae_jax.reports.charts import dress
from vae_jax.runs import directory

WIDTHS = (1, 16, 64, 200, 800)
STEPS = (1, 5, 10, 20)
COUNTS = (100, 1000, 10_000)  # training images
GREEN, YELLOW = "#009E73", "#E69F00"  # Okabe and Ito
WAYS = {  # cell -> what it is
    "mnist-constant": "one q for all images",
    **{f"mnist-width-{width}": f"encoder, two layers of {width}" for width in WIDTHS},
    "mnist-aggressive-5": "encoder of 200, 5 updates for each of the decoder",
    **{f"mnist-refined-{steps}": f"encoder, {steps} refinement{'s' * (steps > 1)}" for steps in (1, 5, 20)},
    **{f"mnist-table-{steps}": f"table, {steps} update{'s' * (steps > 1)} a visit" for steps in STEPS},
}
KINDS = {"encoder": "encoder", "table": "table, 10 updates a visit"}
SIZES = {f"size-{count}-{kind}": f"{count:,} images, {name}" for count in COUNTS for kind, name in KINDS.items()}
SIGMAS = {
    f"sigma-{s}-{kind}": f"sigma = {s}, {name}" for s in ("1", "0.3", "0.1", "0.03") for kind, name in KINDS.items()
}
SECTIONS = {
    "Ways of finding q, MNIST": WAYS,
    "Numbers of training images, MNIST": SIZES,
    "Sharpness, Fashion-MNIST, normal likelihood": SIGMAS,
}
NUMBERS = {  # column -> a number of a run, as reports name it
    "ELBO, train": "train.elbo",
    "ELBO, test": "test.elbo",
    "NLL, test": "test.nll",
    "KL, test": "test.kl",
    "active units": "test.active_units",
    "fit's shortfall": "test.fit_shortfall",
}
SHOWN = 20  # nats below the best that a picture shows
NEAR = 1.0  # nats below the best training ELBO of a section that count as there


def main(arguments=None):
    parser = Parser("python experiments/analysis/amortization.py", __doc__)
    parser.add_argument("--runs", required=True, type=Path, help="the directory that holds the runs")
    parser.add_argument("--out", required=True, type=Path, help="the directory of tables and pictures")
    given = parser.parse_args(arguments)
    guarded(lambda: write(given.runs, given.out))


def write(runs, out):
    """Prints the tables and saves them with the pictures."""
    out.mkdir(parents=True, exist_ok=True)
    found = {cell: seeds_of(runs, cell) for section in SECTIONS.values() for cell in section}
    grids = [grid(title, section, found) for title, section in SECTIONS.items()]
    grids += [refinement_grid(curve) for curve in refinements(runs)]
    for one in grids:
        console.write(tables.text(one) + "\n")
    (out / "tables.md").write_text("\n\n".join(map(tables.markdown, grids)) + "\n")
    for name, figure in pictures(found).items():
        figure.savefig(out / f"{name}.png", dpi=144)
        console.write(f"picture   {out / name}.png")


def seeds_of(runs, cell):
    """The finished runs of a cell: [(run, its training records)]."""
    finished, _ = collect.read_runs(sorted(runs.glob(f"{cell}-seed*")))
    return [(run, epochs_of(run.path)) for run in finished]


def epochs_of(workdir):
    """(seconds since the start, mean ELBO of training) of each record of a run's training."""
    records = [one for one in directory.read_metrics(workdir) if one["split"] == "train" and "seconds" in one]
    return np.cumsum([one["seconds"] for one in records]), np.array([one["elbo"] for one in records])


def average(seeds, name):
    """The mean over seeds of a number, its error over them, or over examples if there is one seed; None if absent."""
    entries = {seed: statistics.lookup(run, name) for seed, (run, _) in enumerate(seeds)}
    whole = entries and None not in entries.values()
    return statistics.average(entries, over_seeds=len(entries) > 1) if whole else None


# ---- tables


def grid(title, section, found):
    """A row for each cell of a section, means over its seeds."""
    best = max((elbo.max() for cell in section for _, (_, elbo) in found[cell]), default=0)
    head = ["", "seeds", *NUMBERS, "training, s", f"within {NEAR:g} nat, s"]
    return tables.Grid(title, head, [row(label, found[cell], best) for cell, label in section.items()])


def row(label, seeds, best):
    """The cells of a row; what is not there, or not reached, is a dash."""
    numbers = [average(seeds, name) for name in NUMBERS.values()]
    cells = [tables.number_cell(number, number and number.unit, best=False) for number in numbers]
    spent = [run.summary["train_seconds"] for run, _ in seeds]
    reached = [seconds_until(*epochs, best - NEAR) for _, epochs in seeds]
    cells += [tables.Cell(tables.ABSENT if not s or None in s else f"{np.mean(s):.0f}") for s in (spent, reached)]
    count = str(len(seeds)) if seeds else "not run"
    return [tables.Cell(label, is_number=False), tables.Cell(count), *cells]


def seconds_until(seconds, elbo, wanted):
    """Seconds of training until the ELBO of an epoch is that, or None."""
    there = np.flatnonzero(elbo >= wanted)
    return float(seconds[there[0]]) if len(there) else None


def refinements(runs):
    """What refinement.py found, one list for each seed."""
    return [json.loads(path.read_text()) for path in sorted(runs.glob("refinement-seed*.json"))]


def refinement_grid(curve):
    """ELBO and seconds against the number of refinements."""
    head = ["steps", "ELBO, test", "gain over the encoder", f"seconds, {curve[0]['images']:,} images"]
    rows = [
        [str(r["steps"]), console.number(r["elbo"]), console.number(r["gain"]), f"{r['seconds']:.2f}"] for r in curve
    ]
    return tables.Grid("Refinement of the encoder's q at test time", head, [[*map(tables.Cell, r)] for r in rows])


# ---- pictures


def pictures(found):
    """{name: figure} of what there is."""
    drawn = {"width": draw_widths, "seconds": draw_seconds, "size": draw_sizes}
    there = found["mnist-width-200"] or found["mnist-table-10"]
    return {name: draw(found) for name, draw in drawn.items()} if there else {}


def height(found, cell, split):
    """The mean ELBO of a cell on a split, None if it has not been run."""
    number = average(found[cell], f"{split}.elbo")
    return number and number.mean


def curve(ax, found, cells, split, **style):
    """The ELBO of cells {x: cell} against x, as far as they have been run."""
    points = {x: height(found, cell, split) for x, cell in cells.items()}
    points = {x: y for x, y in points.items() if y is not None}
    band(ax, list(points), list(points.values()), marker="o", **style)


def draw_widths(found):
    """ELBO against the width of the encoder; a table, and one q for all if it is near, as lines across."""
    figure, (ax,) = panels(1, 1, (5, 3.8), (2.2, 0))
    widths = {width: f"mnist-width-{width}" for width in WIDTHS}
    for split, line in (("train", "-"), ("test", "--")):
        curve(ax, found, widths, split, color=BLUE, linestyle=line, label=f"encoder, {split}")
        for cell, color, name in (("mnist-table-10", ORANGE, "table"), ("mnist-constant", BLACK, "one q for all")):
            mean = height(found, cell, split)
            if mean is not None:
                label = f"{name}, {split}: {signed(mean, '.1f')}"
                ax.axhline(mean, color=color, linestyle=line, linewidth=1.4, label=label)
    best = max(height(found, cell, "train") for cell in WAYS if found[cell])
    ax.set(xlabel="Width of the encoder's two layers", ylabel="ELBO, nats", ylim=(best - SHOWN, best + 1))
    dress(ax, WIDTHS, "log")
    return finish(figure, ax)


def draw_seconds(found):
    """The training ELBO of each epoch against the seconds of training, of one seed."""
    figure, (ax,) = panels(1, 1, (5, 3.8), (2.2, 0))
    lines = {"mnist-width-200": BLUE, "mnist-refined-5": GREEN, "mnist-table-5": YELLOW, "mnist-table-10": ORANGE}
    for cell, color in lines.items():
        for _, (seconds, elbo) in found[cell][:1]:
            band(ax, seconds, elbo, color=color, marker="o", label=WAYS[cell])
    best = max(elbo.max() for cell in WAYS for _, (_, elbo) in found[cell][:1])
    ax.set(xlabel="Seconds of training", ylabel="ELBO of an epoch, nats", ylim=(best - SHOWN, best + 1))
    return finish(figure, ax)


def draw_sizes(found):
    """ELBO on training and on test images against the number of training images."""
    figure, (ax,) = panels(1, 1, (5, 3.8), (2.2, 0))
    counts = set()
    for kind, color, all_images in (("encoder", BLUE, "mnist-width-200"), ("table", ORANGE, "mnist-table-10")):
        there = [cell for cell in (*(f"size-{count}-{kind}" for count in COUNTS), all_images) if found[cell]]
        cells = {found[cell][0][0].config["data.num_train"]: cell for cell in there}
        counts |= cells.keys()
        for split, line in (("train", "-"), ("test", "--")):
            curve(ax, found, cells, split, color=color, linestyle=line, label=f"{kind}, {split}")
    ax.set(xlabel="Training images", ylabel="ELBO, nats")
    dress(ax, sorted(counts), "log")
    return finish(figure, ax)


def finish(figure, ax):
    """Axes without frame, the legend beside them."""
    plain(ax)
    legend(figure, "center right", ax)
    return figure


if __name__ == "__main__":
    main()
