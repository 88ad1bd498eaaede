"""Published numbers and ours side by side, of the runs that a script of this folder made.

    python experiments/reproduce/published.py --table=iwae_table1 --runs=runs/reproduce/iwae_table1

published.json holds the published numbers: for each a label, a run below --runs, and the split and name under which the
run's summary.json has ours. What has not been run is said to be so.
"""

import json
from pathlib import Path

from vae_jax import console
from vae_jax.console import Parser, guarded
from vae_jax.reports import tables
from vae_jax.runs import directory

PUBLISHED = json.loads(Path(__file__).with_name("published.json").read_text())
HEAD = ["", "published", "ours", "difference", "epochs", "steps", "images", "samples"]


def main(arguments=None):
    parser = Parser("python experiments/reproduce/published.py", __doc__)
    parser.add_argument("--table", required=True, choices=PUBLISHED)
    parser.add_argument("--runs", required=True, type=Path, help="the directory that holds the runs")
    given = parser.parse_args(arguments)
    guarded(lambda: console.write(text(PUBLISHED[given.table], given.runs)))


def text(table, runs):
    """The table as text: published, ours with its standard error, the difference, and how long ours was trained."""
    found = [cells(dict(zip(table["columns"], row, strict=True)), runs) for row in table["rows"]]
    rows = [[tables.Cell(label, is_number=False), *map(tables.Cell, numbers)] for label, *numbers in found]
    return tables.text(tables.Grid(f"published: {table['source']}", HEAD, rows))


def cells(row, runs):
    """The cells of a row; of a run that is not there the first three."""
    workdir, published = runs / row["run"], f"{row['published']:g}"
    summary = directory.read_summary(workdir) if workdir.is_dir() else None
    ours = (summary or {"splits": {}})["splits"].get(row["split"], {}).get(row["number"])
    if ours is None:
        return (row["row"], published, "not run", *[""] * 5)
    config = directory.read_config(workdir)
    images = ours.get("num_examples") or (config["eval"]["max_examples"] if row["split"] == "test" else 0)
    return (
        row["row"],
        published,
        console.measured(ours["value"], ours.get("stderr")),
        f"{ours['value'] - row['published']:+.2f}",
        f"{summary['epochs']:g}",
        f"{summary['step']:,}",
        f"{images:,}" if images else "all" if row["split"] == "test" else "",
        f"{ours['num_samples']:,}" if "num_samples" in ours else "",
    )


if __name__ == "__main__":
    main()
