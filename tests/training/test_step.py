"""The training step: pure, invariant to devices, equal to a hand-written gradient step."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from vae_jax.commands import configuration
from vae_jax.data import order as streams
from vae_jax.distributions.basic import bernoulli_log_prob, kl_standard_normal
from vae_jax.errors import DeviceError
from vae_jax.keys import Use, seed_keys
from vae_jax.models.model import make_model
from vae_jax.objectives import regularized
from vae_jax.parallel import devices
from vae_jax.training import step
from vae_jax.training.program import make_run_steps

NUM_EXAMPLES, BATCH, STREAMS = 70, 16, 8  # 70 = 8 * 8 + 6: streams of 8 and of 9


class Info:
    event_shape, num_train, num_classes, value_range = (4, 4, 1), NUM_EXAMPLES, 0, (0.0, 1.0)
    condition_shape = None


@cache
def small_model():
    config = configuration.default()
    config.model.latent_dim, config.model.hidden = 3, (8,)
    return make_model(configuration.validate(config), Info)


@pytest.fixture
def model():
    return small_model()


IMAGE = np.random.default_rng(0).uniform(size=(NUM_EXAMPLES, *Info.event_shape)).astype(np.float32)


def binarize(keys, image):
    return jax.vmap(jax.random.bernoulli)(keys, image).astype(float)


def hyper(seed=0):
    _, order, noise = seed_keys(seed)
    return {"order": order, "noise": noise, "objective": {}}


def make_step(model, optimizer, axis=devices.NO_AXIS, **options):
    return step.make_train_step(model, optimizer, regularized.elbo, prepare=binarize, axis=axis, **options)


@cache
def start_state(optimizer=None, seed=42, **options):
    """By default that of plain SGD, whose state does not depend on its rate."""
    init = partial(step.init_state, small_model(), optimizer or optax.sgd(1.0), **options)
    return jax.device_get(jax.jit(init)(jax.random.key(seed), IMAGE))


def first_batch():
    return {"image": jnp.asarray(IMAGE[:BATCH]), "index": jnp.arange(BATCH)}


def test_one_step_is_the_gradient_of_the_mean_elbo(model, key):
    """Plain SGD at rate 1: params - new params = d mean loss / d params, with the loss written out by hand."""
    state = start_state()
    new, metrics = jax.jit(make_step(model, optax.sgd(1.0)))(key, hyper(), state, first_batch())

    @jax.vmap
    def noise(image, i):
        fold = lambda use: jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, 0), i), use)
        return (
            jax.random.bernoulli(fold(Use.TRAIN_BINARIZE), image),
            jax.random.normal(fold(Use.TRAIN_DRAW), (1, 3))[0],
        )

    x, eps = jax.jit(noise)(IMAGE[:BATCH], jnp.arange(BATCH))
    x = x.astype(float)

    def loss(params):
        rows = model.encode(params, x)
        z = rows["mean"] + jnp.exp(rows["log_std"]) * eps
        log_lik = bernoulli_log_prob(model.decode(params, z[None]).logits[0], x, 3)
        return -(log_lik - kl_standard_normal(rows["mean"], rows["log_std"])).mean()

    value, grads = jax.device_get(jax.jit(jax.value_and_grad(loss))(state.params))
    np.testing.assert_allclose(metrics["elbo"], -value, rtol=1e-6)
    moved = jax.tree.map(np.subtract, state.params, new.params)
    for expected, got in zip(jax.tree.leaves(grads), jax.tree.leaves(moved), strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-6)
    flat = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(grads)])
    np.testing.assert_allclose(metrics["grad_norm"], np.linalg.norm(flat), rtol=1e-5)


def test_step_is_pure_and_traced_once(model, key):
    """The same inputs give the same outputs, jitted or not; other keys and hyperparameters do not recompile."""
    optimizer, traces = optax.sgd(0.1), []

    def beta_elbo(*args, beta):
        traces.append(1)
        return regularized.beta_elbo(*args, beta=beta)

    train_step = step.make_train_step(model, optimizer, beta_elbo, prepare=binarize)
    state = start_state(optimizer)
    one = {**hyper(), "objective": {"beta": jnp.float32(1.0)}}
    plain = train_step(key, one, state, first_batch())
    compiled = jax.jit(train_step)
    traces.clear()
    first, again = [compiled(key, one, state, first_batch()) for _ in range(2)]
    for a, b, c in zip(*map(jax.tree.leaves, (first, again, plain)), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, c, rtol=1e-4, atol=1e-6)
    other = compiled(jax.random.key(9), {**one, "objective": {"beta": jnp.float32(4.0)}}, first[0], first_batch())
    assert len(traces) == 1 and other[1]["objective"] < first[1]["objective"]


def test_ema_follows_the_parameters(model, key):
    """Step 0 has decay min(0.9, 1/10): ema = 0.1 old + 0.9 new."""
    state = start_state(with_ema=True)
    new, _ = jax.jit(make_step(model, optax.sgd(0.1), ema=0.9))(key, hyper(), state, first_batch())
    for old, now, ema in zip(*map(jax.tree.leaves, (state.params, new.params, new.ema)), strict=True):
        np.testing.assert_allclose(ema, 0.1 * old + 0.9 * now, atol=1e-6)


@cache
def program_on(num_devices, num_steps):
    """The compiled program, and its arguments but for the hyperparameters; plain SGD."""
    mesh = devices.make_mesh(num_devices)
    train_step = make_step(small_model(), optax.sgd(0.05), axis=devices.axis(mesh))
    run = make_run_steps(train_step, num_steps, BATCH, NUM_EXAMPLES, STREAMS, mesh)
    index = streams.example_index(NUM_EXAMPLES, STREAMS)
    data = devices.put_split(mesh, {"image": streams.to_slots(IMAGE, STREAMS), "index": index})
    place = lambda: jax.device_put(start_state(seed=5), devices.shardings(mesh, step.STATE_SPECS._replace(table=P())))
    placed = lambda seed: devices.put_replicated(mesh, hyper(seed))
    return run.lower(placed(0), place(), data).compile(), placed, place, data


@cache
def run_on(num_devices, num_steps, calls=1, seed=0):
    program, placed, place, data = program_on(num_devices, num_steps)
    state, metrics = place(), []
    for _ in range(calls):
        state, window = program(placed(seed), state, data)
        metrics.append(jax.device_get(window))
    return jax.device_get(state.params), jax.tree.map(lambda *parts: np.concatenate(parts), *metrics)


@pytest.mark.parametrize("num_devices", [2, pytest.param(4, marks=pytest.mark.slow), 8])
def test_devices_do_not_change_a_run(num_devices):
    """20 steps of plain SGD, over several epochs of 4 steps: the parameters agree to the order of float32 sums."""
    one, one_metrics = run_on(1, 20)
    many, many_metrics = run_on(num_devices, 20)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_allclose(one_metrics["elbo"], many_metrics["elbo"], rtol=1e-5)
    start = jax.tree.leaves(start_state(seed=5).params)
    assert max(np.abs(a - b).max() for a, b in zip(start, jax.tree.leaves(one), strict=True)) > 0.01, "nothing moved"


def test_windows_do_not_change_a_run():
    """20 steps in one call are 4 calls of 5, although the epochs of 4 steps straddle the calls."""
    whole, whole_metrics = run_on(2, 20)
    parts, parts_metrics = run_on(2, 5, calls=4)
    np.testing.assert_array_equal(whole_metrics["elbo"], parts_metrics["elbo"])
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_array_equal(a, b)


def test_seed_changes_the_order_and_the_noise():
    first, second = (run_on(1, 20, seed=seed)[1]["elbo"][:4] for seed in (0, 1))
    assert np.abs(first - second).min() > 1e-4


def test_pmap_of_the_step_gives_the_same_numbers(model, key):
    """jax.pmap of the very same per-device step, its batch cut in four, moves the parameters as one device does."""
    optimizer = optax.sgd(0.1)
    state = start_state()
    alone, _ = jax.jit(make_step(model, optimizer))(key, hyper(), state, first_batch())
    batch = jax.tree.map(lambda a: a.reshape(4, BATCH // 4, *a.shape[1:]), first_batch())
    mapped = jax.pmap(
        make_step(model, optimizer, axis=devices.DEVICES),
        axis_name=devices.AXIS,
        in_axes=(None, None, None, 0),
        out_axes=None,
        devices=jax.devices()[:4],
    )
    together, _ = mapped(key, hyper(), state, batch)
    for a, b in zip(jax.tree.leaves(alone.params), jax.tree.leaves(together.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_one_all_reduce_per_step():
    """The compiled program sums gradients and metrics over the devices once."""
    text = program_on(8, 20)[0].as_text()
    assert sum(" all-reduce(" in line or " all-reduce-start(" in line for line in text.splitlines()) == 1


def test_sharing_that_cannot_work_is_refused_with_the_numbers():
    with pytest.raises(DeviceError, match="3 devices cannot share 8 streams of a batch of 16"):
        devices.check(3, 8, 16)
    with pytest.raises(DeviceError, match="4 devices cannot share 8 streams of a batch of 12"):
        devices.check(4, 8, 12)
    with pytest.raises(DeviceError, match="only 8"):
        devices.make_mesh(9)
    devices.check(4, 8, 16)


def test_the_norm_is_that_of_all_leaves_scalars_too():
    rng = np.random.default_rng(0)
    tree = {"a": rng.normal(size=(3, 4)), "b": rng.normal(size=5), "c": rng.normal(), "d": rng.normal(size=(2, 3, 4))}
    flat = np.concatenate([np.ravel(leaf) for leaf in tree.values()])
    np.testing.assert_allclose(step.norm(tree), np.linalg.norm(flat), rtol=1e-6)
