"""Signal-to-noise ratios: formulas on synthetic gradients, estimators against each other, and the mode on a run."""

import json
import math
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vae_jax.commands import configuration, diagnose
from vae_jax.distributions.basic import Normal
from vae_jax.errors import ConfigError
from vae_jax.evaluation import gradient_noise
from vae_jax.evaluation.gradient_noise import Moments
from vae_jax.models.model import Model

MEAN = {"encoder": {"w": np.array([[1.0, -2.0], [0.0, 0.5]])}, "decoder": {"b": np.array([3.0])}}
STD = {"encoder": {"w": np.array([[1.0, 4.0], [2.0, 0.5]])}, "decoder": {"b": np.array([1.5])}}


def synthetic(key, mean, std):
    """A gradient with independent Gaussian entries."""
    leaves, treedef = jax.tree.flatten(mean)
    keys = treedef.unflatten(jax.random.split(key, len(leaves)))
    return jax.tree.map(lambda k, m, s: m + s * jax.random.normal(k, jnp.shape(m)), keys, mean, std)


def vectors(keys, part):
    """The synthetic gradients of a part as NumPy has them, `[N, P]` float64."""
    draws = jax.vmap(lambda key: synthetic(key, MEAN, STD))(keys)
    return np.concatenate([np.reshape(leaf, (len(keys), -1)) for leaf in jax.tree.leaves(draws[part])], 1).astype(float)


def test_moments_are_those_of_numpy_in_one_stream_or_merged(key):
    keys = jax.random.split(key, 60).reshape(3, 20)
    direction = gradient_noise.random_signs(key, MEAN)
    results = [gradient_noise.stream(synthetic, group, direction, MEAN, STD) for group in keys]
    groups = [gradient_noise.split_parts(jax.device_get(moments)) for moments, _ in results]
    for part in ("encoder", "decoder"):
        merged, draws = gradient_noise.merge([group[part] for group in groups]), vectors(keys.reshape(-1), part)
        assert merged.count == 60
        np.testing.assert_allclose(merged.mean, draws.mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(merged.squares / 59, draws.var(0, ddof=1), rtol=1e-5)
    signs = np.ravel(direction["encoder"]["w"])
    np.testing.assert_allclose(np.abs(signs), 0.5)  # length one over four parameters, and none of the decoder's
    assert not direction["decoder"]["b"].any()
    projected = np.concatenate([projection for _, projection in results])
    np.testing.assert_allclose(projected, vectors(keys.reshape(-1), "encoder") @ signs, rtol=1e-4, atol=1e-5)


def test_the_three_numbers_by_hand():
    """N = 5, means 3 and -1, variances 4 and 1: snr (1.5 + 1)/2, |g|^2 = 10 - 5/5 = 9 over a trace of 5."""
    moments = Moments(5.0, np.array([3.0, -1.0, 7.0]), np.array([16.0, 4.0, 0.0]))  # the third is moved by no draw
    numbers = gradient_noise.of_moments(moments)
    assert numbers == {"snr": 1.25, "snr_norm": pytest.approx(math.sqrt(9 / 5)), "variance": 5.0}
    noise = gradient_noise.of_moments(Moments(5.0, np.array([0.1]), np.array([4.0])))
    assert noise["snr"] == pytest.approx(0.1) and noise["snr_norm"] == 0.0  # 0.01 - 1/5 < 0: no signal above the noise


def test_pure_noise_has_the_floor_of_the_docstring_and_no_norm():
    count, size = 50, 40_000
    draws = np.random.default_rng(0).normal(size=(count, size))
    numbers = gradient_noise.of_moments(Moments(count, draws.mean(0), ((draws - draws.mean(0)) ** 2).sum(0)))
    assert numbers["snr"] == pytest.approx(math.sqrt(2 / (math.pi * count)), rel=0.03)  # Student's t, not normal
    assert numbers["snr_norm"] < 0.02


def test_standard_errors_are_jackknifes():
    """Of a mean the jackknife is the textbook's standard error; and it covers the spread of repeated measurements."""
    values = np.array([4.0, 1.0, 7.0, 6.0])
    left_out = (values.sum() - values) / 3
    value, error = gradient_noise.with_error(np.array([values.mean(), *left_out]))
    assert value == 4.5 and error == pytest.approx(values.std(ddof=1) / 2)
    rng, found = np.random.default_rng(1), []
    for _ in range(200):
        draws = 0.5 + rng.normal(size=(10, 20, 30))
        groups = [Moments(20.0, d.mean(0), ((d - d.mean(0)) ** 2).sum(0)) for d in draws]
        found.append(gradient_noise.with_error(gradient_noise.statistics(groups)["snr_norm"]))
    measured, errors = np.array(found).T
    assert measured.mean() == pytest.approx(0.5, abs=0.005)  # |E g| / sqrt(tr Cov) = sqrt(30/4) / sqrt(30)
    assert errors.mean() == pytest.approx(measured.std(), rel=0.2)


def test_slopes_of_power_laws_are_their_exponents():
    counts = [4, 16, 64]
    values = np.stack([np.array([3.0, 0.2]) * k ** np.array([-0.5, 0.25]) for k in counts])
    np.testing.assert_allclose(gradient_noise.slope(counts, values), [-0.5, 0.25], atol=1e-12)
    assert gradient_noise.slope(counts, values * [[1, 1], [0, 1], [1, 1]]) is None
    assert gradient_noise.slope([4], values[:1]) is None
    assert gradient_noise.upper_half([64, 1, 16, 4]) == [16, 64] and gradient_noise.upper_half([1, 4]) == [1, 4]
    assert gradient_noise.upper_half([8]) == [8] and gradient_noise.upper_half([1, 2, 4]) == [2, 4]


def test_the_paired_t_is_scipys():
    rng = np.random.default_rng(2)
    one, other = rng.normal(size=(2, 30)).astype(np.float32)
    assert gradient_noise.paired_t(one, other) == pytest.approx(stats.ttest_rel(one, other).statistic, rel=1e-5)


# ---- the toy of Rainforth et al. (2018), section 5.1: p(z) = N(mu, I), p(x|z) = N(z, I), q(z|x) = N(A x + b, 2/3 I)


def toy(dim=4, batch=8, off=0.3):
    rng = np.random.default_rng(3)
    one = lambda params, batch: {"mean": batch["image"] @ params["encoder"]["a"] + params["encoder"]["b"]}
    log_std = 0.5 * math.log(2 / 3)
    model = Model(
        init=None,
        infer=lambda params, rows, key, batch, bound: one(params, batch),
        start_q_params=None,
        make_q=lambda params, rows: Normal(rows["mean"], jnp.full_like(rows["mean"], log_std)),
        encode=None,
        decode=lambda params, z, condition=None: Normal(z, jnp.zeros_like(z)),
        prior=lambda params, condition=None: Normal(params["prior"]["mu"], jnp.zeros(dim)),
    )
    mu = rng.normal(size=dim)
    x = mu + math.sqrt(2) * rng.normal(size=(batch, dim))
    params = {
        "encoder": {"a": np.eye(dim) / 2 + off * rng.normal(size=(dim, dim)), "b": mu / 2 + off * rng.normal(size=dim)},
        "prior": {"mu": mu + off * rng.normal(size=dim)},
    }
    batch = {"image": jnp.asarray(x, jnp.float32), "index": jnp.arange(batch)}
    return model, jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params), batch


