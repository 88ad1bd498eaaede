"""How q(z|x) is found. Everything else in a model is the same whichever way is chosen.

    infer(params, q_params, key, batch, bound) -> q_params
        amortized        encoder(x)
        constant         one and the same for every x, learned in place of an encoder
        per_datapoint    the entries of a table, as they are
        semi_amortized   encoder(x), then a few steps of ascent on the q_params themselves

q_params are the variational parameters of a batch, a dict of arrays `[B, ...]`: what an encoder emits, or what a table
stores for each example. `bound(key, x, q) -> [B]` is what refinement ascends, passed in: this file knows no ELBO.

A gradient with respect to q_params is that of the *sum* over examples, never of their mean: what happens to one example
does not depend on how many others share its batch.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vae_jax.config import FRACTION, NO_KEYS, NOT_NEGATIVE, Key, at_least, keys_of, one_of
from vae_jax.keys import fold_each
from vae_jax.models.fits import ASCENTS, Ascent, along


def amortized(encode, make_q, ascent, config):
    """One encoder serves every x: q_params = encoder(x). Kingma and Welling (2014)."""

    def infer(params, q_params, key, batch, bound):
        return encode(params, batch["image"], batch.get("condition"))

    return infer


def per_datapoint(encode, make_q, ascent, config):
    """Each x has q_params of its own, learned beside the decoder, as in stochastic VI. Hoffman et al. (2013)."""

    def infer(params, q_params, key, batch, bound):
        return q_params

    return infer


def semi_amortized(encode, make_q, ascent, config):
    """The encoder's q_params, refined by `refine`, which the outer gradient takes for a constant.

    q_params = encoder(x) + stopped difference. Without `config.stop_gradient` the gradient follows exactly, which with
    momentum is algorithm 1 of Kim et al. (2018).
    """

    def infer(params, q_params, key, batch, bound):
        proposal = encode(params, batch["image"], batch.get("condition"))
        value = lambda keys, q_params: bound(keys, batch["image"], make_q(params, q_params))
        refined = refine(value, proposal, key, ascent, config)
        if not config.stop_gradient:
            return refined
        return jax.tree.map(lambda start, end: start + jax.lax.stop_gradient(end - start), proposal, refined)

    return infer


class Inference(NamedTuple):
    """A way to find q."""

    make: Callable  # (encode, make_q, ascent, config.inference) -> infer
    keys: dict = NO_KEYS  # of config.inference, that it alone reads
    sees_x: bool = True  # False: in place of the encoder there is one q for all
    has_table: bool = False  # q_params are stored for each training example; there is no encoder


ASCENT_KEYS = {
    "ascent": Key("natural", "how q_params climb, in a table or a refinement", one_of(ASCENTS)),
    "natural_rate": Key(0.5, "of natural gradients, at the first update of a visit or refinement", FRACTION),
    "learning_rate": Key(1e-2, "of adam and momentum, on the gradient of one example's bound", NOT_NEGATIVE),
    "momentum": Key(0.5, "of ascent = momentum", FRACTION),
    "num_samples": Key(2, "draws of an update or refinement of q_params, in pairs; of elbo and beta", at_least(1)),
}
TABLE_KEYS = ASCENT_KEYS | {
    "inner_steps": Key(5, "per_datapoint: updates of the batch's entries before each of the decoder", at_least(1)),
    "start": Key(
        "zeros",
        "per_datapoint: zeros; prior (means drawn from it); encoder (of encoder_run)",
        one_of(("zeros", "prior", "encoder")),
    ),
    "encoder_run": Key("", "per_datapoint: the directory of a trained run whose encoder gives the first entries"),
}
REFINEMENT_KEYS = ASCENT_KEYS | {
    "steps": Key(5, "semi_amortized: refinements of the encoder's q", at_least(0)),
    "clip_norm": Key(5.0, "semi_amortized: of one example's gradient under momentum and adam; 0: none", NOT_NEGATIVE),
    "stop_gradient": Key(True, "semi_amortized: the outer gradient takes the refinement for a constant"),
}
ENCODER_KEYS = {
    "encoder_steps": Key(1, "updates of the encoder for each of the other parameters, on new batches", at_least(1)),
    "encoder_epochs": Key(0, "the first so many epochs have encoder_steps; 0: all", at_least(0)),
}
INFERENCES = {
    "amortized": Inference(amortized, ENCODER_KEYS),
    "constant": Inference(amortized, sees_x=False),
    "per_datapoint": Inference(per_datapoint, TABLE_KEYS, has_table=True),
    "semi_amortized": Inference(semi_amortized, ENCODER_KEYS | REFINEMENT_KEYS),
}
KEYS = {
    "inference.kind": Key("amortized", "how q(z|x) is found", one_of(INFERENCES)),
    "inference.input_noise": Key(0.0, "denoising: standard deviation added to what the encoder sees", NOT_NEGATIVE),
    "inference.input_dropout": Key(0.0, "denoising: share of x's elements that the encoder sees as 0", FRACTION),
    **keys_of("inference", INFERENCES),
}


def natural_rate(first: Any, number: Any) -> Any:
    """Of update j = `number` of a visit or a refinement, 1 / (j + 1 / first): the updates average what they see."""
    return first / (number * first + 1)


def refine(value: Callable, q_params: Any, keys: jax.Array, ascent: Ascent, config: Any) -> Any:
    """A few steps of ascent on the bound of each example alone; it can be differentiated.

    Args:
        value: (keys `[B]`, q_params) -> what is ascended `[B]`, nats.
        q_params: where it begins, `[B, ...]`.
        keys: `[B]`; they are consumed. Step k uses fold_in(key, k).
        ascent: how they climb, see `make_ascent`.
        config: with `steps`, how many; `natural_rate`, `learning_rate`; `clip_norm`, of one example's gradient, so
            that a step does not depend on the batch, 0: none.

    Returns:
        The refined q_params.

    Source: Kim et al. (2018), algorithm 1.
    """
    everyone = partial(jnp.full, len(keys))

    def one(carry, k):
        q_params, state = carry
        gradient = jax.grad(lambda q_params: value(fold_each(keys, k), q_params).sum())(q_params)
        if config.ascent != "natural" and config.clip_norm:
            gradient = clip_each(gradient, config.clip_norm)
        rates = everyone(natural_rate(config.natural_rate, k)), everyone(config.learning_rate)
        return ascent.update(gradient, state, q_params, *rates), None

    return jax.lax.scan(one, (q_params, ascent.init(q_params)), jnp.arange(config.steps))[0][0]


def clip_each(gradient, norm):
    """Scales each example's gradient, a pytree of `[B, ...]`, down to at most `norm`."""
    square = sum((leaf**2).reshape(len(leaf), -1).sum(-1) for leaf in jax.tree.leaves(gradient))
    scale = norm / jnp.sqrt(jnp.maximum(square, norm**2))
    return jax.tree.map(lambda leaf: along(scale, leaf) * leaf, gradient)


SMALL = 0.1  # what bends a Gaussian does not begin at 0: there its gradient may vanish


def zero_q_params(heads, keys):
    """Means and log standard deviations of 0, with a Gaussian posterior q = N(0, I); the rest from N(0, SMALL^2)."""
    q_params = {name: jnp.zeros((len(keys), *heads[name])) for name in ("mean", "log_std") if name in heads}
    for number, name in enumerate(sorted(heads.keys() - q_params.keys())):
        draw = jax.vmap(partial(jax.random.normal, shape=heads[name]))
        q_params[name] = SMALL * draw(fold_each(keys, number))
    return q_params


def prior_q_params(heads, keys):
    """`zero_q_params`, but the means drawn from N(0, I): tells examples apart from the start."""
    draw = jax.vmap(partial(jax.random.normal, shape=heads["mean"]))
    return zero_q_params(heads, keys) | {"mean": draw(fold_each(keys, len(heads)))}


STARTS = {"zeros": zero_q_params, "prior": prior_q_params}


def has_table(config):
    """Whether a run stores the q_params of its training examples."""
    return INFERENCES[config.inference.kind].has_table
