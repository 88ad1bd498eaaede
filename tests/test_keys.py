"""Streams of random keys: what is drawn anywhere from one seed comes from keys of its own.

Draws are watched, not keys that might be used: `drawn` patches jax.random and runs the real functions on a toy model.
"""

import itertools
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vae_jax.commands import arrays, configuration
from vae_jax.data.order import epoch_order
from vae_jax.data.preprocess import make_corruption, preprocess
from vae_jax.distributions.basic import Bernoulli, Normal, StandardNormal
from vae_jax.distributions.gaussians import LowRankNormal
from vae_jax.evaluation import ais, bounds, examples, gaps, generation, gradient_noise, latent_space, nuts
from vae_jax.keys import TRAINING, Use, fold_each, prior_key, seed_keys, split_keys
from vae_jax.models import inference
from vae_jax.models.fits import by_optimizer, natural
from vae_jax.models.model import Model
from vae_jax.objectives.regularized import elbo
from vae_jax.parallel.devices import ONE_DEVICE
from vae_jax.training import step

SEED, N, Z, X = 0, 2, 2, 3  # one seed for training, data and evaluation: the worst case
DRAWS = "normal uniform bernoulli bits categorical logistic permutation rademacher".split()

bits = lambda key: np.asarray(jax.random.key_data(key))


# ---- the enum


def test_no_use_is_taken_twice_and_each_is_folded_whole():
    assert all(name == use.name for name, use in Use.__members__.items())
    key, many = jax.random.key(3), jax.random.split(jax.random.key(3), 4)
    keys = [bits(fold_each(key[None], use)[0]).tolist() for use in Use]
    assert len(np.unique(keys, axis=0)) == len(Use)
    np.testing.assert_array_equal(bits(fold_each(many, Use.AIS_RUN))[2], bits(jax.random.fold_in(many[2], 301)))
    assert [use.name for use in TRAINING] == [use.name for use in Use if use.name.startswith("TRAIN_")]
    assert [use.value for use in TRAINING] == list(range(len(TRAINING)))  # a training step counts on it


# ---- what is drawn


class Watch:
    """Patches jax.random, so that `take` returns the keys that were drawn from since it was last called."""

    def __init__(self, monkeypatch):
        self.seen = []
        for name in DRAWS:
            monkeypatch.setattr(jax.random, name, self.watched(getattr(jax.random, name)))
        jax.clear_caches()  # what is compiled already would draw unseen

    def watched(self, draw):
        def function(key, *arguments, **options):
            jax.debug.callback(
                lambda data: self.seen.append(tuple(np.asarray(data).tolist())), jax.random.key_data(key)
            )
            return draw(key, *arguments, **options)

        return function

    def take(self, result=None):
        jax.block_until_ready(result)
        jax.effects_barrier()
        seen, self.seen = self.seen, []
        return seen


@pytest.fixture
def watch(monkeypatch):
    yield Watch(monkeypatch)
    jax.clear_caches()


def require_disjoint(streams, pairs=()):
    """No key of one stream is in another, but for the pairs that are compared on the same noise."""
    assert all(streams.values()), {name: len(keys) for name, keys in streams.items()}
    both = lambda one, other: set(streams[one]) & set(streams[other])
    assert {pair for pair in itertools.combinations(streams, 2) if both(*pair)} == set(pairs)


def make_q(params, q_params):
    return Normal(q_params["mean"], q_params["log_std"])


def encode(params, x, condition=None):
    mean = x @ params["encoder"].T
    return {"mean": mean, "log_std": jnp.zeros_like(mean) - 1}


REFINE = SimpleNamespace(steps=2, ascent="natural", natural_rate=0.5, learning_rate=0.1, stop_gradient=True)
MODEL = Model(
    **{
        **dict.fromkeys(Model._fields),
        **Model._field_defaults,
        "infer": inference.semi_amortized(encode, make_q, natural(), REFINE),
        "make_q": make_q,
        "encode": encode,
        "decode": lambda params, z, condition=None: Bernoulli(z @ params["decoder"]),
        "prior": lambda params, condition=None: StandardNormal((Z,)),
        "start_q_params": partial(inference.prior_q_params, {"mean": (Z,), "log_std": (Z,)}),
        "latent_dim": Z,
    }
)
PARAMS = {"encoder": jnp.full((Z, X), 0.3), "decoder": jnp.full((Z, X), 0.5)}
IMAGE = np.array([[0, 1, 1], [1, 0, 1]], np.float32)


