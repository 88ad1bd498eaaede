"""Exit status 0 if a run directory holds the finished run of exactly this command; asks files only, in milliseconds.

    python finished.py DIR COMMAND...

The directory remembers the arguments it was made by. Anything else, an experiment file or the defaults changed since
among it, is status 1: then the command itself is run, which knows.
"""

import json
import pathlib
import sys


def finished(directory, command):
    """Whether `directory` is complete, was made by `command`, and no file of configurations is newer than it."""
    root, experiments = pathlib.Path(directory), pathlib.Path(__file__).parents[1]
    try:
        summary = json.loads((root / "summary.json").read_text(encoding="utf-8"))
        argv = json.loads((root / "environment.json").read_text(encoding="utf-8"))["argv"]
        made = (root / "config.json").stat().st_mtime
        own = [pathlib.Path(part[9:].partition(":")[0]) for part in command if part.startswith("--config=")]
        files = [*own, *experiments.rglob("*.py"), experiments.parent / "vae_jax" / "config.py"]
        changed = any(path.stat().st_mtime >= made for path in files)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    program, arguments = command[:3], command[3:]  # python -m vae_jax.main, and what is argv[1:] in it
    complete = isinstance(summary, dict) and summary.get("complete") is True
    return complete and program[1:] == ["-m", "vae_jax.main"] and arguments == argv[1:] and not changed


if __name__ == "__main__":
    sys.exit(not finished(sys.argv[1], sys.argv[2:]))
