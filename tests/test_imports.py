"""Who may import whom, read from the source, and what `from vae_jax import elbo_fn` loads.

Imports go down only:

    main   sweep   codec   report   compare          commands
    train -> setup -> evaluate, gaps, figures, rundir    what is done with a model
    step, model                                      wire functions together
    inference networks data checkpoint ...           one noun each; they do not know one another
    objectives -> importance -> elbo -> distributions    the mathematics: jax and nothing else
"""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "vae_jax"
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))

MATHS = {"distributions", "gaussians", "likelihoods", "elbo", "importance", "objectives"}
NOUNS = {"inference", "networks", "flows", "data", "checkpoint", "parallel", "config", "streams", "optimizer"}
DONE_WITH_A_MODEL = {"evaluate", "ais", "gaps", "figures", "rundir"}
COMMANDS = {"main", "sweep", "codec", "report", "published", "command"}  # command: what they share
BELOW = MATHS | NOUNS | {"families", "model", "step", "mistakes"}

# module -> the modules of this package it may import. A new module is added here, where DESIGN.md section 1 puts it.
ALLOWED = {
    "distributions": set(),
    "gaussians": {"distributions"},
    "likelihoods": {"distributions"},
    "elbo": {"distributions"},
    "importance": {"elbo"},
    "objectives": {"distributions", "elbo", "importance"},
    # the floor above the mathematics, except that inference is handed its bound and knows no ELBO
    **dict.fromkeys(NOUNS - {"inference", "data", "config", "networks"}, MATHS | {"mistakes"}),
    "mistakes": {"rundir"},
    "inference": {"distributions"},
    "data": MATHS | {"files", "prepared"},  # the reading halves of data
    "prepared": {"files"},
    "config": MATHS | {"pairs", "limits", "mistakes"},  # pairs: the combinations it refuses, as a table
    "networks": MATHS | {"convolution"},
    "convolution": set(),
    "pairs": set(),
    "limits": set(),
    "parts": MATHS,
    "files": {"mistakes"},
    "page": set(),
    "terminal": set(),
    "step": MATHS | {"parallel", "streams", "inference"},
    "families": MATHS | NOUNS,
    "model": MATHS | NOUNS | {"families"},
    **dict.fromkeys(DONE_WITH_A_MODEL, BELOW),
    "rundir": {"page"},  # stands alone: a copy of the file reads runs
    "gaps": BELOW | {"evaluate", "ais", "figures", "terminal"},
    "posteriors": BELOW | {"evaluate"},
    "estimators": BELOW | {"figures", "terminal"},
    "aggregate": BELOW | {"evaluate"},
    "compilation": set(),
    "feed": {"parallel", "streams"},
    "processes": {"parallel"},
    "latents": BELOW,
    "pictures": {"figures"},
    "panels": {"figures"},
    "continuity": set(),
    "arrays": BELOW | DONE_WITH_A_MODEL | {"setup", "files"},
    "examine": BELOW
    | DONE_WITH_A_MODEL
    | {"setup", "train", "aggregate", "latents", "pictures", "generate", "readings", "estimates", "outside"},
    "modes": BELOW
    | DONE_WITH_A_MODEL
    | {"setup", "terminal", "posteriors", "arrays", "examine", "train", "estimators"},
    "swept": {"rundir", "config", "mistakes"},
    "fold": {"swept"},
    "caveats": {"swept", "fold", "rundir", "config"},
    "tables": {"swept", "fold", "terminal"},
    "charts": {"swept", "fold", "tables", "figures"},
    "subjects": BELOW | DONE_WITH_A_MODEL | {"setup", "modes", "examine"},
    "compare": BELOW | DONE_WITH_A_MODEL | {"terminal", "files", "continuity", "latents", "subjects", "panels"},
    "readings": {"figures"},
    "outside": set(),
    "estimates": BELOW | {"evaluate"},
    "studies": BELOW | DONE_WITH_A_MODEL | {"setup", "terminal", "modes", "readings", "estimates"},
    "setup": BELOW | DONE_WITH_A_MODEL | {"feed", "parts"},
    "train": BELOW | DONE_WITH_A_MODEL | {"setup", "terminal", "generate", "processes"},
    "members": BELOW | DONE_WITH_A_MODEL | {"setup", "terminal", "train"},
    "generate": BELOW | {"evaluate", "figures", "pictures"},
    "completions": BELOW | DONE_WITH_A_MODEL | {"setup", "terminal", "modes", "generate", "pictures"},
    **dict.fromkeys(COMMANDS, BELOW | DONE_WITH_A_MODEL | {"setup", "terminal", "page", "files", "train", "modes"}),
    "report": BELOW | {"rundir", "modes", "swept", "fold", "caveats", "tables", "charts"},
    "main": BELOW | DONE_WITH_A_MODEL | {"command", "processes", "setup", "terminal", "train", "modes"},
    "sweep": BELOW | DONE_WITH_A_MODEL | {"command", "terminal", "members"},
    "command": {"config", "compilation", "mistakes"},
    "__init__": MATHS,
}

