"""One training step as a pure function, and many of them as one compiled program per device.

Noise belongs to examples: the key of example i at step t is fold_in(fold_in(noise, t), i), then a fixed constant for
each use. Together with `streams`, which says who is in a batch, that makes a run the same on any number of devices.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from vae_jax import parallel, streams

BINARIZE, DRAW, REFINE = range(3)  # what an example's key is used for
INIT, ORDER, NOISE = range(3)  # what the seed's key is used for


class State(NamedTuple):
    """Everything the next step needs. No keys: they are functions of (seed, step, example)."""

    step: jax.Array  # int32
    params: Any
    opt_state: Any
    ema: Any  # the average of the parameters, or ()
    local: Any  # per-datapoint rows with their optimizer state, split over devices, or ()


STATE_SPECS = State(P(), P(), P(), P(), P(parallel.AXIS))


def seed_keys(seed):
    """The three keys of a run: initialization, order of the examples, training noise."""
    return [jax.random.fold_in(jax.random.key(seed), use) for use in (INIT, ORDER, NOISE)]


def example_keys(key, index, use):
    """One key for each example `[B]`: it depends on (key, example, use), not on the batch."""
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(key, i), use))(index)


def init_state(model, optimizer, key, x_init, condition=None, with_ema=False):
    """The state before the first step. The key is consumed."""
    params, local = model.init(key, x_init, condition)
    # a copy, since donation gives up the parameters and their average together
    ema = jax.tree.map(jnp.copy, params) if with_ema else ()
    return State(jnp.int32(0), params, optimizer.init(params), ema, local)


def make_train_step(
    model, optimizer, objective, *, learning_rate=lambda hyper, step: 1.0, prepare=None, ema=0.0, axis=parallel.ALONE
):
    """train_step(key, hyper, state, batch) -> (state, metrics): one update from one batch, pure.

    optimizer: an optax transformation, its updates scaled by `learning_rate(hyper, step)`.
    objective: (key, x, q, decode, prior, **hyper['objective']) -> (value [B], Elbo).
    prepare: (keys [B], image [B, ...]) -> x, say binarization. batch: 'image', 'index' [B], and what the model wants.
    ema: decay of the parameters' average. axis: the devices beside this one; gradients are summed over all of them.
    metrics: means over the batch in nats, and norms. key: the run's noise key, into which step and example are folded.
    """

    def loss_fn(params, batch, keys, hyper):
        condition = batch.get("condition")
        decode = lambda z: model.decode(params, z, condition)
        prior = model.prior(params, condition)
        bound = lambda keys, x, q: objective(keys, x, q, decode, prior, **hyper["objective"])[0]
        rows = model.infer(params, (), keys[REFINE], batch, bound)
        q = model.make_q(params, rows)
        value, terms = objective(keys[DRAW], batch["image"], q, decode, prior, **hyper["objective"])
        sums = {"objective": value, "elbo": terms.elbo, "log_likelihood": terms.log_likelihood, "kl": terms.kl}
        return -value.sum(), {name: each.sum() for name, each in sums.items()}

    def train_step(key, hyper, state, batch):
        keys = [
            example_keys(jax.random.fold_in(key, state.step), batch["index"], use) for use in (BINARIZE, DRAW, REFINE)
        ]
        if prepare is not None:
            batch = {**batch, "image": prepare(keys[BINARIZE], batch["image"])}
        gradient = jax.grad(loss_fn, has_aux=True)
        grads, sums = axis.sum(gradient(axis.vary(state.params), batch, keys, hyper))
        batch_size = axis.sum(len(batch["index"]))
        grads, metrics = jax.tree.map(lambda total: total / batch_size, (grads, sums))
        rate = learning_rate(hyper, state.step)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        updates = jax.tree.map(lambda u: rate * u, updates)
        params = optax.apply_updates(state.params, updates)
        metrics |= {"grad_norm": optax.tree.norm(grads), "update_norm": optax.tree.norm(updates)}
        metrics |= {"learning_rate": jnp.asarray(rate, float)}
        return State(state.step + 1, params, opt_state, average(state, params, ema), state.local), metrics

    return train_step


def average(state, params, decay):
    """The exponential moving average of the parameters; a young one forgets faster, lest it remember the start."""
    if not decay:
        return state.ema
    decay = jnp.minimum(decay, (1 + state.step) / (10 + state.step))
    return jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.ema, params)


def make_run_steps(train_step, num_steps, batch_size, num_examples, num_streams, mesh):
    """run(hyper, state, data) -> (state, metrics [num_steps]): consecutive steps in one compiled scan on every device.

    data: 'image', 'index' and the like, stream-major (see streams.py) and split over the devices. hyper: 'order' and
    'noise' are keys. The state is donated. Which examples a step takes depends on its absolute number, so a run may
    stop and resume anywhere.
    """
    epoch_steps = streams.steps_per_epoch(num_examples, num_streams, batch_size)
    stream_length = streams.length(num_examples, num_streams)
    per_stream = batch_size // num_streams

    def device_steps(hyper, state, data):
        index = data["index"].reshape(-1, stream_length)
        new_order = lambda step: streams.epoch_order(hyper["order"], step // epoch_steps, index)

        def one(carry, _):
            state, order = carry
            within = state.step % epoch_steps
            order = jax.lax.cond(within == 0, lambda: new_order(state.step), lambda: order)
            rows = streams.batch_rows(order, within, per_stream)
            batch = {name: array[rows] for name, array in data.items()}
            state, metrics = train_step(hyper["noise"], hyper, state, batch)
            return (state, order), metrics

        (state, _), metrics = jax.lax.scan(one, (state, new_order(state.step)), length=num_steps)
        return state, metrics

    in_specs, out_specs = (P(), STATE_SPECS, P(parallel.AXIS)), (STATE_SPECS, P())
    return parallel.device_program(device_steps, mesh, in_specs, out_specs, donate=(1,))
