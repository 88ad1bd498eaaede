"""experiments/zoo.py: a variant for every family, likelihood, objective and way of finding q, each of which trains."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

from vae_jax.commands import configuration
from vae_jax.models import families, inference
from vae_jax.objectives.loss import OBJECTIVES
from vae_jax.parallel import devices
from vae_jax.training import setup as setups
from vae_jax.training.program import make_program, training_data

FILE = Path(__file__).parents[2] / "experiments" / "zoo.py"
STEPS = 3


def load():
    spec = importlib.util.spec_from_file_location("zoo", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ZOO = load()


@pytest.mark.parametrize(
    "key, names",
    [
        ("model.posterior", families.POSTERIORS),
        ("model.prior", families.PRIORS),
        ("model.likelihood", families.LIKELIHOODS),
        ("objective.name", OBJECTIVES),
        ("inference.kind", inference.INFERENCES),
    ],
)
def test_every_name_has_a_variant(key, names):
    default = configuration.keys()[key].default
    assert {changes.get(key, default) for changes in ZOO.VARIANTS.values()} == set(names)


@pytest.mark.parametrize("variant", ZOO.VARIANTS)
@pytest.mark.slow
def test_it_trains(variant):
    """Three steps on 100 digits with a narrow network: every number is finite, and every learned part moves."""
    config = ZOO.get_config(variant)
    config.data.num_train, config.train.batch_size, config.model.hidden = 100, 20, (8,)
    config.model.flow_width, config.model.components, config.optimizer.ema = 8, 4, 0.0
    config.optimizer.schedule, config.objective.schedule = "constant", "constant"
    setup = setups.make_setup(configuration.validate(config), 1)
    hyper = devices.put_replicated(setup.mesh, setups.hyperparameters(setup.config))
    state = setups.make_init(setup)()
    start = jax.device_get(state)  # the state is given up to the program
    new, metrics = jax.device_get(make_program(setup)(STEPS)(hyper, state, training_data(setup)))
    assert new.step == STEPS and all(np.isfinite(values).all() for values in metrics.values()), metrics
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(new.params))
    for part in start.params:
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), start.params[part], new.params[part])
        fixed = part == "prior" and config.model.vamp_inputs == "data"
        assert (max(jax.tree.leaves(moved)) > 0) != fixed, part
    if start.table != ():
        moved = [np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (start.table, new.table)), strict=True)]
        assert max(moved) > 0
