"""Uses of random keys: none twice among those that are folded into the same keys, and what each function folds."""

import jax
import numpy as np

from vae_jax import keys
from vae_jax.keys import NAMESPACE, TRAINING, Use, example_keys, fold, fold_each, fold_in_each, prior_key, seed_keys

bits = lambda key: np.asarray(jax.random.key_data(key))


def test_no_use_is_taken_twice_but_for_the_one_that_is_known():
    """Every name of the enum, aliases included: an alias is a number that two uses share."""
    names = Use.__members__
    aliases = {name: use.name for name, use in names.items() if name != use.name}
    assert aliases == {"COMPLETION": "LOG_PX_PRIOR"}
    assert all(0 <= use % NAMESPACE < NAMESPACE and use // NAMESPACE < 5 for use in Use)
    assert [use.name for use in TRAINING] == [name for name in names if name.startswith("TRAIN_")]


def test_a_use_is_folded_without_its_namespace():
    key = jax.random.key(3)
    np.testing.assert_array_equal(bits(fold(key, Use.EVAL_FIT)), bits(jax.random.fold_in(key, 3)))
    many = jax.random.split(key, 4)
    np.testing.assert_array_equal(bits(fold_each(many, Use.AIS_RUN)), bits(fold_in_each(many, 1)))
    np.testing.assert_array_equal(bits(fold_in_each(many, 7))[2], bits(jax.random.fold_in(many[2], 7)))


def test_keys_of_a_seed_and_of_an_example():
    folded = lambda *numbers: bits(jax.random.fold_in(jax.random.key(numbers[0]), numbers[1]))
    for key, number in zip(seed_keys(5), range(3), strict=True):
        np.testing.assert_array_equal(bits(key), folded(5, number))
    np.testing.assert_array_equal(bits(prior_key(5)), folded(5, 3))
    noise, index = jax.random.key(1), np.array([4, 9])
    got = bits(example_keys(noise, index, Use.TRAIN_CORRUPT))
    for row, example in zip(got, index, strict=True):
        np.testing.assert_array_equal(row, bits(jax.random.fold_in(jax.random.fold_in(noise, example), 4)))
    assert keys.SPLITS == {"train": 0, "valid": 1, "test": 2}
