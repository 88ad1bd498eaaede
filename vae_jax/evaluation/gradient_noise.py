"""How noisy gradient estimators are: the signal-to-noise ratio of ELBO, IWAE, STL and DReG against the draws K.

    SNR_K(i) = |E g_i| / sqrt(Var g_i)              Rainforth et al. (2018), section 3, of one parameter i
    IWAE     encoder K^-1/2, decoder K^1/2          their Theorem 1
    DReG     encoder K^1/2                          Tucker et al. (2019), section 4

as K grows: where few of the K draws carry any weight, with q far from p(z|x), the slopes are still to come.

g is one estimate of the gradient of the mean objective over a fixed batch, nats per example; its draws of z are all
that is random in it. From N estimates come three numbers for a part of the parameters, encoder or decoder:

    snr        the mean over i of SNR_K(i), as the papers average it. Where E g_i = 0 it does not fall below what N
               estimates of pure noise give, sqrt(2 / (pi N)), the floor.
    snr_norm   |E g| / sqrt(tr Cov g), the whole gradient as one vector; |mean|^2 is corrected for the tr Cov g / N that
               noise adds to it, so there is no floor. Slopes are measured on it.
    variance   tr Cov g

Standard errors are jackknives over GROUPS groups of the N estimates. All estimators see the same keys, hence pairs can
be compared draw by draw: DReG with IWAE and STL with ELBO must agree in the mean, and a paired t says whether they do
along one random direction.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.evaluation.examples import entry
from vae_jax.keys import TRAINING, Use, example_keys, seed_key
from vae_jax.objectives.loss import OBJECTIVES, make_loss, to_refine

ESTIMATORS = ("elbo", "iwae", "stl", "dreg")
PARTS = {"encoder": ("encoder", "posterior"), "decoder": ("decoder", "prior", "likelihood")}  # entries of params
PAIRS = {"stl": "elbo", "dreg": "iwae"}  # an estimator, and the one whose mean it must have
STATISTICS = ("snr", "snr_norm", "variance")
GROUPS = 10  # of estimates, for standard errors


class Moments(NamedTuple):
    """Of `count` gradients: their mean, and the sum of squared deviations from it, pytrees or vectors."""

    count: Any
    mean: Any
    squares: Any


def measure(model, params, batch, config, seed=0, progress=lambda title, done, total: None):
    """Everything of every estimator: {(name, K): {part: {statistic: [1 + GROUPS]}}}, {(name, K): projections [N]}.

    batch: 'image', 'index' [B] and what the model wants. config: config.estimators. The first of the 1 + GROUPS numbers
    is of all estimates, the others leave one group out: see `with_error`. Projections are of the encoder's gradients on
    one direction.
    """
    keys = jax.random.split(seed_key(seed, Use.SEED_ESTIMATES), GROUPS * per_group(config)).reshape(GROUPS, -1)
    direction = random_signs(seed_key(seed, Use.SEED_DIRECTION), params)
    found, projections = {}, {}
    for name in config.names:
        for count in config.num_samples:
            gradient, groups, along = make_gradient(model, name, count), [], []
            progress(f"{name} at K = {count}", 0, GROUPS)  # before its program compiles
            for group in keys:
                moments, projected = jax.device_get(stream(gradient, group, direction, params, batch))
                groups.append(split_parts(moments))
                along.append(projected)
                progress(f"{name} at K = {count}", len(groups), GROUPS)
            found[name, count] = {part: statistics([group[part] for group in groups]) for part in groups[0]}
            projections[name, count] = np.concatenate(along)
    return found, projections


def per_group(config):
    """Estimates in a group, so that all groups have as many and all of them at least `num_draws`."""
    return -(-config.num_draws // GROUPS)


def make_gradient(model, name, num_samples):
    """gradient(key, params, batch) of the mean over the batch of an objective with K = num_samples draws."""
    objective = partial(OBJECTIVES[name].function, num_samples=num_samples)
    refine = None if to_refine(name) == name else partial(OBJECTIVES["elbo"].function, num_samples=num_samples)
    loss = make_loss(model, objective, refine)

    def gradient(key, params, batch):
        keys = [example_keys(key, batch["index"], use) for use in TRAINING]
        total, _ = jax.grad(loss, has_aux=True)(params, (), batch, keys, {})
        return jax.tree.map(lambda g: -g / len(batch["index"]), total)

    return gradient


def random_signs(key, params):
    """A direction of length one over the encoder's parameters; 0 elsewhere."""
    own = {name: tree for name, tree in params.items() if name in PARTS["encoder"]}
    keys, size = jax.random.split(key, len(jax.tree.leaves(own))), sum(leaf.size for leaf in jax.tree.leaves(own))
    keys = jax.tree.unflatten(jax.tree.structure(own), keys)
    signs = jax.tree.map(lambda k, leaf: jax.random.rademacher(k, leaf.shape, float) / math.sqrt(size), keys, own)
    return jax.tree.map(jnp.zeros_like, params) | signs


