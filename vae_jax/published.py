"""Published numbers and ours side by side, of the runs that a script of experiments/reproduce made.

    python -m vae_jax.published --table=iwae_table1 --runs=runs/reproduce/iwae_table1

experiments/reproduce/published.json holds the published numbers: for each a label, a run below --runs, and the split
and name under which the run's summary.json has ours. What has not been run is said to be so.
"""

import json
from pathlib import Path

from vae_jax import console
from vae_jax.console import Parser, guarded
from vae_jax.errors import UserError
from vae_jax.runs import directory

PUBLISHED = "experiments/reproduce/published.json"


def main():
    """Prints the table; a mistake is one line and exit status 2."""
    parser = Parser("published", __doc__)
    parser.add_argument("--table", required=True, help=f"a table of {PUBLISHED}")
    parser.add_argument("--runs", required=True, help="the directory that holds the runs")
    parser.add_argument("--published", default=PUBLISHED, help=f"default: {PUBLISHED}")
    arguments = parser.parse_args()
    guarded(lambda: console.write(text(read(arguments.published, arguments.table), arguments.runs)))


def read(path, name):
    """One table of the file: {'source', 'columns', 'q_params'}. Raises UserError for a name that it does not have."""
    try:
        tables = json.loads(Path(path).read_text())
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if name not in tables:
        raise UserError(f"--table={name}: {path} has {', '.join(tables)}")
    return tables[name]


def text(table, runs):
    """The table as text: published, ours with its standard error, the difference, and how long ours was trained."""
    head = ("", "published", "ours", "difference", "epochs", "steps", "images", "samples")
    lines = [head, *(line(dict(zip(table["columns"], row, strict=True)), Path(runs)) for row in table["q_params"])]
    widths = [max(len(cells[column]) for cells in lines) for column in range(len(head))]
    aligned = [
        "  ".join([cells[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True)])
        for cells in lines
    ]
    return "\n".join([f"published: {table['source']}", *(line.rstrip() for line in aligned)])


def line(row, runs):
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
        console.number({**ours, "unit": ""}).strip(),
        f"{ours['value'] - row['published']:+.2f}",
        f"{summary['epochs']:g}",
        f"{summary['step']:,}",
        f"{images:,}" if images else "all" if row["split"] == "test" else "",
        f"{ours['num_samples']:,}" if "num_samples" in ours else "",
    )


if __name__ == "__main__":
    main()
