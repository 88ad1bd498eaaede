"""What every test shares: eight virtual devices, a fixed key, and a model whose log p(x) is known.

The environment is set before jax makes a backend, that is, before any test module is imported.
"""

import gc
import hashlib
import importlib.metadata
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

# On jax 0.10 and 0.11 virtual CPU devices share a pool of max(cores, devices) threads. Steps in flight can use it up,
# and collectives then wait for one another until the process is aborted. A pool of twice the devices is a cure.
os.environ["NPROC"] = os.environ["PJRT_NPROC"] = "16"
os.environ["MPLBACKEND"] = "Agg"
# Tests compile much and compute little: without most optimizations, and with the emitters that compile fastest, they
# take half the time. Commands that tests start inherit both, so that their numbers can be compared with a test's own.
os.environ["XLA_FLAGS"] = (
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1 " + os.environ.get("XLA_FLAGS", "")
)
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"

import hypothesis
import jax
import numpy as np
import pytest

# A program that one test has compiled serves every other, and the next run of the suite. Small ones too, which every
# module needs anew: so jax is given no limit to the size, with which it would lock and look through all entries for
# each; the folder is emptied here instead. An entry half written is compiled anew. Commands that tests start do
# without: some are killed, and jax does not write entries whole or not at all.
if not jax.config.jax_compilation_cache_dir:
    folder = pathlib.Path(__file__).parents[1] / ".pytest_cache" / f"jaxlib-{importlib.metadata.version('jaxlib')}"
    if "PYTEST_XDIST_WORKER" not in os.environ and sum(path.stat().st_size for path in folder.glob("*")) > 2**31:
        shutil.rmtree(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

jax.config.update("jax_disable_most_optimizations", True)  # jax may have been imported by a plugin
try:
    jax.config.update("jax_num_cpu_devices", 8)
except RuntimeError:  # a plugin has made the backend already; tests that need more devices than it has must say so
    pass

# Tracing makes many objects that live: looking through all of them for garbage as often as by default takes a tenth of
# the time.
gc.set_threshold(200_000, 20, 100)

# The same examples every time, and no folder of them left behind.
hypothesis.settings.register_profile("fixed", deadline=None, derandomize=True, database=None, max_examples=100)
hypothesis.settings.load_profile("fixed")


def pytest_collection_modifyitems(items):
    """`gpu` needs an accelerator, `data` the directory of MNIST's files in VAE_JAX_MNIST."""
    marked = {name: [item for item in items if item.get_closest_marker(name)] for name in ("gpu", "data")}
    if marked["gpu"] and jax.default_backend() == "cpu":
        for item in marked["gpu"]:
            item.add_marker(pytest.mark.skip(reason="needs an accelerator"))
    if not os.environ.get("VAE_JAX_MNIST"):
        for item in marked["data"]:
            item.add_marker(pytest.mark.skip(reason="needs VAE_JAX_MNIST=DIR, a directory of MNIST's files"))


def pytest_collection_finish():
    """What has been imported is no garbage."""
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Drops the compiled programs of a module: a worker would hold 5 GB of them, and no module may see another's."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session", autouse=True)
def coarse_pictures():
    """Pictures that ask for 144 dots an inch are saved with a quarter of their pixels: all that is lost is time."""
    from matplotlib.figure import Figure

    save = Figure.savefig
    with pytest.MonkeyPatch.context() as patch:
        coarse = lambda options: options | {"dpi": 72} if options.get("dpi") == 144 else options
        patch.setattr(Figure, "savefig", lambda *rest, **options: save(*rest, **coarse(options)))
        yield


ROOT = pathlib.Path(__file__).parents[1]


def small_config(changes):
    """The config of a small run on 200 digits, two latent dimensions unless `changes` say otherwise."""
    from vae_jax import config as configs
    from vae_jax.commands import configuration

    config = configs.from_experiment(ROOT / "experiments" / "digits.py", "two_quick")
    config.model.hidden, config.model.upper_hidden, config.train.epochs = (16,), (8,), 2
    config.data.num_train, config.figures.count, config.fit.max_steps = 200, 4, 20
    config.eval.num_samples, config.eval.elbo_samples, config.eval.curve_examples = 20, 3, 10
    config.eval.max_examples, config.eval.train_examples = 40, 30
    config.update_from_flattened_dict(changes)
    return configuration.validate(config)


@pytest.fixture(scope="session")
def config_of():
    """config_of(changes) -> the config of a small run."""
    return small_config


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory):
    """trained_run(changes) -> the directory of a small trained run, to be read only.

    It is trained once for all tests, in whatever process.
    """
    from filelock import FileLock

    from vae_jax.commands.train import train_run

    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "trained"
    folder.mkdir(exist_ok=True)

    def make(changes):
        config = small_config(changes)
        workdir = folder / hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode()).hexdigest()[:16]
        with FileLock(f"{workdir}.lock"):
            if not (workdir / "summary.json").exists():
                train_run(config, workdir, 1)
        return workdir

    return make


