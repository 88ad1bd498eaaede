"""The pictures hold the data they were given, and their texts stand clear of each other."""

import io
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.text import Text

from vae_jax.plotting import images as image_plots
from vae_jax.plotting import latent_space as latent_plots
from vae_jax.plotting import toolkit
from vae_jax.plotting import training as training_plots

RNG = np.random.default_rng(0)


def make_records(epochs=40):
    """Records as a run writes them: falling loss, valid every second epoch, one test record at the end."""
    records = []
    for epoch in range(1, epochs + 1):
        log_likelihood, kl = -80.0 - 400.0 * np.exp(-epoch), 25.0 - 20.0 / epoch
        record = {"step": 10 * epoch, "epoch": epoch, "log_likelihood": log_likelihood, "kl": kl}
        record["elbo"] = log_likelihood - kl
        records.append(record | {"split": "train"})
        if epoch % 2 == 0:
            records.append(record | {"split": "valid", "elbo": record["elbo"] - 1.0})
    records.append(records[-1] | {"split": "test", "elbo": -107.25})
    return records


def titles(figure):
    return [ax.get_title(loc="left") or ax.get_title() for ax in figure.axes]


def line(ax, split):
    return next(line for line in ax.lines if str(line.get_label()).startswith(split))


def assert_legible(figure):
    """It renders; every text that is drawn is inside the picture, and none covers another."""
    figure.savefig(io.BytesIO(), format="png")  # as a run does it, without a canvas of ours
    canvas = FigureCanvasAgg(figure)
    draw, texts = Text.draw, {}  # the texts drawn: an axis also keeps tick labels that it never shows
    with mock.patch.object(Text, "draw", lambda text, *args: (texts.update({id(text): text}), draw(text, *args))[1]):
        canvas.draw()
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts.values() if t.get_visible() and t.get_text()]
    assert boxes
    for i, (text, box) in enumerate(boxes):
        inside = figure.bbox.padded(1.0)
        assert inside.contains(*box.min) and inside.contains(*box.max), text
        for other, other_box in boxes[i + 1 :]:
            assert not box.padded(-0.5).overlaps(other_box.padded(-0.5)), (text, other)


def test_training_curves_hold_the_records():
    records = make_records()
    figure = training_plots.training_curves(records)
    assert titles(figure) == ["ELBO", "E[log p(x|z)]", "KL(q || p)"]
    for ax, key in zip(figure.axes, ["elbo", "log_likelihood", "kl"], strict=True):
        for split in ("train", "valid"):
            own = [record for record in records if record["split"] == split]
            np.testing.assert_array_equal(line(ax, split).get_xdata(), [record["epoch"] for record in own])
            np.testing.assert_array_equal(line(ax, split).get_ydata(), [record[key] for record in own])
        assert line(ax, "test").get_xdata() == [40]
        assert ax.get_xlabel() == "Epoch" and ax.get_ylabel() == "nats per example"
    assert line(figure.axes[0], "test").get_ydata() == [-107.25]
    assert [text.get_text() for text in figure.axes[0].get_legend().texts] == [
        "train -104.5",
        "valid -105.5",
        "test -107.2",
    ]
    assert_legible(figure)


def test_first_epochs_do_not_squash_the_rest():
    ax = training_plots.training_curves(make_records()).axes[0]
    low, high = ax.get_ylim()
    value = line(ax, "train").get_ydata()
    assert value[0] < low < -107.25 < value[-1] < high
    assert high - low < 0.2 * np.ptp(value)
    (whole,) = ax.child_axes  # and in the corner all of it
    np.testing.assert_array_equal(whole.lines[0].get_ydata(), value)
    assert whole.get_xscale() == "log" and whole.get_ylim()[0] < value[0]


def test_a_short_run_is_shown_whole():
    ax = training_plots.training_curves(make_records(3)).axes[0]
    low, high = ax.get_ylim()
    value = line(ax, "train").get_ydata()
    assert low < value.min() and value.max() < high and not ax.child_axes


def test_training_curves_skip_what_is_not_finite():
    records = make_records(6)
    records[0]["elbo"], records[1]["elbo"], records[3]["elbo"] = float("nan"), float("inf"), None
    ax = training_plots.training_curves(records).axes[0]
    left = [r["epoch"] for r in records if r["split"] == "train" and r["elbo"] is not None and np.isfinite(r["elbo"])]
    np.testing.assert_array_equal(line(ax, "train").get_xdata(), left)
    assert 0 < len(left) < 6


def test_training_curves_without_an_elbo():
    records = [{k: v for k, v in record.items() if k not in ("elbo", "kl")} for record in make_records(8)]
    assert titles(training_plots.training_curves(records)) == ["E[log p(x|z)]"]
    for record in records:
        record["objective"] = -float(record["epoch"])
    figure = training_plots.training_curves(records)
    assert titles(figure) == ["objective", "E[log p(x|z)]"]
    np.testing.assert_array_equal(line(figure.axes[0], "train").get_ydata(), -np.arange(1, 9))
    assert "objective" not in titles(training_plots.training_curves(make_records(8) + records))


