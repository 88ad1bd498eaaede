"""Every number of a split, as the summary of a run stores it: {name: {value, stderr, unit}}."""

from vae_jax import console
from vae_jax.evaluation import bounds, latent_space
from vae_jax.evaluation.bounds import bound_numbers, likelihood_numbers
from vae_jax.evaluation.examples import conditional_on, summarize, with_q_params
from vae_jax.evaluation.generation import squared_error
from vae_jax.evaluation.latent_space import active_units
from vae_jax.models.families import DRAWS_ONLY
from vae_jax.parallel import devices

GIVEN = {"label": "the label", "upper": "the upper half"}  # config.data.condition -> what a number is conditional on


def name_condition(setup, numbers):
    """The numbers of a run, of a conditional model in units that say so."""
    if not setup.dataset.info.condition_shape:
        return numbers
    return conditional_on(numbers, GIVEN.get(setup.config.data.condition, "the condition"))


def measure(setup, params, examples):
    """The numbers of a run's end and those of the aggregate posterior."""
    rest = (setup.model, params, examples, setup.config.eval, devices.spread(setup.mesh))
    numbers = measure_all(setup, params, examples) | latent_space.further_numbers(*rest)
    if setup.config.model.latent_dim and setup.config.model.posterior not in (
        "dirac",
        *DRAWS_ONLY,
    ):  # which have no density at others' draws
        numbers |= latent_space.mixture_numbers(*rest)
    return numbers


def all_numbers(model, params, examples, event_shape, config, spread, progress):
    """Everything a finished run reports of a split, whose examples have q_params and the mean of q."""
    numbers = bound_numbers(model, params, examples, event_shape, config, spread)
    if "elbo" in numbers:
        numbers |= likelihood_numbers(model, params, examples, event_shape, config, spread, progress)
    error = squared_error(model, params, examples, config, spread)
    numbers["squared_error"] = summarize(error, "per element")
    layers = examples["mean"] if isinstance(examples["mean"], dict) else {"": examples["mean"]}
    for layer, mean in layers.items():
        if not mean.shape[-1]:
            continue  # a model without z
        name = "_".join(filter(None, ("active_units", layer)))
        numbers[name] = {"value": active_units(mean), "stderr": None, "unit": f"of {mean.shape[-1]}"}
    return numbers


def measure_bound(setup, params, examples):
    """ELBO and its terms over a split, with q as the run's inference finds it."""
    examples = with_q_params(setup, params, examples)
    spread, shape = devices.spread(setup.mesh), setup.dataset.info.event_shape
    numbers = bounds.bound_numbers(setup.model, params, examples, shape, setup.config.eval, spread)
    return name_condition(setup, numbers)


def measure_all(setup, params, examples, shown=True):
    """Every number of a split, with a progress bar: the importance samples take their time."""
    count, measured = setup.config.eval.num_samples, "log p(x|c)" if "condition" in examples else "log p(x)"
    title, total = f"{measured}, {count} samples each,", len(examples["index"])
    progress = console.Progress(title, total) if shown else console.SILENT
    numbers = all_numbers(
        setup.model,
        params,
        examples,
        setup.dataset.info.event_shape,
        setup.config.eval,
        devices.spread(setup.mesh),
        lambda done: progress.update(done, f"{done:,} examples"),
    )
    progress.close()
    return name_condition(setup, numbers)
