"""What a person reads of a mistake: one line, and the exit status."""

import pytest

from vae_jax.console import Parser, fail, guarded
from vae_jax.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DeviceError,
    ReportError,
    RunError,
    Stopped,
    TrainingError,
    UserError,
)

ERRORS = (
    ConfigError,
    DataError,
    RunError,
    CheckpointError,
    DeviceError,
    ReportError,
    TrainingError,
    UserError,
    OSError,
)


def raising(error):
    def action():
        raise error

    return action


@pytest.mark.parametrize("kind", ERRORS)
def test_a_mistake_is_one_line_and_status_2(kind, capsys):
    with pytest.raises(SystemExit) as stopped:
        guarded(raising(kind("no such\n  key")))
    assert stopped.value.code == 2 and capsys.readouterr().err == "error: no such key\n"


def test_what_is_no_mistake_of_a_person_stays_what_it_is():
    with pytest.raises(ZeroDivisionError):
        guarded(raising(ZeroDivisionError("a bug")))


@pytest.mark.parametrize("number, status", [(2, 130), (15, 143)])
def test_a_signal_is_no_error(number, status, capsys):
    with pytest.raises(SystemExit) as stopped:
        guarded(raising(Stopped("after step 4", number)))
    assert stopped.value.code == status and capsys.readouterr().err == "stopped: after step 4\n"


def test_an_interruption_says_how_to_go_on(capsys):
    with pytest.raises(SystemExit) as stopped:
        guarded(raising(KeyboardInterrupt()), "the same command goes on")
    assert stopped.value.code == 130 and capsys.readouterr().err == "error: the same command goes on\n"


def test_results_pass_through():
    assert guarded(lambda: 7) == 7


def test_a_bar_on_the_terminal_is_wiped_away(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with pytest.raises(SystemExit):
        fail("x")
    assert capsys.readouterr().err == "\r\033[Kerror: x\n"


def test_arguments_that_are_wrong_are_one_line(capsys):
    parser = Parser("python -m vae_jax.report", "What it does.\n\n    an example")
    parser.add_argument("--out", required=True)
    for arguments in ([], ["--ou=x"], ["--out=x", "--more"]):
        with pytest.raises(SystemExit) as stopped:
            parser.parse_args(arguments)
        shown = capsys.readouterr().err
        assert stopped.value.code == 2 and shown.startswith("error: ") and shown.count("\n") == 1
    assert "    an example" in parser.format_help() and "python -m vae_jax.report" in parser.format_help()
