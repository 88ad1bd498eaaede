"""The report: one self-contained HTML page of a run. A pure function from what a run directory holds to a string.

No script, no network, nothing beside the page: pictures are embedded, styles inline. It reads on a phone, in print and
in a dark room, and says so where a run is unfinished. Everything that comes from a run is escaped.
"""

import base64
import html
import math
import pathlib
import struct
from typing import NamedTuple

from vae_jax.runs.directory import (
    FIGURES,
    REPORT,
    _replace,
    differing,
    read_config,
    read_environment,
    read_info,
    read_metrics,
    read_summary,
)

SPLITS = ("test", "valid", "train")  # the one that counts first
LABELS = {
    "nll": "NLL",
    "log_px": "log p(x)",
    "elbo": "ELBO",
    "log_likelihood": "E[log p(x|z)]",
    "kl": "KL(q ‖ p)",
    "active_units": "active units",
}
BITS = "_bits_per_dim"  # 'elbo_bits_per_dim' is shown together with 'elbo'


class Content(NamedTuple):
    """What the page shows; all may be empty. `changed` is {dotted key: (default, value)}, `figures` {name: PNG}."""

    name: str
    config: dict
    changed: dict
    info: dict
    environment: dict
    summary: dict
    metrics: list
    figures: dict


def render(content: Content) -> str:
    """The whole page."""
    sections = {
        "Numbers": numbers_table(content),
        "Pictures": pictures(content),
        "Configuration": config_table(content.config, content.changed),
        "Data": nested_table(content.info),
        "Environment": environment(content.environment),
    }
    body = "".join(f"<section><h2>{title}</h2>{inner}</section>" for title, inner in sections.items() if inner)
    name = escape(content.name)
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f'<meta name="color-scheme" content="light dark"><title>{name} · vae_jax</title><style>{STYLE}</style>'
    top = f"<header><h1>{name} {badge(content)}</h1>{facts(content)}</header>{headline(content)}"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><main>{top}{body}</main></body></html>\n'


def finished(content: Content) -> bool:
    return bool(content.summary.get("complete"))


def badge(content: Content) -> str:
    kind, text = ("done", "finished") if finished(content) else ("open", "unfinished")
    return f'<span class="badge {kind}">{text}</span>'


