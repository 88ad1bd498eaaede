"""experiments/analysis/sigma.py: what is on its picture is what it was given; small runs, and what it refuses."""

import io
import shutil

import numpy as np
import pytest
import sigma

from vae_jax.runs import directory


def test_a_star_for_what_was_learned_a_dot_for_what_was_set_and_a_row_of_images_for_each():
    x = np.random.default_rng(0).uniform(size=(4, 8, 8, 1))
    numbers = {name: {"value": 3.0, "stderr": 0.5} for name in sigma.MEASURED} | {"kl": {"value": 1.0, "stderr": None}}
    images = {"original": x, "reconstructions": x, "samples": x, "numbers": numbers}
    runs = [
        {"name": "σ = 0.1, optimal", "sigma": 0.1, "learned": True, **images},
        {"name": "σ = 1", "sigma": 1.0, "learned": False, **images},
    ]
    figure = sigma.draw(runs)
    first = figure.axes[0]
    marks = {line.get_marker(): line for line in first.lines if line.get_marker() in "*o"}
    assert list(marks["*"].get_xdata()) == [0.1] and list(marks["o"].get_xdata()) == [1.0]
    assert list(marks["*"].get_ydata()) == [3.0]
    low, high = first.collections[0].get_segments()[0][:, 1]
    assert (low, high) == (2.0, 4.0)  # two standard errors
    rows = [[tick.get_text() for tick in ax.get_yticklabels()] for ax in figure.axes if ax.images]
    assert rows == [["original", "σ = 0.1, optimal", "σ = 1"], []]
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=50)  # where a layout fails
    assert len(stream.getvalue()) > 3000


def test_numbers_are_those_of_the_summary_and_sigma_is_the_runs(trained):
    found, summary = sigma.measure(trained("vae")), directory.read_summary(trained("vae"))
    assert (found["name"], found["sigma"], found["learned"]) == ("σ = 0.4", 0.4, False)
    assert found["numbers"] == summary["splits"]["test"] and found["original"].shape == (8, 8, 8, 1)
    assert found["samples"].shape == found["original"].shape
    error = ((found["original"] - found["reconstructions"]) ** 2).mean()
    assert np.isfinite(error) and error < 0.5


@pytest.mark.slow
def test_sigma_of_two_runs(trained, tmp_path, capsys):
    """The learned sigma is the model's."""
    out = tmp_path / "sigma.png"
    sigma.main([f"--out={out}", trained("vae"), trained("optimal_sigma")])
    shown = capsys.readouterr().out
    assert "σ = 0.4 " in shown and ", optimal" in shown and out.read_bytes()[:4] == b"\x89PNG"
    learned = sigma.measure(trained("optimal_sigma"))
    assert learned["learned"] and learned["sigma"] != 0.4


@pytest.mark.parametrize(
    "out, kind, message",
    [
        ("x.png", "binary", "has no one sigma"),
        ("x.png", "without kl", "has no kl of test images"),
        ("x.pdf", "vae", "expected FILE.png"),
    ],
)
def test_refusals_are_one_line(trained, trained_run, tmp_path, out, kind, message, capsys):
    """Of binary images, of a run whose summary has no KL, as that of an autoencoder, and of another file."""
    run = str(trained_run({})) if kind == "binary" else trained("vae")
    if kind == "without kl":
        run = shutil.copytree(run, tmp_path / "run")
        summary = directory.read_summary(run)
        del summary["splits"]["test"]["kl"]
        directory.write_summary(run, summary)
    with pytest.raises(SystemExit) as stopped:
        sigma.main([f"--out={out}", str(run)])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and error.count("\n") == 1
