"""Sweeps: every member is the run that vae_jax.main makes alone; directories, waves, failures, resumption, errors."""

import os
import signal
import subprocess
import sys
import time
from functools import cache, partial
from pathlib import Path

import jax
import numpy as np
import pytest

from vae_jax import config as configs
from vae_jax import sweep
from vae_jax.commands import configuration
from vae_jax.commands import train as train_command
from vae_jax.commands.train import train_run
from vae_jax.errors import DeviceError, RunError, TrainingError
from vae_jax.parallel import devices
from vae_jax.runs import checkpoint, directory, load
from vae_jax.training import many_runs, train
from vae_jax.training import setup as setups
from vae_jax.training.program import make_program, training_data

ROOT = Path(__file__).parents[1]


SMALL = {
    "data.num_train": 400,  # 4 steps an epoch
    "model.latent_dim": 2,
    "model.hidden": (8,),
    "objective.name": "beta",
    "objective.schedule": "linear",
    "optimizer.ema": 0.5,
    "train.batch_size": 100,
    "train.epochs": 2,
    "train.eval_every": 1,
    "train.checkpoint_every": 1,
    "train.select": "best",
    "eval.elbo_samples": 2,
    "eval.num_samples": 4,
    "eval.train_examples": 0,
    "eval.max_examples": 97,  # as many as in valid: the same compiled functions serve both
}
MANY = 1 << 40  # bytes
FINISH = partial(train_command.finish, alone=False)


def config_of(**changes):
    """The validated configuration SMALL with changes, written group__key=value."""
    config = configuration.default()
    config.update_from_flattened_dict({**SMALL, **{name.replace("__", "."): v for name, v in changes.items()}})
    return configuration.validate(config)


def members_in(directory, *changes):
    return [many_runs.Member(config_of(**change), directory / str(i)) for i, change in enumerate(changes)]


GRID = [{"seed": seed, "objective__beta": beta} for seed, beta in ((0, 0.5), (0, 4.0), (3, 4.0))]


def train_alone(wanted):
    """The same runs by the ordinary way, each on one device, without pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_command, "draw", lambda *_: {})
        for member in wanted:
            train_run(member.config, member.workdir, 1)
    return wanted


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The three runs of GRID, made one by one. Nobody writes into them."""
    return train_alone(members_in(tmp_path_factory.mktemp("alone"), *GRID))


def require_same(ours, theirs):
    """Two finished runs agree: config, records, final numbers, and every array of every checkpoint to 1e-5."""
    assert directory.read_config(ours) == directory.read_config(theirs)
    for one, other in zip(directory.read_metrics(ours), directory.read_metrics(theirs), strict=True):
        assert one.keys() == other.keys() and one["split"] == other["split"]
        numbers = [
            {name: v for name, v in record.items() if name not in ("split", "seconds")} for record in (one, other)
        ]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-4, abs=1e-6)
    one, other = directory.read_summary(ours), directory.read_summary(theirs)
    assert one.keys() == other.keys() and one["step"] == other["step"] and one["complete"]
    one, other = (configs.flat(summary["splits"]) for summary in (one, other))
    for name, value in other.items():
        assert one[name] == (pytest.approx(value, rel=1e-4, abs=1e-5) if isinstance(value, float) else value), name
    require_same_states(ours, theirs)


