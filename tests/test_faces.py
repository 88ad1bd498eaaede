"""The public face of a folder: every name is there, typed, and described with its arguments."""

import dataclasses
import importlib
import inspect
import typing

import pytest

FOLDERS = ("distributions", "objectives", "models", "data", "parallel", "training", "runs", "evaluation")
NAMES = [(folder, name) for folder in FOLDERS for name in importlib.import_module(f"vae_jax.{folder}").__all__]


def is_structure(thing):
    """Whether a class is described by its fields rather than by its arguments."""
    return dataclasses.is_dataclass(thing) or hasattr(thing, "_fields") or getattr(thing, "_is_protocol", False)


def public_methods(cls):
    return [method for name, method in vars(cls).items() if inspect.isfunction(method) and not name.startswith("_")]


def require_types(function):
    hints, parameters = typing.get_type_hints(function), inspect.signature(function).parameters
    missing = [name for name in parameters if name not in hints and name != "self"]
    assert not missing and "return" in hints, f"{function.__qualname__} lacks the types of {missing or 'its result'}"


@pytest.mark.parametrize(("folder", "name"), NAMES)
def test_a_public_name_is_typed_and_described(folder, name):
    thing = getattr(importlib.import_module(f"vae_jax.{folder}"), name)
    if not callable(thing) or isinstance(thing, tuple):
        return  # a table or a constant, described where it is defined
    assert thing.__doc__, f"{folder}.{name} has no docstring"
    if not is_structure(thing):
        require_types(thing)
        parameters = inspect.signature(thing).parameters
        assert not parameters or "    Args:\n" in thing.__doc__, f"{folder}.{name} does not describe its arguments"
        described = thing.__doc__.partition("    Args:\n")[2]
        assert all(parameter in described for parameter in parameters), f"{folder}.{name} leaves out an argument"
        assert "Returns:" in thing.__doc__ or typing.get_type_hints(thing)["return"] is type(None)
    elif folder == "distributions":
        for method in public_methods(thing):
            if method.__name__ in ("sample", "log_prob", "sample_and_log_prob"):
                require_types(method)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_face_says_what_it_is_and_holds_nothing_twice(folder):
    names = importlib.import_module(f"vae_jax.{folder}").__all__
    assert len(names) == len(set(names)) and importlib.import_module(f"vae_jax.{folder}").__doc__
