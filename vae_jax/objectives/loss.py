"""Objectives by name, their weights over time, and the loss that a training step differentiates."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp

from vae_jax.config import NO_KEYS, NOT_NEGATIVE, WIDEST, Check, Key, at_least, keys_of, one_of
from vae_jax.keys import Use
from vae_jax.objectives import importance
from vae_jax.objectives.elbo import Paired
from vae_jax.objectives.regularized import autoencoder, beta_elbo, beta_tc, capacity, elbo, free_bits, mmd


def make_objective(config, num_train, axis):
    """The objective of a config with all its arguments but the weights; `axis` are the devices beside this one."""
    name, options = config.objective.name, {"num_samples": config.objective.num_samples, "kl": config.objective.kl}
    objective = OBJECTIVES[name]
    if objective.coupled:
        options |= {"num_examples": num_train, "gather": axis.gather}
    return partial(objective.function, **options, **{option: config.objective[option] for option in objective.options})


def paired(function, num_samples, stopped):
    """An objective as q_params ascend it by themselves: with draws of their own number, `Paired`."""

    def value(key, x, q, decode, prior, **weights):
        return function(key, x, Paired(q, stopped), decode, prior, num_samples=num_samples, **weights)

    return value


def make_table_objective(config, objective):
    """What the entries of a table ascend: `objective`, with less noise where it may."""
    own = OBJECTIVES[config.objective.name]
    return paired(own.function, config.inference.num_samples, stopped=True) if own.pairs else objective


def make_refine(config):
    """What refinement ascends where that is not the objective as it is: with less noise, or the ELBO; else None."""
    name = to_refine(config.objective.name)
    if not OBJECTIVES[name].pairs:
        return None
    value = paired(OBJECTIVES[name].function, config.inference.num_samples, stopped=False)
    alone = lambda key, x, q, decode, prior, **weights: value(key, x, q, decode, prior)  # the weights are another's
    return value if name == config.objective.name else alone


def make_weights(config, epoch_steps, num_steps):
    """weights(hyper, step) -> an objective's weights, one of them on the schedule of `config` (config.objective)."""

    def share(hyper, step):
        if config.schedule == "linear":  # Bowman et al. (2016)
            return jnp.minimum(1.0, step / (hyper["schedule_epochs"] * epoch_steps))
        within = step * config.cycles % num_steps / num_steps  # Fu et al. (2019): half a cycle up, half level
        return jnp.minimum(1.0, 2 * within)

    def weights(hyper, step):
        values, name = hyper["objective"], OBJECTIVES[config.name].scheduled
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
        bound = lambda keys, x, q: (refine or objective)(keys, x, q, decode, prior, **weights)[0]
        seen = batch if corrupt is None else {**batch, "image": corrupt(keys[Use.TRAIN_CORRUPT], batch["image"])}
        q_params = model.infer(params, q_params, keys[Use.TRAIN_REFINE], seen, bound)
        each, terms = value(keys[Use.TRAIN_DRAW], batch["image"], model.make_q(params, q_params))
        report = {"objective": each, "elbo": terms.elbo, "log_likelihood": terms.log_likelihood, "kl": terms.kl}
        # an autoencoder has no ELBO and no KL
        return -each.sum(), {name: values.sum() for name, values in report.items() if values is not None}

    return loss


class Objective(NamedTuple):
    """An objective, and what the training step and the checks of a configuration have to know of it."""

    function: Callable
    weights: dict = NO_KEYS  # its scalar arguments {name: Key}, passed traced, so that a sweep need not recompile
    options: dict = NO_KEYS  # its other arguments {name: Key}
    scheduled: str = ""  # the weight that objective.schedule moves; '': none
    density: bool = False  # asks for q's density elsewhere than at its own draws
    coupled: bool = False  # takes num_examples and gather: an example's value depends on its batch
    surrogate: bool = False  # a gradient estimator, not to be differentiated twice
    bound: bool = True  # on log p(x), so q must have a density
    factorizes: bool = False  # q and p must be products over dimensions
    pairs: bool = False  # linear in log q, and of each example by itself: draws may be `Paired`
    one_prior: bool = False  # z is one array, and draws of its prior, the same for all examples, carry its gradient
    least_samples: int = 1

    @property
    def keys(self):
        return self.weights | self.options


