"""The command as a person types it: a run from beginning to end, killed and resumed, started again, and mistyped."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from vae_jax import main
from vae_jax.commands import configuration, train
from vae_jax.runs import checkpoint, directory, files, load

ROOT = Path(__file__).parents[1]
DIGITS = "--config=experiments/digits.py:two_quick"
SMALL = (
    DIGITS,
    "--config.model.hidden=16",
    "--config.train.epochs=120",
    "--config.train.log_every=56",
    "--config.train.eval_every=40",
    "--config.train.checkpoint_every=20",
    "--config.eval.elbo_samples=5",
    "--config.eval.num_samples=20",
    "--config.eval.train_examples=50",
    "--config.figures.count=9",
)
LAST = 120 * 14  # 1,400 training examples in batches of 100


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """One CPU, and each program compiled once for all processes; a kill may cut an entry short, which jax survives."""
    unset = ("NPROC", "PJRT_NPROC", "JAX_NUM_CPU_DEVICES")
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("cache")), "JAX_PLATFORMS": "cpu"}
    return {**kept, **cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


@pytest.fixture(scope="module")
def start(environment):
    """start(*arguments) -> a running `python -m vae_jax.main`; none outlives this file."""
    begun = []

    def start(*arguments, **variables):
        command = [sys.executable, "-m", "vae_jax.main", *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        begun.append(subprocess.Popen(command, cwd=ROOT, env=environment | variables, text=True, **pipes))
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def run(start):
    """run(*arguments) -> (exit status, stdout, stderr)."""

    def run(*arguments, **variables):
        process = start(*arguments, **variables)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    return run


@pytest.fixture(scope="module")
def finished(run, tmp_path_factory):
    """(workdir, stdout) of a small run on the digits, from beginning to end. Nobody writes into it."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    status, out, err = run(*SMALL, f"--workdir={workdir}")
    assert status == 0, err
    return workdir, out


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run that a test may change."""
    return Path(shutil.copytree(finished[0], tmp_path / "copied"))


def require_one_line(result, *parts):
    status, out, err = result
    assert status == 2, err
    assert not out
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err, err
    for part in parts:
        assert part in err, err


def snapshot(directory):
    """What would give away that anything was written."""
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in [directory, *directory.rglob("*")]}


def parameters(workdir):
    return jax.tree.leaves(load.load_run(workdir).params)


def records(workdir):
    """metrics.jsonl without the one thing that may differ."""
    return [{**record, "seconds": 0} for record in directory.read_metrics(workdir)]


# ---- a run from beginning to end


def test_a_run_directory_is_complete(finished):
    workdir, _ = finished
    names = {re.sub(r"\d{5,}.*", "", path.name) for path in workdir.iterdir()}
    texts = {
        "config.json",
        "environment.json",
        "info.json",
        "data.json",
        "metrics.jsonl",
        "summary.json",
        "report.html",
    }
    assert names == {*texts, ".lock", "checkpoints", "figures", "events.out.tfevents."}
    pictures = {"curves", "reconstructions", "samples", "latent"}
    assert {path.stem for path in (workdir / "figures").glob("*.png")} == pictures
    saved = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert saved == [LAST - 280, LAST]  # the newest two
    assert json.loads((workdir / "config.json").read_text())["train"]["epochs"] == 120
    assert directory.read_info(workdir)["num_train"] == 1400
    assert "--config.train.epochs=120" in directory.read_environment(workdir)["command"]


def test_every_cadence_leaves_its_records(finished):
    by_split = {split: [] for split in ("train", "valid", "test")}
    for record in records(finished[0]):
        by_split[record["split"]].append(record["step"])
        assert record["epoch"] == record["step"] / 14
        assert all(np.isfinite(value) for name, value in record.items() if name != "split")
    assert by_split == {"train": [*range(56, LAST + 1, 56)], "valid": [560, 1120, LAST], "test": [LAST]}


def test_the_summary_holds_plausible_numbers(finished):
    """ELBO = log-likelihood - KL <= log p(x) = -NLL; valid and test agree within noise; bits from nats."""
    summary = directory.read_summary(finished[0])
    assert summary["complete"] and summary["step"] == LAST and summary["epochs"] == 120
    assert summary["num_params"] == sum(leaf.size for leaf in parameters(finished[0]))
    assert list(summary["splits"]) == ["valid", "train", "test"]
    for entries in summary["splits"].values():
        elbo, log_likelihood, kl = (entries[name]["value"] for name in ("elbo", "log_likelihood", "kl"))
        assert abs(elbo - (log_likelihood - kl)) < 1e-4
        assert kl > 0 and -64 * np.log(2) < elbo < 0
        assert abs(entries["elbo_bits_per_dim"]["value"] - elbo / (64 * np.log(2))) < 1e-6
        assert all(entry["unit"] and "stderr" in entry for entry in entries.values())
    test = summary["splits"]["test"]
    assert -test["nll"]["value"] > test["elbo"]["value"] and test["nll"]["num_samples"] == 20
    assert abs(test["elbo"]["value"] - summary["splits"]["valid"]["elbo"]["value"]) < 3
    assert 1 <= test["ess"]["value"] <= 20 and test["active_units"]["value"] == 2


def test_it_learned(finished):
    """Training raises the objective by 1.8 nats from the first record on, and the test ELBO is -25.2: 2 nats apart."""
    train = [record for record in records(finished[0]) if record["split"] == "train"]
    assert train[-1]["objective"] > train[0]["objective"] + 1
    assert directory.read_summary(finished[0])["splits"]["test"]["elbo"]["value"] > -27


def test_the_report_needs_no_other_file(finished):
    page = (finished[0] / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 4
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?!["']|data:|#)|url\((?!data:)|@import""", page)
    test = directory.read_summary(finished[0])["splits"]["test"]
    assert f"{test['nll']['value']:.2f}" in page and "experiments/digits.py:two_quick" in page


