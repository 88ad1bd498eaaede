"""Every use of a random key, in one enum, and how keys are made from a seed.

    run          key(config.seed)       --SEED_*-->  initialization, order of the examples, training noise
    training     noise  --step-->  --example-->  --TRAIN_*-->  one key for each example and use
    evaluation   key(config.eval.seed)  --SEED_EVALUATION-->  --split-->  --example-->  --EVAL_*, GAPS_*, ...-->  so too

A use is a number of its own, which is folded whole. The key of a seed is folded by uses SEED_* alone, so what they
begin shares no key with anything else, whatever the seeds. Every key serves one end: uses are folded into it, or other
numbers are (of steps, examples or draws), or it is split, or it is drawn from: `split(key)[i]` is `fold_in(key, i)`.
"""

import enum

import jax
import jax.numpy as jnp

SPLITS = {"train": 0, "valid": 1, "test": 2}


@enum.unique
class Use(enum.IntEnum):
    """What a key is for."""

    # of an example in a training step
    TRAIN_BINARIZE = 0
    TRAIN_DRAW = 1
    TRAIN_REFINE = 2
    TRAIN_INNER = 3  # inner updates of per-datapoint variational parameters
    TRAIN_CORRUPT = 4
    # of a seed
    SEED_INIT = 100
    SEED_ORDER = 101
    SEED_NOISE = 102
    SEED_BINARIZE = 103  # of data that are binarized once
    SEED_EVALUATION = 104  # examples of the splits
    SEED_PRIOR = 105  # draws from the prior that belong to no example
    SEED_SAMPLE_Z = 106  # --mode=sample
    SEED_SAMPLE_X = 107  # --mode=sample and --mode=decode
    SEED_ESTIMATES = 108  # --mode=estimators: of gradients
    SEED_DIRECTION = 109  # --mode=estimators: on which gradients are projected
    # of an example in an evaluation
    EVAL_BINARIZE = 200
    EVAL_DRAW = 201
    EVAL_REFINE = 202
    EVAL_FIT = 203
    EVAL_FIT_START = 204
    EVAL_MEAN = 205
    CHECK_START = 206  # of what fits of q fall short
    CHECK_FIT_FROM_Q = 207
    CHECK_FIT_FROM_START = 208
    CHECK_JUDGE = 209
    CHECK_REPORT = 210
    # of an example in --mode=gaps
    GAPS_START = 216
    GAPS_FIT_FROM_Q = 217
    GAPS_FIT_FROM_START = 218
    GAPS_JUDGE = 219
    GAPS_REPORT = 220
    GAPS_IWAE_Q_STAR = 221
    GAPS_FLOW_START = 222
    GAPS_FLOW_FIT = 223
    GAPS_FLOW_JUDGE = 224
    GAPS_ANNEAL = 225  # the same for each start of AIS
    GAPS_SIMULATE = 226
    GAPS_SIMULATED_START = 227
    GAPS_SIMULATED_FIT = 228
    GAPS_SIMULATED_ANNEAL = 229
    GAPS_NUTS = 230
    GAPS_MOMENTS = 231  # the same for each q that NUTS judges
    # of an example where a latent space is looked into
    AGGREGATE = 232
    POSTERIOR = 233
    POSTERIOR_DRAW = 234
    LOG_PX_PRIOR = 235
    COMPLETION = 236
    CONTOUR_REFINE = 240
    CONTOUR_FIT = 241
    # of an example's key in annealed importance sampling
    AIS_PILOT = 300
    AIS_RUN = 301
    AIS_REVERSE = 302


TRAINING = tuple(Use(number) for number in range(5))


def fold_each(keys, number):
    """Key array `[B]` -> `[B]`: a use, or another number, folded into each."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def seed_key(seed, use):
    """The key of a seed for one of the uses SEED_*."""
    return jax.random.fold_in(jax.random.key(seed), use)


def seed_keys(seed):
    """The three keys of a run: initialization, order of the examples, training noise."""
    return [seed_key(seed, use) for use in (Use.SEED_INIT, Use.SEED_ORDER, Use.SEED_NOISE)]


def keys_of_each(key, index):
    """One key for each example `[B]`, of its number alone and not of the batch."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


def example_keys(key, index, use):
    """One key for each example `[B]`: it depends on (key, example, use), not on the batch."""
    return fold_each(keys_of_each(key, index), use)


def split_keys(seed, split, count):
    """One key for each of the first `count` examples of a split."""
    key = jax.random.fold_in(seed_key(seed, Use.SEED_EVALUATION), SPLITS[split])
    return keys_of_each(key, jnp.arange(count))


def prior_key(seed):
    """The key of draws from the prior that belong to no example."""
    return seed_key(seed, Use.SEED_PRIOR)
