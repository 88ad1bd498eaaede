"""Benchmarks whose claim is a number, on a tiny case."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

pytest.importorskip("numpyro", reason="needs NumPyro: pip install -e '.[test]'")
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import numpyro_svi


@pytest.mark.slow
def test_our_mode_and_numpyros_svi_reach_one_bound():
    """With the decoder fixed all three fits of q end at one ELBO, far above where they began."""
    sizes = {"num_train": 20, "hidden": (8,), "latent_dim": 2, "batch_size": 10}
    (run,) = numpyro_svi.compare(False, 1, 400, 40, **sizes)
    ends = {name: parts[-1][1] for name, parts in run.items()}
    assert run["ours"][0][1] < ends["ours"]
    assert ends == pytest.approx(dict.fromkeys(ends, ends["ours"]), abs=0.05)
    rows = list(numpyro_svi.summarize([run, run]))
    assert [row[0] for row in rows] == ["ours", "local_guide", "auto_normal"] and rows[0][2] == "0.000 ± 0.000"


@pytest.mark.slow
def test_the_two_bounds_are_one_function():
    """NumPyro's own loss at our q and decoder, over many draws, is minus our ELBO summed over images."""
    setup = numpyro_svi.make_setup("per_datapoint", 10, num_train=10, hidden=(8,), latent_dim=2, batch_size=10)
    examples = numpyro_svi.setups.split_of(setup, "train")
    start, advance, fitted = numpyro_svi.ours(setup, True, examples)
    decoder, q_params = fitted(advance(start(0, numpyro_svi.setups.make_init(setup)().params["decoder"]), 10))
    chunk = {"image": examples["image"], "key": examples["key"], "q_params": q_params}
    elbo = numpyro_svi.elbo_terms(setup.model, {"decoder": decoder}, chunk, 4000)["elbo"].sum()
    model, guide = numpyro_svi.written(setup, False, jnp.asarray(examples["image"]), 10)
    loss = numpyro_svi.TraceMeanField_ELBO(num_particles=4000).loss
    theirs = loss(jax.random.key(1), q_params, model, guide, jnp.asarray(examples["image"]), decoder)
    assert float(theirs) == pytest.approx(-float(elbo), abs=0.5)