def require_same_states(ours, theirs):
    expected, setup = states_of(theirs), setups.make_setup(load.read_config(theirs), 1)
    found = read_states(ours, setups.abstract_state(setup))
    assert found.keys() == expected.keys()
    for saved in expected:
        for one, other in zip(*map(jax.tree.leaves, (found[saved], expected[saved])), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@cache
def states_of(workdir):
    """`read_states` of a run that nobody writes into, read once: most tests compare with the same few runs."""
    return read_states(workdir, setups.abstract_state(setups.make_setup(load.read_config(workdir), 1)))


def read_states(workdir, like):
    """{(folder, step): State} of every checkpoint of a run, and of the best on valid where there are such."""
    folders = [folder for folder in (load.CHECKPOINTS, load.BEST) if (workdir / folder).exists()]
    saved = [(folder, p.name) for folder in folders for p in (workdir / folder).iterdir() if p.name.isdigit()]
    return {(folder, step): checkpoint.restore(workdir / folder, like, int(step)) for folder, step in saved}


# ---- a member is the run made alone


@pytest.mark.parametrize("batching", ["auto", pytest.param("vmap", marks=pytest.mark.slow)])
def test_members_are_the_runs_made_alone(alone, tmp_path, batching):
    """Two seeds, two betas under a schedule, an average, the best on valid: no run depends on those beside it."""
    ours = members_in(tmp_path, *GRID)
    assert many_runs.train_members(ours, many_runs.Options(2, MANY, batching), FINISH) == {}
    for one, other in zip(ours, alone, strict=True):
        require_same(one.workdir, other.workdir)
        files = [{path.name.partition(".tfevents")[0] for path in m.workdir.iterdir()} for m in (one, other)]
        assert files[0] == files[1]
        assert directory.read_summary(one.workdir)["figures"] == {}
    params = [np.concatenate([leaf.ravel() for leaf in leaves(member)]) for member in ours]
    assert min(np.abs(params[i] - params[j]).max() for i in range(3) for j in range(i)) > 1e-3, "three different runs"


def leaves(member):
    return jax.tree.leaves(load.load_run(member.workdir).params)


@pytest.mark.slow
def test_rows_of_their_own(tmp_path):
    """Per-datapoint members: a table for each, under different rates for its rows."""
    rows = {"inference__kind": "per_datapoint", "data__binarization": "fixed", "train__select": "last"}
    short = {
        "train__epochs": 1,
        "fit__max_steps": 4,
        "fit__window": 2,
        "eval__train_examples": 0,
        "optimizer__ema": 0.0,
    }
    changes = [{**rows, **short, "inference__learning_rate": rate} for rate in (0.01, 0.1)]
    ours, theirs = members_in(tmp_path / "ours", *changes), members_in(tmp_path / "theirs", *changes)
    assert many_runs.train_members(ours, many_runs.Options(2, MANY), FINISH) == {}
    for one, other in zip(ours, train_alone(theirs), strict=True):
        require_same(one.workdir, other.workdir)


def test_runs_that_differ_in_traced_keys_alone_are_one_structure(tmp_path):
    changes = [
        {"model__hidden": (width,), "seed": seed, "objective__beta": seed + 1.0} for width in (4, 5) for seed in (0, 1)
    ]
    groups = many_runs.group(members_in(tmp_path, *changes), many_runs.structure)
    assert [[int(member.workdir.name) for member in alike] for alike in groups] == [[0, 1], [2, 3]]


def test_traced_keys_are_not_compiled_in():
    """The program's text is the same whatever their values, and another for another width."""
    options = {"objective__name": "mmd", "optimizer__warmup_steps": 3}
    other = {
        key.replace(".", "__"): 2 for key in setups.TRACED if type(configs.lookup(configuration.default(), key)) is int
    }
    other |= {key.replace(".", "__"): 0.5 for key in setups.TRACED if key.replace(".", "__") not in other}
    texts = []
    for changes in ({}, other, {"model__hidden": (9,)}):
        setup = setups.make_setup(config_of(**{**options, **changes}), 1)
        arguments = setups.hyperparameters(setup.config), setups.abstract_state(setup), training_data(setup)
        texts.append(make_program(setup)(2).lower(*arguments).as_text())
    assert texts[0] == texts[1] != texts[2]


# ---- waves, failures, resumption


def test_waves_that_fit_give_the_same_numbers(alone, tmp_path, capsys, monkeypatch):
    """The limit is what the compiler says that two runs take: three go in two waves, the last with an empty place."""
    ours = members_in(tmp_path, *GRID[:3])
    programs = many_runs.make_programs(ours, many_runs.Options(1))
    need = {size: devices.program_bytes(programs.compiled(size, 4)) for size in (1, 2, 3)}
    assert need[1] < need[2] < need[3]
    assert [many_runs.wave_size(programs, 3, need[size]) for size in need] == [1, 2, 3]
    with pytest.raises(DeviceError, match=r"one run of this sweep needs .* GiB .*--memory=GIB"):
        many_runs.wave_size(programs, 3, need[1] - 1)
    monkeypatch.setattr(many_runs, "make_programs", lambda *_: programs)
    assert many_runs.train_members(ours, many_runs.Options(1, need[2]), FINISH) == {}
    assert "2 of 3 runs on each, in 2 waves" in capsys.readouterr().out
    for one, other in zip(ours, alone, strict=False):
        require_same(one.workdir, other.workdir)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]