def facts(content: Content) -> str:
    """One line on how long, how large and from which checkpoint; for an unfinished run, how far it got."""
    if not finished(content):
        last = max(content.metrics, key=lambda record: record.get("step", 0), default=None)
        where = f"last record at step {last.get('step', 0):,}" if last else "nothing measured yet"
        return f"<p>This run has not finished ({where}). Start the same command again to go on.</p>"
    summary = content.summary
    parts = {
        "epochs": ("{} epochs", lambda value: f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"),
        "step": ("{} steps", "{:,}".format),
        "train_seconds": ("{} of training", duration),
        "num_params": ("{} parameters", "{:,}".format),
        "selected": ("checkpoint: {}", str),
    }
    texts = [text.format(form(summary[key])) for key, (text, form) in parts.items() if summary.get(key) is not None]
    return f"<p>{escape(' · '.join(texts))}</p>"


def headline(content: Content) -> str:
    """The main numbers of the split that counts: test, or else valid, or else train."""
    splits = content.summary.get("splits", {}) if finished(content) else {}
    split = next((name for name in SPLITS if splits.get(name)), None)
    if split is None:
        return ""
    numbers = splits[split]
    names = [name for name in ordered(numbers) if name.removesuffix(BITS) not in numbers or not name.endswith(BITS)][:6]
    columns = 3 if len(names) == 6 else len(names)
    cards = "".join(card(name, numbers) for name in names)
    note = f'<p class="note">On <b>{escape(split)}</b>: means over its examples, ± one standard error.</p>'
    return f'<div class="cards" style="--columns:{columns}">{cards}</div>{note}'


def card(name: str, numbers: dict) -> str:
    bits = numbers.get(name + BITS)
    second = f"<div>{measured(bits)} {escape(bits.get('unit') or '')}</div>" if bits else ""
    unit = escape(numbers[name].get("unit") or "")
    return (
        f'<div class="card"><div class="label">{label(name)}</div>'
        f"<div><b>{measured(numbers[name])}</b> {unit}</div>{second}</div>"
    )


def numbers_table(content: Content) -> str:
    """Every number by split; for an unfinished run the latest of each, as logged."""
    splits, caption = content.summary.get("splits", {}), ""
    if not finished(content):
        splits, caption = latest(content.metrics), '<p class="note">The latest of each, as logged in metrics.jsonl.</p>'
    columns = [*(name for name in SPLITS if name in splits), *(name for name in splits if name not in SPLITS)]
    names = ordered(name for split in columns for name in splits[split])
    if not names:
        return ""
    units = {name: next((splits[s][name].get("unit") for s in columns if name in splits[s]), None) for name in names}
    head = "<th></th>" + "".join(f'<th class="n">{escape(split)}</th>' for split in columns) + "<th></th>"
    rows = "".join(
        f'<tr><th scope="row">{label(name)}</th>'
        + "".join(f'<td class="n">{measured(splits[split].get(name))}</td>' for split in columns)
        + f'<td class="note">{escape(units[name] or "")}</td></tr>'
        for name in names
    )
    return f'{caption}<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def latest(metrics: list) -> dict:
    """The last number of each name, by split, in the summary's layout but without units."""
    splits = {}
    for record in metrics:
        values = {key: value for key, value in record.items() if isinstance(value, int | float) and key != "epoch"}
        numbers = splits.setdefault(str(record.get("split", "")), {})
        numbers.update({key: {"value": value} for key, value in values.items()})
    return splits


def pictures(content: Content) -> str:
    captions = content.summary.get("figures", {})
    order = [name for name in captions if name in content.figures]
    order += [name for name in content.figures if name not in order]
    drawn = "".join(picture(content.figures[name], captions.get(name) or name.replace("_", " ")) for name in order)
    return f'<div class="pictures">{drawn}</div>' if drawn else ""


def picture(png: bytes, caption: str) -> str:
    width, height = struct.unpack(">II", png[16:24]) if len(png) >= 24 else (1, 1)  # the PNG header says
    data, caption = base64.b64encode(png).decode(), escape(caption)
    image = f'<img width="{width}" height="{height}" alt="{caption}" src="data:image/png;base64,{data}">'
    return f"<figure{' class=broad' if width > 1.6 * height else ''}>{image}<figcaption>{caption}</figcaption></figure>"


def config_table(config: dict, changed: dict) -> str:
    intro = '<p class="note">Marked: what differs from the default, with the default beside it.</p>' if changed else ""
    return intro + nested_table(config, changed)


def nested_table(tree: dict, changed: dict | None = None) -> str:
    """A dict of dicts as tables in columns, one for the values at the top and one for each group."""
    groups = {key: value for key, value in tree.items() if isinstance(value, dict) and value}
    blocks = [{key: value for key, value in tree.items() if key not in groups}, *({key: groups[key]} for key in groups)]
    bodies = ["".join(nested_rows(block, "", changed or {})) for block in blocks if block]
    tables = "".join(f"<table><col><col><tbody>{body}</tbody></table>" for body in bodies)
    return f'<div class="tree">{tables}</div>' if tables else ""


def nested_rows(tree: dict, prefix: str, changed: dict):
    depth = prefix.count(".")
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield f'<tr class="group"><th colspan="2" style="--depth:{depth}">{escape(key)}</th></tr>'
            yield from nested_rows(value, f"{prefix}{key}.", changed)
        else:
            yield leaf_row(key, value, depth, changed.get(prefix + key))


def leaf_row(key: str, value, depth: int, change=None) -> str:
    mark = "" if change is None else ' class="changed"'
    was = "" if change is None else f' <span class="was">default {plain(change[0])}</span>'
    return f'<tr{mark}><th scope="row" style="--depth:{depth}">{escape(key)}</th><td>{plain(value)}{was}</td></tr>'


def environment(values: dict) -> str:
    command = values.get("command")
    shown = f"<pre>{escape(command)}</pre>" if command else ""
    return shown + nested_table({key: value for key, value in values.items() if key not in ("command", "argv")})


# Words and numbers.


def label(name: str) -> str:
    base = name.removesuffix(BITS)
    text = LABELS.get(base, base.replace("_", " "))
    return escape(f"{text} per dim" if base != name else text)


def ordered(names) -> list:
    """Each name once: those of LABELS first and in that order, bits/dim right behind their nats."""
    names = list(dict.fromkeys(names))
    bases = list(dict.fromkeys([*LABELS, *(name.removesuffix(BITS) for name in names)]))
    return sorted(names, key=lambda name: (bases.index(name.removesuffix(BITS)), name))


def measured(number: dict | None) -> str:
    """'−86.412 ± 0.031': two digits of the standard error decide how many of the value are shown."""
    if number is None or number.get("value") is None:
        return "–"
    value, stderr = number["value"], number.get("stderr")
    if not (stderr and math.isfinite(stderr) and math.isfinite(value)):
        return minus(f"{value:,}" if isinstance(value, int) else f"{value:,.6g}")
    digits = min(max(1 - math.floor(math.log10(stderr)), 0), 9)
    return f'{minus(f"{value:,.{digits}f}")} <span class="note">± {stderr:.{digits}f}</span>'


def minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.3g} s"


