"""Tables of many runs: numbers against SciPy, holes that are named, formats, pictures, and the command itself."""

import csv
import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from vae_jax import report
from vae_jax.commands import configuration
from vae_jax.reports import charts, collect, statistics, tables
from vae_jax.runs import directory

ROOT = Path(__file__).parents[1]
INFO = {"name": "digits", "num_train": 1400, "event_shape": (8, 8, 1)}
ENVIRONMENT = {"packages": {"jax": "0.10.2"}, "devices": "1 x cpu", "started": "now", "argv": ["a"]}
UNITS = {"active_units": "of 8", "nll_bits_per_dim": "bits/dim"}


@pytest.fixture
def made_up(tmp_path):
    """make(name, {key: value}, {test number: value}) -> the directory of a finished run that was never trained."""

    def make(name, overrides=None, numbers=None, info=INFO, environment=ENVIRONMENT, complete=True, **top):
        config = configuration.default()
        config.update_from_flattened_dict(overrides or {})
        path = tmp_path / name
        directory.open_run(path, config.to_dict(), info, environment)
        entries = {k: {"value": v, "stderr": 0.25, "unit": UNITS.get(k, "nats")} for k, v in (numbers or {}).items()}
        for step, split in itertools.product((10, 20), ("train", "valid")):
            record = {"step": step, "epoch": step / 10, "split": split}
            directory.append_metrics(path, record | {"elbo": -step, "kl": 3.0, "log_likelihood": 3.0 - step})
        summary = {"complete": complete, "train_seconds": 12.5, "splits": {"test": entries}, "figures": {}, **top}
        directory.write_summary(path, summary)
        return str(path)

    return make


@pytest.fixture
def command(capsys):
    """command(*arguments) -> (exit status, stdout, stderr) of the report in this process."""

    def command(*arguments):
        try:
            report.main([*map(str, arguments)])
            status = 0
        except SystemExit as exit:
            status = exit.code
        return status, *capsys.readouterr()

    return command


NLL = {2: [30.1, 29.8, 30.6], 4: [27.9, 27.2, 28.3], 8: [27.5, 27.6, 28.0]}  # {latent_dim: by seed}


@pytest.fixture
def grid(made_up):
    """Three settings of three seeds each, in no order."""
    cells = [(z, seed, value) for z, values in NLL.items() for seed, value in enumerate(values)]
    make = lambda z, seed, value: made_up(
        f"z{z}-s{seed}",
        {"model.latent_dim": z, "seed": seed},
        {"nll": value, "elbo": -value - 1, "kl": 3.0 + z, "log_likelihood": 2 - value, "active_units": min(z, 5)},
    )
    return [make(*cells[i]) for i in np.random.default_rng(0).permutation(len(cells))]


def table_of(paths, names=("test.nll",), asked=(), baseline=None):
    runs, notes = collect.read_runs(paths)
    assert not notes
    return statistics.make_table(runs, collect.setting_keys(runs, asked)[0], names, baseline)[0]


# Numbers.


def test_means_and_standard_errors_are_scipys(grid):
    table = table_of(grid)
    assert table.keys == ("model.latent_dim",) and table.over_seeds
    assert [row.setting for row in table.rows] == [(2,), (4,), (8,)]
    for row, values in zip(table.rows, NLL.values(), strict=True):
        number = row.numbers["test.nll"]
        assert sorted(row.runs) == [0, 1, 2] and number.count == 3 and number.unit == "nats"
        np.testing.assert_allclose([number.mean, number.stderr], [np.mean(values), scipy.stats.sem(values)], rtol=1e-12)


def holm_by_hand(apart, error=0.05):
    """Of C lists of differences: for each (mean, low, high), by the definition of Holm's method and SciPy's t-test."""
    tests = [scipy.stats.ttest_1samp(values, 0.0) for values in apart]
    intervals, rejecting = {}, True
    for left, i in zip(range(len(apart), 0, -1), np.argsort([test.pvalue for test in tests]), strict=True):
        level = error / left if rejecting else level  # noqa: F821 (the first is rejecting)
        rejecting = rejecting and tests[i].pvalue <= level
        intervals[i] = (np.mean(apart[i]), *tests[i].confidence_interval(1 - level))
    return [intervals[i] for i in range(len(apart))]


