"""Gaps against closed forms on a linear-Gaussian model whose posterior is correlated, and on toys with two modes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.commands import configuration, diagnose
from vae_jax.distributions.basic import Normal, StandardNormal
from vae_jax.distributions.flows import CouplingFlow
from vae_jax.errors import ConfigError
from vae_jax.evaluation import gaps
from vae_jax.keys import split_keys
from vae_jax.models.model import Model
from vae_jax.parallel import devices
from vae_jax.plotting import diagnostics as diagnostic_plots

NUM, LATENT, DIM = 12, 3, 4
SHIFT, STRETCH = 0.3, 0.2  # how far the amortized q is off: its mean, and its log_std


def make_config(**changes):
    """config.gaps, small; keys with dots as in config.gaps.ais.num_chains."""
    config = configuration.default()
    small = {"num_examples": NUM, "elbo_samples": 2000, "num_samples": 2000, "chunk_images": 400}
    small |= {"flow.num_examples": 0, "ais.num_examples": 0, "ais.num_simulated": 0}
    small |= {
        "ais.num_temperatures": 300,
        "ais.pilot_temperatures": 60,
        "flow.num_samples": 16,
        "flow.max_steps": 600,
        "fit.num_samples": 32,
    }
    for key, value in (small | changes).items():
        *groups, name = key.split(".")
        group = config.gaps
        for each in groups:
            group = group[each]
        group[name] = value
    return configuration.validate(config).gaps


def make_toy(decode, latent, start_q_params):
    """A model that is a decoder, a standard normal prior and Gaussian rows; start_q_params: keys -> rows."""
    functions = {
        "decode": decode,
        "prior": lambda params, condition=None: StandardNormal((latent,)),
        "make_q": lambda params, rows: Normal(rows["mean"], rows["log_std"]),
        "start_q_params": start_q_params,
    }
    return Model(**{**dict.fromkeys(Model._fields), **Model._field_defaults, **functions})


def constant_rows(mean, log_std=0.0):
    shape = lambda keys: (len(keys), len(mean))
    return lambda keys: {
        "mean": jnp.broadcast_to(jnp.asarray(mean, float), shape(keys)),
        "log_std": jnp.full(shape(keys), log_std, float),
    }


def make_examples(image, mean, log_std):
    rows = {"mean": np.float32(mean), "log_std": np.float32(log_std)}
    return {"image": np.float32(image), "key": split_keys(0, "test", len(image)), "q_params": rows, "index": None}


class Correlated(NamedTuple):
    """z ~ N(0, I), x = W z + b + sigma eps; the posterior N(mean, precision^-1) is far from diagonal. float64 NumPy."""

    model: Model
    params: dict
    examples: dict  # their rows off by SHIFT and STRETCH from q*
    log_px: np.ndarray
    mean: np.ndarray  # [N, Z], of the posterior and of q*
    log_std: np.ndarray  # [Z], of q*: 1 / var_i = precision_ii
    approximation_gap: float  # KL(q* || p(z|x)) = (sum log precision_ii - log det precision) / 2
    amortization_gap: float


@pytest.fixture(scope="module")
def correlated():
    rng = np.random.default_rng(13)
    weight, bias, sigma = rng.normal(size=(DIM, LATENT)), rng.normal(size=DIM), 0.8
    x = bias + rng.normal(size=(NUM, LATENT)) @ weight.T + sigma * rng.normal(size=(NUM, DIM))
    precision = np.eye(LATENT) + weight.T @ weight / sigma**2
    mean = (x - bias) @ weight @ np.linalg.inv(precision) / sigma**2
    covariance = weight @ weight.T + sigma**2 * np.eye(DIM)
    mahalanobis = np.einsum("bi,ij,bj->b", x - bias, np.linalg.inv(covariance), x - bias)
    log_px = -0.5 * (mahalanobis + np.linalg.slogdet(2 * np.pi * covariance)[1])
    log_std = -0.5 * np.log(np.diag(precision))
    approximation = 0.5 * np.log(np.diag(precision)).sum() - 0.5 * np.linalg.slogdet(precision)[1]
    # KL(N(mean + d, D) || p) - KL(N(mean, D*) || p) with D = e^(2 STRETCH) D*, and precision_ii D*_ii = 1
    amortization = 0.5 * SHIFT**2 * precision.sum() + LATENT * (0.5 * np.expm1(2 * STRETCH) - STRETCH)

    def decode(params, z, condition=None):
        mean = z @ params["weight"].T + params["bias"]
        return Normal(mean, jnp.broadcast_to(params["log_sigma"], mean.shape))

    params = {"weight": jnp.float32(weight), "bias": jnp.float32(bias), "log_sigma": jnp.float32(np.log(sigma))}
    examples = make_examples(x, mean + SHIFT, np.broadcast_to(log_std + STRETCH, mean.shape))
    model = make_toy(decode, LATENT, constant_rows(np.zeros(LATENT)))
    return Correlated(model, params, examples, log_px, mean, log_std, approximation, amortization)


def test_gaps_equal_their_closed_forms(correlated):
    config = make_config(elbo_samples=20_000, num_samples=20_000)
    numbers, _ = gaps.measure_gaps(correlated.model, correlated.params, correlated.examples, config)
    expected = {
        "elbo_q": correlated.log_px.mean() - correlated.approximation_gap - correlated.amortization_gap,
        "elbo_q_star": correlated.log_px.mean() - correlated.approximation_gap,
        "iwae_q_star": correlated.log_px.mean(),
        "approximation_gap": correlated.approximation_gap,
        "amortization_gap": correlated.amortization_gap,
        "inference_gap": correlated.approximation_gap + correlated.amortization_gap,
    }
    assert correlated.approximation_gap > 0.1 and correlated.amortization_gap > 0.1
    for name, value in expected.items():
        # the draws' standard error, over seeds: 0.0045
        assert numbers[name]["value"] == pytest.approx(value, abs=0.02), name
    total = numbers["approximation_gap"]["value"] + numbers["amortization_gap"]["value"]
    assert total == pytest.approx(numbers["inference_gap"]["value"], abs=1e-5)
    assert numbers["approximation_gap"]["stderr"] < 0.1 * numbers["log_px"]["stderr"]  # paired


@pytest.fixture(scope="module")
def measured(correlated):
    changes = {"ais.num_examples": 8, "ais.num_simulated": 8, "flow.num_examples": 8}
    config = make_config(**changes, **{"ais.num_chains": 64, "ais.num_temperatures": 1000})
    return gaps.measure_gaps(correlated.model, correlated.params, correlated.examples, config)


@pytest.mark.slow
def test_no_gap_is_negative_beyond_its_error(measured):
    numbers, _ = measured
    for name in ("approximation_gap", "amortization_gap", "inference_gap", "approximation_gap_flow", "flow_gain"):
        assert numbers[name]["value"] > -2 * numbers[name]["stderr"] - 0.005, name


@pytest.mark.slow
def test_ais_agrees_and_is_bounded_from_both_sides(correlated, measured):
    numbers, values = measured
    for start in ("q", "prior"):
        assert np.abs(values[f"ais_{start}"] - correlated.log_px[:8]).mean() < 0.1
        assert numbers[f"bdmc_{start}_gap"]["value"] == pytest.approx(0, abs=0.15)
        assert 0.5 < numbers[f"ais_{start}_acceptance"]["value"] < 0.8
        assert numbers[f"ais_{start}_ess"]["value"] > 0.7 * 64


@pytest.mark.slow
def test_a_flow_narrows_the_approximation_gap(measured):
    """A coupling layer can turn independent noise into correlated: the flow's family holds the posterior itself."""
    numbers, _ = measured
    assert numbers["approximation_gap_flow"]["value"] < 0.5 * numbers["approximation_gap"]["value"]


