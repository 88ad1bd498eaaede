"""A table of runs as text: for the terminal, Markdown, LaTeX and CSV. Plain data in, strings out."""

import csv
import io
import math
import re
from typing import NamedTuple

from vae_jax.console import columns, decimals, measured
from vae_jax.reports.collect import is_number, spell, spelled
from vae_jax.reports.names import named
from vae_jax.reports.statistics import CONFIDENCE, Number, Table, lookup, units_of

ABSENT = "–"


class Cell(NamedTuple):
    """A number as text, or a word where `is_number` is False; the best of its column is marked."""

    text: str
    is_number: bool = True
    best: bool = False


class Grid(NamedTuple):
    """A title and rows of cells below a header: what each format lays out in its own way."""

    title: str
    header: list[str]
    rows: list[list[Cell]]


# What the tables say.


def means(table: Table) -> Grid:
    """A row for each setting: its values, how many seeds, mean and standard error of each number."""
    units = {name: unit_of(table, name) for name in table.names}
    header = [*table.keys, "seeds", *(headed(table, name) for name in table.names)]
    rows = []
    for i, row in enumerate(table.rows):
        numbers = [number_cell(row.numbers.get(name), units[name], table.best.get(name) == i) for name in table.names]
        rows.append([*words(row), Cell(str(len(row.runs))), *numbers])
    over_seeds = "Mean ± standard error over seeds"
    return Grid(over_seeds if table.over_seeds else "One seed, ± standard error over examples", header, rows)


def differences(table: Table) -> Grid | None:
    """A row for each setting: what it adds to the baseline, paired by seed; None if nothing is compared."""
    names = [name for name in table.names if any(name in row.differences for row in table.rows)]
    if not names:
        return None
    header = [*table.keys, *(headed(table, name) for name in names)]
    rows = [[*words(row), *(difference_cell(table, i, name) for name in names)] for i, row in enumerate(table.rows)]
    title = f"Differences from the baseline {spelled(table.keys, table.rows[table.baseline].setting)}, paired by seed"
    corrected = "(Student's t, Holm's correction for the number of comparisons in a column)"
    return Grid(f"{title}, with {CONFIDENCE:.0%} confidence intervals {corrected}", header, rows)


def unit_of(table, name):
    """The unit that a number has in every row, None if it is not the same."""
    units = units_of([row.numbers for row in table.rows], name)
    return units[0] if len(units) == 1 else None


def headed(table, name):
    """'test NLL [nats]': what stands over a column, or at an axis."""
    unit = unit_of(table, name)
    return f"{label(name)} [{unit}]" if unit else label(name)


def label(name) -> str:
    """'test NLL' for 'test.nll'."""
    split, _, short = name.rpartition(".")
    return f"{split} {named(short).removesuffix(' per dim')}".strip()


def words(row):
    return [Cell(spell(value), is_number(value)) for value in row.setting]


def number_cell(number, unit, best) -> Cell:
    """A mean with its standard error, and its unit where the column's head has none."""
    if number is None:
        return Cell(ABSENT)
    own = f" {number.unit}" if unit is None else ""
    return Cell(measured(number.mean, number.stderr) + own, best=best)


def difference_cell(table, i, name) -> Cell:
    if table.baseline == i:
        return Cell("baseline")
    found = table.rows[i].differences.get(name)
    if found is None:
        return Cell(ABSENT)
    if found.low is None or not math.isfinite(found.low):
        return Cell(f"{found.mean:+.4g}" + " (1 pair)" * (found.low is None))
    digits = decimals(found.high - found.mean)
    some = "" if found.count == len(table.rows[i].runs) else f" ({found.count} pairs)"
    values = f"{found.mean:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"
    return Cell(values + some)


# Formats.


def text(grid: Grid) -> str:
    """Aligned columns; the best has a star."""
    rows = [[f"*{cell.text}" if cell.best else cell.text for cell in row] for row in grid.rows]
    right = [i for i, numbers in enumerate(numeric(grid)) if numbers]
    note = ["  * the best of its column"] * any(cell.best for row in grid.rows for cell in row)
    return "\n".join([grid.title, *columns([grid.header, *rows], right), *note])


def numeric(grid) -> list[bool]:
    """Which columns hold nothing but numbers."""
    return [all(row[i].is_number for row in grid.rows) for i in range(len(grid.header))]


def markdown(grid: Grid) -> str:
    """A pipe table; the best is bold."""
    line = lambda cells: f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    body = [[f"**{cell.text}**" if cell.best else cell.text for cell in row] for row in grid.rows]
    rule = ["---:" if right else "---" for right in numeric(grid)]
    return "\n".join([f"{grid.title}:", "", line(grid.header), line(rule), *map(line, body)])


def latex(grid: Grid) -> str:
    """A tabular of plain LaTeX, which needs no package; the best is bold."""
    places = "".join("r" if right else "l" for right in numeric(grid))
    line = lambda cells: " & ".join(cells) + r" \\"
    body = [[latex_cell(cell) for cell in row] for row in grid.rows]
    lines = [r"\hline", line(map(latex_text, grid.header)), r"\hline", *map(line, body), r"\hline"]
    return "\n".join([f"% {grid.title}", rf"\begin{{tabular}}{{{places}}}", *lines, r"\end{tabular}"])


def latex_cell(cell) -> str:
    shown = latex_text(cell.text)
    return rf"{{\boldmath\textbf{{{shown}}}}}" if cell.best else shown


SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"|": r"$|$", "<": r"$<$", ">": r"$>$", "±": r"$\pm$", ABSENT: "--"},
}


def latex_text(string) -> str:
    """Text in which no character is a command; the minus of a number is one."""
    return re.sub(r"(?<![\w$])-(?=\d)", "$-$", "".join(SPECIAL.get(c) or c for c in string))


def csv_table(table: Table) -> str:
    """Every number of the table in full, a row for each setting; absent ones are empty."""
    rows = []
    for row in table.rows:
        cells = {**dict(zip(table.keys, map(spell, row.setting), strict=True)), "seeds": len(row.runs)}
        for name, number in row.numbers.items():
            cells |= {name: number.mean} | {f"{name} {part}": getattr(number, part) for part in Number._fields[1:]}
            if any(name in other.differences for other in table.rows):
                parts = (f"{name} {part}" for part in ("difference", "low", "high", "pairs"))
                cells |= zip(parts, row.differences.get(name, [None] * 4), strict=True)
        rows.append(cells)
    return written(rows)


def csv_runs(runs, keys, names) -> str:
    """What went into the table: a row for each run, its values of `keys`, its numbers and their standard errors."""
    rows = []
    for run in runs:
        cells = {"run": run.path, **{key: spell(run.config.get(key)) for key in keys}}
        for name in names:
            entry = lookup(run, name) or {}
            cells |= {name: entry.get("value")} | {f"{name} {part}": entry.get(part) for part in ("stderr", "unit")}
        rows.append(cells)
    return written(rows)


def written(rows):
    """Dicts as CSV, a column for every key."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def whole_markdown(title, grids, notes, pictures) -> str:
    """The page of a sweep: tables, what to know of them, and the pictures that lie beside it, {file: caption}."""
    told = ["What is missing or not alike:\n\n" + "\n".join(f"- {note}" for note in notes)] if notes else []
    shown = [f"{caption}\n\n![{caption}]({file})" for file, caption in pictures.items()]
    return "\n\n".join([f"# {title}", *map(markdown, grids), *told, *shown]) + "\n"
