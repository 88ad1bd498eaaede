"""`python -m vae_jax.completions` on two small runs: numbers checked against the models, a picture, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import completions
from vae_jax.runs import directory, load
from vae_jax.training import setup as setups

TEST = 40
KINDS = {
    "draws": {"data.condition": "upper", "model.prior": "conditional", "model.latent_dim": 3},
    "regressor": {"data.condition": "upper", "model.latent_dim": 0, "eval.num_samples": 1},
    "labels": {"data.condition": "label"},
    "elsewhere": {"data.condition": "upper", "model.latent_dim": 0, "eval.seed": 1},
}


@pytest.fixture(scope="module")
def run(small_run):
    """run(kind) -> the directory of a small trained run."""
    return lambda kind: str(small_run(kind, KINDS[kind]))


def test_both_are_measured_and_drawn(run, tmp_path, capsys):
    out = tmp_path / "both.png"
    completions.main([f"--out={out}", run("draws"), run("regressor")])
    shown = capsys.readouterr().out
    assert out.read_bytes()[:4] == b"\x89PNG" and str(out) in shown
    assert "nats given the upper half" in shown and "squared_error_best_of_10" in shown


def test_the_numbers_are_those_of_the_models(run, tmp_path):
    """NLLs are the summaries'; the regressor's error is its decoder's, and its best of ten the same: it has one."""
    loaded = load.load_run(run("regressor"))
    numbers = completions.compare(run("draws"), run("regressor"), tmp_path / "both.png")
    for which in ("draws", "regressor"):
        assert numbers[which]["nll"] == directory.read_summary(run(which))["splits"]["test"]["nll"]
    setup = setups.make_setup(loaded.config, 1)
    test = setups.split_of(setup, "test", TEST)
    mean = loaded.model.decode(loaded.params, jnp.zeros((1, TEST, 0)), test["condition"]).mean[0]
    expected = np.mean((np.asarray(mean) - test["image"]) ** 2)
    for name in ("squared_error", "squared_error_best_of_10"):
        np.testing.assert_allclose(numbers["regressor"][name]["value"], expected, rtol=1e-5)
    assert numbers["draws"]["squared_error_best_of_10"]["value"] < numbers["draws"]["squared_error"]["value"]


def test_a_regressor_has_one_nll_and_no_encoder(run):
    """-NLL = ELBO but for the rounding of a logsumexp, KL = 0, in units that name the condition."""
    numbers = directory.read_summary(run("regressor"))["splits"]["test"]
    assert numbers["kl"]["value"] == 0 and numbers["elbo"] == numbers["log_likelihood"]
    np.testing.assert_allclose(numbers["nll"]["value"], -numbers["elbo"]["value"], rtol=1e-6)
    assert numbers["nll"]["unit"] == "nats given the upper half" and "active_units" not in numbers
    assert numbers["nll_bits_per_dim"]["unit"] == "bits/dim given the upper half"
    assert not jax.tree.leaves(load.load_run(run("regressor")).params["encoder"])
    report = (completions.Path(run("regressor")) / directory.REPORT).read_text()
    assert "nats given the upper half" in report and "The lower half predicted" not in report
    assert directory.read_summary(run("labels"))["splits"]["test"]["nll"]["unit"] == "nats given the label"


@pytest.mark.parametrize(
    "first, second, message",
    [
        ("labels", "regressor", "draws no completions"),
        ("regressor", "regressor", "draws no completions"),
        ("draws", "draws", "has latent variables"),
        ("draws", "elsewhere", "config.eval.seed differs"),
        ("draws", None, "is not a run directory"),
    ],
)
def test_runs_that_cannot_be_compared_are_named(run, tmp_path, capsys, first, second, message):
    second = run(second) if second else str(tmp_path / "none")
    with pytest.raises(SystemExit) as stopped:
        completions.main([f"--out={tmp_path / 'a.png'}", run(first), second])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["a", "b"], "--out"),
        (["--out=a.pdf", "a", "b"], "expected FILE.png"),
        (["--out=no/such/place/a.png", "a", "b"], "in a directory that exists"),
        (["--out=a.png", "a"], "REGRESSOR"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        completions.main(arguments)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and len(error.splitlines()) == 1