def test_a_run_that_diverges_and_one_without_a_result_stop_no_other(alone, tmp_path, capsys):
    """At a rate of 1e38 parameters are no numbers after a step; what a finish raises is its run's own reason; and the
    run beside them is as it is without them."""
    broken, infinite, sound = members_in(tmp_path, {"optimizer__learning_rate": 1e38}, GRID[1], GRID[0])

    def finish(run, state):
        if run.workdir == infinite.workdir:
            raise TrainingError("nll of test is inf")
        return FINISH(run, state)

    failed = many_runs.train_members([broken, infinite, sound], many_runs.Options(1, MANY), finish)
    assert failed.keys() == {broken.workdir, infinite.workdir} and failed[infinite.workdir] == "nll of test is inf"
    assert "not finite at step 2 (of steps 1 to 4)" in failed[broken.workdir]
    assert directory.read_summary(broken.workdir) is None and directory.read_metrics(broken.workdir) == []
    assert checkpoint.latest_step(broken.workdir / load.CHECKPOINTS) is None
    assert f"{broken.workdir} stopped: " in capsys.readouterr().out
    require_same(sound.workdir, alone[0].workdir)


@pytest.mark.slow
def test_stopped_between_two_members_checkpoints_it_goes_on(tmp_path, monkeypatch):
    """One member stands at step 8, one at step 4; each goes on from where it stands. A finished one is left alone."""
    changes, save, saved = [change | {"train__epochs": 3} for change in GRID[:2]], checkpoint.save, []
    ours, alone = members_in(tmp_path / "ours", *changes), train_alone(members_in(tmp_path / "alone", *changes))

    def save_and_stop(directory, step, state, **options):
        save(directory, step, state, **options)
        saved.append(directory)
        if saved.count(ours[0].workdir / load.CHECKPOINTS) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            many_runs.train_members(ours, many_runs.Options(1, MANY), FINISH)
    assert [checkpoint.latest_step(m.workdir / load.CHECKPOINTS) for m in ours] == [8, 4]
    assert many_runs.train_members(ours, many_runs.Options(1, MANY), FINISH) == {}
    for one, other in zip(ours, alone, strict=False):
        require_same(one.workdir, other.workdir)
    before = snapshot(tmp_path / "ours")
    monkeypatch.setattr(many_runs, "train_alike", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(train, "fit", lambda *_: pytest.fail("trained again by main"))
    assert many_runs.train_members(ours, many_runs.Options(1, MANY), FINISH) == {}
    assert train_run(ours[0].config, ours[0].workdir) == directory.read_summary(ours[0].workdir)
    assert snapshot(tmp_path / "ours") == before


def snapshot(directory):
    """What would give away that anything was written."""
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in [directory, *directory.rglob("*")]}


def test_another_run_in_the_way_is_refused_before_anything_is_begun(tmp_path):
    first, second = members_in(tmp_path, {"seed": 0}, {"seed": 1})
    directory.open_run(second.workdir, config_of(seed=7).to_dict(), {}, {})
    with pytest.raises(RunError, match="seed 7 -> 1"):
        many_runs.train_members([first, second], many_runs.Options(), FINISH)
    assert not first.workdir.exists()


# ---- the command


@pytest.fixture
def swept(in_process):
    """swept(*arguments) -> `in_process` of the sweep command."""
    return partial(in_process, sweep)


DIGITS = "--config=experiments/digits.py:two_quick"
TINY = (
    DIGITS,
    "--config.model.hidden=8",
    "--config.train.epochs=1",
    "--config.eval.elbo_samples=2",
    "--config.eval.num_samples=4",
    "--config.eval.train_examples=0",
)


@pytest.mark.slow
def test_a_width_takes_a_program_of_its_own(swept, tmp_path):
    """Structural and traced keys together: the directories of vae_jax.main, and a line of numbers for each run."""
    wide = [argument for argument in TINY if "hidden" not in argument]
    asked = "--sweep.model.hidden=4,6x5", "--sweep.seed=0:2"
    status, out, err = swept(*wide, *asked, f"--workdir={tmp_path}", "--devices=1")
    assert status == 0, err
    rest = "digits-two_quick-epochs=1-hidden={}-seed={}"  # keys of eval make no other run
    directories = [tmp_path / rest.format(hidden, seed) for hidden in ("4", "6,5") for seed in (0, 1)]
    assert sorted(tmp_path.iterdir()) == sorted(directories)
    for workdir, hidden in zip(directories, [(4,), (4,), (6, 5), (6, 5)], strict=True):
        loaded = load.load_run(workdir)
        assert loaded.config.model.hidden == hidden and str(workdir) in out
        assert loaded.config.seed == int(str(workdir)[-1])
    assert out.startswith("sweep      4 runs: model.hidden (4,),(6, 5), seed 0,1\n") and out.count("nll") == 4