def test_training_curves_order_and_steps():
    records = [{k: v for k, v in record.items() if k != "epoch"} for record in make_records(5)]
    ax = training_plots.training_curves(records[::-1]).axes[0]
    np.testing.assert_array_equal(line(ax, "train").get_xdata(), [10, 20, 30, 40, 50])
    assert ax.get_xlabel() == "Step"


@pytest.mark.parametrize("records", [[], [{"step": 1, "epoch": 1, "split": "train", "elbo": float("nan")}]])
def test_training_curves_of_nothing(records):
    figure = training_plots.training_curves(records)
    assert figure.texts[0].get_text() == "No finite number recorded"
    assert_legible(figure)


def test_a_single_record_is_visible():
    figure = training_plots.training_curves([{"step": 1, "epoch": 1, "split": "train", "elbo": -3.0}])
    assert line(figure.axes[0], "train").get_marker() == "s"
    assert_legible(figure)


def test_image_grid_places_separates_and_clips():
    x = np.stack([np.full((4, 5), value) for value in (-1.0, 0.25, 2.0, 0.5, 0.75)])
    grid = toolkit.image_grid(x, 3)
    assert grid.shape == (2 * 4 + 1, 3 * 5 + 2)
    for i, value in enumerate([0.0, 0.25, 1.0, 0.5, 0.75]):
        top, left = i // 3 * 5, i % 3 * 6
        assert (grid[top : top + 4, left : left + 5] == value).all()
    assert (grid[4] == 1).all() and (grid[:, 5] == 1).all()  # separators
    assert (grid[5:, 12:] == 1).all()  # the sixth cell is empty
    np.testing.assert_array_equal(toolkit.image_grid(x[..., None], 3), grid)


def test_image_grid_rgb():
    x = RNG.random((4, 3, 3, 3)).astype(np.float32)
    grid = toolkit.image_grid(x, 2)
    assert grid.shape == (7, 7, 3)
    np.testing.assert_array_equal(grid[4:, 4:], x[3])


@pytest.mark.parametrize("event", [(8, 8), (8, 8, 1), (8, 6, 3)])
def test_reconstructions_pair_images(event):
    x, x_mean = RNG.random((5, *event)), RNG.random((5, *event))
    figure = image_plots.reconstructions(x, x_mean, columns=3)
    (ax,) = figure.axes
    picture = np.asarray(ax.images[0].get_array())
    size, pitch, band = event[1], 9, 2 * 8 + 1 + 3
    for i in range(5):
        top, left = i // 3 * band, i % 3 * (size + 1)
        for image, row in ((x[i], top), (x_mean[i], top + pitch)):
            shown = picture[row : row + 8, left : left + size]
            np.testing.assert_allclose(shown, image[..., 0] if event[2:] == (1,) else image, atol=1e-6)
    assert (picture[band:, 2 * (size + 1) :] == 1).all()  # the last band is not full
    assert [text.get_text() for text in ax.get_yticklabels()] == ["original", "reconstruction"] * 2
    np.testing.assert_array_equal(ax.get_yticks(), [3.5, 3.5 + pitch, 3.5 + band, 3.5 + band + pitch])
    assert_legible(figure)


@pytest.mark.parametrize("event", [(), (1,), (5,), (64,)])
def test_vectors_are_lines(event):
    x, x_mean = RNG.normal(size=(6, *event)), RNG.normal(size=(6, *event))
    figure = image_plots.reconstructions(x, x_mean)
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert len(shown) == 6 and not any(ax.images for ax in figure.axes)
    for i, ax in enumerate(shown):
        np.testing.assert_array_equal(line(ax, "original").get_ydata(), x[i].reshape(-1))
        np.testing.assert_array_equal(line(ax, "reconstruction").get_ydata(), x_mean[i].reshape(-1))
    assert [text.get_text() for text in figure.legends[0].texts] == ["original", "reconstruction"]
    assert_legible(figure)
    assert len([ax for ax in image_plots.samples(x).axes if ax.get_visible()]) == 6


def test_reconstructions_refuse_what_they_cannot_draw():
    with pytest.raises(ValueError, match="same shape"):
        image_plots.reconstructions(np.zeros((3, 8, 8)), np.zeros((3, 8, 8, 1)))
    with pytest.raises(ValueError, match=r"\(8, 8, 8, 8\)"):
        image_plots.samples(np.zeros((3, 8, 8, 8, 8)))
    with pytest.raises(ValueError, match=r"\(8, 8, 2\)"):
        image_plots.reconstructions(np.zeros((3, 8, 8, 2)), np.zeros((3, 8, 8, 2)))


def test_columns_leave_no_row_half_empty_where_a_number_near_does():
    wanted = {(20, 10): 10, (16, 10): 8, (12, 10): 12, (50, 8): 10, (64, 8): 8, (7, 3): 3, (1, 1): 1, (5, 10): 5}
    assert {pair: toolkit.even_columns(*pair) for pair in wanted} == wanted


