"""Examples ready to be measured: keys, binarized images, variational parameters of q; chunks of bounded memory."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from vae_jax.data import order as streams
from vae_jax.distributions.protocol import has_density
from vae_jax.keys import Use, fold_each, split_keys
from vae_jax.models.fits import fit_q_params
from vae_jax.models.model import Model
from vae_jax.objectives.elbo import Paired, draw, elbo_fn
from vae_jax.parallel.devices import ONE_DEVICE, Spread, fetch


def split_examples(dataset: Any, split: str, prepare: Callable, seed: int, limit: int = 0) -> dict:
    """The examples of a split, each with a key of its own, binarized by the evaluation's seed.

    Args:
        dataset: as `data.datasets.load` returns it.
        split: 'train', 'valid' or 'test'.
        prepare: (keys `[B]`, stored images `[B, ...]`) -> x, as a training setup has it.
        seed: of the evaluation; the key of example i depends on (seed, split, i) alone.
        limit: the first so many examples; 0: all.

    Returns:
        A dict of 'image' `[N, *event]`, 'key' and 'index' `[N]`, and where the data have them 'label' and 'condition'.
    """
    arrays = getattr(dataset, split)
    count = min(limit or len(arrays.image), len(arrays.image))
    keys = split_keys(seed, split, count)
    given = {"label": arrays.label, "condition": arrays.condition}
    examples = {name: array[:count] for name, array in given.items() if array is not None}
    image = prepared(prepare, arrays.image[:count], keys)
    return {**examples, "image": image, "key": keys, "index": np.arange(count)}


def prepared(prepare, image, keys):
    """Stored images as the model's data, each by its own key."""
    binarize = lambda chunk: prepare(fold_each(chunk["key"], Use.EVAL_BINARIZE), chunk["image"])
    return in_chunks(binarize, {"image": image, "key": keys}, 2500)


def with_q_params(model: Model, params: Any, examples: dict, config: Any, spread: Spread = ONE_DEVICE) -> dict:
    """The examples with the variational parameters of q(z|x), the decoder frozen.

    A model with an encoder finds them as it was trained to, where refinement ascends the ELBO whatever the objective
    was; for one without they are fitted to each example.

    Args:
        model, params: the trained model.
        examples: 'image', 'key' and where there is one 'condition', each `[N, ...]`.
        config: of the run; its groups `eval` and, without an encoder, `fit` are read.
        spread: over which devices a chunk of examples is divided.

    Returns:
        The examples with 'q_params', a dict of arrays `[N, ...]`; where these are fitted with 'stopped' `[N]`, whether
        the fit of an example ended before its last step.
    """
    if model.has_encoder:
        draws, size = config.inference.num_samples, config.eval.chunk_images
        find = lambda chunk: {"q_params": infer_q_params(model, params, chunk, draws)}
    else:
        find = lambda chunk: fit_chunk(model, params, chunk, config.fit)
        size = max(1, config.eval.chunk_images // config.fit.num_samples)
    return {**examples, **in_chunks(find, examples, size, spread)}


def with_entries(examples: dict, table: Any, num_examples: int, num_streams: int) -> dict:
    """The training examples with the q_params that their run's table holds.

    Args:
        examples: of the training set, with 'index' `[N]`.
        table: of the run's state; `table.q_params` are arrays `[slots, ...]`.
        num_examples: of the training set.
        num_streams: into which the run divides it.

    Returns:
        The examples with 'q_params', a dict of arrays `[N, ...]`.
    """
    slots = streams.slot_of(examples["index"], num_examples, num_streams)
    return {**examples, "q_params": fetch(jax.tree.map(lambda column: column[slots], table.q_params))}


def with_means(model: Model, params: Any, examples: dict, spread: Spread = ONE_DEVICE) -> dict:
    """The examples with the mean E_q[z|x] too.

    Args:
        model, params: the trained model.
        examples: with 'q_params' and 'key'.
        spread: over which devices a chunk of examples is divided.

    Returns:
        The examples with 'mean' `[N, Z]`, of a two-layer model a dict of such arrays.
    """
    return {**examples, "mean": latent_means(model, params, examples, spread)}


def in_chunks(
    function: Callable, arrays: Any, size: int, spread: Spread = ONE_DEVICE, progress: Callable = lambda done: None
) -> Any:
    """Applies a function to chunks of examples, so that memory is bounded; every call has arrays of one shape.

    The last chunk is filled up with copies of its first example, which are cut off again.

    Args:
        function: chunk -> pytree of arrays `[size, ...]`, each example by itself.
        arrays: pytree of arrays `[N, ...]`.
        size: examples in a chunk; made a multiple of the number of devices.
        spread: over which devices a chunk is divided.
        progress: called with the number of examples that are done.

    Returns:
        A pytree of host arrays `[N, ...]`.
    """
    total, results = len(jax.tree.leaves(arrays)[0]), []
    size = -(-min(size, total) // spread.multiple) * spread.multiple
    for start in range(0, total, size):
        index = np.arange(start, start + size)
        index = np.where(index < total, index, start)
        chunk = spread.put(jax.tree.map(lambda array, index=index: array[index], arrays))
        results.append(fetch(function(chunk)))
        progress(min(start + size, total))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:total], *results)


