"""What a person sees: a progress bar in a terminal, plain lines anywhere else; numbers, columns and errors as text."""

import argparse
import io
import math
import os
import signal
import sys
import time
from types import SimpleNamespace
from typing import cast

from vae_jax.errors import Stopped, UserError

QUIET_SECONDS = 15  # between plain progress lines
SHORT = 0.05  # nats; what a fit of q may fall short, or twice its standard error, before a warning
FAR = 4  # times the root mean squared error; a sigma further off is worth a warning
FEW = 0.01  # share of the draws; an effective sample size below it is worth a warning
RATE_SECONDS = 600  # over which the rate is taken; the first update, which compiled, never counts


class Progress:
    """A bar with a few numbers beside it; where stdout is no terminal, a line now and then."""

    def __init__(self, title, total, initial=0):
        from rich import progress
        from rich.console import Console
        from rich.table import Column

        self.title, self.written = title, time.monotonic()
        self.is_terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self.remaining = progress.TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True))
        self.bar = progress.Progress(
            progress.TextColumn("{task.percentage:3.0f}% {task.description},", markup=False),
            self.remaining,
            progress.TextColumn("left"),
            progress.BarColumn(bar_width=None),  # a narrow terminal cuts the bar, not the numbers
            console=Console(file=sys.stdout, force_terminal=self.is_terminal),
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            speed_estimate_period=RATE_SECONDS,
            get_time=time.monotonic,
            transient=True,
            expand=True,
            disable=not self.is_terminal,
        )
        self.bar.add_task(f"{title.rstrip(',')}, compiling", total=total, completed=initial)
        (self.task,) = self.bar.tasks
        self.bar.start()
        self.bar.console.show_cursor(True)  # a process that is killed must not leave a terminal without one

    def update(self, done, text):
        """`done` units of the total are complete."""
        self.bar.update(self.task.id, completed=done, description=text, refresh=True)
        if not self.is_terminal and time.monotonic() - self.written > QUIET_SECONDS:
            self.written = time.monotonic()
            write(f"{self.title} {self.task.percentage:3.0f}% {text}, {self.left()} left")

    def left(self):
        """The time left as text, --:-- before there is a rate."""
        return self.remaining.render(self.task).plain

    def line(self, text):
        """A line that stays, above the bar."""
        if self.is_terminal:
            self.bar.console.out(text, highlight=False)
        else:  # rich would end the process at a pipe that is closed
            write(text)

    def close(self):
        if self.is_terminal:  # elsewhere some versions print an empty line
            self.bar.stop()


# A Progress that shows nothing.
SILENT = SimpleNamespace(update=lambda done, text: None, line=lambda text: None, close=lambda: None)


def write(text=""):
    print(text, flush=True)


def number(entry):
    """An entry of the summary as text: value, standard error, unit."""
    return f"{measured(entry['value'], entry.get('stderr'))} {entry.get('unit') or ''}".rstrip()


def measured(value, stderr, group=""):
    """'25.24 ± 0.20': a value with two significant digits of its standard error, if it has one.

    group: what separates thousands, '' or ','.
    """
    if stderr is None or not math.isfinite(stderr) or not math.isfinite(value):
        return f"{value:{group}}" if isinstance(value, int) else f"{value:{group}.6g}"
    return f"{value:{group}.{decimals(stderr)}f} ± {stderr:.{decimals(stderr)}f}"


def decimals(error):
    """How many decimals show two significant digits of an error."""
    return max(0, 1 - int(f"{error:e}".split("e")[1])) if error else 2


def columns(rows, right=()):
    """Rows of texts as lines of aligned columns; the columns numbered in `right` are aligned to the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 0, 0, 2))
    for column in range(len(rows[0]) if rows else 0):
        table.add_column(justify="right" if column in right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(width=10_000, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().splitlines()]


def table(summary):
    """The final numbers of a summary, a line each."""
    splits = summary["splits"].items()
    rows = [(split, name, number(entry)) for split, found in splits for name, entry in found.items()]
    return "\n".join([*columns(rows), *remarks(summary)])


def remarks(summary):
    """A line for each thing that a reader of a summary's numbers must know beside them."""
    return [*warnings(summary["splits"]), *(f"note: {note}" for note in summary.get("notes", ()))]


