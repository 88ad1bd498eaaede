"""Timing side by side: each contender is a process of its own, and all of them take turns, round after round.

A contender is a function `make(**options) -> run`, and `run(count)` does `count` units of work, complete on return.
What else the machine does then falls on all alike, and ratios of medians hold where times do not.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time

import numpy as np

PACKAGES = ("vae_jax", "jax", "jaxlib", "numpy", "torch", "pythae", "flax", "optax", "numpyro")


def serve(run):
    """Answers each line `count` of standard input with the seconds that `run(count)` took; the first is warming up."""
    print("ready", flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        run(int(line))
        print(json.dumps(time.perf_counter() - started), flush=True)


class Contender:
    """A process that runs one contender on demand."""

    def __init__(self, name, command, count, warm_up=1):
        self.name, self.count = name, count
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.answer("ready")
        for _ in range(warm_up):
            self()

    def answer(self, expected=None):
        for line in self.process.stdout:  # a library may print lines of its own
            line = line.strip()
            if line == expected or (expected is None and line[:1].isdigit()):
                return line
        raise SystemExit(f"{self.name} stopped with status {self.process.wait()}")

    def __call__(self):
        """Seconds for each unit of work."""
        self.process.stdin.write(f"{self.count}\n")
        self.process.stdin.flush()
        return float(self.answer()) / self.count

    def close(self):
        self.process.stdin.close()
        self.process.wait(60)


def take_turns(contenders, rounds):
    """{name: seconds of each round}, forth and back through the contenders."""
    times = {contender.name: [] for contender in contenders}
    for number in range(rounds):
        for contender in contenders[:: 1 if number % 2 else -1]:
            times[contender.name].append(contender())
        print(f"\rround {number + 1} of {rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    for contender in contenders:
        contender.close()
    return times


def ratio(times, above, below):
    """The median over rounds of the ratio of two contenders' times, and its quartiles."""
    ratios = np.array(times[above]) / np.array(times[below])
    return [float(q) for q in np.quantile(ratios, [0.5, 0.25, 0.75])]


def machine():
    """What the numbers depend on, names of hosts left out."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    try:
        with open("/proc/cpuinfo") as file:
            model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "")
    except OSError:
        model = platform.processor()
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "python": platform.python_version(), **versions}


def table(heads, rows):
    """Text in columns, the first to the left."""
    rows = [list(map(str, row)) for row in (heads, *rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    line = lambda row: "  ".join(
        [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
    )
    return "\n".join(map(line, rows))


def deliver(name, heads, rows, results, out):
    """Prints the table with the machine under it, and writes everything as JSON."""
    results = {"benchmark": name, "machine": machine(), **results}
    print(table(heads, rows))
    print(", ".join(f"{key} {value}" for key, value in results["machine"].items()))
    if out:
        with open(out, "w") as file:
            json.dump(results, file, indent=1)
            file.write("\n")
