"""experiments/analysis/prior_estimate.py on two small runs: its picture, its order, and what it refuses."""

import prior_estimate
import pytest

AUTOENCODER = {"model.posterior": "dirac", "objective.name": "autoencoder"}


@pytest.mark.slow
def test_columns_are_in_the_order_of_latent_dimensions(trained, tmp_path, capsys):
    out = tmp_path / "new" / "estimate.png"
    prior_estimate.main([f"--out={out}", trained("completion"), trained("vae")])
    shown = capsys.readouterr().out
    assert shown.index("Z = 2") < shown.index("Z = 3") and "ess_from_prior" in shown
    assert out.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("kind, message", [("none", "/no/such/run"), ("autoencoder", "is an autoencoder")])
def test_refusals_are_one_line(untrained_run, kind, message, capsys):
    run = "/no/such/run" if kind == "none" else str(untrained_run(AUTOENCODER))
    with pytest.raises(SystemExit) as stopped:
        prior_estimate.main(["--out=x.png", run])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and error.count("\n") == 1