def test_estimators_that_must_agree_do_so_draw_by_draw(key):
    """DReG's decoder gradient is IWAE's; for K = 1 DReG is STL. (ELBO's KL is in closed form, and so not STL's.)"""
    model, params, batch = toy()
    of = lambda name, count: jax.jit(gradient_noise.make_gradient(model, name, count))(key, params, batch)
    same = lambda a, b: jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), a, b)
    same(of("dreg", 3)["prior"], of("iwae", 3)["prior"])
    same(of("dreg", 1), of("stl", 1))


def test_the_mean_gradient_is_that_of_the_exact_bound():
    """d ELBO / d mu = mean q - mu and the like, in closed form, within five standard errors; and of STL too."""
    model, params, batch = toy()
    config = SimpleNamespace(names=("elbo", "stl"), num_samples=(2,), num_draws=400)
    keys = jax.random.split(jax.random.key(0), 400)
    mean_q = batch["image"] @ params["encoder"]["a"] + params["encoder"]["b"]
    # L = E_q log N(x; z, I) - KL(q || N(mu, I)), so dL/d mean_q = (x - mean_q) - (mean_q - mu), averaged over the batch
    by_mean = np.asarray(batch["image"] - 2 * mean_q + params["prior"]["mu"], np.float64) / len(mean_q)
    exact = {"a": np.asarray(batch["image"]).T @ by_mean, "b": by_mean.sum(0)}
    direction = gradient_noise.random_signs(jax.random.key(1), params)
    for name in config.names:
        gradient = gradient_noise.make_gradient(model, name, 2)
        moments, _ = gradient_noise.stream(gradient, keys, direction, params, batch)
        for entry in ("a", "b"):
            error = np.sqrt(moments.squares["encoder"][entry] / 399 / 400)
            assert (np.abs(moments.mean["encoder"][entry] - exact[entry]) < 5 * error + 1e-5).all()


