"""Stages of a long measurement are measured once, whatever stops the process between them."""

import numpy as np
import pytest

from vae_jax.runs import files, stages

FOUND = {"values": {"elbo": np.arange(3.0)}, "fitted": {"q_params": {"mean": np.ones((3, 2), np.float32)}}}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "gaps.unfinished"


def never():
    raise AssertionError("it was measured again")


def test_a_later_call_has_what_an_earlier_one_measured(folder, capsys):
    stages.keeper(folder, "these settings")("q_star", lambda: FOUND)
    assert not capsys.readouterr().out
    again = stages.keeper(folder, "these settings")("q_star", never)
    np.testing.assert_array_equal(again["values"]["elbo"], FOUND["values"]["elbo"])
    assert again["fitted"]["q_params"]["mean"].dtype == np.float32
    assert "q_star: measured before" in capsys.readouterr().out


def test_what_was_measured_of_anything_else_is_dropped(folder):
    stages.keeper(folder, "these settings")("q_star", lambda: FOUND)
    found = stages.keeper(folder, "others")("q_star", lambda: {"elbo": np.zeros(2)})
    assert list(found) == ["elbo"]


def test_other_parameters_are_another_measurement():
    first, other = ({"w": np.full(3, value, np.float32)} for value in (0.0, 1e-30))
    assert stages.identity_of("settings", first) != stages.identity_of("settings", other)
    assert stages.identity_of("settings", first) != stages.identity_of("other settings", first)


@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(path.read_bytes()[:100]), lambda path: path.unlink()])
def test_a_stage_that_does_not_read_is_measured_again(folder, spoil):
    stages.keeper(folder, "settings")("q_star", lambda: FOUND)
    spoil(folder / "q_star.npz")
    assert stages.keeper(folder, "settings")("q_star", lambda: {"elbo": np.zeros(2)})["elbo"].shape == (2,)


def test_a_full_disk_costs_a_line_and_no_measurement(folder, monkeypatch, capsys):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "replace", full)
    assert stages.keeper(folder, "settings")("q_star", lambda: FOUND) is FOUND
    assert "q_star is not kept for a later call" in capsys.readouterr().out


def test_nothing_is_kept_where_nobody_may_write(folder, monkeypatch):
    monkeypatch.setattr(stages.os, "access", lambda path, mode: False)
    assert stages.keeper(folder, "settings")("q_star", lambda: FOUND) is FOUND
    assert not folder.exists()
