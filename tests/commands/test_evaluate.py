"""`--mode=evaluate`, `sample`, `encode` and `decode` on run directories: what they print, leave and refuse."""

import json
import shutil

import numpy as np
import pytest

from vae_jax.commands import arrays, configuration, diagnose, evaluate, train
from vae_jax.errors import ConfigError, DataError, RunError, TrainingError
from vae_jax.runs import directory, load

TWO = {"model.latent_dim": 2}
KINDS = {
    "amortized": TWO,
    "per_datapoint": TWO | {"inference.kind": "per_datapoint", "data.binarization": "fixed"},
    "conditional": {"model.latent_dim": 3, "data.condition": "label", "model.prior": "conditional"},
    "completing": {"model.latent_dim": 3, "data.condition": "upper"},
    "regressor": {"model.latent_dim": 0, "data.condition": "upper"},
    "autoencoder": {"model.latent_dim": 3, "model.posterior": "dirac", "objective.name": "autoencoder"},
}
PICTURES = {"latent", "interpolations", "traversals", "neighbours", "posterior", "aggregate", "kl", "manifold"}
PICTURES |= {"bits", "estimates", "off_manifold"}
MISSING = {
    "conditional": {"manifold"},
    "completing": {"manifold"},
    "regressor": PICTURES,
    "autoencoder": {"posterior", "aggregate", "kl", "manifold", "bits", "estimates"},
}
DRAWN_TOO = {"conditional": {"samples"}, "completing": {"completions"}, "regressor": {"completions"}}


@pytest.fixture(scope="module")
def run(small_run):
    """run(kind) -> the directory of a small trained run."""
    return lambda kind: small_run(kind, KINDS[kind])


@pytest.mark.parametrize("kind", ["amortized", *(pytest.param(k, marks=pytest.mark.slow) for k in list(KINDS)[1:])])
def test_everything_is_measured_printed_saved_and_drawn(run, kind, capsys):
    """What the run measured at its end stays as it was to the last digit; more numbers and every picture come to it.

    In the slow suite measured twice, which changes nothing.
    """
    workdir = run(kind)
    before = directory.read_summary(workdir)["splits"]
    evaluate.evaluate(workdir, {}, 1)
    shown, once = capsys.readouterr().out, directory.read_summary(workdir)
    for split in ("train", "test"):
        assert before[split].items() <= once["splits"][split].items()
        assert "squared_error" in once["splits"][split]
    numbers = once["splits"]["test"]
    with_z = kind != "regressor"
    assert ("linear_probe_accuracy" in numbers) == ("knn_accuracy" in numbers) == with_z
    assert ("linear_probe_accuracy" if with_z else "squared_error") in shown
    assert ("mutual_information" in numbers) == (with_z and kind != "autoencoder")
    assert ("kl_aggregate" in numbers) == (with_z and kind not in ("autoencoder", "conditional"))
    assert ("log_px_from_prior" in numbers) == (with_z and kind != "autoencoder")
    kinds = once["splits"].get("off_manifold", {})
    assert {"uniform noise", "pixels permuted"} <= set(kinds) or not with_z
    assert all(entry["stderr"] > 0 for entry in kinds.values())
    drawn = (PICTURES - MISSING.get(kind, set())) | DRAWN_TOO.get(kind, set())
    assert drawn <= set(once["figures"])
    assert all((workdir / "figures" / f"{name}.png").stat().st_size > 3000 for name in drawn)
    assert ("I(x; z)" in (workdir / "report.html").read_text()) == ("mutual_information" in numbers)
    if kind != "amortized":
        evaluate.evaluate(workdir, {}, 1)
        assert directory.read_summary(workdir) == once


def test_samples_and_codes_and_back(run, tmp_path):
    """sample -> x, encode(x) -> mean, decode(mean) -> the same as from Python in three lines."""
    workdir = run("amortized")
    arrays.write_samples(workdir, str(tmp_path / "s.npz"), 5)
    arrays.write_samples(workdir, str(tmp_path / "s.png"), 5)
    drawn = arrays.read(tmp_path / "s.npz")
    assert {name: array.shape for name, array in drawn.items()} == {
        "z": (5, 2),
        "mean": (5, 8, 8, 1),
        "x": (5, 8, 8, 1),
    }
    assert (tmp_path / "s.png").read_bytes()[:4] == b"\x89PNG" and set(np.unique(drawn["x"])) <= {0, 1}
    np.savez(tmp_path / "x.npz", x=np.uint8(16 * drawn["x"]))  # as stored: digits go from 0 to 16
    arrays.write_codes(workdir, str(tmp_path / "z.npz"), str(tmp_path / "x.npz"))
    codes = arrays.read(tmp_path / "z.npz")
    loaded = load.load_run(workdir)
    rows = loaded.model.encode(loaded.params, drawn["x"].astype(np.float32))
    for name, expected in {"mean": rows["mean"], "q_mean": rows["mean"], "q_log_std": rows["log_std"]}.items():
        np.testing.assert_allclose(codes[name], expected, rtol=1e-5, atol=1e-6)
    arrays.write_decoded(workdir, str(tmp_path / "d.npz"), str(tmp_path / "z.npz"))  # what encode wrote
    np.savez(tmp_path / "c.npz", z=codes["mean"])
    arrays.write_decoded(workdir, str(tmp_path / "e.npz"), str(tmp_path / "c.npz"))
    np.testing.assert_array_equal(arrays.read(tmp_path / "d.npz")["x"], arrays.read(tmp_path / "e.npz")["x"])
    expected = loaded.model.decode(loaded.params, codes["mean"][None]).mean[0]
    np.testing.assert_allclose(arrays.read(tmp_path / "d.npz")["mean"], expected, rtol=1e-5)


