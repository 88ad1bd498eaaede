"""Peak resident memory of a run, and how it grows with the batch, with K and with the number of examples.

    python benchmarks/memory.py
    python benchmarks/memory.py --config=experiments/mnist.py:quick --config.data.manual_dir=DIR

First the whole command of --config. Then processes of their own that make the steps of an epoch on synthetic binary
28 x 28 images and take the NLL of 100 of them, the Table 1 network, one of batch, K (of IWAE) and N varied at a time:
the peak above the resident memory that the packages take, and a straight line fitted to it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from networks import NETWORKS, binary_images
from per_datapoint import resident
from side_by_side import deliver

START = {"batch": 128, "samples": 1, "examples": 10_000}
VARIED = {"batch": (128, 256, 512, 1024), "samples": (1, 5, 20, 50), "examples": (10_000, 50_000, 100_000, 200_000)}
UNITS = {"batch": "example of the batch", "samples": "sample (batch of 128)", "examples": "training example"}


def peak(batch, samples, examples):
    """Bytes above those before the data were made: (steps, NLL)."""
    import jax

    from vae_jax.commands import configuration
    from vae_jax.data.splits import Split, assemble
    from vae_jax.evaluation import bounds
    from vae_jax.parallel import devices
    from vae_jax.training import program
    from vae_jax.training import setup as setups

    jax.block_until_ready(jax.jit(lambda x: x + 1)(0))  # the compiler is there before the count begins
    before = resident("VmRSS")
    config = configuration.default()
    config.data.binarization, config.train.batch_size = "none", batch
    config.train.epochs = 1
    config.model.hidden, config.model.latent_dim, config.model.activation = NETWORKS["table1"]
    config.objective.name, config.objective.num_samples = "iwae", samples
    config = configuration.validate(config)
    image = binary_images(examples).reshape(-1, 28, 28, 1)
    dataset = assemble("synthetic", *[Split(image[:n]) for n in (examples, 1, 100)], {}, (0.0, 1.0))
    setup = setups.make_setup(config, 1, dataset)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    hyper = devices.put_replicated(setup.mesh, setups.hyperparameters(config))
    arrays, state = program.training_data(setup), setups.make_init(setup)()
    state, _ = jax.block_until_ready(program.make_program(setup)(min(setup.epoch_steps, 20))(hyper, state, arrays))
    steps = resident("VmHWM") - before
    Path("/proc/self/clear_refs").write_text("5")
    chosen = setups.run_examples(setup, state.params, "test")
    spread = devices.ONE_DEVICE
    bounds.likelihood_numbers(setup.model, state.params, chosen, config.eval, spread, lambda done: None)
    return steps, resident("VmHWM") - before


def peak_of(**varied):
    options = [f"--{name}={value}" for name, value in {**START, **varied}.items()]
    output = subprocess.run([sys.executable, __file__, "--peak", *options], check=True, capture_output=True, text=True)
    return json.loads(output.stdout.splitlines()[-1])


def whole_command(flags):
    """Peak resident bytes of the command itself."""
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, "-m", "vae_jax.main", *flags, f"--workdir={workdir}/run"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"the run stopped with status {os.waitstatus_to_exitcode(status)}")
    return used.ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="experiments/digits.py")
    parser.add_argument("--out", help="FILE.json for all numbers")
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    for name, value in START.items():
        parser.add_argument(f"--{name}", type=int, default=value, help=argparse.SUPPRESS)
    flags, rest = parser.parse_known_args()
    if flags.peak:
        print(json.dumps(peak(flags.batch, flags.samples, flags.examples)))
        return
    whole = whole_command([f"--config={flags.config}", *rest])
    print(f"whole command of {flags.config}: peak resident {whole / 1e6:.0f} MB")
    rows, results = [], {"config": flags.config, "whole_command": whole, "peaks": {}}
    for name, values in VARIED.items():
        peaks = np.array([peak_of(**{name: value}) for value in values])
        slope = np.polyfit(values, peaks[:, 0], 1)[0]
        results["peaks"][name] = {"values": values, "steps_nll": peaks.tolist(), "bytes_each": slope}
        spelled = ", ".join(f"{value:,}: {p / 1e6:.0f}" for value, p in zip(values, peaks[:, 0], strict=True))
        rows.append((name, spelled, f"{slope / 1e3:.2f} kB for each {UNITS[name]}", f"{np.ptp(peaks[:, 1]) / 1e6:.0f}"))
    deliver("memory", ("", "MB while training", "slope", "NLL's peak varies by MB"), rows, results, flags.out)


if __name__ == "__main__":
    main()
