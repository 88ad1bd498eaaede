"""--mode=gaps and --mode=estimators: what the q of a trained run loses, and how noisy its gradients are."""

import json
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax import console
from vae_jax.commands.configuration import changed, spelled
from vae_jax.commands.evaluate import save, say_where, writing
from vae_jax.config import flat
from vae_jax.errors import ConfigError, UserError
from vae_jax.evaluation import summary, with_q_params
from vae_jax.models.inference import has_table
from vae_jax.models.model import families_of
from vae_jax.parallel import devices
from vae_jax.runs import environment, stages
from vae_jax.training import setup as setups
from vae_jax.training.setup import reopen

EFFORT = re.compile(r"(^|\.)(num_|max_|elbo_|starts|names)")  # keys of which more is a better result
CONTOURS = 8  # test examples whose posterior is drawn where there are two latent dimensions


def gaps(workdir, overrides, num_devices=0):
    """Measures what the run's q loses, and why; saves numbers and pictures beside the run's own and prints them."""
    from vae_jax.evaluation import gaps  # which needs blackjax
    from vae_jax.plotting import diagnostics as diagnostic_plots

    setup, params = reopen(workdir, changed(workdir, overrides), num_devices)
    require_gaps(setup.config, workdir)
    require_no_larger(workdir, "gaps", setup.config)
    model, config, spread = setup.model, setup.config.gaps, devices.spread(setup.mesh)
    console.write(f"gaps of {workdir}: {config.num_examples} test examples")
    examples = setups.split_of(setup, "test", config.num_examples)
    examples = with_q_params(model, params, examples, setup.config, spread)
    progress = Stages("gaps", "examples")
    kept = Path(workdir) / "gaps.unfinished"
    measured = json.dumps([setup.config.to_dict(), environment.git(), environment.version("jax")])
    keep = stages.keeper(kept, stages.identity_of(measured, params))
    numbers, values = gaps.measure_gaps(model, params, examples, config, spread, progress, keep)
    pictures = {"gaps": (diagnostic_plots.gap_bars(numbers), "What q loses of log p(x), by cause.")}
    if model.latent_dim == 2 and model.has_encoder and model.density_anywhere:
        try:
            pictures["posteriors"] = (contours(setup, params, examples), "True posteriors and q found three ways.")
        except UserError as error:  # the numbers, which took longer, are worth saving
            console.write(f"posteriors are not drawn: {error}")
    numbers = summary.name_units(numbers, model, examples, setup.config)
    finish(workdir, "gaps", config, numbers, values, pictures, gap_table(numbers))
    shutil.rmtree(kept, ignore_errors=True)


def estimators(workdir, overrides, num_devices=0):
    """Signal-to-noise ratios of gradient estimators at a run's parameters; saves and prints them."""
    from vae_jax.evaluation import gradient_noise
    from vae_jax.plotting import diagnostics as diagnostic_plots

    setup, params = reopen(workdir, changed(workdir, overrides), num_devices)
    require_estimators(setup.config, workdir)
    require_no_larger(workdir, "estimators", setup.config)
    config, given = setup.config.estimators, ("image", "index", "condition")
    examples = setups.split_of(setup, "train", config.num_examples)
    batch = {name: jnp.asarray(array) for name, array in examples.items() if name in given}
    draws = gradient_noise.GROUPS * gradient_noise.per_group(config)
    console.write(f"estimators of {workdir}: {draws} gradients each, of {len(batch['index'])} training examples")
    rest = (batch, config, setup.config.eval.seed, Stages("estimators", "groups"))
    found, projections = gradient_noise.measure(setup.model, jax.device_get(params), *rest)
    numbers, values = gradient_noise.summarize(found, projections), gradient_noise.arrays(found)
    caption = "Signal-to-noise ratio of the gradient as one vector, against the draws K; ± one standard error."
    floor = (
        f"  snr of pure noise is {gradient_noise.noise_floor(draws):.3g} with {draws} gradients; snr_norm has no floor"
    )
    text = "\n".join([noise_table(values, gradient_noise.STATISTICS), number_table(numbers), floor])
    pictures = {"estimators": (diagnostic_plots.snr_lines(values), caption)}
    finish(workdir, "estimators", config, numbers, values, pictures, text)


def finish(workdir, name, config, numbers, values, pictures, text):
    """Saves numbers, arrays with their settings, and pictures with the run's own, and prints the numbers."""
    console.write(text)
    with writing(workdir) as saved:
        if saved:
            np.savez(Path(workdir) / f"{name}.npz", **values, settings=json.dumps(config.to_dict()))
            save(Path(workdir), {name: numbers}, pictures)
    say_where(Path(workdir), saved)


