"""Posterior x prior x likelihood x objective x network x inference: what goes together, and what is refused.

Every pair of choices occurs in some combination that is traced; a chosen few are trained, evaluated and sampled, and in
the slow suite all of them.
"""

import itertools
import random
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.commands import configuration
from vae_jax.data.splits import Info
from vae_jax.errors import ConfigError
from vae_jax.evaluation import bounds, generation
from vae_jax.evaluation.examples import fit_chunk, infer_q_params, mean_of_q
from vae_jax.models import families, inference, networks
from vae_jax.models.model import make_model, sample_prior
from vae_jax.objectives.loss import OBJECTIVES, make_loss, make_objective, make_refine, make_table_objective
from vae_jax.parallel import devices
from vae_jax.training import step
from vae_jax.training.optimizer import make_optimizer

SIGMA_MODES = ("learned", "per_dimension", "optimal")
AXES = {
    "model.posterior": tuple(families.POSTERIORS),
    "model.prior": tuple(families.PRIORS),
    "model.likelihood": (*families.LIKELIHOODS, *SIGMA_MODES),
    "objective.name": tuple(OBJECTIVES),
    "network": tuple(networks.NETWORKS),
    "inference.kind": tuple(inference.INFERENCES),
}
DOCS = Path(__file__).parents[2] / "docs" / "families.md"


def make_config(choice):
    """A small configuration of one choice on each axis; not validated."""
    config = configuration.default()
    config.data.binarization = "none"
    config.data.condition = "label" if choice["model.prior"] == "conditional" else "none"
    small = {"latent_dim": 3, "hidden": (5,), "channels": (2, 3), "upper_dim": 2, "upper_hidden": (4,), "components": 3}
    config.model.update({**small, "flow_layers": 2, "flow_width": 4, "flow_context": 2, "levels": 8, "mixture_size": 2})
    config.objective.update({"num_samples": 4, "groups": 2, "beta": 0.7, "free": 0.1, "capacity": 1.0, "code": 0.1})
    config.inference.steps = 2
    config.train.batch_size = 4
    for axis, value in choice.items():
        if axis == "network":
            config.model.encoder = config.model.decoder = value
        elif value in SIGMA_MODES:
            config.model.likelihood, config.model.sigma_mode = "normal", value
        else:
            config.update_from_flattened_dict({axis: value})
    return config


def plain_values():
    """The groups of a configuration as plain namespaces, which are read much faster."""
    config = make_config({axis: values[0] for axis, values in AXES.items()}).to_dict()
    return {group: values for group, values in config.items() if isinstance(values, dict)}


PLAIN = plain_values()


@cache
def holds(posterior, prior, name, kind):
    """Whether combinations of these four are refused: on plain namespaces, since the cover asks many times."""
    chosen = {
        "model": {"posterior": posterior, "prior": prior},
        "objective": {"name": name},
        "inference": {"kind": kind},
    }
    config = {group: SimpleNamespace(**values | chosen.get(group, {})) for group, values in PLAIN.items()}
    return any(refusal.holds for refusal in configuration.combinations(SimpleNamespace(**config)))


def valid(choice):
    """Whether the combination is allowed; likelihoods and networks go with everything."""
    return not holds(*(choice[axis] for axis in ("model.posterior", "model.prior", "objective.name", "inference.kind")))


def pairs_in(choice):
    return set(itertools.combinations(sorted(choice.items()), 2))


def dear(choice):
    """Less than a pair's worth: of combinations that cover as much, the one that takes the least time."""
    return 0.4 * (choice["inference.kind"] == "semi_amortized") + 0.2 * (choice["network"] in ("conv", "resnet"))


@cache
def cover():
    """(combinations in which every possible pair of choices occurs, the pairs that are impossible); always the same."""
    rng = random.Random(0)
    axes = sorted(AXES.items())
    everything = [((a, x), (b, y)) for (a, xs), (b, ys) in itertools.combinations(axes, 2) for x in xs for y in ys]
    uncovered, chosen, impossible = dict.fromkeys(everything), [], []
    while uncovered:
        pair = next(iter(uncovered))
        tries = ({axis: rng.choice(values) for axis, values in axes} | dict(pair) for _ in range(600))
        best = max(filter(valid, tries), key=lambda c: len(pairs_in(c) & uncovered.keys()) - dear(c), default=None)
        if best is None:
            impossible.append(pair)
            del uncovered[pair]
            continue
        chosen.append(best)
        for covered in pairs_in(best):
            uncovered.pop(covered, None)
    return chosen, impossible