def test_members_stand_where_main_would_put_them(swept, monkeypatch):
    monkeypatch.setattr(many_runs, "train_members", lambda runs, *_: asked.extend(runs) or {})
    monkeypatch.setattr(sweep, "table", lambda workdirs: "")
    asked = []
    assert swept(*TINY, "--sweep.objective.beta=1,4", "--config.objective.name=beta")[0] == 0
    spelled = {"model.hidden": (8,), "train.epochs": 1, "objective.name": "beta"}
    expected = [directory.default_workdir(DIGITS[9:], {**spelled, "objective.beta": beta}) for beta in (1.0, 4.0)]
    assert [str(member.workdir) for member in asked] == expected
    assert [member.config.objective.beta for member in asked] == [1.0, 4.0]


def test_a_weight_without_a_part_in_the_objective_is_noted(swept, monkeypatch):
    monkeypatch.setattr(many_runs, "train_members", lambda *_: {})
    monkeypatch.setattr(sweep, "table", lambda workdirs: "")
    _, out, _ = swept(DIGITS, "--sweep.objective.beta=1,4")
    assert "note       objective.beta has no part in objective.name = elbo" in out
    assert "note" not in swept(DIGITS, "--sweep.objective.beta=1,4", "--config.objective.name=beta")[1]
    assert "note" not in swept(DIGITS, "--sweep.objective.beta=1,4", "--sweep.objective.name=beta,capacity")[1]


def test_a_dry_run_lists_directories(swept, monkeypatch, tmp_path):
    monkeypatch.setenv("DRY_RUN", "1")
    monkeypatch.setattr(many_runs, "train_members", lambda *_: pytest.fail("trained"))
    status, out, _ = swept(DIGITS, "--sweep.seed=0:2", f"--workdir={tmp_path}")
    assert status == 0 and out.count(f"  {tmp_path}/") == 2 and not any(tmp_path.iterdir())


def test_a_failure_is_told_at_the_end_in_one_line(swept, monkeypatch, tmp_path):
    monkeypatch.setattr(many_runs, "train_members", lambda runs, *_: {runs[1].workdir: "not finite"})
    monkeypatch.setattr(sweep, "table", lambda workdirs: f"{len(workdirs)} finished")
    status, out, err = swept(DIGITS, "--sweep.seed=0:3", f"--workdir={tmp_path}")
    assert status == 2 and "2 finished" in out and err.count("\n") == 1
    assert err.startswith("error: 1 of 3 runs stopped") and "seed=1: not finite" in err