@pytest.mark.parametrize("baseline", [2, 4, 8])
def test_differences_from_the_baseline_are_paired_and_corrected(grid, baseline):
    """Against 2 both differences stand, against 4 and 8 one of two."""
    table = table_of(grid, baseline=None if baseline == 2 else f"model.latent_dim={baseline}")
    assert table.rows[table.best["test.nll"]].setting == (8,) and table.rows[table.baseline].setting == (baseline,)
    others = [row for row in table.rows if row.setting != (baseline,)]
    expected = holm_by_hand([np.subtract(NLL[row.setting[0]], NLL[baseline]) for row in others])
    for row, interval in zip(others, expected, strict=True):
        found = row.differences["test.nll"]
        np.testing.assert_allclose(found[:3], interval, rtol=1e-10)
        assert found.count == 3
    assert not table.rows[table.baseline].differences


@pytest.mark.parametrize("spread", [1, 8])
def test_equal_settings_show_a_difference_in_at_most_six_percent_of_tables(spread):
    """50,000 tables of eight equal settings and five seeds, whose noise is alike or up to `spread` times as large.

    Without a correction 26% of them would against the first setting, and 46% against the best. The first 200 go through
    `make_table`, a column each.
    """
    rng, tables_, columns = np.random.default_rng(0), 50_000, 200
    scale = np.linspace(1, spread, 8)[:, None]
    values = rng.normal(size=(tables_, 1, 5)) + scale * rng.normal(size=(tables_, 8, 5))
    apart = values[:, 1:] - values[:, :1]
    means, errors = apart.mean(-1), apart.std(-1, ddof=1) / np.sqrt(5)
    false = (np.abs(means) > statistics.half_widths(means, errors, np.full(7, 5))).any(-1)
    assert 0.03 < false.mean() < 0.06
    names = [f"{column}.nll" for column in range(columns)]
    runs = []
    for i, seed in itertools.product(range(8), range(5)):
        splits = {str(c): {"nll": {"value": values[c, i, seed], "unit": "nats"}} for c in range(columns)}
        runs.append(collect.Run("", {"model.latent_dim": i, "seed": seed}, {"splits": splits}, {}, {}))
    table, _ = statistics.make_table(runs, ["model.latent_dim"], names)
    shown = lambda row, name: name in row.differences and row.differences[name].low * row.differences[name].high > 0
    np.testing.assert_array_equal([any(shown(row, name) for row in table.rows) for name in names], false[:columns])


def test_what_has_no_spread_or_is_not_finite_is_compared(made_up):
    """Equal numbers are no difference, exact ones are one, an infinite one has no interval and breaks no other."""
    values = {2: (1.0, 1.0), 4: (1.0, 1.0), 8: (3.0, 3.0), 16: (2.0, float("inf"))}
    cells = [(z, seed, value) for z, both in values.items() for seed, value in enumerate(both)]
    rows = table_of([made_up(f"{z}{s}", {"model.latent_dim": z, "seed": s}, {"nll": v}) for z, s, v in cells]).rows
    assert [row.differences["test.nll"][:3] for row in rows[1:3]] == [(0.0, 0.0, 0.0), (2.0, 2.0, 2.0)]
    assert np.isnan(rows[3].differences["test.nll"].low)


def test_pairs_are_those_of_equal_seed(made_up):
    """Seeds 0, 1, 2 against 1, 2, 5: two pairs."""
    a = [made_up(f"a{s}", {"model.latent_dim": 2, "seed": s}, {"nll": v}) for s, v in ((0, 9.0), (1, 5.0), (2, 7.0))]
    b = [made_up(f"b{s}", {"model.latent_dim": 4, "seed": s}, {"nll": v}) for s, v in ((1, 4.0), (2, 4.0), (5, 1.0))]
    found = table_of([*a, *b], baseline="model.latent_dim=4").rows[0].differences["test.nll"]
    assert found.count == 2 and found.mean == 2.0  # (1 + 3) / 2
    np.testing.assert_allclose(found.high - found.mean, scipy.stats.t.ppf(0.975, 1) * np.sqrt(2) / np.sqrt(2))


