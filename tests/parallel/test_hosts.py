"""Two processes with two virtual CPU devices each, on the loopback interface, train what one process of four does."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

from vae_jax import config as configs
from vae_jax import main
from vae_jax.commands import configuration, train
from vae_jax.errors import DeviceError, RunError
from vae_jax.parallel import devices, processes
from vae_jax.runs import checkpoint, directory, load
from vae_jax.training import setup as setups

ROOT = Path(__file__).parents[2]
SECONDS = 600  # for what takes ten or twenty on a quiet machine

RUN = {  # plain SGD, 4 steps an epoch, 5 epochs; what is measured and drawn at the end is little
    "data.num_train": 400,
    "data.binarization": "fixed",
    "model.hidden": (8,),
    "optimizer.name": "sgd",
    "optimizer.momentum": 0.0,
    "optimizer.learning_rate": 0.02,
    "optimizer.schedule": "constant",
    "train.epochs": 5,
    "train.log_every": 4,
    "train.eval_every": 3,
    "train.checkpoint_every": 3,
    "eval.elbo_samples": 1,
    "eval.num_samples": 2,
    "eval.max_examples": 50,
    "eval.train_examples": 0,
    "figures.count": 4,
}
AMORTIZED = {**RUN, "train.eval_every": 5}
PER_DATAPOINT = {
    **RUN,
    "train.select": "best",
    "inference.kind": "per_datapoint",
    "fit.max_steps": 20,
    "eval.train_examples": 30,
}
LONG = {**RUN, "train.epochs": 60, "train.checkpoint_every": 20, "train.eval_every": 60}


def arguments(settings):
    spelled = lambda value: ",".join(map(str, value)) if isinstance(value, tuple) else value
    return [
        f"--config={ROOT / 'experiments/digits.py'}:two",
        *(f"--config.{key}={spelled(value)}" for key, value in settings.items()),
    ]


class Process(NamedTuple):
    running: subprocess.Popen
    output: Path  # both streams

    def status(self, seconds=SECONDS):
        return self.running.wait(seconds)

    def said(self):
        return self.output.read_text(errors="replace")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """pair(workdir, settings, *flags) -> two Processes that train together; none outlives this file."""
    directory, begun = tmp_path_factory.mktemp("hosts"), []
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    common = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2", "NPROC": "8", "PJRT_NPROC": "8"}
    common["PYTHONPATH"] = str(ROOT)
    cache = {"JAX_COMPILATION_CACHE_DIR": str(directory / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}

    def start(number, flags, variables, cwd):
        output = directory / f"{len(begun)}.txt"
        command = [sys.executable, "-m", "vae_jax.main", *map(str, flags)]
        with output.open("wb") as stream:
            options = {"stdout": stream, "stderr": stream, "stdin": subprocess.DEVNULL, "cwd": cwd}
            begun.append(subprocess.Popen(command, env=kept | common | cache | variables, **options))
        return Process(begun[-1], output)

    def pair(workdir, settings, *flags, each=({}, {}), own=((), ()), cwds=(ROOT, ROOT)):
        port = free_port()
        told = [f"--coordinator=127.0.0.1:{port}", "--num_processes=2"]
        return [
            start(
                i,
                [*arguments(settings), f"--workdir={workdir}", *joining(i, told, each[i]), *flags, *own[i]],
                v,
                cwds[i],
            )
            for i, v in enumerate(with_port(each, port))
        ]

    yield pair
    for process in begun:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()


def joining(number, told, variables):
    """The flags by which a process finds the others, none where the environment tells it."""
    return [] if variables else [*told, f"--process_id={number}"]


def with_port(each, port):
    """The environments, with the address to listen at in those that tell a process what it is."""
    place = {"JAX_COORDINATOR_PORT": str(port), "JAX_COORDINATOR_BIND_ADDRESS": f"127.0.0.1:{port}"}
    return [variables | place if variables else {} for variables in each]


def slurm(number):
    """What srun tells the second of two tasks, or the first."""
    count = {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "127.0.0.1"}
    return {**count, "SLURM_JOB_ID": "1", "SLURM_PROCID": str(number), "SLURM_LOCALID": str(number)}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def require_success(processes):
    for process in processes:
        assert process.status() == 0, process.said()


def config_of(settings):
    config = configs.from_experiment(ROOT / "experiments/digits.py", "two")
    config.update_from_flattened_dict(settings)
    return configuration.validate(config)


def state_at(workdir, step=None):
    """The newest State in a run's checkpoints."""
    setup = setups.make_setup(load.read_config(workdir), 1)
    return checkpoint.restore(Path(workdir) / "checkpoints", setups.abstract_state(setup), step)


def records(workdir):
    return [{**record, "seconds": 0} for record in directory.read_metrics(workdir)]


