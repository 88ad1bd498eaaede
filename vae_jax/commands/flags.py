"""What the commands share: the flags that say which run is meant, errors as one line, and the text of --help."""

import getpass
import importlib.metadata
import os
import pathlib
import platform
import re
import shutil
import sys
import tempfile
import textwrap
import traceback

from absl import flags, logging
from ml_collections import config_flags

from vae_jax import config as configs
from vae_jax import console
from vae_jax.commands import configuration
from vae_jax.console import fail
from vae_jax.errors import ConfigError, DeviceError, one_line

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Experiment: a file, e.g. experiments/mnist.py:quick, or the name of a shipped one, mnist:quick."
)
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Run directory, of a sweep the parent of its runs; default: runs/NAME, with a suffix that spells the overrides.",
)
DEVICES = flags.DEFINE_integer(
    "devices", 0, "How many devices to use; 0: as many as can share the run's streams, or the runs of a sweep.", 0
)
INIT_FROM = flags.DEFINE_string("init_from", None, "RUN or RUN@STEP: start a new run from the parameters of another.")


def require_plain(arguments):
    """Ends the process, in one line, at what no command understands."""
    if len(arguments) > 1:
        fail(f"unexpected argument {arguments[1]!r}: every option is written --name=value")
    if not re.fullmatch(r"[^@]*(@\d+)?", INIT_FROM.value or ""):
        fail(f"--init_from={INIT_FROM.value}: expected RUN or RUN@STEP, say runs/digits@1400")


def require_config():
    if not flags.FLAGS["config"].present:
        fail("--config is missing; for example --config=experiments/digits.py")


def guarded(action):
    """Does what trains or measures; every error becomes one line and exit status 2."""
    logging.set_verbosity(logging.WARNING)  # jax tells at INFO which accelerators it did not find
    use_cache(os.environ.get(SWITCH, "off"))
    console.guarded(lambda: within_memory(action), "interrupted; the same command goes on from the last checkpoint")


def within_memory(action):
    """Does it; what no memory was left for is one line with the keys that take less."""
    try:
        return action()
    except (RuntimeError, MemoryError) as error:  # jax's own of a device is a RuntimeError
        if not isinstance(error, MemoryError) and not str(error).startswith("RESOURCE_EXHAUSTED"):
            raise
        raise DeviceError(
            f"out of memory ({one_line(error)[:150]}): lower config.train.batch_size or config.objective.num_samples; "
            "in measuring config.eval.chunk_images; for the data set config.data.placement = host"
        ) from error


def asked_config():
    """The validated configuration of --config, with its overrides."""
    if INIT_FROM.value:
        CONFIG.value.init_from = INIT_FROM.value
    return configuration.validate(CONFIG.value)


def config_path():
    return config_flags.get_config_filename(flags.FLAGS["config"])


def overrides():
    """The overridden keys that make a run another run."""
    source = {"init_from": INIT_FROM.value} if INIT_FROM.value else {}
    return source | {key: value for key, value in given().items() if not configs.in_groups(key, configs.CHANGEABLE)}


def given():
    """The keys overridden on the command line."""
    return config_flags.get_override_values(flags.FLAGS["config"])


def parse(arguments, help_text):
    """Flags from the command line; an error in them, or in the experiment file, is one line; --help prints a text.

    --help beside --config shows the values of that experiment, otherwise the defaults.
    """
    asked = [argument for argument in arguments[1:] if re.fullmatch("--?(help|h|helpshort|helpfull)(=.*)?", argument)]
    arguments = [argument for argument in arguments if argument not in asked]
    if asked and not any(re.match("--?config(=|$)", argument) for argument in arguments):
        console.end_with(help_text())
    logging.set_verbosity(logging.ERROR)
    try:
        arguments = with_experiments(arguments)
        require_known_keys(arguments)
        positional = flags.FLAGS(arguments)
        if flags.FLAGS["config"].present:
            getattr(CONFIG.value, "seed", None)  # raises what the experiment file raised, if that was an OSError
            configuration.validate(CONFIG.value)
    except Exception as error:  # an experiment file is anybody's code and may raise anything
        fail(explain(error, arguments))
    if asked:
        console.end_with(help_text())
    return positional


def with_experiments(arguments):
    """The arguments, where --config=NAME, if there is no such file, is the path of the shipped experiment NAME.

    A mode of a trained run takes overrides without a --config: the run has its own.
    """
    package = pathlib.Path(__file__).parents[1]
    places = [package / "experiments", package.parent / "experiments"]  # of a wheel, of a checkout

    def located(given):
        name, colon, variant = given.partition(":")
        shipped = [place / f"{name}.py" for place in places if name and (place / f"{name}.py").is_file()]
        return given if os.path.isfile(name) or not shipped else f"{shipped[0]}{colon}{variant}"

    given = "\0".join(arguments)
    if re.search(r"\0--?config\.", given) and not re.search(r"\0--?config[=\0]", given):
        if not re.search(r"\0--?mode[=\0](?!train)", given):
            raise ConfigError("--config is missing; for example --config=experiments/digits.py")
        arguments = [arguments[0], f"--config={configuration.__file__}", *arguments[1:]]
    joined = re.sub(r"(?<=\0)(--?config[=\0])([^\0]*)", lambda at: at[1] + located(at[2]), "\0".join(arguments))
    return joined.split("\0")


