"""Inference modes as training steps and as whole runs: what moves, what stays, what devices do not change."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from vae_jax import config as configs
from vae_jax.commands import configuration, train
from vae_jax.data import order as streams
from vae_jax.errors import ConfigError
from vae_jax.evaluation import bounds
from vae_jax.evaluation.examples import with_entries
from vae_jax.keys import Use, example_keys, seed_keys
from vae_jax.models.fits import by_optimizer
from vae_jax.models.model import make_model
from vae_jax.objectives import regularized
from vae_jax.objectives.elbo import elbo_fn
from vae_jax.parallel import devices
from vae_jax.runs import checkpoint, directory, load
from vae_jax.runs import environment as environments
from vae_jax.training import program as program_module
from vae_jax.training import setup as setups
from vae_jax.training import step
from vae_jax.training.program import make_program, make_run_steps, make_table_updates

NUM_EXAMPLES, BATCH, STREAMS = 70, 16, 8  # 70 = 8 * 8 + 6: streams of 8 and of 9
NAMES = ("mean", "log_std")
SLOW = pytest.mark.slow


class Info:
    event_shape, num_train, value_range = (3, 3), NUM_EXAMPLES, (0.0, 1.0)
    condition_shape = None


@cache
def small_model(kind="per_datapoint"):
    config = configuration.default()
    config.model.latent_dim, config.model.hidden = 2, (4,)
    config.inference.kind, config.data.binarization = kind, "fixed"
    config.inference.update({"steps": 2, "learning_rate": 0.1, "start": "prior"})
    return make_model(configuration.validate(config), Info)


IMAGE = (np.random.default_rng(0).uniform(size=(NUM_EXAMPLES, *Info.event_shape)) < 0.4).astype(np.float32)


def hyper(seed=0):
    _, order, noise = seed_keys(seed)
    return {"order": order, "noise": noise, "objective": {}}


ADAM = optax.adam(1.0)


def table_updates(optimizer=None, rate=0.1, inner_steps=1):
    rates = lambda hyper, step, number: (0.0, rate * (1 + number))
    return step.TableUpdates(by_optimizer(optimizer or ADAM), regularized.elbo, rates, inner_steps)


def plain_table():
    """Plain SGD at rate 1 that counts its steps, one count a row."""
    return optax.chain(optax.sgd(1.0), optax.scale_by_schedule(lambda count: 1.0))


def make_step(kind="per_datapoint", optimizer=None, updates=None, axis=devices.NO_AXIS):
    """Plain SGD at rate 1, so that gradients can be read off what moved."""
    updates = updates if kind == "per_datapoint" else None
    return step.make_train_step(
        small_model(kind), optimizer or optax.sgd(1.0), regularized.elbo, table_updates=updates, axis=axis
    )


@cache
def compiled_step(inner_steps=1, plain=False):
    updates = table_updates(plain_table(), 1.0) if plain else table_updates(inner_steps=inner_steps)
    return jax.jit(make_step(updates=updates))


@cache
def start_state(kind="per_datapoint", plain=False, num_streams=1):
    """With one stream, row i is example i."""
    index = jnp.asarray(streams.example_index(NUM_EXAMPLES, num_streams))
    ascent = by_optimizer(plain_table() if plain else ADAM)
    init = partial(step.init_state, small_model(kind), optax.sgd(1.0), ascent=ascent)
    return jax.device_get(jax.jit(init)(jax.random.key(5), jnp.asarray(IMAGE), index=index))


def batch_of(examples):
    index = jnp.asarray(examples)
    return {"image": jnp.asarray(IMAGE[index]), "index": index, "slot": index}


def assert_bits(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def entries_at(table, index):
    return jax.tree.map(lambda column: np.asarray(column)[np.asarray(index)], table)


# ---- the per-datapoint step


def test_a_step_touches_only_its_rows():
    """Rows, both Adam moments and counts of the other examples stay, bit for bit; the batch's all move."""
    batch, others = [3, 9, 11, 2], [i for i in range(NUM_EXAMPLES) if i not in (3, 9, 11, 2)]
    state = start_state()
    new, _ = compiled_step()(jax.random.key(1), hyper(), state, batch_of(batch))
    assert_bits(entries_at(new.table, others), entries_at(state.table, others))
    adam = new.table.opt_state[0]
    assert adam.count.shape == (NUM_EXAMPLES,) and adam.count[jnp.array(batch)].tolist() == [1] * 4
    assert adam.count.sum() == 4
    for before, after in zip(*(jax.tree.leaves(entries_at(s.table, batch)) for s in (state, new)), strict=True):
        assert (np.abs(after - before).reshape(4, -1).max(-1) > 0).all()


