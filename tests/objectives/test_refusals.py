"""Arguments of the bound that would give a wrong number."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from small_model import KEY, B, DistraxBernoulli, K, Z, assert_close, normal_draw, our_decoder, their_q

from vae_jax.distributions import basic
from vae_jax.distributions.gaussians import NormalMixture
from vae_jax.distributions.likelihoods import Categorical
from vae_jax.objectives.elbo import elbo_fn


def test_distraxs_draws_are_understood(rows, key):
    """A q whose methods take keywords alone; of keys of examples it takes the first."""

    class DistraxNormal(DistraxBernoulli):
        def __init__(self):
            self.q = their_q(rows)

    for keys in (key, jax.random.split(key, B)):
        terms = elbo_fn(keys, rows["x"], DistraxNormal(), our_decoder(rows), num_samples=K)
        assert_close(terms, elbo_fn(keys, rows["x"], their_q(rows), our_decoder(rows), num_samples=K), rtol=1e-6)


def broken(**changes):
    """The arguments of `elbo_fn` with K = 3, B = 4, Z = 2 and D = 5, some of them replaced."""
    zeros = jnp.zeros
    right = {
        "key": KEY,
        "x": np.zeros((B, 5), np.float32),
        "q": basic.Normal(zeros((B, Z)), zeros((B, Z))),
        "decode": lambda z: basic.Bernoulli(zeros((K, B, 5))),
        "prior": None,
        "num_samples": K,
    }
    return lambda **more: elbo_fn(**right | changes, **more)


def numpyro_logits(*shape):
    return lambda z: dist.Bernoulli(logits=jnp.zeros(shape)).to_event(1)


class PairOfLayers:
    """A q of two layers, whose z is a dict."""

    def sample(self, key, sample_shape=()):
        return {"z1": jnp.zeros((*sample_shape, B, Z)), "z2": jnp.zeros((*sample_shape, B, Z))}

    def log_prob(self, z):
        return jnp.zeros(z["z1"].shape[:-1])


WRONG = {
    "logits [K, B, 1]": ({"decode": lambda z: basic.Bernoulli(jnp.zeros((K, B, 1)))}, r"decode\(z\) .*\(1,\).*\(5,\)"),
    "logits of numpyro": ({"decode": numpyro_logits(K, B, 1)}, r"decode\(z\) .*\(1,\).*\(5,\)"),
    "x [B, 1]": ({"x": np.zeros((B, 1))}, r"decode\(z\) .*\(5,\).*\(1,\)"),
    "x [B, 1] and numpyro": ({"x": np.zeros((B, 1)), "decode": numpyro_logits(K, B, 5)}, r"decode\(z\) .*\(5,\)"),
    "levels [K, B, 1, L]": ({"decode": lambda z: Categorical(jnp.zeros((K, B, 1, 7)))}, r"\(1,\).*\(5,\)"),
    "prior [1]": ({"prior": basic.Normal(jnp.zeros(1), jnp.zeros(1))}, r"^prior .*\(1,\).*\(2,\)"),
    "standard normal [1]": ({"prior": basic.StandardNormal((1,))}, r"^prior .*\(1,\).*\(2,\)"),
    "mixture [C, 1]": ({"prior": NormalMixture(np.zeros(3), *np.zeros((2, 3, 1)))}, r"^prior .*\(1,\).*\(2,\)"),
    "prior of numpyro [1]": ({"prior": dist.Normal(jnp.zeros(1), 1).to_event(1)}, r"^prior .*\(1,\).*\(2,\)"),
    "no draws": ({"num_samples": 0}, r"num_samples = 0: expected K >= 1"),
    "an array from the decoder": ({"decode": lambda z: jnp.zeros((K, B, 5))}, r"decode\(z\) is a .*not a distribution"),
    "a seed": ({"key": 0}, r"key = 0: expected .*jax.random.key"),
    "an integer array": ({"key": jnp.int32(3)}, "key"),
    "a dict z": ({"q": PairOfLayers()}, r"z is a dict .*give its prior"),
    "swapped": (
        {"decode": basic.StandardNormal((Z,)), "prior": lambda z: basic.Bernoulli(z)},
        r"prior is a function, not a distribution \(order: key, x, q, decode, prior\)",
    ),
    "bytes": ({"x": np.full((B, 5), 255, np.uint8)}, r"\[0, 1\], not 255 to 255: divide bytes by 255, or binarize"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_would_be_a_wrong_number_is_one_line(case):
    changes, message = WRONG[case]
    for kl in ("auto", "monte_carlo"):
        with pytest.raises((ValueError, TypeError), match=message) as error:
            broken(**changes)(kl=kl)
    assert "\n" not in str(error.value) or case == "an integer array"  # jax's own message


def test_the_arguments_that_those_replace_are_right():
    assert broken()().elbo.shape == (B,)


@pytest.mark.parametrize("stop", ["both", True, "Q"])
def test_an_unknown_stop_is_refused(rows, stop):
    with pytest.raises(ValueError, match=r"stop = .*expected None, 'q' or 'z'"):
        normal_draw(rows["mean"], rows["log_std"], stop)