def test_one_pair_has_no_interval_and_no_pair_no_difference(made_up):
    first = made_up("a", {"model.latent_dim": 2}, {"nll": 5.0})
    second = made_up("b", {"model.latent_dim": 4}, {"nll": 4.0})
    third = made_up("c", {"model.latent_dim": 8, "seed": 1}, {"nll": 9.0})
    rows = table_of([first, second, third]).rows
    assert rows[1].differences["test.nll"] == statistics.Difference(-1.0, None, None, 1)
    assert not rows[2].differences


def test_what_is_better_goes_by_the_number():
    names = ["test.nll", "test.nll_bits_per_dim", "test.elbo", "valid.elbo", "test.kl", "train_seconds"]
    assert [statistics.direction(name) for name in names] == [-1, -1, 1, 1, 0, 0]
    numbers = [statistics.Number(value, None, 1, "") for value in (3.0, float("nan"), 2.0)]
    assert (
        statistics.best_of([*numbers, None], "test.nll") == 2 and statistics.best_of([*numbers, None], "test.elbo") == 0
    )
    assert statistics.best_of(numbers, "test.kl") is None and statistics.best_of([numbers[1]], "test.nll") is None


# What differs.


def settings(made_up, *cells):
    return collect.read_runs([made_up(str(i), cell) for i, cell in enumerate(cells)])[0]


def test_keys_that_change_together_are_one(made_up):
    kinds = (("amortized", "zeros"), ("per_datapoint", "prior"), ("semi_amortized", "zeros"))
    cells = [{"inference.kind": kind, "inference.start": start, "seed": s} for kind, start in kinds for s in (0, 1)]
    runs = settings(made_up, *cells)
    assert collect.setting_keys(runs) == (["inference.kind"], ["inference.start"])
    asked = collect.setting_keys(runs, ["inference.start"])[0]
    assert asked == ["inference.start", "inference.kind"]  # two kinds begin with zeros


def test_a_grid_has_two_keys_and_numbers_are_in_order(made_up):
    cells = [{"model.latent_dim": z, "model.prior": prior} for z in (10, 2) for prior in ("vamp", "flow")]
    table = table_of([run.path for run in settings(made_up, *cells)], names=("train_seconds",))
    assert table.keys == ("model.latent_dim", "model.prior")
    assert [row.setting for row in table.rows] == [(2, "vamp"), (2, "flow"), (10, "vamp"), (10, "flow")]


def test_what_follows_the_seed_belongs_to_it(made_up):
    """Rows that begin from an encoder trained from the same seed; but two encoders at one seed are two settings."""
    start = lambda run, seed: {"inference.encoder_run": run, "seed": seed}
    runs = settings(made_up, start("e0", 0), start("e1", 1), start("e2", 2))
    assert collect.setting_keys(runs) == ([], [])
    made = [made_up(f"{run}{seed}", start(run, seed)) for run in ("mlp", "conv") for seed in (0, 1)]
    assert collect.setting_keys(collect.read_runs(made)[0])[0] == ["inference.encoder_run"]


def test_a_key_that_one_run_does_not_have_tells_it_apart(made_up):
    """A configuration is the run's own, as it was stored: nothing is filled in."""
    one, other = made_up("one", {"seed": 0}), made_up("other", {"seed": 1})
    config = json.loads((Path(one) / "config.json").read_text())
    del config["model"]["components"]
    (Path(one) / "config.json").write_text(json.dumps(config))
    assert collect.varying(collect.read_runs([other, one])[0]) == ["model.components", "seed"]


# What is missing or not alike.


def notes(out):
    return [line.removeprefix("note: ") for line in out.splitlines() if line.startswith("note: ")]


def test_missing_unfinished_and_broken_runs_are_named(grid, made_up, tmp_path, command):
    unfinished = made_up("unfinished", {"seed": 3}, complete=False)
    (tmp_path / "foreign").mkdir()
    broken = made_up("broken")
    (Path(broken) / "summary.json").write_text("{")
    status, out, err = command(*grid, unfinished, tmp_path / "nowhere", tmp_path / "foreign", broken, grid[0])
    assert status == 0 and not err
    found = notes(out)
    assert found[:3] == [
        f"{unfinished} is unfinished (last record at step 20): left out",
        f"{tmp_path}/nowhere is missing: left out",
        f"{tmp_path}/foreign is not a run directory (no config.json in it)",
    ]
    assert "broken/summary.json is not readable JSON" in found[3]
    assert found[4:] == [f"{grid[0]} is given twice: it counts once"]


