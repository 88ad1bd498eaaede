"""Train and measure variational autoencoders.

    python -m vae_jax.main --config=experiments/digits.py
    python -m vae_jax.main --config=experiments/mnist.py:quick --config.model.latent_dim=2 --workdir=runs/two

The experiment file holds the configuration; any key of it is a flag, --config.GROUP.KEY=VALUE. A run directory that is
not finished is resumed, a finished one prints its summary, and one with another configuration is left alone.
"""

import inspect
import os
import re
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from vae_jax import config as configs

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Experiment file, e.g. experiments/mnist.py or experiments/mnist.py:quick."
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Run directory; default: runs/NAME, with a suffix that spells the overrides."
)
DEVICES = flags.DEFINE_integer("devices", 0, "How many devices to use; 0: as many as can share the run's streams.", 0)
INIT_FROM = flags.DEFINE_string("init_from", None, "RUN or RUN@STEP: start a new run from the parameters of another.")


def main(arguments):
    """Runs the chosen mode; every foreseen mistake becomes one line and exit status 2."""
    if len(arguments) > 1:
        fail(f"unexpected argument {arguments[1]!r}: every option is written --name=value")
    if CONFIG.value is None:
        fail("--config is missing; for example --config=experiments/digits.py")
    logging.set_verbosity(logging.WARNING)  # jax tells at INFO which accelerators it did not find
    from vae_jax import checkpoint, data, parallel, rundir, terminal, train

    foreseen = (configs.ConfigError, data.DataError, rundir.RunError, checkpoint.CheckpointError, parallel.DeviceError)
    try:
        config = configs.validate(CONFIG.value)
        workdir = WORKDIR.value or rundir.default_workdir(config_path(), overrides())
        terminal.say(terminal.table(train.train(config, workdir, DEVICES.value, INIT_FROM.value or "")))
        terminal.say(f"report    {os.path.join(workdir, 'report.html')}")
    except (*foreseen, train.TrainingError) as error:
        fail(error)


def config_path():
    return config_flags.get_config_filename(flags.FLAGS["config"])


def overrides():
    """The overridden keys that make a run another run."""
    given = config_flags.get_override_values(flags.FLAGS["config"])
    return {key: value for key, value in given.items() if not configs.in_groups(key, configs.CHANGEABLE)}


def fail(message):
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def parse(arguments):
    """Flags from the command line; a mistake in them, or in the experiment file, is one line."""
    if any(argument in ("--help", "-h", "-help", "--helpshort", "--helpfull") for argument in arguments[1:]):
        print(help_text())
        sys.exit(0)
    try:
        return flags.FLAGS(arguments)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError, ImportError, SyntaxError) as error:
        fail(" ".join(str(error).split()).strip("'\""))


def help_text():
    """This module's docstring, its flags, and every key of the configuration with its default and meaning."""
    names = [flag.name for flag in (CONFIG, WORKDIR, DEVICES, INIT_FROM)]
    lines = [f"  --{name:12} {flags.FLAGS[name].help}" for name in names]
    found = re.findall(r"    config\.(\S+) = (.+?)  # (.+)", inspect.getsource(configs.default))
    keys = [f"  --config.{key + '=' + value:36} {meaning}" for key, value, meaning in found]
    return "\n".join([__doc__, "Flags:", *lines, "", "Keys of the configuration, with their defaults:", *keys])


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