def require_close(workdir, other):
    """The same parameters, table and metrics to the order of float32 sums."""
    ours, theirs = state_at(workdir), state_at(other)
    assert ours.step == theirs.step
    for a, b in zip(*map(jax.tree.leaves, ((ours.params, ours.table), (theirs.params, theirs.table))), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    kept = lambda workdir: [record for record in records(workdir) if record["split"] != "test"]
    for a, b in zip(kept(workdir), kept(other), strict=True):
        assert a.pop("split") == b.pop("split") and a == pytest.approx(b, rel=1e-4)


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """alone(settings, workdir) trains, or resumes, in this process on four devices, and measures nothing at the end."""
    monkeypatch.setattr(train, "finish", lambda *_: {"splits": {"test": {"elbo": {"value": 0.0, "unit": "nats"}}}})

    def alone(settings, workdir=tmp_path / "alone"):
        train.train_run(config_of(settings), workdir, 4)
        return workdir

    return alone


def require_as_alone(pair, alone, tmp_path, settings, **how):
    """Two processes from beginning to end; parameters, table and metrics are those of one. Returns their outputs."""
    workdir = tmp_path / "together"
    processes = pair(workdir, settings, **how)
    one = alone(settings)
    require_success(processes)
    require_close(workdir, one)
    start = setups.make_init(setups.make_setup(config_of(settings), 1))()
    moved = zip(*map(jax.tree.leaves, (start.params, state_at(workdir).params)), strict=True)
    assert max(np.abs(a - b).max() for a, b in moved) > 0.01
    assert directory.read_environment(workdir)["processes"] == 2
    summary = directory.read_summary(workdir)
    assert summary["complete"] and (workdir / "report.html").exists() and summary["figures"]
    return workdir, [process.said() for process in processes]


def test_two_processes_are_one_of_four_devices(pair, alone, tmp_path):
    """20 steps of plain SGD, amortized; the first process talks, both say at the start how to go on after a death."""
    workdir, (first, second) = require_as_alone(pair, alone, tmp_path, AMORTIZED)
    for number, said in enumerate((first, second)):
        assert f"process    {number} of 2: if one dies all stop" in said
        assert "the same command on every process resumes" in said
    assert "devices    4 of 4 (cpu), of 2 processes" in first and "test   nll" in first
    assert "devices" not in second and "elbo" not in second
    assert [record["split"] for record in records(workdir)].count("test") == 1
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"12", "20"}


@pytest.mark.slow
def test_per_datapoint_rows_are_kept_by_the_process_that_owns_their_streams(pair, alone, tmp_path):
    """The same with a table, whose rows are spread over the processes; these are found as srun tells them."""
    workdir, _ = require_as_alone(pair, alone, tmp_path, PER_DATAPOINT, each=(slurm(0), slurm(1)))
    assert state_at(workdir).table.q_params["mean"].shape == (400, 2) and (workdir / "checkpoints" / "best").is_dir()
    assert directory.read_summary(workdir)["splits"]["train"]["elbo"]["value"] < 0


