"""What README.md and docs/ tell a reader to type: commands parse, names exist, snippets run and have types."""

import json
import math
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from vae_jax import main
from vae_jax.commands import configuration
from vae_jax.models.families import POSTERIORS
from vae_jax.models.networks import NETWORKS
from vae_jax.objectives.loss import OBJECTIVES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("getting-started", "own-data", "families"))]
FENCES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page):
    """The indented lines of a page, continued ones joined."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL).replace("\\\n", " ")
    return [line.partition("   #")[0].strip() for line in text.splitlines() if re.match(r" {4}\S", line)]


def snippets(page):
    return re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


@pytest.fixture(autouse=True)
def as_shipped():
    """What an experiment file adds to a family is gone after the test."""
    families = (POSTERIORS, OBJECTIVES, NETWORKS)
    before = [dict(family) for family in families]
    yield
    for family, members in zip(families, before, strict=True):
        family.clear()
        family.update(members)


ALL = [pytest.param(line, id=f"{page.stem}: {line[:60]}") for page in PAGES for line in commands(page)]
MAIN = [case for case in ALL if "vae_jax.main --" in case.values[0]]


def test_there_are_commands_and_snippets():
    assert len(ALL) >= 30 and len(MAIN) >= 15 and sum(len(snippets(page)) for page in FENCES) >= 4


@pytest.mark.parametrize("line", MAIN)
def test_a_command_parses(line, command):
    """Its flags exist, its experiment is there, its configuration is valid: --help beside them checks all of it."""
    arguments = shlex.split(line.partition("vae_jax.main ")[2].partition(" && ")[0])
    status, out, err = command(*arguments, *([] if "--help" in arguments else ["--help"]))
    assert status == 0 and not err and "--config.model.latent_dim" in out


@pytest.mark.parametrize("line", ALL)
def test_what_a_command_names_is_there(line):
    """Scripts and files of the repository; what a command reads or writes under runs/ is the reader's."""
    for word in shlex.split(line):
        name = word.rpartition("=")[2].partition(":")[0]
        if re.match(r"(experiments|examples|benchmarks)/", name):
            assert (ROOT / name).is_file(), name


def test_the_loss_of_the_readme_is_differentiable():
    space: dict = {}
    exec(snippets(ROOT / "README.md")[0], space)
    x = jax.random.bernoulli(jax.random.key(0), 0.3, (10, 6)).astype(jnp.float32)
    params = {name: jnp.zeros(shape) for name, shape in (("mean", (6, 2)), ("log_std", (6, 2)), ("decoder", (2, 6)))}
    value, gradient = jax.jit(jax.value_and_grad(space["loss"]))(params, jax.random.key(1), x)
    assert float(value) == pytest.approx(6 * math.log(2), rel=1e-6) and jax.tree.map(
        jnp.shape, gradient
    ) == jax.tree.map(jnp.shape, params)


WITH_LAPLACE = """
from vae_jax.config import from_experiment


def get_config(variant=""):
    config = from_experiment("experiments/digits.py", "two_quick")
    config.model.posterior = "laplace"
    return config
"""


@pytest.mark.slow
def test_the_posterior_of_the_readme_trains(command, tmp_path):
    (source,) = (code for code in snippets(ROOT / "README.md") if "laplace" in code)
    (tmp_path / "laplace.py").write_text(source + WITH_LAPLACE)
    status, out, err = command(f"--config={tmp_path / 'laplace.py'}", f"--workdir={tmp_path / 'run'}")
    assert status == 0, err
    assert re.search(r"test +elbo +-\d", out)


@pytest.mark.slow
def test_the_weight_of_an_own_loss_is_swept(in_process, tmp_path):
    """The snippet of docs/own-data.md, a file of its own: two values of its key in one program, and they differ."""
    from vae_jax import sweep

    (source,) = (code for code in snippets(ROOT / "docs" / "own-data.md") if "OBJECTIVES" in code)
    (tmp_path / "own.py").write_text(source)
    digits = ("--config.data.name=digits", "--config.train.epochs=3", "--config.model.hidden=16")
    digits += ("--config.eval.num_samples=10", "--config.eval.train_examples=0", "--config.data.num_train=400")
    given = (f"--config={tmp_path / 'own.py'}", "--sweep.objective.smallness=0,3", f"--workdir={tmp_path / 'runs'}")
    status, out, err = in_process(sweep, *given, *digits)
    assert status == 0, err
    losses = [float(value) for value in re.findall(r"-\d+\.\d+(?= ±)", out)]
    assert len(set(losses)) > 1


DECLARED = "from typing import Any\nx: Any = ...\nimages: Any = ...\n"  # what a snippet takes from the text around it


@pytest.mark.slow
def test_snippets_have_types(tmp_path):
    """By pyright."""
    for page in FENCES:
        for number, code in enumerate(snippets(page)):
            given = DECLARED if re.search(r"\b(x|images)\b", code) else ""
            (tmp_path / f"{page.stem.replace('-', '_')}_{number}.py").write_text(given + code)
    done = subprocess.run([sys.executable, "-m", "pyright", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_mode_of_the_readme_exists():
    text = " ".join(page.read_text("utf-8") for page in PAGES)
    assert set(re.findall(r"--mode=(\w+)", text)) <= set(main.MODES)
    assert set(re.findall(r"--config\.([\w.]+)=", text)) - {"KEY"} <= set(configuration.keys()) | {"GROUP.KEY"}


@pytest.mark.slow
def test_the_notebook_runs(monkeypatch):
    """Its code cells in turn, as a kernel in examples/ would; the bound at the true posterior is log p(x)."""
    cells = json.loads((ROOT / "examples" / "quickstart.ipynb").read_text("utf-8"))["cells"]
    monkeypatch.chdir(ROOT / "examples")
    space: dict = {}
    for cell in cells:
        lines = "".join(cell["source"]).splitlines() if cell["cell_type"] == "code" else []
        exec("\n".join(line for line in lines if not line.startswith("%")), space)
    assert abs(space["bound"] - space["exact"]).max() < 1e-4
    assert all(not cell.get("outputs") for cell in cells)  # the site runs it; nothing stale is kept
