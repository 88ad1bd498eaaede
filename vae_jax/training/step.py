"""One training step as a pure function; program.py compiles many of them.

Noise belongs to examples: the key of example i at step t is fold_in(fold_in(noise, t), i), then a fixed constant for
each use (keys.py). Together with data/order.py, which says which examples are in a batch, that makes a run the same on
any number of devices.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from vae_jax.keys import TRAINING, Use, example_keys, fold_each
from vae_jax.models.fits import Ascent
from vae_jax.objectives.loss import make_loss
from vae_jax.parallel import devices
from vae_jax.parallel.devices import NO_AXIS


class Table(NamedTuple):
    """The table of per-datapoint inference: q_params and an optimizer state for each example, stream-major."""

    q_params: Any  # {name: [S * L, ...]}
    opt_state: Any  # of the ascent, leaves [S * L, ...]: each example has its own count


class State(NamedTuple):
    """Everything the next step needs. No keys: they are functions of (seed, step, example)."""

    step: Any  # int32
    params: Any
    opt_state: Any
    ema: Any  # the average of the parameters, or ()
    table: Any  # a Table, split over devices, or ()


STATE_SPECS = State(P(), P(), P(), P(), P(devices.AXIS))  # of one run on all devices
MEMBERS_SPECS = State(P(), *[P(devices.AXIS)] * 4)  # of many, each on one device


class TableUpdates(NamedTuple):
    """How the entries of a table are updated beside the parameters."""

    ascent: Ascent
    objective: Callable  # what they ascend, as `make_train_step` takes one
    rates: Callable  # (hyper, step, number of the update in a visit) -> (rate of natural gradients, rate of Adam)
    inner_steps: int = 1  # updates of the batch's entries before each update of the parameters


def init_state(
    model: Any,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    x_init: jax.Array,
    condition: jax.Array | None = None,
    *,
    with_ema: bool = False,
    index: Any = None,
    ascent: Ascent | None = None,
) -> State:
    """The state before the first step.

    Args:
        model: a `models.model.Model`.
        optimizer: of the parameters.
        key: the key of initialization; it is consumed.
        x_init: training images `[M, ...]`, whose mean the decoder's output bias starts from.
        condition: conditions of theirs `[M, ...]`, for a conditional model.
        with_ema: whether an average of the parameters is kept.
        index: of a model with a table, the example in each of its slots `[S * L]`, -1 in the padding.
        ascent: of the entries of the table; None: the model's.

    Returns:
        The state, its step 0.
    """
    params, q_params = model.init(key, x_init, condition)
    # a copy, since donation gives up the parameters and their average together
    ema = jax.tree.map(jnp.copy, params) if with_ema else ()
    table = ()
    if q_params != ():
        q_params = jax.tree.map(lambda column: column[jnp.maximum(index, 0)], q_params)
        table = Table(q_params, (ascent or model.ascent).init(q_params))
    return State(jnp.int32(0), params, optimizer.init(params), ema, table)


def make_train_step(
    model: Any,
    optimizer: optax.GradientTransformation,
    objective: Callable,
    *,
    learning_rate: Callable = lambda hyper, step: 1.0,
    weights: Callable = lambda hyper, step: hyper["objective"],
    refine: Callable | None = None,
    prepare: Callable | None = None,
    corrupt: Callable | None = None,
    ema: float = 0.0,
    table_updates: TableUpdates | None = None,
    axis: devices.Axis = NO_AXIS,
) -> Callable:
    """A pure training step: params - learning_rate * optimizer(mean over the batch of the gradient of -objective).

    Args:
        model: a `models.model.Model`.
        optimizer: an optax transformation at learning rate 1; `update` is given `learning_rate` where it takes it.
        objective: (key, x, q, decode, prior, **weights(hyper, step)) -> (value [B] in nats to ascend, Elbo).
        learning_rate: (hyper, step) -> what the optimizer's updates are multiplied by.
        weights: (hyper, step) -> {name: value}, further arguments of the objective.
        refine: another objective, with the same weights, for the refinement of q_params.
        prepare: (keys [B], image [B, ...]) -> x, for example binarization.
        corrupt: (keys [B], x) -> x; the encoder alone sees its result. Refinement ascends the bound of it, too.
        ema: decay of the parameters' average; 0: none.
        table_updates: how the entries of a table of q_params are updated.
        axis: the devices beside this one; gradients are summed over all of them.

    Returns:
        train_step(key, hyper, state, batch) -> (state, metrics). key: the run's noise key, into which step and example
        are folded. batch: 'image' [B, ...], 'index' [B], what the model wants, and with a table 'slot' [B], where in it
        the examples are. metrics: means over the batch in nats, and norms.
    """
    gradient = jax.grad(make_loss(model, objective, refine, corrupt), has_aux=True)
    visit = make_visit(model, table_updates, corrupt)
    update = optax.with_extra_args_support(optimizer).update

    def train_step(key, hyper, state, batch):
        step_key = jax.random.fold_in(key, state.step)
        keys = [example_keys(step_key, batch["index"], use) for use in TRAINING]
        if prepare is not None:
            batch = {**batch, "image": prepare(keys[Use.TRAIN_BINARIZE], batch["image"])}
        params, scalars = axis.vary(state.params), weights(hyper, state.step)
        table = visit(params, take_entries(state.table, batch), batch, keys, hyper, scalars, state.step)
        grads, sums = gradient(params, q_params_of(table), batch, keys, scalars)
        grads, sums = axis.sum((grads, sums))
        count = axis.sum(len(batch["index"]))
        metrics = {name: total / count for name, total in sums.items()}
        metrics["grad_norm"] = norm(grads) / count  # the norm of the sums: their mean is then not kept in memory
        grads = jax.tree.map(lambda total: total / count, grads)
        metrics["learning_rate"] = jnp.asarray(learning_rate(hyper, state.step), float)
        params, opt_state = descend(model, update, state, grads, metrics["learning_rate"])
        table = put_entries(state.table, table, batch)
        return State(state.step + 1, params, opt_state, average(state, params, ema), table), metrics

    return train_step


def descend(model, update, state, grads, rate):
    """The parameters and the optimizer's state after a step down the gradient."""
    updates, opt_state = update(grads, state.opt_state, state.params, learning_rate=rate)
    params = optax.apply_updates(state.params, jax.tree.map(lambda u: rate * u, updates))
    return model.closed_form_update(params, state.params, grads), opt_state


