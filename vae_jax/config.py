"""Configurations: what a key is, the keys that belong to no family, and how a configuration is assembled and checked.

A table {dotted key: Key} is all there is to know of its keys; defaults, validation, `--help` and docs/configuration.md
come from it. Families (posteriors, objectives, optimizers, ...) declare their own keys beside their functions, and
`training.configuration` puts all tables together. Nothing is ever read with a fallback: a key exists or it does not.
"""

import difflib
import runpy
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from vae_jax.errors import ConfigError

NO_KEYS: dict[str, "Key"] = {}


class Check(NamedTuple):
    """Which values are allowed beside those of the default's type."""

    test: Callable[[Any], bool]
    expected: str | Collection  # in words, or the allowed names: a dict may grow, so it is read when it is asked for


class Key(NamedTuple):
    """A key of the configuration; its type is that of its default."""

    default: Any
    meaning: str
    check: Check = Check(lambda value: True, "")


def one_of(names):
    return Check(lambda value: value in names, names)


LARGEST, WIDEST, DEEPEST = 2**31 - 1, 2**16, 1000  # of any number (a count is an int32), a layer's width, and layers


def at_least(least, most=LARGEST):
    return Check(lambda value: least <= value <= most, f"a number from {least} to {most}")


def different_integers(least):
    allowed = lambda v: len(set(v)) == len(v) > 0 and all(isinstance(k, int) and least <= k <= WIDEST for k in v)
    return Check(allowed, f"different integers from {least} to {WIDEST}")


def some_of(*names):
    allowed = lambda values: len(set(values)) == len(values) > 0 and set(values) <= set(names)
    return Check(allowed, "different names of " + ", ".join(names))


NOT_NEGATIVE = Check(lambda value: 0 <= value < float("inf"), "a number >= 0")
POSITIVE = Check(lambda value: 0 < value < float("inf"), "a number > 0")
FRACTION = Check(lambda value: 0 <= value < 1, "a number in [0, 1)")
SHARE = Check(lambda value: 0 <= value <= 1, "a number in [0, 1]")
SEED = Check(lambda value: 0 <= value < 2**32, "an integer in [0, 2^32)")
WIDTHS = Check(
    lambda v: all(isinstance(width, int) and 0 < width <= WIDEST for width in v) and len(v) <= DEEPEST,
    f"widths of layers, each an integer from 1 to {WIDEST}",
)

