"""A run directory is never somebody else's, never half written, and says in one line why it cannot be used."""

import html.parser
import json
import math
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from ml_collections import FrozenConfigDict

from vae_jax.commands import configuration
from vae_jax.errors import RunError
from vae_jax.reports import page
from vae_jax.runs import directory, load
from vae_jax.runs import environment as environments

CONFIG = {"seed": 0, "model": {"latent_dim": 2, "hidden": (200, 100)}, "figures": {"count": 64}, "clip": math.inf}
INFO = {"event_shape": (8, 8), "num_examples": {"train": 1347}}
ENVIRONMENT = {"command": "python -m vae_jax.main --config=experiments/digits.py", "python": "3.11.7"}


def number(value, stderr=None, unit="nats"):
    return {"value": value, "stderr": stderr, "unit": unit}


SUMMARY = {
    "complete": True,
    "step": 4650,
    "epochs": 10.0,
    "train_seconds": 83.2,
    "selected": "best",
    "num_params": 1234567,
    "splits": {
        "test": {"elbo": number(-90.1234, 0.2345), "elbo_bits_per_dim": number(-0.16583, 0.00043, "bits/dim")},
        "valid": {"elbo": number(-89.8, 1.1), "active_units": number(22, None, "of 50")},
    },
    "figures": {"samples": "Samples <of> p(x)"},
}


def open_run(workdir, config=CONFIG, info=INFO):
    return directory.open_run(workdir, config, info, ENVIRONMENT)


def one_line(caught) -> str:
    text = str(caught.value)
    assert "\n" not in text and len(text) < 500
    return text


def contents(workdir) -> dict:
    return {str(path): path.read_bytes() for path in sorted(pathlib.Path(workdir).rglob("*")) if path.is_file()}


def picture() -> Figure:
    figure = Figure(figsize=(3, 1))
    figure.subplots().plot([0, 1])
    return figure


# Opening.


def test_new_then_resume_then_finished(tmp_path):
    workdir = tmp_path / "deep" / "run"
    assert directory.run_status(workdir, CONFIG) == "new" and not workdir.exists()
    assert open_run(workdir) == "new"
    assert directory.read_config(workdir) == {**CONFIG, "model": {"latent_dim": 2, "hidden": [200, 100]}}
    assert directory.read_info(workdir)["event_shape"] == [8, 8] and directory.read_summary(workdir) is None
    before = contents(workdir)
    assert open_run(workdir) == "resume" and contents(workdir) == before
    directory.write_summary(workdir, {**SUMMARY, "complete": False})
    assert open_run(workdir) == "resume"
    directory.write_summary(workdir, SUMMARY)
    assert open_run(workdir) == "finished" and directory.read_summary(workdir) == SUMMARY
    assert not list(workdir.glob(".*"))


def test_an_empty_or_half_begun_directory_is_a_new_run(tmp_path):
    for name in ("info.json", "environment.json", ".config.json.tmp"):
        (tmp_path / name).write_text("{")
    assert open_run(tmp_path) == "new" and directory.read_info(tmp_path)["event_shape"] == [8, 8]
    (tmp_path / "empty").mkdir()
    assert open_run(tmp_path / "empty") == "new"


def test_killed_between_any_two_writes_the_next_start_succeeds(tmp_path, monkeypatch):
    replace = os.replace
    for survived in range(3):
        workdir, left = tmp_path / str(survived), [survived]

        def dying(source, target, left=left):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            replace(source, target)

        monkeypatch.setattr(os, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            open_run(workdir)
        monkeypatch.setattr(os, "replace", replace)
        assert open_run(workdir) == "new" and open_run(workdir) == "resume"


def test_somebody_elses_directory_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "info.json").write_text("{}")
    before = contents(tmp_path)
    with pytest.raises(RunError) as caught:
        open_run(tmp_path)
    assert "thesis.tex" in one_line(caught) and "--workdir" in one_line(caught) and contents(tmp_path) == before


def test_a_workdir_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    for workdir, words in ((tmp_path / "file", "is a file"), (tmp_path / "file" / "run", "Not a directory")):
        with pytest.raises(RunError) as caught:
            open_run(workdir)
        assert words in one_line(caught) and "--workdir" in one_line(caught)