@pytest.fixture
def made_up():
    """Values of every kind that measure_gaps may find, for five examples, and fewer of some."""
    rng = np.random.default_rng(0)
    base = rng.normal(-90, 5, size=5)
    values = {"elbo_q": base - 3, "elbo_q_star": base - 1.5, "iwae_q": base - 0.5, "iwae_q_star": base - 0.3}
    values |= {"elbo_q_star_flow": base[:2] - 1, "q_star_start": np.array([0, 1, 2, 1, 2])}
    for start in ("q", "prior"):
        values |= {f"ais_{start}": base[:3], f"ais_{start}_ess": rng.uniform(9, 16, size=3)}
        values |= {f"bdmc_{start}_lower": base[:2] - 0.1, f"bdmc_{start}_upper": base[:2] + 0.1}
        values |= {f"{way}_{start}_acceptance": rng.uniform(0.6, 0.7, size=(3, 10)) for way in ("ais", "bdmc")}
    values, compared = gaps.with_gaps(values)
    return gaps.summarize_all(values, compared, make_config()), values


def test_differences_are_paired_over_common_examples(made_up):
    """By hand: log p(x) is AIS, on 3 of 5 examples; 1.5 + 1.5 = 3 nats below it, with a flow 1 on 2 examples."""
    numbers, values = made_up
    expected = {"approximation_gap": (1.5, 3), "amortization_gap": (1.5, 3), "inference_gap": (3, 3)}
    expected |= {"amortization_gap_all": (1.5, 5), "approximation_gap_flow": (1, 2), "flow_gain": (0.5, 2)}
    expected |= {"bdmc_q_gap": (0.2, 2), "q_star_from_start": (0.4, 5)}
    for name, (value, count) in expected.items():
        assert numbers[name]["value"] == pytest.approx(value) and numbers[name]["num_examples"] == count
    assert numbers["inference_gap"]["stderr"] == pytest.approx(0, abs=1e-9)
    assert numbers["log_px"]["method"] in ("ais_q", "ais_prior")
    assert set(numbers["log_px"]["bounds_compared"]) == set(gaps.BOUNDS)
    assert numbers["log_px"]["bounds_compared"]["iwae_q"] == pytest.approx(values["iwae_q"][:3].mean())
    for entry in numbers.values():
        assert set(entry) >= {"value", "stderr", "unit", "num_examples"}


