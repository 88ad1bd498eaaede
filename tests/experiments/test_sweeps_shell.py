"""The sweeps of experiments/sweeps: what they would run is valid, and what becomes of runs that end, fail or stop.

Most tests put a `python` on the PATH that stands in for the training command and leaves what it was asked.
"""

import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vae_jax import config as configs
from vae_jax.commands import configuration
from vae_jax.runs import directory

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path for path in (ROOT / "experiments" / "sweeps").glob("*.sh") if path.name != "run.sh")
PICTURES = {  # one run of each setting, and a picture of them: how many, and the command that draws it
    "cifar10_ae": (4, "python -m vae_jax.report"),
    "prior_estimate": (5, "python experiments/analysis/prior_estimate.py"),
    "sigma": (7, "python experiments/analysis/sigma.py"),
}
SWEEPS = [path for path in SCRIPTS if path.stem not in PICTURES]
SEEDS = ROOT / "experiments" / "sweeps" / "seeds.sh"  # ten runs
FAKE = r"""#!/usr/bin/env bash
case $1 in *finished.py) exec "$REAL_PYTHON" "$@" ;; esac
echo "$@" >> "$CALLS"
[ "$2" = vae_jax.main ] || exit 0
for argument in "$@"; do case $argument in --workdir=*) directory=${argument#--workdir=} ;; esac; done
echo "begin $(date +%s%N)" >> "$CALLS.times"
case $directory in *${FAIL:-none}) echo "it broke"; exit 3 ;; esac
case $directory in *${HANG:-none}) echo $$ >> "$CALLS.hung"; exec sleep 600 ;; esac
sleep "${SECONDS_EACH:-0}"
exec "$REAL_PYTHON" -c "$WRITE" "$directory" "$@"
"""
WRITE = """
import json, pathlib, sys
root, argv = pathlib.Path(sys.argv[1]), ["main.py", *sys.argv[4:]]
root.mkdir(parents=True)
for name, value in (("config", {}), ("environment", {"argv": argv}), ("summary", {"complete": True})):
    (root / f"{name}.json").write_text(json.dumps(value))
"""


# A shell that was started with SIGINT ignored, as in the background, cannot trap it.
UNIGNORED = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execvp(sys.argv[1], sys.argv[1:])"


