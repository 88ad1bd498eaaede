"""Every experiment file and variant: it loads, is valid, says its command, and its training step fits its data."""

import ast
import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from vae_jax import config as configs
from vae_jax.commands import configuration
from vae_jax.data import datasets
from vae_jax.data.splits import Split, assemble
from vae_jax.errors import ConfigError
from vae_jax.parallel import devices
from vae_jax.runs import directory
from vae_jax.training import setup as setups
from vae_jax.training.program import make_program, training_data

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "experiments").glob("*.py"))
SHIPPED = {"digits", "ppca"}  # sets that need neither files nor a network
IMAGES = {"mnist": (28, 28, 1), "fashion_mnist": (28, 28, 1), "kmnist": (28, 28, 1), "digits": (8, 8, 1), "ppca": (8,)}
IMAGES |= {"cifar10": (32, 32, 3), "npz": (28, 20)}


def load(path):
    spec = importlib.util.spec_from_file_location(f"experiment_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def variants(path):
    """'' and the names that the file's own refusal of an unknown one lists."""
    try:
        load(path).get_config("no such variant")
    except ConfigError as error:
        listed = str(error).partition("expected one of ")[2]
        return ["", *(name for name in listed.split(", ") if name != "none")]
    return [""]


CASES = [pytest.param(path, variant, id=f"{path.stem}:{variant}") for path in FILES for variant in variants(path)]


def test_there_are_experiments():
    assert {"digits", "mnist"} <= {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_docstring_says_the_command(path):
    """Its purpose in a first sentence, and the exact command with a path that exists."""
    text = load(path).__doc__
    assert text and text.splitlines()[0].strip().endswith(".")
    assert f"python -m vae_jax.main --config=experiments/{path.name}" in text


@pytest.mark.parametrize("path, variant", CASES)
def test_it_is_valid_and_the_same_each_time(path, variant):
    module = load(path)
    config = configuration.validate(module.get_config(variant))
    assert config == configuration.validate(module.get_config(variant))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_unknown_variant_is_refused(path):
    with pytest.raises(ConfigError, match="'no such variant'"):
        load(path).get_config("no such variant")


# No part of the step's program, or replaced here: most variants `quick` have the step of the file's own config.
UNTRACED = ("seed", "data.num_train", "train.epochs", "eval.", "figures.", "fit.", "gaps.", "estimators.")


@pytest.fixture(scope="module")
def seen():
    """What has been traced."""
    return set()


@pytest.mark.parametrize("path, variant", CASES)
def test_its_training_step_fits_synthetic_data_of_its_shape(path, variant, seen, monkeypatch):
    """Traced, not compiled: shapes and types go through data, model, objective and optimizer and come back the same."""
    config = configuration.validate(load(path).get_config(variant))
    traced = str({key: value for key, value in configs.flat(config).items() if not key.startswith(UNTRACED)})
    if traced in seen:
        return
    seen.add(traced)
    monkeypatch.setattr(datasets, "load", synthetic)
    setup = setups.make_setup(config, 1)
    state = setups.abstract_state(setup)
    hyper = devices.put_replicated(setup.mesh, setups.hyperparameters(config))
    new, metrics = jax.eval_shape(make_program(setup)(1), hyper, state, training_data(setup))
    kinds = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)
    assert kinds(new) == kinds(state)
    bound = {"elbo", "kl"}  # which an autoencoder, whose q is a point, has not got
    assert {"objective", "log_likelihood", "grad_norm"} <= set(metrics)
    assert bound & set(metrics) == (set() if config.model.posterior == "dirac" else bound)


def synthetic(config):
    """Noise in the shape of the named set, with the condition asked for."""
    rng, shape = np.random.default_rng(0), IMAGES[config.name]
    split = lambda count: Split(
        rng.integers(0, 256, (count, *shape)).astype(np.uint8), rng.integers(0, 10, count).astype(np.int32)
    )
    dataset = assemble(config.name, split(2048), split(16), split(16), {}, value_range=(0.0, 255.0))
    return dataset if config.condition == "none" else datasets.CONDITIONS[config.condition](dataset)


@pytest.mark.parametrize("quick", [(), ("quick",)])
def test_the_completion_script_trains_two_runs_and_draws_both(quick, tmp_path):
    """With a python that only says how it was called: three commands, each fit for the one that follows."""
    (tmp_path / "python").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "python").chmod(0o755)
    command = ["bash", "experiments/mnist_completion.sh", *quick, "--config.seed=3"]
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin", "RUNS": "some/runs"}
    done = subprocess.run(command, cwd=ROOT, env=path, capture_output=True, text=True, check=True)
    first, second, last = (line.split() for line in done.stdout.splitlines())
    given = [dict(flag[2:].split("=", 1) for flag in words[2:]) for words in (first, second)]
    trained = [flags["config"].partition(":") for flags in given]
    configurations = [load(ROOT / path).get_config(variant) for path, _, variant in trained]
    assert [config.model.latent_dim for config in configurations] == [50, 0]
    assert all(config.train.epochs == (6 if quick else 200) for config in configurations)
    assert all(flags["config.seed"] == "3" for flags in given)
    first, second = (flags["workdir"] for flags in given)
    script = "experiments/analysis/completions.py"
    assert first != second and last == [script, f"--out={first}/completions.png", first, second]


def test_a_typo_in_an_override_fails(command):
    status, out, err = command("--config=experiments/mnist.py:quick", "--config.trian.epochs=1")
    assert status == 2 and not out
    assert err == "error: config.trian.epochs does not exist: did you mean config.train.epochs?\n"


def as_a_user_has_it():
    """The environment with jax's own compiler and devices, not the quick ones of tests/conftest.py."""
    ours = ("NPROC", "PJRT_NPROC", "XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
    return {name: value for name, value in os.environ.items() if name not in ours}


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in FILES if load(path).get_config().data.name in SHIPPED], ids=str)
def test_a_quick_variant_runs_by_the_command_of_the_docstring(path, tmp_path):
    (line,) = [line.strip() for line in load(path).__doc__.splitlines() if "python -m vae_jax.main" in line][:1]
    command = [sys.executable, *shlex.split(line)[1:], f"--workdir={tmp_path / 'run'}"]
    if not any(f"{path.name}:" in part for part in command):  # that of a file without a quick variant names one
        command = [part.replace(path.name, f"{path.name}:quick") for part in command]
    done = subprocess.run(command, cwd=ROOT, env=as_a_user_has_it(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    summary = directory.read_summary(tmp_path / "run")
    assert summary["complete"] and np.isfinite(summary["splits"]["test"]["nll"]["value"])


def test_files_import_nothing_but_configurations():
    """An experiment is data about a run: of the package it wants configurations alone."""
    allowed = {"vae_jax.commands.configuration.default", "vae_jax.config.by_variant", "vae_jax.config.from_experiment"}
    for path in FILES:
        modules = {name.name for node in ast.walk(ast.parse(path.read_text())) for name in imports(node)}
        ours = {name for name in modules if name.split(".")[0] in ("vae_jax", "jax", "jaxlib", "flax", "optax")}
        assert ours <= allowed, path


def imports(node):
    if isinstance(node, ast.Import):
        return node.names
    if isinstance(node, ast.ImportFrom):
        return [ast.alias(f"{node.module}.{name.name}") for name in node.names]
    return []
