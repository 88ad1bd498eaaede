"""--mode=evaluate: every number and picture of a trained run, into its summary and its report."""

import contextlib
import os
from pathlib import Path

import numpy as np

from vae_jax import console
from vae_jax.commands.configuration import changed, default
from vae_jax.evaluation import bounds, generation, latent_space, out_of_distribution
from vae_jax.evaluation.examples import in_chunks, summarize, with_means, with_q_params
from vae_jax.evaluation.summary import kind_of, measure_further, name_units, require_finite
from vae_jax.parallel import devices
from vae_jax.plotting import likelihood as likelihood_plots
from vae_jax.reports import gallery, page
from vae_jax.runs import directory, files
from vae_jax.training import setup as setups
from vae_jax.training.setup import reopen

UNLIKE = 20  # images of each kind off the manifold


def evaluate(workdir, overrides, num_devices=0):
    """Measures and draws everything there is of a trained run; saves it with the run's own numbers and prints them."""
    workdir = Path(workdir)
    setup, params = reopen(workdir, changed(workdir, overrides), num_devices)
    with writing(workdir) as saved:
        numbers, drawn = measure_and_draw(setup, params, workdir)
        require_finite(numbers, workdir, setup.num_steps)
        console.write(console.table({"splits": numbers}))
        if saved:
            save(workdir, numbers, drawn)
    say_where(workdir, saved)


@contextlib.contextmanager
def writing(workdir):
    """Holds a run directory as its only writer and gives True; False where nobody may write there."""
    if not os.access(workdir, os.W_OK):
        yield False
        return
    with files.locked(workdir):
        yield True


def say_where(workdir, saved):
    """Where the results are."""
    nowhere = f"note: {workdir} cannot be written, so these numbers are saved nowhere; copy the run to keep them"
    console.write(f"report    {workdir / directory.REPORT}" if saved else nowhere)


def measure_and_draw(setup, params, workdir):
    """({split: numbers}, {name: (Figure, caption)}) of train and test, and of images unlike the data."""
    config, model, spread = setup.config, setup.model, devices.spread(setup.mesh)
    limit, numbers, drawn, table = config.eval.train_examples, {}, {}, setups.trained_table(setup, workdir)
    if limit:  # by themselves, as at the run's end: in other chunks a matrix product rounds otherwise
        train = setups.run_examples(setup, params, "train", limit, table)
        numbers["train"] = measure_further(model, params, train, config, spread)
    test = setups.run_examples(setup, params, "test", config.eval.max_examples)
    codes = setups.run_examples(setup, params, "train", setups.CODES, table)
    numbers["test"] = measure_further(model, params, test, config, spread)
    if model.latent_dim and not model.layered and "label" in test:
        numbers["test"] |= latent_space.accuracies(codes["mean"], codes["label"], test["mean"], test["label"])
    if model.latent_dim and model.has_density:
        likelihoods, *arrays = measure_bits(setup, params, test, spread)
        numbers["test"] |= likelihoods
        drawn |= gallery.draw_bits(setup.dataset, test, *arrays, kind=kind_of(model, test["image"]))
    if model.latent_dim and gallery.has_images(setup.dataset):
        numbers["off_manifold"], *arrays = measure_unlike(setup, params, test, spread)
        figure = likelihood_plots.off_manifold(*arrays)
        drawn["off_manifold"] = (figure, "What is reconstructed of images unlike the data.")
    return numbers, drawn | gallery.draw_evaluation(config, setup.dataset, model, params, test, codes, spread)


def measure_bits(setup, params, test, spread):
    """log p(x) by two estimates, as numbers; the bound's terms of each example; what the estimates are by draws."""
    config = setup.config.eval
    each = lambda chunk: bounds.elbo_terms(setup.model, params, chunk, config.elbo_samples)
    terms = in_chunks(each, test, config.chunk_images, spread)
    weights = bounds.measure(setup.model, params, test, config, spread) if config.curve_examples else {}
    return name_units(bounds.numbers(weights), setup.model, test, setup.config), terms, bounds.curves(weights)


def measure_unlike(setup, params, test, spread):
    """Squared errors of images unlike the data: numbers, {kind: (images, reconstructions)}, {kind: errors `[N]`}, and
    the errors of all test images."""
    model, config = setup.model, setup.config
    some = {name: array[:UNLIKE] for name, array in test.items() if name in ("image", "key", "condition")}
    kinds, errors = {}, {}
    for name, images in out_of_distribution.probes(some["image"], config.eval.seed).items():
        examples = with_q_params(model, params, some | {"image": images}, config, spread)
        means = np.asarray(generation.reconstruct(model, params, with_means(model, params, examples, spread)))
        kinds[name], errors[name] = (images, means), ((images - means) ** 2).reshape(len(images), -1).mean(-1)
    numbers = {name: summarize(values, "squared error per element") for name, values in errors.items()}
    return numbers, kinds, errors, generation.squared_error(model, params, test, config.eval, spread)


def draw_run(workdir):
    """The pictures of a run's end for a run that was finished without them, and its report; returns {name: caption}."""
    workdir = Path(workdir)
    setup, params = reopen(workdir)
    config, codes = setup.config, setups.training_codes(setup, params, setups.trained_table(setup, workdir))
    test = setups.split_of(setup, "test", config.eval.max_examples)
    if config.model.latent_dim == 2:  # the scatter shows all examples
        test = setups.with_codes(setup, params, test)
        shown = gallery.spread_out(test, gallery.PAIRS)
    else:  # q of the few that are shown, which may be fits, and of no others
        shown = setups.with_codes(setup, params, gallery.spread_out(test, gallery.PAIRS))
    records = directory.read_metrics(workdir)
    drawn = gallery.draw_run(config, setup.dataset, setup.model, params, test, shown, records, codes)
    captions = directory.save_figures(workdir, drawn)
    directory.write_summary(workdir, (directory.read_summary(workdir) or {}) | {"figures": captions})
    page.write_report(workdir, default().to_dict())
    return captions


def save(workdir, numbers, drawn):
    """Adds numbers {split or mode: numbers} and pictures to the run's summary and its report."""
    summary = directory.read_summary(workdir) or {"complete": False, "splits": {}, "figures": {}}
    summary["figures"] |= directory.save_figures(workdir, drawn)
    summary["splits"] |= {name: summary["splits"].get(name, {}) | entries for name, entries in numbers.items()}
    directory.write_summary(workdir, summary)
    page.write_report(workdir, default().to_dict())
