"""A run directory: what a run is, what it has measured, and whether it may go on.

    config.json          the resolved configuration and the format's number; its existence makes the directory a run
    info.json            what the model must know of the data      environment.json   versions, commit, devices, command
    data.json            where the data came from, with checksums
    metrics.jsonl        one record a line, the source of truth     events.out.*       the same for TensorBoard
    summary.json         final numbers, units, standard errors      report.html        one page made of all of it
    config_history.jsonl what config.json and environment.json were before a resume changed them
    checkpoints/  figures/*.png
    gaps.npz, gaps.unfinished/      values of single examples by --mode=gaps; its finished stages, while there are more

Files are replaced whole (a temporary name, then a rename), lines are appended whole, so a process killed at any moment
leaves a directory that reads. All JSON is strict: a float that is not finite is stored as the string 'nan', 'inf' or
'-inf' and read back as the float. In a run of several processes only the first may write here. Errors are RunErrors.
"""

import contextlib
import hashlib
import io
import json
import os
import pathlib
import re
import time
from typing import Any

from vae_jax.config import CHANGEABLE, flat, in_groups
from vae_jax.errors import RunError
from vae_jax.runs import files, strict_json

FORMAT = 3  # of a run directory: its checkpoints have sums; 0.2.0 wrote 2, and 0.1 no number, which is 1
CONFIG, INFO, ENVIRONMENT, HISTORY = "config.json", "info.json", "environment.json", "config_history.jsonl"
DATA = "data.json"
METRICS, SUMMARY, REPORT, FIGURES = "metrics.jsonl", "summary.json", "report.html", "figures"
# All that a run killed before its config.json was in place can have left behind.
_BEFORE_CONFIG = {
    files.LOCK,
    files.HOLDER,
    INFO,
    DATA,
    ENVIRONMENT,
    *(f".{name}.tmp" for name in (CONFIG, INFO, DATA, ENVIRONMENT)),
}
_ABSENT = "(absent)"


# Opening a run.


def open_run(
    workdir, config: dict, info: dict, environment: dict, step: int | None = None, provenance: dict | None = None
) -> str:
    """Make or reopen a run: 'new', 'resume' or 'finished'. Raises RunError like `run_status`, before it writes.

    A resume may differ in keys of `config.CHANGEABLE`; then config.json follows, config_history.jsonl keeps what it
    was, and a summary that was complete no longer is. It drops the metrics beyond `step`, from which it goes on.
    """
    status, root = run_status(workdir, config), pathlib.Path(workdir)
    with _usable(root):
        if status == "new":
            files.make(root)
            parts = {INFO: info, DATA: provenance or {}, ENVIRONMENT: environment, CONFIG: _numbered(config)}
            for name, value in parts.items():  # config last
                _replace(root / name, strict_json.dumps(value, indent=2))
        elif status == "resume":
            _refuse(root, "was begun with other data", differing(read_info(root), info), "the same data")
            require_same_data(root, provenance or {})
            _reopen(root, config, environment)
            if step is not None:
                truncate_metrics(workdir, step)
    return status


def run_status(workdir, config: dict) -> str:
    """What `open_run` would answer; writes nothing. Raises RunError if the directory is not ours or its config differs
    in a key that is not changeable."""
    root = pathlib.Path(workdir)
    if strict_json.encoded(str(root)) != os.fsencode(root):  # the library that stores checkpoints takes no such path
        raise RunError(f"{strict_json.encoded(str(root)).decode()} is no name in UTF-8: choose another --workdir")
    with _usable(root):
        if not (root / CONFIG).exists():
            _refuse_foreign(root)
            return "new"
    changed = differing(read_config(root), config)
    fixed = {key: pair for key, pair in changed.items() if not in_groups(key, CHANGEABLE)}
    _refuse(root, "holds a run with another config", fixed, "the old values")
    finished = (read_summary(root) or {}).get("complete", False)
    return "finished" if finished and not changed else "resume"


def wait_for(workdir, started: str, seconds: float = 90) -> None:
    """Returns when this process sees the run that another has opened at `started`; raises RunError if it never does.

    NFS may show a process for a minute that a directory is not there, after it has been made by another.
    """
    path, until = pathlib.Path(workdir) / ENVIRONMENT, time.monotonic() + seconds
    while not path.exists() or _read(workdir, ENVIRONMENT).get("started") != started:
        if time.monotonic() > until:
            raise RunError(f"{workdir} is another directory here: several processes need one on a shared filesystem")
        time.sleep(0.5)


