"""Training in this process: windows, cadences, devices, divergence, a start from old parameters, the best of a run."""

import os
import re
import shutil
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import config as configs
from vae_jax import console
from vae_jax.commands import configuration
from vae_jax.commands import train as command
from vae_jax.commands.train import train_run
from vae_jax.errors import ConfigError, Stopped, TrainingError
from vae_jax.parallel import devices
from vae_jax.reports import page
from vae_jax.runs import checkpoint, directory, load
from vae_jax.training import optimizer, train
from vae_jax.training import setup as setups
from vae_jax.training.optimizer import OPTIMIZERS

SMALL = {
    "data.num_train": 400,  # 4 steps an epoch
    "model.latent_dim": 2,
    "model.hidden": (8,),
    "train.batch_size": 100,
    "train.epochs": 4,
    "train.eval_every": 1,
    "train.checkpoint_every": 2,
    "eval.elbo_samples": 2,
    "eval.num_samples": 10,
    "eval.train_examples": 0,
    "figures.count": 4,
}
SGD = {"optimizer__name": "sgd", "optimizer__momentum": 0.0, "optimizer__learning_rate": 0.02}


def small(**changes):
    """The validated configuration SMALL with changes, written group__key=value."""
    config = configuration.default()
    for field, value in {**SMALL, **{name.replace("__", "."): value for name, value in changes.items()}}.items():
        group, _, name = field.rpartition(".")
        owner = configs.lookup(config, group) if group else config
        owner[name] = value
    return configuration.validate(config)


NOTHING = {"splits": {"test": {"elbo": {"value": 0.0, "unit": "nats"}}}}


