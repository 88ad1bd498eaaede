"""What a person sees while a run goes on: a progress bar in a terminal, plain lines anywhere else."""

import sys
import time

from tqdm import tqdm

QUIET_SECONDS = 15  # between plain progress lines


class Progress:
    """A bar that shows a few numbers beside it; where stdout is no terminal, a line now and then."""

    def __init__(self, title, total, initial=0):
        self.title, self.total, self.done, self.started = title, total, initial, time.monotonic()
        self.initial, self.said = initial, self.started
        layout = "{desc} {percentage:3.0f}%|{bar:20}| {postfix} [{elapsed}<{remaining}]"
        self.bar = None
        if sys.stdout.isatty():
            self.bar = tqdm(total=total, initial=initial, desc=title, bar_format=layout, leave=False, file=sys.stdout)

    def update(self, done, text):
        """`done` units of the total are complete."""
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.update(done - self.done)
        elif time.monotonic() - self.said > QUIET_SECONDS:
            self.said = time.monotonic()
            say(f"{self.title} {100 * done / self.total:3.0f}% {text}, {self.left(done)} left")
        self.done = done

    def left(self, done):
        seconds = (time.monotonic() - self.started) * (self.total - done) / max(done - self.initial, 1e-9)
        return duration(seconds)

    def line(self, text):
        """A line that stays, above the bar."""
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()

    def close(self):
        if self.bar is not None:
            self.bar.close()


def say(text=""):
    print(text, flush=True)


def duration(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def number(entry):
    """An entry of the summary as text: value, standard error, unit."""
    value, stderr = f"{entry['value']:.6g}", entry.get("stderr")
    if stderr is not None:
        digits = max(0, 1 - int(f"{stderr:e}".split("e")[1])) if stderr else 2  # two significant digits of the error
        value = f"{entry['value']:.{digits}f} ± {stderr:.{digits}f}"
    return f"{value} {entry['unit']}"


def table(summary):
    """The final numbers of a summary, a line each."""
    rows = [
        (split, name, number(entry)) for split, entries in summary["splits"].items() for name, entry in entries.items()
    ]
    width = max(len(name) for _, name, _ in rows)
    return "\n".join(f"  {split:5}  {name:{width}}  {text}" for split, name, text in rows)
