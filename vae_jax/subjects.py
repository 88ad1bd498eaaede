"""What `compare` compares: a trained run or PCA, as codes of images and a decoder."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from vae_jax.config import flat
from vae_jax.errors import ConfigError
from vae_jax.evaluation import bounds, generation
from vae_jax.evaluation.examples import in_chunks
from vae_jax.models.model import sample_prior
from vae_jax.parallel import devices
from vae_jax.runs import directory, load
from vae_jax.training import setup as setups

SEED, SAMPLES = 0, 144  # of samples: their seed, how many
PCA = "PCA"
ELSEWHERE = ("data.manual_dir", "data.data_dir")  # keys that say where the same data lie


class Subject(NamedTuple):
    name: str
    about: str
    train: np.ndarray  # codes of the training images, [N, Z]
    test: np.ndarray
    decode: Callable  # z [P, Z] -> [P, *event]
    draws: np.ndarray  # z of the samples, [SAMPLES, Z]
    prior: bool  # whether the samples come from a prior, and not from a mixture fitted to the codes
    standard: bool  # whether that prior is the standard normal
    bound: dict  # ELBO and KL of the test images, as a summary has them; {} where there is none


class Images(NamedTuple):
    """The images as the models see them, [N, *event], and the labels of the test images, or None."""

    train: np.ndarray
    test: np.ndarray
    label: np.ndarray | None


def require_alike(workdirs):
    """Raises ConfigError for runs that cannot stand in one table: which, and why. RunError for what is no run."""
    names = [Path(workdir).name for workdir in workdirs]
    if len({PCA, *names}) <= len(names):
        raise ConfigError(f"the names of directories tell runs apart, not {', '.join(names)}: rename some")
    configs = [load.read_config(workdir) for workdir in workdirs]
    for workdir, config in zip(workdirs, configs, strict=True):
        require_comparable(workdir, config)
        both = f"{workdirs[0]} and {workdir}"
        for key, (one, other) in directory.differing(data_of(configs[0]), data_of(config)).items():
            raise ConfigError(f"{both} have other data, {key} = {one!r} and {other!r}: compare runs on the same")
        sizes = configs[0].model.latent_dim, config.model.latent_dim
        if sizes[0] != sizes[1]:
            raise ConfigError(f"{both} have latent_dim = {sizes[0]} and {sizes[1]}: compare those of 1, or those of 2")


def require_comparable(workdir, config):
    """Raises ConfigError for a run that could not be compared with any."""
    if not (directory.read_summary(workdir) or {}).get("complete"):
        raise ConfigError(f"{workdir} is not finished: the command that began it goes on with it")
    if config.model.latent_dim > 2:
        raise ConfigError(f"{workdir} has latent_dim = {config.model.latent_dim}: 1 and 2 are compared, and drawn")
    if config.data.condition != "none" or config.model.posterior == "two_layer":
        raise ConfigError(f"{workdir} has a condition or two layers: z must be all that a decoder is given")
    if len(load.read_info(workdir).event_shape) < 2:
        raise ConfigError(f"{workdir} was trained on vectors: images are compared")


def data_of(config):
    """What decides which images are compared."""
    kept = {key: value for key, value in flat(config.data, "data.").items() if key not in ELSEWHERE}
    return kept | {"eval.seed": config.eval.seed, "eval.max_examples": config.eval.max_examples}


def run_subject(workdir):
    """(Subject, Images) of a trained run, its data loaded again."""
    setup, params = setups.reopen(workdir, {})
    config, model, spread = setup.config, setup.model, devices.spread(setup.mesh)
    train = setups.run_examples(setup, params, "train", 0, setups.trained_table(setup, workdir))
    test = setups.run_examples(setup, params, "test", config.eval.max_examples)
    prior = config.model.posterior != "dirac"
    bound = bounds.bound_numbers(model, params, test, config.eval, spread) if prior else {}
    decode = lambda z: in_chunks(partial(generation.decode_means, model, params), z, config.eval.chunk_images, spread)
    if prior:
        draws = jax.device_get(sample_prior(model, params, jax.random.key(SEED), SAMPLES))[0]
    else:
        draws = generation.code_draws(train["mean"], SAMPLES, SEED)
    codes, standard = (train["mean"], test["mean"]), prior and config.model.prior == "standard_normal"
    subject = Subject(Path(workdir).name, describe(config), *codes, decode, draws, prior, standard, bound)
    return subject, Images(train["image"], test["image"], test.get("label"))


def describe(config):
    """A run in a few words: its networks, its q and what it ascended."""
    model, objective = config.model, config.objective
    widths = "" if model.encoder == "linear" else " " + "-".join(map(str, model.hidden))
    weights = f" {objective.beta:g}, reconstruction {objective.reconstruction:g}" * (objective.name == "beta")
    weighed = model.posterior != "dirac" and (model.likelihood, model.sigma_mode) == ("normal", "fixed")
    sigma = f", sigma {model.sigma:g}" * weighed  # against the KL, that is: an autoencoder's does not matter
    return f"{model.encoder}{widths}, {model.posterior}, {objective.name}{weights}{sigma}"


def pca_subject(real, dim):
    """PCA of the training images with `dim` components."""
    from sklearn.decomposition import PCA as Principal

    vectors = lambda images: images.reshape(len(images), -1)
    pca = Principal(dim, random_state=SEED).fit(vectors(real.train))
    decode = lambda z: pca.inverse_transform(z).reshape(-1, *real.train.shape[1:]).astype(np.float32)
    codes = [pca.transform(vectors(images)).astype(np.float32) for images in (real.train, real.test)]
    draws = generation.code_draws(codes[0], SAMPLES, SEED)
    return Subject(PCA, "principal components", *codes, decode, draws, False, False, {})
