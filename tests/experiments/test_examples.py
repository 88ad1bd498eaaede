"""The examples: each trains on the digits, beats what independent pixels can reach, and agrees with the others."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vae_jax.commands import configuration, train
from vae_jax.commands.train import train_run
from vae_jax.data import datasets, preprocess
from vae_jax.distributions.basic import Bernoulli
from vae_jax.errors import ConfigError
from vae_jax.evaluation import bounds
from vae_jax.keys import split_keys
from vae_jax.models import families, networks
from vae_jax.objectives.importance import iwae
from vae_jax.objectives.loss import OBJECTIVES
from vae_jax.runs import directory
from vae_jax.runs.load import load_run

EXAMPLES = Path(__file__).parents[2] / "examples"
STEPS = 300


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def independent_pixels(x):
    """The best mean log p(x) of a model without z, one probability for each pixel, fitted to these images; nats."""
    p = np.clip(x.reshape(len(x), -1).mean(0, dtype=np.float64), 1e-12, 1 - 1e-12)
    return (p * np.log(p) + (1 - p) * np.log(1 - p)).sum()


@pytest.fixture(scope="module")
def bare():
    """(module, result of its main) of the example that the others are compared with."""
    module = load("bare_jax")
    return module, module.main(STEPS)


def require_learning(before, after, x_test):
    assert after > before + 20
    assert independent_pixels(x_test) < after < 0


def test_bare_jax_learns(bare, capsys):
    module, (before, after, _) = bare
    require_learning(before, after, module.digits()[1])
    assert module.main(1)[0] == pytest.approx(before, abs=1e-4)
    assert f"{before:.2f} nats before training" in capsys.readouterr().out


def elbos(bare, module, model):
    """The bound of ten held-out digits by bare_jax and by another example, at the same weights and key."""
    ours, (_, _, params) = bare
    x, key = jnp.asarray(ours.digits()[1][:10]), jax.random.key(5)
    return ours.elbo(params, key, x, num_samples=3), module.elbo(model, key, x, num_samples=3)


@pytest.mark.slow
def test_equinox_learns_and_agrees(bare):
    eqx = pytest.importorskip("equinox", reason="needs Equinox: pip install -e '.[test]'")
    module = load("with_equinox")
    require_learning(*module.main(STEPS), bare[0].digits()[1])
    params, model = bare[1][2], module.VAE(jax.random.key(0), 64)
    for name, layer in params.items():
        where = lambda m, name=name: (getattr(m, name).weight, getattr(m, name).bias)
        model = eqx.tree_at(where, model, (layer["w"].T, layer["b"]))
    np.testing.assert_allclose(*elbos(bare, module, model), rtol=1e-5)


@pytest.mark.slow
def test_nnx_learns_and_agrees(bare):
    from flax import nnx

    module = load("with_nnx")
    require_learning(*module.main(STEPS), bare[0].digits()[1])
    model = module.VAE(64, nnx.Rngs(0))
    for name, layer in bare[1][2].items():
        getattr(model, name).kernel[...], getattr(model, name).bias[...] = layer["w"], layer["b"]
    np.testing.assert_allclose(*elbos(bare, module, model), rtol=1e-5)


def test_numpyro_learns_and_agrees(bare):
    pytest.importorskip("numpyro", reason="needs NumPyro: pip install -e '.[test]'")
    module = load("with_numpyro")
    require_learning(*module.main(STEPS), bare[0].digits()[1])
    np.testing.assert_allclose(*elbos(bare, module, bare[1][2]), rtol=1e-5)


# ---- a family, an objective and a network from outside


@pytest.fixture(scope="module")
def own():
    """The module, whose names are there for as long as this file's tests run."""
    tables = (families.POSTERIORS, OBJECTIVES, networks.NETWORKS)
    before = [dict(table) for table in tables]
    yield load("own_family")
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


def test_an_own_family_trains_and_loads_like_any_other(own, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "draw", lambda *_: {})  # of which nothing is asked here
    config = own.get_config()
    config.train.epochs, config.train.eval_every, config.eval.num_samples = 20, 5, 50
    config.eval.train_examples = 0
    summary = train_run(configuration.validate(config), tmp_path / "run", 1)
    valid = [record["elbo"] for record in directory.read_metrics(tmp_path / "run") if record["split"] == "valid"]
    assert valid[-1] > valid[0] + 1
    test, images = summary["splits"]["test"], datasets.load(config.data).test.image
    x = np.asarray(preprocess.preprocess(None, images, (0.0, 16.0), "threshold"))
    assert set(np.unique(x)) == {0, 1}
    assert test["elbo"]["value"] > independent_pixels(x) and -test["nll"]["value"] > test["elbo"]["value"]

    loaded = load_run(tmp_path / "run")
    rows = loaded.model.encode(loaded.params, x[:5])
    assert isinstance(loaded.model.make_q(loaded.params, rows), own.Laplace)
    chunk = {"image": x[:5], "key": split_keys(0, "test", 5), "q_params": rows}
    assert np.isfinite(bounds.elbo_terms(loaded.model, loaded.params, chunk, 2)["elbo"]).all()


def test_without_the_file_its_names_are_refused(own, tmp_path, monkeypatch):
    config = own.get_config()
    monkeypatch.delitem(families.POSTERIORS, "laplace")
    with pytest.raises(ConfigError, match=r"config.model.posterior = 'laplace': expected one of normal, "):
        configuration.validate(config)


def test_laplace_against_scipy(own, key):
    rng = np.random.default_rng(0)
    loc, log_scale, z = rng.normal(size=(4, 3)), rng.normal(size=(4, 3)), rng.normal(size=(5, 4, 3))
    q = own.Laplace(jnp.asarray(loc), jnp.asarray(log_scale))
    expected = stats.laplace.logpdf(z, loc, np.exp(log_scale)).sum(-1)
    np.testing.assert_allclose(q.log_prob(z), expected, rtol=1e-5)
    draws, log_q = q.sample_and_log_prob(jax.random.split(key, 4), (20_000,))
    np.testing.assert_allclose(log_q[:5], q.log_prob(draws[:5]), rtol=1e-5)
    standard = np.asarray((draws - loc) * np.exp(-log_scale))
    assert stats.kstest(standard[:, 1, 2], stats.laplace.cdf).pvalue > 0.01
    np.testing.assert_allclose(np.abs(standard).mean(0), 1.0, atol=5 / np.sqrt(20_000))


def test_truncated_weights_by_numpy(own, key):
    """One dominant weight of K = 4 counts no more than twice the mean; of one draw nothing is cut."""
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.integers(0, 2, (6, 5)), float)
    q = own.Laplace(jnp.zeros((6, 5)), jnp.ones((6, 5)))
    value, terms = own.truncated(key, x, q, lambda z: Bernoulli(3 * z), num_samples=4)
    w = np.exp(np.asarray(terms.log_weights, np.float64))
    np.testing.assert_allclose(value, np.log(np.minimum(w, 2 * w.mean(0)).mean(0)), rtol=1e-5)
    bound, _ = iwae(key, x, q, lambda z: Bernoulli(3 * z), num_samples=4)
    assert (value <= bound + 1e-6).all() and (value < bound - 0.1).any()
    one, terms = own.truncated(key, x, q, lambda z: Bernoulli(3 * z))
    np.testing.assert_allclose(one, terms.log_weights[0], rtol=1e-6)
