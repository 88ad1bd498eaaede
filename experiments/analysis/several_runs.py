"""What the scripts of this folder share: their command line, and what they ask of the runs that they are given."""

from pathlib import Path

from vae_jax import console
from vae_jax.config import flat
from vae_jax.console import Parser, guarded
from vae_jax.errors import ConfigError
from vae_jax.models.model import make_model
from vae_jax.runs import directory, load

ELSEWHERE = ("data.manual_dir", "data.data_dir", "data.streams")  # where the data lie, and how they are batched


def parse(script, text, arguments=None, *, names=(), out="FILE.png"):
    """(run directories, Path of --out) of a command line; `names` of the runs, where there must be just so many."""
    parser = Parser(f"python experiments/analysis/{Path(script).name}", text)
    for name in names:
        parser.add_argument("runs", action="append", metavar=name)
    if not names:
        parser.add_argument("runs", nargs="+", metavar="RUN", help="directory of a finished run")
    parser.add_argument("--out", required=True, metavar=out)
    given = parser.parse_intermixed_args(arguments)
    if out == "FILE.png" and not given.out.endswith(".png"):
        parser.error(f"--out={given.out}: expected FILE.png")
    return given.runs, Path(given.out)


def draw(runs, out, figure_of):
    """Saves `figure_of(runs)` as `out`; what a person can mend becomes one line and exit status 2."""

    def action():
        figure = figure_of(runs)
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=144)

    guarded(action)
    console.write(f"picture   {out}")


def require_same_data(runs):
    """Raises ConfigError for runs that were not trained and measured on the same images: which, and the key."""
    first, *others = map(data_of, runs)
    for run, data in zip(runs[1:], others, strict=True):
        for key, (one, other) in directory.differing(first, data).items():
            raise ConfigError(f"{runs[0]} and {run} have other data, {key} = {one!r} and {other!r}: compare the same")


def data_of(run):
    """{key: value} of all that decides which images a run was trained and measured on. Raises RunError for no run."""
    config = load.read_config(run)
    data = {key: value for key, value in flat(config.data, "data.").items() if key not in ELSEWHERE}
    return data | {"eval.seed": config.eval.seed, "eval.max_examples": config.eval.max_examples}


def measured(run, *names):
    """What a run's summary has of test images. Raises ConfigError before its end, and where `names` are missing."""
    summary = directory.read_summary(run) or {}
    if not summary.get("complete"):
        raise ConfigError(f"{run} is not finished: the command that began it goes on with it")
    numbers = summary.get("splits", {}).get("test", {})
    missing = [name for name in names if name not in numbers]
    if missing:
        raise ConfigError(f"{run} has no {', '.join(missing)} of test images: leave it out")
    return numbers


def model_of(run):
    """The model of a run without its parameters, to ask what it can do."""
    return make_model(load.read_config(run), load.read_info(run))