def warnings(splits):
    """A line for each thing in the numbers of splits that makes them doubtful."""
    return [*short_fits(splits), *collapsed(splits), *few_effective(splits), *far_sigma(splits)]


def collapsed(splits):
    """Where no unit is active, q(z|x) says nothing of x."""
    for split, numbers in splits.items():
        if numbers.get("active_units", {}).get("value") == 0:
            yield f"warning: no latent unit is active on {split}: q(z|x) tells nothing of x"


def few_effective(splits):
    """Where importance sampling has next to no draws that count."""
    for split, numbers in splits.items():
        if "ess" in numbers and numbers["ess"]["value"] < FEW * (draws := int(numbers["ess"]["unit"].split()[1])):
            ess = f"{numbers['ess']['value']:.3g} of {draws}"
            yield f"warning: the effective sample size of log p(x) on {split} is {ess}: more config.eval.num_samples"


def far_sigma(splits):
    """Where a normal likelihood is much blunter, or sharper, than what is reconstructed."""
    for split, numbers in splits.items():
        if {"sigma", "squared_error"} <= numbers.keys():
            sigma, rms = numbers["sigma"]["value"], numbers["squared_error"]["value"] ** 0.5
            if not 1 / FAR < sigma / max(rms, 1e-30) < FAR:
                way = "config.model.sigma_mode = optimal finds one, or set config.model.sigma near it"
                yield f"warning: sigma is {sigma:.3g} where reconstructions of {split} are off by {rms:.3g}: {way}"


def short_fits(splits):
    """Where numbers rest on fits of q that are known to fall short."""
    found = {split: numbers["fit_shortfall"] for split, numbers in splits.items() if "fit_shortfall" in numbers}
    return [
        f"warning: fits of q on {split} end at least {measured(short['value'], short['stderr'])} nats below the best: "
        "raise max_steps or num_samples of config." + ("gaps.fit" if split == "gaps" else "fit")
        for split, short in found.items()
        if short["value"] > max(SHORT, 2 * (short["stderr"] or 0))
    ]


def guarded(action, interrupted="interrupted"):
    """Does it and returns its result; an error becomes one line, an interruption the line `interrupted`."""
    if sys.stdout is None:  # closed by `>&-`
        sys.stdout = open(os.devnull, "w")
    # the ± of a number must not end a run where output is ASCII
    cast(io.TextIOWrapper, sys.stdout).reconfigure(errors="replace")
    try:
        return action()
    except BrokenPipeError:
        unread()
        sys.exit(128 + signal.SIGPIPE)
    except Stopped as stopped:
        fail(stopped, 128 + stopped.signal, "stopped")
    except (UserError, OSError) as error:  # an OSError: what cannot be read or written, and why
        fail(error)
    except KeyboardInterrupt:
        fail(interrupted, status=130)


def end_with(text):
    """Writes a text and ends the process, quietly where nobody reads it to its end, as `| head`."""
    try:
        write(text)
    except BrokenPipeError:
        unread()
    sys.exit(0)


def unread():
    """Nobody reads stdout any more: what Python writes at its end goes nowhere, without a traceback."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fail(message, status=2, word="error"):
    """One line on stderr, where a progress bar may stand, and the end."""
    bar = "\r\033[K" if sys.stderr.isatty() else ""
    print(f"{bar}{word}:", " ".join(str(message).split()), file=sys.stderr)
    sys.exit(status)


class Parser(argparse.ArgumentParser):
    """The arguments of a command, `program`, described by its module's text; what is wrong is one line too."""

    def __init__(self, program, text):
        layout = {"description": text, "formatter_class": argparse.RawDescriptionHelpFormatter}
        super().__init__(program, allow_abbrev=False, **layout)

    def error(self, message):
        fail(message)
