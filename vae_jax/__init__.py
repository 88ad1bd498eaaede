"""vae_jax: variational autoencoders as pure functions of JAX. Everything imported here needs jax alone."""

from vae_jax.distributions.basic import (
    Bernoulli,
    Normal,
    StandardNormal,
    bernoulli_log_prob,
    closed_form_kl,
    kl_standard_normal,
    normal_log_prob,
    reparameterize,
)
from vae_jax.objectives.elbo import Elbo, draw, elbo_fn, importance_bound, score

__version__ = "0.2.0"

__all__ = ["Bernoulli", "Elbo", "Normal", "StandardNormal", "bernoulli_log_prob", "closed_form_kl", "draw", "elbo_fn"]
__all__ += ["importance_bound", "kl_standard_normal", "normal_log_prob", "reparameterize", "score"]