def require_known_keys(arguments):
    """Raises ConfigError at the first --config.KEY that is neither a key nor a group of keys."""
    for argument in arguments[1:]:
        found = re.match(r"--?(?:no)?config\.([^=]*)", argument)
        if found and not any(configs.in_groups(key, (found[1],)) for key in configuration.keys()):
            raise ConfigError(configs.unknown_key(found[1], configuration.keys()))


def explain(error, arguments):
    """One line about an error on the command line, or in the experiment file: what, and where."""
    spelled = re.findall(r"(?:^|\0)--?config(?:=|\0)([^\0]*)", "\0".join(arguments[1:]))
    path = spelled[-1].partition(":")[0] if spelled else ""
    if spelled and not os.path.isfile(path):
        return f"--config={path}: no such file, nor a shipped experiment of that name; say experiments/digits.py"
    wrong_type = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error), re.DOTALL)
    if wrong_type and wrong_type[1] in configuration.keys():
        expected = configs.TYPE_NAMES[type(configuration.keys()[wrong_type[1]].default)]
        return f"config.{wrong_type[1]} = {wrong_type[2]!r}: expected {expected}"
    for cause in causes(error):
        lines = [frame.lineno for frame in traceback.extract_tb(cause.__traceback__) if frame.filename == path]
        if isinstance(cause, ConfigError):
            return cause
        if isinstance(cause, SyntaxError):
            return f"{cause.filename}, line {cause.lineno}: {cause.msg}"
        if isinstance(cause, AttributeError) and str(cause).endswith("'get_config'"):
            return f"{path} has no function get_config(variant=''), so it is no experiment file"
        if lines:
            return f"{path}, line {lines[-1]}: {type(cause).__name__}: {cause}"
    return next(causes(error))


def causes(error):
    """An error and what it came from, without those by which ml_collections wraps a traceback into a message."""
    while error is not None:
        if "Error whilst parsing config file" not in str(error):
            yield error
        error = error.__cause__ or error.__context__


def help_text(doc, shown):
    """A command's docstring, its flags, and every key of the configuration with its value and meaning."""
    given = flags.FLAGS["config"].present
    values = configs.flat(CONFIG.value) if given else {name: key.default for name, key in configuration.keys().items()}
    rows = [(f"--{flag.name}", flags.FLAGS[flag.name].help) for flag in shown]
    keys = [
        (f"--config.{name}={configuration.spelled(values[name])}", configuration.described(key))
        for name, key in configuration.keys().items()
    ]
    columns = min(max(shutil.get_terminal_size().columns, 80), 120)
    title = f"Keys of the configuration, with {f'the values of {config_path()}' if given else 'their defaults'}:"
    return "\n".join([doc, "Flags:", *columned(rows, columns), "", title, *columned(keys, columns)])


def columned(rows, columns):
    """(name, meaning) pairs as two columns of text."""
    left = max(len(name) for name, _ in rows) + 4
    return [
        textwrap.fill(meaning or "-", columns, initial_indent=f"  {name}".ljust(left), subsequent_indent=" " * left)
        for name, meaning in rows
    ]


SWITCH = "VAE_JAX_COMPILATION_CACHE"
MAX_BYTES = 2 * 1024**3  # above it the entries used longest ago go; a limit also makes JAX lock what processes share


def use_cache(switch):
    """Turns the cache on ('on', or a directory for it) or leaves it off ('off', ''); returns the folder used, or None.

    The folder is one of this user, jaxlib version and kind of machine: an entry of another compiler is never read. JAX
    locks it while it reads and writes, so any number of runs may share it; an entry that cannot be read is compiled.
    On macOS, where reloaded programs have crashed, it stays off; where it cannot be written, with a warning.
    """
    if switch in ("", "off") or sys.platform == "darwin":
        return None
    import jax

    try:
        folder = folder_of(switch)
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError) as error:  # a RuntimeError: there is no home
        print(f"warning: no compiled programs are kept, {SWITCH}={switch}: {one_line(error)}", file=sys.stderr)
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    return folder


def folder_of(switch):
    """Where the entries of this user, this jaxlib and this kind of machine lie."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    base = pathlib.Path(home) / "vae_jax" if switch == "on" else pathlib.Path(switch)
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's number without a name
        user = str(os.getuid())
    return base / f"{user}-jaxlib-{importlib.metadata.version('jaxlib')}-{platform.machine()}"
