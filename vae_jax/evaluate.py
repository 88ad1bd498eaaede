"""Measuring a model: everything per example, in nats, in chunks of bounded memory.

Noise here has its own seed (`config.eval.seed`): the key of example i of a split depends on (seed, split, i) alone, and
the key of its k-th draw on that and k, so neither the size of a chunk nor the number of devices changes a number.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.distributions import Normal
from vae_jax.elbo import draw, elbo_fn, score
from vae_jax.flows import DRAWS_ONLY
from vae_jax.gaussians import Dirac, FullNormal, LowRankNormal
from vae_jax.inference import fit_rows, fold_in_each
from vae_jax.model import sample_prior
from vae_jax.parallel import HERE, fetch

SPLITS = {"train": 0, "valid": 1, "test": 2}
BINARIZE, DRAW, REFINE, FIT, START, MEAN = range(6)  # what an example's key is used for
SAMPLES_AT_ONCE = 50  # draws decoded together for one example
ACTIVE = 1e-2  # a latent dimension is active if the variance over x of E_q[z|x] is above this; Burda et al. (2016), 5.2


def split_keys(seed, split, count):
    """One key for each of the first `count` examples of a split."""
    key = jax.random.fold_in(jax.random.key(seed), SPLITS[split])
    return jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(count))


def bits_per_dim(nats, event_shape):
    """nats per example -> bits per dimension: divide by D ln 2."""
    return nats / (math.prod(event_shape) * math.log(2))


def in_chunks(function, arrays, size, spread=HERE, progress=lambda done: None):
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


def sample_terms(model, params, chunk, number):
    """The bound's terms from draw `number` of each example: log_weights [1, B], averages [B]."""
    condition = chunk.get("condition")
    q = model.make_q(params, chunk["rows"])
    decode = lambda z: model.decode(params, z, condition)
    keys = fold_in_each(fold_in_each(chunk["key"], DRAW), number)
    return elbo_fn(keys, chunk["image"], q, decode, model.prior(params, condition))


@partial(jax.jit, static_argnums=(0, 3))
def elbo_terms(model, params, chunk, num_samples):
    """ELBO, E_q log p(x|z) and KL of each example [B], nats, averaged over `num_samples` draws.

    Of an autoencoder, whose q has no density, the reconstruction log p(x|z) alone.
    """
    q = model.make_q(params, chunk["rows"])
    if isinstance(q, Dirac):
        return {"log_likelihood": bound(model, params, chunk)(None, chunk["image"], q)}
    terms = jax.lax.map(lambda k: sample_terms(model, params, chunk, k), jnp.arange(num_samples))
    return {"elbo": terms.elbo.mean(0), "log_likelihood": terms.log_likelihood.mean(0), "kl": terms.kl.mean(0)}


@partial(jax.jit, static_argnums=(0, 3, 4))
def importance_log_px(model, params, chunk, num_samples, samples_at_once):
    """log p(x) ~ log 1/K sum_k w_k [B] from K = num_samples draws, nats, and the effective number of them.

    A lower bound in expectation, tighter with K; Burda et al. (2016), eq. 8. The effective sample size is
    (sum w)^2 / sum w^2. Draws are made `samples_at_once`, and exactly K of them count.
    """
    draws = jax.vmap(lambda k: sample_terms(model, params, chunk, k).log_weights[0])

    def block(totals, start):
        numbers = start + jnp.arange(samples_at_once)
        log_w = jnp.where(numbers[:, None] < num_samples, draws(numbers), -jnp.inf)
        sums = [jax.nn.logsumexp(power * log_w, axis=0) for power in (1, 2)]
        return tuple(map(jnp.logaddexp, totals, sums)), None

    none = jnp.full(chunk["image"].shape[:1], -jnp.inf)
    (first, second), _ = jax.lax.scan(block, (none, none), jnp.arange(0, num_samples, samples_at_once))
    return {"log_px": first - math.log(num_samples), "effective_samples": jnp.exp(2 * first - second)}


def active_units(mean):
    """Latent dimensions that the data moves: Var_x(E_q[z|x]) > 0.01, from means [N, Z]. Burda et al. (2016), 5.2."""
    return int((np.var(mean, axis=0) > ACTIVE).sum())


