"""Optimizers and learning-rate schedules by name.

Every optimizer is built at a learning rate of one and its updates are scaled by `learning_rate(hyper, step)` after it,
so the rate stays an argument of the compiled program, not a constant in it. All those listed are linear in the rate of
the step; rmsprop, whose momentum remembers updates at the rates of their own steps, is told the rate beforehand.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from vae_jax.config import FRACTION, NOT_NEGATIVE, SHARE, Key, at_least, one_of
from vae_jax.training.muon import scale_by_muon


def by_shape(params):
    """What Muon orthogonalizes, "matrix": matrices, stacks of them `[layers, I, O]`, the kernels of convolutions.

    The rest, and what is data rather than weights (pseudo-inputs), is Adam's."""

    def label(path, leaf):
        return "matrix" if leaf.ndim in (2, 3, 4) and getattr(path[-1], "key", None) != "inputs" else "other"

    return jax.tree_util.tree_map_with_path(label, params)


def muon(config):
    """Muon for matrices and Adam with Nesterov's momentum for the rest, as optax.contrib.muon."""
    matrix = optax.chain(
        scale_by_muon(config.momentum, config.newton_schulz_steps),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale(-1.0),
    )
    return optax.partition({"matrix": matrix, "other": optax.nadam(1.0, b1=config.b1, b2=config.b2)}, by_shape)


def momentum_at_rate(decay):
    """`optax.trace` of updates at the rates of their own steps, divided by the rate of this one, an extra argument."""
    trace = optax.trace(decay)

    def update(updates, state, params=None, *, learning_rate=1.0, **extra):
        moves, state = trace.update(jax.tree.map(lambda u: learning_rate * u, updates), state)
        return jax.tree.map(lambda m: jnp.where(learning_rate > 0, m / learning_rate, 0), moves), state

    return optax.GradientTransformationExtraArgs(trace.init, update)


OPTIMIZERS = {
    "adam": lambda c: optax.adam(1.0, b1=c.b1, b2=c.b2),
    "adamw": lambda c: optax.adamw(1.0, b1=c.b1, b2=c.b2, weight_decay=c.weight_decay),
    "adamax": lambda c: optax.adamax(1.0, b1=c.b1, b2=c.b2),
    "nadam": lambda c: optax.nadam(1.0, b1=c.b1, b2=c.b2),
    "radam": lambda c: optax.radam(1.0, b1=c.b1, b2=c.b2),
    "rmsprop": lambda c: optax.chain(optax.rmsprop(1.0, decay=c.b2), momentum_at_rate(c.momentum)),
    "lion": lambda c: optax.lion(1.0, b1=c.b1, b2=c.b2, weight_decay=c.weight_decay),
    "muon": muon,
    "sgd": lambda c: optax.sgd(1.0, momentum=c.momentum or None),
}

# The share of the learning rate left when `progress` in [0, 1] of the steps is done.
SCHEDULES = {
    "constant": lambda progress, final: 1.0,
    "cosine": lambda progress, final: final + (1 - final) * 0.5 * (1 + jnp.cos(jnp.pi * progress)),
}


def make_optimizer(config):
    """The optax transformation of `config` (config.optimizer) at learning rate 1, clipping first."""
    optimizer = OPTIMIZERS[config.name](config)
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer) if config.clip_norm else optimizer


def encoder_first(optimizer, encoder_steps, until=0):
    """Updates encoder and posterior at every step, all other parameters at every `encoder_steps`-th step only.

    In between, the optimizer's state of the others stands still, too. What has a rule of its own, the sigma of
    sigma_mode = optimal, is not an optimizer's and moves at every step.

    He et al. (2019), algorithm 1, but with a fixed number of inner updates, and an end that is given: they stop when
    the mutual information no longer climbs.

    Args:
        optimizer: of all parameters, {'encoder', 'decoder', ...}.
        encoder_steps: 1 changes nothing.
        until: the step from which all parameters are updated at every step; 0: none.

    Returns:
        The transformation.
    """
    if encoder_steps == 1:
        return optimizer
    turn: Any = lambda step: (step % encoder_steps == encoder_steps - 1) | ((step >= until) & (until > 0))
    parts: Any = {"q": optimizer, "p": optax.conditionally_mask(optimizer, turn)}
    return optax.partition(parts, lambda params: {name: "q" if name in OF_Q else "p" for name in params})


OF_Q = ("encoder", "posterior")


def make_learning_rate(config, num_steps, name="learning_rate"):
    """learning_rate(hyper, step): hyper[name], warmed up linearly, times the schedule over `num_steps`."""

    def learning_rate(hyper, step):
        warm = jnp.minimum(1.0, (step + 1) / jnp.maximum(1.0, hyper["warmup_steps"]))
        progress = jnp.minimum(1.0, step / num_steps)
        return hyper[name] * warm * SCHEDULES[config.schedule](progress, config.final_fraction)

    return learning_rate


KEYS = {
    "optimizer.name": Key("adam", "of optax", one_of(OPTIMIZERS)),
    "optimizer.learning_rate": Key(1e-3, "at its highest", NOT_NEGATIVE),
    "optimizer.schedule": Key("constant", "or cosine, down to final_fraction of the learning rate", one_of(SCHEDULES)),
    "optimizer.warmup_steps": Key(0, "linear rise of the learning rate from 0", at_least(0)),
    "optimizer.final_fraction": Key(0.01, "cosine: the share of the learning rate left at the end", SHARE),
    "optimizer.b1": Key(0.9, "of adam and its kin, and lion", FRACTION),
    "optimizer.b2": Key(0.999, "of adam and its kin, lion, and rmsprop (its decay)", FRACTION),
    "optimizer.momentum": Key(0.9, "of sgd, rmsprop and muon", FRACTION),
    "optimizer.newton_schulz_steps": Key(
        5, "of muon: polynomials that orthogonalize a matrix; 3: minimax ones, else Jordan's", at_least(1, 100)
    ),
    "optimizer.weight_decay": Key(0.0, "of adamw, lion and muon", NOT_NEGATIVE),
    "optimizer.clip_norm": Key(0.0, "global norm of the gradient; 0: none", NOT_NEGATIVE),
    "optimizer.ema": Key(0.0, "decay of an average of the parameters, used for evaluation; 0: none", FRACTION),
}