def test_a_pipe_gets_plain_lines(finished):
    """What is trained on what, a line for each evaluation, every final number, and where the report is."""
    workdir, out = finished
    assert "\r" not in out and "\033" not in out
    lines = out.splitlines()
    for name, part in [("data", "1,400 training examples"), ("model", "parameters"), ("training", "120 epochs of 14")]:
        assert any(line.startswith(name) and part in line for line in lines), name
    assert any(line.startswith("devices") for line in lines) and f"directory  {workdir}" in lines
    assert sum(", valid: elbo" in line for line in lines) == 3
    assert re.search(r"test +nll +\d\d\.\d+ ± \d\.\d+ nats", out)
    assert lines[-1].split() == ["report", f"{workdir}/report.html"]


# ---- killed, resumed, started again


def kill_when(process, seen, seconds=300):
    """SIGKILL as soon as `seen()`; fails if the process ended before."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if seen():
            process.kill()
            process.communicate()
            assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.001)
    raise AssertionError("it never came that far")


def logged(workdir):
    return directory.read_metrics(workdir) if (workdir / "metrics.jsonl").exists() else []


def between_checkpoints(workdir):
    """Whether metrics have gone beyond the newest checkpoint."""
    saved = checkpoint.latest_step(workdir / "checkpoints")
    return saved and (logged(workdir) or [{"step": 0}])[-1]["step"] > saved


def require_same_run(workdir, other):
    """Parameters bit for bit, metrics but for the clock, final numbers."""
    for ours, theirs in zip(parameters(workdir), parameters(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert records(workdir) == records(other)
    assert directory.read_summary(workdir)["splits"] == directory.read_summary(other)["splits"]


@pytest.mark.slow
def test_killed_twice_and_resumed_it_is_the_uninterrupted_run(finished, start, run, tmp_path):
    """SIGKILL between two checkpoints, again after the test numbers are logged; the third start finishes."""
    workdir = tmp_path / "killed"
    arguments = (*SMALL, f"--workdir={workdir}")
    kill_when(start(*arguments), lambda: between_checkpoints(workdir))
    saved = checkpoint.latest_step(workdir / "checkpoints")
    assert 0 < saved < LAST
    kill_when(start(*arguments), lambda: any(record["split"] == "test" for record in logged(workdir)))
    assert directory.read_summary(workdir) is None
    status, out, err = run(*arguments)
    assert status == 0, err
    assert f"directory  {workdir}, from step {LAST:,} on" in out
    require_same_run(workdir, finished[0])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_times_it_is_the_uninterrupted_run(finished, start, run, tmp_path, seed):
    """Six kills within the time of a whole run, some while a checkpoint, a record or a picture is being written."""
    workdir, rng = tmp_path / "killed", np.random.default_rng(seed)
    arguments = (*SMALL, f"--workdir={workdir}")
    begun = time.monotonic()
    run(*SMALL, f"--workdir={tmp_path / 'whole'}")
    whole = time.monotonic() - begun
    for _ in range(6):
        process = start(*arguments)
        time.sleep(rng.uniform(0.2, 1.0) * whole)
        process.kill()
        process.communicate()
    status, _, err = run(*arguments)
    assert status == 0, err
    require_same_run(workdir, finished[0])


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_written(finished, start, run, tmp_path):
    workdir = tmp_path / "killed"
    arguments = (*SMALL, f"--workdir={workdir}")
    writing = lambda: [*workdir.glob("checkpoints/*.orbax-checkpoint-tmp*")]
    for _ in range(3):
        kill_when(start(*arguments), writing)
        for left in writing():
            shutil.rmtree(left)  # else the next kill would come at once
    status, _, err = run(*arguments)
    assert status == 0, err
    require_same_run(workdir, finished[0])


def test_a_finished_run_says_its_numbers_and_changes_nothing(finished, command):
    workdir, before = finished[0], snapshot(finished[0])
    status, out, _ = command(*SMALL, f"--workdir={workdir}")
    assert status == 0 and f"{workdir} is finished" in out
    summary = [line for line in finished[1].splitlines() if line.startswith("  ")]
    assert len(summary) > 15 and [line for line in out.splitlines() if line.startswith("  ")] == summary
    assert out.splitlines()[-1] == finished[1].splitlines()[-1]
    assert snapshot(workdir) == before


def test_a_run_that_lost_its_report_gets_it_back(copied, command):
    """The report is written after the summary, and a kill may come between."""
    (copied / "report.html").unlink()
    status, out, _ = command(*SMALL, f"--workdir={copied}")
    assert status == 0 and "is finished" in out and (copied / "report.html").exists()


def test_another_config_is_refused_and_nothing_is_damaged(finished, command):
    workdir, before = finished[0], snapshot(finished[0])
    changes = ("--config.model.latent_dim=3", "--config.optimizer.learning_rate=0.5")
    result = command(*SMALL, f"--workdir={workdir}", *changes)
    keys = ("model.latent_dim 2 -> 3", "optimizer.learning_rate 0.003 -> 0.5")
    require_one_line(result, str(workdir), *keys, "another --workdir")
    assert snapshot(workdir) == before


@pytest.mark.slow
def test_a_changeable_key_measures_the_same_parameters_anew(copied, finished, run):
    """More importance samples on a finished run: no training, another NLL, the change on record."""
    status, _, err = run(*SMALL, f"--workdir={copied}", "--config.eval.num_samples=40")
    assert status == 0, err
    for ours, theirs in zip(parameters(copied), parameters(finished[0]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    before, after = (directory.read_summary(workdir)["splits"]["test"] for workdir in (finished[0], copied))
    assert after["nll"]["num_samples"] == 40 and after["nll"]["value"] < before["nll"]["value"]
    assert after["elbo"] == before["elbo"]
    assert [record["split"] for record in records(copied)].count("test") == 1
    assert directory.read_config(copied)["eval"]["num_samples"] == 40 and (copied / "config_history.jsonl").exists()


# ---- mistakes: most in this process, where a case takes milliseconds, and a few as a shell sees them


@pytest.fixture
def experiment(tmp_path):
    """experiment(body) -> the path of an experiment file with that in its get_config."""

    def experiment(body, header="from vae_jax.commands.configuration import default"):
        path = tmp_path / "experiment.py"
        path.write_text(f'{header}\n\n\ndef get_config(variant=""):\n    {body}\n')
        return path

    return experiment


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["--config.model.laten_dim=2"], ["config.model.laten_dim does not exist", "mean config.model.latent_dim?"]),
        (["--config.modle.latent_dim=2"], ["config.modle.latent_dim", "mean config.model.latent_dim?"]),
        (["--config.latent_dim=2"], ["mean config.model.latent_dim?"]),
        (["--config.zzz=2"], ["config.zzz does not exist", "--help"]),
        (["--config.model.latent_dim=two"], ["config.model.latent_dim = 'two'", "an integer"]),
        (["--config.model.latent_dim=2.5"], ["config.model.latent_dim = '2.5'", "an integer"]),
        (["--config.train.epochs="], ["config.train.epochs = ''", "an integer"]),
        (["--config.optimizer.learning_rate=fast"], ["config.optimizer.learning_rate = 'fast'", "a number"]),
        (["--config.model.hidden=wide"], ["config.model.hidden = ('wide',)", "an integer from 1"]),
        (["--config.model=3"], ["--config.model=3", "is not a dict"]),
        (["--config.optimizer.name=adaam"], ["config.optimizer.name = 'adaam'", "adam, adamw"]),
        (["--config.train.batch_size=0"], ["config.train.batch_size = 0", "from 1 to"]),
        (["--config.optimizer.learning_rate=nan"], ["config.optimizer.learning_rate = nan", ">= 0"]),
        (["--wrokdir=x"], ["wrokdir", "workdir"]),
        (["positional"], ["'positional'", "--name=value"]),
        (["--devices=two"], ["--devices=two"]),
        (["--devices=-1"], ["--devices=-1"]),
    ],
)
def test_a_mistyped_argument_is_one_line(command, arguments, parts):
    require_one_line(command(DIGITS, *arguments), *parts)


def test_a_missing_or_early_config_is_one_line(command):
    require_one_line(command(), "--config is missing", "--config=experiments/digits.py")
    require_one_line(command("--workdir=x"), "--config is missing")
    require_one_line(command("--config"), "--config")
    require_one_line(command("--config.seed=1", DIGITS), "--config.seed=1", "before")


def test_an_unreadable_config_path_is_one_line(command, tmp_path):
    for path in ("no/such.py", tmp_path):
        require_one_line(command(f"--config={path}"), f"--config={path}", "experiments/digits.py")
        require_one_line(command("--config", path), f"--config={path}")
    require_one_line(command("--config=experiments/digits.py:quik"), "'quik'", "quick")


@pytest.mark.parametrize(
    "body, parts",
    [
        ("return (", ["line 5", "never closed"]),
        ("return 1 / 0", ["line 5", "ZeroDivisionError", "division by zero"]),
        ("import nosuchmodule", ["line 5", "No module named 'nosuchmodule'"]),
        ("return open('/no/such/file')", ["line 5", "No such file", "/no/such/file"]),
        ("raise ValueError('two\\nlines')", ["line 5", "ValueError: two lines"]),
        ("config = default(); config.train.epochs = 'many'; return config", ["line 5", "'epochs'", "int"]),
        ("config = default(); config.train.epoch = 3; return config", ["config.train.epoch", "train.epochs?"]),
        ("config = default(); config.train.epochs = 0; return config", ["config.train.epochs = 0", "from 1 to"]),
        ("return {}", ["returned {}", "expected default() with changes"]),
        ("pass", ["returned None", "expected default() with changes"]),
    ],
)
def test_a_broken_experiment_file_is_one_line_with_its_place(command, experiment, body, parts):
    path = experiment(body)
    wanted = [str(path) if part.startswith("line") else part for part in parts] + parts
    require_one_line(command(f"--config={path}"), *wanted)


def test_a_file_without_get_config_is_one_line(command, tmp_path):
    path = tmp_path / "empty.py"
    path.write_text("")
    require_one_line(command(f"--config={path}"), str(path), "get_config")


def test_a_workdir_that_is_something_else_is_refused(command, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    before = snapshot(tmp_path)
    require_one_line(command(DIGITS, f"--workdir={tmp_path}"), str(tmp_path), "notes.txt", "another --workdir")
    require_one_line(command(DIGITS, f"--workdir={tmp_path / 'notes.txt'}"), "is a file", "another --workdir")
    require_one_line(command(DIGITS, f"--workdir={tmp_path / 'notes.txt' / 'run'}"), "another --workdir")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (["--config.train.batch_size=1408"], ["batch_size = 1408", "1400 training examples", "lower it"]),
        (["--config.data.num_train=50"], ["batch_size = 100", "50 training examples"]),
        (["--config.data.num_train=1401"], ["num_train = 1401", "1400"]),
        (["--devices=3"], ["3 devices", "4 streams", "batch of 100", "--devices=N"]),
        (["--devices=9"], ["--devices=9", "only 8"]),
        (["--config.data.streams=8"], ["data.streams = 8", "batch_size = 100"]),
        (["--config.data.name=npz", "--config.data.path=no.npz"], ["no.npz"]),
        (["--init_from=no/such/run"], ["no/such/run"]),
        (["--coordinator=here", "--num_processes=2", "--process_id=0"], ["--coordinator=here", "HOST:PORT"]),
        (["--mode=gaps", "--num_processes=2"], ["--mode=gaps runs in one process"]),
    ],
)
def test_what_does_not_fit_the_data_or_the_devices_is_one_line(command, tmp_path, arguments, parts):
    """Found before the run directory is made, which may then be used for the corrected command."""
    require_one_line(command(DIGITS, f"--workdir={tmp_path / 'run'}", *arguments), *parts)
    assert not (tmp_path / "run").exists()


def test_an_npz_with_nan_is_one_line(command, tmp_path):
    image = np.full((20, 4, 4), 0.5, np.float32)
    image[3, 2, 1] = np.nan
    np.savez(tmp_path / "data.npz", x_train=image, x_test=image)
    arguments = ("--config.data.name=npz", f"--config.data.path={tmp_path / 'data.npz'}", "--config.train.batch_size=4")
    require_one_line(command(DIGITS, f"--workdir={tmp_path / 'run'}", *arguments), "data.npz", "x_train")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "source, arguments, parts",
    [
        ("@13", [], ["step 13", str(LAST)]),
        ("@soon", [], ["@soon"]),
        ("", ["--config.model.hidden=17"], ["16", "17"]),
        ("", ["--config.model.hidden=16,16"], ["leaf"]),
    ],
)
def test_parameters_that_do_not_fit_are_one_line(command, finished, tmp_path, source, arguments, parts):
    """--init_from with a step that is not there, with no number, and from another architecture."""
    arguments = (*SMALL, *arguments, "--devices=1", f"--workdir={tmp_path / 'run'}")
    require_one_line(command(*arguments, f"--init_from={finished[0]}{source}"), str(finished[0]), *parts)
    assert not (tmp_path / "run").exists()


def test_a_run_that_another_process_writes_is_left_alone(command, finished, tmp_path):
    """To be trained, evaluated and diagnosed; a finished one still prints its numbers."""
    with files.locked(finished[0]):
        require_one_line(
            command("--mode=evaluate", f"--workdir={finished[0]}"), "is in use by process", str(os.getpid())
        )
        assert command(*SMALL, f"--workdir={finished[0]}")[0] == 0
    with files.locked(tmp_path):
        require_one_line(command(*SMALL, f"--workdir={tmp_path}"), f"{tmp_path} is in use by process")
    assert not (tmp_path / "config.json").exists()


def test_output_that_is_ascii_does_not_end_a_run(finished, run):
    """± is printed as ? where the terminal has no such letter."""
    status, out, err = run(*SMALL, f"--workdir={finished[0]}", PYTHONIOENCODING="ascii")
    assert status == 0, err
    assert re.search(r"test +nll +\d\d\.\d+ \? \d\.\d+ nats", out)


def test_an_interrupt_is_one_line(command, monkeypatch, tmp_path):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train_run", interrupted)
    status, _, err = command(DIGITS, f"--workdir={tmp_path / 'run'}")
    assert status == 130 and err == "error: interrupted; the same command goes on from the last checkpoint\n"


def test_overrides_name_the_default_workdir(command, monkeypatch):
    """Two runs that differ do not meet in one directory; a key that may change on resume does not make another run."""
    seen = []
    summary = {"splits": {"test": {"elbo": {"value": 1.0, "stderr": None, "unit": "nats"}}}}
    monkeypatch.setattr(train, "train_run", lambda config, workdir, *_: seen.append(str(workdir)) or summary)
    for arguments in ([], ["--config.seed=3", "--config.model.hidden=8,9"], ["--config.eval.num_samples=7"]):
        assert command(DIGITS, *arguments)[0] == 0
    assert seen == [f"runs/digits-two_quick{changes}" for changes in ("", "-hidden=8,9-seed=3", "")]


def test_a_mistake_as_a_shell_sees_it(run, tmp_path):
    result = run(DIGITS, f"--workdir={tmp_path / 'run'}", "--config.train.epochs=0")
    require_one_line(result, "config.train.epochs = 0: expected a number from 1 to 2147483647")


def test_mnist_without_data_or_network_names_both_ways_on(command, monkeypatch, tmp_path):
    """A proxy nobody listens at stands for no network. Within 20 s, never another data set in silence."""
    begun, proxy = time.monotonic(), "http://127.0.0.1:9"
    nowhere = {"https_proxy": proxy, "HTTPS_PROXY": proxy, "http_proxy": proxy, "no_proxy": "", "NO_PROXY": ""}
    for name, value in nowhere.items():
        monkeypatch.setenv(name, value)
    arguments = (f"--workdir={tmp_path / 'run'}", f"--config.data.data_dir={tmp_path / 'tfds'}")
    result = command("--config=experiments/mnist.py:quick", *arguments)
    require_one_line(result, "mnist", "--config.data.manual_dir=DIR", "experiments/digits.py")
    assert time.monotonic() - begun < 20 and not (tmp_path / "run").exists()


# ---- help


def test_help_lists_every_key_with_its_default_and_meaning(command):
    status, out, err = command("--help")
    assert status == 0 and not err
    text = " ".join(out.split())
    for flag in ("--config ", "--workdir ", "--mode ", "--devices ", "--init_from ", "--coordinator ", "--heartbeat "):
        assert flag in text
    for name, key in configuration.keys().items():
        shown = ",".join(map(str, key.default)) if isinstance(key.default, tuple) else key.default
        assert re.search(rf"--config\.{re.escape(f'{name}={shown}')} (?!--)\S+", text), name
        choices = [] if isinstance(key.check.expected, str) else key.check.expected
        assert all(choice in text for choice in choices), name
    assert max(map(len, out.splitlines())) <= 120


def test_help_beside_an_experiment_has_its_values(command):
    status, out, _ = command("--config=digits:two_quick", "--config.seed=5", "--help")
    assert status == 0 and "with the values of" in out
    assert "--config.train.epochs=20 " in out and "--config.seed=5 " in out


def test_a_reader_that_leaves_is_no_traceback(environment):
    """`--help | head -1`: the pipe is closed while the text is written."""
    reading, writing = os.pipe()
    os.close(reading)
    asked = [sys.executable, "-m", "vae_jax.main", "--help"]
    done = subprocess.run(asked, env=environment, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert done.returncode == 0 and done.stderr == b""


def test_help_is_quick(environment):
    """Under 3 s of this machine's time; the keys are the families' own, so flax and optax are read, and no more."""
    slow = "'matplotlib', 'sklearn', 'tensorflow_datasets', 'tensorboardX', 'blackjax', 'scipy.stats'"
    program = (
        "import atexit, runpy, sys, time\n"
        f"imported = lambda: [name for name in ({slow}) if name in sys.modules]\n"
        "atexit.register(lambda: print('SECONDS', time.process_time(), imported()))\n"
        "sys.argv = ['main', '--help']\n"
        "runpy.run_module('vae_jax.main', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    seconds, imported = re.search(r"SECONDS (\S+) (.*)\n$", done.stdout).groups()
    assert done.returncode == 0 and not done.stderr and imported == "[]" and float(seconds) < 3


@pytest.mark.parametrize("missing", ["blackjax", "nosuchmodule"])
def test_a_missing_extra_is_named_and_nothing_else_is_taken_for_it(missing, monkeypatch, capsys):
    def resolve(name):
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setattr(main, "join", lambda: None)
    monkeypatch.setattr(main, "arguments_of", lambda mode: ())
    monkeypatch.setattr(main, "MODE", SimpleNamespace(value="gaps"))
    monkeypatch.setattr(main.pkgutil, "resolve_name", resolve)
    with pytest.raises(SystemExit if missing == "blackjax" else ModuleNotFoundError):
        main.run()
    named = "--mode=gaps needs blackjax: pip install -e '.[ais]'" in capsys.readouterr().err
    assert named == (missing == "blackjax")
