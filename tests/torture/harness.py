"""Kills, stops, bad values and bad files, by the hundred: what a run survives, counted.

    python tests/torture/harness.py --out=DIR

does all of it, --kills=25 and the like less of one kind. It prints a line for each kind of torture and exits with 1 if
anything was not as promised; test_torture.py does a part.
"""

import argparse
import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
SMALL = {
    "data.num_train": 400,
    "data.binarization": "threshold",
    "model.hidden": 16,
    "train.epochs": 30,
    "train.log_every": 2,
    "train.checkpoint_every": 2,
    "eval.num_samples": 10,
    "eval.max_examples": 50,
    "eval.train_examples": 50,
    "fit.max_steps": 50,
    "figures.count": 4,
}
DIGITS = ["--config=experiments/digits.py:two_quick", *(f"--config.{key}={value}" for key, value in SMALL.items())]
KINDS = ("amortized", "per_datapoint", "semi_amortized", "constant")
RUNS = {kind: ["vae_jax.main", *DIGITS, f"--config.inference.kind={kind}"] for kind in KINDS}
RUNS["sweep"] = ["vae_jax.sweep", *DIGITS, "--sweep.seed=0:3"]


def start(arguments, workdir, cache, **pipes):
    """The command as a shell would start it, its compiled programs kept in `cache`."""
    unset = ("NPROC", "PJRT_NPROC", "JAX_NUM_CPU_DEVICES")
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    environment = kept | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(cache)}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", *arguments, f"--workdir={workdir}"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE} | pipes
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, text=True, **pipes)


def outcome(workdir):
    """What must not depend on how often a run was stopped: parameters, records and numbers, times left out."""
    from vae_jax.runs import directory, load

    found: dict[str, Any] = {}
    for config in sorted(Path(workdir).rglob("config.json")):
        run = config.parent
        timeless = lambda record: {name: value for name, value in record.items() if name != "seconds"}
        summary: Any = directory.read_summary(run)
        leaves = {path: np.asarray(leaf).tobytes() for path, leaf in leaves_of(load.load_run(run).params).items()}
        found[str(run.relative_to(workdir))] = (
            leaves,
            [timeless(record) for record in directory.read_metrics(run)],
            summary["complete"] and summary["splits"],
        )
    return found


def leaves_of(tree, prefix=""):
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {name: leaf for key, value in tree.items() for name, leaf in leaves_of(value, f"{prefix}/{key}").items()}


def interrupted(kind, number, how, out, rng):
    """Trains one run `how`-ed at random moments until it has been `number` times, then to its end; what went wrong."""
    cache, workdir, done, wrong = out / "cache", out / f"{kind}-{how}", 0, []
    for place in (f"{kind}-whole", f"{kind}-{how}-timed"):  # the second has its programs from the first
        began = time.monotonic()
        error = start(RUNS[kind], out / place, cache).communicate()[1]
        if error:
            return 0, [f"{kind}: {error[-300:]}"]
    whole, round_ = time.monotonic() - began, 0
    while done < number:
        place, round_ = workdir.with_name(f"{workdir.name}-{round_}"), round_ + 1
        while done < number:
            process = start(RUNS[kind], place, cache)
            try:
                process.wait(rng.uniform(0.3, 1) * whole)
            except subprocess.TimeoutExpired:
                process.send_signal(getattr(signal, how))
                done += 1
            error = process.communicate()[1]
            status = process.returncode
            if "Traceback" in error or status not in (0, -signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM):
                wrong.append(f"{kind}, {how}: status {status}: {error[-300:]}")
            if status == 0:
                break
        process = start(RUNS[kind], place, cache)
        error = process.communicate()[1]
        if process.returncode or outcome(place) != outcome(out / f"{kind}-whole"):
            wrong.append(f"{kind}: {place} is not the run that nobody stopped: {error[-300:]}")
    return done, wrong


