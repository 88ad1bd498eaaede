"""Mistakes a person can mend: what was wrong, where, and what to do, in one line on stderr, and exit status 2."""

import argparse
import sys

from vae_jax.rundir import RunError


class Mistake(Exception):
    """The base of the errors that the modules raise for a person to read, but for RunError: rundir.py stands alone."""


def guarded(action, interrupted="interrupted"):
    """Does it and returns its result; a mistake becomes one line, an interruption the line `interrupted`."""
    sys.stdout.reconfigure(errors="replace")  # the ± of a number must not end a run where output is ASCII
    try:
        return action()
    except (Mistake, RunError, OSError) as error:  # an OSError: what cannot be read or written, and why
        fail(error)
    except KeyboardInterrupt:
        fail(interrupted, status=130)


def fail(message, status=2):
    """One line on stderr, where a progress bar may stand, and the end."""
    bar = "\r\033[K" if sys.stderr.isatty() else ""
    print(f"{bar}error:", " ".join(str(message).split()), file=sys.stderr)
    sys.exit(status)


class Parser(argparse.ArgumentParser):
    """The arguments of `python -m vae_jax.NAME`, described by its module's text; mistakes in them are one line too."""

    def __init__(self, name, text):
        layout = {"description": text, "formatter_class": argparse.RawDescriptionHelpFormatter}
        super().__init__(f"python -m vae_jax.{name}", allow_abbrev=False, **layout)

    def error(self, message):
        fail(message)
