"""Tables and pictures of the runs of amortization.sh: what each way of finding q is worth, and when.

    python experiments/analysis/amortization.py --runs=DIR --out=DIR

What has not been run yet is said to be so. Several seeds of a cell are averaged.
"""

import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from vae_jax import console
from vae_jax.console import Parser, guarded, measured
from vae_jax.plotting.toolkit import BLACK, BLUE, ORANGE, band, plain, signed
from vae_jax.reports import tables
from vae_jax.runs import directory

WIDTHS = (1, 16, 64, 200, 800)
STEPS = (1, 5, 10, 20)
WAYS = {  # cell -> what it is
    "mnist-constant": "one q for all images",
    **{f"mnist-width-{width}": f"encoder, two layers of {width}" for width in WIDTHS},
    **{f"mnist-refined-{steps}": f"encoder, {steps} refinement{'s' * (steps > 1)}" for steps in (1, 5, 20)},
    **{f"mnist-table-{steps}": f"table, {steps} update{'s' * (steps > 1)} a visit" for steps in STEPS},
}
KINDS = {"encoder": "encoder", "table": "table, 10 updates a visit"}
SIZES = {
    f"size-{size}-{kind}": f"{size:,} images, {name}" for size in (100, 1000, 10_000) for kind, name in KINDS.items()
}
SIGMAS = {
    f"sigma-{s}-{kind}": f"sigma = {s}, {name}" for s in ("1", "0.3", "0.1", "0.03") for kind, name in KINDS.items()
}
SECTIONS = {
    "Ways of finding q, MNIST": WAYS,
    "Numbers of training images, MNIST": SIZES,
    "Sharpness, Fashion-MNIST, normal likelihood": SIGMAS,
}
NUMBERS = {  # column -> split and number of a summary
    "ELBO, train": ("train", "elbo"),
    "ELBO, test": ("test", "elbo"),
    "NLL, test": ("test", "nll"),
    "KL, test": ("test", "kl"),
    "active units": ("test", "active_units"),
    "fit's shortfall": ("test", "fit_shortfall"),
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
    """The finished runs of a cell: [(summary, training records)]."""
    summaries = [(path, directory.read_summary(path)) for path in sorted(runs.glob(f"{cell}-seed*"))]
    return [(summary, epochs_of(path)) for path, summary in summaries if summary and summary.get("complete")]


def epochs_of(workdir):
    """(seconds since the start, mean ELBO of training) of each record of a run's training."""
    records = [one for one in directory.read_metrics(workdir) if one["split"] == "train" and "seconds" in one]
    return np.cumsum([one["seconds"] for one in records]), np.array([one["elbo"] for one in records])


# ---- tables


def grid(title, section, found):
    """A row for each cell of a section, means over its seeds."""
    best = max((one[1][1].max() for cell in section for one in found[cell]), default=0)
    head = ["", "seeds", *NUMBERS, "training, s", f"within {NEAR:g} nat, s"]
    return tables.Grid(title, head, [row(label, found[cell], best) for cell, label in section.items()])


def row(label, seeds, best):
    """The cells of a row; what is not there, or not reached, is a dash."""
    name = tables.Cell(label, is_number=False)
    if not seeds:
        return [name, *map(tables.Cell, ["not run", *[tables.ABSENT] * (len(NUMBERS) + 2)])]
    numbers = [mean_of([summary["splits"][split].get(key) for summary, _ in seeds]) for split, key in NUMBERS.values()]
    seconds = [summary["train_seconds"] for summary, _ in seeds]
    reached = [seconds_until(*epochs, best - NEAR) for _, epochs in seeds]
    times = [f"{np.mean(seconds):.0f}", tables.ABSENT if None in reached else f"{np.mean(reached):.0f}"]
    return [name, *map(tables.Cell, [str(len(seeds)), *numbers, *times])]


def mean_of(entries):
    """Mean over seeds, its error that over seeds, or over examples where there is one seed."""
    if None in entries:
        return tables.ABSENT
    values = [entry["value"] for entry in entries]
    spread = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else entries[0]["stderr"]
    return measured(float(np.mean(values)), spread)


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
    drawn = {"width": draw_widths(found), "seconds": draw_seconds(found), "size": draw_sizes(found)}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def values(found, cell, split):
    """The mean ELBO of a cell on a split, None if it has not been run."""
    seeds = [summary["splits"][split]["elbo"]["value"] for summary, _ in found[cell]]
    return np.mean(seeds) if seeds else None


def curve(ax, found, cells, split, **style):
    """The ELBO of cells {x: cell} against x, as far as they have been run."""
    points = {x: values(found, cell, split) for x, cell in cells.items()}
    points = {x: y for x, y in points.items() if y is not None}
    band(ax, list(points), list(points.values()), marker="o", **style)


def draw_widths(found):
    """ELBO against the width of the encoder; a table, and one q for all if it is near, as lines across."""
    if not any(found[f"mnist-width-{width}"] for width in WIDTHS):
        return None
    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    ax, widths = figure.subplots(), {width: f"mnist-width-{width}" for width in WIDTHS}
    for split, line in (("train", "-"), ("test", "--")):
        curve(ax, found, widths, split, color=BLUE, linestyle=line, label=f"encoder, {split}")
        for cell, color, name in (("mnist-table-10", ORANGE, "table"), ("mnist-constant", BLACK, "one q for all")):
            height = values(found, cell, split)
            if height is not None:
                label = f"{name}, {split}: {signed(height, '.1f')}"
                ax.axhline(height, color=color, linestyle=line, linewidth=1.4, label=label)
    best = max(values(found, cell, "train") for cell in WAYS if found[cell])
    ax.set(xlabel="Width of the encoder's two layers", ylabel="ELBO, nats", ylim=(best - SHOWN, best + 1))
    return finish(figure, ax, WIDTHS)


def draw_seconds(found):
    """The training ELBO of the newest epoch against the seconds of training."""
    shown = {cell: seeds for cell, seeds in found.items() if cell in WAYS and seeds}
    if not shown:
        return None
    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    ax = figure.subplots()
    lines = {
        "mnist-width-200": BLUE,
        "mnist-refined-5": "#009E73",
        "mnist-table-5": "#E69F00",
        "mnist-table-10": ORANGE,
    }
    for cell, color in lines.items():
        for seconds, elbo in (epochs for _, epochs in shown.get(cell, ())[:1]):
            band(ax, seconds, elbo, color=color, marker="o", label=WAYS[cell])
    best = max(seeds[0][1][1].max() for seeds in shown.values())
    ax.set(xlabel="Seconds of training", ylabel="ELBO of an epoch, nats", ylim=(best - SHOWN, best + 1))
    return finish(figure, ax)


def draw_sizes(found):
    """ELBO on training and on test images against the number of training images."""
    sizes = {100: "size-100", 1000: "size-1000", 10_000: "size-10000"}
    cells = {kind: {size: f"{cell}-{kind}" for size, cell in sizes.items()} for kind in KINDS}
    cells["encoder"][59_600], cells["table"][59_600] = "mnist-width-200", "mnist-table-10"
    if not any(found[cell] for kind in cells.values() for cell in kind.values()):
        return None
    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    ax = figure.subplots()
    for kind, color in (("encoder", BLUE), ("table", ORANGE)):
        for split, line in (("train", "-"), ("test", "--")):
            curve(ax, found, cells[kind], split, color=color, linestyle=line, label=f"{kind}, {split}")
    ax.set(xlabel="Training images", ylabel="ELBO, nats")
    return finish(figure, ax, [*sizes, 59_600])


def finish(figure, ax, counts=()):
    """Axes without frame, the legend beside; x logarithmic with numbers at `counts`, if it counts something."""
    plain(ax)
    if counts:
        ax.set_xscale("log")
        ax.set_xticks(counts, [f"{count:,}" for count in counts])
        ax.minorticks_off()
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    return figure


if __name__ == "__main__":
    main()