def test_a_name_that_is_not_utf_8_is_refused_as_a_workdir_and_kept_as_a_value(tmp_path):
    name = os.fsdecode(b"set-\xff.npz")
    with pytest.raises(RunError, match=r"set-\\udcff.npz is no name in UTF-8"):
        open_run(tmp_path / name)
    config = {**CONFIG, "path": name}
    open_run(tmp_path / "run", config)
    assert directory.read_config(tmp_path / "run")["path"] == name
    assert directory.run_status(tmp_path / "run", config) == "resume"


def test_another_config_is_refused_with_the_keys_that_differ(tmp_path):
    open_run(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(RunError) as caught:
        open_run(tmp_path, {**CONFIG, "seed": 1, "model": {"latent_dim": 2, "hidden": [200]}, "new": None})
    text = one_line(caught)
    assert "seed 0 -> 1, model.hidden [200, 100] -> [200], new (absent) -> null; choose another --workdir" in text
    assert str(tmp_path) in text and contents(tmp_path) == before
    with pytest.raises(RunError) as caught:
        open_run(tmp_path, {**CONFIG, **{f"key{i}": "long" * 100 for i in range(9)}})
    assert "key4" in one_line(caught) and "key5" not in one_line(caught) and "and 4 more" in one_line(caught)


def test_other_data_is_refused(tmp_path):
    open_run(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(RunError) as caught:
        open_run(tmp_path, info={**INFO, "num_examples": {"train": 1000}})
    assert "num_examples.train 1347 -> 1000" in one_line(caught) and contents(tmp_path) == before


def test_changeable_keys_may_change_and_leave_a_trace(tmp_path):
    open_run(tmp_path)
    directory.write_summary(tmp_path, SUMMARY)
    changed = {**CONFIG, "figures": {"count": 100}}
    assert open_run(tmp_path, changed) == "resume" and directory.read_config(tmp_path)["figures"] == {"count": 100}
    assert not directory.read_summary(tmp_path)["complete"]  # or the next start would take it for finished
    [line] = (tmp_path / "config_history.jsonl").read_text().splitlines()
    assert json.loads(line)["config"]["figures"] == {"count": 64}
    assert open_run(tmp_path, changed) == "resume"
    with pytest.raises(RunError, match="seed 0 -> 1; choose"):
        open_run(tmp_path, {**CONFIG, "seed": 1})


def test_a_resume_elsewhere_keeps_both_environments(tmp_path):
    open_run(tmp_path)
    directory.open_run(tmp_path, CONFIG, INFO, {**ENVIRONMENT, "python": "3.12.1"})
    assert json.loads((tmp_path / "environment.json").read_text())["python"] == "3.12.1"
    assert json.loads((tmp_path / "config_history.jsonl").read_text())["environment"]["python"] == "3.11.7"


@pytest.mark.parametrize("content", ["", '{"seed": 0', "[1]", "\xff\xfe"])
def test_a_damaged_config_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content, encoding="latin-1")
    before = contents(tmp_path)
    for act in (lambda: open_run(tmp_path), lambda: directory.read_config(tmp_path)):
        with pytest.raises(RunError) as caught:
            act()
        assert "config.json" in one_line(caught)
    assert contents(tmp_path) == before


def test_reading_what_is_no_run(tmp_path):
    for read in (directory.read_config, directory.read_info, directory.read_summary, page.write_report):
        with pytest.raises(RunError) as caught:
            read(tmp_path / "nowhere")
        assert "nowhere is not a run directory (no" in one_line(caught)


# The format.


@pytest.mark.parametrize(
    "stored, words",
    [
        ({}, "was written by vae_jax 0.1 (format 1): this version reads format 3; use vae_jax 0.1, or train it anew"),
        ({"format": 2}, "was written by vae_jax 0.2.0 (format 2): this version reads format 3; use vae_jax 0.2.0, or"),
        ({"format": 4}, "was written by a later vae_jax (format 4): this version reads format 3; use a later vae_jax"),
    ],
)
def test_another_format_is_refused_by_whatever_opens_it(tmp_path, stored, words):
    """Opening, reading, loading and reporting say in one line which version reads it, and change nothing."""
    open_run(tmp_path)
    directory.write_summary(tmp_path, SUMMARY)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("format") == directory.FORMAT == 3 and "format" not in directory.read_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(stored | config))
    before = contents(tmp_path)
    status = lambda workdir: directory.run_status(workdir, CONFIG)
    reading = (directory.read_config, directory.read_summary, load.load_run, load.read_config, page.write_report)
    for act in (open_run, status, *reading):
        with pytest.raises(RunError) as caught:
            act(tmp_path)
        assert one_line(caught).startswith(f"{tmp_path} {words}")
    assert contents(tmp_path) == before