def test_missing_cells_and_seeds_are_named(made_up, command):
    cells = [(z, prior, seed) for z in (2, 4) for prior in ("flow", "vamp") for seed in (0, 1, 2)]
    gone = {(4, "vamp", 0), (4, "vamp", 1), (4, "vamp", 2), (2, "flow", 1), (2, "flow", 2)}
    name = lambda cell: "-".join(map(str, cell))
    keys = ("model.latent_dim", "model.prior", "seed")
    runs = [made_up(name(c), dict(zip(keys, c, strict=True)), {"nll": 1.0}) for c in cells if c not in gone]
    found = notes(command(*runs)[1])
    assert found == [
        "missing: model.latent_dim=4, model.prior=vamp has no finished run; "
        "model.latent_dim=2, model.prior=flow has no seeds 1, 2"
    ]


def test_many_missing_settings_are_one_note(made_up, command):
    cells = {"model.latent_dim": range(2, 6), "model.activation": ("tanh", "relu", "elu", "gelu")}
    runs = [
        made_up(f"r{i}", dict(zip(cells, values, strict=True)), {"nll": 1.0})
        for i, values in enumerate(zip(*cells.values(), strict=True))
    ]
    (found,) = notes(command(*runs, "--x=model.latent_dim", "--by=model.activation")[1])
    assert found.startswith("missing: ") and found.count("has no finished run") == 5 and found.endswith("and 7 more")


def test_a_key_that_a_kind_does_not_read_is_no_setting(made_up, command):
    """Steps of an inner loop that amortized runs do not have, and what would be a hole where there can be no run."""
    key, kind = "inference.inner_steps", "inference.kind"
    table = {kind: "per_datapoint", "data.binarization": "fixed"}
    same = [made_up(f"a{n}", {key: n, "seed": n, "data.binarization": "fixed"}, {"nll": 1.0 + n}) for n in (1, 2)]
    out = command(*same)[1]
    assert "inner_steps" not in out and len(notes(out)) == 0 and "1 " not in out.splitlines()[1]
    others = [made_up(f"t{n}", {**table, key: n, "seed": 1}, {"nll": 3.0 + n}) for n in (1, 2)]
    out = command(same[0], *others, f"--x={kind}")[1]
    header, *rows = re.sub(" {2,}", "  ", out).splitlines()[1:5]
    assert header.split("  ")[1:3] == [kind, key]
    assert [row.split("  ")[1:3] for row in rows] == [["amortized", "–"], *(["per_datapoint", n] for n in "12")]
    assert not notes(out)


def test_no_star_across_other_data(made_up, command):
    cells = [(2, "digits"), (4, "npz")]
    runs = [made_up(n, {"model.latent_dim": z, "data.name": n}, {"nll": float(z)}) for z, n in cells]
    out = command(*runs)[1]
    assert "*" not in out and "saw other data" in out
    alike = [made_up(f"z{z}", {"model.latent_dim": z}, {"nll": 1.0 * z}) for z in (2, 4)]
    assert "*2.00" in command(*alike)[1]
    fewer = made_up("fewer", {"model.latent_dim": 8}, {"nll": 0.5}, info={**INFO, "num_train": 100})
    assert "*" not in command(*alike, fewer)[1]


def test_other_data_measurements_and_environments_are_named(made_up, command):
    same = [made_up(f"s{seed}", {"seed": seed}, {"nll": 1.0}) for seed in range(3)]
    newer = {**ENVIRONMENT, "packages": {"jax": "0.11.0"}, "started": "later", "argv": ["b"]}
    other = made_up("other", {"seed": 4}, {"nll": 1.0}, info={**INFO, "num_train": 100}, environment=newer)
    assert notes(command(*same, other)[1]) == [
        f"data differs in num_train: 1400 in 3 runs; 100 in {other}",
        f"environment differs in packages.jax: 0.10.2 in 3 runs; 0.11.0 in {other}",
    ]
    measured = made_up("measured", {"seed": 5, "eval.num_samples": 7, "data.num_train": 9, "figures.count": 1})
    found = notes(command(*same, measured)[1])
    assert f"test.nll is not in {measured}" in found
    assert "eval.num_samples differs: these numbers were measured in different ways" in found
    assert "data.num_train differs: these runs saw other data, or saw it otherwise" in found
    assert "figures.count differs and is not taken for a setting" in found