def summarize(values, unit="nats"):
    """Mean over examples with its standard error."""
    values = np.asarray(values, np.float64)
    stderr = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"value": float(values.mean()), "stderr": stderr, "unit": unit}


def conditional_on(numbers, what):
    """The numbers with a unit that says what nats are conditional on: an NLL of -log p(x|c) is none of -log p(x)."""
    units = {unit: f"{unit} given {what}" for unit in ("nats", "bits/dim")}
    return {name: {**entry, "unit": units.get(entry["unit"], entry["unit"])} for name, entry in numbers.items()}


def find_rows(model, params, examples, config, spread):
    """The rows of q for every example, as the model's inference finds them; refinement ascends the ELBO here,
    whatever objective the run was trained on."""
    return in_chunks(lambda chunk: infer_rows(model, params, chunk), examples, config.chunk_rows, spread)


@partial(jax.jit, static_argnums=0)
def infer_rows(model, params, chunk):
    return model.infer(params, (), fold_in_each(chunk["key"], REFINE), chunk, bound(model, params, chunk))


def bound(model, params, chunk, num_samples=1, landing=False):
    """(keys [B], x, q) -> ELBO [B] under the model, for inference to ascend; of an autoencoder the reconstruction.

    With `landing` q's parameters are stopped in log q, for fits: at the optimum the gradient has no noise. Sticking the
    landing, Roeder et al. (2017). A flow whose density is known at its own draws only goes without.
    """
    condition = chunk.get("condition")
    decode, prior = lambda z: model.decode(params, z, condition), model.prior(params, condition)

    def value(keys, x, q):
        if isinstance(q, Dirac):
            return decode(q.mean[None]).log_prob(x)[0]
        if landing and not isinstance(q, DRAWS_ONLY):
            return score(x, *draw(keys, q, num_samples, stop="q"), decode, prior).elbo
        return elbo_fn(keys, x, q, decode, prior, num_samples).elbo

    return value


# Draws from which the mean of a q without a formula is estimated: the noise that this leaves in the variance of means,
# 1/1024, is well below ACTIVE. Nothing is decoded, so many may be in flight.
MEAN_DRAWS, MEANS_IN_FLIGHT = 1024, 100_000


