"""What is optimized. An objective has `elbo_fn`'s arguments and returns (value `[B]` to ascend, `Elbo`), in nats.

The `Elbo` is the true bound whatever is optimized, so runs under different objectives stay comparable.
"""

from collections.abc import Callable
from typing import NamedTuple

from vae_jax.elbo import elbo_fn, importance_bound


def elbo(key, x, q, decode, prior=None, num_samples=1, *, kl="auto"):
    """ELBO = E_q log p(x|z) - KL(q || p). Kingma and Welling (2014), eq. 3. The key is consumed."""
    terms = elbo_fn(key, x, q, decode, prior, num_samples, kl=kl)
    return terms.elbo, terms


def beta_elbo(key, x, q, decode, prior=None, num_samples=1, *, kl="auto", beta=1.0):
    """E_q log p(x|z) - beta KL(q || p). Higgins et al. (2017), eq. 4. The key is consumed."""
    terms = elbo_fn(key, x, q, decode, prior, num_samples, kl=kl)
    return terms.log_likelihood - beta * terms.kl, terms


def iwae(key, x, q, decode, prior=None, num_samples=1, *, kl="auto"):
    """L_K = log 1/K sum_k w_k, tighter as K = num_samples grows. Burda et al. (2016), eq. 8. The key is consumed."""
    terms = elbo_fn(key, x, q, decode, prior, num_samples, kl=kl)
    return importance_bound(terms.log_weights), terms


class Objective(NamedTuple):
    function: Callable
    weights: tuple = ()  # names of its scalar arguments, passed traced, so that a sweep need not recompile


OBJECTIVES = {
    "elbo": Objective(elbo),
    "beta": Objective(beta_elbo, ("beta",)),
    "iwae": Objective(iwae),
}
