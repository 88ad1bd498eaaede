"""Optimizers at a learning rate of one, scaled afterwards, against optax's own; schedules and clipping by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vae_jax.commands import configuration
from vae_jax.training import setup as setups
from vae_jax.training.optimizer import OPTIMIZERS, encoder_first, make_learning_rate, make_optimizer
from vae_jax.training.program import make_program, training_data

RATE = 0.03
# None of these is optax's own default, so an option that is not passed on shows.
SETTINGS = {"b1": 0.8, "b2": 0.95, "momentum": 0.7, "weight_decay": 0.2, "newton_schulz_steps": 4}
OPTAX = {
    "adam": lambda rate=RATE: optax.adam(rate, b1=0.8, b2=0.95),
    "adamw": lambda rate=RATE: optax.adamw(rate, b1=0.8, b2=0.95, weight_decay=0.2),
    "adamax": lambda rate=RATE: optax.adamax(rate, b1=0.8, b2=0.95),
    "nadam": lambda rate=RATE: optax.nadam(rate, b1=0.8, b2=0.95),
    "radam": lambda rate=RATE: optax.radam(rate, b1=0.8, b2=0.95),
    "rmsprop": lambda rate=RATE: optax.rmsprop(rate, decay=0.95, momentum=0.7),
    "lion": lambda rate=RATE: optax.lion(rate, b1=0.8, b2=0.95, weight_decay=0.2),
    "muon": lambda rate=RATE: optax.contrib.muon(
        rate, beta=0.7, adam_b1=0.8, adam_b2=0.95, weight_decay=0.2, ns_steps=4, preconditioning="schatten"
    ),
    "sgd": lambda rate=RATE: optax.sgd(rate, momentum=0.7),
}


def options(**changes):
    config = configuration.default().optimizer
    config.update(changes)
    return config


def run(optimizer, params, gradients, rate=1.0):
    """The parameters after each gradient in turn, the updates scaled by `rate` as a training step scales them."""

    def one(carry, gradient):
        params, state = carry
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, jax.tree.map(lambda u: rate * u, updates))
        return (params, state), params

    return jax.lax.scan(one, (params, optimizer.init(params)), gradients)[1]


def test_every_name_is_covered():
    assert set(OPTAX) == set(OPTIMIZERS)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_scaled_updates_are_those_of_optax_at_that_rate(name):
    """A matrix, which Muon orthogonalizes, and a bias, which it leaves to Adam; the same six gradients for both."""
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.float32(rng.normal(size=(3, 2))), "bias": jnp.float32(rng.normal(size=2))}
    gradients = jax.tree.map(lambda p: jnp.float32(rng.normal(size=(6, *p.shape))), params)
    ours = make_optimizer(options(name=name, **SETTINGS))
    got, expected = jax.jit(lambda: (run(ours, params, gradients, RATE), run(OPTAX[name](), params, gradients)))()
    for leaf in params:
        np.testing.assert_allclose(got[leaf], expected[leaf], atol=2e-6)
        assert np.abs(np.diff(expected[leaf], axis=0)).max() > 0.01, "nothing moved"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_schedule_is_that_of_optax(name):
    """A rate that falls from 0.03 to 0.002 in six steps, told beforehand and multiplied afterwards as by step.py."""
    rng, rates = np.random.default_rng(0), jnp.float32([0.03, 0.03, 0.02, 0.01, 0.004, 0.002])
    params = {"kernel": jnp.float32(rng.normal(size=(3, 2))), "bias": jnp.float32(rng.normal(size=2))}
    gradients = jax.tree.map(lambda p: jnp.float32(rng.normal(size=(6, *p.shape))), params)
    ours, theirs = make_optimizer(options(name=name, **SETTINGS)), OPTAX[name](lambda count: rates[count])
    update = optax.with_extra_args_support(ours).update

    def one(carry, inputs):
        (params, state), (gradient, rate) = carry, inputs
        updates, state = update(gradient, state, params, learning_rate=rate)
        params = optax.apply_updates(params, jax.tree.map(lambda u: rate * u, updates))
        return (params, state), params

    scheduled = jax.jit(lambda: jax.lax.scan(one, (params, ours.init(params)), (gradients, rates))[1])
    got, expected = scheduled(), jax.jit(lambda: run(theirs, params, gradients))()
    for leaf in params:
        np.testing.assert_allclose(got[leaf], expected[leaf], atol=2e-6)


def test_sgd_with_momentum_by_hand():
    """Gradients 1, 1, 1 and momentum 0.5: v = 1, 1.5, 1.75, so p = -1, -2.5, -4.25; without: -1, -2, -3."""
    ones = jnp.ones(3)
    half, none = [make_optimizer(options(name="sgd", momentum=m)) for m in (0.5, 0.0)]
    np.testing.assert_allclose(run(half, jnp.float32(0), ones), [-1, -2.5, -4.25])
    np.testing.assert_allclose(run(none, jnp.float32(0), ones), [-1, -2, -3])


@pytest.mark.parametrize(
    "clip_norm, gradient, update",
    [
        (1.0, {"a": [3.0], "b": [4.0]}, {"a": [-0.6], "b": [-0.8]}),  # norm 5 over both leaves, scaled by 1/5
        (10.0, {"a": [3.0], "b": [4.0]}, {"a": [-3.0], "b": [-4.0]}),  # 5 < 10: left alone
        (0.0, {"a": [300.0], "b": [400.0]}, {"a": [-300.0], "b": [-400.0]}),  # 0: none
    ],
)
def test_clipping_is_of_the_global_norm_of_the_gradient(clip_norm, gradient, update):
    optimizer = make_optimizer(options(name="sgd", momentum=0.0, clip_norm=clip_norm))
    gradient = jax.tree.map(jnp.float32, gradient)
    got, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, update)


@pytest.mark.parametrize("until", [0, 6])
def test_the_encoder_goes_first(until):
    """Momentum 0.5, gradients of 1: the encoder takes every step; the rest, every third, as if it had made no other."""
    optimizer = encoder_first(make_optimizer(options(name="sgd", momentum=0.5)), 3, until)
    params = {"encoder": jnp.zeros(2), "posterior": jnp.zeros(2), "decoder": jnp.zeros(2), "prior": jnp.zeros(2)}
    moves = run(optimizer, params, jax.tree.map(lambda leaf: jnp.ones((9, 2)), params))
    plain = run(make_optimizer(options(name="sgd", momentum=0.5)), jnp.zeros(2), jnp.ones((9, 2)))
    turns = [2, 5, 6, 7, 8] if until else [2, 5, 8]
    held = np.zeros((9, 2))
    for count, (start, end) in enumerate(zip(turns, [*turns[1:], 9], strict=True)):
        held[start:end] = plain[count]
    for name, expected in {"encoder": plain, "posterior": plain, "decoder": held, "prior": held}.items():
        np.testing.assert_allclose(moves[name], expected, rtol=1e-6, err_msg=name)


def test_clipping_comes_before_momentum():
    """Gradients 10 and 0 with norm 1 and momentum 0.5: v = 1, 0.5. Clipping v itself would give 1, 1."""
    optimizer = make_optimizer(options(name="sgd", momentum=0.5, clip_norm=1.0))
    np.testing.assert_allclose(run(optimizer, jnp.float32(0), jnp.float32([10, 0])), [-1, -1.5], rtol=1e-6)


@pytest.mark.parametrize(
    "schedule, warmup, step, share",
    [
        ("constant", 0, 0, 1.0),
        ("constant", 0, 99, 1.0),
        ("constant", 4, 0, 0.25),  # (0 + 1) / 4: the first step already learns
        ("constant", 4, 1, 0.5),
        ("constant", 4, 3, 1.0),
        ("constant", 4, 4, 1.0),
        ("cosine", 0, 0, 1.0),
        ("cosine", 0, 25, 0.1 + 0.45 * (1 + 0.5**0.5)),  # cos(pi/4) = sqrt(1/2)
        ("cosine", 0, 50, 0.55),  # halfway between 1 and 0.1
        ("cosine", 0, 100, 0.1),
        ("cosine", 200, 50, 51 / 200 * 0.55),  # warm-up multiplies the schedule
    ],
)
def test_learning_rate_by_hand(schedule, warmup, step, share):
    """Out of 100 steps, down to a tenth."""
    learning_rate = make_learning_rate(options(schedule=schedule, final_fraction=0.1), num_steps=100)
    rate = learning_rate({"learning_rate": jnp.float32(0.2), "warmup_steps": jnp.float32(warmup)}, jnp.int32(step))
    np.testing.assert_allclose(rate, 0.2 * share, rtol=1e-6)


def test_another_rate_has_the_same_warm_up_and_schedule():
    """The rows of a table have a rate of their own: 0.2 at step 50 of 100, down to a tenth, is 0.11."""
    config = options(schedule="cosine", final_fraction=0.1)
    learning_rate = make_learning_rate(config, 100, "table_learning_rate")
    hyper = {"learning_rate": jnp.float32(9), "table_learning_rate": jnp.float32(0.2), "warmup_steps": jnp.float32(0)}
    np.testing.assert_allclose(learning_rate(hyper, jnp.int32(50)), 0.11, rtol=1e-6)


def test_the_rate_is_an_argument_of_the_compiled_program():
    """Other rates, warm-ups and steps: one trace, and the values of the function not compiled."""
    learning_rate, traces = make_learning_rate(options(schedule="cosine"), num_steps=10), []

    @jax.jit
    def compiled(hyper, step):
        traces.append(1)
        return learning_rate(hyper, step)

    for rate, warmup, step in [(0.1, 0, 0), (0.2, 3, 1), (0.3, 5, 9)]:
        hyper = {"learning_rate": jnp.float32(rate), "warmup_steps": jnp.float32(warmup)}
        np.testing.assert_allclose(compiled(hyper, jnp.int32(step)), learning_rate(hyper, step), rtol=1e-5)
    assert len(traces) == 1


def test_a_run_updates_its_encoder_alone_for_so_many_steps(config_of):
    """Two steps of three move the encoder only, for one epoch; then all parameters move at each."""
    changes = {"inference.encoder_steps": 3, "inference.encoder_epochs": 1, "train.epochs": 2, "data.num_train": 300}
    setup = setups.make_setup(config_of(changes), 1)
    assert setup.epoch_steps == 3
    state, program = setups.make_init(setup)(), make_program(setup)(1)
    hyper, data, moved = setups.hyperparameters(setup.config), training_data(setup), []
    for _ in range(5):
        before = jax.device_get(state.params)
        state, _ = program(hyper, state, data)
        moves = jax.tree.map(lambda old, new: np.abs(old - new).max() > 0, before, jax.device_get(state.params))
        moved.append({name: all(jax.tree.leaves(tree)) for name, tree in moves.items()})
    assert all(step["encoder"] for step in moved)
    assert [step["decoder"] for step in moved] == [False, False, True, True, True]
