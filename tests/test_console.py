"""What a person sees: a bar in a terminal, a line now and then elsewhere, numbers with two digits of their error."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from vae_jax import console

TEXT = "epoch 5/100, objective -100.32, ELBO -100.31, 171,804 examples/s"


@pytest.fixture
def now(monkeypatch):
    """A clock that a test sets."""
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    return clock


def test_a_pipe_gets_a_plain_line_now_and_then(now, capsys):
    """One progress line in 15 s, evaluations at once, no escape codes."""
    progress = console.Progress("training", 100)
    for done in range(10, 101, 10):
        now[0] += 4
        progress.update(done, f"step {done}")
    progress.line("an evaluation [b] of 3")
    progress.close()
    assert capsys.readouterr().out.splitlines() == [
        "training  40% step 40, 00:24 left",  # 10 in 4 s, 60 to go
        "training  80% step 80, 00:08 left",
        "an evaluation [b] of 3",
    ]


def test_the_time_left_goes_by_the_rate(now):
    """10 a second with 50 to go; neither what an earlier process did nor the first call, which compiled, counts."""
    progress = console.Progress("training", 100, initial=30)
    assert progress.left() == "--:--"  # nothing is known yet
    for seconds, done in ((100.0, 40), (101.0, 50)):
        now[0] = seconds
        progress.update(done, "")
    assert progress.left() == "00:05"


def test_steps_of_several_minutes_have_a_rate_too(now):
    progress = console.Progress("training", 10)
    for done in (1, 2, 3):
        now[0] += 240
        progress.update(done, "")
    assert progress.left() == "28:00"


def test_a_terminal_without_escape_codes_gets_plain_lines(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    console.Progress("training", 100).update(50, TEXT)
    assert capsys.readouterr().out == ""


def in_terminal(columns):
    """What a real terminal of so many columns gets from a program of its own: a bar, a line above it, a line after."""
    program = (
        "from vae_jax import console; p = console.Progress('training', 2); "
        f"p.update(1, {TEXT!r}); p.line('an evaluation [b] of 3'); p.close(); console.write('end')"
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    environment["TERM"] = "xterm"
    subprocess.run([sys.executable, "-c", program], stdout=theirs, env=environment, check=True)
    shown = os.read(ours, 10_000).decode()  # before `theirs` is closed: after it a read may fail
    os.close(theirs)
    os.close(ours)
    return shown


def test_a_real_terminal_shows_a_bar_with_lines_above_it():
    """The bar, its numbers, a line that stays, nothing of the bar left at the end, and never no cursor for long."""
    shown = in_terminal(120)
    bare = re.sub("\x1b\\[[0-9;]*m", "", shown)  # without colours
    assert "  0% training, compiling, --:-- left ━" in bare and f" 50% {TEXT}, --:-- left ━" in bare
    assert "\x1b[2Kan evaluation [b] of 3\r\n" in bare and shown.endswith("\r\x1b[1A\x1b[2Kend\r\n")
    assert shown.index("\x1b[?25h") < shown.index("50%"), "the cursor is shown while the bar is, should a run be killed"


def test_a_narrow_terminal_cuts_the_bar():
    shown = re.sub("\x1b\\[[0-9;]*m", "", in_terminal(90))
    line = re.search(f" 50% {re.escape(TEXT)}, --:-- left (━*╺?━*)", shown)
    assert line and len(line[0]) <= 90 and 0 < len(line[1]) < 15


@pytest.mark.parametrize(
    "value, stderr, expected",
    [
        (25.23511, 0.19601, "25.24 ± 0.20 nats"),
        (631.2, 14.2, "631 ± 14 nats"),
        (6312.0, 153.7, "6312 ± 154 nats"),
        (0.5688527, 0.00441, "0.5689 ± 0.0044 nats"),
        (1.0, 0.0, "1.00 ± 0.00 nats"),
        (2, None, "2 nats"),
        (1234567, None, "1234567 nats"),
        (-86.7612345, None, "-86.7612 nats"),
        (float("-inf"), float("nan"), "-inf nats"),
    ],
)
def test_a_number_has_two_digits_of_its_standard_error(value, stderr, expected):
    assert console.number({"value": value, "stderr": stderr, "unit": "nats"}) == expected


def test_thousands_can_be_grouped():
    shown = [console.measured(*number, ",") for number in ((12345.678, 1.04), (1234567, None), (4321.5, None))]
    assert shown == ["12,345.7 ± 1.0", "1,234,567", "4,321.5"]


def test_columns_are_aligned():
    """Two spaces apart, numbers to the right, no space at the end, whatever stands in the cells."""
    rows = [("name", "n"), ("[bold]x", "10"), ("", "9")]
    assert console.columns(rows, right=(1,)) == ["  name      n", "  [bold]x  10", "            9"]
    assert console.columns([(char * 300, "y") for char in "ab"]) == [f"  {char * 300}  y" for char in "ab"]


def entry(value, unit=""):
    return {"value": value, "stderr": None, "unit": unit}


def test_what_makes_numbers_doubtful_is_a_line_each():
    """No active unit; an effective sample size below a hundredth of the draws."""
    fine = {"active_units": entry(1, "of 8"), "ess": entry(10.0, "of 1000")}
    poor = {"active_units": entry(0, "of 8"), "ess": entry(9.9, "of 1000")}
    lines = console.warnings({"valid": fine, "test": poor})
    assert len(lines) == 2 and all("test" in line and line.startswith("warning: ") for line in lines)
    assert "no latent unit is active" in lines[0] and "9.9 of 1000" in lines[1]


def test_the_table_ends_with_the_notes_of_a_run():
    assert console.table({"splits": {"test": {"kl": entry(1.0)}}, "notes": ["no pictures"]}).endswith(
        "\nnote: no pictures"
    )


def test_the_table_lists_every_split_and_number():
    elbo = {"value": 1.5, "stderr": 0.25, "unit": "nats"}
    summary = {"splits": {"valid": {"elbo": elbo}, "test": {"elbo": elbo, "kl": {**elbo, "stderr": None}}}}
    assert [line.split() for line in console.table(summary).splitlines()] == [
        ["valid", "elbo", "1.50", "±", "0.25", "nats"],
        ["test", "elbo", "1.50", "±", "0.25", "nats"],
        ["test", "kl", "1.5", "nats"],
    ]


@pytest.mark.parametrize("sigma, warned", [(1.0, True), (0.41, True), (0.39, False), (0.026, False), (0.02, True)])
def test_a_sigma_far_from_the_error_is_a_warning(sigma, warned):
    """Four times the root mean squared error, 0.1, to either side; without a sigma there is nothing to say."""
    numbers = {"squared_error": {"value": 0.01, "stderr": 0.001}, "sigma": {"value": sigma, "stderr": None}}
    lines = console.warnings({"test": numbers})
    assert len(lines) == warned and all("reconstructions of test are off by 0.1" in line for line in lines)
    assert not console.warnings({"test": {"squared_error": numbers["squared_error"]}})


def test_a_closed_stdout_is_no_traceback(monkeypatch):
    """`>&-`: Python has no stdout then."""
    monkeypatch.setattr(sys, "stdout", None)
    assert console.guarded(lambda: console.write("nobody reads it")) is None
    sys.stdout.close()


def test_a_reader_that_leaves_a_command_at_work_ends_it_as_its_signal_would():
    """`python -m vae_jax.main ... | head -1`: quiet, 128 + SIGPIPE, wherever the line was to be written."""
    program = (
        "from vae_jax import console; p = console.Progress('training', 2); "
        "console.guarded(lambda: [p.line('one') for _ in range(9)])"
    )
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-c", program], stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert done.returncode == 141 and done.stderr == b""