@pytest.fixture
def start(tmp_path):
    """start(script, *arguments, **variables) -> the running sweep, with the stand-in for python on its PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "python").write_text(FAKE)
    (folder / "python").chmod(0o755)
    experiment = tmp_path / "digits.py"
    shutil.copy(ROOT / "experiments" / "digits.py", experiment)
    os.utime(experiment, (1e9, 1e9))
    own = {"CONFIG": str(experiment), "RUNS": str(tmp_path / "runs"), "CALLS": str(tmp_path / "calls")}
    own |= {"PATH": f"{folder}:{os.environ['PATH']}", "REAL_PYTHON": sys.executable, "WRITE": WRITE}
    begun = []

    def start(script, *arguments, **variables):
        command = [sys.executable, "-c", UNIGNORED, "bash", str(script), *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        environment = {**os.environ, **own, **variables}
        begun.append(
            subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, start_new_session=True, **pipes)
        )
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.communicate()


@pytest.fixture
def sweep(start):
    """sweep(script, *arguments, **variables) -> (exit status, stdout, stderr)."""

    def sweep(*arguments, **variables):
        process = start(*arguments, **variables)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    return sweep


def calls(tmp_path):
    """The commands that were run, and forgets them."""
    path = tmp_path / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return [line.split() for line in lines]


# What they would run.


def dry(script, *arguments, **variables):
    environment = {**os.environ, "DRY_RUN": "1", **variables}
    done = subprocess.run([str(script), *arguments], env=environment, capture_output=True, text=True, check=True)
    assert not done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


def configured(command):
    """The validated configuration of a command, as the training command would read it."""
    flags = dict(argument[2:].split("=", 1) for argument in command if argument.startswith("--"))
    path, _, variant = flags.pop("config").partition(":")
    config = configs.from_experiment(ROOT / path, variant)
    flags.pop("workdir")
    for flag, text in flags.items():
        key = flag.removeprefix("config.")
        kind = type(configuration.keys()[key].default)
        config.update_from_flattened_dict({key: kind(text)})
    return configuration.validate(config)


def test_there_are_sweeps():
    names = {path.stem for path in SWEEPS}
    assert names == {"beta", "latent_size", "iwae", "inference", "optimizer", "seeds"}
    assert {path.stem for path in SCRIPTS} - names == set(PICTURES)
    assert all(path.stat().st_mode & stat.S_IXUSR for path in SCRIPTS)


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_of_valid_runs(name, tmp_path):
    count, drawing = PICTURES[name]
    *runs, last = dry(ROOT / "experiments" / "sweeps" / f"{name}.sh", RUNS=str(tmp_path / "runs"))
    found = [configured(command) for command in runs]
    assert len({config.to_json_best_effort() for config in found}) == len(found) == count
    directories = [command[-1].removeprefix("--workdir=") for command in runs]
    assert last[: len(drawing.split())] == drawing.split()
    assert last[-count:] == directories and len(set(directories)) == count


@pytest.mark.parametrize("config", ["experiments/digits.py", "experiments/mnist.py:quick"])
@pytest.mark.parametrize("script", SWEEPS, ids=lambda path: path.stem)
def test_every_command_is_a_valid_run_of_its_own(script, config, tmp_path):
    *runs, report = dry(script, "--config.train.epochs=7", CONFIG=config, RUNS=str(tmp_path / "runs"))
    found = [configured(command) for command in runs]
    assert all(command[:3] == ["python", "-m", "vae_jax.main"] for command in runs)
    assert len({config.to_json_best_effort() for config in found}) == len(found) >= 9
    assert {config.train.epochs for config in found} == {7}
    directories = [command[-1].removeprefix("--workdir=") for command in runs]
    assert len(set(directories)) == len(runs)
    assert report[:3] == ["python", "-m", "vae_jax.report"] and report[3 : 3 + len(runs)] == directories
    assert report[-1] == f"--out={tmp_path / 'runs' / 'report'}" and not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", SWEEPS, ids=lambda path: path.stem)
def test_the_settings_are_a_full_grid_over_seeds(script):
    *runs, _ = dry(script)
    found = [configs.flat(configured(command)) for command in runs]
    swept = {key for key in found[0] if len({str(config[key]) for config in found}) > 1} - {"seed"}
    seeds = {}
    for config in found:
        seeds.setdefault(tuple(str(config[key]) for key in sorted(swept)), set()).add(config["seed"])
    assert len(set(map(frozenset, seeds.values()))) == 1 and len(next(iter(seeds.values()))) >= 2


@pytest.mark.parametrize(
    "variables, part", [({"JOBS": "0"}, "JOBS=0"), ({"JOBS": "two"}, "JOBS=two"), ({"CONFIG": "no.py"}, "CONFIG=no.py")]
)
def test_a_wrong_variable_is_one_line(sweep, variables, part):
    status, out, err = sweep(SEEDS, **variables)
    assert status == 2 and not out and err.startswith(f"error: {part}: ") and err.count("\n") == 1


# What becomes of the runs.


def test_all_runs_then_the_report_and_the_second_time_only_that(sweep, tmp_path):
    status, out, err = sweep(SEEDS, "--config.train.epochs=3", JOBS="5")
    assert status == 0 and not err, err
    *runs, report = calls(tmp_path)
    directories = [str(tmp_path / "runs" / f"seed={seed}") for seed in range(10)]
    assert sorted(command[-1] for command in runs) == [f"--workdir={directory}" for directory in directories]
    assert report[1:] == ["vae_jax.report", *directories, f"--out={tmp_path / 'runs' / 'report'}"]
    assert out.count("done ") == 10 and (tmp_path / "runs" / "logs" / "seed=0.log").exists()
    status, out, _ = sweep(SEEDS, "--config.train.epochs=3")
    assert status == 0 and out.count("finished ") == 10 and calls(tmp_path) == [report]
    assert (
        sweep(SEEDS, "--config.train.epochs=4")[1].count("started ") == 10
    )  # another command: let it say what it says


def test_a_failed_run_stops_no_other_and_is_reported(sweep, tmp_path):
    status, out, err = sweep(SEEDS, JOBS="4", FAIL="seed=3")
    log = tmp_path / "runs" / "logs" / "seed=3.log"
    assert status == 1 and out.count("done ") == 9
    assert err == f"FAILED    seed=3: exit status 3, log {log}: it broke\n" and log.read_text() == "it broke\n"
    assert calls(tmp_path)[-1][1] == "vae_jax.report"
    status, out, _ = sweep(SEEDS)
    assert status == 0 and out.count("finished ") == 9 and out.count("done ") == 1


def test_no_more_than_so_many_at_once(sweep, tmp_path):
    """Ten runs of 0.4 s, five at a time: the sixth begins when the first has ended."""
    assert sweep(SEEDS, JOBS="5", SECONDS_EACH="0.4")[0] == 0
    begun = [int(line.split()[1]) / 1e9 for line in (tmp_path / "calls.times").read_text().splitlines()]
    begun.sort()
    assert len(begun) == 10 and all(begun[i + 5] - begun[i] >= 0.4 for i in range(5))


@pytest.mark.parametrize(
    "number, status", [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_stopping_the_sweep_stops_its_runs(start, tmp_path, number, status):
    """Ctrl-C reaches the group, as from a terminal; a kill the script alone. No run is left, the report is not made."""
    process, hung = start(SEEDS, JOBS="3", HANG="seed=[0-9]"), tmp_path / "calls.hung"
    deadline = time.monotonic() + 120
    while not hung.exists() or len(hung.read_text().split()) < 3:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == status and err == "stopped: the same command goes on\n"
    assert len(calls(tmp_path)) == 3
    for pid in map(int, hung.read_text().split()):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_run_without_a_directory_is_refused(sweep, tmp_path):
    script = tmp_path / "mine.sh"
    script.write_text(f"set -euo pipefail\n. {ROOT}/experiments/sweeps/run.sh\nrun python -m vae_jax.main\n")
    status, _, err = sweep(script)
    assert status == 2 and err == "error: run needs --workdir=DIR: python -m vae_jax.main\n"


# What counts as finished.


@pytest.fixture
def asked(tmp_path):
    """asked(**changes) -> whether finished.py takes a run, made as changed, for finished."""
    config = f"--config={tmp_path / 'e.py'}:quick"
    command = ["python", "-m", "vae_jax.main", config, "--config.seed=1"]
    program = ROOT / "experiments" / "sweeps" / "finished.py"

    def asked(argv=("main.py", config, "--config.seed=1"), summary='{"complete": true}', older=True):
        experiment = tmp_path / "e.py"
        experiment.touch()
        (tmp_path / "run").mkdir(exist_ok=True)
        files = {"environment": json.dumps({"argv": argv}), "summary": summary, "config": "{}"}
        for name, text in files.items():
            (tmp_path / "run" / f"{name}.json").write_text(text)
        if older:
            os.utime(experiment, (1e9, 1e9))
        else:
            os.utime(experiment, (4e9, 4e9))
        arguments = [str(tmp_path / "run"), *command]
        return subprocess.run([sys.executable, str(program), *arguments]).returncode == 0

    asked.config = config
    return asked


def test_finished_is_what_this_very_command_made(asked):
    assert asked()
    assert not asked(summary='{"complete": false}')
    assert not asked(summary='{"compl')
    assert not asked(argv=["main.py", asked.config, "--config.seed=2"])
    assert not asked(argv=["main.py", asked.config])
    assert not asked(argv=[])
    assert not asked(argv=["x"] * 9)
    assert not asked(older=False)


TWO = """set -euo pipefail
. {root}/experiments/sweeps/run.sh
for seed in 0 1; do
  run python -m vae_jax.main --config="$CONFIG" --config.seed=$seed "$@" --workdir="$RUNS/seed=$seed"