OWN_KEYS = {
    "beta": Key(1.0, "weight of the KL in beta, capacity and mmd, of the total correlation in beta_tc", NOT_NEGATIVE),
    "reconstruction": Key(1.0, "beta: weight of the reconstruction; 0 leaves the KL alone", NOT_NEGATIVE),
    "capacity": Key(0.0, "capacity: nats of KL, a batch's mean, that are free of charge, and asked for", NOT_NEGATIVE),
    "free": Key(0.0, "free_bits: nats of KL of each dimension that are free of charge", NOT_NEGATIVE),
    "mmd": Key(10.0, "mmd: weight of the squared distance between aggregate posterior and prior", NOT_NEGATIVE),
    "code": Key(0.0, "autoencoder: weight of |z|^2 / 2", NOT_NEGATIVE),
    "alpha": Key(0.5, "vr: its order; ciwae: the share of the ELBO", NOT_NEGATIVE),
    "groups": Key(1, "miwae, piwae: groups of the K draws", at_least(1)),
    "partitions": Key(5, "tvo: points of the Riemann sum", at_least(1, 1000)),
    "first": Key(0.03, "tvo: the first of its points after 0", Check(lambda v: 0 < v < 1, "a number in (0, 1)")),
}


def own(*names):
    return {name: OWN_KEYS[name] for name in names}


OBJECTIVES = {
    "elbo": Objective(elbo, pairs=True),
    "beta": Objective(beta_elbo, own("beta", "reconstruction"), scheduled="beta", pairs=True),
    "capacity": Objective(capacity, own("beta", "capacity"), scheduled="capacity", coupled=True),
    "free_bits": Objective(free_bits, own("free"), coupled=True),
    "beta_tc": Objective(beta_tc, own("beta"), scheduled="beta", density=True, coupled=True, factorizes=True),
    "mmd": Objective(mmd, own("beta", "mmd"), scheduled="beta", coupled=True, one_prior=True),
    "iwae": Objective(importance.iwae),
    "stl": Objective(importance.stl, density=True, surrogate=True),
    "dreg": Objective(importance.dreg, density=True, surrogate=True),
    "miwae": Objective(importance.miwae, options=own("groups")),
    "piwae": Objective(importance.piwae, options=own("groups"), surrogate=True),
    "ciwae": Objective(importance.ciwae, own("alpha")),
    "vr": Objective(importance.vr, own("alpha")),
    "tvo": Objective(importance.tvo, own("first"), own("partitions"), density=True, surrogate=True, least_samples=2),
    "autoencoder": Objective(autoencoder, own("code"), bound=False),
}
SCHEDULES = one_of(("constant", "linear", "cyclical"))
KEYS = {
    "objective.name": Key("elbo", "what training ascends", one_of(OBJECTIVES)),
    "objective.num_samples": Key(1, "K draws of z for each example", at_least(1, WIDEST)),
    "objective.kl": Key("auto", "closed form where there is one; or monte_carlo", one_of(("auto", "monte_carlo"))),
    "objective.schedule": Key("constant", "of one weight; linear and cyclical rise from 0", SCHEDULES),
    "objective.schedule_epochs": Key(10, "linear: until the full weight", at_least(1)),
    "objective.cycles": Key(4, "cyclical: rises in a run, each over half a cycle", at_least(1)),
}


def objective_keys():
    """{key: Key} of config.objective: those of every objective, and those that single ones declare."""
    return KEYS | keys_of("objective", OBJECTIVES)


def to_refine(name):
    """The objective that refinement ascends: itself if each example's value is its own and the gradient is that of the
    value; otherwise the ELBO."""
    objective = OBJECTIVES[name]
    return "elbo" if objective.coupled or objective.surrogate else name