def test_every_row_has_its_own_count():
    """Adam's first step has size 1 whatever the gradient: a row met first at step 2 moves by the rate, 0.1, exactly.

    (Bias corrections of step 2 with empty moments would make it 0.1 * (0.1 / 0.19) / sqrt(0.001 / 0.001999) = 0.074.)
    """
    state, one = start_state(), compiled_step()
    first, _ = one(jax.random.key(1), hyper(), state, batch_of([3, 9, 11, 2]))
    second, _ = one(jax.random.key(1), hyper(), first, batch_of([9, 3, 20, 21]))
    assert second.table.opt_state[0].count[jnp.array([3, 9, 11, 2, 20, 21])].tolist() == [2, 2, 1, 1, 1, 1]
    for row in (20, 21):
        moved = entries_at(second.table.q_params, row)["log_std"] - entries_at(state.table.q_params, row)["log_std"]
        np.testing.assert_allclose(np.abs(moved), 0.1, rtol=1e-3)


def test_gradients_are_those_of_sums_for_rows_and_of_means_for_the_decoder():
    """Plain SGD at rate 1 everywhere: what moved is the gradient, written out by hand for batches of 4 and of 16.

    A row moves by the gradient of its own example's ELBO, whatever the batch; then the decoder by the mean over the
    batch, with draws of its own.
    """
    state, model, key = start_state(plain=True), small_model(), jax.random.key(1)

    @jax.jit
    def by_hand(params, rows, index, image):
        of_example = lambda i, use: jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, 0), i), use)
        draws = jax.vmap(of_example, (0, None))(index, Use.TRAIN_DRAW)
        inner = jax.vmap(lambda i: jax.random.fold_in(of_example(i, Use.TRAIN_INNER), 0))(index)
        value = lambda keys, params, rows: elbo_fn(
            keys, image, model.make_q(params, rows), partial(model.decode, params)
        ).elbo.sum()
        move = jax.grad(value, 2)(inner, params, rows)
        return jax.grad(value, 1)(draws, params, jax.tree.map(jnp.add, rows, move)), move

    moved_rows = {}
    for size in (4, 16):
        batch = batch_of(np.arange(size) * 3)
        new, _ = compiled_step(plain=True)(key, hyper(), state, batch)
        old_rows, new_rows = (entries_at(s.table.q_params, batch["index"]) for s in (state, new))
        moved_rows[size] = jax.tree.map(np.subtract, new_rows, old_rows)
    decoder, rows = by_hand(state.params, old_rows, batch["index"], batch["image"])
    for name in NAMES:
        np.testing.assert_allclose(moved_rows[16][name], rows[name], atol=2e-6)
        np.testing.assert_allclose(moved_rows[4][name], rows[name][:4], atol=2e-6)
        assert np.abs(rows[name]).max() > 0.01
    moved = jax.tree.map(np.subtract, jax.device_get(new.params), state.params)
    for got, expected in zip(jax.tree.leaves(moved), jax.tree.leaves(decoder), strict=True):
        np.testing.assert_allclose(got, expected / 16, atol=2e-6)


