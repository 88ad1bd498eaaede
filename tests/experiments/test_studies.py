"""Pictures of several runs: small runs on digits, the command, and what it refuses."""

import numpy as np
import pytest

from vae_jax import studies
from vae_jax.runs import directory

GREY = {"data.binarization": "none", "model.likelihood": "normal", "model.sigma": 0.4}
KINDS = {
    "two": {"model.latent_dim": 2},
    "three": {"model.latent_dim": 3},
    "set": GREY | {"model.latent_dim": 2},
    "optimal": GREY | {"model.latent_dim": 2, "model.sigma_mode": "optimal"},
}


@pytest.fixture(scope="module")
def run(small_run):
    """run(kind) -> the directory of a small trained run."""
    return lambda kind: str(small_run(kind, KINDS[kind]))


def test_prior_estimate_of_two_runs(run, tmp_path, capsys):
    out = tmp_path / "new" / "estimate.png"
    studies.main(["prior_estimate", f"--out={out}", run("three"), run("two")])
    shown = capsys.readouterr().out
    assert shown.index("Z = 2") < shown.index("Z = 3") and "effective_draws_from_prior" in shown
    assert out.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_sigma_of_two_runs(run, tmp_path, capsys):
    """The numbers are the summaries'; the learned sigma is the model's."""
    out = tmp_path / "sigma.png"
    studies.main(["sigma", f"--out={out}", run("set"), run("optimal")])
    shown = capsys.readouterr().out
    assert "σ = 0.4 " in shown and ", optimal" in shown and out.read_bytes()[:4] == b"\x89PNG"
    studied = studies.study_sigma(run("optimal"))
    assert studied["learned"] and studied["sigma"] != 0.4 and studied["original"].shape == (8, 8, 8, 1)
    assert studied["numbers"] == directory.read_summary(run("optimal"))["splits"]["test"]
    error = ((studied["original"] - studied["reconstructions"]) ** 2).mean()
    assert np.isfinite(error) and error < 0.5


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["sigma", "--out=x.png", "two"], "has no one sigma"),
        (["sigma", "--out=x.pdf", "set"], "expected FILE.png"),
        (["prior_estimate", "--out=x.png", "/no/such/run"], "/no/such/run"),
    ],
)
def test_refusals_are_one_line(run, arguments, message, capsys):
    arguments = [run(argument) if argument in KINDS else argument for argument in arguments]
    with pytest.raises(SystemExit) as stopped:
        studies.main(arguments)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and error.count("\n") == 1