def test_a_repeated_run_counts_once(made_up, command):
    first, again = made_up("first", {}, {"nll": 1.0}), made_up("again", {}, {"nll": 3.0})
    out = command(first, again)[1]
    assert notes(out) == [f"{again} repeats {first} (same setting and seed): left out"] and "1.00 ± 0.25" in out


# Formats.


def test_the_table_on_the_terminal(grid, command):
    status, out, err = command(*grid, "--y=test.nll,test.kl")
    assert status == 0 and not err
    assert [line.split("  ") for line in re.sub(" {3,}", "  ", out).splitlines()][:6] == [
        ["Mean ± standard error over seeds"],
        ["", "model.latent_dim", "seeds", "test NLL [nats]", "test KL [nats]"],
        ["", "2", "3", "30.17 ± 0.23", "5.00 ± 0.00"],
        ["", "4", "3", "27.80 ± 0.32", "7.00 ± 0.00"],
        ["", "8", "3", "*27.70 ± 0.15", "11.00 ± 0.00"],
        ["", "* the best of its column"],
    ]
    below = re.sub(" {3,}", "  ", out).splitlines()[7:12]
    assert below[0] == (
        "Differences from the baseline model.latent_dim=2, paired by seed, with 95% confidence intervals (Student's t, "
        "Holm's correction for the number of comparisons in a column)"
    )
    (four, low4, high4), (eight, low8, high8) = holm_by_hand([np.subtract(NLL[z], NLL[2]) for z in (4, 8)])
    assert [line.split("  ")[2] for line in below[1:]] == [
        *("test NLL [nats]", "baseline"),
        f"{four:+.2f} [{low4:+.2f}, {high4:+.2f}]",
        f"{eight:+.2f} [{low8:+.2f}, {high8:+.2f}]",
    ]


def test_one_run_has_the_standard_errors_of_its_examples(grid, command):
    status, out, _ = command(grid[0])
    assert status == 0 and out.splitlines()[0] == "One seed, ± standard error over examples"
    header, row = re.sub(" {3,}", "  ", out).strip().splitlines()[1:3]
    assert header.split("  ")[1:] == [
        *("seeds", "test NLL [nats]", "test ELBO [nats]", "test KL [nats]", "test active units [of 8]", "training [s]")
    ]
    value = NLL[int(grid[0].rpartition("z")[2][0])][int(grid[0][-1])]
    assert f"{value:.2f} ± 0.25" in row and "*" not in row and "Differences" not in out


def test_every_format_holds_the_same_numbers(grid, tmp_path, command):
    """Units that differ stand in the cells; nothing in LaTeX is a command by accident; CSV has all digits."""
    status, _, err = command(*grid, f"--out={tmp_path / 'out'}")
    assert status == 0, err
    read = {path.name: path for path in (tmp_path / "out").iterdir()}
    assert set(read) == {"table.csv", "table.md", "table.tex", "runs.csv", "curves.png", "model.latent_dim.png"}
    rows = list(csv.DictReader(read["table.csv"].read_text().splitlines()))
    assert [float(row["test.nll"]) for row in rows] == [np.mean(values) for values in NLL.values()]
    np.testing.assert_allclose(float(rows[0]["test.nll stderr"]), scipy.stats.sem(NLL[2]))
    assert rows[0]["test.nll unit"] == "nats" and rows[2]["test.nll pairs"] == "3" and not rows[0]["test.nll low"]
    runs = list(csv.DictReader(read["runs.csv"].read_text().splitlines()))
    assert {(int(r["model.latent_dim"]), int(r["seed"])): float(r["test.nll"]) for r in runs} == {
        (z, seed): value for z, values in NLL.items() for seed, value in enumerate(values)
    }
    markdown = read["table.md"].read_text()
    assert "| 8 | 3 | **27.70 ± 0.15** | **-28.70 ± 0.15** | 11.00 ± 0.00 | 5.00 ± 0.00 |" in markdown
    assert (
        "| ---: | ---: | ---: |" in markdown and "![Numbers over model.latent_dim.](model.latent_dim.png)" in markdown
    )
    for block in markdown.split("\n\n"):
        assert len({line.count("|") for line in block.splitlines()}) == 1 or not block.startswith("|"), block