@partial(jax.jit, static_argnums=0)
def stream(gradient, keys, direction, *arguments):
    """Moments of `gradient(key, *arguments)` over keys [N] by Welford's recursion, and projections [N] on a direction.

    Two copies of a gradient are all the memory there is to it, however many are drawn.
    """

    def one(moments, key):
        g, count = gradient(key, *arguments), moments.count + 1
        mean = jax.tree.map(lambda m, g: m + (g - m) / count, moments.mean, g)
        add = lambda s, g, old, new: s + (g - old) * (g - new)
        squares = jax.tree.map(add, moments.squares, g, moments.mean, mean)
        return Moments(count, mean, squares), sum(jax.tree.leaves(jax.tree.map(jnp.vdot, direction, g)))

    zeros = jax.tree.map(jnp.zeros_like, direction)
    return jax.lax.scan(one, Moments(jnp.float32(0), zeros, zeros), keys)


def split_parts(moments):
    """Moments over params -> {part: Moments of vectors [P], float64}; parts without parameters are left out."""
    parts = {}
    for part, names in PARTS.items():
        own = [{name: tree[name] for name in names if name in tree} for tree in moments[1:]]
        if own[0]:
            vectors = [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in own]
            parts[part] = Moments(float(moments.count), *(vector.astype(np.float64) for vector in vectors))
    return parts


def merge(groups):
    """Moments of all gradients from those of groups of them. Chan, Golub and LeVeque (1983), eq. 2.1."""
    count = sum(group.count for group in groups)
    mean = sum(group.count * group.mean for group in groups) / count
    squares = sum(group.squares + group.count * (group.mean - mean) ** 2 for group in groups)
    return Moments(count, mean, squares)


def statistics(groups):
    """{statistic: [1 + G]} of all G groups' gradients together, and of all but each."""
    left_out = [groups[:i] + groups[i + 1 :] for i in range(len(groups))]
    each = [of_moments(merge(kept)) for kept in (groups, *left_out)]
    return {name: np.array([numbers[name] for numbers in each]) for name in STATISTICS}


def of_moments(moments):
    """snr, snr_norm and variance, as the head of this file defines them; parameters that no draw moves do not count."""
    variance = moments.squares / (moments.count - 1)
    moving = variance > 0
    mean, variance = moments.mean[moving], variance[moving]
    trace = variance.sum()
    signal = max(0.0, (mean**2).sum() - trace / moments.count)
    return {
        "snr": float((np.abs(mean) / np.sqrt(variance)).mean()) if len(mean) else math.nan,
        "snr_norm": math.sqrt(signal / trace) if trace else math.nan,
        "variance": float(trace),
    }


def with_error(values):
    """(value, standard error) from [1 + G] numbers, of all groups and of all but each: the jackknife."""
    kept = values[1:]
    return float(values[0]), math.sqrt((len(kept) - 1) / len(kept) * ((kept - kept.mean()) ** 2).sum())


def slope(num_samples, values):
    """d log value / d log K `[1 + G]`, by least squares; values `[len(num_samples), 1 + G]`. None if any is not > 0."""
    if len(num_samples) < 2 or not (values > 0).all():
        return None
    x = np.log(num_samples) - np.log(num_samples).mean()
    return x @ np.log(values) / (x @ x)


def upper_half(num_samples):
    """The larger K, at least two of them: those on which slopes, which are asymptotic, are measured."""
    ordered = sorted(num_samples)
    return ordered[min(len(ordered) // 2, len(ordered) - 2) :] if len(ordered) > 1 else ordered


def paired_t(one, other):
    """Student's t of the differences of two estimators at the same draws [N]."""
    difference = np.asarray(one, np.float64) - other
    return float(difference.mean() / (difference.std(ddof=1) / math.sqrt(len(difference))))


def summarize(found, projections):
    """{name: {value, stderr, unit}}: snr at the largest K, slope of snr_norm, and t of the pairs there."""
    names, counts = axes(found)
    largest, upper, numbers = counts[-1], upper_half(counts), {}
    for name in names:
        for part, values in found[name, largest].items():
            if not np.isfinite(values["snr"]).all():
                continue  # no draw moves these parameters: those of a prior whose KL is in closed form, for example
            numbers[f"{name}_{part}_snr"] = with_unit(values["snr"], f"at K = {largest}")
            slopes = slope(upper, np.stack([found[name, count][part]["snr_norm"] for count in upper]))
            if slopes is not None:
                unit = f"d log / d log K, K = {upper[0]} to {largest}"
                numbers[f"{name}_{part}_snr_slope"] = with_unit(slopes, unit)
    for one, other in PAIRS.items():
        if {one, other} <= set(names) and "encoder" in found[one, largest]:
            t = paired_t(projections[one, largest], projections[other, largest])
            numbers[f"{one}_bias_t"] = entry(t, f"paired t against {other}")
    return numbers


def axes(found):
    """Names of estimators, as asked for, and numbers of draws, ascending."""
    return list(dict.fromkeys(name for name, _ in found)), sorted({count for _, count in found})


def with_unit(values, unit):
    value, stderr = with_error(values)
    return entry(value, unit, stderr)


def arrays(found):
    """names, num_samples, parts, and each statistic [names, num_samples, parts] with its standard error."""
    names, counts = axes(found)
    parts = list(next(iter(found.values())))
    result = {"names": names, "num_samples": counts, "parts": parts}
    for statistic in STATISTICS:
        pairs = [[[with_error(found[n, k][p][statistic]) for p in parts] for k in counts] for n in names]
        result[statistic], result[f"{statistic}_stderr"] = np.moveaxis(np.array(pairs), -1, 0)
    return {name: np.asarray(array) for name, array in result.items()}


def noise_floor(num_draws):
    """The snr that `num_draws` gradients of pure noise have."""
    return math.sqrt(2 / (math.pi * num_draws))
