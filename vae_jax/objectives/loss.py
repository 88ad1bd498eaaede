"""Objectives by name, their weights over time, and the loss that a training step differentiates."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp

from vae_jax.keys import Use
from vae_jax.objectives import importance
from vae_jax.objectives.regularized import autoencoder, beta_elbo, beta_tc, capacity, elbo, free_bits, mmd


def make_objective(config, num_train, axis):
    """The objective of a config with all its arguments but the weights; `axis` are the devices beside this one."""
    name, options = config.objective.name, {"num_samples": config.objective.num_samples, "kl": config.objective.kl}
    objective = OBJECTIVES[name]
    if objective.coupled:
        options |= {"num_examples": num_train, "gather": axis.gather}
    return partial(objective.function, **options, **{option: config.objective[option] for option in objective.options})


def make_refine(config):
    """What refinement ascends under an objective that cannot serve, for `config` (config.objective); None if it can."""
    name = to_refine(config.name)
    options = {"num_samples": config.num_samples, "kl": config.kl}
    return None if name == config.name else partial(OBJECTIVES[name].function, **options)


SCHEDULED = {"beta": "beta", "beta_tc": "beta", "mmd": "beta", "capacity": "capacity"}  # objective -> weight


def make_weights(config, epoch_steps, num_steps):
    """weights(hyper, step) -> an objective's weights, one of them on the schedule of `config` (config.objective)."""

    def share(hyper, step):
        if config.schedule == "linear":  # Bowman et al. (2016)
            return jnp.minimum(1.0, step / (hyper["schedule_epochs"] * epoch_steps))
        within = step * config.cycles % num_steps / num_steps  # Fu et al. (2019): half a cycle up, half level
        return jnp.minimum(1.0, 2 * within)

    def weights(hyper, step):
        values, name = hyper["objective"], SCHEDULED.get(config.name)
        return values if config.schedule == "constant" else {**values, name: values[name] * share(hyper, step)}

    return weights


def make_loss(model, objective, refine=None, corrupt=None):
    """loss(params, q_params, batch, keys, weights) -> (minus the sum over the batch of the objective, sums to report).

    `refine` is the objective that semi-amortized inference ascends, by default the same, and `corrupt` (keys, x) -> x
    what the encoder sees in place of x; see `make_train_step`.
    """

    def loss(params, q_params, batch, keys, weights):
        condition = batch.get("condition")
        decode, prior = lambda z: model.decode(params, z, condition), model.prior(params, condition)
        value = lambda keys, x, q: objective(keys, x, q, decode, prior, **weights)
        bound = lambda keys, x, q: (refine(keys, x, q, decode, prior) if refine else value(keys, x, q))[0]
        seen = batch if corrupt is None else {**batch, "image": corrupt(keys[Use.TRAIN_CORRUPT], batch["image"])}
        q_params = model.infer(params, q_params, keys[Use.TRAIN_REFINE], seen, bound)
        each, terms = value(keys[Use.TRAIN_DRAW], batch["image"], model.make_q(params, q_params))
        report = {"objective": each, "elbo": terms.elbo, "log_likelihood": terms.log_likelihood, "kl": terms.kl}
        # an autoencoder has no ELBO and no KL
        return -each.sum(), {name: values.sum() for name, values in report.items() if values is not None}

    return loss


class Objective(NamedTuple):
    """An objective, and what the training step has to know of it."""

    function: Callable
    weights: tuple = ()  # names of its scalar arguments, passed traced, so that a sweep need not recompile
    options: tuple = ()  # names of its other arguments
    density: bool = False  # asks for q's density elsewhere than at its own draws
    coupled: bool = False  # takes num_examples and gather
    surrogate: bool = False  # a gradient estimator, not to be differentiated twice


OBJECTIVES = {
    "elbo": Objective(elbo),
    "beta": Objective(beta_elbo, ("beta", "reconstruction")),
    "capacity": Objective(capacity, ("beta", "capacity")),
    "free_bits": Objective(free_bits, ("free",), coupled=True),
    "beta_tc": Objective(beta_tc, ("beta",), density=True, coupled=True),
    "mmd": Objective(mmd, ("beta", "mmd"), coupled=True),
    "iwae": Objective(importance.iwae),
    "stl": Objective(importance.stl, density=True, surrogate=True),
    "dreg": Objective(importance.dreg, density=True, surrogate=True),
    "miwae": Objective(importance.miwae, options=("groups",)),
    "piwae": Objective(importance.piwae, options=("groups",), surrogate=True),
    "ciwae": Objective(importance.ciwae, ("alpha",)),
    "vr": Objective(importance.vr, ("alpha",)),
    "tvo": Objective(importance.tvo, ("first",), options=("partitions",), density=True, surrogate=True),
    "autoencoder": Objective(autoencoder, ("code",)),
}


def to_refine(name):
    """The objective that refinement ascends: itself if each example's value is its own and the gradient is that of the
    value; otherwise the ELBO."""
    objective = OBJECTIVES[name]
    return "elbo" if objective.coupled or objective.surrogate else name
