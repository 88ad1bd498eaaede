"""Every number of a split, as the summary of a run stores it: {name: {value, stderr, unit}}."""

from typing import Any

from vae_jax import console
from vae_jax.evaluation import latent_space
from vae_jax.evaluation.bounds import bound_numbers, likelihood_numbers
from vae_jax.evaluation.examples import entry, summarize
from vae_jax.evaluation.generation import squared_error
from vae_jax.models.model import Model
from vae_jax.parallel.devices import ONE_DEVICE, Spread

GIVEN = {"label": "the label", "upper": "the upper half"}  # config.data.condition -> what a number is conditional on


def name_condition(numbers, examples, config):
    """The numbers with units that say what nats are conditional on: -log p(x|c) is no -log p(x); `config`: a run's."""
    if "condition" not in examples:
        return numbers
    given = GIVEN.get(config.data.condition, "the condition")
    units = {unit: f"{unit} given {given}" for unit in ("nats", "bits/dim")}
    return {name: {**number, "unit": units.get(number["unit"], number["unit"])} for name, number in numbers.items()}


def measure_bound(model: Model, params: Any, examples: dict, config: Any, spread: Spread = ONE_DEVICE) -> dict:
    """ELBO and its terms, in units that say what they are conditional on.

    Args:
        model, params: the trained model.
        examples: as `with_q_params` makes them.
        config: of the run; `eval` and `data.condition` are read.
        spread: over which devices a chunk of examples is divided.

    Returns:
        {name: {'value', 'stderr', 'unit'}}.
    """
    return name_condition(bound_numbers(model, params, examples, config.eval, spread), examples, config)


def measure_all(
    model: Model, params: Any, examples: dict, config: Any, spread: Spread = ONE_DEVICE, shown: bool = True
) -> dict:
    """What a finished run reports: bound, NLL, squared error and active units.

    Args:
        model, params: the trained model.
        examples: as `with_q_params` and `with_means` make them.
        config: of the run; `eval` and `data.condition` are read.
        spread: over which devices a chunk of examples is divided.
        shown: with a progress bar, since importance sampling takes long.

    Returns:
        {name: {'value', 'stderr', 'unit'}}.
    """
    rest = (model, params, examples, config.eval, spread)
    numbers = bound_numbers(*rest)
    if "elbo" in numbers:
        measured = "log p(x|c)" if "condition" in examples else "log p(x)"
        title = f"{measured}, {config.eval.num_samples} samples each,"
        progress = console.Progress(title, len(examples["index"])) if shown else console.SILENT
        numbers |= likelihood_numbers(*rest, lambda done: progress.update(done, f"{done:,} examples"))
        progress.close()
    numbers["squared_error"] = summarize(squared_error(*rest), "per element")
    layers = examples["mean"] if isinstance(examples["mean"], dict) else {"": examples["mean"]}
    for layer, mean in layers.items():
        if mean.shape[-1]:  # otherwise a model without z
            name = "_".join(filter(None, ("active_units", layer)))
            numbers[name] = entry(latent_space.active_units(mean), f"of {mean.shape[-1]}")
    return name_condition(numbers, examples, config)


def measure_further(model: Model, params: Any, examples: dict, config: Any, spread: Spread = ONE_DEVICE) -> dict:
    """`measure_all`, and where q allows it the KL of each dimension and the numbers of the aggregate posterior.

    Args:
        model, params, examples, config, spread: as in `measure_all`.

    Returns:
        {name: {'value', 'stderr', 'unit'}}.
    """
    rest = (model, params, examples, config.eval, spread)
    numbers = measure_all(model, params, examples, config, spread) | latent_space.further_numbers(*rest)
    if model.latent_dim and model.has_density and model.density_anywhere:
        numbers |= latent_space.mixture_numbers(*rest)
    return numbers
