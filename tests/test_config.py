"""Configurations: every bound of every field, by name, and keys that do not exist."""

import math
from pathlib import Path

import pytest

from vae_jax import config as configs
from vae_jax.commands import configuration
from vae_jax.data import datasets
from vae_jax.errors import ConfigError
from vae_jax.models import families, inference, networks
from vae_jax.objectives.loss import OBJECTIVES
from vae_jax.training import optimizer


def config_with(field, value):
    """The default configuration with one field set to a value of any type."""
    config = configuration.default()
    group, _, name = field.rpartition(".")
    owner = configs.lookup(config, group) if group else config
    with owner.ignore_type():
        owner[name] = value
    return config


def refusal(config):
    with pytest.raises(ConfigError) as caught:
        configuration.validate(config)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 240
    return message


def test_the_default_is_valid_and_validated_is_frozen():
    config = configuration.validate(configuration.default())
    assert configuration.validate(config) == config
    with pytest.raises(AttributeError):
        config.seed = 1


def keys_with(kind):
    """The keys whose check allows: names, a number between two bounds, a share of one."""
    return {name: key for name, key in configuration.keys().items() if kind(key.check.expected)}


NAMED = keys_with(lambda expected: not isinstance(expected, str))
NOT_NEGATIVE = keys_with(lambda expected: expected == "a number >= 0")
BOUNDED = keys_with(lambda expected: isinstance(expected, str) and expected.startswith("a number from "))
SHARES = keys_with(lambda expected: expected in ("a number in [0, 1)", "a number in [0, 1]"))


def test_every_kind_of_key_is_there():
    assert len(NAMED) >= 18 and len(BOUNDED) >= 60 and len(NOT_NEGATIVE) >= 14 and len(SHARES) >= 7


@pytest.mark.parametrize("field", NAMED)
def test_a_value_outside_its_set_is_refused_with_the_set(field):
    message = refusal(config_with(field, "nonsense"))
    assert f"config.{field} = 'nonsense'" in message
    assert all(choice in message for choice in NAMED[field].check.expected)


@pytest.mark.parametrize("field, key", BOUNDED.items())
def test_a_number_outside_its_bounds_is_refused_with_them(field, key):
    """Counts end where an int32 does, and sizes of layers before they could fill a memory."""
    least, most = (int(word) for word in key.check.expected.split()[3::2])
    assert 2 <= most < 2**31
    for value in (least - 1, most + 1, -(2**40), 10**12):
        message = refusal(config_with(field, value))
        assert f"config.{field} = {value!r}" in message and f"from {least} to {most}" in message


@pytest.mark.parametrize("field", NOT_NEGATIVE)
@pytest.mark.parametrize("value", [-0.5, math.nan, math.inf])
def test_a_negative_rate_or_weight_is_refused(field, value):
    message = refusal(config_with(field, value))
    assert f"config.{field} = {value!r}" in message and ">= 0" in message


@pytest.mark.parametrize("field", SHARES)
@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan])
def test_a_fraction_outside_the_unit_interval_is_refused(field, value):
    message = refusal(config_with(field, value))
    assert f"config.{field} = {value!r}" in message and "[0, 1" in message


@pytest.mark.parametrize(
    "field, value",
    [
        ("model.sigma", 0.0),
        ("model.sigma", math.inf),
        ("model.hidden", (0,)),
        ("model.hidden", (200, -1)),
        ("model.hidden", (2.5,)),
        ("model.hidden", (10**9,)),
        ("estimators.num_samples", (1, 10**9)),
        ("model.hidden", ("a",)),
        ("objective.first", 0.0),
        ("objective.first", 1.0),
        ("gaps.ais.starts", ("q", "q")),
        ("gaps.ais.starts", ("encoder",)),
        ("estimators.num_samples", (4, 0)),
        ("estimators.names", ("elbo", "tvo")),
        ("seed", -1),
        ("seed", 2**32),
        ("eval.seed", -1),
        ("data.binarization_seed", 2**32),
    ],
)
def test_other_bounds(field, value):
    message = refusal(config_with(field, value))
    assert f"config.{field} = {value!r}" in message and "expected" in message


@pytest.mark.parametrize(
    "field, value, expected",
    [
        ("train.epochs", None, "an integer"),
        ("train.epochs", True, "an integer"),
        ("train.epochs", 2.0, "an integer"),
        ("optimizer.learning_rate", "big", "a number"),
        ("data.name", 3, "text"),
        ("model.hidden", 200, "a list"),
        ("inference.stop_gradient", 1, "true or false"),
    ],
)
def test_a_value_of_another_type_is_refused(field, value, expected):
    message = refusal(config_with(field, value))
    assert f"config.{field} = {value!r}: expected {expected}" in message


def test_an_integer_may_stand_for_a_number():
    assert configuration.validate(config_with("model.sigma", 2)).model.sigma == 2


def test_a_key_too_many_is_refused_with_the_nearest_one():
    """An experiment file that misspells a key would otherwise change nothing, in silence."""
    config = configuration.default()
    config.train.epoch = 3
    assert refusal(config) == "config.train.epoch does not exist: did you mean config.train.epochs?"