KEYS = {
    "seed": Key(0, "initialization, order of examples and training noise", SEED),
    "init_from": Key("", "RUN or RUN@STEP: the parameters of another run to start from; set by --init_from"),
    "data.name": Key("digits", "digits, mnist, fashion_mnist, kmnist, ppca, npz, or any TFDS name"),
    "data.manual_dir": Key("", "a directory that holds the official files"),
    "data.data_dir": Key("", "where TFDS keeps its data; empty: ~/tensorflow_datasets"),
    "data.path": Key("", "the .npz file of data.name = npz, or a directory of .npy files, which are memory-mapped"),
    "data.placement": Key(
        "auto",
        "of training data: device, host (fed in windows; TFDS's by records), auto: by size",
        one_of(("auto", "device", "host")),
    ),
    "data.num_train": Key(0, "keep the first so many training examples; 0: all", at_least(0)),
    "data.binarization": Key(
        "dynamic",
        "dynamic: drawn anew each step; fixed: once per example; threshold; none",
        one_of(("dynamic", "fixed", "threshold", "none")),
    ),
    "data.binarization_seed": Key(0, "of 'fixed'", SEED),
    "data.streams": Key(
        0, "example i is in stream i mod streams; 0: the largest power of two <= 8 dividing the batch", at_least(0)
    ),
    "data.condition": Key(
        "none",
        "given to encoder, decoder and prior: label; upper: x is the lower half given it",
        one_of(("none", "label", "upper")),
    ),
    "train.batch_size": Key(128, "B, examples in a step", at_least(1)),
    "train.epochs": Key(100, "passes over the training set", at_least(1)),
    "train.precision": Key(
        "float32",
        "of the networks while training: float32 or bfloat16; measured in float32 always",
        one_of(("float32", "bfloat16")),
    ),
    "train.log_every": Key(0, "steps in one compiled call and one log record; 0: one epoch", at_least(0)),
    "train.eval_every": Key(10, "epochs between evaluations on valid", at_least(1)),
    "train.checkpoint_every": Key(10, "epochs between checkpoints", at_least(1)),
    "train.select": Key("last", "or best: the checkpoint with the best ELBO on valid", one_of(("last", "best"))),
    "fit.natural_rate": Key(
        0.3, "q of held-out examples, the decoder frozen: natural gradients of Gaussians", FRACTION
    ),
    "fit.learning_rate": Key(5e-2, "Adam on what else q has: flows, factors, the code of an autoencoder", NOT_NEGATIVE),
    "fit.num_samples": Key(8, "draws of z for each example and step", at_least(1)),
    "fit.max_steps": Key(600, "at most so many", at_least(1)),
    "fit.window": Key(50, "steps whose iterates are averaged", at_least(1)),
    "fit.patience": Key(4, "windows without a better one after which an example stops", at_least(1)),
    "fit.check_examples": Key(32, "of these, fitted again with less noise to see what fits fall short", at_least(0)),
    "eval.seed": Key(0, "test binarization and every draw of an evaluation", SEED),
    "eval.elbo_samples": Key(10, "draws of z for each example in an ELBO", at_least(1)),
    "eval.num_samples": Key(1000, "K of the importance-sampled log p(x) at the end", at_least(1)),
    "eval.max_examples": Key(0, "of test, at the end; 0: all", at_least(0)),
    "eval.train_examples": Key(1000, "of train, at the end, measured like test; 0: none", at_least(0)),
    "eval.curve_examples": Key(
        100, "of test, for log p(x) against the number of draws in --mode=evaluate; 0: none", at_least(0)
    ),
    "eval.chunk_images": Key(2500, "decoded images in flight: bounds memory, changes no number", at_least(1)),
    "gaps.num_examples": Key(1000, "of test, in --mode=gaps; AIS and the flow take the first of these", at_least(1)),
    "gaps.elbo_samples": Key(200, "of each L", at_least(1)),
    "gaps.num_samples": Key(5000, "K of IWAE", at_least(1)),
    "gaps.chunk_images": Key(2500, "decoded images in flight: bounds memory, changes no number", at_least(1)),
    "gaps.fit.natural_rate": Key(0.3, "q*: as fit.natural_rate", FRACTION),
    "gaps.fit.learning_rate": Key(5e-2, "as fit.learning_rate", NOT_NEGATIVE),
    "gaps.fit.num_samples": Key(8, "draws of z for each example and step", at_least(1)),
    "gaps.fit.max_steps": Key(600, "from each of the two starts", at_least(1)),
    "gaps.fit.window": Key(50, "steps whose iterates are averaged", at_least(1)),
    "gaps.fit.patience": Key(12, "windows without a better one after which an example stops", at_least(1)),
    "gaps.fit.check_examples": Key(32, "as fit.check_examples", at_least(0)),
    "gaps.flow.num_examples": Key(100, "with a coupling flow of their own; 0: none", at_least(0)),
    "gaps.flow.layers": Key(4, "of the flow", at_least(1, DEEPEST)),
    "gaps.flow.width": Key(50, "of the hidden layer in each", at_least(1, WIDEST)),
    "gaps.flow.natural_rate": Key(0.1, "as fit.natural_rate, of the Gaussian that the flow bends", FRACTION),
    "gaps.flow.learning_rate": Key(5e-3, "Adam on the flow's weights", NOT_NEGATIVE),
    "gaps.flow.num_samples": Key(32, "draws of z for each example and step", at_least(1)),
    "gaps.flow.max_steps": Key(1500, "at most so many", at_least(1)),
    "gaps.flow.window": Key(50, "steps whose iterates are averaged", at_least(1)),
    "gaps.flow.patience": Key(30, "windows without a better one after which an example stops", at_least(1)),
    "gaps.ais.num_examples": Key(200, "that AIS bounds; 0: none", at_least(0)),
    "gaps.ais.num_simulated": Key(
        100, "BDMC: examples drawn from the model, bounded from both sides; 0: none", at_least(0)
    ),
    "gaps.ais.starts": Key(
        ("q", "prior"), "paths from q*, and from the prior: bounds that may fail differently", some_of("q", "prior")
    ),
    "gaps.ais.num_chains": Key(16, "for each example", at_least(1)),
    "gaps.ais.num_temperatures": Key(1000, "of a chain's path", at_least(1)),
    "gaps.ais.num_leapfrog": Key(5, "steps, each a decoder gradient, of a Hamiltonian transition", at_least(1)),
    "gaps.ais.schedule": Key("linear", "how the temperatures are spaced", one_of(("linear", "sigmoidal"))),
    "gaps.ais.pilot_chains": Key(4, "that tune the step sizes and are not weighted", at_least(1)),
    "gaps.ais.pilot_temperatures": Key(200, "of the path of those chains", at_least(1)),
    "gaps.nuts.num_examples": Key(0, "whose p(z|x) NUTS draws from, to judge q, q* and AIS; 0: none", at_least(0)),
    "gaps.nuts.num_chains": Key(4, "from draws of the prior, for each example", at_least(2)),
    "gaps.nuts.num_warmup": Key(500, "transitions of a chain that tune it and do not count", at_least(20)),
    "gaps.nuts.num_samples": Key(500, "transitions of a chain that count", at_least(4)),
    "estimators.names": Key(
        ("elbo", "iwae", "stl", "dreg"),
        "the gradient estimators of --mode=estimators; of planar and iaf elbo and iwae alone",
        some_of("elbo", "iwae", "stl", "dreg"),
    ),
    "estimators.num_samples": Key((1, 4, 16, 64), "each K, draws of z for each example", different_integers(1)),
    "estimators.num_draws": Key(1000, "gradients of each estimator at each K", at_least(20)),
    "estimators.num_examples": Key(16, "of train, one fixed batch", at_least(1)),
    "figures.count": Key(64, "images in a grid", at_least(1, 10_000)),
}