GRID = tables.Grid(
    "50% of a_b",
    ["model.latent_dim", "test log p(x|z) [nats]", "at 5% & more"],
    [
        [
            tables.Cell("a_b#1$^~\\{}", False),
            tables.Cell("-1.50 ± 0.25 of 8", best=True),
            tables.Cell("+1e-05 [-2, +3]"),
        ],
        [tables.Cell("x", False), tables.Cell("–"), tables.Cell("nan")],
    ],
)


def test_latex_escapes_what_is_text_and_the_minus_of_a_number_is_one():
    lines = tables.latex(GRID).splitlines()
    assert lines[0] == "% 50% of a_b" and lines[1] == r"\begin{tabular}{lrr}" and lines[-1] == r"\end{tabular}"
    assert lines[3] == r"model.latent\_dim & test log p(x$|$z) [nats] & at 5\% \& more \\"
    escaped = r"a\_b\#1\$\textasciicircum{}\textasciitilde{}\textbackslash{}\{\}"
    bold = r"{\boldmath\textbf{$-$1.50 $\pm$ 0.25 of 8}}"
    assert lines[5] == rf"{escaped} & {bold} & +1e-05 [$-$2, +3] \\"
    assert lines[6] == r"x & -- & nan \\"
    for line in lines[2:-1]:  # nothing is left open: groups and math
        bare = re.sub(r"\\[{}$\\&%#_]", "", line)
        assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0 and bare.isascii()


def test_markdown_keeps_its_columns():
    """A | inside a cell is escaped; words are on the left, numbers on the right."""
    lines = tables.markdown(GRID).splitlines()[2:]
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines] == [4] * 4
    assert lines[0] == r"| model.latent_dim | test log p(x\|z) [nats] | at 5% & more |"
    assert lines[1] == "| --- | ---: | ---: |" and "**-1.50 ± 0.25 of 8**" in lines[2]


def test_units_that_differ_stand_in_the_cells(made_up):
    numbers = lambda z: {"test": {"active_units": {"value": z, "stderr": None, "unit": f"of {z}"}}}
    paths = [made_up(f"{z}{s}", {"model.latent_dim": z, "seed": s}, splits=numbers(z)) for z in (2, 4) for s in (0, 1)]
    grid = tables.means(table_of(paths, names=("test.active_units",)))
    assert grid.header[-1] == "test active units"
    assert [row[-1].text for row in grid.rows] == ["2.00 ± 0.00 of 2", "4.00 ± 0.00 of 4"]


def test_numbers_of_unlike_units_are_named_and_not_compared(made_up, command):
    """A density's nats and a Bernoulli's on grey values: no best, no difference; what has one unit has both."""
    given = lambda value, unit: {"value": value, "stderr": 0.1, "unit": unit}
    splits = lambda elbo, unit: {"test": {"elbo": given(elbo, unit), "squared_error": given(-elbo, "per element")}}
    kinds = {"normal": (3.0, "nats"), "bernoulli": (-2.0, "nats of cross-entropy")}
    paths = [
        made_up(f"{kind}{s}", {"model.likelihood": kind, "seed": s}, splits=splits(value + s / 8, unit))
        for kind, (value, unit) in kinds.items()
        for s in (0, 1)
    ]
    table = table_of(paths, ("test.elbo", "test.squared_error"))
    assert set(table.best) == {"test.squared_error"} and set(table.rows[1].differences) == {"test.squared_error"}
    found = notes(command(*paths, "--y=test.elbo,test.squared_error")[1])
    assert "test.elbo is not compared: its units are nats and nats of cross-entropy" in found