@pytest.mark.parametrize(
    "name, meant",
    [("latent_dim", "model.latent_dim"), ("trian.epochs", "train.epochs"), ("fit.samples", "fit.num_samples")],
)
def test_a_key_of_that_name_in_another_group_is_meant_first(name, meant):
    assert configs.unknown_key(name, configuration.keys()).endswith(f"did you mean config.{meant}?")
    assert "--help" in configs.unknown_key("zzz.qqq", configuration.keys())


def test_a_key_too_few_is_refused():
    config = configuration.default()
    del config.train.select
    assert "config.train.select is missing" in refusal(config)


@pytest.mark.parametrize("value", [None, {}, 3])
def test_what_is_no_config_is_refused(value):
    assert f"returned {value!r}" in refusal(value)


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"data.streams": 8, "train.batch_size": 100}, ("data.streams = 8", "train.batch_size = 100")),
        ({"data.name": "npz"}, ("data.path", ".npz")),
        ({"data.name": "ppca", "data.binarization": "none"}, ("model.likelihood = bernoulli", "use normal")),
        ({"inference.kind": "per_datapoint"}, ("per_datapoint", "binarization = dynamic", "binarization=fixed")),
        (
            {"objective.name": "miwae", "objective.num_samples": 5, "objective.groups": 2},
            ("objective.groups = 2", "objective.num_samples = 5"),
        ),
        ({"objective.name": "tvo"}, ("objective.name = tvo", "objective.num_samples >= 2")),
        (
            {"inference.kind": "per_datapoint", "data.binarization": "fixed", "inference.start": "encoder"},
            ("inference.start = encoder", "inference.encoder_run"),
        ),
    ],
)
def test_pairs_that_cannot_work_name_both_and_a_way_on(settings, named):
    config = configuration.default()
    for field, value in settings.items():
        configs.lookup(config, field.rpartition(".")[0])[field.rpartition(".")[2]] = value
    message = refusal(config)
    assert all(part in message for part in named), message


def test_what_is_allowed_is_what_there_is():
    """Choices are the keys of the dicts of functions, so a name that is added to one is allowed."""
    tables = {
        **dict.fromkeys(("model.encoder", "model.decoder"), networks.NETWORKS),
        "model.activation": networks.ACTIVATIONS,
        "model.posterior": families.POSTERIORS,
        "model.prior": families.PRIORS,
        "model.likelihood": families.LIKELIHOODS,
        "inference.kind": inference.INFERENCES,
        "objective.name": OBJECTIVES,
        "optimizer.name": optimizer.OPTIMIZERS,
        "optimizer.schedule": optimizer.SCHEDULES,
    }
    for field, table in tables.items():
        assert NAMED[field].check.expected is table, field
    literal = {"inference.start": {*inference.STARTS, "encoder"}, "data.condition": {*datasets.CONDITIONS, "none"}}
    for field, names in literal.items():
        assert set(NAMED[field].check.expected) == names


def test_a_family_that_is_added_brings_its_name_and_its_keys(monkeypatch):
    """One function and one line: no other place knows of it."""

    @configs.declares(tail=configs.Key(3.0, "degrees of freedom", configs.POSITIVE))
    def student(config):
        return families.normal_posterior(config)

    monkeypatch.setitem(families.POSTERIORS, "student", student)
    config = configuration.default()
    config.model.posterior = "student"
    assert configuration.validate(config).model.tail == 3.0
    config.model.tail = -1.0
    assert refusal(config) == "config.model.tail = -1.0: expected a number > 0"
    monkeypatch.delitem(families.POSTERIORS, "student")
    assert "tail" not in configuration.default().model


def test_changeable_keys_exist():
    keys = configuration.keys()
    assert all(any(configs.in_groups(key, (name,)) for key in keys) for name in configs.CHANGEABLE)
    assert not configs.in_groups("train.epochs", configs.CHANGEABLE)
    assert configs.in_groups("figures.count", configs.CHANGEABLE) and not configs.in_groups("figures_", ("figures",))


def test_the_reference_is_what_the_tables_say():
    page = Path(__file__).parents[1] / "docs" / "configuration.md"
    made = "python -m vae_jax.commands.configuration > docs/configuration.md"
    assert page.read_text() == configuration.reference() + "\n", f"out of date: {made}"


def test_defaults_are_their_own_types_and_allowed():
    for name, key in configuration.keys().items():
        assert type(key.default) in configs.TYPE_NAMES and key.check.test(key.default), name
        assert key.meaning and key.meaning == " ".join(key.meaning.split()), name


@pytest.mark.parametrize("batch_size, streams, expected", [(128, 0, 8), (100, 0, 4), (7, 0, 1), (100, 20, 20)])
def test_the_number_of_streams(batch_size, streams, expected):
    config = configuration.default()
    config.train.batch_size, config.data.streams = batch_size, streams
    assert configs.num_streams(config) == expected


def test_an_unknown_variant_names_those_there_are():
    assert configs.by_variant("quick", {"": 1, "quick": 2}) == 2
    with pytest.raises(ConfigError, match="variant 'quik' of --config: expected one of quick, slow"):
        configs.by_variant("quik", {"": 1, "quick": 2, "slow": 3})
