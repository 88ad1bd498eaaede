"""The q_params of each example on their own, the decoder frozen: natural gradients, and the fit that takes them.

For a Gaussian q = N(m, S) the gradient of the bound by m and by the logarithms of the scales, in units of q itself, is
the natural gradient: Bonnet's and Price's theorems. With one latent dimension, and d the gradient by log sigma,

    d = 1 - h sigma^2,   h = -E_q[d^2 log p(x, z) / dz^2],   so d = 0 where the precision is the curvature h
    log sigma <- log sigma + 1/2 sign(d) log(1 + rate |d|),   m <- m + rate sigma^2 dL/dm

which stays positive and knows no scale: a likelihood a hundred times sharper is fitted in as many steps. Whatever bends
a Gaussian, a flow or a factor, is fitted by Adam beside it. Khan and Nielsen (2018); Lin, Schmidt and Khan (2020).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vae_jax.keys import fold_each

LARGEST_GROWTH = 0.7  # of log sigma^2 in a step, up or down: its gradient is noisy while the mean is far off
LONGEST_MOVE = 1.0  # of a mean in a step: the first curvatures may be far from those where it arrives


class Ascent(NamedTuple):
    """How the q_params of a family climb a bound."""

    init: Callable  # q_params [B, ...] -> state, of each example its own
    update: Callable  # (gradient to ascend, state, q_params, rate [B], adam_rate [B]) -> (q_params, state)


def diagonal_step(q_params: dict, gradient: dict, rate: jax.Array) -> dict:
    """A natural-gradient step of N(mean, sigma^2), as at the head of this file.

    Args:
        q_params: 'mean' and 'log_std' `[B, Z]`.
        gradient: of the sum over examples, to be ascended, by both.
        rate: `[B]`; 1 goes all the way to the curvature.

    Returns:
        The new 'mean' and 'log_std'.
    """
    rate, slope = along(rate, q_params["mean"]), gradient["log_std"]
    growth = jnp.minimum(jnp.log1p(rate * jnp.abs(slope)), LARGEST_GROWTH)
    log_std = q_params["log_std"] + 0.5 * jnp.sign(slope) * growth
    move = rate * jnp.exp(2 * log_std) * gradient["mean"]
    return {"mean": q_params["mean"] + jnp.clip(move, -LONGEST_MOVE, LONGEST_MOVE), "log_std": log_std}


def full_step(q_params: dict, gradient: dict, rate: jax.Array) -> dict:
    """A natural-gradient step of N(mean, L L^T): the diagonal step in the coordinates of L.

    A = L^T dL/dL, made symmetric, is 0 where the precision is the curvature. L <- L chol(I + A' + A'^2 / 2) with A' =
    rate A, so long as no row of A' sums to more than 1: far from there the rate is smaller.

    Args:
        q_params: 'mean' and 'log_std' `[B, Z]`, and 'lower' `[B, Z (Z - 1) / 2]`; L = diag(sigma) (I +
            lower / sqrt(Z)).
        gradient: of the sum over examples, to be ascended, by all three.
        rate: `[B]`.

    Returns:
        Their new values.
    """
    mean, dim = q_params["mean"], q_params["mean"].shape[-1]
    where, scale, eye = np.tril_indices(dim, -1), math.sqrt(dim), jnp.eye(dim)
    std, zeros = jnp.exp(q_params["log_std"])[..., None], jnp.zeros((*mean.shape, dim))
    factor = std * (eye + zeros.at[..., *where].set(q_params["lower"] / scale))
    below = zeros.at[..., *where].set(gradient["lower"] * scale) / std
    diagonal = (gradient["log_std"] - (factor * below).sum(-1)) / std[..., 0]
    whitened = jnp.tril(jnp.swapaxes(factor, -1, -2) @ (below + diagonal[..., None] * eye))
    whitened += jnp.swapaxes(jnp.tril(whitened, -1), -1, -2)
    rate = jnp.minimum(rate, 1 / jnp.abs(whitened).sum(-1).max(-1))
    change = along(rate, whitened) * whitened
    factor = factor @ jnp.linalg.cholesky(eye + change + change @ change / 2)
    move = factor @ (jnp.swapaxes(factor, -1, -2) @ gradient["mean"][..., None])
    std = jnp.diagonal(factor, axis1=-2, axis2=-1)
    return {
        "mean": mean + jnp.clip(along(rate, mean) * move[..., 0], -LONGEST_MOVE, LONGEST_MOVE),
        "log_std": jnp.log(std),
        "lower": (factor / std[..., None])[..., *where] * scale,
    }


def by_optimizer(optimizer: optax.GradientTransformation) -> Ascent:
    """An optax optimizer at learning rate 1 for each example by itself, with a state and a count of its own.

    Args:
        optimizer: of one example's q_params.

    Returns:
        The ascent, which takes steps of `adam_rate`.
    """

    def init(q_params):
        return jax.vmap(optimizer.init)(q_params) if q_params else ()

    def update(gradient, state, q_params, rate, adam_rate):
        if not q_params:
            return q_params, state
        change, state = jax.vmap(optimizer.update)(jax.tree.map(jnp.negative, gradient), state, q_params)
        return jax.tree.map(lambda params, u: params + along(adam_rate, u) * u, q_params, change), state

    return Ascent(init, update)


# The first gradients of a sharp likelihood are huge, and b2 = 0.999 would remember them for all of a fit.
FORGETFUL_ADAM = by_optimizer(optax.adam(1.0, b2=0.95))


def natural(heads: tuple = ("mean", "log_std"), step: Callable = diagonal_step) -> Ascent:
    """Natural gradients for the `heads` that are a Gaussian's, Adam for what bends it.

    Args:
        heads: names of q_params.
        step: (q_params, gradient, rate) of these -> their new values.

    Returns:
        The ascent; where q_params lack one of the heads, it is Adam's.
    """
    gaussian = lambda q_params: set(heads) <= q_params.keys()
    others = lambda tree: {name: leaf for name, leaf in tree.items() if not gaussian(tree) or name not in heads}

    def update(gradient, state, q_params, rate, adam_rate):
        if gaussian(q_params):
            adam_rate = adam_rate / imbalance(q_params, gradient)
        new, state = FORGETFUL_ADAM.update(others(gradient), state, others(q_params), rate, adam_rate)
        return (step(q_params, gradient, rate) if gaussian(q_params) else {}) | new, state

    return Ascent(lambda q_params: FORGETFUL_ADAM.init(others(q_params)), update)


# How q_params climb in a table or a refinement: (config.inference, the ascent of their family) -> Ascent.
ASCENTS = {
    "natural": lambda config, own: own,
    "adam": lambda config, own: by_optimizer(optax.adam(1.0)),
    "momentum": lambda config, own: by_optimizer(optax.sgd(1.0, config.momentum)),
}


def make_ascent(config: Any, own: Ascent) -> Ascent:
    """The ascent that `config` (config.inference) asks for, where `own` is that of the family of q."""
    return ASCENTS[config.ascent](config, own)


def imbalance(q_params, gradient):
    """`[B]`, at least 1: how far a Gaussian is from where it settles, in its own units; what bends it waits for it."""
    whitened = jnp.exp(q_params["log_std"]) * gradient["mean"]
    return jnp.maximum(1, jnp.maximum(jnp.abs(whitened), jnp.abs(gradient["log_std"])).max(-1))


def along(values, leaf):
    """`[B]` in the shape of a leaf `[B, ...]`."""
    return values.reshape(-1, *[1] * (leaf.ndim - 1))


class Fit(NamedTuple):
    """What `fit_q_params` carries for each example."""

    q_params: Any  # [B, ...] the iterate
    state: Any  # of the ascent
    average: Any  # [B, ...] the average iterate of the latest window
    best: jax.Array  # [B] the best mean value over a window so far
    stale: jax.Array  # [B] windows that were no better than that
    steps: jax.Array  # [B] steps taken


PLATEAU_DECAY = 0.3  # of an example's rate, after a window that was no better than the best before it
LEVEL_SHARE, LAST_RATE = 0.4, 0.01  # of a fit: its share before the rate falls, and what is left of the rate at the end


def fit_q_params(
    value: Callable,
    q_params: Any,
    keys: jax.Array,
    ascent: Ascent,
    *,
    natural_rate: float,
    learning_rate: float,
    max_steps: int,
    window: int,
    patience: int,
) -> Fit:
    """Fits the q_params of each example on its own, all together, the decoder frozen.

    The rate is level for the first LEVEL_SHARE of `max_steps`, which are cut to whole windows, then falls geometrically
    to LAST_RATE of it. When the mean value over a window is not an example's best, the noise lets it come no further at
    this rate: its rate is multiplied by PLATEAU_DECAY, and after `patience` such windows it stops; the program ends
    when all have. The answer is the average iterate of its last window, not of the best one, which near the optimum is
    the luckiest.

    Args:
        value: (keys `[B]`, q_params) -> what is ascended `[B]`, nats.
        q_params: where it begins, `[B, ...]`.
        keys: `[B]`; they are consumed. Step k uses fold_in(key, k).
        ascent: how the family of q climbs.
        natural_rate: of natural gradients, at its highest.
        learning_rate: of Adam, at its highest.
        max_steps: at most so many.
        window: steps whose iterates are averaged.
        patience: windows without a better one after which an example stops.

    Returns:
        The Fit at its end; its `average` is the answer.
    """
    window = min(window, max_steps)
    windows = max_steps // window
    total = lambda q_params, keys: (lambda each: (each.sum(), each))(value(keys, q_params))
    slope = jax.value_and_grad(total, has_aux=True)

    def one(carry, k):
        fit, params_sum, value_sum = carry
        (_, each), gradient = slope(fit.q_params, fold_each(keys, k))
        left = falling(k / (windows * window)) * PLATEAU_DECAY**fit.stale
        q_params, state = ascent.update(gradient, fit.state, fit.q_params, natural_rate * left, learning_rate * left)
        sums = jax.tree.map(jnp.add, params_sum, q_params), value_sum + each
        return (fit._replace(q_params=q_params, state=state), *sums), None

    def one_window(carry):
        number, fit = carry
        start = (fit, jax.tree.map(jnp.zeros_like, fit.q_params), jnp.zeros_like(fit.best))
        (new, params_sum, value_sum), _ = jax.lax.scan(one, start, number * window + jnp.arange(window))
        new = new._replace(average=jax.tree.map(lambda leaf: leaf / window, params_sum), steps=fit.steps + window)
        return number + 1, after_window(fit, new, value_sum / window, patience)

    count = len(jax.tree.leaves(q_params)[0])
    none = jnp.zeros(count, jnp.int32)
    fit = Fit(q_params, ascent.init(q_params), q_params, jnp.full(count, -jnp.inf), none, none)
    unfinished = lambda carry: (carry[0] < windows) & (carry[1].stale < patience).any()
    _, fit = jax.lax.while_loop(unfinished, one_window, (0, fit))
    return fit


def after_window(old, new, value, patience):
    """The Fit `new` of the examples that had not stopped, `old` of the others; value: `[B]`, the window's mean."""
    active, better = old.stale < patience, value > old.best
    new = new._replace(best=jnp.where(better, value, old.best), stale=old.stale + ~better)
    return jax.tree.map(lambda a, b: jnp.where(along(active, a), a, b), new, old)


def falling(done):
    """What is left of the rate when a share `done` of the fit is: 1, from LEVEL_SHARE on geometrically down."""
    return LAST_RATE ** jnp.clip((done - LEVEL_SHARE) / (1 - LEVEL_SHARE), 0, 1)
