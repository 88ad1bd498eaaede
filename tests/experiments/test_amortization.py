"""experiments/analysis/amortization.sh and what it makes of its runs: commands, numbers of summaries, pictures."""

import json
import shutil
from pathlib import Path

import amortization
import numpy as np
import pytest
import refinement
from test_published import commands, parsed

from vae_jax.commands import configuration
from vae_jax.console import measured
from vae_jax.errors import ConfigError
from vae_jax.reports import tables
from vae_jax.runs import directory

SCRIPT = Path(__file__).parents[2] / "experiments" / "analysis" / "amortization.sh"


@pytest.mark.parametrize("quick, updates, count", [("", 2784, 28), ("1", 380, 10), ("all", 380, 26)])
def test_its_cells_are_valid_and_take_as_many_updates_of_the_decoder(quick, updates, count):
    *runs, curve, last = commands(SCRIPT, "--config.train.log_every=7", QUICK=quick, SEED="3", RUNS="here")
    cells = {}
    for words in runs:
        config, workdir, _ = parsed(words)
        configuration.validate(config)
        cells[Path(workdir).name] = config
        epoch = config.data.num_train // config.train.batch_size
        assert updates - epoch < config.train.epochs * epoch / config.inference.encoder_steps <= updates
        assert config.train.log_every == 7 and config.seed == 3 and config.eval.max_examples == (200 if quick else 1000)
    wanted = {f"{cell}-seed3" for section in amortization.SECTIONS.values() for cell in section}
    assert len(cells) == count and (cells.keys() < wanted if quick else cells.keys() == wanted)
    assert cells["mnist-width-16-seed3"].model.encoder_hidden == (16, 16)
    assert cells["mnist-width-16-seed3"].model.hidden == (200, 200)
    assert curve[2:] == ["--out=here/refinement-seed3.json", "here/mnist-width-200-seed3"]
    assert last == ["python", "experiments/analysis/amortization.py", "--runs=here", "--out=here/report"]


@pytest.fixture(scope="module")
def runs(trained_run, tmp_path_factory):
    """Two seeds of a table, of which one is the other with another ELBO, and one of an encoder, where the script would
    have put them."""
    folder = tmp_path_factory.mktemp("amortization")
    table = {"inference.kind": "per_datapoint", "data.binarization": "fixed"}
    for name, changes in {"mnist-table-10-seed0": table, "mnist-width-200-seed0": {}}.items():
        shutil.copytree(trained_run(changes), folder / name)
    other = shutil.copytree(folder / "mnist-table-10-seed0", folder / "mnist-table-10-seed1")
    config, summary = (json.loads((other / name).read_text()) for name in (directory.CONFIG, "summary.json"))
    summary["splits"]["train"]["elbo"]["value"] -= 0.7
    (other / directory.CONFIG).write_text(json.dumps(config | {"seed": 1}))
    directory.write_summary(other, summary)
    (folder / "mnist-constant-seed0").mkdir()  # begun, not finished
    shutil.copy(folder / "mnist-width-200-seed0" / "config.json", folder / "mnist-constant-seed0")
    return folder


def test_the_tables_are_of_the_summaries_and_say_what_is_missing(runs, capsys, tmp_path):
    (runs / "refinement-seed0.json").write_text(json.dumps(refinement.measure(runs / "mnist-width-200-seed0")))
    amortization.main([f"--runs={runs}", f"--out={tmp_path}"])
    printed, page = capsys.readouterr().out, (tmp_path / "tables.md").read_text()
    found = {cell: amortization.seeds_of(runs, cell) for cell in amortization.WAYS}
    grid = amortization.grid("Ways of finding q, MNIST", amortization.WAYS, found)
    assert tables.markdown(grid) in page and tables.text(grid) in printed
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in grid.rows}
    both = [directory.read_summary(runs / f"mnist-table-10-seed{seed}")["splits"]["train"]["elbo"] for seed in (0, 1)]
    mean, half = (both[0]["value"] + both[1]["value"]) / 2, abs(both[0]["value"] - both[1]["value"]) / 2
    shown = rows["table, 10 updates a visit"]
    assert shown[0] == "2" and shown[1] == measured(mean, half)  # of two, the standard error is half of it
    one = directory.read_summary(runs / "mnist-width-200-seed0")["splits"]["test"]["nll"]
    assert rows["encoder, two layers of 200"][3] == measured(one["value"], one["stderr"])
    assert rows["one q for all images"][0] == rows["encoder, two layers of 16"][0] == "not run"
    for name in ("width", "seconds", "size"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000


def test_seconds_until_a_training_elbo():
    seconds, elbo = np.array([1.0, 3.0, 6.0]), np.array([-9.0, -5.0, -5.5])
    assert amortization.seconds_until(seconds, elbo, -5.6) == 3.0
    assert amortization.seconds_until(seconds, elbo, -4.9) is None


def test_refinement_gains_and_starts_where_the_encoder_is(runs):
    first, *others = refinement.measure(runs / "mnist-width-200-seed0")
    assert (first["steps"], first["gain"]["value"], first["images"]) == (0, 0.0, 40)
    summary = directory.read_summary(runs / "mnist-width-200-seed0")["splits"]["test"]
    np.testing.assert_allclose(first["elbo"]["value"], summary["elbo"]["value"], rtol=1e-5)
    gains = {row["steps"]: row["gain"]["value"] for row in others}
    assert 0 < gains[5] < gains[100] and gains[100] - gains[20] < 0.05
    with pytest.raises(ConfigError, match="has no encoder to start from"):
        refinement.measure(runs / "mnist-table-10-seed0")
