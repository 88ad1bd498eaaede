"""Every use of a random key, in one enum, and how keys are made from a seed.

    run          key(config.seed)       --Use.SEED_*-->  initialization, order of the examples, training noise
    training     fold_in(noise, step)   --example-->  --Use.TRAIN_*-->  one key for each example and use
    evaluation   key(config.eval.seed)  --split-->  --example-->  --Use.*-->  one key for each example and use

A use is the number that `fold` folds into a key: the value of its enum member modulo NAMESPACE. Members whose values
lie in one hundred are folded into the same keys, so no two of them may be equal.
"""

import enum
from functools import partial

import jax
import jax.numpy as jnp

NAMESPACE = 100
SPLITS = {"train": 0, "valid": 1, "test": 2}


class Use(enum.IntEnum):
    """What a key is for."""

    # of an example in a training step
    TRAIN_BINARIZE = 0
    TRAIN_DRAW = 1
    TRAIN_REFINE = 2
    TRAIN_INNER = 3  # inner updates of per-datapoint variational parameters
    TRAIN_CORRUPT = 4
    # of a run's seed
    SEED_INIT = 100
    SEED_ORDER = 101
    SEED_NOISE = 102
    # of an example in an evaluation
    EVAL_BINARIZE = 200
    EVAL_DRAW = 201
    EVAL_REFINE = 202
    EVAL_FIT = 203
    EVAL_FIT_START = 204
    EVAL_MEAN = 205
    # of an example in --mode=gaps
    GAPS_START = 216
    GAPS_FIT_FROM_Q = 217
    GAPS_FIT_FROM_START = 218
    GAPS_JUDGE = 219
    GAPS_REPORT = 220
    GAPS_IWAE_Q_STAR = 221
    GAPS_FLOW_START = 222
    GAPS_FLOW_FIT = 223
    GAPS_ANNEAL = 224
    GAPS_SIMULATE = 225
    # of an example where a latent space is looked into
    AGGREGATE = 232
    POSTERIOR = 233
    LOG_PX_PRIOR = 234
    COMPLETION = 234  # the same number as LOG_PX_PRIOR, in version 0.1 and so here
    CONTOUR_REFINE = 240
    CONTOUR_FIT = 241
    # of an example's key in annealed importance sampling
    AIS_PILOT = 300
    AIS_RUN = 301
    AIS_REVERSE = 302
    # of the evaluation's seed in --mode=sample and --mode=decode
    SAMPLE_Z = 464
    SAMPLE_X = 465


TRAINING = tuple(Use(number) for number in range(5))


def fold(key, use):
    """One key for one use of it."""
    return jax.random.fold_in(key, use % NAMESPACE)


def fold_in_each(keys, number):
    """Key array `[B]` -> `[B]`, a number folded into each."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def fold_each(keys, use):
    """Key array `[B]` -> `[B]`, each for one use of it."""
    return fold_in_each(keys, use % NAMESPACE)


def seed_keys(seed):
    """The three keys of a run: initialization, order of the examples, training noise."""
    return [fold(jax.random.key(seed), use) for use in (Use.SEED_INIT, Use.SEED_ORDER, Use.SEED_NOISE)]


def example_keys(key, index, use):
    """One key for each example `[B]`: it depends on (key, example, use), not on the batch."""
    return jax.vmap(lambda i: fold(jax.random.fold_in(key, i), use))(index)


def split_keys(seed, split, count):
    """One key for each of the first `count` examples of a split."""
    key = jax.random.fold_in(jax.random.key(seed), SPLITS[split])
    return jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(count))


def prior_key(seed):
    """The key of draws from the prior that belong to no example."""
    return jax.random.fold_in(jax.random.key(seed), len(SPLITS))
