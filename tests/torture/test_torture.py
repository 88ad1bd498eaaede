"""A bounded part of harness.py: a few of every kind."""

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import harness

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("torture")


@pytest.mark.parametrize("kind, how, count", [("per_datapoint", "SIGKILL", 1), ("amortized", "SIGTERM", 2)])
def test_stopped_at_any_moment_it_ends_as_the_run_that_was_not(kind, how, count, out):
    assert harness.interrupted(kind, count, how, out, random.Random(1)) == (count, [])


def test_the_same_command_twice_is_the_same_run(out):
    assert (out / "amortized-whole").exists()
    assert harness.repeated("amortized", out) == (1, [])


def test_two_at_once_share_an_empty_cache(out):
    assert harness.cold(2, out) == (2, [])


def test_no_value_of_a_key_is_a_traceback(out):
    assert harness.configs(300, random.Random(2)) == (300, [])
    assert harness.commands(4, out, random.Random(3)) == (4, [])


def test_no_file_is_a_traceback(out):
    assert harness.arrays(200, out, random.Random(4)) == (200, [])
