"""Two latent dimensions by quadrature: against a linear-Gaussian model, whose posterior is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from matplotlib.figure import Figure

from vae_jax.commands import configuration
from vae_jax.distributions.basic import Normal
from vae_jax.errors import UserError
from vae_jax.evaluation import true_posterior
from vae_jax.models.model import Model
from vae_jax.plotting import diagnostics as diagnostic_plots

W = jnp.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.0]])  # x = W' z + eps: z_1 and z_2 speak to different pixels
SIGMA = 0.7


def linear_model(sigma=SIGMA, prior_mean=0.0):
    """Posterior precision 1 + W W' / sigma^2, diagonal; mean = covariance (prior mean + W x / sigma^2)."""
    return Model(
        init=None,
        infer=None,
        start_q_params=None,
        make_q=lambda params, q_params: Normal(q_params["mean"], q_params["log_std"]),
        encode=None,
        decode=lambda params, z, condition=None: Normal(z @ W, jnp.full(3, jnp.log(sigma))),
        prior=lambda params, condition=None: Normal(jnp.full((1, 2), prior_mean), jnp.zeros((1, 2))),
    )


def exact(x, sigma=SIGMA, prior_mean=0.0):
    precision = 1 + jnp.diag(W @ W.T) / sigma**2
    return Normal((prior_mean + x @ W.T / sigma**2) / precision, -0.5 * jnp.log(precision) * jnp.ones_like(x[..., :2]))


def test_log_px_is_exact_wherever_the_posterior_is():
    """log p(x) of N(W' m, W'W + sigma^2 I) for three x, the last of which is far out."""
    x = jnp.array([[0.8, -0.4, 0.2], [0.0, 0.0, 0.0], [40.0, -10.0, 1.0]])
    covariance = np.array(W.T @ W + SIGMA**2 * np.eye(3), np.float64)
    expected = scipy.stats.multivariate_normal.logpdf(x, np.zeros(3), covariance)
    model = linear_model()
    joint = true_posterior.on_grid(lambda z: model.decode({}, z).log_prob(x) + model.prior({}).log_prob(z))
    axes, values, log_px = true_posterior.integrate(joint, 3, "p(z|x)")
    np.testing.assert_allclose(log_px, expected, rtol=1e-6, atol=1e-4)
    of_posterior = exact(x).log_prob(true_posterior.grid(jnp.float32(axes)).reshape(-1, 3, 2)).reshape(values.shape)
    np.testing.assert_allclose((values - log_px)[values - log_px > -9], of_posterior[values - log_px > -9], atol=5e-3)


@pytest.mark.parametrize(
    ("sigma", "prior_mean", "shift", "log_scale"),
    [
        (0.7, 0.0, 0.5, 0.0),
        (0.7, 6.0, 0.5, 0.0),  # off the square of 9 by 9 around 0
        (0.01, 0.0, 0.5, 0.0),  # narrower than its old spacing
        (0.01, 5.0, 1.0, 0.7),
        (0.7, -20.0, 3.0, -3.0),  # a q much narrower than p(z|x), and beside it
        (0.05, 0.0, 2.0, 3.0),  # a q much wider
    ],
)
def test_kl_is_the_closed_form(monkeypatch, sigma, prior_mean, shift, log_scale):
    """q = the posterior, moved by `shift` and widened by e^log_scale standard deviations of its own."""
    x = prior_mean * W.sum(0) + jnp.array([[0.8, -0.4, 0.02], [1.0, 0.3, 0.0]])
    p = exact(x, sigma, prior_mean)
    q_params = {"mean": p.mean + shift * jnp.exp(p.log_std), "log_std": p.log_std + log_scale}
    monkeypatch.setattr(true_posterior, "three_ways", lambda *_: {"amortized": q_params})
    axes, log_p, log_qs, kls = true_posterior.compare(linear_model(sigma, prior_mean), {}, {"image": x}, None, None)
    expected = 2 * (0.5 * (np.exp(2 * log_scale) + shift**2 - 1) - log_scale)
    np.testing.assert_allclose(kls["amortized"], expected, rtol=2e-3, atol=2e-3)
    for log_density, truth in ((log_p, p), (log_qs["amortized"], Normal(**q_params))):
        peak = log_density.argmax(1)  # the picture holds both peaks
        z = np.stack([axes[[0, 1], 0, peak % axes.shape[-1]], axes[[0, 1], 1, peak // axes.shape[-1]]], -1)
        assert (np.abs(z - truth.mean) < np.ptp(axes, axis=-1) / 100).all()


def spikes(width, *centers):
    square = lambda z: jnp.stack([((z - jnp.array(center)) ** 2).sum(-1) for center in centers])
    return lambda z: jax.nn.logsumexp(-0.5 * square(z) / width**2, axis=0)


UNRESOLVED = {
    "two spikes": spikes(1e-3, (3.0, 3.0), (-3.0, -3.0)),
    "no number": lambda z: jnp.nan * z.sum(-1),
    "too large for float32": lambda z: 1e6 - (z**2).sum(-1),
}


@pytest.mark.parametrize("log_density", UNRESOLVED.values(), ids=UNRESOLVED)
def test_what_no_grid_resolves_is_refused(monkeypatch, log_density):
    monkeypatch.setattr(true_posterior, "POINTS", (61, 121))
    with pytest.raises(UserError, match="p is not resolved by a grid of 121"):
        true_posterior.integrate(true_posterior.on_grid(log_density), 1, "p")


def test_a_finer_grid_is_taken_where_it_is_needed():
    """Two modes of width 0.07 at a distance of 8.5: 121 points along a side are too few."""
    log_density = spikes(0.07, (3.0, 3.0), (-3.0, -3.0))
    axes, _, total = true_posterior.integrate(true_posterior.on_grid(log_density), 1, "p")
    np.testing.assert_allclose(total, np.log(2 * 2 * np.pi * 0.07**2), atol=1e-3)
    assert axes.shape[-1] == true_posterior.POINTS[1]


def test_refinement_comes_nearer_and_the_optimum_nearest(key):
    """An encoder that is off by 0.5 in the mean: KL falls from way to way, to 0 at the best q, here the exact one."""
    x = jax.random.normal(key, (3, 3))
    model = linear_model()._replace(
        encode=lambda params, x, condition=None: {"mean": exact(x).mean + 0.5, "log_std": exact(x).log_std}
    )
    config = configuration.default()
    config.inference.ascent, config.inference.learning_rate = "momentum", 0.05
    config = configuration.validate(config)
    examples = {"image": x, "key": jax.random.split(key, 3)}
    compared = true_posterior.compare(model, {}, examples, config.inference, config.fit)
    kls = compared[-1]
    np.testing.assert_allclose(kls["amortized"], (0.5**2 * jnp.exp(-2 * exact(x).log_std)).sum(-1) / 2, rtol=1e-3)
    assert (kls["semi-amortized"] < 0.9 * kls["amortized"]).all() and (kls["optimal"] < 0.01).all()
    figure = diagnostic_plots.posterior_contours(*compared, np.zeros((3, 4, 4, 1)))
    assert isinstance(figure, Figure) and len([ax for ax in figure.axes if ax.get_title()]) == 3
    wanted = ", ".join(f"{kls[name][0]:.2f}" for name in ("amortized", "semi-amortized", "optimal"))
    assert wanted in figure.axes[0].get_title(), "the numbers stand in the legend's order"
