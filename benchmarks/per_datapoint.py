"""What a per-datapoint step costs as the table grows: time per step, and memory beside the table itself.

    python benchmarks/per_datapoint.py

Z = 20, decoder 20-200-200-784, batches of 128 binary 28 x 28 images, one device, through the functions a run uses.
Time: calls of a short and of a long window of steps take turns over all sizes; a step is the difference between them
divided by the difference of their steps (median over rounds), a call the rest. An epoch's order is sorted once an epoch
and once a call, and its share of an epoch is added to the step. Wall time and, for a machine that does other things
too, processor time. Memory: one process for each size; the peak of resident
memory while the state is made, and while steps run, above what was resident with images and packages in place.
"""

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

from vae_jax.commands import configuration
from vae_jax.data.splits import Split, assemble
from vae_jax.models.networks import count
from vae_jax.parallel import devices
from vae_jax.training import setup as setups
from vae_jax.training.program import make_program, training_data

SHORT, LONG = 40, 240  # steps of the two windows
CLOCKS = ("wall", "cpu")  # the second hardly sees what else the machine does
PHASES = ("making", "running")  # of memory: the first state, and steps from it
TIME_WITHIN, MEMORY_WITHIN = 1.15, 1.3  # the goals


def make_setup(num_examples):
    """What a run is made of, its images drawn here instead of read."""
    config = configuration.default()
    config.data.binarization, config.inference.kind, config.model.latent_dim = "fixed", "per_datapoint", 20
    config.inference.ascent, config.inference.inner_steps = "adam", 1  # the largest state beside an entry
    config.train.epochs = 1000
    config = configuration.validate(config)
    draw = lambda n: Split(np.random.default_rng(0).integers(0, 2, (n, 28, 28, 1), np.uint8))
    dataset = assemble("synthetic", draw(num_examples), draw(100), draw(100), {}, (0.0, 1.0))
    return setups.make_setup(config, 1, dataset)


class Run:
    """A run in memory that makes so many steps when called, and says how long they took: (wall, processor) seconds."""

    def __init__(self, num_examples):
        self.setup = make_setup(num_examples)
        self.program, self.arrays = make_program(self.setup), training_data(self.setup)
        self.hyper = devices.put_replicated(self.setup.mesh, setups.hyperparameters(self.setup.config))

    def start(self):
        self.state = jax.block_until_ready(setups.make_init(self.setup)())

    def __call__(self, num_steps):
        started = time.perf_counter(), time.process_time()
        self.state, metrics = self.program(num_steps)(self.hyper, self.state, self.arrays)
        jax.block_until_ready((self.state, metrics))
        return time.perf_counter() - started[0], time.process_time() - started[1]


def measure_time(sizes, rounds):
    """{N: medians}, the sizes in turn in every round."""
    runs = {size: Run(size) for size in sizes}
    for run in runs.values():
        run.start()
        run(SHORT), run(LONG)  # compiled
    times = {size: [] for size in sizes}
    for number in range(rounds):
        order = list(runs) if number % 2 else list(runs)[::-1]
        for size in order:
            times[size].append((runs[size](SHORT), runs[size](LONG)))
        print(f"\rround {number + 1} of {rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return {size: summarize(times[size], runs[size].setup.epoch_steps) for size in sizes}


def summarize(times, epoch_steps):
    """From [round](short, long)(wall, processor) seconds: medians."""
    times = np.array(times)
    entry = {}
    for number, clock in enumerate(CLOCKS):
        short, long = np.median(times[..., number], axis=0)
        step = (long - short) / (LONG - SHORT)
        call = max(0.0, short - SHORT * step)
        # sorts inside the windows of a short epoch are in `step` already
        order = call / epoch_steps if epoch_steps > LONG else 0.0
        each = 1e6 * (times[:, 1, number] - times[:, 0, number]) / (LONG - SHORT)
        entry[clock] = {"step_us": 1e6 * (step + order), "order_us": 1e6 * order, "call_ms": 1e3 * call}
        entry[clock]["quartiles_us"] = np.quantile(each, [0.25, 0.75]).round(1).tolist()
    return entry


def measure_memory(num_examples):
    """Bytes: of the state's table, and peaks above the resident memory before the state was made."""
    run = Run(num_examples)
    jax.block_until_ready(run.arrays)
    gc.collect()  # the copies made on the way to the devices
    ctypes.CDLL(None).malloc_trim(0)
    peaks, before = {}, resident("VmRSS")
    for phase, act in zip(PHASES, (run.start, lambda: run(SHORT)), strict=True):
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        act()
        peaks[phase] = resident("VmHWM") - before
    leaves = jax.tree.leaves(run.state.table)
    images = sum(array.nbytes for array in run.arrays.values())
    return {"table": sum(leaf.nbytes for leaf in leaves), "images": images, "params": count(run.state.params), **peaks}


def resident(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


def memory_of(num_examples):
    command = [sys.executable, __file__, f"--memory={num_examples}"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def report(times, memory):
    """The table, and whether the goals are met."""
    heads = ("us/step", "quartiles", "cpu us/step", "order us", "ms/call", "table MB", "making MB", "running MB")
    print(f"{'examples':>9} " + " ".join(f"{head:>11}" for head in heads))
    for size, entry in times.items():
        wall, cpu = entry["wall"], entry["cpu"]
        low, high = wall["quartiles_us"]
        middle = f"{low:.0f}-{high:.0f}"
        numbers = (
            cpu["step_us"],
            wall["order_us"],
            wall["call_ms"],
            *(memory[size][n] / 1e6 for n in ("table", *PHASES)),
        )
        print(f"{size:>9,} {wall['step_us']:>11.1f} {middle:>11} " + " ".join(f"{number:>11.1f}" for number in numbers))
    ends = [memory[size] for size in (min(memory), max(memory))]
    grown = {name: ends[1][name] - ends[0][name] for name in ("table", *PHASES)}
    steps = {clock: [entry[clock]["step_us"] for entry in times.values()] for clock in CLOCKS}
    ratios = {f"time, {clock}": max(each) / min(each) for clock, each in steps.items()}
    ratios |= {f"memory, {phase}": grown[phase] / grown["table"] for phase in PHASES}
    for name, ratio in ratios.items():
        goal = MEMORY_WITHIN if name.startswith("memory") else TIME_WITHIN
        print(f"{name:>15} {ratio:.3f}, goal {goal}: {'met' if ratio <= goal else 'MISSED'}")
    print(json.dumps({"times": times, "memory": memory, "ratios": ratios, "jax": jax.__version__}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,60000,1000000", help="training examples, entries of the table")
    parser.add_argument("--rounds", type=int, default=31, help="rounds of timing")
    parser.add_argument("--memory", type=int, help="measure the memory of one size, in this process, and print JSON")
    flags = parser.parse_args()
    if flags.memory:
        print(json.dumps(measure_memory(flags.memory)))
        return
    sizes = [int(size) for size in flags.sizes.split(",")]
    memory = {size: memory_of(size) for size in sizes}
    report(measure_time(sizes, flags.rounds), memory)


if __name__ == "__main__":
    main()
