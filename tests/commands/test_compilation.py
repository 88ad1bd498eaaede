"""The compilation cache: where it lies, that it fills and serves, and that two processes may share it."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from vae_jax.commands import flags as command
from vae_jax.errors import DeviceError

PROGRAM = """
import sys, jax, jax.numpy as jnp
from jax._src import monitoring
from vae_jax.commands.flags import use_cache
hits = []
monitoring.register_event_listener(lambda name, **_: hits.append(name) if name.endswith("cache_hits") else None)
use_cache(sys.argv[1])
print(float(jax.jit(lambda x: jnp.tanh(x @ x).sum())(jnp.eye(8))), len(hits))
"""


def start(directory):
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(directory)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(process):
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    value, hits = output.split()
    return float(value), int(hits), errors


@pytest.mark.parametrize("switch", ["off", ""])
def test_off_changes_nothing(switch):
    before = jax.config.jax_compilation_cache_dir
    assert command.use_cache(switch) is None
    assert jax.config.jax_compilation_cache_dir == before


def test_the_folder_names_user_version_and_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("getpass.getuser", lambda: "someone")
    monkeypatch.setattr("platform.machine", lambda: "abacus")
    name = f"someone-jaxlib-{importlib.metadata.version('jaxlib')}-abacus"
    assert command.folder_of("on") == tmp_path / "cache" / "vae_jax" / name
    assert command.folder_of(str(tmp_path)) == tmp_path / name


def test_a_user_without_a_name_has_a_number(tmp_path, monkeypatch):
    """As in a container that runs under a number which /etc/passwd has not."""

    def fail():
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", fail)
    assert command.folder_of(str(tmp_path)).name.startswith(f"{os.getuid()}-jaxlib")


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path, monkeypatch, capsys):
    """A file in its place, or no home: training goes on without."""
    (tmp_path / "file").write_text("")
    before = jax.config.jax_compilation_cache_dir
    assert command.use_cache(str(tmp_path / "file")) is None

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert command.use_cache("on") is None
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith("warning: no compiled programs are kept") for line in lines)
    assert jax.config.jax_compilation_cache_dir == before


@pytest.mark.parametrize(
    "error", [MemoryError("2 EiB"), RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocating 9")]
)
def test_no_memory_is_one_line(error):
    def action():
        raise error

    with pytest.raises(DeviceError, match=r"^out of memory .*config\.train\.batch_size.*config\.data\.placement"):
        command.within_memory(action)


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="a bug"):
        command.within_memory(lambda: (_ for _ in ()).throw(RuntimeError("a bug")))


def test_two_processes_fill_one_folder_and_a_third_is_served(tmp_path):
    """Values are the same, nothing is said, and the third compiles nothing."""
    values = [result(process) for process in [start(tmp_path), start(tmp_path)]]
    (folder,) = Path(tmp_path).iterdir()
    entries = list(folder.glob("*-cache"))
    assert entries
    again = result(start(tmp_path))
    assert {value for value, *_ in (*values, again)} == {again[0]}
    assert again[1] > 0
    assert sorted(folder.glob("*-cache")) == sorted(entries)


def test_a_truncated_entry_is_compiled_anew(tmp_path):
    """A process killed while it wrote costs the others a warning of JAX's, not their run."""
    expected = result(start(tmp_path))[0]
    for entry in Path(tmp_path).glob("*/*-cache"):
        os.truncate(entry, 10)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and float(done.stdout.split()[0]) == expected
