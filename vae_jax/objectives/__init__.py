"""The evidence lower bound (START HERE: elbo.py) and what else may be optimized; all of it by name: loss.OBJECTIVES."""

from vae_jax.objectives.elbo import Elbo, ObjectiveFunction, draw, elbo_fn, importance_bound, objective, score
from vae_jax.objectives.importance import ciwae, dreg, iwae, miwae, piwae, stl, tvo, vr
from vae_jax.objectives.regularized import autoencoder, beta_elbo, beta_tc, free_bits

# Not OBJECTIVES: loss.py reads configurations, and this face imports JAX alone. Not elbo, capacity and mmd of
# regularized.py: `objectives.elbo` is the module.
__all__ = ["Elbo", "ObjectiveFunction", "autoencoder", "beta_elbo", "beta_tc", "ciwae", "draw", "dreg", "elbo_fn"]
__all__ += ["free_bits", "importance_bound", "iwae", "miwae", "objective", "piwae", "score", "stl", "tvo", "vr"]
