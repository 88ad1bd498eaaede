"""What is optimized. An objective has `elbo_fn`'s arguments and returns (value `[B]` to ascend, `Elbo`), in nats.

The `Elbo` is the true bound whatever is optimized, so runs under different objectives can be compared; for an
autoencoder, whose q has no density, all of it but the reconstruction is None. Scalar arguments beside those of
`elbo_fn` are weights: OBJECTIVES names them and they are traced, so that a schedule or a sweep does not recompile.
The objectives here weigh the two terms of the bound or couple a batch; importance.py has those of importance weights.
"""

import math

import jax
import jax.numpy as jnp

from vae_jax.distributions.basic import LOG_2PI, Normal, StandardNormal, kl_of_dimensions, std_from_log
from vae_jax.distributions.protocol import typed
from vae_jax.objectives.elbo import Elbo, checked_log_prob, elbo_fn, objective


@objective
def elbo(key, x, q, decode, prior=None, num_samples=1, *, kl="auto"):
    """ELBO = E_q log p(x|z) - KL(q || p).

    Args:
        key, x, q, decode, prior, num_samples, kl: as in `elbo_fn`. The key is consumed.

    Returns:
        The objective `[B]` and the terms of the bound, nats per example.

    Source: Kingma and Welling (2014), eq. 3.
    """
    terms = elbo_fn(key, x, q, decode, prior, num_samples, kl=kl)
    return terms.elbo, terms


@objective
def beta_elbo(
    key, x, q, decode, prior=None, num_samples=1, *, kl="auto", beta: float = 1.0, reconstruction: float = 1.0
):
    """beta-VAE: reconstruction * E_q log p(x|z) - beta KL(q || p).

    Args:
        key, x, q, decode, prior, num_samples, kl: as in `elbo_fn`. The key is consumed.
        beta: weight of the KL.
        reconstruction: weight of the reconstruction.

    Returns:
        The objective `[B]` and the terms of the bound, nats per example.

    Source: Higgins et al. (2017), eq. 4.
    """
    terms = elbo_fn(key, x, q, decode, prior, num_samples, kl=kl)
    return reconstruction * terms.log_likelihood - beta * terms.kl, terms


@objective
def capacity(
    key, x, q, decode, prior=None, num_samples=1, *, kl="auto", beta=1.0, capacity=0.0, num_examples=None, gather=None
):
    """E_q log p(x|z) - beta |E_batch KL(q || p) - C|.

    The mean over the batch couples its examples: their KLs may differ, as long as they are C together.

    Args:
        key, x, q, decode, prior, num_samples, kl: as in `elbo_fn`. The key is consumed.
        beta: weight of the distance between the mean KL and C.
        capacity: C, the mean KL to be reached, nats.
        num_examples: not used.
        gather: brings `[b, ...]` of this device to `[B, ...]` of all devices; None for one device.

    Returns:
        The objective `[B]` and the terms of the bound, nats per example.

    Source: Burgess et al. (2018), eq. 8.
    """
    terms = elbo_fn(key, x, q, decode, prior, num_samples, kl=kl)
    return terms.log_likelihood - beta * jnp.abs(gathered(gather, terms.kl).mean() - capacity), terms


@objective
def free_bits(
    key, x, q, decode, prior=None, num_samples=1, *, kl="auto", free: float = 0.0, num_examples=None, gather=None
):
    """Free bits: E_q log p(x|z) - sum_j max(free, E_batch KL_j).

    j are the dimensions of z where q and p are both diagonal Gaussians; otherwise there is one j, all of z. The mean
    over the batch couples its examples.

    Args:
        key, x, q, decode, prior, num_samples, kl: as in `elbo_fn`. The key is consumed.
        free: nats of each j that cost nothing.
        num_examples: not used.
        gather: brings `[b, ...]` of this device to `[B, ...]` of all devices; None for one device.

    Returns:
        The objective `[B]` and the terms of the bound, nats per example.

    Source: Kingma et al. (2016), eq. 15.
    """
    terms = elbo_fn(key, x, q, decode, prior, num_samples, kl=kl)
    parts = kl_of_dimensions(q, StandardNormal(()) if prior is None else prior)
    average = gathered(gather, terms.kl[:, None] if parts is None else parts).mean(0)
    return terms.log_likelihood - jnp.maximum(free, average).sum(), terms