@pytest.mark.slow
def test_a_run_without_an_encoder_fits_rows_and_one_with_labels_takes_them_in_turn(run):
    x = np.random.default_rng(0).integers(0, 2, (3, 8, 8, 1)).astype(np.uint8)
    assert arrays.encode(load.load_run(run("per_datapoint")), {"x": x})["mean"].shape == (3, 2)
    loaded = load.load_run(run("conditional"))
    np.testing.assert_array_equal(arrays.conditions(loaded, 12, {}).argmax(1), [*range(10), 0, 1])
    assert arrays.sample(loaded, 12, {})["mean"].shape == (12, 8, 8, 1)


def test_a_number_that_is_none_is_not_printed_as_a_result(run, monkeypatch, capsys):
    infinite = {"test": {"nll": {"value": np.inf, "stderr": None, "unit": "nats"}}}
    monkeypatch.setattr(evaluate, "measure_and_draw", lambda *_: (infinite, {}))
    before = directory.read_summary(run("amortized"))
    with pytest.raises(TrainingError, match="nll of test is inf"):
        evaluate.evaluate(run("amortized"), {}, 1)
    assert "inf" not in capsys.readouterr().out and directory.read_summary(run("amortized")) == before


def test_data_that_were_replaced_are_refused(trained_run, config_of, tmp_path, command):
    """Other images in the same place have another sum: neither a resume nor a mode takes them for those of the run."""
    workdir = shutil.copytree(trained_run(TWO), tmp_path / "run")
    sums = {"sums": {"images": "of others"}}
    (workdir / directory.DATA).write_text(json.dumps(directory.read_data(workdir) | sums))
    status, _, err = command("--mode=evaluate", f"--workdir={workdir}")
    assert status == 2 and len(err.splitlines()) == 1 and "begun with other data: images of others, now " in err
    with pytest.raises(RunError, match="begun with other data: images of others, now "):
        train.train_run(config_of(TWO | {"eval.num_samples": 7}), workdir, 1)


def test_what_does_not_fit_is_named(run, untrained_run, tmp_path):
    loaded = load.load_run(run("amortized"))
    with pytest.raises(DataError, match="no array 'x', only z"):
        arrays.encode(loaded, {"z": np.zeros((2, 2))})
    with pytest.raises(DataError, match=r"'x' has shape \[2, 8, 8\], expected \[N, 8, 8, 1\]"):
        arrays.encode(loaded, {"x": np.zeros((2, 8, 8))})
    with pytest.raises(DataError, match="2 conditions for 3"):
        arrays.conditions(load.load_run(untrained_run(KINDS["conditional"])), 3, {"condition": np.zeros((2, 10))})
    with pytest.raises(DataError, match=r"not a readable \.npz"):
        arrays.read(tmp_path / "none.npz")
    with pytest.raises(DataError, match=r"expected FILE\.npz"):
        arrays.write(tmp_path / "a.txt", {"z": np.zeros(2)})


WRONG = {
    "nan": (np.nan, r"--data: x has 1 values that are NaN or infinite"),
    "infinite": (np.inf, r"--data: x has 1 values that are NaN or infinite"),
    "too large": (255.0, r"'x' has values in \[0, 255\], the run was trained on images in \[0, 16\]"),
    "negative": (-1.0, r"'x' has values in \[-1, 0\]"),
}


@pytest.mark.parametrize("case", WRONG)
def test_images_that_no_run_of_digits_was_trained_on_are_refused(run, case):
    value, message = WRONG[case]
    x = np.zeros((2, 8, 8, 1))
    x[1, 2, 3, 0] = value
    with pytest.raises(DataError, match=message):
        arrays.encode(load.load_run(run("amortized")), {"x": x})


@pytest.mark.parametrize("dtype", ["U3", complex, "datetime64[D]", object])
def test_arrays_of_no_real_numbers_are_refused(run, dtype):
    loaded = load.load_run(run("amortized"))
    for name, shape, use in (("x", (1, 8, 8, 1), arrays.encode), ("z", (1, 2), arrays.decode)):
        with pytest.raises(DataError, match=rf"--data: {name} has dtype .*save it as float32"):
            use(loaded, {name: np.zeros(shape).astype(dtype)})


def test_shares_given_for_stored_images_are_noticed(run, capsys):
    arrays.encode(load.load_run(run("amortized")), {"x": np.full((1, 8, 8, 1), 0.9)})
    assert "multiply by 16" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--mode=sample", "--workdir=runs/x"], "--out is missing"),
        (["--mode=encode", "--workdir=runs/x", "--out=z.npz"], "--data is missing"),
        (["--mode=evaluate"], "--workdir is missing"),
        (["--mode=evaluate", "--workdir=no/such/run", "--config.eval.num_samples=3"], "is not a run directory"),
        (["--config.eval.num_samples=3"], "--config is missing"),
        (["--mode=sample", "--workdir=no/such/run", "--out=a.npz"], "is not a run directory"),
    ],
)
def test_the_command_line_says_what_is_missing(flags, message, command):
    status, _, err = command(*flags)
    assert status == 2 and len(err.splitlines()) == 1 and message in err


def test_gaps_of_a_model_without_a_bound_are_refused(untrained_run):
    with pytest.raises(ConfigError, match="dirac has no bound"):
        diagnose.gaps(untrained_run(KINDS["autoencoder"]), {}, 1)
    no_z = configuration.default()
    no_z.model.latent_dim = 0
    with pytest.raises(ConfigError, match="latent_dim = 0 has no q"):
        diagnose.require_gaps(no_z, "runs/x")


def test_the_summary_is_json(run):
    assert json.loads((run("amortized") / "summary.json").read_text())["complete"]