NUM, CLASSES, EVENT = 16, 3, (8, 8, 1)


def make_info(config):
    return Info("test", EVENT, NUM, CLASSES, (0.0, 1.0), (CLASSES,) if config.data.condition == "label" else None)


def make_batch(config):
    """Images, rows and conditions for a batch of 4."""
    rng = np.random.default_rng(0)
    batch = {"image": rng.integers(0, 8, (4, *EVENT)).astype(np.float32) / 7, "index": np.arange(4)}
    if config.inference.kind == "per_datapoint":
        batch["slot"] = np.arange(4)
    if config.data.condition == "label":
        batch["condition"] = np.eye(CLASSES, dtype=np.float32)[[0, 1, 2, 0]]
    return batch


def the_loss(config):
    """A training loss as the driver makes it, from a key: sums over the batch."""
    model, batch = make_model(config, make_info(config)), make_batch(config)
    objective = make_objective(config, NUM, devices.NO_AXIS)
    if "gather" in objective.keywords:
        objective = partial(objective, gather=None)
    loss = make_loss(model, objective, make_refine(config))
    weights = {name: config.objective[name] for name in OBJECTIVES[config.objective.name].weights}

    def value(key):
        params, rows = model.init(key, batch["image"], batch.get("condition"))
        rows = jax.tree.map(lambda column: column[:4], rows)
        return loss(params, rows, batch, [jax.random.split(key, 4)] * 5, weights)

    return value


def test_every_possible_pair_is_covered_and_the_others_are_refused_by_name():
    chosen, impossible = cover()
    covered = set().union(*map(pairs_in, chosen))
    assert len(covered) + len(impossible) == sum(
        len(xs) * len(ys) for xs, ys in itertools.combinations(AXES.values(), 2)
    )
    assert len(chosen) < 260 and not covered & set(impossible)
    plain = {axis: values[0] for axis, values in AXES.items()}
    for pair in impossible:
        with pytest.raises(ConfigError, match="cannot go with"):
            configuration.validate(make_config(plain | dict(pair)))


@pytest.mark.parametrize("key, family", [("model.posterior", "coupling"), ("model.prior", "flow")])
def test_a_flow_in_which_one_part_moves_the_other_needs_two(key, family):
    config = configuration.default()
    config.update_from_flattened_dict({key: family, "model.latent_dim": 2})
    configuration.validate(config)
    config.model.latent_dim = 1
    with pytest.raises(ConfigError, match="latent_dim >= 2"):
        configuration.validate(config)


@pytest.mark.parametrize("prior", families.PRIORS)
def test_mmd_needs_draws_of_the_prior_that_carry_its_gradient(prior):
    """And one prior for all examples; the weights of a VampPrior's components are not learned."""
    choice = {"model.prior": prior, "objective.name": "mmd"}
    choice |= {"model.posterior": "two_layer"} if prior == "two_layer" else {}
    if prior in ("standard_normal", "flow", "vamp"):
        configuration.validate(make_config(choice))
    else:
        with pytest.raises(
            ConfigError, match=f"objective.name = mmd cannot go with model.prior = {prior}: .* use vamp"
        ):
            configuration.validate(make_config(choice))


def test_each_refusal_says_what_to_do_and_is_in_the_docs():
    """docs/families.md lists all of them, and none that there is not."""
    refusals = configuration.combinations(configuration.default())
    assert all(any(word in refusal.why for word in ("use ", "leave ", "need ")) for refusal in refusals)
    rows = {f"| `{refusal.keys[0]}` | `{refusal.keys[1]}` | {refusal.why} |" for refusal in refusals}
    listed = {line for line in DOCS.read_text().splitlines() if line.startswith("| `") and line.count("`") == 4}
    assert rows == {line for line in listed if line.count("|") == 4}


