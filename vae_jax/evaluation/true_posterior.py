"""The true posterior of a model with two latent dimensions, by quadrature, and how far each way to find q is from it.

    p(z|x) = p(x|z) p(z) / p(x),   p(x) = integral p(x|z) p(z) dz,   KL(q || p(z|x)) = integral q log q / p(z|x) dz

On a fine grid these sums are exact to many digits: the integrands are smooth and vanish at its edges.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.evaluation.examples import bound, fit_from
from vae_jax.keys import Use, fold_each
from vae_jax.models.inference import refine

LIMIT, POINTS = 4.5, 361  # the grid covers [-LIMIT, LIMIT]^2 at a spacing of 0.025
AREA = (2 * LIMIT / (POINTS - 1)) ** 2


def grid_axis():
    """The values of either coordinate on the grid, `[POINTS]`."""
    return np.linspace(-LIMIT, LIMIT, POINTS)


def grid():
    """The points z, `[POINTS^2, 2]`; z1 varies fastest."""
    axis = grid_axis().astype(np.float32)
    return np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)


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
    """The q_params of q three ways, for one decoder: {name: q_params}; `inference` and `fit` are groups of a config."""
    encoded = model.encode(params, examples["image"], examples.get("condition"))
    value_of = bound(model, params, examples, fit.num_samples)
    value = lambda keys, q_params: value_of(keys, examples["image"], model.make_q(params, q_params))
    keys = fold_each(examples["key"], Use.CONTOUR_REFINE)
    refined = refine(
        value, encoded, keys, inference.steps, inference.step_size, inference.momentum, inference.clip_norm
    )
    start = {**examples, "q_params": encoded, "key": fold_each(examples["key"], Use.CONTOUR_FIT)}
    optimal = fit_from(model, params, start, fit)
    return {"amortized": encoded, "semi-amortized": refined, "optimal": optimal}


@partial(jax.jit, static_argnums=(0, 3, 4))
def compare(model, params, examples, inference, fit):
    """The grid's axis `[POINTS]`, log p(z|x) `[B, POINTS^2]`, {name: log q `[B, POINTS^2]`} and {name: KL(q || p(z|x))
    `[B]`}, in nats."""
    images = {name: examples[name] for name in ("image", "condition") if name in examples}
    log_p = jax.lax.map(lambda one: log_posterior(model, params, one["image"], one.get("condition"))[0], images)
    log_qs, kls = {}, {}
    for name, q_params in three_ways(model, params, examples, inference, fit).items():
        q = model.make_q(params, q_params)
        log_qs[name] = q.log_prob(jnp.asarray(grid())[:, None]).T
        kls[name] = jax.vmap(kl_on_grid)(log_qs[name], log_p)
    return jnp.asarray(grid_axis()), log_p, log_qs, kls
