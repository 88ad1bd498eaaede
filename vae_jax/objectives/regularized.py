"""What is optimized. An objective has `elbo_fn`'s arguments and returns (value `[B]` to ascend, `Elbo`), in nats.

The `Elbo` is the true bound whatever is optimized, so runs under different objectives stay comparable; for an
autoencoder, whose q has no density, all of it but the reconstruction is None. Scalars beside `elbo_fn`'s arguments are
weights, named in OBJECTIVES and passed traced, so that a schedule or a sweep need not recompile. Those made of
importance weights are in importance.py; those here weigh the two terms of the bound, or look at a batch as a whole.
"""

import math

import jax
import jax.numpy as jnp

from vae_jax.distributions.basic import LOG_2PI, Normal, StandardNormal, kl_of_dimensions, std_from_log, typed
from vae_jax.objectives.elbo import Elbo, elbo_fn


def elbo(key, x, q, decode, prior=None, num_samples=1, *, kl="auto"):
    """ELBO = E_q log p(x|z) - KL(q || p). Kingma and Welling (2014), eq. 3. The key is consumed."""
    terms = elbo_fn(key, x, q, decode, prior, num_samples, kl=kl)
    return terms.elbo, terms


def beta_elbo(key, x, q, decode, prior=None, num_samples=1, *, kl="auto", beta=1.0, reconstruction=1.0):
    """reconstruction * E_q log p(x|z) - beta KL(q || p). Higgins et al. (2017), eq. 4. The key is consumed.

    reconstruction = 0 leaves the KL alone, beta = 0 the reconstruction alone.
    """
    terms = elbo_fn(key, x, q, decode, prior, num_samples, kl=kl)
    return reconstruction * terms.log_likelihood - beta * terms.kl, terms


def capacity(key, x, q, decode, prior=None, num_samples=1, *, kl="auto", beta=1.0, capacity=0.0):
    """E_q log p(x|z) - beta |KL(q || p) - C|, C nats to be used. Burgess et al. (2018), eq. 8. The key is consumed."""
    terms = elbo_fn(key, x, q, decode, prior, num_samples, kl=kl)
    return terms.log_likelihood - beta * jnp.abs(terms.kl - capacity), terms


def free_bits(key, x, q, decode, prior=None, num_samples=1, *, kl="auto", free=0.0, num_examples=None, gather=None):
    """E_q log p(x|z) - sum_j max(free, E_batch KL_j). Kingma et al. (2016), eq. 15. The key is consumed.

    j are the dimensions of z where q and p are both diagonal Gaussians, otherwise z as a whole; `free` is nats for
    each. Couples the batch: `gather` brings `[b, ...]` of this device to `[B, ...]` of all.
    """
    terms = elbo_fn(key, x, q, decode, prior, num_samples, kl=kl)
    parts = kl_of_dimensions(q, StandardNormal(()) if prior is None else prior)
    average = gathered(gather, terms.kl[:, None] if parts is None else parts).mean(0)
    return terms.log_likelihood - jnp.maximum(free, average).sum(), terms


def beta_tc(key, x, q, decode, prior=None, num_samples=1, *, kl="auto", beta=1.0, num_examples=None, gather=None):
    """E_q log p(x|z) - MI(x; z) - beta TC(z) - sum_j KL(q(z_j) || p(z_j)). Chen et al. (2018), eq. 4.

    The aggregate posterior of N = num_examples is estimated from the batch, log q(z) = log 1/(N B) sum_j q(z|x_j):
    their minibatch-weighted sampling, eq. S2. Couples the batch, see `free_bits`; N is B by default. The three terms
    add up to log q(z|x) - log p(z). Raises ValueError for a q or p that is no diagonal Gaussian. The key is consumed.
    """
    if not isinstance(q, Normal) or not (prior is None or isinstance(prior, StandardNormal)):
        raise ValueError("beta_tc needs diagonal Gaussian posteriors and the standard normal prior: they factorize")
    terms = elbo_fn(key, x, q, decode, prior, num_samples, kl=kl)
    everyone = gathered(gather, jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, q.mean.shape), q))
    # [K, B, B', Z], the density of each draw under the posterior of every x
    each = log_normal(terms.z[:, :, None], everyone.mean, everyone.log_std)
    log_count = math.log((num_examples or len(everyone.mean)) * len(everyone.mean))
    log_q = jax.nn.logsumexp(each.sum(-1), axis=2) - log_count
    log_q_product = (jax.nn.logsumexp(each, axis=2) - log_count).sum(-1)
    information, correlation = terms.log_q - log_q, log_q - log_q_product
    dimensions = log_q_product - terms.log_prior
    return terms.log_likelihood - (information + beta * correlation + dimensions).mean(0), terms