def require_no_larger(workdir, mode, config):
    """Raises ConfigError where the run has a result of more examples, draws or steps, which took longer."""
    path = Path(workdir) / f"{mode}.npz"
    if not path.exists():
        return
    with np.load(path) as stored:
        before = flat(json.loads(str(stored["settings"]))) if "settings" in stored else {}
    size = lambda value: len(value) if isinstance(value, list | tuple) else value
    for key, value in flat(config[mode].to_dict()).items():
        if EFFORT.search(key) and size(value) < size(before.get(key, value)):
            raise ConfigError(
                f"{path} holds a larger result ({mode}.{key} = {spelled(before[key])}, not {spelled(value)}): move it "
                f"elsewhere to measure anew, or give --config.{mode}.{key}={spelled(before[key])}"
            )


def require_estimators(config, workdir):
    """Raises ConfigError for a run that has no such gradients."""
    posterior, name = families_of(config.model)[0], f"model.posterior = {config.model.posterior}"
    elsewhere = set(config.estimators.names) & {"stl", "dreg"} and not posterior.density_anywhere
    reasons = {
        "needs an encoder, and there is none with inference.kind = per_datapoint": has_table(config),
        f"needs a bound, and there is none with {name}": not posterior.has_density,
        f"needs the density of q at any z for stl and dreg, and {name} has it at its own draws only: use "
        "--config.estimators.names=elbo,iwae": elsewhere,
    }
    refuse("estimators", workdir, reasons)


def require_gaps(config, workdir):
    """Raises ConfigError for a posterior whose gaps cannot be measured, or not as asked."""
    posterior, name = families_of(config.model)[0], f"model.posterior = {config.model.posterior}"
    ais = config.gaps.ais
    from_q = "q" in ais.starts and (ais.num_examples or ais.num_simulated)
    reasons = {
        "needs a z, and model.latent_dim = 0 has no q to lose anything": not config.model.latent_dim,
        f"needs a bound, and {name} has no bound to be loose": not posterior.has_density,
        f"needs a z of one array for AIS, and {name} has two: use it on models of one layer": posterior.layered,
        f"needs the density of q at any z where AIS starts from q, and {name} has it at its own draws only: use "
        "--config.gaps.ais.starts=prior": from_q and not posterior.density_anywhere,
    }
    refuse("gaps", workdir, reasons)


def refuse(mode, workdir, reasons):
    """Raises ConfigError with the first reason that holds."""
    for reason, holds in reasons.items():
        if holds:
            raise ConfigError(f"{workdir}: --mode={mode} {reason}")


class Stages:
    """A progress bar for one stage after another."""

    def __init__(self, mode, unit):
        self.mode, self.unit, self.title = mode, unit, None

    def __call__(self, title, done, total):
        if title != self.title:
            self.title, self.bar = title, console.Progress(self.mode, total)
        self.bar.update(done, f"{title}, {done:,} of {total:,} {self.unit}")
        if done == total:
            self.bar.close()


def contours(setup, params, examples):
    """The picture of `plotting.diagnostics.posterior_contours` for the first examples."""
    from vae_jax.evaluation import true_posterior
    from vae_jax.plotting import diagnostics as diagnostic_plots

    shown = {name: examples[name][:CONTOURS] for name in ("image", "key", "condition") if name in examples}
    groups = (setup.config.inference, setup.config.fit)
    compared = true_posterior.compare(setup.model, params, shown, *groups)
    return diagnostic_plots.posterior_contours(*compared, shown["image"])


def gap_table(numbers):
    """The numbers as text, a line each, and which bound stands for log p(x)."""
    log_px = numbers["log_px"]
    compared = ", ".join(f"{spaced(name)} {value:.3f}" for name, value in log_px["bounds_compared"].items())
    chosen = f"  log p(x) is {spaced(log_px['method'])}, on the same examples the best of {compared}"
    note = "  a gap is measured on the examples that both of its terms were: the means above may differ by more"
    return "\n".join([number_table(numbers), chosen, note, *console.warnings({"gaps": numbers})])


def number_table(numbers):
    """A line for each number: its name, value and standard error, and how many examples it is of where it says so."""
    count = lambda entry: f"{entry['num_examples']:6} examples" if "num_examples" in entry else ""
    rows = [(spaced(name), console.number(entry), count(entry)) for name, entry in numbers.items()]
    return "\n".join(console.columns(rows))


def noise_table(values, statistics):
    """A line for each part of the parameters, estimator and K; values: `gradient_noise.arrays`."""
    rows = [("part", "name", "K", *statistics)]
    for p, part in enumerate(values["parts"]):
        for n, name in enumerate(values["names"]):
            for k, count in enumerate(values["num_samples"]):
                pairs = [(values[s][n, k, p], values[f"{s}_stderr"][n, k, p]) for s in statistics]
                rows.append((str(part), str(name), str(count), *(console.measured(*pair) for pair in pairs)))
    return "\n".join(console.columns(rows))


def spaced(name):
    return name.replace("_", " ")
