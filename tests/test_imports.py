"""Which folder may import which, read from the source, and what `from vae_jax import elbo_fn` loads.

The table is the architecture: an arrow that is not in it is an error, and so is a circle of files inside a folder.
"""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "vae_jax"
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

FOUNDATIONS = {"config", "keys", "errors", "console"}  # import nothing of ours but one another
COMMANDS = {"commands", "main", "sweep", "report"}  # import anything

# folder -> the folders it may import, beside the foundations
MAY_IMPORT = {
    "distributions": set(),
    "parallel": set(),
    "plotting": set(),
    "objectives": {"distributions"},
    "models": {"distributions"},
    "data": {"parallel"},
    "runs": {"data", "models"},
    "evaluation": {"data", "models", "objectives", "parallel", "distributions"},
}
MAY_IMPORT["training"] = {"runs", "evaluation"} | MAY_IMPORT["runs"] | MAY_IMPORT["evaluation"]
MAY_IMPORT["reports"] = {"evaluation", "runs", "data", "models", "plotting"}
MAY_IMPORT |= {"__init__": {"distributions", "objectives"}}

# outside package -> the folders or files that may know of it; None is any but the mathematics
OUTSIDE = {
    "flax": {"models/networks.py", "runs/stages.py"},
    "orbax": {"runs/checkpoint.py"},
    "matplotlib": {"plotting", "reports/charts.py"},
    "tensorflow_datasets": {"data"},
    "scipy": {"reports/statistics.py"},  # which jax and scikit-learn bring
    "sklearn": {"data", "evaluation"},
    "tensorboardX": {"runs/directory.py"},
    "ml_collections": {"config.py", "commands", "sweep.py", "runs/load.py"},
    "absl": {"commands", "main.py", "sweep.py"},
    "blackjax": {"evaluation/ais.py", "evaluation/nuts.py"},
    "optax": {"models/fits.py", "training"},
    "filelock": {"runs/files.py"},
    "rich": {"console.py"},
    "PIL": {"reports/page.py"},  # which matplotlib brings
    "numpy": None,
    "jax": None,
}
MATHEMATICS = ("distributions/", "objectives/", "__init__.py", "keys.py")  # jax and nothing else


def imports_of(source, package="vae_jax"):
    """Every module a source file imports, in full, at the top or inside a function, an attribute's name included.

    `from vae_jax.objectives import elbo` names vae_jax.objectives.elbo; a relative import counts from `package`.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = package.rsplit(".", node.level - 1)[0] if node.level else None
            module = ".".join(filter(None, [parent, node.module]))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def split_imports(file):
    """(files of this package, top-level packages outside it and the standard library) that a file imports."""
    inside, outside = set(), set()
    package = ".".join(["vae_jax", *pathlib.PurePath(file).parent.parts])
    for name in imports_of((PACKAGE / file).read_text(), package):
        top, *rest = name.split(".")
        if top != "vae_jax":
            outside.add(top)
            continue
        found = [n for n in range(len(rest), -1, -1) if module_file(rest[:n])]
        inside.add(module_file(rest[: found[0]]))
    return inside, outside - set(sys.stdlib_module_names)


def module_file(parts):
    """The file of a module of this package, None where there is no such module."""
    path = "/".join(parts)
    candidates = [f"{path}.py", f"{path}/__init__.py"] if path else ["__init__.py"]
    return next((file for file in candidates if (PACKAGE / file).exists()), None)


def folder(file):
    """'models' for 'models/model.py', 'main' for 'main.py'."""
    return file.partition("/")[0].removesuffix(".py")


def within(file, places):
    return places is None or any(file == place or folder(file) == place for place in places)


def test_imports_are_read_as_written():
    source = """
import os, jax.numpy as jnp
import vae_jax.objectives.elbo
from vae_jax.data import files as f, feed
from . import step
from ..runs import load
def late():
    from flax import linen
"""
    assert set(imports_of(source, "vae_jax.training")) == {
        *("os", "jax.numpy", "vae_jax.objectives.elbo", "vae_jax.data.files", "vae_jax.data.feed"),
        *("vae_jax.training.step", "vae_jax.runs.load", "flax.linen"),
    }
    assert module_file(["objectives", "elbo"]) == "objectives/elbo.py" and module_file(["elbo_fn"]) is None


@pytest.mark.parametrize("file", FILES)
def test_folders_import_what_the_table_says(file):
    own = folder(file)
    inside, outside = split_imports(file)
    if own in FOUNDATIONS:
        assert {folder(f) for f in inside} <= FOUNDATIONS, f"{file} imports {inside}: foundations import one another"
    elif own not in COMMANDS:
        assert own in MAY_IMPORT, f"{own}/ is new: say in tests/test_imports.py what it may import"
        wrong = {f for f in inside if folder(f) not in MAY_IMPORT[own] | FOUNDATIONS | {own, "__init__"}}
        assert not wrong, f"{file} may not import {sorted(wrong)}"
    unknown = outside - set(OUTSIDE)
    assert not unknown, f"{file}: say in tests/test_imports.py who may import {unknown}"
    strangers = {package for package in outside if not within(file, OUTSIDE[package])}
    assert not strangers, f"{file} may not import {strangers}"
    if file.startswith(MATHEMATICS):
        assert outside <= {"jax"}, f"{file} imports jax and nothing else"


def test_no_circle_of_files():
    graph = {file: split_imports(file)[0] - {file, "__init__.py"} for file in FILES}
    assert set(graphlib.TopologicalSorter(graph).static_order()) >= set(FILES) - {"__init__.py"}


def test_the_table_has_no_circle():
    order = list(graphlib.TopologicalSorter(MAY_IMPORT).static_order())
    for lower, upper in (("distributions", "objectives"), ("models", "runs"), ("evaluation", "training")):
        assert order.index(lower) < order.index(upper)
    assert not MAY_IMPORT["training"] & {"reports", "plotting"}  # a command trains, then measures, then draws


def modules_loaded(*statements):
    """After each statement in turn of a fresh Python, the top-level modules loaded outside the standard library."""
    lines = ["import sys"]
    for statement in statements:
        lines += [statement, "print(*{name.partition('.')[0] for name in sys.modules})"]
    run = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=120, check=True
    )
    return [set(line.split()) - set(sys.stdlib_module_names) for line in run.stdout.splitlines()]


def test_the_bound_needs_jax_alone():
    """What elbo_fn loads is what `import jax` does, and this package; `import optax` shows that more would be seen."""
    public = "from vae_jax import elbo_fn, draw, score, importance_bound, reparameterize, kl_standard_normal"
    jaxs, loaded, more = modules_loaded("import jax, jax.numpy", public, "import optax")
    # jax loads parts of itself late, and they their dependencies
    assert loaded - jaxs - {"jaxlib", "numpy", "scipy", "ml_dtypes", "opt_einsum"} == {"vae_jax"}
    heavy = {"flax", "optax", "ml_collections", "absl", "matplotlib", "tensorflow_datasets", "orbax", "sklearn"}
    assert not loaded & (heavy | {"tensorboardX", "rich", "numpyro", "blackjax", "tensorflow"})
    assert "optax" in more - loaded


@pytest.mark.parametrize("name", FILES)
def test_a_file_fits_on_a_few_screens_and_a_function_on_one(name):
    source = (PACKAGE / name).read_text()
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.end_lineno and node.end_lineno - node.lineno >= 60
    ]
    assert source.count("\n") <= 400 and long == []
