"""A model is a tuple of pure functions: networks and families that a configuration names, and how q(z|x) is found."""

from vae_jax.models.families import LIKELIHOODS, POSTERIORS, PRIORS, Likelihood, Posterior, Prior
from vae_jax.models.fits import Ascent, fit_q_params
from vae_jax.models.inference import INFERENCES, Inference, refine
from vae_jax.models.model import Model, make_model, sample_each_prior, sample_prior
from vae_jax.models.networks import NETWORKS, Architecture, Network

__all__ = ["INFERENCES", "LIKELIHOODS", "NETWORKS", "POSTERIORS", "PRIORS", "Architecture", "Ascent", "Inference"]
__all__ += ["Likelihood", "Model", "Network", "Posterior", "Prior", "fit_q_params", "make_model", "refine"]
__all__ += ["sample_each_prior", "sample_prior"]