def summarize(values: Any, unit: str = "nats") -> dict:
    """The mean over examples with its standard error.

    Args:
        values: `[N]`.
        unit: of the values.

    Returns:
        {'value', 'stderr', 'unit'}; the standard error is None for a single example.
    """
    values = np.asarray(values, np.float64)
    with np.errstate(invalid="ignore"):  # an infinite value has no spread
        stderr = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return entry(float(values.mean()), unit, stderr)


def entry(value, unit, stderr=None):
    """A number as the summary of a run stores it."""
    return {"value": value, "stderr": stderr, "unit": unit}


def bits_per_dim(nats, event_shape):
    """nats per example -> bits per dimension: divide by D ln 2."""
    return nats / (math.prod(event_shape) * math.log(2))


@partial(jax.jit, static_argnums=(0, 3))
def infer_q_params(model, params, chunk, num_samples=1):
    """By the encoder, perhaps with a refinement from so many draws a step."""
    ascended = bound(model, params, chunk, num_samples)
    return model.infer(params, (), fold_each(chunk["key"], Use.EVAL_REFINE), chunk, ascended)


@partial(jax.jit, static_argnums=(0, 3))
def fit_chunk(model, params, chunk, fit):
    """`fit_from` the start of an untrained table; `fit` is config.fit."""
    start = model.start_q_params(fold_each(chunk["key"], Use.EVAL_FIT_START))
    return fit_from(model, params, {**chunk, "q_params": start, "key": fold_each(chunk["key"], Use.EVAL_FIT)}, fit)


@partial(jax.jit, static_argnums=(0, 3))
def fit_from(model, params, chunk, fit):
    """The q_params that ascend each example's bound from chunk["q_params"], params frozen, and which examples stopped
    before the last step: {'q_params': [B, ...], 'stopped': [B]}; `fit`: config.fit."""
    value_of = bound(model, params, chunk, fit.num_samples, stopped=True)
    value = lambda keys, q_params: value_of(keys, chunk["image"], model.make_q(params, q_params))
    options = {name: fit[name] for name in ("natural_rate", "learning_rate", "max_steps", "window", "patience")}
    fitted = fit_q_params(value, chunk["q_params"], chunk["key"], model.ascent, **options)
    return {"q_params": fitted.average, "stopped": fitted.stale >= fit.patience}


def bound(model, params, chunk, num_samples=1, stopped=False):
    """(keys [B], x, q) -> ELBO [B] under the model, for inference to ascend; of an autoencoder the reconstruction.

    q is `Paired`; a fit, which is not differentiated itself, asks for parameters that are `stopped` in log q.
    """
    condition = chunk.get("condition")
    decode, prior = lambda z: model.decode(params, z, condition), model.prior(params, condition)

    def value(keys, x, q):
        if not has_density(q):
            return decode(q.mean[None]).log_prob(x)[0]
        paired: Any = Paired(q, stopped)
        return elbo_fn(keys, x, paired, decode, prior, num_samples).elbo

    return value


# Draws that are averaged where q has no `mean`, as a flow has none: the noise that this leaves in the variance of
# means, 1/1024, is well below ACTIVE. Nothing is decoded, so many may be in flight.
MEAN_DRAWS, MEANS_IN_FLIGHT = 1024, 100_000


def latent_means(model, params, examples, spread):
    """E_q[z|x] of examples that have q_params, `[N, Z]`, of a two-layer model a dict of such."""
    described = {name: examples[name] for name in ("q_params", "key")}
    return in_chunks(partial(mean_of_q, model, params), described, MEANS_IN_FLIGHT // MEAN_DRAWS, spread)


@partial(jax.jit, static_argnums=0)
def mean_of_q(model, params, chunk):
    q = model.make_q(params, chunk["q_params"])
    if hasattr(q, "mean"):
        return q.mean
    z, _ = draw(fold_each(chunk["key"], Use.EVAL_MEAN), q, MEAN_DRAWS)
    return jax.tree.map(lambda z: z.mean(0), z)
