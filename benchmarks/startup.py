"""From the start of the process to the first training step, cold and with the persistent compilation cache.

    python benchmarks/startup.py --config=experiments/digits.py

Every measurement is a process of its own: `import vae_jax`; `import vae_jax.main`; a run until its first record (one
step), without a cache, with an empty one and with that one filled. Cases take turns; medians.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from side_by_side import deliver

LIMIT = 300  # seconds for a first step


def seconds_of(command, **environment):
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **environment})
    return time.perf_counter() - started


def first_step(flags, cache):
    """Seconds until the first record stands in metrics.jsonl; the process is then ended."""
    with tempfile.TemporaryDirectory() as workdir:
        metrics, started = Path(workdir) / "run" / "metrics.jsonl", time.perf_counter()
        command = [
            sys.executable,
            "-m",
            "vae_jax.main",
            *flags,
            "--config.train.log_every=1",
            f"--workdir={workdir}/run",
        ]
        environment = {**os.environ, "VAE_JAX_COMPILATION_CACHE": cache}
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment) as process:
            while not (metrics.exists() and metrics.stat().st_size):
                if process.poll() is not None or time.perf_counter() - started > LIMIT:
                    process.kill()
                    raise SystemExit(f"no first step: {process.stderr.read().decode().strip()}")
                time.sleep(0.005)
            seconds = time.perf_counter() - started
            process.kill()
    return seconds


def measure(flags, rounds):
    """{case: seconds of each round}."""
    python = lambda code: [sys.executable, "-c", code]
    cases = {
        "python": lambda cache: seconds_of(python("pass")),
        "import jax": lambda cache: seconds_of(python("import jax")),
        "import vae_jax": lambda cache: seconds_of(python("import vae_jax")),
        "from vae_jax import elbo_fn": lambda cache: seconds_of(python("from vae_jax import elbo_fn")),
        "first step, no cache": lambda cache: first_step(flags, "off"),
        "first step, empty cache": lambda cache: first_step(flags, cache),
        "first step, filled cache": lambda cache: first_step(flags, cache),
    }
    times = {case: [] for case in cases}
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            for case, act in cases.items():
                times[case].append(act(cache))
        print(f"\rround {number + 1} of {rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--config", default="experiments/digits.py")
    parser.add_argument("--out", help="FILE.json for all times")
    flags, rest = parser.parse_known_args()
    times = measure([f"--config={flags.config}", *rest], flags.rounds)
    rows = [(case, *(f"{q:.2f}" for q in np.quantile(each, [0.5, 0, 1]))) for case, each in times.items()]
    deliver("startup", ("", "median s", "least", "most"), rows, {"config": flags.config, "seconds": times}, flags.out)


if __name__ == "__main__":
    main()
