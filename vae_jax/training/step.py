"""One training step as a pure function, and many of them as one compiled program per device.

Noise belongs to examples: the key of example i at step t is fold_in(fold_in(noise, t), i), then a fixed constant for
each use. Together with `streams`, which says who is in a batch, that makes a run the same on any number of devices.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from vae_jax.keys import TRAINING, Use, example_keys, fold_in_each
from vae_jax.objectives.loss import make_loss
from vae_jax.parallel import devices
from vae_jax.parallel.devices import ALONE


class Local(NamedTuple):
    """The table of per-datapoint inference: one row and one optimizer state for each example, stream-major."""

    rows: Any  # {name: [S * L, ...]}
    opt_state: Any  # leaves [S * L, ...]: each row has its own count


class State(NamedTuple):
    """Everything the next step needs. No keys: they are functions of (seed, step, example)."""

    step: jax.Array  # int32
    params: Any
    opt_state: Any
    ema: Any  # the average of the parameters, or ()
    local: Any  # a Local, split over devices, or ()


STATE_SPECS = State(P(), P(), P(), P(), P(devices.AXIS))  # of one run on all devices
MEMBERS_SPECS = State(P(), *[P(devices.AXIS)] * 4)  # of many, each on one device


class RowUpdates(NamedTuple):
    """How the rows of a table are updated beside the parameters."""

    optimizer: Any
    learning_rate: Callable  # (hyper, step) -> rate
    inner_steps: int = 1  # updates of the batch's rows for each update of the parameters


def init_state(model, optimizer, key, x_init, condition=None, *, with_ema=False, index=None, row_optimizer=None):
    """The state before the first step; `index` is the example of each row of a table. The key is consumed."""
    params, table = model.init(key, x_init, condition)
    # a copy, since donation gives up the parameters and their average together
    ema = jax.tree.map(jnp.copy, params) if with_ema else ()
    local = ()
    if table != ():
        rows = jax.tree.map(lambda column: column[jnp.maximum(index, 0)], table)
        local = Local(rows, jax.vmap(row_optimizer.init)(rows))
    return State(jnp.int32(0), params, optimizer.init(params), ema, local)


def make_train_step(
    model,
    optimizer,
    objective,
    *,
    learning_rate=lambda hyper, step: 1.0,
    weights=lambda hyper, step: hyper["objective"],
    refine=None,
    prepare=None,
    corrupt=None,
    ema=0.0,
    rows=None,
    axis=ALONE,
):
    """train_step(key, hyper, state, batch) -> (state, metrics): one update from one batch, pure.

    optimizer: an optax transformation, its updates scaled by `learning_rate(hyper, step)`.
    objective: (key, x, q, decode, prior, **weights(hyper, step)) -> (value [B], Elbo).
    refine: another such, without weights, for the refinement of rows where `objective` cannot serve.
    prepare: (keys [B], image [B, ...]) -> x, say binarization. corrupt: (keys [B], x) -> x, of which the encoder alone
    sees the result; refinement too ascends the bound of it. batch: 'image', 'index' [B], and what the model wants;
    with a table of rows, updated as `rows` says, also 'row' [B], where in the table its examples are.
    ema: decay of the parameters' average. axis: the devices beside this one; gradients are summed over all of them.
    metrics: means over the batch in nats, and norms. key: the run's noise key, into which step and example are folded.
    """
    gradient = jax.grad(make_loss(model, objective, refine, corrupt), argnums=(0, 1), has_aux=True)

    def train_step(key, hyper, state, batch):
        step_key = jax.random.fold_in(key, state.step)
        keys = [example_keys(step_key, batch["index"], use) for use in TRAINING]
        if prepare is not None:
            batch = {**batch, "image": prepare(keys[Use.TRAIN_BINARIZE], batch["image"])}
        params, scalars = axis.vary(state.params), weights(hyper, state.step)
        local = take_rows(state.local, batch)
        if rows is not None:
            local = inner_updates(gradient, rows, params, local, batch, keys, hyper, scalars, state.step)
        (grads, row_grads), sums = gradient(params, rows_of(local), batch, keys, scalars)
        if rows is not None:
            local = update_rows(rows, local, row_grads, hyper, state.step)
        grads, sums = axis.sum((grads, sums))
        count = axis.sum(len(batch["index"]))
        metrics = {name: total / count for name, total in sums.items()}
        metrics["grad_norm"] = norm(grads) / count  # of the sums, which are in memory: their mean need never be
        grads = jax.tree.map(lambda total: total / count, grads)
        rate = learning_rate(hyper, state.step)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        updates = jax.tree.map(lambda u: rate * u, updates)
        params = model.settle(optax.apply_updates(state.params, updates), state.params, grads)
        metrics["learning_rate"] = jnp.asarray(rate, float)
        new = State(state.step + 1, params, opt_state, average(state, params, ema), put_rows(state.local, local, batch))
        return new, metrics

    return train_step


def norm(tree):
    """The Euclidean norm of all leaves; column by column first, which is several sums at once and not one long one."""
    return jnp.sqrt(sum((jnp.atleast_1d(leaf) ** 2).sum(0).sum() for leaf in jax.tree.leaves(tree)))


def rows_of(local):
    return local if local == () else local.rows


def take_rows(local, batch):
    """The batch's rows and their optimizer state: cost and traffic do not depend on the size of the table."""
    return jax.tree.map(lambda column: column[batch["row"]], local)


def put_rows(local, new, batch):
    """The table with the batch's rows replaced; the others are neither touched nor decayed."""
    put = lambda column, values: column.at[batch["row"]].set(values, unique_indices=True)
    return jax.tree.map(put, local, new)


def update_rows(rows, local, gradient, hyper, step):
    """One optimizer step for each row by itself, on the gradient of its own example's loss."""
    updates, opt_state = jax.vmap(rows.optimizer.update)(gradient, local.opt_state, local.rows)
    rate = rows.learning_rate(hyper, step)
    return Local(jax.tree.map(lambda row, u: row + rate * u, local.rows, updates), opt_state)


def inner_updates(gradient, rows, params, local, batch, keys, hyper, scalars, step):
    """All but the last of the inner updates of the batch's rows, the parameters held; each with draws of its own."""

    def one(local, number):
        draws = [keys[Use.TRAIN_BINARIZE], fold_in_each(keys[Use.TRAIN_INNER], number), *keys[Use.TRAIN_REFINE :]]
        (_, row_grads), _ = gradient(params, local.rows, batch, draws, scalars)
        return update_rows(rows, local, row_grads, hyper, step), None

    return jax.lax.scan(one, local, jnp.arange(rows.inner_steps - 1))[0] if rows.inner_steps > 1 else local


def average(state, params, decay):
    """The exponential moving average of the parameters; a young one forgets faster, lest it remember the start."""
    if not decay:
        return state.ema
    decay = jnp.minimum(decay, (1 + state.step) / (10 + state.step))
    return jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.ema, params)
