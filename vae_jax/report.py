"""One table of any set of runs: means over seeds, differences from a baseline, pictures.

    python -m vae_jax.report runs/beta/*
    python -m vae_jax.report runs/z=* --x=model.latent_dim --y=test.nll,valid.elbo --out=runs/latent_size
    python -m vae_jax.report runs/z=* --baseline=model.latent_dim=10
    python -m vae_jax.report --figures runs/z=*

What differs is found by comparing the configurations. Runs that differ in their seed alone are one row: mean,
standard error, number of seeds. Whatever is missing or not alike is said below the table.
"""

import re
from pathlib import Path

from vae_jax.console import Parser, fail, guarded
from vae_jax.reports import collect, statistics, tables
from vae_jax.runs.directory import read_metrics

TRADE = "rate-distortion"


def main(arguments=None) -> None:
    """Runs the command; every foreseen error becomes one line and exit status 2."""
    options = parser().parse_intermixed_args(arguments)
    guarded(lambda: (figures if options.figures else report)(options))


def parser() -> Parser:
    parser = Parser("python -m vae_jax.report", __doc__)
    listed = lambda text: [part for part in text.split(",") if part]
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run directory")
    parser.add_argument("--x", metavar="KEY", help="key of the configuration along the axis of the picture")
    parser.add_argument("--by", metavar="KEY", help="key whose values are the lines of the pictures")
    help_y = f"numbers: SPLIT.NAME as in summary.json, train_seconds, num_params; {TRADE} draws KL against distortion"
    parser.add_argument("--y", metavar="SPLIT.NAME,...", type=listed, default=[], help=help_y)
    parser.add_argument(
        "--baseline", metavar="KEY=VALUE,...", help="what settings are compared with, not the first one"
    )
    parser.add_argument("--out", metavar="DIR", help="where table.csv, .md, .tex, runs.csv and the pictures go")
    parser.add_argument("--figures", action="store_true", help="draw the pictures of runs that have none; no table")
    return parser


def report(options) -> None:
    """Prints the table of the runs and writes it, with pictures, to --out."""
    runs, notes = finished(options.runs)
    for flag, key in (("--x", options.x), ("--by", options.by)):
        if key is not None:
            collect.require_varying(runs, key, flag)
    if options.x is not None and options.x == options.by:
        fail(f"--x and --by are both {options.x}: lines need another key than the axis")
    keys, along = collect.setting_keys(runs, [key for key in (options.x, options.by) if key])
    names = chosen_names(runs, keys, options.y)
    table, repeated = statistics.make_table(runs, keys, names, options.baseline)
    kept = [run for row in table.rows for run in row.runs.values()]
    notes += [*repeated, *statistics.remarks(kept, table, along)]
    grids = [grid for grid in (tables.means(table), tables.differences(table)) if grid]
    print("\n\n".join([*map(tables.text, grids), *(["\n".join(f"note: {note}" for note in notes)] if notes else [])]))
    if options.out:
        write(Path(options.out), table, kept, along, grids, notes, draw(table, kept, options))


def finished(paths):
    """The finished runs, and a line for every other path; ends the process where there are none."""
    runs, notes = collect.read_runs(paths)
    if not runs:
        fail(f"no finished run: {'; '.join(notes)}")
    if {"inference", "model", "objective"} & {key.partition(".")[0] for key in collect.varying(runs)}:
        from vae_jax.commands.configuration import without_unread  # jax's programs, which few tables need

        runs = [run._replace(config=without_unread(run.config)) for run in runs]
    return runs, notes


def chosen_names(runs, keys, asked) -> list[str]:
    """The numbers asked for, or those of NAMES that there are, with both terms of the bound where beta varies."""
    trade = [statistics.RATE, statistics.DISTORTION]
    names = [part for name in asked for part in (trade if name == TRADE else [name])]
    statistics.require_names(runs, names)
    known, usual = statistics.available(runs), [*statistics.NAMES, *(trade if statistics.BETA in keys else [])]
    return list(dict.fromkeys(names or [name for name in usual if name in known]))


def draw(table, runs, options) -> dict:
    """{file name without its ending: (Figure, caption)}: curves, every number over a key, rate and distortion."""
    from vae_jax.reports import charts  # matplotlib, which a table does without

    by = options.by
    records = {run.path: read_metrics(run.path) for run in runs}
    drawn = {"curves": (charts.training_curves(table, records, by), "Training, a line for each setting.")}
    x = options.x or longest_axis(table, by)
    if x is not None:
        short = re.sub(r"[^\w.-]", "_", x)
        drawn[short] = (charts.against_key(table, x, table.names, by), f"Numbers over {x}.")
    if {statistics.RATE, statistics.DISTORTION} <= set(table.names):
        drawn[TRADE] = (charts.rate_distortion(table, by), "Rate and distortion.")
    return drawn


def longest_axis(table, by):
    """The key for the axis if none is asked for: the one with the most values, those with numbers first."""
    values = {key: {row.setting[i] for row in table.rows} for i, key in enumerate(table.keys) if key != by}
    numbers = [key for key, found in values.items() if all(map(collect.is_number, found))]
    return max(numbers or values, key=lambda key: len(values[key]), default=None)


def write(folder, table, runs, along, grids, notes, drawn) -> None:
    """The table in every format, and the pictures, into a folder that is made if need be."""
    latex = "\n\n".join([*map(tables.latex, grids), *(f"% {note}" for note in notes)])
    pictures = {f"{name}.png": caption for name, (_, caption) in drawn.items()}
    texts = {
        "table.csv": tables.csv_table(table),
        "runs.csv": tables.csv_runs(runs, [*table.keys, *along, "seed"], table.names),
        "table.md": tables.whole_markdown(", ".join(table.keys) or "One setting", grids, notes, pictures),
        "table.tex": latex + "\n",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        for name, (figure, _) in drawn.items():
            figure.savefig(folder / f"{name}.png", dpi=150)
    except OSError as error:
        fail(f"--out={folder} cannot be written: {error.strerror}")
    print(f"\n{folder}: {', '.join([*texts, *pictures])}")


def figures(options) -> None:
    """Draws the pictures of runs whose summary has none, and writes their pages."""
    for name in ("x", "by", "y", "baseline", "out"):
        if getattr(options, name):
            fail(f"--{name} belongs to a table and cannot go with --figures")
    from vae_jax.commands import evaluate  # jax's programs, which a table does without

    runs, notes = finished(options.runs)
    for note in notes:
        print(f"note: {note}")
    for run in runs:
        drawn = run.summary.get("figures") or evaluate.draw_run(run.path)
        print(f"{run.path}: {', '.join(drawn)}", flush=True)


if __name__ == "__main__":
    main()
