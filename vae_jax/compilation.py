"""One switch for JAX's persistent compilation cache: a second start of the same program need not compile it again."""

import getpass
import importlib.metadata
import os
import pathlib
import platform
import sys

SWITCH = "VAE_JAX_COMPILATION_CACHE"
MAX_BYTES = 2 * 1024**3  # above it the entries used longest ago go; a limit also makes JAX lock what processes share


def use_cache(switch):
    """Turns the cache on ('on', or a directory for it) or leaves it off ('off', ''); returns the folder used, or None.

    The folder is one of this user, jaxlib version and kind of machine: an entry of another compiler is never read. JAX
    locks it while it reads and writes, so any number of runs may share it; an entry that cannot be read is compiled.
    On macOS, where reloaded programs have crashed, it stays off.
    """
    if switch in ("", "off") or sys.platform == "darwin":
        return None
    import jax

    folder = folder_of(switch)
    folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    return folder


def folder_of(switch):
    """Where the entries of this user, this jaxlib and this kind of machine lie."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    base = pathlib.Path(home) / "vae_jax" if switch == "on" else pathlib.Path(switch)
    return base / f"{getpass.getuser()}-jaxlib-{importlib.metadata.version('jaxlib')}-{platform.machine()}"