done
finish python -m vae_jax.report "${{runs[@]}}" --out="$RUNS/report"
"""


@pytest.mark.slow
def test_a_sweep_that_trains(tmp_path):
    """Two seeds on few digits at once, one table of them, and nothing is trained twice."""
    script = tmp_path / "two.sh"
    script.write_text(TWO.format(root=ROOT))
    small = ["data.num_train=200", "model.hidden=8", "model.latent_dim=2", "train.epochs=2", "train.batch_size=100"]
    small += ["eval.num_samples=10", "eval.elbo_samples=2", "eval.train_examples=0", "eval.max_examples=100"]
    unset = ("NPROC", "PJRT_NPROC", "XLA_FLAGS")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"JAX_PLATFORMS": "cpu", "JOBS": "2", "RUNS": str(tmp_path / "runs")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    command = ["bash", script, *(f"--config.{setting}" for setting in small)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done ") == 2 and "over seeds" in done.stdout and "note:" not in done.stdout
    assert {"table.csv", "curves.png"} <= {path.name for path in (tmp_path / "runs" / "report").iterdir()}
    assert all(directory.read_summary(tmp_path / "runs" / f"seed={seed}")["complete"] for seed in range(2))
    again = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert again.returncode == 0 and again.stdout.count("finished ") == 2
    assert done.stdout.partition("Mean ±")[2] == again.stdout.partition("Mean ±")[2]
