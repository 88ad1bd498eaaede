"""--mode=evaluate: every number and picture of a trained run, into its summary and its report."""

from pathlib import Path

import numpy as np

from vae_jax import console
from vae_jax.commands.configuration import changed
from vae_jax.evaluation import latent_space
from vae_jax.evaluation.summary import measure_further
from vae_jax.parallel import devices
from vae_jax.reports import gallery, page
from vae_jax.reports.gallery import in_bits, off_manifold
from vae_jax.runs import directory
from vae_jax.training import setup as setups
from vae_jax.training.setup import reopen


def examine(setup, params, workdir):
    """Measures train and test and draws; returns ({split: numbers}, {name: (Figure, caption)})."""
    limit, numbers, table = setup.config.eval.train_examples, {}, setups.trained_table(setup, workdir)
    measure = lambda examples: measure_further(setup.model, params, examples, setup.config, devices.spread(setup.mesh))
    if limit:  # by themselves, as at the run's end: in other chunks a matrix product rounds otherwise
        numbers["train"] = measure(setups.run_examples(setup, params, "train", limit, table))
    test = setups.run_examples(setup, params, "test", setup.config.eval.max_examples)
    codes = setups.run_examples(setup, params, "train", setups.CODES, table)
    numbers["test"] = measure(test)
    if isinstance(test["mean"], np.ndarray) and test["mean"].size and "label" in test:
        numbers["test"] |= latent_space.accuracies(codes["mean"], codes["label"], test["mean"], test["label"])
    likelihoods, drawn = in_bits(setup, params, test)
    unlike, shown = off_manifold(setup, params, test)
    numbers["test"] |= likelihoods
    return numbers | unlike, drawn | shown | gallery.draw(setup, params, test, codes)


def evaluate(workdir, overrides, num_devices=0):
    """Measures and draws everything there is of a trained run; saves it with the run's own numbers and prints them."""
    workdir = Path(workdir)
    setup, params = reopen(workdir, changed(workdir, overrides), num_devices)
    numbers, drawn = examine(setup, params, workdir)
    for split, entries in numbers.items():
        save(workdir, split, entries, drawn if split == "test" else {})
    console.write(console.table({"splits": numbers}))
    console.write(f"report    {workdir / directory.REPORT}")


def draw_run(workdir):
    """The pictures of a run's end for a run that was finished without them, and its report; returns {name: caption}."""
    workdir = Path(workdir)
    setup, params = reopen(workdir)
    config = setup.config
    shown = (
        0 if config.model.latent_dim == 2 else max(gallery.PAIRS, config.figures.count)
    )  # the scatter shows them all
    limit = min(filter(None, (shown, config.eval.max_examples)), default=0)
    examples = setups.run_examples(setup, params, "test", limit)
    codes = setups.training_codes(setup, params, setups.trained_table(setup, workdir))
    records = directory.read_metrics(workdir)
    drawn = gallery.draw_run(config, setup.dataset, setup.model, params, examples, records, codes)
    captions = directory.save_figures(workdir, drawn)
    directory.write_summary(workdir, directory.read_summary(workdir) | {"figures": captions})
    page.write_report(workdir)
    return captions


def save(workdir, name, numbers, pictures):
    """Adds numbers and pictures to the run's summary and its report."""
    summary = directory.read_summary(workdir) or {"complete": False, "splits": {}, "figures": {}}
    for picture, (figure, caption) in pictures.items():
        directory.save_figure(workdir, picture, figure)
        summary["figures"][picture] = caption
    summary["splits"][name] = summary["splits"].get(name, {}) | numbers
    directory.write_summary(workdir, summary)
    page.write_report(workdir)