def latent_means(model, params, examples, spread):
    """E_q[z|x] of examples that have rows, `[N, Z]`, of a two-layer model a dict of such."""
    described = {name: examples[name] for name in ("rows", "key")}
    return in_chunks(lambda chunk: mean_of_q(model, params, chunk), described, MEANS_IN_FLIGHT // MEAN_DRAWS, spread)


@partial(jax.jit, static_argnums=0)
def mean_of_q(model, params, chunk):
    q = model.make_q(params, chunk["rows"])
    if isinstance(q, Normal | FullNormal | LowRankNormal | Dirac):
        return q.mean
    z = q.sample(fold_in_each(chunk["key"], MEAN), (MEAN_DRAWS,))
    return jax.tree.map(lambda z: z.mean(0), z)


def fit_examples(model, params, examples, fit, chunk_rows, spread):
    """Rows of their own for examples that no encoder serves, the decoder frozen; `fit` is config.fit."""
    size = max(1, chunk_rows // fit.num_samples)
    return in_chunks(lambda chunk: fit_chunk(model, params, chunk, fit), examples, size, spread)


@partial(jax.jit, static_argnums=(0, 3))
def fit_chunk(model, params, chunk, fit):
    start = model.start_rows(fold_in_each(chunk["key"], START))
    return fit_from(model, params, {**chunk, "rows": start, "key": fold_in_each(chunk["key"], FIT)}, fit)


@partial(jax.jit, static_argnums=(0, 3))
def fit_from(model, params, chunk, fit):
    """The rows that ascend each example's bound from chunk['rows'], the parameters frozen; `fit` is like config.fit."""
    value_of = bound(model, params, chunk, fit.num_samples, landing=True)
    value = lambda keys, rows: value_of(keys, chunk["image"], model.make_q(params, rows))
    options = {name: fit[name] for name in ("learning_rate", "max_steps", "window", "patience")}
    return fit_rows(value, chunk["rows"], chunk["key"], **options)[0]


TERMS = ("elbo", "log_likelihood", "kl")


def bound_numbers(model, params, examples, event_shape, config, spread):
    """ELBO and its terms over examples that have 'rows': {name: {value, stderr, unit}}."""
    function = lambda chunk: elbo_terms(model, params, chunk, config.elbo_samples)
    terms = in_chunks(function, examples, config.chunk_rows, spread)
    numbers = {name: summarize(terms[name]) for name in TERMS if name in terms}
    if "elbo" in terms:
        numbers["elbo_bits_per_dim"] = summarize(bits_per_dim(terms["elbo"], event_shape), "bits/dim")
    return numbers


def likelihood_numbers(model, params, examples, event_shape, config, spread, progress):
    """NLL = -log p(x) from K = num_samples draws, its effective sample size, and the same in bits per dimension."""
    samples_at_once = min(SAMPLES_AT_ONCE, config.num_samples)
    function = lambda chunk: importance_log_px(model, params, chunk, config.num_samples, samples_at_once)
    size = max(1, config.chunk_rows // samples_at_once)
    estimate = in_chunks(function, examples, size, spread, progress)
    nll = -estimate["log_px"]
    return {
        "nll": {**summarize(nll), "num_samples": config.num_samples},
        "nll_bits_per_dim": summarize(bits_per_dim(nll, event_shape), "bits/dim"),
        "effective_samples": summarize(estimate["effective_samples"], f"of {config.num_samples}"),
    }


def all_numbers(model, params, examples, event_shape, config, spread, progress):
    """Everything a finished run reports of a split, whose examples have rows and the mean of q."""
    numbers = bound_numbers(model, params, examples, event_shape, config, spread)
    if "elbo" in numbers:
        numbers |= likelihood_numbers(model, params, examples, event_shape, config, spread, progress)
    error = squared_error(model, params, examples, config, spread)
    numbers["squared_error"] = summarize(error, "per element")
    layers = examples["mean"] if isinstance(examples["mean"], dict) else {"": examples["mean"]}
    for layer, mean in layers.items():
        if not mean.shape[-1]:
            continue  # a model without z
        name = "_".join(filter(None, ("active_units", layer)))
        numbers[name] = {"value": active_units(mean), "stderr": None, "unit": f"of {mean.shape[-1]}"}
    return numbers


@partial(jax.jit, static_argnums=0)
def decode_means(model, params, z, condition=None):
    """The mean of p(x|z) for z `[N, Z]`, or a dict of such, [N, *event]."""
    return model.decode(params, jax.tree.map(lambda leaf: leaf[None], z), condition).mean[0]


@partial(jax.jit, static_argnums=0)
def reconstruct(model, params, chunk):
    """The mean of p(x|z) at the mean of q(z|x), [B, *event]."""
    return decode_means(model, params, chunk["mean"], chunk.get("condition"))


def squared_error(model, params, examples, config, spread):
    """The squared error of the reconstruction at E_q[z|x], a mean over the elements of each example `[N]`."""
    function = lambda chunk: squared_errors(model, params, chunk)
    return in_chunks(function, examples, config.chunk_rows, spread)


@partial(jax.jit, static_argnums=0)
def squared_errors(model, params, chunk):
    error = (chunk["image"] - reconstruct(model, params, chunk)) ** 2
    return error.reshape(len(error), -1).mean(-1)


@partial(jax.jit, static_argnums=(0, 3))
def prior_means(model, params, key, count, condition=None):
    """The mean of p(x|z) at `count` draws of z from the prior, [count, *event]. The key is consumed."""
    z = sample_prior(model, params, key, count, condition)
    return model.decode(params, z, condition).mean[0]


CODE_COMPONENTS = 10  # of the mixture from which an autoencoder's codes are drawn


def code_draws(codes, count, seed):
    """`count` draws of a mixture of Gaussians fitted to the codes [N, Z] of an autoencoder: [count, Z].

    Ghosh et al. (2020), section 4.
    """
    from sklearn.mixture import GaussianMixture

    components = min(CODE_COMPONENTS, len(codes))
    codes = np.asarray(codes, np.float64)  # in float32 the covariance of a few codes may fail to be one
    z, _ = GaussianMixture(components, random_state=seed).fit(codes).sample(count)
    return np.random.default_rng(seed).permutation(z).astype(np.float32)  # they come sorted by component
