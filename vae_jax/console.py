"""What a person sees while a run goes on: a progress bar in a terminal, plain lines anywhere else."""

import argparse
import io
import math
import os
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from tqdm import tqdm

from vae_jax.errors import UserError

QUIET_SECONDS = 15  # between plain progress lines
LAYOUT = "{percentage:3.0f}% {desc}, {remaining} left |{bar}|"  # a narrow terminal cuts the bar, not the numbers


class Progress:
    """A bar with a few numbers beside it; where stdout is no terminal, a line now and then."""

    def __init__(self, title, total, initial=0):
        is_terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self.title, self.said = title, time.monotonic()
        self.bar = tqdm(
            total=total,
            initial=initial,
            desc=f"{title}, compiling",
            bar_format=LAYOUT,
            leave=False,
            dynamic_ncols=True,
            mininterval=0,
            file=sys.stdout if is_terminal else io.StringIO(),  # which shows nothing but keeps the rate
        )
        self.is_terminal = is_terminal

    def update(self, done, text):
        """`done` units of the total are complete."""
        self.bar.set_description_str(text, refresh=False)
        self.bar.update(done - self.bar.n)
        if not self.is_terminal and time.monotonic() - self.said > QUIET_SECONDS:
            self.said = time.monotonic()
            write(f"{self.title} {self.bar.n / self.bar.total:4.0%} {text}, {self.left()} left")

    def left(self):
        rate = self.bar.format_dict["rate"] or math.inf  # a smoothed one, that forgets the first call, which compiled
        return tqdm.format_interval((self.bar.total - self.bar.n) / rate)

    def line(self, text):
        """A line that stays, above the bar."""
        with tqdm.external_write_mode(file=sys.stdout):
            write(text)

    def close(self):
        self.bar.close()


class Silent(NamedTuple):
    """A Progress that shows nothing."""

    update: Callable = lambda done, text: None
    line: Callable = lambda text: None
    close: Callable = lambda: None


SILENT = Silent()


def write(text=""):
    print(text, flush=True)


def number(entry):
    """An entry of the summary as text: value, standard error, unit."""
    return f"{measured(entry['value'], entry.get('stderr'))} {entry['unit']}"


def measured(value, stderr):
    """'25.24 ± 0.20': a value with two significant digits of its standard error, if it has one."""
    if stderr is None or not math.isfinite(stderr):
        return f"{value:.6g}"
    return f"{value:.{decimals(stderr)}f} ± {stderr:.{decimals(stderr)}f}"


def decimals(error):
    """How many decimals show two significant digits of an error."""
    return max(0, 1 - int(f"{error:e}".split("e")[1])) if error else 2


def table(summary):
    """The final numbers of a summary, a line each."""
    rows = [
        (split, name, number(entry)) for split, entries in summary["splits"].items() for name, entry in entries.items()
    ]
    left, width = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"  {split:{left}}  {name:{width}}  {text}" for split, name, text in rows)


def guarded(action, interrupted="interrupted"):
    """Does it and returns its result; a mistake becomes one line, an interruption the line `interrupted`."""
    sys.stdout.reconfigure(errors="replace")  # the ± of a number must not end a run where output is ASCII
    try:
        return action()
    except (UserError, OSError) as error:  # an OSError: what cannot be read or written, and why
        fail(error)
    except KeyboardInterrupt:
        fail(interrupted, status=130)


def fail(message, status=2):
    """One line on stderr, where a progress bar may stand, and the end."""
    bar = "\r\033[K" if sys.stderr.isatty() else ""
    print(f"{bar}error:", " ".join(str(message).split()), file=sys.stderr)
    sys.exit(status)


class Parser(argparse.ArgumentParser):
    """The arguments of a command, `program`, described by its module's text; what is wrong is one line too."""

    def __init__(self, program, text):
        layout = {"description": text, "formatter_class": argparse.RawDescriptionHelpFormatter}
        super().__init__(program, allow_abbrev=False, **layout)

    def error(self, message):
        fail(message)