def test_a_table_and_a_picture(made_up):
    numbers, _ = made_up
    text = diagnose.gap_table(numbers)
    assert "inference gap" in text and "the best of" in text and max(map(len, text.splitlines())) < 200
    assert all(name.replace("_", " ") in text for name in numbers)
    texts = [text.get_text() for text in diagnostic_plots.gap_bars(numbers).axes[0].texts]
    assert len(texts) == 5 and texts[0].startswith("1.50 + 1.50 = 3.00")


def test_the_best_bound_is_chosen_by_its_average():
    """Over the examples that all have: 'ais_q' wins on the first two, although no mean over all three could tell."""
    values = {"iwae_q": np.array([-2.0, -4.0, 0.0]), "ais_q": np.array([-2.5, -3.0]), "elbo_q": np.zeros(3)}
    compared = gaps.compare_bounds(values)
    assert compared == {"iwae_q": -3.0, "ais_q": -2.75}
    with_log_px, _ = gaps.with_gaps({**values, "elbo_q_star": np.zeros(3)})
    np.testing.assert_array_equal(with_log_px["log_px"], values["ais_q"])


def test_q_star_is_the_best_diagonal_gaussian(correlated):
    """Mean that of the posterior, variances one over the precision's diagonal: Bishop (2006), section 10.1.2."""
    config = make_config(**{"fit.num_samples": 64})
    chunks = (config.chunk_images, devices.ONE_DEVICE, lambda *done: None)
    run = gaps.make_runner(correlated.model, correlated.params, *chunks)
    examples = {name: correlated.examples[name] for name in ("image", "key", "q_params")}
    star = gaps.own_family(run, examples, config)["fitted"]
    np.testing.assert_allclose(star["q_params"]["mean"], correlated.mean, atol=0.02)
    np.testing.assert_allclose(
        star["q_params"]["log_std"], np.broadcast_to(correlated.log_std, (NUM, LATENT)), atol=0.04
    )


@pytest.mark.slow
def test_neither_chunks_nor_devices_change_a_number(correlated):
    """In float64, since steps of Adam that begin a rounding error apart end further apart. (AIS: see test_ais.)"""
    quick = {"fit.max_steps": 20, "fit.window": 10, "elbo_samples": 20, "num_samples": 100, "num_examples": 8}
    examples = {name: correlated.examples[name] for name in ("image", "key", "q_params")}
    with jax.enable_x64(True):
        params, image, rows = to_double((correlated.params, examples["image"], examples["q_params"]))
        examples = examples | {"image": image, "q_params": rows}
        arguments = correlated.model, params, examples
        whole = gaps.measure_gaps(*arguments, make_config(**quick))[1]
        spread = devices.spread(devices.make_mesh(4))
        other = gaps.measure_gaps(*arguments, make_config(**quick, chunk_images=130), spread)[
            1
        ]  # 4 examples in a chunk
    for name, values in other.items():
        np.testing.assert_allclose(whole[name], values, rtol=1e-6, atol=1e-6, err_msg=name)


def to_double(tree):
    return jax.tree.map(lambda array: np.asarray(array, np.float64), tree)


class Bumps(NamedTuple):
    """A likelihood of z alone: log sum_m weight_m exp(-|z - center_m|^2 / (2 width^2))."""

    z: jax.Array  # [K, B, Z]
    centers: jax.Array  # [M, Z]
    log_weights: jax.Array  # [M]
    width: jax.Array

    def log_prob(self, x):
        square = ((self.z[..., None, :] - self.centers) ** 2).sum(-1)
        return jax.nn.logsumexp(self.log_weights - 0.5 * square / self.width**2, axis=-1)


