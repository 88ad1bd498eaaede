"""Two latent dimensions by quadrature: against a linear-Gaussian model, whose posterior is known."""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from vae_jax.commands import configuration
from vae_jax.distributions.basic import Normal, StandardNormal, kl_standard_normal
from vae_jax.evaluation import true_posterior
from vae_jax.models.model import Model
from vae_jax.plotting import diagnostics as diagnostic_plots

W = jnp.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.0]])  # x = W' z + eps: z_1 and z_2 speak to different pixels
SIGMA = 0.7


def linear_model():
    """Posterior precision 1 + W W' / sigma^2, diagonal; mean = covariance W x / sigma^2."""
    return Model(
        init=None,
        infer=None,
        start_q_params=None,
        make_q=lambda params, rows: Normal(rows["mean"], rows["log_std"]),
        encode=None,
        decode=lambda params, z, condition=None: Normal(z @ W, jnp.full(3, jnp.log(SIGMA))),
        prior=lambda params, condition=None: StandardNormal((2,)),
    )


def exact(x):
    precision = 1 + jnp.diag(W @ W.T) / SIGMA**2
    return Normal(x @ W.T / SIGMA**2 / precision, -0.5 * jnp.log(precision) * jnp.ones_like(x[..., :2]))


def test_the_posterior_and_log_px_are_exact():
    """log p(x) of N(0, W'W + sigma^2 I), and the density of the known posterior at every point of the grid."""
    x = jnp.array([0.8, -0.4, 0.2])
    log_p, log_px = true_posterior.log_posterior(linear_model(), {}, x)
    covariance = np.array(W.T @ W + SIGMA**2 * np.eye(3), np.float64)
    expected = -0.5 * (x @ np.linalg.inv(covariance) @ x + np.linalg.slogdet(2 * np.pi * covariance)[1])
    np.testing.assert_allclose(log_px, expected, atol=1e-5)
    np.testing.assert_allclose(log_p, exact(x[None]).log_prob(true_posterior.grid()[:, None])[:, 0], atol=2e-4)


def test_kl_on_the_grid_is_the_closed_form():
    """KL(N(m, s^2) || N(0, I)) for m = (0.5, -1), s = (0.3, 0.8)."""
    mean, log_std = jnp.array([0.5, -1.0]), jnp.log(jnp.array([0.3, 0.8]))
    z = jnp.asarray(true_posterior.grid())
    kl = true_posterior.kl_on_grid(Normal(mean, log_std).log_prob(z), StandardNormal((2,)).log_prob(z))
    np.testing.assert_allclose(kl, kl_standard_normal(mean, log_std), rtol=1e-4)


def test_refinement_comes_nearer_and_the_optimum_nearest(key):
    """An encoder that is off by 0.5 in the mean: KL falls from way to way, to 0 at the best q, here the exact one."""
    x = jax.random.normal(key, (3, 3))
    model = linear_model()._replace(
        encode=lambda params, x, condition=None: {"mean": exact(x).mean + 0.5, "log_std": exact(x).log_std}
    )
    config = configuration.default()
    config.inference.step_size = 0.05
    config = configuration.validate(config)
    examples = {"image": x, "key": jax.random.split(key, 3)}
    log_p, log_qs, kls = true_posterior.compare(model, {}, examples, config.inference, config.fit)
    np.testing.assert_allclose(kls["amortized"], (0.5**2 * jnp.exp(-2 * exact(x).log_std)).sum(-1) / 2, rtol=1e-3)
    assert (kls["semi-amortized"] < 0.9 * kls["amortized"]).all() and (kls["optimal"] < 0.01).all()
    figure = diagnostic_plots.posterior_contours(log_p, log_qs, kls, np.zeros((3, 4, 4, 1)))
    assert isinstance(figure, Figure) and len([ax for ax in figure.axes if ax.get_title()]) == 3
    wanted = ", ".join(f"{kls[name][0]:.2f}" for name in ("amortized", "semi-amortized", "optimal"))
    assert wanted in figure.axes[0].get_title(), "the numbers stand in the legend's order"
