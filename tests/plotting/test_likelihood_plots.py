"""Charts: what is on them is what they were given, and odd inputs still draw."""

import io

import numpy as np
import pytest

from vae_jax.plotting import likelihood as likelihood_plots


def drawn(figure):
    """The figure as PNG bytes: drawing is where a layout fails."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=50)
    return stream.getvalue()


@pytest.mark.parametrize("shape", [(8, 8, 1), (6, 9, 3), (7, 7)], ids=str)
def test_off_manifold(shape):
    """A dot for each image of a kind at its own error, on the row of its pictures; few images do too."""
    rng = np.random.default_rng(0)
    kinds = {name: (rng.uniform(size=(2, *shape)), rng.uniform(size=(2, *shape))) for name in ("test", "noise", "line")}
    errors = {"test": np.array([0.01, 0.02]), "noise": np.array([1.0, 2.0]), "line": np.array([0.1, 0.3])}
    figure = likelihood_plots.off_manifold(kinds, errors, np.linspace(0.01, 0.03, 50))
    left, right = figure.axes
    assert [tick.get_text() for tick in left.get_yticklabels()] == list(kinds) and list(left.get_yticks()) == [0, 1, 2]
    (dots,) = (line for line in right.lines if line.get_marker() == "o")
    for row, values in enumerate(errors.values()):
        np.testing.assert_array_equal(dots.get_xdata()[dots.get_ydata() == row], values)
    assert set(dots.get_ydata()) == set(range(len(errors)))
    assert right.get_ylim() == pytest.approx(left.get_ylim()) and len(drawn(figure)) > 3000


@pytest.mark.parametrize("label", [None, np.arange(12) % 3, np.linspace(0, 1, 12)], ids=["none", "classes", "quantity"])
@pytest.mark.parametrize("pictured", [True, False])
def test_bits(label, pictured):
    """Points at (rate, distortion); the images with the least and most in total, in order, with their totals."""
    rate, distortion = np.linspace(1, 5, 12), np.linspace(20, -10, 12)
    images = np.random.default_rng(0).uniform(size=(12, 5, 5, 1)) if pictured else None
    figure = likelihood_plots.bits(rate, distortion, label, images)
    (ax,) = [ax for ax in figure.axes if ax.get_xlabel().startswith("Rate")]
    (points,) = (found.get_offsets() for found in ax.collections)
    np.testing.assert_allclose(np.sort(points, 0), np.sort(np.column_stack([rate, distortion]), 0))
    if pictured:
        titles = [ax.get_title() for ax in figure.axes if ax.images]
        total = np.sort(rate + distortion)
        assert titles == [f"{number:.0f}".replace("-", "−") for number in [*total[:8], *total[::-1][:8]]]
    sums = [text for text in ax.texts if "in total" in text.get_text()]
    for text in sums:  # every line's label is where its sum is
        assert sum(text.xy) == pytest.approx(float(text.get_text().split()[0].replace("−", "-")))
    assert sums and len(drawn(figure)) > 3000


@pytest.mark.parametrize("count", [1, 7])
def test_estimates(count):
    """One column for each panel; the lines are means over examples, also of one example."""
    at = np.array([1, 2, 4])
    values = np.random.default_rng(0).normal(size=(count, 3)) - 50
    sources = {"prior": (at, values, np.abs(values)), "q": (at, values + 9, np.abs(values))}
    figure = likelihood_plots.estimates({"Z = 2": sources, "Z = 5": sources})
    assert [ax.get_title() for ax in figure.axes[:2]] == ["Z = 2", "Z = 5"]
    prior, q = figure.axes[0].lines
    np.testing.assert_allclose(prior.get_ydata(), values.mean(0))
    np.testing.assert_allclose(q.get_ydata(), values.mean(0) + 9)
    band, _ = figure.axes[0].collections
    vertices = band.get_paths()[0].vertices
    error = 2 * values.std(0, ddof=1) / np.sqrt(count) if count > 1 else np.zeros(3)
    for draws, middle, half in zip(at, values.mean(0), error, strict=True):
        edges = vertices[vertices[:, 0] == draws, 1]
        np.testing.assert_allclose([edges.min(), edges.max()], [middle - half, middle + half], atol=1e-9)
    assert len(drawn(figure)) > 3000
