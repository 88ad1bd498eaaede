"""`--mode=gaps` on run directories: what it prints and leaves, and what it refuses."""

import json
import os

import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.commands import configuration, diagnose
from vae_jax.errors import ConfigError, RunError
from vae_jax.evaluation import gaps
from vae_jax.evaluation.shortfall import make_runner

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
    "gaps.ais.num_temperatures": 30,
    "gaps.ais.pilot_temperatures": 20,
}


@pytest.fixture(scope="module")
def run(small_run):
    return small_run("run", {})


@pytest.mark.parametrize("num_simulated", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_gaps_of_a_run_are_printed_saved_and_drawn(run, capsys, num_simulated):
    """Every number in the summary, per-example values beside it, two pictures; the run stays finished.

    In the slow suite with the bounds on simulated data too, whose numbers test_gaps.py has.
    """
    diagnose.gaps(run, FEW | {"gaps.ais.num_simulated": num_simulated}, 1)
    shown = capsys.readouterr().out
    assert "approximation gap" in shown and "amortization gap" in shown and "12 examples" in shown
    summary = json.loads((run / "summary.json").read_text())
    gaps = summary["splits"]["gaps"]
    assert summary["complete"] and "nll" in summary["splits"]["test"]
    assert any(name.startswith("bdmc") for name in gaps) == bool(num_simulated)
    parts = gaps["approximation_gap"]["value"] + gaps["amortization_gap"]["value"]
    assert parts == pytest.approx(gaps["inference_gap"]["value"], abs=1e-5)
    with np.load(run / "gaps.npz") as values:
        assert len(values["elbo_q"]) == 12 and values["elbo_q"].mean() == pytest.approx(gaps["elbo_q"]["value"])
    assert {"gaps", "posteriors", "curves"} <= set(summary["figures"])
    assert (run / "figures" / "gaps.png").stat().st_size > 5000
    assert "approximation" in (run / "report.html").read_text()


@pytest.mark.slow
def test_gaps_that_were_stopped_go_on(run, capsys, monkeypatch):
    """Stopped after q*, as by a signal: the next call measures the rest, and gets what one whole call gets."""

    few = FEW | {"gaps.ais.num_simulated": 0}

    def stop(*_):
        raise KeyboardInterrupt

    (run / "gaps.npz").unlink(missing_ok=True)
    diagnose.gaps(run, few, 1)
    with np.load(run / "gaps.npz") as stored:
        whole = dict(stored)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(gaps, "importance", stop)
        diagnose.gaps(run, few, 1)
    assert (run / "gaps.unfinished" / "q_star.npz").exists()
    monkeypatch.setattr(gaps, "own_family", stop)
    diagnose.gaps(run, few, 1)
    assert "q_star: measured before" in capsys.readouterr().out
    assert not (run / "gaps.unfinished").exists()
    with np.load(run / "gaps.npz") as values:
        assert set(values) == set(whole)
        for name in ("elbo_q", "elbo_q_star", "iwae_q_star", "ais_q", "elbo_q_star_flow"):
            np.testing.assert_array_equal(values[name], whole[name])


def test_where_nobody_may_write_the_numbers_are_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    diagnose.finish(tmp_path, "gaps", None, {}, {}, {}, "the numbers")
    said = capsys.readouterr().out
    assert said.startswith("the numbers\n") and "saved nowhere" in said and not [*tmp_path.iterdir()]


def test_keys_of_the_run_itself_are_refused(run):
    with pytest.raises(ConfigError, match=r"config.model.latent_dim is part of what .* was trained with"):
        diagnose.gaps(run, {"model.latent_dim": 3}, 1)


def test_a_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="is not a run directory"):
        diagnose.gaps(tmp_path, {}, 1)


def test_a_smaller_result_does_not_replace_a_larger_one(tmp_path):
    """Refused in one line before anything is measured; as large, or larger, is measured anew."""
    config = configuration.default()
    config.gaps.num_examples, config.gaps.ais.starts = 100, ("q",)
    settings = json.dumps(config.gaps.to_dict())
    np.savez(tmp_path / "gaps.npz", elbo_q=np.zeros(100), settings=settings)
    diagnose.require_no_larger(tmp_path, "gaps", config)
    diagnose.require_no_larger(tmp_path, "estimators", config)
    config.gaps.num_examples, config.gaps.ais.starts, config.gaps.chunk_images = 200, ("q", "prior"), 1
    diagnose.require_no_larger(tmp_path, "gaps", config)
    config.gaps.ais.num_chains = 2
    with pytest.raises(ConfigError, match=r"larger result \(gaps.ais.num_chains = 16, not 2\): move it"):
        diagnose.require_no_larger(tmp_path, "gaps", config)


def test_a_stage_is_shown_before_its_first_chunk_is_done():
    """A run of one chunk would otherwise show nothing until it is over."""
    seen = []
    run = make_runner(None, None, 10, progress=lambda *stage: seen.append(stage))
    run("fit", None, lambda model, params, chunk: seen.append("measured") or chunk["key"], {"key": jnp.zeros((2, 2))})
    assert seen[0] == ("fit", 0, 2) and "measured" in seen and seen[-1] == ("fit", 2, 2)