def test_inner_steps_are_a_loop_over_the_rows():
    """inner_steps = 3: three row updates, each with draws of its own, then the decoder moves once, by hand.

    The updates use fold_in(example's TRAIN_INNER key, number), and each a rate of its own; so do the decoder's draws.
    """
    state, model, optimizer, key = start_state(), small_model(), ADAM, jax.random.key(1)
    batch = batch_of([3, 9, 11, 2])
    new, metrics = compiled_step(inner_steps=3)(key, hyper(), state, batch)
    keys = lambda use: example_keys(jax.random.fold_in(key, 0), batch["index"], use)
    in_turn = [jax.vmap(partial(jax.random.fold_in, data=number))(keys(Use.TRAIN_INNER)) for number in range(3)]

    @jax.jit
    def gradients(params, rows, draws):
        each = lambda p, r: elbo_fn(draws, batch["image"], model.make_q(p, r), partial(model.decode, p)).elbo
        return jax.value_and_grad(lambda p, r: -each(p, r).sum(), (0, 1))(params, rows)

    rows = entries_at(state.table.q_params, batch["index"])
    moments = jax.vmap(optimizer.init)(rows)
    for number, draws in enumerate(in_turn):
        _, (_, gradient) = gradients(state.params, rows, draws)
        updates, moments = jax.vmap(optimizer.update)(gradient, moments)
        rate = 0.1 * (1 + number)
        rows = optax.apply_updates(rows, jax.tree.map(partial(jnp.multiply, rate), updates))
    value, (decoder, _) = gradients(state.params, rows, keys(Use.TRAIN_DRAW))
    got = entries_at(new.table, batch["index"])
    for expected, actual in zip(jax.tree.leaves((rows, moments)), jax.tree.leaves(tuple(got)), strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-5)
    assert new.table.opt_state[0].count.sum() == 3 * 4 and new.step == 1
    expected = jax.tree.map(lambda p, g: p - g / 4, state.params, decoder)
    for a, b in zip(jax.tree.leaves(new.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
    np.testing.assert_allclose(metrics["objective"], -value / 4, rtol=1e-5)


def test_a_configured_table_averages_the_updates_of_a_visit():
    """Rates 1/2, 1/3, 1/4 of natural gradients, from natural_rate = 0.5; Adam's follow the optimizer's schedule."""
    config = configuration.default()
    config.data.update({"num_train": 160, "binarization": "fixed"})
    config.inference.update({"kind": "per_datapoint", "inner_steps": 3, "learning_rate": 0.2})
    setup = setups.make_setup(configuration.validate(config), 1)
    updates = make_table_updates(setup, regularized.elbo)
    rates = [updates.rates(setups.hyperparameters(setup.config), 0, number) for number in range(3)]
    np.testing.assert_allclose(rates, [[1 / 2, 0.2], [1 / 3, 0.2], [1 / 4, 0.2]], rtol=1e-6)
    assert updates.inner_steps == 3 and updates.ascent is setup.model.ascent
    assert updates.objective is not regularized.elbo, "its draws come in pairs"


# ---- devices and epochs


NUM_STEPS = 20  # five epochs of 4 steps, in each of which 6 of the 70 examples are left over


@cache
def run_on(num_devices, kind, batch_size=BATCH):
    """(params, table in the order of examples, program text) after plain SGD for decoder and rows alike."""
    mesh, rows = devices.make_mesh(num_devices), table_updates(plain_table(), 0.3)
    train_step = make_step(kind, optax.sgd(0.05), rows, devices.axis(mesh))
    run = make_run_steps(train_step, NUM_STEPS, batch_size, NUM_EXAMPLES, STREAMS, mesh)
    index = streams.example_index(NUM_EXAMPLES, STREAMS)
    data = devices.put_split(mesh, {"image": streams.to_slots(IMAGE, STREAMS), "index": index})
    state = start_state(kind, True, STREAMS)
    specs = step.STATE_SPECS if state.table else step.STATE_SPECS._replace(table=PartitionSpec())
    state = jax.device_put(state, devices.shardings(mesh, specs))
    arguments = devices.put_replicated(mesh, hyper())
    program = run.lower(arguments, state, data).compile()
    state, _ = program(arguments, state, data)
    return jax.device_get(state.params), by_example(state.table), program.as_text()


def by_example(table):
    return jax.tree.map(lambda column: streams.from_slots(column, NUM_EXAMPLES, STREAMS), table)


@pytest.mark.parametrize("num_devices", [pytest.param(2, marks=SLOW), 4, pytest.param(8, marks=SLOW)])
@pytest.mark.parametrize("kind", ["per_datapoint", "semi_amortized"])
def test_devices_do_not_change_a_run(kind, num_devices):
    """20 steps of plain SGD: the same parameters, the same table and row state, to the order of float32 sums."""
    one, many = run_on(1, kind)[:2], run_on(num_devices, kind)[:2]
    for a, b in zip(*map(jax.tree.leaves, (one, many)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    start = start_state(kind, True, STREAMS)
    before = start.params, jax.tree.leaves(by_example(start.table))
    after = one[0], jax.tree.leaves(one[1])
    assert all(np.abs(a - b).max() > 1e-3 for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("num_devices", [2, 4, 8])
@pytest.mark.parametrize("kind", ["amortized", "per_datapoint"])
def test_a_batch_that_grows_with_the_devices_is_that_batch_on_one(kind, num_devices):
    """Eight examples for each device: 20 steps of plain SGD, a batch of 8 D on D devices and on one; one all-reduce."""
    one, many = run_on(1, kind, 8 * num_devices), run_on(num_devices, kind, 8 * num_devices)
    for a, b in zip(*map(jax.tree.leaves, (one[:2], many[:2])), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert sum(" all-reduce(" in line or " all-reduce-start(" in line for line in many[2].splitlines()) == 1


def test_rows_count_their_own_batches():
    """After five epochs a row's count says how often its example was in a batch: 4 or 5 times, as the order has it."""
    _, table, _ = run_on(4, "per_datapoint")
    index = streams.example_index(NUM_EXAMPLES, STREAMS).reshape(STREAMS, -1)
    expected = np.zeros(NUM_EXAMPLES, int)
    for epoch in range(5):
        order = streams.epoch_order(hyper()["order"], epoch, jnp.asarray(index))
        for number in range(4):
            np.add.at(expected, index.reshape(-1)[streams.batch_slots(order, number, BATCH // STREAMS)], 1)
    count = table.opt_state[1].count
    np.testing.assert_array_equal(count, expected)
    assert count.sum() == NUM_STEPS * BATCH and set(count.tolist()) == {3, 4, 5}


def test_the_table_stays_where_it_is():
    """The compiled program sums gradients over the devices once a step, and moves nothing else between them."""
    _, _, text = run_on(4, "per_datapoint")
    count = lambda name: sum(f" {name}(" in line or f" {name}-start(" in line for line in text.splitlines())
    assert count("all-reduce") == 1
    for name in ("all-gather", "all-to-all", "collective-permute", "reduce-scatter", "collective-broadcast"):
        assert count(name) == 0, name


# ---- whole runs


def tiny(kind, **inference):
    """Four epochs of 5 steps on 160 binarized digits, a checkpoint every two epochs."""
    config = configuration.default()
    config.data.update({"num_train": 160, "binarization": "fixed"})
    config.model.update({"latent_dim": 2, "hidden": (8,)})
    config.train.update({"batch_size": 32, "epochs": 4, "eval_every": 2, "checkpoint_every": 2})
    config.eval.update({"num_samples": 10, "elbo_samples": 4, "max_examples": 40, "train_examples": 160})
    config.eval.chunk_images = 40  # every split in chunks of one size: one compilation
    config.fit.update({"max_steps": 60, "window": 20, "num_samples": 2})
    config.inference.update({"kind": kind, "learning_rate": 0.1, "steps": 2, **inference})
    return configuration.validate(config)


class Killed(BaseException):
    """What a run dies of."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("modes")


@pytest.fixture(scope="module", params=["per_datapoint", pytest.param("semi_amortized", marks=SLOW)])
def run(request, root):
    """(setup, workdir, summary) of a run without a break, and the directory and summary of one killed and resumed.

    Pictures are left out, and all three share one Setup and its compiled programs: only time is saved by that.
    """
    config = tiny(request.param)
    setup = setups.make_setup(config, 2)
    program, whole, broken = make_program(setup), root / request.param, root / f"{request.param}-broken"
    save = checkpoint.save

    def save_or_die(directory, number, state, **options):
        if number > 10:
            raise Killed
        save(directory, number, state, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setups, "make_setup", lambda config, devices: setup)
        patch.setattr(program_module, "make_program", lambda setup: program)
        patch.setattr(train, "draw", lambda *args: {})
        summary = train.train_run(config, whole, 2)
        patch.setattr(checkpoint, "save", save_or_die)
        with pytest.raises(Killed):
            train.train_run(config, broken, 2)
        patch.setattr(checkpoint, "save", save)
        assert checkpoint.latest_step(broken / load.CHECKPOINTS) == 10
        resumed = train.train_run(config, broken, 2)
    return setup, whole, summary, broken, resumed


def last_state(setup, workdir):
    return checkpoint.restore(workdir / load.CHECKPOINTS, setups.abstract_state(setup))


def test_a_run_finishes_with_every_split_measured(run):
    _, workdir, summary, _, _ = run
    assert summary["complete"] and summary["step"] == 20 and set(summary["splits"]) == {"train", "valid", "test"}
    for split in ("train", "test"):
        numbers = summary["splits"][split]
        assert {"elbo", "kl", "log_likelihood", "nll"} <= set(numbers)
        assert all(np.isfinite(entry["value"]) for entry in numbers.values())
    assert -60 < summary["splits"]["test"]["elbo"]["value"] < 0  # 64 fair coins: -44
    assert directory.read_summary(workdir) == summary


def test_a_resumed_run_is_the_run(run):
    """Killed after step 10, resumed: parameters, table, row state and every measured number, bit for bit."""
    setup, workdir, summary, broken, resumed = run
    state, again = last_state(setup, workdir), last_state(setup, broken)
    assert int(state.step) == 20 and (state.table != ()) == (setup.config.inference.kind == "per_datapoint")
    assert_bits(state, again)
    assert resumed["splits"] == summary["splits"]


def test_a_run_loads_without_its_data(run):
    """`load_run` gives the trained parameters; a per-datapoint model has no encoder, and says what to do."""
    setup, workdir, _, _, _ = run
    loaded = load.load_run(workdir)
    assert_bits(loaded.params, last_state(setup, workdir).params)
    x = jnp.zeros((1, 8, 8, 1))
    if setup.config.inference.kind == "per_datapoint":
        with pytest.raises(ValueError, match=r"per_datapoint has no encoder.*fit q_params"):
            loaded.model.encode(loaded.params, x)
    else:
        assert loaded.model.encode(loaded.params, x)["mean"].shape == (1, 2)


def test_train_is_measured_with_the_trained_rows(run):
    """What `train` reports is the ELBO of the rows in the table, far above that of rows as they began."""
    setup, workdir, summary, _, _ = run
    if setup.config.inference.kind != "per_datapoint":
        pytest.skip("no table")
    state, examples = last_state(setup, workdir), setups.split_of(setup, "train", 160)
    found = with_entries(examples, state.table, setup.dataset.info.num_train, configs.num_streams(setup.config))
    for name in NAMES:
        by_example = streams.from_slots(state.table.q_params[name], 160, 8)
        np.testing.assert_array_equal(found["q_params"][name], by_example)
    measure = lambda examples: bounds.bound_numbers(
        setup.model, state.params, examples, setup.config.eval, devices.spread(setup.mesh)
    )["elbo"]["value"]
    assert measure(found) == summary["splits"]["train"]["elbo"]["value"]
    fresh = {name: np.zeros_like(rows) for name, rows in found["q_params"].items()}
    shifted = {name: np.roll(rows, 1, axis=0) for name, rows in found["q_params"].items()}
    assert measure(found) > measure({**examples, "q_params": fresh}) + 0.1
    assert measure(found) > measure({**examples, "q_params": shifted}) + 0.1


@pytest.fixture(scope="module")
def encoder_run(root):
    """The directory of an amortized run with a checkpoint of its first parameters: all that `start = encoder` reads."""
    setup, workdir = setups.make_setup(tiny("amortized"), 2), root / "amortized"
    state = setups.make_init(setup)()
    directory.open_run(workdir, setup.config.to_dict(), setup.dataset.info._asdict(), environments.describe())
    checkpoint.save(workdir / load.CHECKPOINTS, 1, state)
    return setup, workdir, state


@pytest.mark.parametrize("start, ascent", [("zeros", "natural"), ("prior", "adam"), ("encoder", "adam")])
def test_a_table_starts_as_configured(start, ascent, encoder_run, tmp_path):
    """zeros; means from N(0, I) with no two rows alike; the rows that another run's encoder gives the same images."""
    encoder_setup, encoder_dir, encoder_state = encoder_run
    source = str(encoder_dir) if start == "encoder" else ""
    setup = setups.make_setup(tiny("per_datapoint", start=start, encoder_run=source, ascent=ascent), 2)
    table = setups.starting_state(setup, tmp_path).table
    mean, log_std = (streams.from_slots(table.q_params[name], 160, 8) for name in NAMES)
    if start == "zeros":
        assert (mean == 0).all() and (log_std == 0).all()
    if start == "prior":
        assert (log_std == 0).all() and len(np.unique(mean[:, 0])) == 160 and abs(mean.std() - 1) < 0.2
    if start == "encoder":
        x = setup.dataset.train.image.astype(np.float32)
        rows = jax.jit(encoder_setup.model.encode)(jax.device_get(encoder_state.params), x)
        np.testing.assert_allclose(mean, rows["mean"], atol=1e-5)
        np.testing.assert_allclose(log_std, rows["log_std"], atol=1e-5)
    for leaf in jax.tree.leaves(table):
        assert leaf.sharding.is_equivalent_to(devices.split(setup.mesh), leaf.ndim), "each device its own rows"
    if ascent == "adam":
        assert (np.asarray(table.opt_state[0].count) == 0).all() and table.opt_state[0].count.shape == (160,)


def test_what_cannot_work_is_refused_in_one_line():
    for change, message in (
        (
            {"binarization": "dynamic"},
            r"per_datapoint cannot go with data.binarization = dynamic: .*binarization=fixed",
        ),
        ({}, r"start = encoder needs config\.inference\.encoder_run"),
    ):
        config = configuration.default()
        config.data.update({"binarization": "fixed", **change})
        config.inference.update({"kind": "per_datapoint", "start": "zeros" if change else "encoder"})
        with pytest.raises(ConfigError, match=message) as caught:
            configuration.validate(config)
        assert "\n" not in str(caught.value)
