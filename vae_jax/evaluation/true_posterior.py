"""The true posterior of a model with two latent dimensions, by quadrature, and how far each way to find q is from it.

    p(z|x) = p(x|z) p(z) / p(x),   p(x) = integral p(x|z) p(z) dz,   KL(q || p(z|x)) = integral q log q / p(z|x) dz

Every density of every example has a grid of its own, which holds all that lies within CUT nats of its peak. There the
sums are exact to many digits: the integrands are smooth and vanish at the edges. A grid that half of its points would
contradict is made finer, or refused, as are log densities too large for float32. A mode that the first grid steps over
is not seen.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.errors import UserError
from vae_jax.evaluation.examples import bound, fit_from
from vae_jax.keys import Use, fold_each
from vae_jax.models.fits import make_ascent
from vae_jax.models.inference import refine

LIMIT = 4.5  # a search begins on [-LIMIT, LIMIT]^2
POINTS = (121, 241, 481)  # along a side of a grid; the next where one is too coarse
CUT = 30.0  # nats below the peak that still count: 7.7 standard deviations of a Gaussian
TOLERANCE = 2e-3  # nats between a sum over all points and over every second one of either coordinate
ROUNDS = 60  # of a search
WINDOW, DRAWN = 6.0, 181  # a picture shows so many nats below a peak, on so many points along a side


def grid(axes):
    """The points of grids with axes `[B, 2, P]`: z `[P, P, B, 2]`, of which z1 varies along the second axis."""
    return jnp.stack(jnp.broadcast_arrays(axes[:, 0].T, axes[:, 1].T[:, None]), -1)


def on_grid(log_density):
    """log_density(z `[K, B, 2]`) `[K, B]` as a compiled function of axes `[B, 2, P]`: `[P, P, B]` on the host."""
    function = jax.jit(lambda axes: jax.lax.map(log_density, grid(axes)))
    return lambda axes: np.asarray(function(jnp.asarray(axes, jnp.float32)), np.float64)


def extent(axes, values, cut):
    """Positions `[B, 2]` of the first and the last point along each axis within `cut` nats of the peak."""
    inside = values > values.max((0, 1)) - cut
    held = np.stack([inside.any(0), inside.any(1)]).transpose(2, 0, 1)
    return held.argmax(-1), held.shape[-1] - 1 - held[..., ::-1].argmax(-1)


def at(axes, positions):
    return np.take_along_axis(axes, positions[..., None], -1)[..., 0]


def search(evaluate, count, points):
    """Axes `[B, 2, points]` that hold all within CUT nats of the peak and little else; None if there are none."""
    axes = np.tile(np.linspace(-LIMIT, LIMIT, points), (count, 2, 1))
    for _ in range(ROUNDS):
        first, last = extent(axes, evaluate(axes), CUT)
        touched = (first == 0) | (last == points - 1)
        if not touched.any() and (last - first > points // 2).all():
            return axes
        # to three times the width where an edge is reached, before anything is cut off: the peak may be far away
        more, step = touched * np.ptp(axes, axis=-1), axes[..., 1] - axes[..., 0]
        widen = touched.any(-1, keepdims=True)
        low = np.where(widen, axes[..., 0] - more, at(axes, first) - step)
        high = np.where(widen, axes[..., -1] + more, at(axes, last) + step)
        axes = np.linspace(low, high, points, axis=-1)
    return None


def integral(integrand, axes):
    """Sums `[B]` over grids, and the same of every second point of either coordinate."""
    area = np.prod(axes[..., 1] - axes[..., 0], -1)
    return integrand.sum((0, 1)) * area, integrand[::2, ::2].sum((0, 1)) * 4 * area


def integrate(evaluate, count, what):
    """(axes `[B, 2, P]`, log density there `[P, P, B]`, log of its integral `[B]`). Raises UserError."""
    for points in POINTS:
        axes = search(evaluate, count, points)
        if axes is None:
            break
        values = evaluate(axes)
        peak = values.max((0, 1))
        fine, coarse = (peak + np.log(total) for total in integral(np.exp(values - peak), axes))
        rounding = np.finfo(np.float32).eps * np.abs(peak).max()
        if max(np.abs(fine - coarse).max(), rounding) < TOLERANCE:
            return axes, values, fine
    raise unresolved(what)


def unresolved(what):
    return UserError(f"{what} is not resolved by a grid of {POINTS[-1]}^2 points in float32: too narrow or too uneven")


@partial(jax.jit, static_argnums=(0, 3, 4))
def three_ways(model, params, examples, inference, fit):
    """The q_params of q three ways, for one decoder: {name: q_params}; `inference` and `fit` are groups of a config."""
    encoded = model.encode(params, examples["image"], examples.get("condition"))
    value_of = bound(model, params, examples, fit.num_samples)
    value = lambda keys, q_params: value_of(keys, examples["image"], model.make_q(params, q_params))
    keys = fold_each(examples["key"], Use.CONTOUR_REFINE)
    refined = refine(value, encoded, keys, make_ascent(inference, model.ascent), inference)
    start = {**examples, "q_params": encoded, "key": fold_each(examples["key"], Use.CONTOUR_FIT)}
    optimal = fit_from(model, params, start, fit)["q_params"]
    return {"amortized": encoded, "semi-amortized": refined, "optimal": optimal}


def compare(model, params, examples, inference, fit):
    """What each q is worth, and what to draw of it.

    Returns axes `[B, 2, P]`, log p(z|x) `[B, P^2]` and {name: log q `[B, P^2]`} on them, z1 varying fastest, and
    {name: KL(q || p(z|x)) `[B]`}, in nats. Raises UserError where a density is not resolved.
    """
    condition, count = examples.get("condition"), len(examples["image"])
    prior = model.prior(params, condition)
    joint = on_grid(lambda z: model.decode(params, z, condition).log_prob(examples["image"]) + prior.log_prob(z))
    given = {name: examples[name] for name in ("image", "key", "condition") if name in examples}
    ways = three_ways(model, params, given, inference, fit)
    log_qs = {name: on_grid(model.make_q(params, q_params).log_prob) for name, q_params in ways.items()}
    axes, log_p, log_px = integrate(joint, count, "p(z|x)")
    held, kls = [(axes, log_p)], {}
    for name, log_q in log_qs.items():
        axes, values, total = integrate(log_q, count, f"the {name} q")
        fine, coarse = integral(np.exp(values) * (values - joint(axes)), axes)
        held.append((axes, values))
        kls[name] = fine + log_px
        exact = (np.abs(fine - coarse) < TOLERANCE * (1 + np.abs(fine))) & (np.abs(total) < TOLERANCE)
        if not (exact & (kls[name] > -TOLERANCE)).all():
            raise unresolved(f"KL(q || p(z|x)) of the {name} q")
    sides = [[at(axes, side) for side in extent(axes, values, WINDOW)] for axes, values in held]
    axes = np.linspace(np.min(sides, (0, 1)), np.max(sides, (0, 1)), DRAWN, axis=-1)
    flat = lambda values: values.reshape(-1, count).T
    return axes, flat(joint(axes)) - log_px[:, None], {name: flat(log_q(axes)) for name, log_q in log_qs.items()}, kls