@pytest.fixture(scope="module")
def small_run(tmp_path_factory, trained_run):
    """small_run(name, changes) -> a module's own copy of a small trained run, which its tests may change."""
    made = {}

    def make(name, changes):
        if name not in made:
            made[name] = shutil.copytree(trained_run(changes), tmp_path_factory.mktemp("small") / name)
        return made[name]

    return make


@pytest.fixture(scope="module")
def untrained_run(tmp_path_factory):
    """untrained_run(changes) -> the directory of a small run with a checkpoint of its first parameters, no more."""
    from vae_jax.runs import checkpoint, directory, load
    from vae_jax.runs import environment as environments
    from vae_jax.training import setup as setups

    def make(changes):
        setup, workdir = setups.make_setup(small_config(changes), 1), tmp_path_factory.mktemp("untrained") / "run"
        info = setup.dataset.info._asdict()
        directory.open_run(workdir, setup.config.to_dict(), info, environments.describe())
        checkpoint.save(workdir / load.CHECKPOINTS, 1, setups.make_init(setup)())
        return workdir

    return make


@pytest.fixture
def in_process(monkeypatch, capsys):
    """in_process(module, *arguments) -> (exit status, stdout, stderr) of a command, here and with its flags as new."""

    def run(module, *arguments):
        argv = [module.__name__, *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", argv)
        monkeypatch.chdir(ROOT)
        forget_flags()
        try:
            module.main(module.parse(argv))
            status = 0
        except SystemExit as exit:
            status = exit.code
        finally:
            forget_flags()
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def command(in_process):
    """command(*arguments) -> `in_process` of vae_jax.main."""
    from vae_jax import main

    return partial(in_process, main)


def forget_flags():
    """As if no command had been parsed, and no experiment file read."""
    from absl import flags

    for name in [name for name in flags.FLAGS if name.startswith("config.")]:
        delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()
    sys.modules.pop("config_config", None)
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        for flag in defined if module.startswith("vae_jax") else ():
            flag.unparse()
            flag.present = 0


@pytest.fixture
def key():
    return jax.random.key(42)


class LinearGaussian(NamedTuple):
    """z ~ N(0, I), x = W z + b + sigma eps with orthogonal columns in W, so that the posterior is diagonal; float64.

        log p(x) = log N(x; b, W W' + sigma^2 I)
        p(z|x)   = N(mean, var),  1/var_j = 1 + |w_j|^2 / sigma^2,  mean_j = var_j w_j'(x - b) / sigma^2

    Everything is computed by NumPy in float64, with no formula shared with the package.
    """

    x: np.ndarray  # [B, D]
    weight: np.ndarray  # [D, Z]
    bias: np.ndarray  # [D]
    sigma: float
    log_px: np.ndarray  # [B]
    mean: np.ndarray  # [B, Z], the posterior's
    log_std: np.ndarray  # [Z]
    kl_to_posterior: Callable  # (mean [B, Z], log_std) -> KL(N(mean, exp(log_std)^2) || p(z|x)) [B]


@pytest.fixture(scope="session")
def linear_gaussian():
    rng = np.random.default_rng(3)
    batch, dim, latent, sigma = 4, 5, 3, 0.7
    columns = np.linalg.qr(rng.normal(size=(dim, latent)))[0]
    weight, bias = columns * [2.0, 1.0, 0.3], rng.normal(size=dim)
    x = bias + rng.normal(size=(batch, latent)) @ weight.T + sigma * rng.normal(size=(batch, dim))
    covariance = weight @ weight.T + sigma**2 * np.eye(dim)
    mahalanobis = np.einsum("bi,ij,bj->b", x - bias, np.linalg.inv(covariance), x - bias)
    log_px = -0.5 * (mahalanobis + np.linalg.slogdet(2 * np.pi * covariance)[1])
    var = 1 / (1 + (weight**2).sum(0) / sigma**2)
    mean = (x - bias) @ weight * var / sigma**2

    def kl_to_posterior(q_mean, q_log_std):
        q_var = np.exp(2 * np.broadcast_to(q_log_std, mean.shape))
        return 0.5 * ((q_var + (q_mean - mean) ** 2) / var - 1 + np.log(var / q_var)).sum(-1)

    return LinearGaussian(x, weight, bias, sigma, log_px, mean, 0.5 * np.log(var), kl_to_posterior)
