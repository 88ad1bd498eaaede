"""Strict JSON of what runs write: a float that is not finite is the string nan, inf or -inf, read back as the float."""

import json
import math
import os
from typing import Any

from vae_jax.errors import RunError

NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def dumps(value: Any, indent: int | None = None) -> str:
    """A value as text, on one line unless it is indented."""
    return json.dumps(plain(value), indent=indent, allow_nan=False, ensure_ascii=False)


def loads(text: str | bytes, where: str) -> Any:
    """The value of a text from a file `where`. Raises RunError where it is no JSON."""
    try:
        return revive(json.loads(text))
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are both
        raise RunError(f"{where} is not readable JSON ({error})") from error


def encoded(text: str) -> bytes:
    """The text in UTF-8; what a file name has that is not UTF-8 becomes a JSON escape, such as \\udcff."""
    return text.encode(errors="backslashreplace")


def plain(value: Any) -> Any:
    """What strict JSON can hold: tuples and arrays as lists, floats that are not finite by name."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # NumPy and JAX scalars and arrays
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def revive(value: Any) -> Any:
    """What `plain` was given, lists for tuples."""
    if isinstance(value, dict):
        return {key: revive(item) for key, item in value.items()}
    if isinstance(value, list):
        return [revive(item) for item in value]
    return NOT_FINITE.get(value, value) if isinstance(value, str) else value
