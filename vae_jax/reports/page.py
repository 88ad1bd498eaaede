"""The report: one self-contained HTML page of a run, page.html filled in with what the run directory holds.

No script, no network, nothing beside the page: pictures are embedded, styles inline. It reads on a phone, in print and
in a dark room, and says so where a run is unfinished. Everything that comes from a run is escaped.
"""

import base64
import html
import io
import pathlib
import string

from vae_jax import console
from vae_jax.reports.names import BITS, named, ordered
from vae_jax.runs import directory

SPLITS = ("test", "valid", "train")  # the one that counts first
COLUMNS = ("train", "valid", "test")  # of one table; every other part of a summary has a section of its own
SECTIONS = {"gaps": "Gaps", "estimators": "Gradient estimators", "off_manifold": "Images unlike the data"}
FIRST = ("log_px", "inference_gap", "approximation_gap", "amortization_gap")  # what --mode=gaps is asked for


def write_report(workdir, config_default: dict | None = None) -> pathlib.Path:
    """Writes report.html from what lies in a run directory.

    Args:
        workdir: the run directory.
        config_default: a configuration; keys of the run's own that differ from it are marked.

    Returns:
        The path of the page.

    Raises:
        RunError: where this is no run directory, or a file of it does not read.
    """
    root = pathlib.Path(workdir)
    config, summary = directory.read_config(root), directory.read_summary(root) or {}
    metrics, complete = directory.read_metrics(root), bool(summary.get("complete"))
    splits = summary.get("splits", {}) if complete else latest(metrics)
    changed = {} if config_default is None else directory.differing(config_default, config)
    environment = directory.read_environment(root)
    command = f"<pre>{escape(environment['command'])}</pre>" if environment.get("command") else ""
    remarks = console.remarks(summary) if complete else ["The latest of each, as logged in metrics.jsonl."]
    hints = {
        "Numbers": "".join(note(escape(remark)) for remark in remarks),
        "Configuration": note("Marked: what differs from the default, with the default beside it.") if changed else "",
        "Environment": command,
    }
    sections = {
        "Numbers": numbers_table({name: splits[name] for name in COLUMNS if name in splits}),
        **{SECTIONS.get(name, named(name)): of_a_kind(name, splits[name]) for name in splits if name not in COLUMNS},
        "Pictures": pictures(root / directory.FIGURES, summary.get("figures", {})),
        "Configuration": nested_table(config, changed),
        "Data": nested_table(directory.read_info(root) | directory.read_data(root)),
        "Environment": nested_table({k: v for k, v in environment.items() if k not in ("command", "argv")}),
    }
    template = string.Template(pathlib.Path(__file__).with_suffix(".html").read_text("utf-8"))
    page = template.substitute(
        name=escape(root.resolve().name),
        state="finished" if complete else "unfinished",
        facts=escape(facts(summary) if complete else progress(metrics)),
        headline=headline(splits) if complete else "",
        sections="\n".join(
            f"<section><h2>{title}</h2>{hints.get(title, '')}{inner}</section>"
            for title, inner in sections.items()
            if inner
        ),
    )
    directory._replace(root / directory.REPORT, page)
    return root / directory.REPORT


def facts(summary):
    """How long, how large and from which checkpoint."""
    parts = (
        f"{summary['epochs']:,g} epochs",
        f"{summary['step']:,} steps",
        f"{duration(summary['train_seconds'])} of training",
    )
    return " · ".join([*parts, f"{summary['num_params']:,} parameters", f"checkpoint: {summary['selected']}"])


def progress(metrics):
    """How far an unfinished run got."""
    last = max((record.get("step", 0) for record in metrics), default=None)
    where = "nothing measured yet" if last is None else f"last record at step {last:,}"
    return f"This run has not finished ({where}). Start the same command again to go on."


# Numbers.


def headline(splits):
    """The main numbers of the split that counts: test, or else valid, or else train."""
    split = next((name for name in SPLITS if splits.get(name)), None)
    if split is None:
        return ""
    numbers = splits[split]
    names = [name for name in ordered(numbers) if name.removesuffix(BITS) not in numbers or not name.endswith(BITS)][:6]
    cards = "".join(card(name, numbers) for name in names)
    text = f"On <b>{escape(split)}</b>: means over its examples, ± one standard error."
    return f'<div class="cards" style="--columns:{3 if len(names) == 6 else len(names)}">{cards}</div>{note(text)}'


def card(name, numbers):
    bits = numbers.get(name + BITS)
    second = f"<div>{measured(bits)} {escape(bits.get('unit') or '')}</div>" if bits else ""
    value = f"<div><b>{measured(numbers[name])}</b> {escape(numbers[name].get('unit') or '')}</div>"
    return f'<div class="card"><div class="label">{escape(named(name))}</div>{value}{second}</div>'


def numbers_table(splits):
    """Every number of train, valid and test, a column for each."""
    names = ordered(name for numbers in splits.values() for name in numbers)
    unit = lambda name: next((n[name].get("unit") or "" for n in splits.values() if name in n), "")
    cells = lambda name: [measured(numbers.get(name)) for numbers in splits.values()]
    return table(["", *map(escape, splits), ""], ([escape(named(n)), *cells(n), note_of(unit(n))] for n in names))


def of_a_kind(kind, numbers):
    """The table of gaps, of gradient estimators, or of any other part of a summary."""
    if kind == "estimators":
        return estimators_table(numbers)
    first = [name for name in FIRST if name in numbers] if kind == "gaps" else []
    names = [*first, *(name for name in numbers if name not in first)]
    counted = any("num_examples" in number for number in numbers.values())

    def row(name):
        number = numbers[name]
        count = f"{number['num_examples']:,}" if "num_examples" in number else ""
        by = f", by {named(number['method'])}" if "method" in number else ""
        return [escape(named(name)), measured(number), *[count] * counted, note_of((number.get("unit") or "") + by)]

    return table(["", "", *["examples"] * counted, ""], map(row, names))