def repeated(kind, out):
    """The same command in another directory: equal parameters, records, numbers and bytes of every picture."""
    process = start(RUNS[kind], out / f"{kind}-again", out / "cache")
    process.communicate()
    pictures = lambda place: {p.name: p.read_bytes() for p in sorted((out / place).rglob("*.png"))}
    same = outcome(out / f"{kind}-again") == outcome(out / f"{kind}-whole")
    same = same and pictures(f"{kind}-again") == pictures(f"{kind}-whole")
    return 1, [] if same else [f"{kind}: a second run of the same command differs"]


def cold(count, out):
    """So many runs at once that share one empty cache of programs, each with a seed of its own."""
    commands = [[*RUNS["amortized"], f"--config.seed={seed}"] for seed in range(count)]
    with ThreadPoolExecutor(count) as pool:
        started = [start(command, out / f"cold-{i}", out / "cold-cache") for i, command in enumerate(commands)]
        errors = list(pool.map(lambda process: process.communicate()[1], started))
    return count, [error[-300:] for process, error in zip(started, errors, strict=True) if process.returncode]


def steps(count, out):
    """One run of so many steps: from its first fifth on it takes at most 10 MB more, and its records are whole."""
    from vae_jax.runs import directory

    changes = {"train.epochs": count // 4, "train.log_every": 100, "train.eval_every": count // 40}
    flags = [f"--config.{key}={value}" for key, value in (changes | {"train.checkpoint_every": count // 40}).items()]
    process = start([*RUNS["amortized"], *flags], out / "steps", out / "cache")
    memory = []
    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError, IndexError):
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            done = len((out / "steps" / directory.METRICS).read_bytes().splitlines()) * 100
            memory.append((done, pages * os.sysconf("SC_PAGE_SIZE") / 1e6))
        time.sleep(0.5)
    late = np.array([pair for pair in memory if count / 5 < pair[0] < count])
    slope = np.polyfit(late[:, 0], late[:, 1], 1)[0] * count
    grown = f"memory {late[0, 1]:.0f} to {late[-1, 1]:.0f} MB, slope {slope:+.1f} MB in {count:,} steps"
    print(grown, flush=True)
    records = [record["step"] for record in directory.read_metrics(out / "steps") if record["split"] == "train"]
    whole = process.returncode == 0 and records == [*range(100, count + 1, 100)]
    return count, [grown] * int(late[-1, 1] - late[0, 1] > 10) + ["records are missing"] * (not whole)


VALUES = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2**31,
    2**63,
    10**12,
    -(10**12),
    0.5,
    -0.0,
    1e30,
    1e-30,
    float("nan"),
    float("inf"),
]
VALUES += ["", "nan", "elbo", "normal", "x" * 300, "../..", "\0", (), (0,), (1, 1), (10**9,), ("a",), [], {}, b"x", 1j]


def unlike_promised(action, refusal, what):
    """[] where the action does its work or refuses it in one line, else [what is wrong]."""
    try:
        action()
    except refusal as error:
        return [f"{what}: more than a line"] * ("\n" in str(error))
    except Exception as error:
        return [f"{what}: {type(error).__name__}: {error}"]
    return []


def configs(count, rng):
    """One to three keys at values of any kind, through the validator: accepted, or one line."""
    from vae_jax.commands import configuration
    from vae_jax.errors import ConfigError

    keys, wrong = list(configuration.keys()), []
    for _ in range(count):
        config, chosen = (
            configuration.default(),
            {key: rng.choice(VALUES) for key in rng.sample(keys, rng.randint(1, 3))},
        )
        for key, value in chosen.items():
            owner = config
            *groups, last = key.split(".")
            for group in groups:
                owner = owner[group]
            with owner.ignore_type():
                owner[last] = value
        wrong += unlike_promised(partial(configuration.validate, config), ConfigError, chosen)
    return count, wrong


def commands(count, out, rng):
    """One key at a bad value, by the real command: one line and status 2, or a run; never a traceback or a minute."""
    from vae_jax.commands import configuration

    keys, wrong = list(configuration.keys()), []
    for number in range(count):
        value = rng.choice(["nan", "-1", "1e12", "", "x", "1,2", "[]", "None", "99999999999", "\u00e9", "-0.5"])
        flag, began = f"--config.{rng.choice(keys)}={value}", time.monotonic()
        process = start([*RUNS["amortized"], "--config.train.epochs=1", flag], out / f"command-{number}", out / "cache")
        try:
            error = process.communicate(timeout=60)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            wrong.append(f"{flag}: still running after {time.monotonic() - began:.0f} s")
            continue
        lines = [line for line in error.splitlines() if not line.startswith(("warning:", "note:"))]
        if process.returncode not in (0, 2) or len(lines) != (process.returncode == 2):
            wrong.append(f"{flag}: status {process.returncode}: {error[-300:]}")
    return count, wrong


def arrays(count, out, rng):
    """Generated .npz files, most of them broken in one of a dozen ways, through the loader: a data set, or one line."""
    from vae_jax.commands import configuration
    from vae_jax.data import datasets
    from vae_jax.errors import DataError

    wrong, path = [], out / "torture.npz"
    for number in range(count):
        path.write_bytes(broken_npz(np.random.default_rng(rng.getrandbits(32))))
        config = configuration.default().data
        config.name, config.path = "npz", str(path)
        config.binarization = rng.choice(["none", "dynamic", "fixed", "threshold"])
        config.condition = rng.choice(["none", "label", "upper"])
        wrong += unlike_promised(partial(datasets.load, config), DataError, number)
    return count, wrong


def broken_npz(rng):
    """Bytes of an .npz of x, y and condition with shapes and types at random, then perhaps cut, flipped or renamed."""
    dtypes = ["u1", "?", "f4", "f8", "f2", "i8", "c8", "U2", "M8[D]", "S3"]
    shape = lambda: tuple(int(n) for n in rng.choice([0, 1, 2, 3, 7], rng.integers(0, 4)))
    members = {}
    for name in ("x_train", "x_test", "x_valid", "y_train", "y_test", "condition_train", "condition_test"):
        if rng.random() < (0.95 if name in ("x_train", "x_test") else 0.3):
            values = rng.integers(0, 300, (int(rng.choice([0, 1, 5, 40])), *shape()) if rng.random() < 0.9 else ())
            array = np.asarray(values.astype(rng.choice(dtypes)))
            if array.dtype.kind == "f" and array.size and rng.random() < 0.3:
                array.flat[0] = rng.choice([np.nan, np.inf, -6e4])
            members[name] = array
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in members.items():
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr(name + (".npy" if rng.random() < 0.95 else ""), content.getvalue())
    data = bytearray(stream.getvalue())
    for _ in range(int(rng.choice([0, 0, 0, 1, 3]))):
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    return bytes(data[: int(rng.integers(len(data)))] if rng.random() < 0.1 else data)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a directory for the runs")
    for name, count in {
        "kills": 100,
        "terms": 30,
        "configs": 1500,
        "commands": 60,
        "arrays": 500,
        "cold": 8,
        "steps": 100_000,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=count)
    asked, rng = parser.parse_args(), random.Random(0)
    asked.out.mkdir(parents=True)
    share = lambda total: -(-total // len(RUNS))
    stopped = lambda kind, total, how: interrupted(kind, share(total), how, asked.out, rng)
    jobs = {f"SIGKILL, {kind}": partial(stopped, kind, asked.kills, "SIGKILL") for kind in RUNS}
    jobs |= {f"SIGTERM, {kind}": partial(stopped, kind, asked.terms, "SIGTERM") for kind in RUNS}
    jobs |= {f"again, {kind}": partial(repeated, kind, asked.out) for kind in RUNS}
    jobs["at once, cold cache"] = lambda: cold(asked.cold, asked.out)
    jobs["configurations"] = lambda: configs(asked.configs, rng)
    jobs["commands"] = lambda: commands(asked.commands, asked.out, rng)
    jobs["arrays"] = lambda: arrays(asked.arrays, asked.out, rng)
    jobs["steps"] = lambda: steps(asked.steps, asked.out)
    failed = []
    for name, job in jobs.items():
        began = time.monotonic()
        count, wrong = job()
        took = round(time.monotonic() - began)
        print(json.dumps({"torture": name, "count": count, "wrong": wrong, "seconds": took}), flush=True)
        failed += wrong
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
