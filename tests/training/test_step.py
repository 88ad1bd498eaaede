"""The training step: pure, invariant to devices, equal to a hand-written gradient step."""

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


@pytest.fixture
def model():
    config = configuration.default()
    config.model.latent_dim, config.model.hidden = 3, (8,)
    return make_model(configuration.validate(config), Info)


@pytest.fixture
def image(key):
    return np.asarray(jax.random.uniform(key, (NUM_EXAMPLES, *Info.event_shape)))


def binarize(keys, image):
    return jax.vmap(jax.random.bernoulli)(keys, image).astype(float)


def hyper(seed=0):
    _, order, noise = seed_keys(seed)
    return {"order": order, "noise": noise, "objective": {}}


def make_step(model, optimizer, axis=devices.NO_AXIS, **options):
    return step.make_train_step(model, optimizer, regularized.elbo, prepare=binarize, axis=axis, **options)


def first_batch(image):
    return {"image": jnp.asarray(image[:BATCH]), "index": jnp.arange(BATCH)}


def test_one_step_is_the_gradient_of_the_mean_elbo(model, image, key):
    """Plain SGD at rate 1: params - new params = d mean loss / d params, with the loss written out by hand."""
    optimizer = optax.sgd(1.0)
    state = step.init_state(model, optimizer, key, jnp.asarray(image))
    new, metrics = make_step(model, optimizer)(key, hyper(), state, first_batch(image))
    keys = [
        [jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, 0), i), use) for i in range(BATCH)]
        for use in (Use.TRAIN_BINARIZE, Use.TRAIN_DRAW)
    ]
    x = jnp.stack([jax.random.bernoulli(k, image[i]) for i, k in enumerate(keys[0])]).astype(float)
    eps = jnp.stack([jax.random.normal(k, (1, 3))[0] for k in keys[1]])

    def loss(params):
        rows = model.encode(params, x)
        z = rows["mean"] + jnp.exp(rows["log_std"]) * eps
        log_lik = bernoulli_log_prob(model.decode(params, z[None]).logits[0], x, 3)
        return -(log_lik - kl_standard_normal(rows["mean"], rows["log_std"])).mean()

    value, grads = jax.value_and_grad(loss)(state.params)
    np.testing.assert_allclose(metrics["elbo"], -value, rtol=1e-6)
    moved = jax.tree.map(lambda old, new: old - new, state.params, new.params)
    for expected, got in zip(jax.tree.leaves(grads), jax.tree.leaves(moved), strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-6)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(grads), rtol=1e-5)


def test_step_is_pure_and_traced_once(model, image, key):
    """The same inputs give the same outputs, jitted or not; other keys and hyperparameters do not recompile."""
    optimizer, traces = optax.adam(1e-3), []

    def beta_elbo(*args, beta):
        traces.append(1)
        return regularized.beta_elbo(*args, beta=beta)

    train_step = step.make_train_step(model, optimizer, beta_elbo, prepare=binarize)
    state = step.init_state(model, optimizer, key, jnp.asarray(image))
    one = {**hyper(), "objective": {"beta": jnp.float32(1.0)}}
    plain = train_step(key, one, state, first_batch(image))
    compiled = jax.jit(train_step)
    traces.clear()
    first, again = [compiled(key, one, state, first_batch(image)) for _ in range(2)]
    for a, b, c in zip(*map(jax.tree.leaves, (first, again, plain)), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, c, rtol=1e-4, atol=1e-6)
    other = compiled(jax.random.key(9), {**one, "objective": {"beta": jnp.float32(4.0)}}, first[0], first_batch(image))
    assert len(traces) == 1 and other[1]["objective"] < first[1]["objective"]


def test_ema_follows_the_parameters(model, image, key):
    """Step 0 has decay min(0.9, 1/10): ema = 0.1 old + 0.9 new."""
    optimizer = optax.sgd(0.1)
    state = step.init_state(model, optimizer, key, jnp.asarray(image), with_ema=True)
    new, _ = make_step(model, optimizer, ema=0.9)(key, hyper(), state, first_batch(image))
    for old, now, ema in zip(*map(jax.tree.leaves, (state.params, new.params, new.ema)), strict=True):
        np.testing.assert_allclose(ema, 0.1 * old + 0.9 * now, atol=1e-6)


