"""docs/own-data.md as a reader follows it: images and a table of one's own, trained in one try."""

import json

import numpy as np
import pytest

pytestmark = pytest.mark.slow


def faces(count, seed=0):
    """uint8 `[N, 28, 20]`: an oval with two eyes and a mouth; place, size, tone, and how open the mouth is, vary."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:28, :20].astype(np.float32)
    each = lambda low, high: rng.uniform(low, high, (count, 1, 1)).astype(np.float32)
    cy, cx, size, tone, open_ = each(11, 17), each(8, 12), each(0.8, 1.2), each(0.5, 0.9), each(0.5, 3)
    oval = lambda dy, dx, ry, rx: ((y - cy - size * dy) / (size * ry)) ** 2 + ((x - cx - size * dx) / (size * rx)) ** 2
    soft = lambda inside: 1 / (1 + np.exp(np.clip(6 * (inside - 1), -30, 30)))
    image = 0.1 + tone * soft(oval(0, 0, 10, 7))
    image -= 0.5 * tone * (soft(oval(-3, -3, 1.5, 1.5)) + soft(oval(-3, 3, 1.5, 1.5)) + soft(oval(5, 0, open_, 3)))
    return np.uint8(255 * np.clip(image + rng.normal(0, 0.02, image.shape), 0, 1))


def trained(command, experiment, path, workdir, *flags):
    status, out, err = command(f"--config={experiment}", f"--config.data.path={path}", f"--workdir={workdir}", *flags)
    assert status == 0, err
    assert "warning" not in out and "note" not in out
    return json.loads((workdir / "summary.json").read_text())["splits"]["test"]


def test_images_train_in_one_try(command, tmp_path):
    """Of an odd size, grey, nothing but the path given: nine tenths of the variance are explained, and z is used."""
    train, test = faces(1600), faces(200, seed=1)
    np.savez(tmp_path / "faces.npz", x_train=train, x_test=test)
    epochs = "--config.train.epochs=12"
    numbers = trained(command, "experiments/own_images.py", tmp_path / "faces.npz", tmp_path / "run", epochs)
    assert numbers["squared_error"]["value"] < 0.1 * (test / 255).var(0).mean()
    assert numbers["active_units"]["value"] >= 4
    assert numbers["nll"]["value"] < -800  # of a density: sigma went far below 1


def test_a_table_trains_in_one_try(command, tmp_path):
    """Factors and noise of known size: NLL within a nat of that of the model that made the rows."""
    rng = np.random.default_rng(0)
    loadings, noise = rng.normal(size=(3, 12)), rng.uniform(0.3, 0.8, 12)
    rows = rng.normal(size=(6000, 3)) @ loadings + noise * rng.normal(size=(6000, 12))
    covariance = loadings.T @ loadings + np.diag(noise**2)
    whitened = np.linalg.solve(np.linalg.cholesky(covariance), rows[5000:].T)
    exact = 0.5 * ((whitened**2).sum(0) + np.linalg.slogdet(2 * np.pi * covariance)[1]).mean()
    mean, std = rows[:5000].mean(0), rows[:5000].std(0)
    standard = ((rows - mean) / std).astype(np.float32)
    np.savez(tmp_path / "table.npz", x_train=standard[:5000], x_test=standard[5000:])
    epochs = "--config.train.epochs=60"
    numbers = trained(command, "experiments/own_table.py", tmp_path / "table.npz", tmp_path / "run", epochs)
    assert abs(numbers["nll"]["value"] + np.log(std).sum() - exact) < 1