def test_a_config_comes_back_as_it_was(tmp_path):
    """Tuples, numbers that are not finite, and whole floats, frozen; what validates it has done so before."""
    config = configuration.default()
    config.model.hidden, config.optimizer.learning_rate, config.objective.beta = (3, 4), math.inf, 2.0
    directory.open_run(tmp_path, config.to_dict(), INFO, ENVIRONMENT)
    read = load.read_config(tmp_path)
    assert read == FrozenConfigDict(config) and hash(read.model) == hash(FrozenConfigDict(config).model)
    assert read.model.hidden == (3, 4) and type(read.objective.beta) is float


# Names.


def test_differing():
    assert directory.differing({"a": {"b": (1, 2)}, "n": math.nan}, {"a": {"b": [1, 2]}, "n": math.nan}) == {}
    assert directory.differing({"a": {"b": 1}}, {"a": {"c": 1}}) == {"a.b": (1, "(absent)"), "a.c": ("(absent)", 1)}


def test_default_workdir():
    name = directory.default_workdir
    assert name("experiments/mnist.py", {}) == "runs/mnist" and name("/x/mnist.py:quick", {}) == "runs/mnist-quick"
    spelled = "runs/mnist-hidden=200,100-latent_dim=2-seed=1"
    assert name("mnist.py", {"model.latent_dim": 2, "seed": 1, "model.hidden": (200, 100)}) == spelled
    assert name("mnist.py", {"seed": 1, "model.hidden": [200, 100], "model.latent_dim": 2}) == spelled
    assert name("mnist.py", {"seed": 1, "eval.seed": 2}) == "runs/mnist-eval.seed=2-seed=1"


def test_default_workdir_is_one_short_safe_folder_whatever_the_values():
    cases = [{"data.path": text} for text in ("../../etc", "a b", "a_b", "é", "..", "")]
    cases += [{f"k{i}": i / 7 for i in range(40)}, {f"k{i}": i / 7 for i in range(41)}]
    names = [directory.default_workdir("experiments/mnist.py", case) for case in cases]
    assert len(set(names)) == len(names)
    for name in names:
        folder = name.removeprefix("runs/")
        assert folder.isascii() and len(folder) <= 100 and not set(folder) & set(" /\\:*?\"'<>|$&;")


def test_environment_is_complete_and_json():
    found = environments.describe()
    json.dumps(found, allow_nan=False)
    assert all(found["packages"].values()) and found["packages"].keys() >= {"jax", "jaxlib", "flax", "optax", "numpy"}
    assert found["devices"].endswith("cpu") and found["argv"] == sys.argv and found["command"].startswith("python ")
    assert (found["commit"] is None) == (found["dirty"] is None)
    assert os.uname().nodename not in json.dumps({**found, "argv": "", "command": ""})


# Metrics, figures, events.


def record(step, **values):
    return {"step": step, "epoch": step / 10, "split": "train", **values}


def test_metrics_round_trip_strict_json(tmp_path):
    assert directory.read_metrics(tmp_path) == []
    directory.append_metrics(tmp_path, record(10, elbo=np.float32(-1.5), kl=math.inf, bad=float("nan"), n=np.int64(3)))
    refuse = lambda text: pytest.fail(f"not strict JSON: {text}")
    json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    [read] = directory.read_metrics(tmp_path)
    assert read["elbo"] == -1.5 and read["kl"] == math.inf and math.isnan(read["bad"]) and read["n"] == 3


