"""Every number of a split, as the summary of a run stores it: {name: {value, stderr, unit}}."""

from vae_jax import console
from vae_jax.evaluation import bounds, latent_space
from vae_jax.evaluation.examples import conditional_on, summarize
from vae_jax.evaluation.generation import squared_error
from vae_jax.evaluation.latent_space import active_units

GIVEN = {"label": "the label", "upper": "the upper half"}  # config.data.condition -> what a number is conditional on


def name_condition(numbers, examples, config):
    """The numbers of a run, of a conditional model in units that say so; `config` is the run's."""
    if "condition" not in examples:
        return numbers
    return conditional_on(numbers, GIVEN.get(config.data.condition, "the condition"))


def measure_bound(model, params, examples, config, spread):
    """ELBO and its terms over examples that have q_params; `config` is the run's."""
    numbers = bounds.bound_numbers(model, params, examples, config.eval, spread)
    return name_condition(numbers, examples, config)


def measure_all(model, params, examples, config, spread, shown=True):
    """Everything a finished run reports of examples that have q_params and the mean of q.

    Shown: with a progress bar, since the importance samples take their time.
    """
    count, measured = config.eval.num_samples, "log p(x|c)" if "condition" in examples else "log p(x)"
    progress = (
        console.Progress(f"{measured}, {count} samples each,", len(examples["index"])) if shown else console.SILENT
    )
    rest = (model, params, examples, config.eval, spread)
    numbers = bounds.bound_numbers(*rest)
    if "elbo" in numbers:
        numbers |= bounds.likelihood_numbers(*rest, lambda done: progress.update(done, f"{done:,} examples"))
    progress.close()
    numbers["squared_error"] = summarize(squared_error(*rest), "per element")
    layers = examples["mean"] if isinstance(examples["mean"], dict) else {"": examples["mean"]}
    for layer, mean in layers.items():
        if mean.shape[-1]:  # otherwise a model without z
            name = "_".join(filter(None, ("active_units", layer)))
            numbers[name] = {"value": active_units(mean), "stderr": None, "unit": f"of {mean.shape[-1]}"}
    return name_condition(numbers, examples, config)


def measure_further(model, params, examples, config, spread):
    """`measure_all`, and the numbers of the aggregate posterior where q has a density at others' draws."""
    rest = (model, params, examples, config.eval, spread)
    numbers = measure_all(model, params, examples, config, spread) | latent_space.further_numbers(*rest)
    if model.latent_dim and model.has_density and model.density_anywhere:
        numbers |= latent_space.mixture_numbers(*rest)
    return numbers