def differing(old: dict, new: dict) -> dict[str, tuple]:
    """Dotted keys whose values differ, with both of them as JSON holds them (a tuple is a list), or '(absent)'."""
    old, new = flat(strict_json.plain(old)), flat(strict_json.plain(new))
    keys = [*old, *(key for key in new if key not in old)]
    pairs = {key: (old.get(key, _ABSENT), new.get(key, _ABSENT)) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def default_workdir(config_path, overrides: dict) -> str:
    """'runs/mnist-latent_dim=2-seed=1' for ('experiments/mnist.py', {'model.latent_dim': 2, 'seed': 1})."""
    path, _, variant = str(config_path).partition(":")
    short = [key.rpartition(".")[2] for key in overrides]
    keys = short if len(set(short)) == len(short) else list(overrides)
    spelled = sorted(f"{key}={_spell(value)}" for key, value in zip(keys, overrides.values(), strict=True))
    asked = "-".join([pathlib.PurePath(path).stem, *filter(None, [variant]), *spelled])
    name = re.sub(r"[^\w.,=+-]+", "_", asked, flags=re.ASCII).strip("._") or "run"
    if len(name) > 100 or name != asked:  # two runs must not meet because their names were cut or cleaned alike
        name = f"{name[:90]}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"
    return f"runs/{name}"


# Reading and writing its files.


def read_config(workdir: Any) -> dict:
    """The configuration of a run.

    Args:
        workdir: a run directory.

    Returns:
        The configuration, lists for tuples.

    Raises:
        RunError: where this is no run directory of this format.
    """
    config = _read(workdir, CONFIG)
    number = config.pop("format", 1)
    if number != FORMAT:
        writer = {1: "vae_jax 0.1", 2: "vae_jax 0.2.0"}.get(number, "a later vae_jax")
        raise RunError(
            f"{workdir} was written by {writer} (format {number}): this version reads format {FORMAT}; use {writer}, "
            "or train it anew"
        )
    return config


def read_info(workdir) -> dict:
    """What the model must know of the data. Raises RunError if this is no run directory."""
    return _read(workdir, INFO)


def read_data(workdir) -> dict:
    """Where the data came from, {} where that was not stored. Raises RunError if it does not read."""
    return _read(workdir, DATA) if (pathlib.Path(workdir) / DATA).exists() else {}


def require_same_data(workdir, provenance: dict) -> None:
    """Raises RunError where the run was begun with data of another checksum: sums of one kind are compared."""
    old, new = read_data(workdir).get("sums", {}), provenance.get("sums", {})
    for kind in old.keys() & new.keys():
        if old[kind] != new[kind]:
            raise RunError(
                f"{workdir} was begun with other data: {kind} {old[kind]:.100}, now {new[kind]:.100} of "
                f"{provenance.get('source')}; give the data that it was begun with, or another --workdir"
            )


def read_environment(workdir) -> dict:
    """Versions, commit and devices, {} where none were stored. Raises RunError if it does not read."""
    return _read(workdir, ENVIRONMENT) if (pathlib.Path(workdir) / ENVIRONMENT).exists() else {}


def read_summary(workdir: Any) -> dict | None:
    """The final numbers of a run.

    Args:
        workdir: a run directory.

    Returns:
        The summary, None before there is one.

    Raises:
        RunError: where this is no run directory.
    """
    read_config(workdir)
    summary = _read(workdir, SUMMARY) if (pathlib.Path(workdir) / SUMMARY).exists() else None
    if summary is not None and not isinstance(summary.get("splits"), dict):
        raise RunError(f"{SUMMARY} in {workdir} holds no splits: remove it, and the command of the run writes it anew")
    return summary


def write_summary(workdir, summary: dict) -> None:
    """Store the final numbers; `summary['complete']` true makes the run finished."""
    _replace(pathlib.Path(workdir) / SUMMARY, strict_json.dumps(summary, indent=2))


def append_metrics(workdir, record: dict) -> None:
    """Add one record, {'step': int, 'epoch': float, 'split': str, name: number...}, as a whole line."""
    try:
        with open(pathlib.Path(workdir) / METRICS, "ab") as file:
            file.write(strict_json.encoded(strict_json.dumps(record)) + b"\n")
    except FileNotFoundError as error:
        raise RunError(f"{workdir} is gone: it was moved or deleted while a run wrote into it") from error


def read_metrics(workdir: Any) -> list:
    """All whole records of a run; a last line that was cut short by a kill is left out.

    Args:
        workdir: a run directory.

    Returns:
        The records, in order.

    Raises:
        RunError: at a line that is not JSON, or no record.
    """
    return [_record(line, f"line {number} of {METRICS} in {workdir}") for number, line in enumerate(_lines(workdir), 1)]


def _record(line, where):
    record = strict_json.loads(line, where)
    if isinstance(record, dict) and isinstance(record.get("step"), int) and isinstance(record.get("split"), str):
        return record
    raise RunError(f"{where} is no record, {record!s:.40}: remove that line, or train anew in another --workdir")


def lost_steps(records: list, window: int, last: int) -> list[tuple[int, int]]:
    """(first, last) of the steps that training has recorded and of which no record is there any more.

    Args:
        records: of `read_metrics`.
        window: steps of one record, at most.
        last: the step that training has reached.

    Returns:
        The gaps in order.
    """
    found = sorted({record["step"] for record in records if record["split"] == "train"})
    begun = [(end - 1) // window * window for end in found]  # each record's own first step, less one
    return [(end + 1, start) for end, start in zip([0, *found], [*begun, last], strict=True) if end < start]


def truncate_metrics(workdir, step: int) -> None:
    """Drop what a run resumed at `step` writes again: later records, the test's, and a torn tail."""
    path = pathlib.Path(workdir) / METRICS
    if path.exists():
        pairs = zip(_lines(workdir), read_metrics(workdir), strict=True)
        _replace(path, b"".join(line for line, record in pairs if record["step"] <= step and record["split"] != "test"))


def save_figure(workdir, name: str, figure) -> pathlib.Path:
    """A matplotlib Figure as figures/<name>.png."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=144, metadata={"Software": None})  # no version: same picture, same bytes
    path = pathlib.Path(workdir) / FIGURES / f"{name}.png"
    files.make(path.parent)
    _replace(path, png.getvalue())
    return path


def save_figures(workdir, drawn: dict) -> dict[str, str]:
    """Pictures {name: (Figure, caption)} as figures/<name>.png; their captions, {name: caption}."""
    for name, (figure, _) in drawn.items():
        save_figure(workdir, name, figure)
    return {name: caption for name, (_, caption) in drawn.items()}


# TensorBoard.


def events(workdir, purge_step: int | None = None):
    """A TensorBoard writer into the run directory; a run resumed at step s passes `purge_step=s + 1`."""
    import tensorboardX

    return tensorboardX.SummaryWriter(str(workdir), purge_step=purge_step, flush_secs=30)


def add_events(writer, record: dict) -> None:
    """One record of metrics.jsonl for TensorBoard."""
    for name, value in record.items():
        if name not in ("step", "epoch", "split"):
            writer.add_scalar(f"{record['split']}/{name}", float(value), record["step"])


# Below: refusals, then JSON and files.


def _refuse_foreign(root: pathlib.Path) -> None:
    if root.exists() and not root.is_dir():
        raise RunError(f"{root} is a file, not a run directory: choose another --workdir")
    foreign = sorted({path.name for path in root.iterdir()} - _BEFORE_CONFIG) if root.exists() else []
    if foreign:
        what = f"it holds {foreign[0]} and no {CONFIG}"
        raise RunError(f"{root} is not empty and not a run ({what}): choose another --workdir")


def _refuse(root: pathlib.Path, what: str, changed: dict, way: str) -> None:
    if changed:
        shown = [f"{key} {_brief(old)} -> {_brief(new)}" for key, (old, new) in list(changed.items())[:5]]
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise RunError(f"{root} {what}: {', '.join(shown)}{more}; choose another --workdir or {way}")


def _brief(value) -> str:
    text = value if value == _ABSENT else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _reopen(root: pathlib.Path, config: dict, environment: dict) -> None:
    """Bring config.json and environment.json up to date, the old ones going to the history first."""
    summary = read_summary(root)
    if summary is not None and summary.get("complete"):
        write_summary(root, {**summary, "complete": False})  # before config.json: equal configs must not look finished
    for name, value in ((CONFIG, _numbered(config)), (ENVIRONMENT, environment)):
        old = _read(root, name) if (root / name).exists() else {}
        if differing(old, value):
            with open(root / HISTORY, "ab") as file:
                file.write(strict_json.encoded(strict_json.dumps({name.removesuffix(".json"): old})) + b"\n")
            _replace(root / name, strict_json.dumps(value, indent=2))


def _numbered(config: dict) -> dict:
    return {"format": FORMAT, **config}


@contextlib.contextmanager
def _usable(root: pathlib.Path):
    try:
        yield
    except OSError as error:
        raise RunError(f"{root} cannot be used: {error.strerror}; choose another --workdir") from error


def _read(workdir, name: str) -> dict:
    path = pathlib.Path(workdir) / name
    try:
        value = strict_json.loads(path.read_bytes(), str(path))
    except OSError as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        why = f"no {name} in it" if missing else f"{name}: {error.strerror}"
        raise RunError(f"{workdir} is not a run directory ({why})") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} holds a {type(value).__name__}, not an object")
    return value


def _lines(workdir) -> list[bytes]:
    path = pathlib.Path(workdir) / METRICS
    whole, newline, _torn = (path.read_bytes() if path.exists() else b"").rpartition(b"\n")
    return (whole + newline).splitlines(keepends=True)


def _replace(path: pathlib.Path, content) -> None:
    files.replace(path, strict_json.encoded(content) if isinstance(content, str) else content)


def _spell(value) -> str:
    return ",".join(map(_spell, value)) if isinstance(value, list | tuple) else str(value)