# Pictures.


@pytest.mark.parametrize(
    "values, scale",
    [
        ([1, 2, 3], "linear"),
        ([2, 5, 10, 20, 50], "log"),
        ([1e-3, 1e-1], "log"),
        ([1, 2], "linear"),
        ([0.0, 0.1, 1.0, 10.0], "symlog"),
        ([-1, 1, 100], "linear"),
        ([False, True], "words"),
        ([(200,), (200, 100)], "words"),
        (["adam", "sgd"], "words"),
    ],
)
def test_an_axis_has_the_scale_its_values_ask_for(values, scale):
    assert charts.scale_of(values) == scale


def test_points_and_bars_over_a_key_are_the_tables(grid):
    figure = charts.against_key(table_of(grid), "model.latent_dim", ["test.nll"])
    (ax,) = figure.axes
    (container,) = ax.containers
    np.testing.assert_allclose(container[0].get_xydata(), [(z, np.mean(values)) for z, values in NLL.items()])
    (bars,) = container[2]
    half = [np.ptp(segment[:, 1]) / 2 for segment in bars.get_segments()]
    np.testing.assert_allclose(half, [scipy.stats.sem(values) for values in NLL.values()])
    assert ax.get_xscale() == "log" and [tick.get_text() for tick in ax.get_xticklabels()] == ["2", "4", "8"]
    assert ax.get_xlabel() == "model.latent_dim" and ax.get_ylabel() == "Test NLL [nats]" and not figure.legends


def test_lines_go_by_the_other_keys(made_up):
    cells = itertools.product((2, 4), ("flow", "vamp"), ("tanh", "relu"))
    names = ("model.latent_dim", "model.prior", "model.activation")
    paths = [made_up(str(i), dict(zip(names, cell, strict=True)), {"nll": i}) for i, cell in enumerate(cells)]
    table = table_of(paths)
    drawn = charts.lines(table, "model.latent_dim", "model.prior")
    assert [line.label for line in drawn] == ["flow, tanh", "flow, relu", "vamp, tanh", "vamp, relu"]
    assert len({line.style["color"] for line in drawn}) == len({line.style["marker"] for line in drawn}) == 2
    assert len({(line.style["color"], line.style["marker"]) for line in drawn}) == 4
    (legend,) = charts.against_key(table, "model.latent_dim", ["test.nll"], "model.prior").legends
    assert legend.get_title().get_text() == "model.prior\nmodel.activation"


def test_bands_are_standard_errors_at_the_times_all_seeds_share():
    curves = [(np.array([1.0, 2.0, 3.0]), np.array([1.0, 5.0, 2.0])), (np.array([2.0, 3.0]), np.array([7.0, 2.0]))]
    time, mean, stderr = charts.mean_curve(curves)
    np.testing.assert_allclose([time, mean, stderr], [[2.0, 3.0], [6.0, 2.0], [1.0, 0.0]])
    assert charts.mean_curve(curves[:1])[2] is None


def test_curves_have_a_line_for_each_setting(grid):
    table = table_of(grid)
    figure = charts.training_curves(table, {path: directory.read_metrics(path) for path in grid})
    assert [ax.get_title() for ax in figure.axes[:2]] == ["Train: ELBO", "Train: E[log p(x|z)]"]
    assert len(figure.axes) == 6
    for ax in figure.axes:
        assert len(ax.lines) == 3 and len(ax.collections) == 3
        np.testing.assert_allclose(ax.lines[0].get_xdata(), [1.0, 2.0])
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), [-10.0, -20.0])


def test_rate_and_distortion_are_drawn_when_beta_varies(made_up, tmp_path, command):
    values = {0.5: (9.0, -20.0), 1.0: (7.0, -23.0), 4.0: (3.0, -35.0)}
    numbers = {beta: {"kl": rate, "log_likelihood": ll, "elbo": ll - rate} for beta, (rate, ll) in values.items()}
    paths = [made_up(f"b{beta}", {"objective.name": "beta", "objective.beta": beta}, numbers[beta]) for beta in values]
    names = ("test.kl", "test.log_likelihood")
    (ax,) = charts.rate_distortion(table_of(paths, names)).axes
    points = ax.containers[0][0].get_xydata()
    np.testing.assert_allclose(points, [(rate, -ll) for rate, ll in values.values()])
    assert [text.get_text() for text in ax.texts] == ["β=0.5", "β=1", "β=4"]
    for line in (line for line in ax.lines if line.get_color() == "0.6"):  # along which rate + distortion is the same
        total = line.get_xydata().sum(1)
        np.testing.assert_allclose(total[0], total[1])
    assert command(*paths, f"--out={tmp_path / 'out'}")[0] == 0
    assert (tmp_path / "out" / "rate-distortion.png").exists() and (tmp_path / "out" / "objective.beta.png").exists()


