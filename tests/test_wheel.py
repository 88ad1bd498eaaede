"""The package as others install it: a wheel that holds all it needs, experiments by name, one version."""

import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys
import zipfile

import pytest

import vae_jax

ROOT = pathlib.Path(__file__).parents[1]
TINY = ["--config.train.epochs=1", "--config.data.num_train=200", "--config.model.hidden=8", "--config.figures.count=4"]
TINY += ["--config.eval.max_examples=20", "--config.eval.train_examples=0", "--config.eval.num_samples=5"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout, built without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q", "."]
    subprocess.run([*build, "-w", folder], cwd=ROOT, check=True)
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_a_wheel_holds_every_file_of_the_package_and_its_experiments(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(["git", "ls-files", "vae_jax", "experiments"], cwd=ROOT, capture_output=True, text=True)
    wanted = {re.sub("^experiments/", "vae_jax/experiments/", name) for name in tracked.stdout.split()}
    assert wanted and wanted <= names, wanted - names
    others = {name for name in names - wanted if ".dist-info/" not in name}
    assert not {name for name in others if "test" in name or name.endswith(".pyc")}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert f"-{vae_jax.__version__}-" in wheel.name


@pytest.mark.slow
def test_the_wheels_command_trains_a_shipped_experiment_far_from_the_checkout(wheel, tmp_path):
    """Unpacked beside nothing of ours; a file of the experiment's name in the working directory is preferred."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    away = tmp_path / "away"
    away.mkdir()
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    program = "import sys, vae_jax.main; print(vae_jax.__file__); vae_jax.main.console_script()"

    def started(*arguments):
        command = [sys.executable, "-c", program, *arguments]
        return subprocess.run(command, cwd=away, env=environment, capture_output=True, text=True)

    done = started("--config=digits:two_quick", "--workdir=run", *TINY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "site")) and (away / "run" / "report.html").is_file()
    missing = started("--config=nothing")
    assert missing.returncode == 2 and "--config=nothing: no such file" in missing.stderr


def test_an_experiment_is_found_by_its_name_after_its_path(command, tmp_path, monkeypatch):
    """'digits' is the shipped one; a file that is called so comes first."""
    from vae_jax.commands import flags

    shipped = str(ROOT / "experiments" / "digits.py")
    given = ["main", "--config=digits:two", "--config.seed=1", "--config", "digits", "--config=experiments/digits.py"]
    changed = ["main", f"--config={shipped}:two", "--config.seed=1", "--config", shipped, given[-1]]
    assert flags.with_experiments(given) == changed
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").write_text("mine")
    assert flags.with_experiments(["main", "--config=digits"]) == ["main", "--config=digits"]
    status, _, err = command("--config=digts")
    assert status == 2 and err.count("\n") == 1 and "--config=digts: no such file, nor a shipped experiment" in err


def test_the_version_is_one():
    """Of the package, of its installed metadata, and of the citation."""
    version = vae_jax.__version__
    assert re.search(rf"^version: {re.escape(version)}$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert importlib.metadata.version("vae_jax") == version
