"""Units: what log p(x|z) is of the data at hand, by sums over all levels, and what it is then called."""

import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import console
from vae_jax.commands import configuration
from vae_jax.evaluation import summary
from vae_jax.evaluation.examples import summarize
from vae_jax.models.families import LIKELIHOODS
from vae_jax.models.model import make_model
from vae_jax.reports import page, tables

BINARY = np.float32([[0, 1], [1, 1], [0, 0]])
GREY = np.arange(6, dtype=np.float32).reshape(3, 2) / 16  # of 17 levels
PLAIN = {"nats": "nats", "bits/dim": "bits/dim"}
DENSITY = {"nats": "nats", "bits/dim": "differential bits/dim"}
CROSS_ENTROPY = {"nats": "nats of cross-entropy", "bits/dim": "bits/dim of cross-entropy"}
ROUNDED = {unit: f"{unit} of x rounded to 256 levels" for unit in PLAIN}


@pytest.fixture
def measured(monkeypatch):
    """measured(likelihood, x, levels) -> what `measure_all` calls made-up numbers of such a model and data."""
    both = lambda name: {name: summarize([1.0, 3.0]), f"{name}_bits_per_dim": summarize([0.5, 1.5], "bits/dim")}
    bound = both("elbo") | {name: summarize([1.0, 2.0]) for name in ("log_likelihood", "kl")}
    monkeypatch.setattr(summary, "bound_numbers", lambda *_: bound)
    monkeypatch.setattr(summary, "likelihood_numbers", lambda *_: both("nll") | {"ess": summarize([2.0], "of 4")})
    monkeypatch.setattr(summary, "squared_error", lambda *_: [0.5])
    monkeypatch.setattr(summary, "normal_sigma", lambda *_: None)

    def measured(likelihood, x, levels=17):
        config = configuration.default()
        config.model.update({"likelihood": likelihood, "levels": levels})
        model = make_model(config, SimpleNamespace(event_shape=x.shape[1:], condition_shape=None))
        examples = {"image": x, "mean": np.zeros((len(x), 2)), "index": np.arange(len(x))}
        return summary.measure_all(model, None, examples, config, shown=False)

    return measured


@pytest.mark.parametrize(
    "likelihood, x, levels, expected",
    [
        ("bernoulli", BINARY, 17, PLAIN),
        ("bernoulli", GREY, 17, CROSS_ENTROPY),
        ("categorical", GREY, 17, PLAIN),
        ("beta_binomial", GREY, 256, ROUNDED),
        ("logistic", np.float32(np.arange(6).reshape(3, 2) * 51 / 255), 256, PLAIN),
        ("normal", GREY, 17, DENSITY),
        ("continuous_bernoulli", BINARY, 17, DENSITY),
    ],
)
def test_units_say_what_the_numbers_are(measured, likelihood, x, levels, expected):
    numbers = measured(likelihood, x, levels)
    name, other = ("cross_entropy", "nll") if expected is CROSS_ENTROPY else ("nll", "cross_entropy")
    units = {found: number["unit"] for found, number in numbers.items()}
    assert units["kl"] == "nats" and not any(found.startswith(other) for found in units)
    assert {units[found] for found in ("elbo", "log_likelihood", name)} == {expected["nats"]}
    assert {units[f"{found}_bits_per_dim"] for found in ("elbo", name)} == {expected["bits/dim"]}