# What a resumed run may change: keys, and groups of keys, that touch no parameter.
CHANGEABLE = frozenset(
    {"figures", "gaps", "estimators", "train.eval_every", "train.checkpoint_every"}
    | {"eval.elbo_samples", "eval.num_samples", "eval.chunk_images", "eval.curve_examples"}
    | {"eval.max_examples", "eval.train_examples", "fit", "data.manual_dir", "data.data_dir", "data.placement"}
)

TYPE_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "text", tuple: "a list such as 200,100"}


def declares(**keys):
    """Gives a family's function its own keys, {name: Key}, beside itself; `keys_of` collects them."""

    def decorate(function):
        function.keys = keys
        return function

    return decorate


def keys_of(group, *families):
    """{'group.name': Key} that the members of dicts of families declare."""
    members = (member for family in families for member in family.values())
    return {f"{group}.{name}": key for member in members for name, key in getattr(member, "keys", {}).items()}


def assemble(table):
    """A ConfigDict of every key of a table at its default."""
    config = ConfigDict()
    for name, key in table.items():
        group, _, last = name.rpartition(".")
        owner: Any = config
        for part in filter(None, group.split(".")):
            if part not in owner:
                owner[part] = ConfigDict()
            owner = owner[part]
        owner[last] = key.default
    return config


def check(config, table):
    """Raises ConfigError unless `config` has the keys of a table, no more and no fewer, each with an allowed value."""
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"get_config() returned {config!r:.40}: expected default() with changes")
    given = flat(config)
    for name in given:
        if name not in table:
            raise ConfigError(unknown_key(name, table))
    for name, key in table.items():
        if name not in given:
            raise ConfigError(f"config.{name} is missing: begin with config = default()")
        value, kind = given[name], (int, float) if isinstance(key.default, float) else type(key.default)
        if not isinstance(value, kind) or isinstance(value, bool) != isinstance(key.default, bool):
            raise refused(name, value, TYPE_NAMES[type(key.default)])
        if not key.check.test(value):
            raise refused(name, value, expected(key.check))


def expected(check):
    """What a check allows, in words."""
    return check.expected if isinstance(check.expected, str) else "one of " + ", ".join(check.expected)


def refused(name, value, what):
    shown = " ".join(repr(value).split())
    return ConfigError(f"config.{name} = {shown if len(shown) < 80 else shown[:77] + '...'}: expected {what}")


def choose(family, name, key):
    """The member of a family by its name. Raises ConfigError, naming the key and all names there are."""
    if name not in family:
        raise refused(key, name, expected(one_of(family)))
    return family[name]


def unknown_key(name, table):
    """One line for a key that does not exist, with the nearest one that does: first of all of that name elsewhere."""
    last = name.rpartition(".")[2]
    alike = [key for key in table if key.rpartition(".")[2] == last]
    near = difflib.get_close_matches(name, alike, 1, 0) or difflib.get_close_matches(name, table, 1)
    return f"config.{name} does not exist: " + (f"did you mean config.{near[0]}?" if near else "--help lists every key")


def flat(config, prefix=""):
    """{'model.latent_dim': 2} and so on, of a nested config or dict; an empty group stays, as {}."""
    items = {}
    for name, value in config.items():
        nested = isinstance(value, ConfigDict | dict) and len(value)
        items |= flat(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return items


def from_experiment(path, variant=""):
    """The configuration of another experiment file, for one that changes only what differs from it."""
    return runpy.run_path(str(path))["get_config"](variant)


def by_variant(variant, settings):
    """The setting of an experiment's variant, `experiments/NAME.py:variant`; '' is the experiment as shipped."""
    if variant not in settings:
        raise ConfigError(
            f"variant {variant!r} of --config: expected one of {', '.join(filter(None, settings)) or 'none'}"
        )
    return settings[variant]


def in_groups(key, groups):
    """Whether a dotted key, or a group it is in, is among `groups`."""
    return any(key == group or key.startswith(f"{group}.") for group in groups)


def lookup(config, field):
    for name in field.split("."):
        config = config[name]
    return config


def num_streams(config):
    """S of the run: `data.streams`, or the largest power of two <= 8 that divides the batch."""
    return config.data.streams or max(s for s in (1, 2, 4, 8) if config.train.batch_size % s == 0)