def norm(tree):
    """The Euclidean norm of all leaves; column by column first, which is several sums at once and not one long one."""
    return jnp.sqrt(sum((jnp.atleast_1d(leaf) ** 2).sum(0).sum() for leaf in jax.tree.leaves(tree)))


def q_params_of(table):
    return table if table == () else table.q_params


def take_entries(table, batch):
    """The batch's entries and their optimizer state: cost and traffic do not depend on the size of the table."""
    return jax.tree.map(lambda column: column[batch["slot"]], table)


def put_entries(table, new, batch):
    """The table with the batch's entries replaced; the others are neither touched nor decayed."""
    put = lambda column, values: column.at[batch["slot"]].set(values, unique_indices=True)
    return jax.tree.map(put, table, new)


def make_visit(model, updates, corrupt):
    """visit(params, table, batch, keys, hyper, weights, step) -> the batch's entries after their inner updates.

    The parameters are held; each update has draws of its own, and each entry climbs by itself.
    """
    if updates is None:
        return lambda params, table, *rest: table
    gradient = jax.grad(make_loss(model, updates.objective, corrupt=corrupt), argnums=1, has_aux=True)

    def visit(params, table, batch, keys, hyper, weights, step):
        def one(table, number):
            draws = [keys[Use.TRAIN_BINARIZE], fold_each(keys[Use.TRAIN_INNER], number), *keys[Use.TRAIN_REFINE :]]
            downwards, _ = gradient(params, table.q_params, batch, draws, weights)
            rates = [jnp.broadcast_to(r, batch["index"].shape) for r in updates.rates(hyper, step, number)]
            upwards = jax.tree.map(jnp.negative, downwards)
            return Table(*updates.ascent.update(upwards, table.opt_state, table.q_params, *rates)), None

        return jax.lax.scan(one, table, jnp.arange(updates.inner_steps))[0]

    return visit


def average(state, params, decay):
    """The moving average: decay is min(d, (1 + t) / (10 + t)), so early averages forget the initialization."""
    if not decay:
        return state.ema
    decay = jnp.minimum(decay, (1 + state.step) / (10 + state.step))
    return jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.ema, params)


def evaluation_params(state):
    """The parameters to measure: their average where one is kept."""
    return state.ema if state.ema != () else state.params