def test_a_resumed_run_writes_the_metrics_of_an_unbroken_one(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for workdir, last in ((whole, 6), (broken, 5)):
        workdir.mkdir()
        for step in range(last):
            directory.append_metrics(workdir, record(step, elbo=-step / 3))
    path = broken / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"step": 5, "ep')  # killed while it wrote
    assert [r["step"] for r in directory.read_metrics(broken)] == [0, 1, 2, 3, 4]
    directory.truncate_metrics(broken, 3)
    for step in (4, 5):
        directory.append_metrics(broken, record(step, elbo=-step / 3))
    assert path.read_bytes() == (whole / "metrics.jsonl").read_bytes()
    directory.truncate_metrics(broken, -1)
    assert path.read_bytes() == b""
    directory.truncate_metrics(tmp_path, 3)  # nothing there: nothing to do
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "split": "train"}\n{"st\n{"step": 3}\n')
    for act in (lambda: directory.read_metrics(tmp_path), lambda: directory.truncate_metrics(tmp_path, 1)):
        with pytest.raises(RunError) as caught:
            act()
        assert "line 2 of metrics.jsonl" in one_line(caught)


def test_figures_are_the_same_bytes_each_time(tmp_path):
    path = directory.save_figure(tmp_path, "curves", picture())
    first = path.read_bytes()
    assert path == tmp_path / "figures" / "curves.png" and first.startswith(b"\x89PNG")
    assert directory.save_figure(tmp_path, "curves", picture()).read_bytes() == first
    assert [p.name for p in path.parent.iterdir()] == ["curves.png"]


def test_events_hold_the_records_without_tensorflow(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    writer = directory.events(tmp_path, purge_step=11)
    directory.add_events(writer, record(12, elbo=np.float32(-90.5), kl=25))
    writer.close()
    [path] = tmp_path.glob("events.out.*")
    data, events, start = path.read_bytes(), [], 0
    while start < len(data):  # TFRecord: length (8), its checksum (4), content, checksum (4)
        length = int.from_bytes(data[start : start + 8], "little")
        events.append(Event.FromString(data[start + 12 : start + 12 + length]))
        start += length + 16
    values = {(event.step, value.tag): value.simple_value for event in events for value in event.summary.value}
    assert values == {(12, "train/elbo"): -90.5, (12, "train/kl"): 25}
    assert any(event.session_log.status and event.step == 11 for event in events)
    assert "tensorflow" not in sys.modules


# The page.


def test_a_resume_with_data_of_another_checksum_is_refused(tmp_path):
    """Sums of one kind are compared; the path they were read from, and sums that only one of both has, say nothing."""
    begun = {"source": "a", "path": "a/x.npz", "sums": {"file": "1234"}}
    opened = lambda provenance: directory.open_run(tmp_path, CONFIG, INFO, ENVIRONMENT, provenance=provenance)
    assert opened(begun) == "new" and directory.read_data(tmp_path) == begun
    assert opened(begun | {"path": "b/x.npz"}) == "resume" and opened({"sums": {"tfds": "5"}}) == "resume"
    with pytest.raises(RunError, match=r"begun with other data: file 1234, now 5678 of b; .* another --workdir"):
        opened({"source": "b", "sums": {"file": "5678"}})


def test_a_directory_that_is_deleted_under_a_run_is_named(tmp_path):
    with pytest.raises(RunError, match=r"gone/run is gone: it was moved or deleted"):
        directory.append_metrics(tmp_path / "gone" / "run", {"step": 1, "split": "train"})


@pytest.mark.parametrize("line", ["[]", "3", '{"step": 1}', '{"step": "1", "split": "train"}', '{"split": "test"}'])
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "split": "train"}\n' + line + "\n")
    with pytest.raises(RunError, match=r"^line 2 of metrics\.jsonl in .* is no record"):
        directory.read_metrics(tmp_path)


@pytest.mark.parametrize("summary", [{}, {"splits": None}, {"splits": 3, "complete": True}])
def test_a_summary_without_splits_is_one_line(tmp_path, summary):
    open_run(tmp_path)
    directory.write_summary(tmp_path, summary)
    with pytest.raises(RunError, match=r"summary\.json in .* holds no splits"):
        directory.read_summary(tmp_path)


@pytest.mark.parametrize(
    "steps, lost",
    [
        ([10, 20, 30, 35], []),
        ([10, 30, 35], [(11, 20)]),
        ([20, 30, 35], [(1, 10)]),
        ([10, 20, 30], [(31, 35)]),
        ([], [(1, 35)]),
        ([10, 20], [(21, 35)]),
    ],
)
def test_records_that_are_lost_are_known_by_their_steps(steps, lost):
    """Records of ten steps each, the last of five; those of valid and test tell nothing."""
    records = [{"step": step, "split": "train"} for step in steps] + [{"step": 20, "split": "valid"}]
    assert directory.lost_steps(records, 10, 35) == lost


class Checker(html.parser.HTMLParser):
    """Balanced tags, and nothing fetched from anywhere."""

    VOID = frozenset({"meta", "img", "col"})

    def __init__(self, text):
        super().__init__()
        self.stack, self.tags, self.text = [], [], ""
        self.feed(text)
        assert not self.stack

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert tag not in ("script", "link", "iframe") and not any(name.startswith("on") for name, _ in attrs)
        assert all(value.startswith("data:image/png;base64,") for name, value in attrs if name in ("src", "href"))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if "style" not in self.stack:
            self.text += data


def test_report_of_a_finished_run(tmp_path):
    workdir = tmp_path / "a<b>&run"
    config = {**CONFIG, "path": '"><script>alert(1)</script>'}
    open_run(workdir, config)
    directory.write_summary(workdir, SUMMARY)
    directory.save_figure(workdir, "samples", picture())
    directory.save_figure(workdir, "extra_one", picture())
    path = page.write_report(workdir, config_default=CONFIG)
    text = path.read_text(encoding="utf-8")
    page_seen = Checker(text)
    for words in ("a<b>&run", "finished", "−90.12 ± 0.23", "−0.16583 ± 0.00043 bits/dim", "1 min 23 s of training"):
        assert words in page_seen.text
    for words in ("1,234,567 parameters", "Samples <of> p(x)", "extra one", "(200, 100)", ENVIRONMENT["command"]):
        assert words in page_seen.text
    assert page_seen.tags.count("img") == 2 and "url(" not in text and "http" not in text
    assert text.count('class="changed"') == 1 and "(absent)" in page_seen.text
    assert path == workdir / "report.html" and page.write_report(workdir, CONFIG).read_text("utf-8") == text


def test_a_report_warns_of_fits_that_fall_short(tmp_path):
    """As the terminal does, beside the numbers; of those that do not, no word."""
    open_run(tmp_path)
    for shortfall, count in ((0.31, 1), (0.01, 0)):
        short = {"fit_shortfall": {"value": shortfall, "stderr": 0.004, "unit": "nats"}}
        summary = {**SUMMARY, "splits": {**SUMMARY["splits"], "test": SUMMARY["splits"]["test"] | short}}
        directory.write_summary(tmp_path, summary)
        seen = Checker(page.write_report(tmp_path).read_text("utf-8")).text
        assert seen.count("warning: fits of q on test end at least 0.3100 ± 0.0040 nats below the best") == count


def test_report_of_a_run_just_begun_and_of_an_unfinished_one(tmp_path):
    open_run(tmp_path)
    assert "unfinished" in Checker(page.write_report(tmp_path).read_text("utf-8")).text
    directory.append_metrics(tmp_path, record(1000, elbo=-93.07654))
    directory.append_metrics(tmp_path, record(2000, elbo=-92.5, kl=math.nan))
    directory.write_summary(tmp_path, {**SUMMARY, "complete": False})  # numbers of before a changed config: not shown
    seen = Checker(page.write_report(tmp_path).read_text("utf-8")).text
    assert "last record at step 2,000" in seen and "−92.5" in seen and "nan" in seen and "90.12" not in seen


@pytest.mark.parametrize(
    "value, stderr, shown",
    [
        (-90.1234, 0.2345, "−90.12 ± 0.23"),
        (-90.1234, 12.3, "−90 ± 12"),
        (12345.678, 1.04, "12,345.7 ± 1.0"),
        (22, None, "22"),
        (1234567, None, "1,234,567"),
        (0.159, 0.0, "0.159"),
        (math.nan, 0.1, "nan"),
        (-math.inf, math.nan, "−inf"),
        (None, None, ""),
    ],
)
def test_numbers_show_two_digits_of_their_standard_error(value, stderr, shown):
    assert Checker(page.measured({"value": value, "stderr": stderr})).text == shown


def test_reading_a_run_needs_nothing_that_is_slow_to_import():
    slow = "{'flax', 'orbax', 'matplotlib', 'tensorboardX', 'tensorflow_datasets'}"
    code = f"import sys; from vae_jax.runs import read_summary; print({slow} & {{*sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
