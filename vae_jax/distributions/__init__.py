"""Densities, samplers and closed-form KLs, in nats, by NumPyro's protocol: what q(z|x), p(z) and p(x|z) are made of."""

from vae_jax.distributions.basic import (
    CLOSED_FORM_KL,
    Bernoulli,
    Normal,
    StandardNormal,
    bernoulli_log_prob,
    closed_form_kl,
    kl_of_dimensions,
    kl_standard_normal,
    normal_log_prob,
    reparameterize,
    standard_normal,
)
from vae_jax.distributions.flows import (
    CouplingFlow,
    InverseAutoregressiveFlow,
    PlanarFlow,
    init_autoregressive,
    init_coupling,
)
from vae_jax.distributions.gaussians import (
    Dirac,
    FullNormal,
    LowRankNormal,
    NormalMixture,
    TwoLayerPosterior,
    TwoLayerPrior,
)
from vae_jax.distributions.likelihoods import (
    BetaBinomial,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    LogisticMixture,
)
from vae_jax.distributions.protocol import Distribution, density_anywhere, distribution, has_density, typed

__all__ = ["CLOSED_FORM_KL", "Bernoulli", "BetaBinomial", "Categorical", "ContinuousBernoulli", "CouplingFlow", "Dirac"]
__all__ += ["DiscretizedLogistic", "Distribution", "FullNormal", "InverseAutoregressiveFlow", "LogisticMixture"]
__all__ += ["LowRankNormal", "Normal", "NormalMixture", "PlanarFlow", "StandardNormal", "TwoLayerPosterior"]
__all__ += ["TwoLayerPrior", "bernoulli_log_prob", "closed_form_kl", "density_anywhere", "distribution", "has_density"]
__all__ += ["init_autoregressive", "init_coupling", "kl_of_dimensions", "kl_standard_normal", "normal_log_prob"]
__all__ += ["reparameterize", "standard_normal", "typed"]
