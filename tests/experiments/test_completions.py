"""experiments/analysis/completions.py on two small runs: numbers checked against the models, a picture, refusals."""

import json
import shutil
from pathlib import Path

import completions
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.runs import directory, load
from vae_jax.training import setup as setups

TEST = 40


@pytest.fixture(scope="module")
def untrained(untrained_run):
    """A run that draws completions, untrained: its summary is written by hand."""
    workdir = untrained_run({"data.condition": "upper", "model.prior": "conditional", "model.latent_dim": 3})
    number = lambda value: {"value": value, "stderr": 0.5, "unit": "nats given the upper half"}
    numbers = {"nll": number(30.0), "elbo": number(-31.0)}
    directory.write_summary(workdir, {"complete": True, "splits": {"test": numbers}})
    return str(workdir)


@pytest.fixture
def run(trained, untrained, tmp_path):
    """run(kind) -> the directory of a small trained run; 'reseeded' is a regressor measured by another seed."""

    def run(kind):
        if kind == "untrained":
            return untrained
        if kind != "reseeded":
            return str(tmp_path / "none") if kind == "none" else trained(kind)
        path = Path(shutil.copytree(trained("regressor"), tmp_path / "reseeded")) / directory.CONFIG
        config = json.loads(path.read_text())
        config["eval"]["seed"] = 1
        path.write_text(json.dumps(config))
        return str(path.parent)

    return run


@pytest.mark.slow
def test_both_are_measured_and_drawn(run, tmp_path, capsys):
    out = tmp_path / "both.png"
    completions.main([f"--out={out}", run("completion"), run("regressor")])
    shown = capsys.readouterr().out
    assert out.read_bytes()[:4] == b"\x89PNG" and str(out) in shown
    assert "nats given the upper half" in shown and "squared_error_best_of_10" in shown


def test_the_numbers_are_those_of_the_models(run):
    """NLLs are the summaries'; the regressor's error is its decoder's, and its best of ten the same: it has one."""
    runs = run("untrained"), run("regressor")
    loaded = load.load_run(runs[1])
    setup = setups.make_setup(loaded.config, 1)
    test = setups.split_of(setup, "test", TEST)
    draws, regressor = (completions.numbers(path, *setups.reopen(path), test) for path in runs)
    for found, path in zip((draws, regressor), runs, strict=True):
        assert found["nll"] == directory.read_summary(path)["splits"]["test"]["nll"]
    mean = loaded.model.decode(loaded.params, jnp.zeros((1, TEST, 0)), test["condition"]).mean[0]
    expected = np.mean((np.asarray(mean) - test["image"]) ** 2)
    for name in ("squared_error", "squared_error_best_of_10"):
        np.testing.assert_allclose(regressor[name]["value"], expected, rtol=1e-5)
    assert draws["squared_error_best_of_10"]["value"] < draws["squared_error"]["value"]


def test_squared_errors_by_hand():
    """x = (0, 1); answers (0, 0), (1, 1), (0, 1): errors 1/2, 1/2, 0, and of the average (1/3, 2/3) 1/9."""
    answers, x = np.float32([[[0, 0], [1, 1], [0, 1]]]), np.float32([[0, 1]])
    for best, expected in ((1, 0.5), (2, 0.5), (3, 0.0)):
        got = completions.squared_errors(answers, x, best)
        np.testing.assert_allclose(got, [[1 / 9], [expected]], rtol=1e-6)


def test_a_regressor_has_one_nll_and_no_encoder(run):
    """-NLL = ELBO but for the rounding of a logsumexp, KL = 0, in units that name the condition."""
    numbers = directory.read_summary(run("regressor"))["splits"]["test"]
    assert numbers["kl"]["value"] == 0 and numbers["elbo"] == numbers["log_likelihood"]
    np.testing.assert_allclose(numbers["nll"]["value"], -numbers["elbo"]["value"], rtol=1e-6)
    assert numbers["nll"]["unit"] == "nats given the upper half" and "active_units" not in numbers
    assert numbers["nll_bits_per_dim"]["unit"] == "bits/dim given the upper half"
    assert not jax.tree.leaves(load.load_run(run("regressor")).params["encoder"])
    report = (Path(run("regressor")) / directory.REPORT).read_text()
    assert "nats given the upper half" in report and "The lower half predicted" not in report


@pytest.mark.slow
def test_nats_given_a_label_say_so(trained):
    assert directory.read_summary(trained("labels"))["splits"]["test"]["nll"]["unit"] == "nats given the label"


@pytest.mark.parametrize(
    "first, second, message",
    [
        ("vae", "regressor", "draws no completions"),
        ("regressor", "regressor", "draws no completions"),
        ("untrained", "untrained", "has latent variables"),
        ("untrained", "reseeded", "other data, eval.seed = 0 and 1"),
        ("untrained", "none", "is not a run directory"),
    ],
)
def test_runs_that_cannot_be_compared_are_named(run, tmp_path, capsys, first, second, message):
    with pytest.raises(SystemExit) as stopped:
        completions.main([f"--out={tmp_path / 'a.png'}", run(first), run(second)])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["a", "b"], "--out"),
        (["--out=a.pdf", "a", "b"], "expected FILE.png"),
        (["--out=/dev/null/a.png", "a", "b"], "a is not a run directory"),
        (["--out=a.png", "a"], "REGRESSOR"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        completions.main(arguments)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and len(error.splitlines()) == 1
