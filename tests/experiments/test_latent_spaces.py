"""experiments/analysis/latent_spaces.py and experiments/ae_vs_vae.sh: numbers against known ones, what is refused."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import continuity
import latent_spaces
import numpy as np
import pytest
from sklearn.decomposition import PCA

from vae_jax import config as configs
from vae_jax.commands import configuration
from vae_jax.data import datasets
from vae_jax.errors import ConfigError
from vae_jax.evaluation import generation, latent_space
from vae_jax.reports import tables
from vae_jax.runs import directory, load

ROOT = Path(__file__).parents[2]
SCRIPT = "experiments/ae_vs_vae.sh"


@pytest.mark.parametrize("kinds", [("linear_ae", "vae"), ("line_ae", "line_vae")], ids=["plane", "line"])
@pytest.mark.slow
def test_runs_and_pca_are_measured_printed_saved_and_drawn(trained, kinds, tmp_path, capsys):
    """PCA's errors are scikit-learn's, a run's bound is that of its summary, and no linear code errs less than PCA."""
    runs, out = [trained(kind) for kind in kinds], tmp_path / "deep" / "out"
    ae, vae = (Path(run).name for run in runs)
    latent_spaces.main([f"--out={out}", *runs])
    printed, numbers = capsys.readouterr().out, json.loads((out / "comparison.json").read_text())
    models, config = numbers["models"], load.read_config(runs[1])
    assert list(models) == ["PCA", ae, vae] and numbers["runs"] == runs
    dataset = datasets.load(config.data)
    images, test = dataset.train.image.reshape(200, -1) / 16, dataset.test.image[:40].reshape(40, -1) / 16
    pca = PCA(config.model.latent_dim).fit(images)
    for split, x in (("train", images), ("test", test)):
        expected = ((x - pca.inverse_transform(pca.transform(x))) ** 2).mean()
        np.testing.assert_allclose(models["PCA"][f"error_{split}"]["value"], expected, rtol=1e-4)
    assert models[ae]["error_train"]["value"] > models["PCA"]["error_train"]["value"]
    summary = directory.read_summary(runs[1])["splits"]["test"]
    for name in ("elbo", "kl"):
        np.testing.assert_allclose(models[vae][name]["value"], summary[name]["value"], rtol=1e-5)
        assert name not in models[ae] and name not in models["PCA"]
    nearest = ((test[:, None] - images) ** 2).mean(-1).min(1)
    np.testing.assert_allclose(numbers["real_images"]["value"], nearest.mean(), rtol=1e-4)
    np.testing.assert_allclose(numbers["real_images"]["stderr"], nearest.std(ddof=1) / np.sqrt(40), rtol=1e-4)
    page = (out / "comparison.md").read_text()
    table = latent_spaces.table(numbers)
    assert tables.markdown(table) in page and tables.text(table) in printed
    assert f"--out={out}" in page and (out / "comparison.png").stat().st_size > 30_000


def test_the_continuity_of_a_known_decoder():
    """x = z (1, ..., 1) with training images at z = 0, 1, ..., 9 in any order: d is the squared distance to a whole
    number, 1/4 halfway between neighbours, which is also where their average lies."""
    codes = np.random.default_rng(0).permutation(10).astype(np.float32)[:, None]
    decode = lambda z: np.broadcast_to(z[:, :, None, None], (len(z), 3, 3, 1))
    space = latent_spaces.LatentSpace("known", "", codes, codes[:4] + 0.1, decode, codes[:5] + 0.3)
    images = latent_spaces.Images(decode(codes), decode(codes[:4]), None)
    decoded = latent_spaces.decode_all(space)
    numbers = {name: entry["value"] for name, entry in latent_spaces.measure(space, decoded, images).items()}
    exact = {"error_train": 0, "error_test": 0.01, "nearest_reconstruction": 0.01, "nearest_samples": 0.09}
    exact |= {"nearest_halfway": 0.25, "nearest_average": 0.25}
    for name, value in exact.items():
        np.testing.assert_allclose(numbers[name], value, atol=1e-6)
    z = continuity.empty(codes, latent_spaces.POINTS, latent_spaces.SEED)
    np.testing.assert_allclose(numbers["nearest_empty"], (np.abs(z - codes.T).min(1) ** 2).mean(), rtol=1e-4)
    assert z.min() < -1 and z.max() > 10
    np.testing.assert_allclose(decoded["strip"][:: latent_spaces.STEPS, 0, 0, 0], [2, 3, 4, 5, 6])
    assert len(decoded["curve"]) == latent_spaces.CURVE and np.isclose(decoded["curve"].min(), -0.9)


def test_pca_leaves_the_variance_of_the_other_components():
    """Its training error is the sum of the smaller eigenvalues of the covariance, per element."""
    image = np.random.default_rng(0).normal(size=(50, 3, 2, 1)).astype(np.float32)
    images = latent_spaces.Images(image, image[:7], None)
    space = latent_spaces.space_of_pca(images, 2)
    error = latent_spaces.measure(space, latent_spaces.decode_all(space), images)["error_train"]["value"]
    eigenvalues = np.linalg.eigvalsh(np.cov(image.reshape(50, -1).T, bias=True))
    np.testing.assert_allclose(error, eigenvalues[:-2].sum() / 6, rtol=1e-5)
    assert space.draws.shape == (latent_spaces.SAMPLES, 2)