def estimators_table(numbers):
    """A row for each estimator and part of the parameters: signal-to-noise ratio, its slope, and the test of a bias."""
    found = {}
    for name, number in numbers.items():
        what = next((ending for ending in ("snr_slope", "snr", "bias_t") if name.endswith(ending)), "")
        estimator, _, part = name.removesuffix(f"_{what}").partition("_")
        found.setdefault((estimator, part), {})[what] = number
    bias = {estimator: row.get("bias_t") for (estimator, part), row in found.items() if not part}
    rows = []
    for (estimator, part), row in found.items():
        if part:
            label, unit = f"{estimator.upper()}, {named(part)}", row.get("snr", {}).get("unit")
            numbers = row.get("snr"), row.get("snr_slope"), bias.get(estimator)
            rows.append([escape(label), *map(measured, numbers), note_of(unit)])
    return table(["", "signal to noise", "slope", "bias, paired t", ""], rows)


def table(head, rows):
    """A table whose first and last columns are words and the others numbers; cells are HTML."""
    rows = list(rows)
    if not rows:
        return ""
    last = len(head) - 1
    place = lambda i: ' class="n"' if 0 < i < last else ""
    cells = "".join(f"<th{place(i)}>{cell}</th>" for i, cell in enumerate(head))
    heads = f"<thead><tr>{cells}</tr></thead>" if any(head) else ""
    line = lambda row: (
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td{place(i)}>{cell}</td>" for i, cell in enumerate(row) if i)
    )
    body = "".join(f"{line(row)}</tr>" for row in rows)
    return f'<div class="wide"><table>{heads}<tbody>{body}</tbody></table></div>'


def note_of(text):
    return f'<span class="note">{escape(text or "")}</span>'


def latest(metrics):
    """The last number of each name, by split, in the summary's layout but without units."""
    splits = {}
    for record in metrics:
        values = {key: value for key, value in record.items() if isinstance(value, int | float) and key != "epoch"}
        splits.setdefault(str(record.get("split", "")), {}).update({k: {"value": v} for k, v in values.items()})
    return splits


def measured(number):
    """'−86.412 ± 0.031' of an entry of the summary, the error in small print."""
    if number is None or number.get("value") is None:
        return ""
    value, plus_minus, error = console.measured(number["value"], number.get("stderr") or None, ",").partition(" ± ")
    shown = value.replace("-", "\N{MINUS SIGN}")
    return f'{shown} <span class="note">± {error}</span>' if plus_minus else shown


def duration(seconds):
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.3g} s"


# Pictures, and what is nested.


def pictures(folder, captions):
    """The PNGs in a folder, those with a caption first."""
    found = {path.stem: path.read_bytes() for path in sorted(folder.glob("*.png"))}
    order = dict.fromkeys([*(name for name in captions if name in found), *found])
    drawn = "".join(picture(found[name], captions.get(name) or name.replace("_", " ")) for name in order)
    return f'<div class="pictures">{drawn}</div>' if drawn else ""


def picture(png, caption):
    (width, height), png = smaller(png)
    data, caption = base64.b64encode(png).decode(), escape(caption)
    image = f'<img width="{width}" height="{height}" alt="{caption}" src="data:image/png;base64,{data}">'
    return f"<figure{' class=broad' if width > 1.6 * height else ''}>{image}<figcaption>{caption}</figcaption></figure>"


def smaller(png):
    """((width, height), the picture in 256 colours): a third of the bytes; figures/ has every colour."""
    from PIL import Image  # which matplotlib brings

    image, stream = Image.open(io.BytesIO(png)), io.BytesIO()
    image.convert("RGB").quantize(256).save(stream, "PNG", optimize=True)
    return image.size, stream.getvalue()


def nested_table(tree, changed=None):
    """A dict of dicts as tables in columns, one for the values at the top and one for each group."""
    groups = {key: value for key, value in tree.items() if isinstance(value, dict) and value}
    blocks = [{key: value for key, value in tree.items() if key not in groups}, *({key: groups[key]} for key in groups)]
    bodies = ["".join(nested_rows(block, "", changed or {})) for block in blocks if block]
    tables = "".join(f"<table><col><col><tbody>{body}</tbody></table>" for body in bodies)
    return f'<div class="tree">{tables}</div>' if tables else ""


def nested_rows(tree, prefix, changed):
    """`changed` is {dotted key: (default, value)}."""
    depth = prefix.count(".")
    for key, value in tree.items():
        head = f'style="--depth:{depth}">{escape(key)}</th>'
        if isinstance(value, dict) and value:
            yield f'<tr class="group"><th colspan="2" {head}</tr>'
            yield from nested_rows(value, f"{prefix}{key}.", changed)
        else:
            change = changed.get(prefix + key)
            mark = "" if change is None else ' class="changed"'
            was = "" if change is None else f' <span class="was">default {plain(change[0])}</span>'
            yield f'<tr{mark}><th scope="row" {head}<td>{plain(value)}{was}</td></tr>'


def plain(value):
    if isinstance(value, list | tuple):
        shown = [*map(plain, value[:12]), *(["…"] if len(value) > 12 else [])]
        return f"({', '.join(shown)})"
    if value is None or value == "" or value == {}:
        return '<span class="note">none</span>'
    return escape(f"{value:g}" if isinstance(value, float) and value == float(f"{value:g}") else str(value))


def note(text):
    return f'<p class="note">{text}</p>'


def escape(text):
    return html.escape(str(text))
