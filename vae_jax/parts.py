"""The parts of a training step that a configuration names: objective, its weights over time, what the encoder sees."""

from functools import partial

import jax
import jax.numpy as jnp

from vae_jax.objectives import OBJECTIVES, to_refine


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


def make_corruption(config):
    """(keys, x) -> what the encoder of a denoising model sees; None without noise. Vincent et al. (2008)."""
    noise, dropout = config.input_noise, config.input_dropout
    if not noise and not dropout:
        return None

    def corrupt(key, x):
        kept, added = jax.random.split(key)
        x = x + noise * jax.random.normal(added, x.shape)
        return jnp.where(jax.random.bernoulli(kept, dropout, x.shape), 0, x)

    return jax.vmap(corrupt)