def test_a_grid_of_codes_has_their_quantiles():
    codes = np.random.default_rng(0).exponential(size=(1001, 2)) * [1, 50]
    grid = latent_space.code_grid(codes, 5).reshape(5, 5, 2)
    expected = np.quantile(codes, [0.1, 0.3, 0.5, 0.7, 0.9], axis=0)
    np.testing.assert_allclose(grid[2, :, 0], expected[:, 0], rtol=1e-6)
    np.testing.assert_allclose(grid[::-1, 3, 1], expected[:, 1], rtol=1e-6)


def test_draws_of_a_mixture_lie_like_the_codes():
    codes = np.random.default_rng(0).normal([3, -5], [0.5, 2], (2000, 2))
    z = generation.code_draws(codes, 4000, 0)
    assert z.dtype == np.float32
    np.testing.assert_allclose(z.mean(0), codes.mean(0), atol=0.15)
    np.testing.assert_allclose(z.std(0), codes.std(0), rtol=0.06)


def test_the_table_has_standard_errors_and_the_yardstick():
    entry = {"value": 0.25, "stderr": 0.0125, "unit": "per element"}
    numbers = {"real_images": entry, "models": {"vae": {"error_test": entry, "elbo": {**entry, "value": -3.0}}}}
    table = latent_spaces.table(numbers)
    yardstick, vae = ({head: cell.text for head, cell in zip(table.header, row, strict=True)} for row in table.rows)
    assert yardstick["d at test codes"] == "0.250 ± 0.013" and yardstick["error, test"] == ""
    found = vae[""], vae["error, test"], vae["ELBO, nats"], vae["KL, nats"]
    assert found == ("vae", "0.250 ± 0.013", "-3.000 ± 0.013", "")


def test_runs_that_cannot_stand_in_one_table_are_refused(tmp_path):
    """Before anything is loaded: run directories with a config and a summary, and no checkpoint."""

    def fake(name, complete=True, **changes):
        config = configuration.default()
        config.model.latent_dim = 2
        config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
        info = {"event_shape": [8, 8, 1], "name": "digits", "num_train": 1400}
        info |= {"num_classes": 10, "value_range": [0, 16], "condition_shape": None}
        directory.open_run(tmp_path / name, config.to_dict(), info, {})
        directory.write_summary(tmp_path / name, {"complete": complete, "splits": {}})
        return str(tmp_path / name)

    one = fake("one")
    latent_spaces.require_comparable([one, fake("elsewhere", data__manual_dir="/somewhere", data__streams=4)])
    refused = {
        "rename some": [one, one],
        "not finished": [fake("unfinished", complete=False)],
        "latent_dim = 2, 1": [one, fake("line", model__latent_dim=1)],
        "latent_dim = 3": [fake("three", model__latent_dim=3)],
        "data.num_train = 0 and 5": [one, fake("few", data__num_train=5)],
        "a condition or two layers": [fake("given", data__condition="label")],
    }
    for message, workdirs in refused.items():
        with pytest.raises(ConfigError, match=message):
            latent_spaces.require_comparable(workdirs)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--out=x", "no/such/run"], "no/such/run is not a run directory"),
        (["no/such/run"], "--out"),
        (["--out=x"], "RUN"),
        (["--out=x", "--colour=red", "run"], "--colour=red"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit:
        latent_spaces.main(arguments)
    shown = capsys.readouterr()
    assert exit.value.code == 2 and not shown.out
    assert len(shown.err.splitlines()) == 1 and message in shown.err


# ---- the script


def script(**variables):
    environment = os.environ | {"PYTHON": sys.executable} | variables
    return subprocess.run(["bash", SCRIPT], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_the_script_prints_commands_that_exist(name):
    """Every variant of the experiment file but '' and 'quick' is trained once, and every run is compared once."""
    done = script(DRY_RUN="1", DATA=name, FLAGS="--config.data.manual_dir=A --config.seed=1", OUT="out")
    assert done.returncode == 0, done.stderr
    trained, compared = {}, []
    for command in map(shlex.split, done.stdout.splitlines()):
        if command[2] == "vae_jax.main":
            path, _, variant = command[3].removeprefix("--config=").partition(":")
            config = configs.from_experiment(ROOT / path, variant)
            assert configuration.validate(config).data.name == name
            assert command[5:] == ["--config.data.manual_dir=A", "--config.seed=1"]
            trained[command[4].removeprefix("--workdir=")] = config.model.latent_dim
        else:
            assert command[1] == "experiments/analysis/latent_spaces.py" and command[2].startswith("--out=out/")
            assert len({trained[run] for run in command[3:]}) == 1
            compared += command[3:]
    assert sorted(compared) == sorted(trained) and len(trained) == 8


def test_the_script_refuses_other_data():
    done = script(DRY_RUN="1", DATA="faces")
    assert done.returncode == 2 and done.stderr == "error: DATA=faces: expected digits or mnist\n"


@pytest.mark.slow
def test_the_script_runs_and_again_it_only_compares(tmp_path):
    flags = "--config.train.epochs=1 --config.eval.num_samples=2 --config.eval.max_examples=20"
    for _ in range(2):
        done = script(OUT=str(tmp_path / "out"), FLAGS=flags)
        assert done.returncode == 0, done.stderr
        assert all((tmp_path / "out" / name / "comparison.png").exists() for name in ("one", "two"))
    assert done.stdout.count("is finished") == 8