@objective
def beta_tc(
    key, x, q, decode, prior=None, num_samples=1, *, kl="auto", beta: float = 1.0, num_examples=None, gather=None
):
    """beta-TCVAE: E_q log p(x|z) - MI(x; z) - beta TC(z) - sum_j KL(q(z_j) || p(z_j)).

    The aggregate posterior is estimated from the batch, log q(z) = log 1/(N B) sum_j q(z|x_j): minibatch-weighted
    sampling, eq. S2, which couples the examples of a batch. The three terms add up to log q(z|x) - log p(z).

    Args:
        key, x, q, decode, prior, num_samples, kl: as in `elbo_fn`. The key is consumed.
        beta: weight of the total correlation TC.
        num_examples: N, the size of the training set; None: B.
        gather: brings `[b, ...]` of this device to `[B, ...]` of all devices; None for one device.

    Returns:
        The objective `[B]` and the terms of the bound, nats per example.

    Raises:
        ValueError: q is no diagonal Gaussian, or the prior is not the standard normal.

    Source: Chen et al. (2018), eq. 4.
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


@objective
def mmd(key, x, q, decode, prior=None, num_samples=1, *, kl="auto", beta=0.0, mmd=10.0, num_examples=None, gather=None):
    """E_q log p(x|z) - beta KL(q || p) - mmd MMD^2(q(z), p(z)), the MMD between the batch and draws of the prior.

    beta = 0 is the Wasserstein autoencoder of Tolstikhin et al. (2018); beta = 1 - alpha and mmd = alpha + lambda - 1
    the InfoVAE. The MMD couples the examples of a batch.

    Args:
        key, x, q, decode, prior, num_samples, kl: as in `elbo_fn`. The key is consumed.
        beta: weight of the KL.
        mmd: weight of the squared MMD.
        num_examples: not used.
        gather: brings `[b, ...]` of this device to `[B, ...]` of all devices; None for one device.

    Returns:
        The objective `[B]` and the terms of the bound, nats per example.

    Raises:
        ValueError: z is several arrays; when it is differentiated with respect to the logits of a `NormalMixture`
            prior, of which draws have no gradient.

    Source: Zhao et al. (2019), eq. 6.
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


@objective
def autoencoder(key, x, q, decode, prior=None, num_samples=1, *, kl="auto", code: float = 0.0):
    """log p(x|z) - code |z|^2 / 2 at z = q.mean: an autoencoder, or with code > 0 the regularized RAE-L2.

    The bound of such a q is minus infinity, so no ELBO and no KL are reported.

    Args:
        x, decode: as in `elbo_fn`.
        q: a distribution with a `mean` `[B, Z]`.
        key, prior, num_samples, kl: not used.
        code: weight of the code's squared length.

    Returns:
        The objective `[B]` and an `Elbo` with log_likelihood, log_lik and z, nats per example.

    Raises:
        TypeError: a q without a mean, a flow.

    Source: Ghosh et al. (2020), eq. 6.
    """
    if not hasattr(q, "mean"):
        raise TypeError(f"an autoencoder decodes the mean of q, and {type(q).__name__} has none: use Dirac")
    z = q.mean[None]
    log_lik = checked_log_prob("decode(z)", decode(z), x, (1, len(q.mean)), 1)
    reconstruction = log_lik.mean(0)
    terms = Elbo(None, reconstruction, None, None, None, None, log_lik, z)  # pyright: ignore[reportArgumentType]
    return reconstruction - 0.5 * code * (q.mean**2).sum(-1), terms
