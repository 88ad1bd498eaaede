"""Every number of a split, as the summary of a run stores it: {name: {value, stderr, unit}}."""

from typing import Any

import numpy as np

from vae_jax import console
from vae_jax.errors import TrainingError
from vae_jax.evaluation import latent_space
from vae_jax.evaluation.bounds import bound_numbers, likelihood_numbers
from vae_jax.evaluation.examples import entry, summarize
from vae_jax.evaluation.generation import normal_sigma, squared_error
from vae_jax.evaluation.shortfall import make_runner, shortfall_numbers
from vae_jax.models.model import Model
from vae_jax.parallel.devices import ONE_DEVICE, Spread

GIVEN = {"label": "the label", "upper": "the upper half"}  # config.data.condition -> what a number is conditional on
CHUNK, NEAR = 1000, 1e-2  # images looked at together; how far from a level, in levels, float32 may put it


def kind_of(model: Model, image: Any) -> tuple[str, str]:
    """What log p(x|z) is of such data, as words around a unit.

    A Bernoulli between 0 and 1 is no distribution of x: s^x (1-s)^(1-x) does not sum to one. Its log is the
    cross-entropy to Bernoulli(x), and -log E_p(z)[s^x (1-s)^(1-x)] bounds that of the whole image from above.

    Args:
        model: `levels` and `rounds` of it are read.
        image: x `[N, *event]`.

    Returns:
        (before bits/dim, after every unit): 'differential ' of a density, two times '' of a probability.
    """
    if not model.levels:
        return "differential ", ""
    chunks = ((model.levels - 1) * np.asarray(image[i : i + CHUNK]) for i in range(0, len(image), CHUNK))
    if all(np.all(np.abs(x - np.clip(np.rint(x), 0, model.levels - 1)) < NEAR) for x in chunks):
        return "", ""
    return "", f" of x rounded to {model.levels} levels" if model.rounds else " of cross-entropy"


def name_units(numbers: dict, model: Model, examples: dict, config: Any) -> dict:
    """The numbers in units that say what they are of and given: a density's, a cross-entropy, log p(x|c).

    Args:
        numbers: {name: {'value', 'stderr', 'unit'}}, whose units begin with nats or bits/dim.
        model: that they are of.
        examples: that they were measured on.
        config: of the run; `data.condition` is read.

    Returns:
        The numbers with longer units; where log p(x|z) is a cross-entropy `nll` is called `cross_entropy`.
    """
    before, after = kind_of(model, examples["image"])
    given = f" given {GIVEN.get(config.data.condition, 'the condition')}" if "condition" in examples else ""
    named = {}
    for name, number in numbers.items():
        unit, comma, rest = number["unit"].partition(",")
        over_z = name in ("kl", "fit_shortfall") or "gap" in name  # divergences between densities of z
        nats = "nats" + ("" if over_z else after)
        units = {"nats": nats + given, "bits/dim": f"{before}bits/dim{after}{given}"}
        name = name.replace("nll", "cross_entropy") if after and not model.rounds else name
        named[name] = {**number, "unit": units.get(unit, unit) + comma + rest}
    return named


def not_finite(splits: dict) -> list[str]:
    """'nll of test is inf', for each number that is none.

    Args:
        splits: {split: {name: {'value', 'stderr', 'unit'}}}.

    Returns:
        One text a number.
    """
    flat = [(split, name, entry["value"]) for split, numbers in splits.items() for name, entry in numbers.items()]
    return [f"{name} of {split} is {value}" for split, name, value in flat if not np.isfinite(value)]


def require_finite(splits: dict, workdir: Any, step: int) -> None:
    """Raises TrainingError naming the numbers of a run that are not finite, and the step of its parameters.

    Args:
        splits: {split: {name: {'value', 'stderr', 'unit'}}}.
        workdir: the run directory.
        step: of the parameters that were measured.

    Raises:
        TrainingError: in one line.
    """
    if found := not_finite(splits):
        raise TrainingError(f"{workdir}, step {step}: {', '.join(found)}: no result, and the run is not complete")


def measure_bound(model: Model, params: Any, examples: dict, config: Any, spread: Spread = ONE_DEVICE) -> dict:
    """ELBO and its terms, in units that say what they are of and given.

    Args:
        model, params: the trained model.
        examples: as `with_q_params` makes them.
        config: of the run; `eval` and `data.condition` are read.
        spread: over which devices a chunk of examples is divided.

    Returns:
        {name: {'value', 'stderr', 'unit'}}.
    """
    return name_units(bound_numbers(model, params, examples, config.eval, spread), model, examples, config)


def measure_all(
    model: Model, params: Any, examples: dict, config: Any, spread: Spread = ONE_DEVICE, shown: bool = True
) -> dict:
    """What a finished run reports: bound, NLL or cross-entropy, squared error and active units.

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
    if model.has_density and "stopped" in examples:
        run = make_runner(model, params, config.eval.chunk_images, spread)
        numbers |= shortfall_numbers(run, examples, config.fit)
    numbers["squared_error"] = summarize(squared_error(*rest), "per element")
    if (sigma := normal_sigma(model, params, examples)) is not None:
        numbers["sigma"] = entry(sigma, "of p(x|z)")
    layers = examples["mean"] if isinstance(examples["mean"], dict) else {"": examples["mean"]}
    for layer, mean in layers.items():
        if mean.shape[-1]:  # otherwise a model without z
            name = "_".join(filter(None, ("active_units", layer)))
            numbers[name] = entry(latent_space.active_units(mean), f"of {mean.shape[-1]}")
    return name_units(numbers, model, examples, config)


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