def test_every_pair_traces():
    """Initialization, inference, bound, objective and likelihood of each combination, in shapes."""
    for choice in cover()[0]:
        config = make_config(choice)
        config.model.update({"hidden": (), "upper_hidden": (), "channels": (2,)})  # each layer more takes its time
        config.inference.steps = 1
        loss, report = jax.eval_shape(the_loss(configuration.validate(config)), jax.random.key(0))
        assert loss.shape == () and loss.dtype == np.float32, choice
        assert ("elbo" in report) == (choice["objective.name"] != "autoencoder"), choice


@cache
def twenty():
    """Twenty of the combinations, in which every choice on every axis occurs."""
    chosen, seen = [], set()
    rest = list(cover()[0])
    while len(chosen) < 20:
        best = max(rest, key=lambda choice: len(choice.items() - seen))
        chosen.append(best)
        rest.remove(best)
        seen |= best.items()
    assert seen == {(axis, value) for axis, values in AXES.items() for value in values}
    return chosen


@partial(jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})
def train_evaluate_sample(config, key):
    """(state before, state after three steps, their metrics, `measure` of the batch), as one program: compiled once."""
    model, batch = make_model(config, make_info(config)), make_batch(config)
    objective = make_objective(config, NUM, devices.NO_AXIS)
    if "gather" in objective.keywords:
        objective = partial(objective, gather=None)
    updates = step.TableUpdates(model.ascent, make_table_objective(config, objective), lambda *_: (0.1, 0.1), 2)
    train_step = step.make_train_step(
        model,
        make_optimizer(config.optimizer),
        objective,
        learning_rate=lambda hyper, step: 0.01,
        refine=make_refine(config),
        table_updates=updates if inference.has_table(config) else None,
    )
    weights = {name: jnp.float32(config.objective[name]) for name in OBJECTIVES[config.objective.name].weights}
    start = step.init_state(
        model, make_optimizer(config.optimizer), key, batch["image"], batch.get("condition"), index=np.arange(NUM)
    )
    one = lambda state, _: train_step(key, {"objective": weights}, state, batch)
    state, metrics = jax.lax.scan(one, start, length=3)
    return start, state, metrics, measure(model, config, state.params, {**batch, "key": jax.random.split(key, 4)})


def measure(model, config, params, examples):
    """Numbers of the examples, with rows found as the config says; reconstructions, and samples and their means."""
    if inference.has_table(config):
        examples |= fit_chunk(model, params, examples, config.fit)
    else:
        examples["q_params"] = infer_q_params(model, params, examples)
    numbers = bounds.elbo_terms(model, params, examples, 2)
    if "elbo" in numbers:
        numbers |= bounds.importance_log_px(model, params, examples, 3, 2)
    examples["mean"] = mean_of_q(model, params, examples)
    condition, key = examples.get("condition"), examples["key"][0]
    drawn = model.decode(params, sample_prior(model, params, key, 4, condition), condition).sample(key)[0]
    images = [
        generation.reconstruct(model, params, examples),
        generation.prior_means(model, params, key, 4, condition),
        drawn,
    ]
    return numbers, images


def require_it_works(choice):
    config = make_config(choice)
    config.fit.update({"num_samples": 2, "max_steps": 2, "window": 1})
    start, state, metrics, (numbers, images) = train_evaluate_sample(configuration.validate(config), jax.random.key(0))
    for leaf in jax.tree.leaves((state.params, state.table, metrics, numbers, images)):
        assert np.isfinite(leaf).all()
    for part, leaves in state.params.items():
        moved = jax.tree.leaves(jax.tree.map(lambda old, new: np.any(old != new), start.params[part], leaves))
        assert np.mean(moved) > 0.5, part
    assert ("log_px" in numbers) == (choice["model.posterior"] != "dirac")
    assert all(value.shape == (4,) for value in numbers.values())
    assert all(image.shape == (4, *EVENT) for image in images)


def name_of(choice):
    return "-".join(str(choice[axis]) for axis in AXES)


SOME = [number if number in (0, 5) else pytest.param(number, marks=pytest.mark.slow) for number in range(20)]


@pytest.mark.parametrize("number", SOME)
def test_twenty_train_evaluate_and_sample(number):
    require_it_works(twenty()[number])


@pytest.mark.slow
@pytest.mark.exhaustive
def test_all_train_evaluate_and_sample():
    for choice in cover()[0]:
        try:
            require_it_works(choice)
        except Exception as error:
            raise AssertionError(name_of(choice)) from error
        jax.clear_caches()