def evaluation_examples(split="test"):
    made = {"image": IMAGE, "key": split_keys(SEED, split, N)}
    return {**made, "q_params": encode(PARAMS, IMAGE)}


def config_of(**changes):
    config = configuration.default()
    for key, value in changes.items():
        *groups, name = key.split("__")
        group = config
        for each in groups:
            group = group[each]
        group[name] = value
    return configuration.validate(config)


FIT = {"num_samples": 1, "max_steps": 2, "window": 1, "patience": 2}
SMALL = {
    "gaps__num_examples": N,
    "gaps__elbo_samples": 2,
    "gaps__num_samples": 3,
    **{f"{group}__{name}": value for group in ("fit", "gaps__fit", "gaps__flow") for name, value in FIT.items()},
    "gaps__flow__num_examples": N,
    "gaps__flow__layers": 1,
    "gaps__flow__width": 2,
    "gaps__ais__num_examples": N,
    "gaps__ais__num_simulated": N,
    "gaps__ais__starts": ("q", "prior"),
    "gaps__ais__num_chains": 2,
    "gaps__ais__num_temperatures": 2,
    "gaps__ais__num_leapfrog": 1,
    "gaps__ais__pilot_chains": 1,
    "gaps__ais__pilot_temperatures": 2,
    "gaps__nuts__num_examples": N,
    "gaps__nuts__num_samples": 4,
    "estimators__names": ("elbo",),
    "estimators__num_samples": (1,),
    "estimators__num_draws": 20,
    "eval__seed": SEED,
}


def training_draws(watch):
    """{(step, use): keys}, of two steps with two inner updates, and what a run draws before them."""
    model = MODEL._replace(closed_form_update=lambda new, old, gradient: new)
    corrupt = make_corruption(SimpleNamespace(input_noise=0.1, input_dropout=0.1))
    prepare = lambda keys, image: preprocess(keys, image, (0, 1), "dynamic")
    table = step.TableUpdates(by_optimizer(optax.sgd(1.0)), elbo, lambda *_: (1.0, 1.0), inner_steps=2)
    init, order, noise = seed_keys(SEED)
    streams = {"init": watch.take(MODEL.start_q_params(jax.random.split(init, N)))}
    for epoch in range(2):
        streams["order", epoch] = watch.take(epoch_order(order, epoch, jnp.arange(4).reshape(2, 2).T))
    options = {"weights": lambda hyper, number: {}, "prepare": prepare, "corrupt": corrupt}
    entries = step.Table(encode(PARAMS, IMAGE), jax.vmap(optax.sgd(1.0).init)(encode(PARAMS, IMAGE)))
    batch = {"image": IMAGE, "index": jnp.arange(N), "slot": jnp.arange(N)}
    one = jax.jit(step.make_train_step(model, optax.sgd(0.1), elbo, table_updates=table, **options))
    for number in range(2):
        state = step.State(jnp.int32(number), PARAMS, optax.sgd(0.1).init(PARAMS), (), entries)
        streams["step", number] = watch.take(one(noise, {}, state, batch))
    return streams


def evaluation_draws(watch):
    """{(split, measurement): keys}."""
    config, streams = config_of(**SMALL), {}
    prepare = lambda keys, image: preprocess(keys, image, (0, 1), "dynamic")
    measurements = {
        "binarize": lambda given: examples.prepared(prepare, given["image"], given["key"]),
        "infer": lambda given: examples.infer_q_params(MODEL, PARAMS, given),
        "fit": lambda given: examples.fit_chunk(MODEL, PARAMS, given, config.fit),
        "q's draws": lambda given: bounds.importance_log_px(MODEL, PARAMS, given, 3, 3),
        "the prior's draws": lambda given: bounds.log_weights(MODEL, PARAMS, given, "prior", 3, 3),
        "posterior": lambda given: latent_space.posterior_draws(MODEL, PARAMS, given, 2),
        "one draw of q": lambda given: latent_space.aggregate_draws(MODEL, PARAMS, given),
        "aggregate": lambda given: latent_space.log_densities(MODEL, PARAMS, given, given["q_params"]),
        "completions": lambda given: generation.completions(MODEL, PARAMS, given | {"condition": IMAGE}, 2),
    }
    for split, (name, measure) in itertools.product(("train", "valid", "test"), measurements.items()):
        streams[split, name] = watch.take(measure(evaluation_examples(split)))
    return streams