def plain(value) -> str:
    if isinstance(value, list | tuple):
        shown = [*map(plain, value[:12]), *(["…"] if len(value) > 12 else [])]
        return f"({', '.join(shown)})"
    if value is None or value == "" or value == {}:
        return '<span class="note">none</span>'
    return escape(f"{value:g}" if isinstance(value, float) and value == float(f"{value:g}") else str(value))


def escape(text) -> str:
    return html.escape(str(text))


STYLE = """
:root { --paper: #fff; --ink: #1c2024; --soft: #5d666f; --line: #dfe3e7; --tint: #f4f6f8; --mark: #fff4cf;
  --done: #1b6e3a; --open: #a14b00 }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --ink: #e4e7ea; --soft: #9aa4ae; --line: #2e343a;
  --tint: #1c2024; --mark: #3a3214; --done: #6cc48c; --open: #f0a35e } }
@media print { :root { --paper: #fff; --ink: #000; --soft: #444; --line: #bbb; --tint: #fff; --mark: #f1ecd8;
  --done: #000; --open: #000 } html { font-size: 11px } main { padding: 0 !important; max-width: none !important }
  figure, tr, .card { break-inside: avoid } }
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, "Segoe UI", Helvetica, sans-serif }
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1.25rem 4rem }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .7rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line);
  break-after: avoid }
header p { margin: 0; color: var(--soft) }
.badge { font-size: .8rem; font-weight: 600; padding: .15rem .55rem; border: 1px solid; border-radius: 1rem;
  vertical-align: .3rem; white-space: nowrap }
.done { color: var(--done) } .open { color: var(--open) }
.cards { display: grid; grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); gap: .75rem;
  margin: 1.4rem 0 .5rem }
.card { background: var(--tint); border: 1px solid var(--line); border-radius: .5rem; padding: .7rem .9rem;
  font-variant-numeric: tabular-nums; color: var(--soft); font-size: .92rem }
.card b { font-size: 1.35rem; color: var(--ink); white-space: nowrap }
.card b .note { font-size: .92rem; font-weight: 400 }
.label { font-size: .85rem; color: var(--soft) }
.note, .was { color: var(--soft); font-size: .9em } span.note { white-space: nowrap }
table { border-collapse: collapse; font-size: .93rem }
th, td { text-align: left; padding: .28rem 1.4rem .28rem .4rem; border-bottom: 1px solid var(--line);
  vertical-align: baseline }
th { font-weight: 500 } thead th { color: var(--soft) }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.wide { overflow-x: auto }
.tree { columns: 2 22rem; column-gap: 2.5rem }
.tree table { width: 100%; table-layout: fixed; break-inside: avoid; margin-bottom: 1.1rem }
.tree col:first-child { width: 42% }
.tree th { overflow-wrap: anywhere; color: var(--soft);
  padding-left: calc(.4rem + var(--depth, 0) * 1.2rem) }
.tree td { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .86rem; overflow-wrap: anywhere }
.tree .group th { color: var(--ink); font-weight: 650 }
.changed th, .changed td { background: var(--mark) } .changed th { color: var(--ink) }
.was { font-family: system-ui, sans-serif; margin-left: .6rem }
.pictures { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1.4rem 1.2rem }
figure { margin: 0 } .broad { grid-column: 1 / -1 }
img { display: block; width: 100%; height: auto; padding: .6rem; background: #fff; border: 1px solid var(--line);
  border-radius: .4rem }
figcaption { margin-top: .4rem; color: var(--soft); font-size: .9rem }
pre { background: var(--tint); border: 1px solid var(--line); border-radius: .4rem; padding: .7rem .9rem;
  white-space: pre-wrap; overflow-wrap: anywhere; font: .86rem/1.5 ui-monospace, Menlo, Consolas, monospace }
@media (max-width: 40rem) { main { padding: 1.2rem .9rem 3rem } .pictures { grid-template-columns: minmax(0, 1fr) }
  .cards { grid-template-columns: repeat(2, minmax(0, 1fr)) } th, td { padding-right: .7rem }
  .card b { font-size: 1.15rem } .n .note { display: block } img { padding: .2rem } }
"""


def write_report(workdir, config_default: dict | None = None) -> pathlib.Path:
    """report.html from what lies in the directory; keys unlike `config_default`'s are marked. Raises RunError."""
    root = pathlib.Path(workdir)
    content = Content(
        name=root.resolve().name,
        config=read_config(root),
        changed={} if config_default is None else differing(config_default, read_config(root)),
        info=read_info(root),
        environment=read_environment(root),
        summary=read_summary(root) or {},
        metrics=read_metrics(root),
        figures={path.stem: path.read_bytes() for path in sorted((root / FIGURES).glob("*.png"))},
    )
    _replace(root / REPORT, render(content).encode())
    return root / REPORT