@pytest.mark.parametrize(
    "arguments, parts",
    [
        ((), ("--sweep.KEY=VALUES is missing",)),
        (("--sweep.sed=0:2",), ("config.sed does not exist: did you mean config.seed?",)),
        (("--sweep.objective=1",), ("config.objective does not exist",)),
        (("--sweep.seed=0.5",), ("config.seed = '0.5': expected an integer",)),
        (("--sweep.seed=",), ("config.seed = '': expected an integer",)),
        (("--sweep.seed",), ("config.seed = '': expected an integer",)),
        (("--sweep.seed=3:3",), ("--sweep.seed=3:3: an empty range",)),
        (("--sweep.seed=1,2,1",), ("a value is there twice",)),
        (("--sweep.seed=0:2", "--sweep.seed=4"), ("config.seed is given twice",)),
        (("--sweep.seed=0:2", "--config.seed=4"), ("config.seed is given twice",)),
        (("--sweep.seed=-1:2",), ("config.seed = -1: expected an integer in",)),
        (("--sweep.objective.beta=1,x",), ("config.objective.beta = 'x': expected a number",)),
        (("--sweep.objective.beta=nan",), ("config.objective.beta = nan: expected a number >= 0",)),
        (("--sweep.model.hidden=8x,4",), ("config.model.hidden = '8x': expected integers joined by x",)),
        (("--sweep.model.prior=vamp,sphere",), ("config.model.prior = 'sphere'", "standard_normal, mixture, vamp")),
        (("--sweep.inference.stop_gradient=1",), ("config.inference.stop_gradient = '1': expected true or false",)),
        (("--sweep.eval.num_samples=1,2",), ("no run is another run by this key",)),
        (("--sweep.seed=0:2", "--devices=9"), ("--devices=9: only 8",)),
        (("--sweep.seed=0:2", "more"), ("unexpected argument 'more'",)),
        (("--sweep.seed=0:2", "--memory=-1"), ("memory",)),
        (("--sweep.seed=0:2", "--config.nothing=1"), ("config.nothing does not exist",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_mistake_is_one_line(swept, tmp_path, arguments, parts):
    status, _, err = swept(DIGITS, f"--workdir={tmp_path / 'runs'}", *arguments)
    assert status == 2 and err.startswith("error: ") and err.count("\n") == 1, err
    for part in parts:
        assert part in err, err
    assert not (tmp_path / "runs").exists()


def test_without_a_config_it_says_so(swept):
    assert swept("--sweep.seed=0:2")[2] == "error: --config is missing; for example --config=experiments/digits.py\n"


def test_help_is_about_the_sweep(swept):
    status, out, _ = swept("--help")
    assert status == 0 and "--sweep.seed=0:16" in out and "--batching" in out and "--config.objective.beta" in out


def test_values_have_the_type_of_their_key():
    assert sweep.read_values("seed", "3:5", 0) == [3, 4]
    assert sweep.read_values("objective.beta", "0.5,1,1e1", 1.0) == [0.5, 1.0, 10.0]
    assert sweep.read_values("objective.beta", "1:3", 1.0) == [1.0, 2.0]
    assert sweep.read_values("model.hidden", "16,32x8", (200,)) == [(16,), (32, 8)]
    assert sweep.read_values("inference.stop_gradient", "true,False", False) == [True, False]
    assert sweep.read_values("init_from", "a@1:2", "") == ["a@1:2"]
    assert sweep.combinations({"a": [1, 2], "b": [3, 4]}) == [{"a": a, "b": b} for a in (1, 2) for b in (3, 4)]


def test_every_core_is_a_device_unless_told_otherwise():
    code = "from vae_jax.parallel import devices; devices.use_cores(); import jax; print(jax.device_count())"
    unset = ("NPROC", "PJRT_NPROC", "XLA_FLAGS", "JAX_NUM_CPU_DEVICES")
    kept = {name: value for name, value in os.environ.items() if name not in unset} | {"JAX_PLATFORMS": "cpu"}
    told = ({}, {"JAX_NUM_CPU_DEVICES": "3"}, {"XLA_FLAGS": "--xla_force_host_platform_device_count=5"})
    counts = [
        int(subprocess.run([sys.executable, "-c", code], env=kept | more, capture_output=True, check=True).stdout)
        for more in told
    ]
    assert counts == [os.cpu_count() if not hasattr(os, "sched_getaffinity") else len(os.sched_getaffinity(0)), 3, 5]


@pytest.mark.slow
def test_a_killed_sweep_goes_on_to_the_same_numbers(tmp_path):
    """SIGKILL once a checkpoint of the last member is there; the second start ends where an unbroken sweep does."""
    variables = {name: value for name, value in os.environ.items() if name not in ("NPROC", "PJRT_NPROC", "XLA_FLAGS")}
    variables |= {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    options = ("--config.train.epochs=400", "--config.train.checkpoint_every=40", "--config.train.log_every=56")
    asked = (*TINY, *options, "--sweep.seed=0:3", "--devices=2")

    def start(workdir):
        line = [sys.executable, "-m", "vae_jax.sweep", *asked, f"--workdir={workdir}"]
        return subprocess.Popen(line, cwd=ROOT, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process, seen = start(killed), lambda: any(killed.glob("*seed=2/checkpoints/*/_METADATA"))
    while not seen() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not any(killed.glob("*/summary.json"))
    for workdir in (killed, whole):
        process = start(workdir)
        assert process.wait() == 0, process.stderr.read()
        process.stderr.close()
    names = sorted(path.name for path in whole.iterdir())
    assert len(names) == 3
    for name in names:
        require_same(killed / name, whole / name)