def log_normal(z, mean, log_std):
    """log N(z; mean, sigma^2) of each dimension by itself."""
    return -0.5 * (((z - mean) * std_from_log(-log_std)) ** 2 + LOG_2PI) - log_std


def mmd(key, x, q, decode, prior=None, num_samples=1, *, kl="auto", beta=0.0, mmd=10.0, num_examples=None, gather=None):
    """E_q log p(x|z) - beta KL(q || p) - mmd MMD^2(q(z), p(z)) over the batch. Zhao et al. (2019), eq. 6.

    beta = 0 is the Wasserstein autoencoder of Tolstikhin et al. (2018), beta = 1 - alpha and mmd = alpha + lambda - 1
    the InfoVAE. Couples the batch, see `free_bits`. Raises ValueError for a z of several arrays. The key is consumed.
    """
    terms = elbo_fn(key, x, q, decode, prior, num_samples, kl=kl)
    if not isinstance(terms.z, jax.Array):
        raise ValueError("the objective 'mmd' compares z of one array: use a posterior and a prior of one layer")
    key = typed(key)
    keys = key if key.ndim else jax.random.split(key, len(terms.kl))
    prior = StandardNormal(terms.z.shape[-1:]) if prior is None else prior
    from_prior = jax.vmap(lambda k: prior.sample(jax.random.fold_in(k, 1), (1,))[0])(keys)
    distance = squared_mmd(gathered(gather, terms.z[0]), gathered(gather, from_prior))
    return terms.log_likelihood - beta * terms.kl - mmd * distance, terms


def squared_mmd(a, b):
    """MMD^2 of two sets `[B, Z]`, unbiased, by inverse multiquadratics of seven widths. Tolstikhin et al. (2018)."""
    scales = 2 * a.shape[-1] * jnp.array([0.1, 0.2, 0.5, 1, 2, 5, 10])

    def kernel(a, b):
        squares = ((a[:, None] - b[None]) ** 2).sum(-1)
        return (scales / (scales + squares[..., None])).sum(-1)

    pairs = max(len(a) * (len(a) - 1), 1)
    within = lambda a: (kernel(a, a).sum() - len(a) * len(scales)) / pairs
    return within(a) + within(b) - 2 * kernel(a, b).mean()


def gathered(gather, tree):
    """A pytree of `[b, ...]` of this device as `[B, ...]` of all."""
    return tree if gather is None else gather(tree)


def autoencoder(key, x, q, decode, prior=None, num_samples=1, *, kl="auto", code=0.0):
    """log p(x|z) - code |z|^2 / 2 at z = q.mean: an autoencoder, or with a weight RAE-L2. Ghosh et al. (2020), eq. 6.

    The limit of the bound for a q without width, whose KL is infinite: no ELBO is reported. The key is not used.
    """
    z = q.mean[None]
    log_lik = decode(z).log_prob(x)
    reconstruction = log_lik.mean(0)
    terms = Elbo(None, reconstruction, None, None, None, None, log_lik, z)
    return reconstruction - 0.5 * code * (q.mean**2).sum(-1), terms
