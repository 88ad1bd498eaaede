"""The q_params of each example on their own, the decoder frozen: natural gradients, and the fit that takes them.

For a Gaussian q = N(m, S) the gradient of the bound by m and by the logarithms of the scales, in units of q itself, is
the natural gradient: Bonnet's and Price's theorems. With one latent dimension, and d the gradient by log sigma,

    d = 1 - h sigma^2,   h = -E_q[d^2 log p(x, z) / dz^2],   so d = 0 where the precision is the curvature h
    log sigma <- log sigma + 1/2 sign(d) log(1 + rate |d|),   m <- m + rate sigma^2 dL/dm

which stays positive and knows no scale: a likelihood a hundred times sharper is fitted in as many steps. Whatever bends
a Gaussian, a flow or a factor, is fitted by Adam beside it. Khan and Nielsen (2018); Lin, Schmidt and Khan (2020).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vae_jax.keys import fold_each

MOST = 0.7  # a variance at most doubles or halves in a step, since its gradient is noisy while the mean is far off
LONGEST = 1.0  # a mean moves at most so far in a step: the first curvatures may be far from those where it arrives


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
    rate, bend = along(rate, q_params["mean"]), gradient["log_std"]
    growth = jnp.minimum(jnp.log1p(rate * jnp.abs(bend)), MOST)
    log_std = q_params["log_std"] + 0.5 * jnp.sign(bend) * growth
    move = rate * jnp.exp(2 * log_std) * gradient["mean"]
    return {"mean": q_params["mean"] + jnp.clip(move, -LONGEST, LONGEST), "log_std": log_std}


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
    apart = lambda tree: {name: leaf for name, leaf in tree.items() if name not in heads}
    others = lambda tree: apart(tree) if set(heads) <= tree.keys() else tree

    def update(gradient, state, q_params, rate, adam_rate):
        if not set(heads) <= q_params.keys():
            return FORGETFUL_ADAM.update(gradient, state, q_params, rate, adam_rate)
        adam_rate = adam_rate / imbalance(q_params, gradient)
        new, state = FORGETFUL_ADAM.update(apart(gradient), state, apart(q_params), rate, adam_rate)
        return step(q_params, gradient, rate) | new, state

    return Ascent(lambda q_params: FORGETFUL_ADAM.init(others(q_params)), update)


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
LEVEL, LEAST = 0.4, 0.01  # the share of a fit before its rate falls, and what is left of the rate at the end


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

    The rate is level for the first LEVEL of `max_steps`, which are cut to whole windows, then falls geometrically to
    LEAST. When the mean value over a window is not an example's best, the noise lets it come no further at this rate:
    its rate is multiplied by PLATEAU_DECAY, and after `patience` such windows it stops; the program ends when all have.
    The answer is the average iterate of its last window, not of the best one, which near the optimum is the luckiest.

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
    slope = jax.value_and_grad(
        lambda q_params, keys: (lambda each: (each.sum(), each))(value(keys, q_params)), has_aux=True
    )

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
        active, better = fit.stale < patience, value_sum / window > fit.best
        choose = lambda new, old: jax.tree.map(lambda a, b: jnp.where(along(active, a), a, b), new, old)
        return number + 1, Fit(
            q_params=choose(new.q_params, fit.q_params),
            state=choose(new.state, fit.state),
            average=choose(jax.tree.map(lambda total: total / window, params_sum), fit.average),
            best=jnp.where(active & better, value_sum / window, fit.best),
            stale=fit.stale + (active & ~better),
            steps=fit.steps + window * active,
        )

    count = len(jax.tree.leaves(q_params)[0])
    none = jnp.zeros(count, jnp.int32)
    fit = Fit(q_params, ascent.init(q_params), q_params, jnp.full(count, -jnp.inf), none, none)
    unfinished = lambda carry: (carry[0] < windows) & (carry[1].stale < patience).any()
    _, fit = jax.lax.while_loop(unfinished, one_window, (0, fit))
    return fit


def falling(done):
    """What is left of the rate when a share `done` of the fit is: 1 up to LEVEL, then geometrically down to LEAST."""
    return LEAST ** jnp.clip((done - LEVEL) / (1 - LEVEL), 0, 1)
