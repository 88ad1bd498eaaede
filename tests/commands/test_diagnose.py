"""`--mode=gaps` on run directories: what it prints and leaves, and what it refuses."""

import json

import numpy as np
import pytest

from vae_jax.commands import diagnose
from vae_jax.errors import ConfigError, RunError

FEW = {
    "gaps.num_examples": 12,
    "gaps.num_samples": 50,
    "gaps.elbo_samples": 20,
    "gaps.fit.max_steps": 100,
    "gaps.flow.num_examples": 4,
    "gaps.flow.max_steps": 50,
    "gaps.flow.width": 4,
    "gaps.ais.starts": ("q",),
    "gaps.ais.num_examples": 4,
    "gaps.ais.num_simulated": 3,
    "gaps.ais.num_temperatures": 30,
    "gaps.ais.pilot_temperatures": 20,
}


@pytest.fixture(scope="module")
def run(small_run):
    return small_run("run", {})


def test_gaps_of_a_run_are_printed_saved_and_drawn(run, capsys):
    """Every number in the summary, per-example values beside it, two pictures; the run stays finished."""
    diagnose.gaps(run, FEW, 1)
    shown = capsys.readouterr().out
    assert "approximation gap" in shown and "amortization gap" in shown and "12 examples" in shown
    summary = json.loads((run / "summary.json").read_text())
    gaps = summary["splits"]["gaps"]
    assert summary["complete"] and "nll" in summary["splits"]["test"]
    parts = gaps["approximation_gap"]["value"] + gaps["amortization_gap"]["value"]
    assert parts == pytest.approx(gaps["inference_gap"]["value"], abs=1e-5)
    with np.load(run / "gaps.npz") as values:
        assert len(values["elbo_q"]) == 12 and values["elbo_q"].mean() == pytest.approx(gaps["elbo_q"]["value"])
    assert {"gaps", "posteriors", "curves"} <= set(summary["figures"])
    assert (run / "figures" / "gaps.png").stat().st_size > 5000
    assert "approximation" in (run / "report.html").read_text()


def test_keys_of_the_run_itself_are_refused(run):
    with pytest.raises(ConfigError, match=r"config.model.latent_dim is part of what .* was trained with"):
        diagnose.gaps(run, {"model.latent_dim": 3}, 1)


def test_a_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="is not a run directory"):
        diagnose.gaps(tmp_path, {}, 1)