def test_what_is_said_of_a_grey_bernoulli_is_shown_everywhere(measured):
    """Terminal, page and table call it a cross-entropy, and the condition is named beside it."""
    numbers = measured("bernoulli", GREY)
    text = console.table({"splits": {"test": numbers}})
    assert "cross_entropy " in text and "nats of cross-entropy" in text and "nll" not in text
    html = page.headline({"test": numbers})
    assert "cross-entropy</div>" in html and "bits/dim of cross-entropy" in html and "NLL" not in html
    assert tables.label("test.cross_entropy") == "test cross-entropy"
    config = SimpleNamespace(data=SimpleNamespace(condition="label"))
    model, examples = SimpleNamespace(levels=2, rounds=False), {"image": GREY, "condition": None}
    given = {
        "nll": "nats",
        "elbo_bits_per_dim": "bits/dim",
        "kl": "nats",
        "log_px_from_q": "nats, 7 draws",
        "ess": "of 7",
    }
    numbers = {name: {"value": 1.0, "unit": unit} for name, unit in given.items()}
    named = summary.name_units(numbers, model, examples, config)
    assert {name: number["unit"] for name, number in named.items()} == {
        "cross_entropy": "nats of cross-entropy given the label",
        "elbo_bits_per_dim": "bits/dim of cross-entropy given the label",
        "kl": "nats given the label",
        "log_px_from_q": "nats of cross-entropy given the label, 7 draws",
        "ess": "of 7",
    }


def test_one_value_off_the_levels_counts():
    """The last of many images is looked at too, and a level in float32 is a level."""
    model = lambda levels, rounds: SimpleNamespace(levels=levels, rounds=rounds)
    for levels in (2, 17, 256, 1024):
        x = np.float32(np.arange(levels) / (levels - 1)).reshape(-1, 1)
        assert summary.kind_of(model(levels, True), np.tile(x, (3, 1))) == ("", "")
    many = np.zeros((2500, 2), np.float32)
    many[-1, 1] = 0.5
    assert summary.kind_of(model(2, False), many) == ("", " of cross-entropy")
    for outside in (-1.0, 2.0):
        assert summary.kind_of(model(2, False), np.float32([[outside]]))[1]


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_likelihood_with_levels_is_a_distribution_on_them(name):
    """The probabilities of all images of two elements add up to one; a value between counts as the nearest, if said."""
    config = configuration.default().model
    config.levels = 3
    shape = (2, 1)
    likelihood = LIKELIHOODS[name](config, shape)
    outputs = jax.random.normal(jax.random.key(1), (1, 1, *shape, likelihood.num_outputs))
    p = likelihood.make({}, outputs)
    compiled = jax.jit(lambda x: p.log_prob(x))
    log_prob = lambda grid: np.float64(compiled(jnp.float32(list(itertools.product(grid, repeat=2)))[..., None]))
    if not likelihood.levels:
        points, weights = np.polynomial.legendre.leggauss(12)
        integral = weights @ np.exp(log_prob((points + 1) / 2)).reshape(12, 12) @ weights / 4
        assert name == "normal" or integral == pytest.approx(1, abs=1e-5)  # a normal leaves [0, 1]
        return
    levels = np.arange(likelihood.levels) / (likelihood.levels - 1)
    assert np.exp(log_prob(levels)).sum() == pytest.approx(1, abs=1e-5)
    near = np.exp(log_prob(np.clip(levels + 0.1, 0, 0.9))).sum()
    assert (near == pytest.approx(1, abs=1e-5)) == likelihood.rounds


def test_a_grey_bernoullis_number_bounds_the_cross_entropy_of_binary_images():
    """-log E_z[s^x (1-s)^(1-x)] >= E_b[-log p(b)], b ~ Bernoulli(x), with equality at binary x; z is one of three."""
    s = np.random.default_rng(0).uniform(size=(3, 2))
    log_p = lambda x: np.log(np.mean(np.prod(s**x * (1 - s) ** (1 - x), -1)))
    for x in (np.array([0.3, 0.9]), np.array([0.5, 0.1]), np.array([1.0, 0.0])):
        binary = list(itertools.product((0, 1), repeat=2))
        expected = sum(-np.prod(np.where(b, x, 1 - x)) * log_p(np.array(b)) for b in binary)
        assert -log_p(x) >= expected - 1e-12 and (-log_p(x) == pytest.approx(expected)) == (set(x) <= {0, 1})