# The command.


@pytest.mark.parametrize(
    "arguments, part",
    [
        ([], "required: RUN"),
        (["nowhere"], "no finished run: nowhere is missing"),
        (["{run}", "--x=model.latent_dimm"], "did you mean model.latent_dim?"),
        (["{run}", "--x=model.rank"], "--x=model.rank is read by none of these runs; what differs is model.latent_dim"),
        (["{run}", "--x=seed"], "--x=seed is 0 in every run; what differs is model.latent_dim"),
        (["{run}", "--y=test.nlll"], "--y=test.nlll: no run has measured it; did you mean test.nll?"),
        (["{run}", "--y=rate-distortion"], "test.kl: no run has measured it"),
        (["{run}", "--x=model.latent_dim", "--by=model.latent_dim"], "--x and --by are both model.latent_dim"),
        (
            ["{run}", "--baseline=model.latent_dim=4"],
            "no such setting; there are model.latent_dim=2; model.latent_dim=3",
        ),
        (["{run}", "--figures", "--baseline=model.latent_dim=2"], "--baseline belongs to a table"),
        (["{run}", "--colour"], "--colour"),
        (["{run}", "--figures", "--out=x"], "--out belongs to a table"),
        (["{run}", "--out={run}/config.json"], "cannot be written"),
    ],
)
def test_bad_usage_is_one_line(arguments, part, made_up, command):
    run = made_up("a", {"model.latent_dim": 2}, {"nll": 1.0})
    made_up("b", {"model.latent_dim": 3}, {"nll": 1.0})
    given = [argument.format(run=run) for argument in arguments]
    status, _, err = command(*given, *([run[:-1] + "b"] if "{run}" in arguments else []))
    assert status == 2 and err.startswith("error: ") and err.count("\n") == 1, err
    assert part in err


def test_it_is_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "vae_jax.report", "nowhere"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no finished run: nowhere is missing: left out\n"


@pytest.mark.slow
def test_pictures_of_a_run_that_has_none_are_those_of_its_end(tmp_path, command):
    """Trained, its pictures taken away, drawn again: the same ones, and a page that holds them."""
    from matplotlib import image

    from vae_jax.commands.train import train_run

    config = configuration.default()
    small = {"data.num_train": 400, "model.latent_dim": 2, "model.hidden": (8,), "train.batch_size": 100}
    small |= {"train.epochs": 2, "eval.elbo_samples": 2, "eval.num_samples": 5, "eval.train_examples": 0}
    config.update_from_flattened_dict({**small, "figures.count": 4, "eval.max_examples": 60})
    run = tmp_path / "run"
    summary = train_run(configuration.validate(config), run)
    drawn = {path.name: image.imread(path) for path in (run / "figures").iterdir()}
    assert {"curves.png", "reconstructions.png", "samples.png", "latent.png"} == set(drawn)
    shutil.rmtree(run / "figures")
    (run / "report.html").unlink()
    directory.write_summary(run, {**summary, "figures": {}})
    status, out, err = command("--figures", run)
    assert status == 0 and out.strip().endswith("curves, reconstructions, samples, latent"), err
    assert directory.read_summary(run) == json.loads(json.dumps(summary))
    for name, picture in drawn.items():
        np.testing.assert_array_equal(image.imread(run / "figures" / name), picture)
    assert (run / "report.html").read_text().count("<figure") == len(drawn)
    modified = (run / "summary.json").stat().st_mtime_ns
    assert command("--figures", run)[0] == 0 and (run / "summary.json").stat().st_mtime_ns == modified