def test_what_a_binary_image_is_a_draw_of_stands_above_it():
    grey, x, x_mean = RNG.random((3, 4, 8, 8))
    figure = image_plots.reconstructions(x, x_mean, grey)
    (ax,) = figure.axes
    picture = np.asarray(ax.images[0].get_array())
    for row, images in enumerate((grey, x, x_mean)):
        np.testing.assert_allclose(picture[9 * row : 9 * row + 8, :8], images[0], atol=1e-6)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["original", "binarized", "reconstruction"]
    assert_legible(figure)


@pytest.mark.parametrize("num", [1, 7, 16])
def test_samples_fill_a_grid(num):
    x = RNG.random((num, 8, 8))
    figure = image_plots.samples(x, title="Digits")
    (ax,) = figure.axes
    expected = toolkit.image_grid(x, {1: 1, 7: 3, 16: 4}[num])
    np.testing.assert_allclose(np.asarray(ax.images[0].get_array()), expected, atol=1e-6)
    assert ax.get_title(loc="left") == "Digits" and ax.images[0].get_clim() == (0, 1)
    width, height = ax.get_window_extent().size
    np.testing.assert_allclose(width / height, expected.shape[1] / expected.shape[0])  # pixels are square
    assert_legible(figure)


def test_latent_scatter_colours_and_names_classes():
    mean, label = RNG.normal(size=(500, 2)), RNG.permutation(np.arange(500) % 10)
    figure = latent_plots.latent_scatter(mean, label)
    (ax,) = figure.axes
    points = ax.collections[0]
    np.testing.assert_array_equal(points.get_offsets(), mean)
    np.testing.assert_allclose(
        points.get_facecolors()[:, :3], [to_rgba(toolkit.CLASS_COLORS[k])[:3] for k in label], atol=1e-6
    )
    assert [text.get_text() for text in figure.legends[0].texts] == ["prior 1σ", "prior 2σ", *map(str, range(10))]
    assert [patch.radius for patch in ax.patches] == [1, 2]
    assert [text.get_text() for text in ax.texts] == [str(k) for k in range(10)]
    assert_legible(figure)  # the ten medians nearly coincide, their numbers may not
    scale = ax.transData.get_matrix()
    np.testing.assert_allclose(scale[0, 0], scale[1, 1])  # equal aspect


def test_class_numbers_stand_at_medians_that_are_apart():
    centers = np.array([[-3.0, 0.0], [3.0, 1.0], [0.0, 4.0]])
    label = np.repeat([2, 5, 7], 50)
    mean = np.repeat(centers, 50, 0) + 0.1 * RNG.normal(size=(150, 2))
    ax = latent_plots.latent_scatter(mean, label).axes[0]
    assert [text.get_text() for text in ax.texts] == ["2", "5", "7"]
    np.testing.assert_allclose([text.get_position() for text in ax.texts], centers, atol=0.1)


def test_class_numbers_of_a_collapsed_posterior_stay_near():
    figure = latent_plots.latent_scatter(np.zeros((30, 2)), np.arange(30) % 10)
    places = np.array([text.get_position() for text in figure.axes[0].texts])
    assert np.linalg.norm(places, axis=1).max() < 0.75
    assert_legible(figure)


def test_latent_scatter_without_classes():
    mean = RNG.normal(size=(50, 2)) * 5
    mean[3] = np.nan
    figure = latent_plots.latent_scatter(mean)
    assert len(figure.axes) == 1 and len(figure.axes[0].collections[0].get_offsets()) == 49
    assert [text.get_text() for text in figure.legends[0].texts] == ["prior 1σ", "prior 2σ"]
    assert_legible(figure)
    assert not latent_plots.latent_scatter(mean, prior=False).axes[0].patches


@pytest.mark.parametrize("label", [np.arange(50), np.arange(50) / 50])
def test_many_labels_are_a_quantity(label):
    figure = latent_plots.latent_scatter(RNG.normal(size=(50, 2)), label)
    assert len(figure.axes) == 2 and figure.axes[1].get_ylabel() == "Label"
    np.testing.assert_array_equal(figure.axes[0].collections[0].get_array(), label)
    assert_legible(figure)


def test_latent_scatter_wants_two_dimensions():
    with pytest.raises(ValueError, match=r"\[N, 2\], not \(5, 3\)"):
        latent_plots.latent_scatter(np.zeros((5, 3)))


def test_nothing_global():
    code = (
        "import sys, matplotlib; before = matplotlib.rcParams.copy()\n"
        "import numpy as np; from vae_jax import plotting\n"
        "plotting.samples(np.zeros((2, 8, 8))); plotting.latent_scatter(np.zeros((3, 2)), [0, 1, 1])\n"
        "assert 'matplotlib.pyplot' not in sys.modules and matplotlib.rcParams.copy() == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
