"""Examples as pictures: images, black at 0 and white at 1, and vectors, drawn as lines.

`x` is `[N, *event]`: an event (H, W), (H, W, 1) or (H, W, 3) is an image, (D,) or () a vector; a D that happens to be a
square is still a vector.
"""

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vae_jax.plotting.toolkit import BLUE, ORANGE, even_columns, image_grid, image_rows, legend, panels, picture, plain


def reconstructions(x, x_mean, stored=None, title: str = "Originals and reconstructions", columns: int = 10) -> Figure:
    """Originals, each with its reconstruction below it; of vectors, both in one panel.

    Args:
        x: originals `[N, *event]`.
        x_mean: their reconstructions `[N, *event]`.
        stored: the grey images of which x is a draw, or None.
        title: what stands above.
        columns: images side by side.

    Returns:
        The picture.

    Raises:
        ValueError: where the shapes differ, or an event is neither an image nor a vector.
    """
    x, x_mean = np.asarray(x), np.asarray(x_mean)
    seen = {"original": x} if stored is None else {"original": np.asarray(stored), "binarized": x}
    rows = {**seen, "reconstruction": x_mean}
    return _line_grid(rows, title) if x.ndim <= 2 else image_rows(rows, title, columns)


def samples(x, title: str = "Samples from the prior", columns: int | None = None) -> Figure:
    """A grid of examples, such as the means of p(x|z) at z drawn from the prior.

    Args:
        x: images or vectors `[N, *event]`.
        title: what stands above.
        columns: images side by side; None: about as many as rows, so that no row is half empty.

    Returns:
        The picture.

    Raises:
        ValueError: where an event is neither an image nor a vector.
    """
    x = np.asarray(x)
    if x.ndim <= 2:
        return _line_grid({"sample": x}, title)
    columns = columns or even_columns(len(x), math.ceil(math.sqrt(len(x))))
    return picture(image_grid(x, columns), title, columns)


def _line_grid(rows, title):
    """{line label: vectors [N, D] or [N]}: one small panel per example, with one line per entry."""
    rows = {name: x.reshape(len(x), -1) for name, x in rows.items()}
    num, size = next(iter(rows.values())).shape
    figure, axes = panels(num, 4, (2.0, 1.4), (1.8, 0.9), sharex=True, sharey=True)
    styles = [{"color": BLUE, "linewidth": 1.8}, {"color": ORANGE, "linewidth": 1.2, "linestyle": "--"}]
    marker = "o" if size <= 16 else None  # few components: the points are what there is
    for i, ax in enumerate(axes):
        for style, (name, x) in zip(styles, rows.items(), strict=False):
            ax.plot(x[i], label=name, marker=marker, markersize=3, **style)
        ax.tick_params(labelsize=8)
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        plain(ax)
    figure.suptitle(title, fontsize=11)
    figure.supxlabel("Component", fontsize=10)
    figure.supylabel("Value", fontsize=10)
    if len(rows) > 1:
        legend(figure, "right upper", axes[0])
    return figure
