"""Train and measure variational autoencoders.

    python -m vae_jax.main --config=experiments/digits.py
    python -m vae_jax.main --config=experiments/mnist.py:quick --config.model.latent_dim=2 --workdir=runs/two
    python -m vae_jax.main --mode=evaluate --workdir=runs/two
    python -m vae_jax.main --mode=sample --workdir=runs/two --n=64 --out=samples.png

The experiment file holds the configuration; --config=digits:quick finds a shipped one by its name, from any directory,
and `vae-jax` is the same command. Any key of the configuration is a flag, --config.GROUP.KEY=VALUE. A run directory
that is not finished is resumed, a finished one prints its summary, and one with another configuration is left alone.
"""

import os
import pkgutil
import sys

from absl import app, flags

from vae_jax.commands import flags as command
from vae_jax.commands.flags import CONFIG, DEVICES, INIT_FROM, WORKDIR, given
from vae_jax.console import fail

MODES = {  # the function of each in vae_jax.commands, imported when it is asked for: --help is quick
    "train": "train:train_run",
    "evaluate": "evaluate:evaluate",
    "gaps": "diagnose:gaps",
    "estimators": "diagnose:estimators",
    "sample": "arrays:write_samples",
    "encode": "arrays:write_codes",
    "decode": "arrays:write_decoded",
}
MODE = flags.DEFINE_enum(
    "mode",
    "train",
    [*MODES],
    "train a run; or of a trained one: evaluate (all numbers and pictures), gaps (what its q loses), "
    "estimators (how noisy gradients are), or sample, encode, decode (arrays of your own).",
)
COUNT = flags.DEFINE_integer("n", 64, "sample: how many.", 1)
DATA = flags.DEFINE_string("data", None, "FILE.npz with the array x to encode, or z to decode, and perhaps condition.")
OUT = flags.DEFINE_string("out", None, "sample, encode, decode: FILE.npz, or FILE.png for images.")
COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "HOST:PORT of the first of several processes that train one model, or auto: ask the cluster; see docs/clusters.md.",
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes; 1: this one by itself.", 1)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of the processes this one is, from 0.", 0)
HEARTBEAT = flags.DEFINE_integer("heartbeat", 30, "Seconds after which a silent process is dead, and all stop.", 5)
CONNECT_TIMEOUT = flags.DEFINE_integer("connect_timeout", 300, "Seconds to wait until all processes have come.", 1)
PROCESSES = (COORDINATOR, NUM_PROCESSES, PROCESS_ID, HEARTBEAT, CONNECT_TIMEOUT)


def main(arguments):
    """Runs the chosen mode; every foreseen error becomes one line and exit status 2."""
    command.require_plain(arguments)
    if MODE.value == "train":
        command.require_config()
    elif not WORKDIR.value:
        fail(f"--workdir is missing: --mode={MODE.value} needs the directory of a trained run")
    command.guarded(run)


def run():
    """Does what the mode says."""
    join()
    arguments = arguments_of(MODE.value)
    try:
        pkgutil.resolve_name(f"vae_jax.commands.{MODES[MODE.value]}")(*arguments)
    except ModuleNotFoundError as error:
        if error.name != "blackjax":  # the one that an extra brings; anything else missing is no choice of the user's
            raise
        fail(f"--mode={MODE.value} needs {error.name}: pip install -e '.[ais]'")


def join():
    """Joins the other processes that train this run, if there are any; from here on the first of them talks."""
    import jax

    from vae_jax import console
    from vae_jax.parallel import processes

    found = processes.launch(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    if found is None:
        return
    if MODE.value != "train":
        fail(f"--mode={MODE.value} runs in one process: --num_processes=1, and start it once")
    where = found.coordinator or "an address from the cluster"
    console.write(f"processes  up to {CONNECT_TIMEOUT.value} s until all have come; the first listens at {where}")
    processes.connect(found, HEARTBEAT.value, CONNECT_TIMEOUT.value)
    # now, since jax ends the survivors of a process that dies without another word
    console.write(
        f"process    {jax.process_index()} of {jax.process_count()}: if one dies all stop, within some "
        f"{HEARTBEAT.value} s; the same command on every process resumes from the last checkpoint"
    )
    if not processes.first():
        sys.stdout = open(os.devnull, "w")


def arguments_of(mode):
    """What the function of a mode is called with."""
    if mode == "train":
        from vae_jax.runs.directory import default_workdir

        config, workdir = command.asked_config(), WORKDIR.value
        return config, workdir or default_workdir(command.config_path(), command.overrides()), DEVICES.value
    if mode in ("evaluate", "gaps", "estimators"):
        return WORKDIR.value, given() if flags.FLAGS["config"].present else {}, DEVICES.value
    if not OUT.value:
        fail(f"--out is missing: --mode={mode} writes FILE.npz" + ", or FILE.png" * (mode != "encode"))
    if mode != "sample" and not DATA.value:
        fail(f"--data is missing: --mode={mode} reads {'x' if mode == 'encode' else 'z'} from FILE.npz")
    return WORKDIR.value, OUT.value, *([COUNT.value] if mode == "sample" else []), DATA.value


def parse(arguments):
    """Flags from the command line; an error in them, or in the experiment file, is one line."""
    shown = (CONFIG, WORKDIR, MODE, DEVICES, INIT_FROM, COUNT, DATA, OUT, *PROCESSES)
    return command.parse(arguments, lambda: command.help_text(__doc__, shown))


def console_script():
    """`vae-jax` of an installed package: the same as `python -m vae_jax.main`."""
    app.run(main, flags_parser=parse)


if __name__ == "__main__":
    console_script()
