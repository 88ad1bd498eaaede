"""Examples ready to be measured: keys, binarized images, variational parameters of q; chunks of bounded memory."""

import math
from functools import partial

import jax
import numpy as np

from vae_jax.data import order as streams
from vae_jax.distributions.basic import Normal, density_anywhere, has_density
from vae_jax.distributions.gaussians import Dirac, FullNormal, LowRankNormal
from vae_jax.keys import Use, fold_each, split_keys
from vae_jax.models.inference import fit_q_params, has_table
from vae_jax.objectives.elbo import draw, elbo_fn, score
from vae_jax.parallel import devices
from vae_jax.parallel.devices import ONE_DEVICE, fetch


def split_examples(dataset, split, prepare, seed, limit=0):
    """A split as a dict of arrays [N, ...] with a key for each example, binarized by the evaluation's seed."""
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


def with_q_params(model, params, examples, config, spread):
    """The examples with q_params: fitted to each where the model has no encoder, otherwise as its inference finds them.

    config: of the run; its groups `inference`, `fit` and `eval` are read.
    """
    if has_table(config):
        found = fit_examples(model, params, examples, config.fit, config.eval.chunk_images, spread)
    else:
        found = find_q_params(model, params, examples, config.eval, spread)
    return {**examples, "q_params": found}


def with_entries(examples, table, num_examples, num_streams):
    """The training examples with q_params from the `table` of their run."""
    slots = streams.slot_of(examples["index"], num_examples, num_streams)
    return {**examples, "q_params": devices.fetch(jax.tree.map(lambda column: column[slots], table.q_params))}


def with_means(model, params, examples, spread):
    """Examples that have q_params with the mean of q(z|x) too."""
    return {**examples, "mean": latent_means(model, params, examples, spread)}


def bits_per_dim(nats, event_shape):
    """nats per example -> bits per dimension: divide by D ln 2."""
    return nats / (math.prod(event_shape) * math.log(2))


def in_chunks(function, arrays, size, spread=ONE_DEVICE, progress=lambda done: None):
    """`function(chunk)` over chunks of about `size` examples of a pytree of arrays [N, ...]; results on the host.

    The last chunk is filled up with copies of its first example, cut off again: every call has one shape.
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


def summarize(values, unit="nats"):
    """Mean over examples with its standard error."""
    values = np.asarray(values, np.float64)
    stderr = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"value": float(values.mean()), "stderr": stderr, "unit": unit}


def conditional_on(numbers, what):
    """The numbers with a unit that says what nats are conditional on: an NLL of -log p(x|c) is none of -log p(x)."""
    units = {unit: f"{unit} given {what}" for unit in ("nats", "bits/dim")}
    return {name: {**entry, "unit": units.get(entry["unit"], entry["unit"])} for name, entry in numbers.items()}


def find_q_params(model, params, examples, config, spread):
    """The q_params of q for every example, as the model's inference finds them; refinement ascends the ELBO here,
    whatever objective the run was trained on."""
    return in_chunks(lambda chunk: infer_q_params(model, params, chunk), examples, config.chunk_images, spread)


@partial(jax.jit, static_argnums=0)
def infer_q_params(model, params, chunk):
    return model.infer(params, (), fold_each(chunk["key"], Use.EVAL_REFINE), chunk, bound(model, params, chunk))


def bound(model, params, chunk, num_samples=1, stop_q=False):
    """(keys [B], x, q) -> ELBO [B] under the model, for inference to ascend; of an autoencoder the reconstruction.

    With `stop_q` q's parameters are stopped in log q, for fits: at the optimum the gradient has no noise. Sticking the
    landing, Roeder et al. (2017). A flow whose density is known at its own draws only goes without.
    """
    condition = chunk.get("condition")
    decode, prior = lambda z: model.decode(params, z, condition), model.prior(params, condition)

    def value(keys, x, q):
        if not has_density(q):
            return decode(q.mean[None]).log_prob(x)[0]
        if stop_q and density_anywhere(q):
            return score(x, *draw(keys, q, num_samples, stop="q"), decode, prior).elbo
        return elbo_fn(keys, x, q, decode, prior, num_samples).elbo

    return value


# Draws from which the mean of a q without a formula is estimated: the noise that this leaves in the variance of means,
# 1/1024, is well below ACTIVE. Nothing is decoded, so many may be in flight.
MEAN_DRAWS, MEANS_IN_FLIGHT = 1024, 100_000


def latent_means(model, params, examples, spread):
    """E_q[z|x] of examples that have q_params, `[N, Z]`, of a two-layer model a dict of such."""
    described = {name: examples[name] for name in ("q_params", "key")}
    return in_chunks(lambda chunk: mean_of_q(model, params, chunk), described, MEANS_IN_FLIGHT // MEAN_DRAWS, spread)


@partial(jax.jit, static_argnums=0)
def mean_of_q(model, params, chunk):
    q = model.make_q(params, chunk["q_params"])
    if isinstance(q, Normal | FullNormal | LowRankNormal | Dirac):
        return q.mean
    z = q.sample(fold_each(chunk["key"], Use.EVAL_MEAN), (MEAN_DRAWS,))
    return jax.tree.map(lambda z: z.mean(0), z)


def fit_examples(model, params, examples, fit, chunk_images, spread):
    """Rows of their own for examples that no encoder serves, the decoder frozen; `fit` is config.fit."""
    size = max(1, chunk_images // fit.num_samples)
    return in_chunks(lambda chunk: fit_chunk(model, params, chunk, fit), examples, size, spread)


@partial(jax.jit, static_argnums=(0, 3))
def fit_chunk(model, params, chunk, fit):
    start = model.start_q_params(fold_each(chunk["key"], Use.EVAL_FIT_START))
    return fit_from(model, params, {**chunk, "q_params": start, "key": fold_each(chunk["key"], Use.EVAL_FIT)}, fit)


@partial(jax.jit, static_argnums=(0, 3))
def fit_from(model, params, chunk, fit):
    """The q_params that ascend each example's bound from chunk["q_params"], params frozen; `fit`: config.fit."""
    value_of = bound(model, params, chunk, fit.num_samples, stop_q=True)
    value = lambda keys, q_params: value_of(keys, chunk["image"], model.make_q(params, q_params))
    options = {name: fit[name] for name in ("learning_rate", "max_steps", "window", "patience")}
    return fit_q_params(value, chunk["q_params"], chunk["key"], **options)[0]