# package -> the modules that may know of it; None is any but the mathematics
OUTSIDE = {
    "flax": {"networks"},
    "orbax": {"checkpoint"},
    "matplotlib": {"figures", "gaps", "posteriors", "pictures", "charts", "readings", "panels", "estimators"},
    "tensorflow_datasets": {"files", "prepared"},
    "scipy": {"fold"},  # which jax and scikit-learn bring
    "sklearn": {"data", "files", "evaluate", "aggregate", "continuity", "subjects"},
    "tensorboardX": {"rundir"},
    "ml_collections": {"config"} | COMMANDS,
    "absl": COMMANDS,
    "blackjax": {"ais"},
    "constriction": {"codec"},
    "optax": {"optimizer", "inference", "step", "ais", "gaps"},
    "PIL": {"rundir", "figures"},
    "tqdm": {"terminal"},
    "numpy": None,
    "jax": None,
}


def imports_of(source):
    """Every module a source file imports, in full, at the top or inside a function, an attribute's name included.

    `from vae_jax import elbo` names vae_jax.elbo, a relative import the same.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = ".".join(filter(None, ["vae_jax" * bool(node.level), node.module]))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def split_imports(source):
    """(modules of this package, top-level packages outside it and the standard library) that a source file imports."""
    names = [name.split(".") for name in imports_of(source)]
    inside = {parts[1] if len(parts) > 1 else "__init__" for parts in names if parts[0] == "vae_jax"}
    outside = {parts[0] for parts in names} - {"vae_jax"} - set(sys.stdlib_module_names)
    return inside, outside


def test_imports_are_read_as_written():
    source = """
import os, jax.numpy as jnp
import vae_jax.elbo
from vae_jax import files as f, page
from vae_jax.data import DataError
from . import step
from .model import make_model
def late():
    from flax import linen
"""
    assert split_imports(source) == ({"elbo", "files", "page", "data", "step", "model"}, {"jax", "flax"})
    assert split_imports("from vae_jax import elbo_fn")[0] == {"elbo_fn"}  # a name of the package itself, not a module


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    assert module in ALLOWED, f"vae_jax/{module}.py is new: say in tests/test_imports.py what it may import"
    inside, outside = split_imports((PACKAGE / f"{module}.py").read_text())
    assert inside <= ALLOWED[module], f"{module} may not import {sorted(inside - ALLOWED[module])}"
    assert outside <= set(OUTSIDE), f"{module}: say in tests/test_imports.py who may import {outside - set(OUTSIDE)}"
    for package in outside:
        assert OUTSIDE[package] is None or module in OUTSIDE[package], f"{module} may not import {package}"
    if module in MATHS | {"__init__"}:
        assert outside <= {"jax"}, f"{module} imports jax and nothing else"


def test_the_table_goes_down_too():
    """No two modules may import each other, however indirectly: the table has an order."""
    order = list(graphlib.TopologicalSorter(ALLOWED).static_order())
    assert set(order) == set(ALLOWED)
    for lower, upper in (("distributions", "elbo"), ("elbo", "objectives"), ("model", "train"), ("train", "main")):
        assert order.index(lower) < order.index(upper)
    for noun in NOUNS:
        assert not ALLOWED[noun] & NOUNS
    for module in DONE_WITH_A_MODEL | {"model", "step"}:
        assert not ALLOWED[module] & ({"train"} | COMMANDS)


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
    assert not loaded & (heavy | {"tensorboardX", "tqdm", "numpyro", "blackjax", "tensorflow"})
    assert "optax" in more - loaded