def bumps(params, z, condition=None):
    return Bumps(z, **params)


def test_the_better_of_two_starts_is_taken_for_each_example():
    """A high mode at 3, a low one at -3. Untrained rows are at -3; of the inferred ones half are at 3, half too far."""
    params = {"centers": jnp.array([[3.0, 0], [-3.0, 0]]), "log_weights": jnp.log(jnp.array([0.9, 0.1])), "width": 0.3}
    model = make_toy(bumps, 2, constant_rows([-3.0, 0.0], -1.0))
    near, far = np.tile([3.0, 0.0], (4, 1)), np.tile([5000.0, 5000.0], (4, 1))
    examples = make_examples(np.zeros((8, 1)), np.concatenate([near, far]), -np.ones((8, 2)))
    config = make_config(num_examples=8, elbo_samples=2000, num_samples=10)
    numbers, values = gaps.measure_gaps(model, params, examples, config)
    assert (values["q_star_start"][:4] < 2).all() and (values["q_star_start"][4:] == 2).all()
    assert numbers["q_star_from_start"]["value"] == 0.5
    # log p = log of 2 pi s^2 N(center; 0, 1 + s^2) for the modes; each q* is nearly exact for its own
    log_modes = np.log([0.9, 0.1]) + np.log(0.09 / 1.09) - 0.5 * 9 / 1.09
    # the standard error of each, over keys: 0.027
    np.testing.assert_allclose(values["elbo_q_star"], log_modes.repeat(4), atol=0.12)


@pytest.mark.slow
def test_a_flow_covers_two_modes_and_a_gaussian_one():
    """Two overlapping bumps on a diagonal: L[q*] < L[q* flow] < log p(x) = log N(center; 0, 1 + s^2) + log 2 pi s^2.

    IWAE from a q* that sits on one of them misses the other; AIS from the prior does not, and is what log p(x) becomes.
    """
    center, width = np.array([0.8, 0.8]), 0.5
    params = {"centers": jnp.array([center, -center]), "log_weights": jnp.log(jnp.array([0.5, 0.5])), "width": width}
    model = make_toy(bumps, 2, constant_rows([0.0, 0.0]))
    examples = make_examples(np.zeros((8, 1)), np.tile([1.0, 0.0], (8, 1)), -np.ones((8, 2)))
    changes = {"num_examples": 8, "elbo_samples": 1000, "flow.num_examples": 8, "flow.num_samples": 32}
    changes |= {"ais.num_examples": 8, "ais.num_chains": 256, "ais.starts": ("prior",)}
    numbers, _ = gaps.measure_gaps(model, params, examples, make_config(**changes))
    log_px = np.log(width**2 / (1 + width**2)) - 0.5 * (center**2).sum() / (1 + width**2)
    assert numbers["log_px"]["value"] == pytest.approx(log_px, abs=0.02)
    assert numbers["flow_gain"]["value"] > 0.3
    assert numbers["elbo_q_star_flow"]["value"] < log_px + 2 * numbers["elbo_q_star_flow"]["stderr"]


def test_the_flow_begins_as_q_star(correlated):
    """With weights as initialized the flow's rows describe the Gaussian itself."""
    flow = make_config().flow
    rows = gaps.start_flow(correlated.model, {}, {k: correlated.examples[k] for k in ("key", "q_params")}, flow)
    q = gaps.make_flow({}, rows)
    assert isinstance(q, CouplingFlow) and len(jax.tree.leaves(rows)) == 6
    assert rows["flow"]["in"].shape == (NUM, flow.layers, LATENT, flow.width)
    z = np.float32(correlated.mean)[None] + 0.1
    own = Normal(correlated.examples["q_params"]["mean"], correlated.examples["q_params"]["log_std"])
    np.testing.assert_allclose(jax.jit(q.log_prob)(z), own.log_prob(z), rtol=1e-4)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("ais.starts", ("posterior",), "config.gaps.ais.starts = .*different names of q, prior"),
        ("ais.schedule", "cosine", "config.gaps.ais.schedule = 'cosine': expected one of linear, sigmoidal"),
        ("fit.max_steps", 0, "config.gaps.fit.max_steps = 0"),
    ],
)
def test_bad_settings_are_one_line(key, value, message):
    with pytest.raises(ConfigError, match=message):
        make_config(**{key: value})
