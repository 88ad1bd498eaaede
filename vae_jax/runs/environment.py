"""What the numbers of a process depend on: versions, the commit, devices, the command."""

import contextlib
import importlib.metadata
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import time

PACKAGES = ("vae_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
SETTINGS = ("XLA_FLAGS", "JAX_PLATFORMS", "JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION", "JAX_DEFAULT_PRNG_IMPL")


def describe() -> dict:
    """What the numbers of this process depend on, its host's name left out. Starts jax's backend."""
    import jax

    devices = jax.devices()
    return {
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "argv": sys.argv,
        **git(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "backend": jax.default_backend(),
        "processes": jax.process_count(),
        "cpu_count": os.cpu_count(),
        "platform": f"{platform.system()} {platform.machine()}",
        "settings": {name: os.environ[name] for name in SETTINGS if name in os.environ},
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def version(package: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)


def git() -> dict:
    """The commit of this very file, and whether tracked files differ from it; None where git does not track it."""
    file = pathlib.Path(__file__)
    if not run_git("ls-files", file.name):  # an installed copy may lie inside some other project's repository
        return {"commit": None, "dirty": None}
    return {"commit": run_git("rev-parse", "HEAD"), "dirty": bool(run_git("status", "--porcelain", "-uno"))}


def run_git(*arguments: str) -> str | None:
    command = ["git", "-C", str(pathlib.Path(__file__).parent), *arguments]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
