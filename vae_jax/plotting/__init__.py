"""Pictures: arrays in, `matplotlib.figure.Figure` out."""

from vae_jax.plotting.diagnostics import gap_bars, posterior_contours, snr_lines
from vae_jax.plotting.images import reconstructions, samples
from vae_jax.plotting.latent_space import aggregate, kl_bars, latent_scatter
from vae_jax.plotting.likelihood import bits, estimates, off_manifold
from vae_jax.plotting.toolkit import image_grid, image_rows
from vae_jax.plotting.training import training_curves

__all__ = ["aggregate", "bits", "estimates", "gap_bars", "image_grid", "image_rows", "kl_bars", "latent_scatter"]
__all__ += ["off_manifold", "posterior_contours", "reconstructions", "samples", "snr_lines", "training_curves"]