@pytest.fixture(scope="module")
def undisturbed(pair, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    require_success(pair(workdir, LONG))
    return workdir


def kill_between_checkpoints(workdir, processes, number):
    """SIGKILL for one of the processes when metrics have gone beyond a checkpoint; seconds until the other is down."""
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        assert all(process.running.poll() is None for process in processes), processes[0].said()
        saved = checkpoint.latest_step(workdir / "checkpoints")
        if saved and records(workdir)[-1]["step"] > saved:
            killed = time.monotonic()
            processes[number].running.kill()
            assert processes[number].status() == -signal.SIGKILL
            assert processes[1 - number].status(60) != 0, "the other must not end as if all were well"
            return time.monotonic() - killed
        time.sleep(0.001)
    raise AssertionError("it never came that far")


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 0])
def test_when_one_is_killed_the_other_stops_and_both_resume(number, pair, alone, undisturbed, tmp_path):
    """Down within 60 s; two processes resume bit for bit, and one of four devices to the order of float32 sums."""
    workdir = tmp_path / "killed"
    processes = pair(workdir, LONG)
    assert kill_between_checkpoints(workdir, processes, number) < 60
    assert "the same command on every process resumes" in processes[1 - number].said()
    saved = checkpoint.latest_step(workdir / "checkpoints")
    assert 0 < saved < 240 and directory.read_summary(workdir) is None
    fewer = shutil.copytree(workdir, tmp_path / "fewer")
    processes = pair(workdir, LONG)
    require_success(processes)
    assert f"from step {saved:,} on" in processes[0].said()
    for ours, theirs in zip(*map(jax.tree.leaves, (state_at(workdir), state_at(undisturbed))), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert records(workdir) == records(undisturbed)
    assert directory.read_summary(workdir)["splits"] == directory.read_summary(undisturbed)["splits"]
    require_close(alone(LONG, fewer), undisturbed)


# ---- mistakes end all processes, soon, with a line from each


def require_lines(processes, *parts):
    """Each process ends with status 2 and one line of its own."""
    for process, part in zip(processes, parts, strict=True):
        assert process.status() == 2, process.said()
        errors = [line for line in process.said().splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and part in errors[0] and "Traceback" not in process.said(), process.said()


@pytest.mark.slow
def test_a_mistake_of_one_process_is_told_by_all(pair, tmp_path):
    """Another configuration, a file that one host lacks, a directory that they do not share."""
    ways = pair(tmp_path / "seeds", RUN, own=(["--config.seed=1"], ["--config.seed=2"]))
    require_lines(ways, *["process 1 has configuration"] * 2)
    homes = [tmp_path / name for name in ("first", "second")]
    for home in homes:
        home.mkdir()
    np.savez(homes[0] / "data.npz", x_train=np.eye(444, 4, dtype=np.float32), x_test=np.eye(4, dtype=np.float32))
    settings = {**RUN, "data.name": "npz", "data.path": "~/data.npz"}
    each = [slurm(number) | {"HOME": str(home)} for number, home in enumerate(homes)]
    require_lines(
        pair(tmp_path / "homes", settings, each=each), "process 1: config.data.path", "error: config.data.path"
    )
    assert not (tmp_path / "homes").exists() and not (tmp_path / "seeds").exists()
    config = config_of(RUN)
    environment, info = {"started": "before"}, {"num_train": 400}
    directory.open_run(homes[0] / "run", config.to_dict(), info, environment)
    require_lines(pair("run", RUN, cwds=homes), *["shared filesystem"] * 2)


def test_waiting_for_a_run_that_is_elsewhere_ends(tmp_path):
    with pytest.raises(RunError, match="shared filesystem"):
        directory.wait_for(tmp_path, "now", seconds=0)
    (tmp_path / "environment.json").write_text('{"started": "now"}')
    directory.wait_for(tmp_path, "now", seconds=0)
    with pytest.raises(RunError, match="another directory"):
        directory.wait_for(tmp_path, "later", seconds=0)


# ---- how processes find each other


@pytest.mark.parametrize(
    "given, environment, expected",
    [
        ((), {}, None),
        ((None, 1, None), slurm(0), None),
        ((None, 1, 0), {"JAX_COORDINATOR_ADDRESS": "a:1"}, None),
        (("a:1", 2, 0), {}, ("a:1", 2, 0)),
        (("auto", None, None), {}, (None, None, None)),
        ((), {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}, ("a:1", 4, 3)),
        (("b:2", None, 0), {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "4"}, ("b:2", 4, 0)),
        ((), slurm(1), (None, None, None)),
        ((), {"SLURM_STEP_NUM_TASKS": "1", "OMPI_COMM_WORLD_SIZE": "1", "TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ((), {"OMPI_COMM_WORLD_SIZE": "2"}, (None, None, None)),
        ((), {"TPU_WORKER_HOSTNAMES": "a,b"}, (None, None, None)),
        ((None, None, 1), {}, (None, None, 1)),
    ],
)
def test_what_is_given_and_what_the_launcher_says(given, environment, expected):
    assert processes.launch(*given, environment=environment) == expected


def test_an_address_or_a_number_that_is_none_is_refused():
    with pytest.raises(DeviceError, match="--coordinator=host: expected HOST:PORT"):
        processes.launch("host", 2, 0, {})
    with pytest.raises(DeviceError, match="JAX_PROCESS_ID=one"):
        processes.launch("a:1", 2, None, {"JAX_PROCESS_ID": "one"})


def test_a_process_that_finds_no_others_is_one_line(tmp_path):
    flags = ["--config=experiments/digits.py:two", f"--workdir={tmp_path}", "--process_id=1"]
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    options = {"cwd": ROOT, "env": environment | {"JAX_PLATFORMS": "cpu"}, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-m", "vae_jax.main", *flags], timeout=SECONDS, **options)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "give --coordinator=HOST:PORT, --num_processes and --process_id" in done.stderr


class Device(NamedTuple):
    process_index: int
    id: int


@pytest.fixture
def three_processes(monkeypatch):
    """jax as it looks from one of three processes of four devices each."""
    devices = [Device(process, number) for process in range(3) for number in range(4)]
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(jax, "device_count", lambda: 12)
    monkeypatch.setattr(jax, "devices", lambda: devices)


def test_every_process_has_equally_many_devices(three_processes):
    assert devices.first_devices(6) == [Device(process, number) for process in range(3) for number in range(2)]
    assert [devices.largest_divisor(streams) for streams in (3, 6, 12, 24)] == [3, 6, 12, 12]
    for count in (1, 4, 13):
        with pytest.raises(DeviceError, match="3 processes must have equally many"):
            devices.first_devices(count)
    with pytest.raises(DeviceError, match=r"3 processes cannot share 8 streams: config\.data\.streams must"):
        devices.largest_divisor(8)


def test_alone_nothing_is_asked_of_others(capfd):
    """A process by itself passes through: results, errors and the first's decisions are its own."""
    assert processes.first() and not processes.several()
    for through in (processes.everywhere, processes.on_first, processes.in_turn):
        assert through(lambda: 3) == 3
        with pytest.raises(KeyError):
            through(lambda: {}["nothing"])
    assert processes.agreed(lambda: 1 > 0) and not processes.agreed(lambda: 0 > 1)
    processes.require_same("anything", "anyhow")
    assert main.HEARTBEAT.default < 60 and capfd.readouterr() == ("", "")