def run_on(num_devices, model, image, optimizer, num_steps, calls=1, seed=0):
    mesh = devices.make_mesh(num_devices)
    train_step = make_step(model, optimizer, axis=devices.axis(mesh))
    run = make_run_steps(train_step, num_steps, BATCH, NUM_EXAMPLES, STREAMS, mesh)
    index = streams.example_index(NUM_EXAMPLES, STREAMS)
    data = devices.put_split(mesh, {"image": streams.to_slots(image, STREAMS), "index": index})
    state = step.init_state(model, optimizer, jax.random.key(5), jnp.asarray(image))
    state = jax.device_put(state, devices.shardings(mesh, step.STATE_SPECS._replace(table=P())))
    metrics = []
    for _ in range(calls):
        state, window = run(devices.put_replicated(mesh, hyper(seed)), state, data)
        metrics.append(jax.device_get(window))
    return jax.device_get(state.params), jax.tree.map(lambda *parts: np.concatenate(parts), *metrics)


@pytest.mark.parametrize("num_devices", [2, 4, 8])
def test_devices_do_not_change_a_run(num_devices, model, image):
    """20 steps of plain SGD, over several epochs of 4 steps: the parameters agree to the order of float32 sums."""
    one, one_metrics = run_on(1, model, image, optax.sgd(0.05), 20)
    many, many_metrics = run_on(num_devices, model, image, optax.sgd(0.05), 20)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_allclose(one_metrics["elbo"], many_metrics["elbo"], rtol=1e-5)
    start = jax.tree.leaves(step.init_state(model, optax.sgd(0.05), jax.random.key(5), jnp.asarray(image)).params)
    assert max(np.abs(a - b).max() for a, b in zip(start, jax.tree.leaves(one), strict=True)) > 0.01, "nothing moved"


def test_windows_do_not_change_a_run(model, image):
    """20 steps in one call are 4 calls of 5, although the epochs of 4 steps straddle the calls."""
    whole, whole_metrics = run_on(2, model, image, optax.sgd(0.05), 20)
    parts, parts_metrics = run_on(2, model, image, optax.sgd(0.05), 5, calls=4)
    np.testing.assert_array_equal(whole_metrics["elbo"], parts_metrics["elbo"])
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_array_equal(a, b)


def test_seed_changes_the_order_and_the_noise(model, image):
    _, first = run_on(1, model, image, optax.sgd(0.05), 4, seed=0)
    _, second = run_on(1, model, image, optax.sgd(0.05), 4, seed=1)
    assert np.abs(first["elbo"] - second["elbo"]).min() > 1e-4


def test_pmap_of_the_step_gives_the_same_numbers(model, image, key):
    """jax.pmap of the very same per-device step, its batch cut in four, moves the parameters as one device does."""
    optimizer = optax.sgd(0.1)
    state = step.init_state(model, optimizer, key, jnp.asarray(image))
    alone, _ = make_step(model, optimizer)(key, hyper(), state, first_batch(image))
    batch = jax.tree.map(lambda a: a.reshape(4, BATCH // 4, *a.shape[1:]), first_batch(image))
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


def test_one_all_reduce_per_step(model, image):
    """The compiled program sums gradients and metrics over the devices once."""
    mesh, optimizer = devices.make_mesh(4), optax.sgd(0.1)
    run = make_run_steps(make_step(model, optimizer, devices.DEVICES), 3, BATCH, NUM_EXAMPLES, STREAMS, mesh)
    index = streams.example_index(NUM_EXAMPLES, STREAMS)
    data = devices.put_split(mesh, {"image": streams.to_slots(image, STREAMS), "index": index})
    state = step.init_state(model, optimizer, jax.random.key(5), jnp.asarray(image))
    text = run.lower(hyper(), state, data).compile().as_text()
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
