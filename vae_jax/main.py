"""Train and measure variational autoencoders.

    python -m vae_jax.main --config=experiments/digits.py
    python -m vae_jax.main --config=experiments/mnist.py:quick --config.model.latent_dim=2 --workdir=runs/two
    python -m vae_jax.main --mode=evaluate --workdir=runs/two
    python -m vae_jax.main --mode=sample --workdir=runs/two --n=64 --out=samples.png

The experiment file holds the configuration; any key of it is a flag, --config.GROUP.KEY=VALUE. A run directory that is
not finished is resumed, a finished one prints its summary, and one with another configuration is left alone.
"""

import os
import sys

from absl import app, flags

from vae_jax.commands import flags as command
from vae_jax.commands.flags import CONFIG, DEVICES, INIT_FROM, WORKDIR, given
from vae_jax.console import fail

MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "evaluate", "gaps", "estimators", "sample", "encode", "decode"],
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
    """Runs the chosen mode; every foreseen mistake becomes one line and exit status 2."""
    command.require_plain(arguments)
    if MODE.value == "train":
        command.require_config()
    elif not WORKDIR.value:
        fail(f"--workdir is missing: --mode={MODE.value} needs the directory of a trained run")
    command.guarded(lambda: (join(), MODES[MODE.value]()))


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


def run_train():
    """Trains, or resumes, the run of --config in its directory and prints its numbers."""
    from vae_jax import console
    from vae_jax.runs import directory
    from vae_jax.commands import train

    config = command.asked_config()
    workdir = WORKDIR.value or directory.default_workdir(command.config_path(), command.overrides())
    summary = train.train_run(config, workdir, DEVICES.value)
    if summary is None:  # another process has it
        return
    console.write(console.table(summary))
    console.write(f"report    {os.path.join(workdir, 'report.html')}")


def run_gaps():
    """Measures the gaps of the run in --workdir; keys that touch no parameter may be given beside its config."""
    from vae_jax.commands import diagnose

    try:
        from vae_jax.evaluation import gaps  # noqa: F401
    except ImportError as error:
        fail(f"--mode=gaps needs {error.name}: pip install -e '.[ais]'")
    diagnose.gaps(WORKDIR.value, given_to_a_run(), DEVICES.value)


def run_evaluate():
    """Measures and draws everything of the run in --workdir."""
    from vae_jax.commands import evaluate

    evaluate.evaluate(WORKDIR.value, given_to_a_run(), DEVICES.value)


def run_estimators():
    """Measures gradient estimators at the parameters of the run in --workdir."""
    from vae_jax.commands import diagnose

    diagnose.estimators(WORKDIR.value, given_to_a_run(), DEVICES.value)


def run_on_arrays():
    """Samples, encodes or decodes with the run in --workdir, into --out."""
    from vae_jax.commands import arrays

    if not OUT.value:
        fail(f"--out is missing: --mode={MODE.value} writes FILE.npz" + ", or FILE.png" * (MODE.value != "encode"))
    if MODE.value == "sample":
        arrays.write_samples(WORKDIR.value, OUT.value, COUNT.value, DATA.value)
    elif not DATA.value:
        fail(f"--data is missing: --mode={MODE.value} reads {'x' if MODE.value == 'encode' else 'z'} from FILE.npz")
    else:
        {"encode": arrays.write_codes, "decode": arrays.write_decoded}[MODE.value](WORKDIR.value, OUT.value, DATA.value)


MODES = {
    "train": run_train,
    "evaluate": run_evaluate,
    "gaps": run_gaps,
    "estimators": run_estimators,
    **dict.fromkeys(("sample", "encode", "decode"), run_on_arrays),
}


def given_to_a_run():
    """The keys overridden on the command line for a mode that does without --config."""
    return given() if flags.FLAGS["config"].present else {}


def parse(arguments):
    """Flags from the command line; a mistake in them, or in the experiment file, is one line."""
    shown = (CONFIG, WORKDIR, MODE, DEVICES, INIT_FROM, COUNT, DATA, OUT, *PROCESSES)
    return command.parse(arguments, lambda: command.help_text(__doc__, shown))


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
