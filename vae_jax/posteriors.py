"""The true posterior of a model with two latent dimensions, by quadrature, and how far each way to find q is from it.

    p(z|x) = p(x|z) p(z) / p(x),   p(x) = integral p(x|z) p(z) dz,   KL(q || p(z|x)) = integral q log q / p(z|x) dz

On a fine grid these sums are exact to many digits: the integrands are smooth and vanish at its edges.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.evaluate import bound, fit_from
from vae_jax.inference import fold_in_each, refine

LIMIT, POINTS = 4.5, 361  # the grid covers [-LIMIT, LIMIT]^2 at a spacing of 0.025
AREA = (2 * LIMIT / (POINTS - 1)) ** 2
REFINE, FIT = 40, 41  # what an example's key is used for here
LEVELS = (0.05, 0.25, 0.6, 0.9)  # contours, as shares of the greatest density
COLORS = {"amortized": "#d55e00", "semi-amortized": "#009e73", "optimal": "#0072b2"}


def grid():
    """The points z, `[POINTS^2, 2]`."""
    axis = np.linspace(-LIMIT, LIMIT, POINTS, dtype=np.float32)
    return np.stack(np.meshgrid(axis, axis, indexing="xy"), -1).reshape(-1, 2)


def log_posterior(model, params, image, condition=None):
    """log p(z|x) on the grid for one image [*event], `[POINTS^2]`, and log p(x), nats."""
    condition = None if condition is None else condition[None]
    prior = model.prior(params, condition)

    def log_joint(z):
        z = z[:, None]  # [points, 1, 2]: the points are draws for a batch of one
        return (model.decode(params, z, condition).log_prob(image[None]) + prior.log_prob(z))[:, 0]

    values = jax.lax.map(log_joint, jnp.asarray(grid()).reshape(POINTS, POINTS, 2)).reshape(-1)
    log_px = jax.nn.logsumexp(values) + jnp.log(AREA)
    return values - log_px, log_px


def kl_on_grid(log_q, log_p):
    """KL(q || p) from log densities on the grid, nats."""
    return jnp.sum(jnp.exp(log_q) * (log_q - log_p)) * AREA


def three_ways(model, params, examples, inference, fit):
    """The rows of q three ways, for one decoder: {name: rows}; `inference` and `fit` are groups of a config."""
    encoded = model.encode(params, examples["image"], examples.get("condition"))
    value_of = bound(model, params, examples, fit.num_samples)
    value = lambda keys, rows: value_of(keys, examples["image"], model.make_q(params, rows))
    keys = fold_in_each(examples["key"], REFINE)
    refined = refine(
        value, encoded, keys, inference.steps, inference.step_size, inference.momentum, inference.clip_norm
    )
    start = {**examples, "rows": encoded, "key": fold_in_each(examples["key"], FIT)}
    optimal = fit_from(model, params, start, fit)
    return {"amortized": encoded, "semi-amortized": refined, "optimal": optimal}


@partial(jax.jit, static_argnums=(0, 3, 4))
def compare(model, params, examples, inference, fit):
    """log p(z|x) `[B, POINTS^2]`, {name: log q `[B, POINTS^2]`} and {name: KL(q || p(z|x)) `[B]`} in nats."""
    images = {name: examples[name] for name in ("image", "condition") if name in examples}
    log_p = jax.lax.map(lambda one: log_posterior(model, params, one["image"], one.get("condition"))[0], images)
    log_qs, kls = {}, {}
    for name, rows in three_ways(model, params, examples, inference, fit).items():
        q = model.make_q(params, rows)
        log_qs[name] = q.log_prob(jnp.asarray(grid())[:, None]).T
        kls[name] = jax.vmap(kl_on_grid)(log_qs[name], log_p)
    return log_p, log_qs, kls


def posterior_contours(log_p, log_qs, kls, images):
    """A panel for each image: its true posterior in grey, each q as contours at shares of its peak, and the KLs."""
    from matplotlib.figure import Figure

    columns = min(4, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(3.3 * columns, 3.75 * rows + 0.4), layout="constrained")
    for number, ax in enumerate(figure.subplots(rows, columns, squeeze=False).flat[: len(images)]):
        draw_panel(ax, log_p[number], {name: log_q[number] for name, log_q in log_qs.items()})
        draw_image(ax, images[number])
        ax.set_title("KL " + ", ".join(f"{kls[name][number]:.2f}" for name in COLORS) + " nats", fontsize=10)
    handles = [figure.axes[0].plot([], [], color=color, label=name)[0] for name, color in COLORS.items()]
    title = "True posterior (grey) and q found three ways; KL(q || p(z|x)) in the legend's order"
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(title, fontsize=12)
    return figure


def draw_panel(ax, log_p, log_qs):
    """Contours of one posterior and its q's, in a window that holds them all."""
    axis = np.linspace(-LIMIT, LIMIT, POINTS)
    density = lambda log_density: np.exp(log_density - log_density.max()).reshape(POINTS, POINTS)
    ax.contourf(axis, axis, density(log_p), levels=[*LEVELS, 1.0], cmap="Greys", vmin=-0.4, vmax=1.3)
    inside = density(log_p) > LEVELS[0] / 2
    for name, log_q in log_qs.items():
        ax.contour(axis, axis, density(log_q), levels=LEVELS[:3], colors=COLORS[name], linewidths=1.1)
        inside |= density(log_q) > LEVELS[0] / 2
    ys, xs = np.nonzero(inside)
    center, half = (axis[[xs.min(), xs.max()]], axis[[ys.min(), ys.max()]]), 0.0
    half = max(np.ptp(side) for side in center) / 2 * 1.1
    ax.set(xlim=center[0].mean() + np.array([-half, half]), ylim=center[1].mean() + np.array([-half, half]))
    ax.set(aspect="equal", xlabel="$z_1$", ylabel="$z_2$")


def draw_image(ax, image):
    """The image itself, small, in a corner."""
    if image.ndim == 3:
        inset = ax.inset_axes([0.78, 0.78, 0.2, 0.2])
        inset.imshow(image.squeeze(), cmap="gray")
        inset.set(xticks=[], yticks=[])