def other_draws(watch):
    """What belongs to no example: the prior's draws, --mode=sample, --mode=estimators."""
    config = config_of(**SMALL)
    loaded = SimpleNamespace(
        config=config, model=MODEL, params=PARAMS, info=SimpleNamespace(condition_shape=(), event_shape=(X,))
    )
    batch = {"image": IMAGE, "index": jnp.arange(N)}
    return {
        "prior": watch.take(generation.prior_means(MODEL, PARAMS, prior_key(SEED), N)),
        "sample": watch.take(arrays.sample(loaded, N, {})),
        "estimators": watch.take(gradient_noise.measure(MODEL, PARAMS, batch, config.estimators, SEED)),
    }


def test_training_and_evaluation_of_one_seed_share_no_key(watch):
    streams = training_draws(watch) | evaluation_draws(watch) | other_draws(watch)
    require_disjoint(streams)


# ---- gaps: no stage draws from the keys of another

SAME_NOISE = {  # pairs that are compared on the same noise
    ("L[q]", "L[q*]"),
    ("L[q]", "L[q* flow]"),
    ("L[q*]", "L[q* flow]"),
    ("AIS from q", "AIS from prior"),
    ("BDMC from q", "BDMC from prior"),
    ("moments of q", "moments of q_star"),
}


def three_draws(model, params, chunk, settings, start, both_ways=False):
    """In place of `gaps.anneal`: one draw from each key that annealed importance sampling begins with."""
    uses = (Use.AIS_PILOT, Use.AIS_RUN, Use.AIS_REVERSE)
    drawn = sum(jax.vmap(jax.random.normal)(fold_each(chunk["key"], use)) for use in uses)
    found = ais.Ais(drawn, drawn, drawn[:, None], jnp.zeros((N, 2, Z)))
    return (found, found) if both_ways else found


def one_draw(keys, examples, target, config):
    """In place of `nuts.sample`: one draw from the key that each example's chains come from."""
    drawn = jax.vmap(jax.random.normal)(keys)
    z = jnp.broadcast_to(jnp.arange(2.0)[:, None], (N, 2, 2, Z))
    return {"z": z, **dict.fromkeys(("rhat", "ess", "divergent"), drawn)}


def test_stages_of_gaps_share_no_key(watch, monkeypatch):
    streams = {}

    def progress(title, done, total):
        if not title.startswith("moments of ais"):  # which draws nothing
            streams[title] = watch.take()

    monkeypatch.setattr(gaps, "anneal", three_draws)
    monkeypatch.setattr(nuts, "sample", one_draw)
    gaps.measure_gaps(MODEL, PARAMS, evaluation_examples(), config_of(**SMALL).gaps, ONE_DEVICE, progress)
    require_disjoint(streams, SAME_NOISE)
    counts = {"simulating": 2, "starts": 1, "starts of simulated data": 1, "flow: start": 1, "BDMC from prior": 3}
    assert {title: len(set(streams[title])) for title in counts} == {title: N * each for title, each in counts.items()}


def test_chains_share_no_key_with_what_they_start_from(watch):
    keys, *_ = ais.start_chains(jax.random.key(1), None, lambda _: (StandardNormal((Z,)), lambda z: z.sum()), 3)
    assert len({*watch.take(), *map(tuple, bits(keys).tolist())}) == 1 + 3


def test_what_a_key_of_an_example_starts_has_keys_of_its_own(watch):
    """The mean and what bends q of an untrained table; the weights of a flow and the draws that it is centred on."""
    keys = split_keys(SEED, "test", N)
    heads = {"mean": (Z,), "log_std": (Z,), "factor": (Z, 1), "chol": (Z,)}
    assert len(set(watch.take(inference.prior_q_params(heads, keys)))) == 3 * N
    bent = lambda params, q_params: LowRankNormal(q_params["mean"], q_params["log_std"], jnp.zeros((N, Z, 1)))
    chunk = {"key": keys, "q_params": encode(PARAMS, IMAGE)}
    started = gaps.start_flow(MODEL._replace(make_q=bent), PARAMS, chunk, config_of(**SMALL).gaps.flow)
    seen = watch.take(started)
    assert len(set(seen)) == len(seen) == 2 * N and not set(seen) & set(map(tuple, bits(keys).tolist()))
