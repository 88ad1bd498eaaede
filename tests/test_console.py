"""What a person sees: a bar in a terminal, a line now and then elsewhere, numbers with two digits of their error."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

from vae_jax import console

TEXT = "epoch 5/100, objective -100.32, ELBO -100.31, 171,804 examples/s"


@pytest.fixture
def now(monkeypatch):
    """A clock that a test sets; tqdm keeps its own."""
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    return clock


def test_a_pipe_gets_a_plain_line_now_and_then(now, capsys):
    """One progress line in 15 s, evaluations at once, no escape codes."""
    progress = console.Progress("training", 100)
    for done in range(10, 101, 10):
        now[0] += 4
        progress.update(done, f"step {done}")
    progress.line("an evaluation")
    progress.close()
    lines = capsys.readouterr().out.splitlines()
    assert [line.rsplit(", ", 1)[0] for line in lines] == [
        "training  40% step 40",
        "training  80% step 80",
        "an evaluation",
    ]
    assert lines[0].endswith(" left")


def test_the_time_left_goes_by_the_rate(monkeypatch):
    """10 a second with 50 to go."""
    progress = console.Progress("training", 100, initial=40)
    assert progress.left() == "00:00"  # nothing is known yet
    monkeypatch.setattr(type(progress.bar), "format_dict", {"rate": 10.0})
    progress.bar.n = 50
    assert progress.left() == "00:05"


def test_a_terminal_without_escape_codes_gets_plain_lines(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    console.Progress("training", 100).update(50, TEXT)
    assert capsys.readouterr().out == ""


def test_a_real_terminal_shows_a_bar_with_lines_above_it():
    """Through a pseudo-terminal, in a process of its own: the bar, its numbers, a line that stays, and nothing left."""
    program = (
        "from vae_jax import terminal; p = terminal.Progress('training', 2); "
        f"p.update(1, {TEXT!r}); p.line('an evaluation'); p.close(); terminal.say('end')"
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    subprocess.run([sys.executable, "-c", program], stdout=theirs, env={**os.environ, "TERM": "xterm"}, check=True)
    shown = os.read(ours, 10_000).decode()  # before `theirs` is closed: after it a read may fail
    os.close(theirs)
    os.close(ours)
    assert "compiling" in shown and f" 50% {TEXT}, " in shown and " left |" in shown
    assert "an evaluation\r\n" in shown and shown.endswith("end\r\n")
    assert shown.rpartition("\r")[0].rstrip("\n").endswith("\rend"), "the bar is gone from the last line"


@pytest.mark.parametrize(
    "value, stderr, expected",
    [
        (25.23511, 0.19601, "25.24 ± 0.20 nats"),
        (631.2, 14.2, "631 ± 14 nats"),
        (6312.0, 153.7, "6312 ± 154 nats"),
        (0.5688527, 0.00441, "0.5689 ± 0.0044 nats"),
        (1.0, 0.0, "1.00 ± 0.00 nats"),
        (2, None, "2 nats"),
        (-86.7612345, None, "-86.7612 nats"),
        (float("-inf"), float("nan"), "-inf nats"),
    ],
)
def test_a_number_has_two_digits_of_its_standard_error(value, stderr, expected):
    assert console.number({"value": value, "stderr": stderr, "unit": "nats"}) == expected


def test_the_table_lists_every_split_and_number():
    entry = {"value": 1.5, "stderr": 0.25, "unit": "nats"}
    summary = {"splits": {"valid": {"elbo": entry}, "test": {"elbo": entry, "kl": {**entry, "stderr": None}}}}
    assert [line.split() for line in console.table(summary).splitlines()] == [
        ["valid", "elbo", "1.50", "±", "0.25", "nats"],
        ["test", "elbo", "1.50", "±", "0.25", "nats"],
        ["test", "kl", "1.5", "nats"],
    ]