@pytest.mark.slow
def test_iwae_falls_and_dreg_rises_for_the_encoder_and_all_rise_for_the_decoder():
    """Slopes -1/2 and 1/2 in log K: Rainforth et al. (2018), Theorem 1; Tucker et al. (2019).

    q is near p(z|x), as in their toy: further away the same slopes need a larger K.
    """
    model, params, batch = toy(dim=2, off=0.1)
    names, counts = ("elbo", "iwae", "stl", "dreg"), (16, 128)
    config = SimpleNamespace(names=names, num_samples=counts, num_draws=4000)
    found, projections = gradient_noise.measure(model, params, batch, config)
    numbers = gradient_noise.summarize(found, projections)
    for name in names:
        for part in ("encoder", "decoder"):
            if (name, part) == ("elbo", "decoder"):  # the prior's mean is in its closed-form KL alone: no noise at all
                assert not any(key.startswith("elbo_decoder") for key in numbers)
                continue
            expected = -0.5 if (name, part) == ("iwae", "encoder") else 0.5
            assert numbers[f"{name}_{part}_snr_slope"]["value"] == pytest.approx(expected, abs=0.12), (name, part)
    assert abs(numbers["stl_bias_t"]["value"]) < 4 and abs(numbers["dreg_bias_t"]["value"]) < 4
    once = SimpleNamespace(names=names[:1], num_samples=(16,), num_draws=4000)
    again, _ = gradient_noise.measure(model, params, batch, once)
    np.testing.assert_array_equal(again["elbo", 16]["encoder"]["snr"], found["elbo", 16]["encoder"]["snr"])


# ---- the mode


FEW = {
    "estimators.names": ("elbo", "iwae", "dreg"),
    "estimators.num_samples": (1, 4),
    "estimators.num_draws": 20,
    "estimators.num_examples": 3,
}


@pytest.fixture(scope="module")
def run(small_run):
    return small_run("run", {})


def test_the_mode_prints_saves_and_draws(run, capsys):
    diagnose.estimators(run, FEW, 1)
    shown = capsys.readouterr().out
    assert "20 gradients each, of 3 training examples" in shown and "snr_norm" in shown and "pure noise" in shown
    summary = json.loads((run / "summary.json").read_text())
    assert summary["complete"] and "nll" in summary["splits"]["test"] and "estimators" in summary["figures"]
    numbers = summary["splits"]["estimators"]
    assert {"iwae_encoder_snr", "dreg_decoder_snr_slope", "dreg_bias_t"} <= set(numbers)
    with np.load(run / "estimators.npz") as values:
        assert values["snr"].shape == (3, 2, 2) and list(values["num_samples"]) == [1, 4]
        assert values["snr"][1, 1, 0] == pytest.approx(numbers["iwae_encoder_snr"]["value"])
        # more draws, less variance: the ELBO's falls as 1/K
        assert values["variance"][0, 0, 1] / values["variance"][0, 1, 1] == pytest.approx(4, rel=0.5)
    assert (run / "figures" / "estimators.png").stat().st_size > 5000
    assert "IWAE, encoder" in (run / "report.html").read_text()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"inference.kind": "per_datapoint", "data.binarization": "fixed"}, "needs an encoder"),
        ({"model.posterior": "dirac", "objective.name": "autoencoder"}, "needs a bound"),
        ({"model.posterior": "planar"}, "use --config.estimators.names=elbo,iwae"),
    ],
)
def test_runs_without_such_gradients_are_refused(changes, message):
    config = configuration.default()
    config.update_from_flattened_dict(changes)
    with pytest.raises(ConfigError, match=message):
        diagnose.require_estimators(configuration.validate(config), "RUN")


def test_wrong_names_and_counts_are_refused():
    for key, value in (("names", ("iwae", "sgd")), ("names", ()), ("num_samples", (4, 4)), ("num_samples", (0, 1))):
        config = configuration.default()
        config.estimators[key] = value
        with pytest.raises(ConfigError, match=rf"config.estimators.{key} = .*: expected "):
            configuration.validate(config)