@pytest.fixture
def fit_only(monkeypatch):
    """train_run ends where the last step is done: nothing is measured, drawn or reported."""
    monkeypatch.setattr(command, "finish", lambda *_: NOTHING)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The directory of a run of SMALL by plain SGD on one device, as `fit_only` leaves it. Nobody writes into it."""
    workdir = tmp_path_factory.mktemp("plain") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "finish", lambda *_: NOTHING)
        train_run(small(**SGD), workdir, 1)
    return workdir


def params_at(workdir, step=None):
    """The parameters in a checkpoint, leaf by leaf."""
    setup = setups.make_setup(load.read_config(workdir), 1)
    like = {"params": setups.abstract_state(setup).params}
    return jax.tree.leaves(checkpoint.restore(workdir / "checkpoints", like, step, partial=True))


def steps_of(workdir, split):
    return [record["step"] for record in directory.read_metrics(workdir) if record["split"] == split]


def saved_at(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def train_records(workdir):
    return [record for record in directory.read_metrics(workdir) if record["split"] == "train"]


def test_windows_need_not_divide_epochs_nor_cadences_the_run(plain, fit_only, tmp_path):
    """Windows of 12 steps in 16, epochs of 4: what is due in the middle of a window is done at its end."""
    cut = tmp_path / "cut"
    assert steps_of(plain, "train") == steps_of(plain, "valid") == [4, 8, 12, 16]
    assert saved_at(plain) == [8, 16]
    train_run(small(train__log_every=12, train__checkpoint_every=1, **SGD), cut, 1)
    assert steps_of(cut, "train") == steps_of(cut, "valid") == saved_at(cut) == [12, 16]
    for ours, theirs in zip(params_at(cut), params_at(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_cadence_is_crossed_once():
    """In windows of 5 steps, multiples of 8 are 8, 16 and 24, so 10, 20 and 25; the last step counts in any case."""
    ends = range(5, 31, 5)
    assert [done for done in ends if train.crossed(8, done - 5, done, 30)] == [10, 20, 25, 30]
    assert [done for done in ends if train.crossed(2, done - 5, done, 30)] == [*ends]
    assert [done for done in ends if train.crossed(100, done - 5, done, 30)] == [30]


def test_saved_on_two_devices_resumed_on_four_it_is_the_run_of_one(plain, fit_only, tmp_path, monkeypatch):
    """To the order of float32 sums, with plain SGD; the stop is right after the first checkpoint."""
    moved, config = tmp_path / "moved", small(**SGD)
    monkeypatch.setattr(train, "bound_on", lambda *_: {"elbo": {"value": 0.0, "stderr": None, "unit": "nats"}})
    save = checkpoint.save

    def save_and_stop(*arguments, **options):
        save(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train_run(config, moved, 2)
    assert checkpoint.latest_step(moved / "checkpoints") == 8 and steps_of(moved, "train") == [4, 8]
    train_run(config, moved, 4)
    assert directory.read_environment(moved)["devices"].startswith("8 x")
    for ours, theirs, start in zip(params_at(moved), params_at(plain), params_at(plain, 8), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
        assert np.abs(ours - start).max() > 1e-4, "nothing moved"
    for ours, theirs in zip(train_records(moved), train_records(plain), strict=True):
        assert ours["step"] == theirs["step"] and ours["elbo"] == pytest.approx(theirs["elbo"], rel=1e-5)


def test_a_changeable_key_measures_the_same_parameters_anew(plain, tmp_path, monkeypatch):
    """A finished run with another eval.num_samples trains no further; one test record stays, the change is on file."""
    measured = lambda model, params, examples, config, *_: {
        "nll": {"value": 1.0, "unit": "nats", "num_samples": config.eval.num_samples}
    }
    monkeypatch.setattr(command, "measure_all", measured)
    monkeypatch.setattr(command, "draw", lambda *_: {})
    workdir = shutil.copytree(plain, tmp_path / "run")
    train_run(small(**SGD), workdir, 1)  # no step is left: it is finished
    before = params_at(workdir), directory.read_metrics(workdir)
    summary = train_run(small(eval__num_samples=20, **SGD), workdir, 1)
    assert summary["splits"]["test"]["nll"]["num_samples"] == 20
    for ours, theirs in zip(params_at(workdir), before[0], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert directory.read_metrics(workdir) == before[1] and steps_of(workdir, "test") == [16]
    assert directory.read_config(workdir)["eval"]["num_samples"] == 20
    assert (workdir / "config_history.jsonl").exists() and (workdir / "report.html").exists()


def test_divergence_stops_with_the_window_and_a_way_on(fit_only, tmp_path):
    """SGD at a rising rate explodes: the window is named, checkpoints stay, and --init_from goes on from one."""
    broken, mended = tmp_path / "broken", tmp_path / "mended"
    exploding = {"optimizer__learning_rate": 20.0, "optimizer__warmup_steps": 1000, "optimizer__momentum": 0.0}
    cadence = {"train__log_every": 8, "train__checkpoint_every": 8, "train__eval_every": 100, "data__num_train": 100}
    config = small(optimizer__name="sgd", train__epochs=80, **exploding, **cadence)
    with pytest.raises(TrainingError) as stopped:
        train_run(config, broken, 1)
    message = str(stopped.value)
    step, first, last, saved = map(
        int, re.search(r"not finite at step (\d+) \(of steps (\d+) to (\d+)\).*@(\d+)", message).groups()
    )
    assert first <= step <= last == first + 7 and saved == first - 1 == checkpoint.latest_step(broken / "checkpoints")
    assert "\n" not in message and f"--init_from={broken}@{saved}" in message and "learning_rate" in message
    assert all(np.isfinite(leaf).all() for leaf in params_at(broken))
    assert steps_of(broken, "train")[-1] == saved and not (broken / "summary.json").exists()
    kept = sorted((broken / "checkpoints").iterdir())

    calm = {**exploding, "optimizer__learning_rate": 0.1}
    source = f"{broken}@{saved}"
    train_run(small(optimizer__name="sgd", train__epochs=8, init_from=source, **calm, **cadence), mended, 1)
    assert steps_of(mended, "train") == [8] and np.isfinite(train_records(mended)[0]["objective"])
    assert sorted((broken / "checkpoints").iterdir()) == kept


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_saves_the_steps_under_way_and_the_same_command_goes_on(
    plain, fit_only, tmp_path, monkeypatch, number
):
    """Between two checkpoints; what follows is the run that nobody has stopped, to the last bit."""
    own, write = tmp_path / "run", train.log_training
    before = signal.signal(number, signal.default_int_handler)  # in the background SIGINT is ignored

    def write_and_stop(runs, metrics, done, *rest):
        write(runs, metrics, done, *rest)
        if done == 4:
            os.kill(os.getpid(), number)
            time.sleep(0.3)  # until the thread that listens has heard

    with monkeypatch.context() as patch:
        patch.setattr(train, "log_training", write_and_stop)
        with pytest.raises(Stopped, match=r"after step 4 of 16, which is saved: the same command") as stopped:
            train_run(small(**SGD), own, 1)
    signal.signal(number, before)
    assert stopped.value.signal == number and checkpoint.latest_step(own / "checkpoints") == 4
    train_run(small(**SGD), own, 1)
    assert steps_of(own, "train") == steps_of(plain, "train") and steps_of(own, "valid") == steps_of(plain, "valid")
    for ours, theirs in zip(params_at(own), params_at(plain), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_run_that_cannot_fit_is_refused_before_it_compiles(tmp_path, monkeypatch):
    """By what a step must at least hold: here one decoded batch of a hundred draws with its gradient."""
    monkeypatch.setattr(devices, "free_bytes", lambda mesh: 2 * 4 * 100 * 100 * 64)
    config = small(train__batch_size=100, objective__name="iwae", objective__num_samples=100)
    with pytest.raises(ConfigError, match=r"needs at least 0\.0\d+ GiB on each device, where 0\.00477 are free"):
        train_run(config, tmp_path / "run", 1)
    assert not (tmp_path / "run").exists()


def test_the_last_update_is_checked(fit_only, tmp_path):
    """One step at a rate of 1e38: its loss and gradient are finite, what it leaves is not."""
    sharp = {"data__binarization": "none", "model__likelihood": "normal", "model__sigma": 0.01}
    broken = sharp | {
        "optimizer__name": "sgd",
        "optimizer__learning_rate": 1e38,
        "data__num_train": 100,
        "train__epochs": 1,
    }
    with pytest.raises(TrainingError, match=r"the parameters are not finite after step 1: start anew .*learning_rate"):
        train_run(small(**broken, train__checkpoint_every=1), tmp_path / "run", 1)
    assert checkpoint.latest_step(tmp_path / "run" / "checkpoints") is None


def test_a_density_that_overflows_is_not_blamed_on_the_rate(fit_only, tmp_path):
    sharp = {"data__binarization": "none", "model__likelihood": "normal", "model__sigma": 1e-30}
    with pytest.raises(
        TrainingError, match=r"^log p\(x\|z\) is not finite at step 1 .*config\.model\.sigma"
    ) as stopped:
        train_run(small(**sharp), tmp_path / "run", 1)
    assert "learning_rate" not in str(stopped.value)


def test_a_number_that_is_none_is_no_result(tmp_path, monkeypatch):
    """It is named, the run is not complete, and what was measured can be read."""
    measure = command.measure_all
    infinite = {"nll": {"value": np.inf, "stderr": None, "unit": "nats"}}
    monkeypatch.setattr(command, "measure_all", lambda *rest: measure(*rest) | infinite)
    monkeypatch.setattr(command, "draw", lambda *_: {})
    with pytest.raises(TrainingError, match=r"run, step 4: nll of test is inf: no result, and the run is not complete"):
        train_run(small(train__epochs=1), tmp_path / "run", 1)
    summary = directory.read_summary(tmp_path / "run")
    assert not summary["complete"] and summary["splits"]["test"]["elbo"]["value"] < 0


def test_pictures_that_fail_leave_a_finished_run_with_a_note(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise ZeroDivisionError("a figure\nof no size")

    monkeypatch.setattr(command, "draw", fail)
    summary = train_run(small(train__epochs=1), tmp_path / "run", 1)
    assert summary["complete"] and summary["figures"] == {} and (tmp_path / "run" / "report.html").exists()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note:")]
    assert "ZeroDivisionError: a figure of no size; python -m vae_jax.report --figures" in line


def test_init_from_starts_at_step_0_from_the_old_parameters(plain, fit_only, tmp_path):
    """At rate 0 a run keeps what it started from, so its records measure just that."""
    old, new, fresh = plain, tmp_path / "new", tmp_path / "fresh"
    still = SGD | {"optimizer__learning_rate": 0.0, "train__epochs": 1}
    train_run(small(init_from=str(old), **still), new, 1)
    train_run(small(**still), fresh, 1)
    for ours, theirs in zip(params_at(new), params_at(old), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    old_elbo, new_elbo, fresh_elbo = (valid_elbos(workdir)[-1] for workdir in (old, new, fresh))
    assert new_elbo == pytest.approx(old_elbo, rel=1e-6) and new_elbo > fresh_elbo + 0.1
    assert steps_of(new, "train") == [4]
    assert train_records(new)[0]["objective"] > train_records(fresh)[0]["objective"] + 0.1


def test_init_from_names_a_step_and_starts_the_average_there(plain, tmp_path):
    setup = setups.make_setup(small(optimizer__ema=0.5, init_from=f"{plain}@8", **SGD), 1)
    state = setups.starting_state(setup, tmp_path / "nowhere")
    assert int(state.step) == 0
    for ours, ema, theirs in zip(*map(jax.tree.leaves, (state.params, state.ema)), params_at(plain, 8), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(ema, theirs)


def valid_elbos(workdir):
    return [record["elbo"] for record in directory.read_metrics(workdir) if record["split"] == "valid"]


def test_the_best_average_on_valid_is_what_is_measured(tmp_path, monkeypatch):
    """Adam on 100 images overfits: the best valid ELBO lies before the end; its averaged parameters are reported."""
    workdir = tmp_path / "run"
    monkeypatch.setattr(command, "measure_all", lambda *_: {})
    monkeypatch.setattr(command, "draw", lambda *_: {})
    monkeypatch.setattr(page, "write_report", lambda *_: None)
    overfitting = {"data__num_train": 100, "model__hidden": (64,), "optimizer__learning_rate": 3e-2}
    cadence = {"train__epochs": 120, "train__eval_every": 10, "train__checkpoint_every": 50, "train__log_every": 10}
    config = small(train__select="best", optimizer__ema=0.5, **overfitting, **cadence)
    summary = train_run(config, workdir, 1)
    valid = {record["step"]: record["elbo"] for record in directory.read_metrics(workdir) if record["split"] == "valid"}
    best = max(valid, key=valid.get)
    assert best < 120 and summary["step"] == best and summary["selected"] == "best"
    assert summary["splits"]["valid"]["elbo"]["value"] == pytest.approx(valid[best], rel=1e-6)
    setup = setups.make_setup(config, 1)
    state = checkpoint.restore(workdir / "checkpoints" / "best", setups.abstract_state(setup))
    assert int(state.step) == best
    loaded = load.load_run(workdir).params
    different = []
    for ours, ema, params in zip(*map(jax.tree.leaves, (loaded, state.ema, state.params)), strict=True):
        np.testing.assert_array_equal(ours, ema)
        different.append(np.abs(ema - params).max())
    assert max(different) > 1e-3


def test_a_terminal_shows_epoch_objective_elbo_speed_and_time_left(fit_only, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    train_run(small(train__epochs=3, **SGD), tmp_path / "run", 1)
    shown = re.sub(r"\033\[[\d]*\w", "", capsys.readouterr().out).replace("\r", "\n")
    wanted = r"epoch 2/3, objective -\d+\.\d\d, ELBO -\d+\.\d\d, [\d,]+ examples/s, \d+:\d\d left"
    assert re.search(wanted, shown), shown
    assert shown.count(", valid: elbo") == 3


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_moves_every_parameter_finitely(name):
    """Two updates of a model's own parameters, whose matrices and vectors muon treats apart."""
    config = small(
        optimizer__name=name, optimizer__schedule="cosine", optimizer__clip_norm=1.0, optimizer__weight_decay=1e-4
    ).optimizer
    rng, shapes = np.random.default_rng(0), {"hidden": {"kernel": (6, 4), "bias": (4,)}, "log_std": {"bias": (3,)}}
    draw = lambda: jax.tree.map(lambda s: jnp.float32(rng.normal(size=s)), shapes, is_leaf=lambda s: type(s) is tuple)
    transform, params = optimizer.make_optimizer(config), draw()
    learning_rate, state = optimizer.make_learning_rate(config, 2), transform.init(params)
    hyper = {"learning_rate": jnp.float32(0.1), "warmup_steps": jnp.float32(0.0)}
    moved = params
    for step in range(2):
        updates, state = transform.update(draw(), state, moved)
        moved = jax.tree.map(lambda p, u, step=step: p + learning_rate(hyper, step) * u, moved, updates)
    for before, after in zip(*map(jax.tree.leaves, (params, moved)), strict=True):
        assert np.isfinite(after).all() and np.abs(after - before).max() > 1e-3


def test_every_foreseen_error_is_one_line_for_the_shell(monkeypatch, capsys):
    """TrainingError too: `fail` folds whatever message into one line."""
    with pytest.raises(SystemExit) as exit:
        console.fail(TrainingError("two\nlines"))
    assert exit.value.code == 2 and capsys.readouterr().err == "error: two lines\n"
