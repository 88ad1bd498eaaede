"""Gaussians with correlations, mixtures of Gaussians, Gaussians in two layers, and the point mass they shrink to.

All follow protocol.py: `sample`, `log_prob`, for those that serve as q `sample_and_log_prob` with one key or a key for
each example, nats, and every parameter a leaf. Correlations are relative to the scales, z = mean + sigma *
(...), so they are numbers without units, and a closed-form KL is the diagonal Gaussian's plus a remainder.
"""

import jax
import jax.numpy as jnp

from vae_jax.distributions.basic import (
    CLOSED_FORM_KL,
    LOG_2PI,
    Normal,
    StandardNormal,
    kl_standard_normal,
    normal_log_prob,
    standard_normal,
    std_from_log,
    sum_event,
)
from vae_jax.distributions.protocol import Shape, distribution, refuse_gradient, typed


@distribution("mean", "log_std", "lower")
class FullNormal:
    """N(mean, L L^T) with L = diag(sigma) (I + lower), the Cholesky factor; z `[K, B, Z]`.

    sigma = exp(log_std) is the diagonal of L, so log det L = sum log_std.

    Attributes:
        mean: `[B, Z]`.
        log_std: `[B, Z]`.
        lower: `[B, Z, Z]`, of which only the elements below the diagonal are used.
    """

    mean: jax.Array
    log_std: jax.Array
    lower: jax.Array

    def sample(self, key: jax.Array, sample_shape: Shape = ()) -> jax.Array:
        """Draws `[*sample_shape, B, Z]`. The key is consumed."""
        return self.sample_and_log_prob(key, sample_shape)[0]

    def sample_and_log_prob(
        self, key: jax.Array, sample_shape: Shape = (), antithetic: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Draws and their log densities, computed from the noise of the draw. The key is consumed."""
        eps = standard_normal(key, sample_shape, self.mean.shape, antithetic)
        correlated = eps + jnp.einsum("...ij,...j->...i", jnp.tril(self.lower, -1), eps)
        return self.mean + std_from_log(self.log_std) * correlated, standard_log_prob(eps, self.log_std)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log densities in nats, `[..., Z]` -> `[...]`."""
        whitened = whiten(value, self.mean, self.log_std)
        factor = jnp.broadcast_to(jnp.tril(self.lower, -1), (*whitened.shape, whitened.shape[-1]))
        kind = {"left_side": True, "lower": True, "unit_diagonal": True}
        eps = jax.lax.linalg.triangular_solve(factor, whitened[..., None], **kind)
        return standard_log_prob(eps[..., 0], self.log_std)


@distribution("mean", "log_std", "factor")
class LowRankNormal:
    """N(mean, S (I + U U^T) S) with S = diag(sigma): R directions beside a diagonal; z `[K, B, Z]`.

    Densities cost R^3 + Z R, by Woodbury's identity. U and -U give the same density, so the gradient at U = 0 is 0:
    start from a random U.

    Attributes:
        mean: `[B, Z]`.
        log_std: log sigma, `[B, Z]`.
        factor: U, `[B, Z, R]`.
    """

    mean: jax.Array
    log_std: jax.Array
    factor: jax.Array

    def sample(self, key: jax.Array, sample_shape: Shape = ()) -> jax.Array:
        """Draws `[*sample_shape, B, Z]`. The key is consumed."""
        return self.sample_and_log_prob(key, sample_shape)[0]

    def sample_and_log_prob(
        self, key: jax.Array, sample_shape: Shape = (), antithetic: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Draws and their log densities. The key is consumed."""
        *batch, width, rank = self.factor.shape
        eps, eta = jnp.split(standard_normal(key, sample_shape, (*batch, width + rank), antithetic), [width], axis=-1)
        whitened = eps + jnp.einsum("...ir,...r->...i", self.factor, eta)
        return self.mean + std_from_log(self.log_std) * whitened, self.whitened_log_prob(whitened)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log densities in nats, `[..., Z]` -> `[...]`."""
        return self.whitened_log_prob(whiten(value, self.mean, self.log_std))

    def whitened_log_prob(self, y):
        """log N(y; 0, I + U U^T) - sum log_std:  y^T (I + U U^T)^-1 y = |y|^2 - |C^-1 U^T y|^2,  C C^T = I + U^T U."""
        cholesky = self.cholesky()
        projected = jnp.einsum("...ir,...i->...r", self.factor, y)
        factor = jnp.broadcast_to(cholesky, (*projected.shape, projected.shape[-1]))
        inside = jax.lax.linalg.triangular_solve(factor, projected[..., None], left_side=True, lower=True)[..., 0]
        return standard_log_prob(y, self.log_std) + 0.5 * (inside**2).sum(-1) - half_log_det(cholesky)

    def cholesky(self):
        """C of C C^T = I + U^T U, `[B, R, R]`."""
        products = jnp.einsum("...ir,...is->...rs", self.factor, self.factor)
        return jnp.linalg.cholesky(jnp.eye(self.factor.shape[-1]) + products)


def whiten(value, mean, log_std):
    """(value - mean) / sigma, kept so small that its square is a float32 number: no inf - inf later."""
    return jax.lax.clamp(-1e18, (value - mean) * std_from_log(-log_std), 1e18)


def standard_log_prob(eps, log_std):
    """log N(eps; 0, I) - sum log_std, `[..., Z]` -> `[...]`."""
    return sum_event(-0.5 * (eps**2 + LOG_2PI) - log_std, 1)


def half_log_det(cholesky):
    """1/2 log det of C C^T."""
    return jnp.log(jnp.diagonal(cholesky, axis1=-2, axis2=-1)).sum(-1)


def kl_full_standard(q, p):
    """1/2 (|L|^2 + |mean|^2 - Z) - sum log_std: the diagonal KL and what lies below the diagonal of L."""
    below = (std_from_log(q.log_std)[..., None] * jnp.tril(q.lower, -1)) ** 2
    return kl_standard_normal(q.mean, q.log_std) + 0.5 * below.sum((-2, -1))


def kl_low_rank_standard(q, p):
    """The diagonal KL, 1/2 |S U|^2 more and 1/2 log det(I + U^T U) less."""
    more = (std_from_log(q.log_std)[..., None] * q.factor) ** 2
    return kl_standard_normal(q.mean, q.log_std) + 0.5 * more.sum((-2, -1)) - half_log_det(q.cholesky())


CLOSED_FORM_KL[FullNormal, StandardNormal] = kl_full_standard
CLOSED_FORM_KL[LowRankNormal, StandardNormal] = kl_low_rank_standard


@distribution("logits", "mean", "log_std", has_rsample=False)
class NormalMixture:
    """sum_c pi_c N(mean_c, sigma_c^2), the same for all examples; z `[..., Z]`.

    Attributes:
        logits: log pi up to a constant, `[C]`.
        mean: of each component, `[C, Z]`.
        log_std: of each component, `[C, Z]`.
    """

    logits: jax.Array
    mean: jax.Array
    log_std: jax.Array

    def sample(self, key: jax.Array, sample_shape: Shape = ()) -> jax.Array:
        """Draws `[*sample_shape, Z]`; their gradient with respect to the logits is refused. The key is consumed."""
        which, noise = jax.random.split(key)
        c = jax.random.categorical(which, refuse_gradient(self.logits, "NormalMixture"), shape=sample_shape)
        eps = jax.random.normal(noise, (*sample_shape, self.mean.shape[-1]))
        return self.mean[c] + std_from_log(self.log_std[c]) * eps

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Log densities in nats, `[..., Z]` -> `[...]`."""
        return jax.nn.logsumexp(jax.nn.log_softmax(self.logits) + self.component_log_prob(value), axis=-1)

    def component_log_prob(self, value):
        """log N(value; mean_c, sigma_c^2) `[..., C]`; for more than FEW components its gradient by matrix products."""
        if len(self.logits) <= FEW:
            return normal_log_prob(self.mean, self.log_std, value[..., None, :])
        # sum (z - m)^2 a = z^2 . a - 2 z . (a m) + m^2 . a with a = 1 / sigma^2: products of matrices, whose gradient
        # takes a hundredth of the time. They round at 1e-7 |z / sigma|^2, so the value is that of the left side.
        center = jax.lax.stop_gradient(self.mean.mean(0))
        z, mean = value - center, self.mean - center
        log_std = jax.lax.clamp(-30.0, self.log_std, 87.0)  # a precision whose products are float32 numbers
        precision = std_from_log(-2 * log_std)
        product = lambda a, b: jnp.einsum("...z,cz->...c", a, b, precision="highest")
        products = product(z**2, precision) - 2 * product(z, mean * precision) + (mean**2 * precision).sum(-1)
        # summed over the last axis but one, which a processor does for many components at once
        exact = (((value[..., None] - self.mean.T) * std_from_log(-log_std).T) ** 2).sum(-2)
        squares = jax.lax.stop_gradient(exact) + (products - jax.lax.stop_gradient(products))
        return -0.5 * (squares + LOG_2PI * z.shape[-1]) - log_std.sum(-1)


FEW = 32  # components whose densities are differentiated one by one


@distribution("mean", has_density=False, density_anywhere=False)
class Dirac:
    """All mass at one point: an autoencoder's code. It has no density, and so no bound, KL or log p(x).

    Attributes:
        mean: the point, `[B, Z]`.
    """

    mean: jax.Array

    def sample(self, key: jax.Array, sample_shape: Shape = ()) -> jax.Array:
        """Draws `[*sample_shape, B, Z]`. The key is consumed."""
        return jnp.broadcast_to(self.mean, (*sample_shape, *self.mean.shape))


@distribution("lower", "upper")
class TwoLayerPosterior:
    """q(z1|x) q(z2|z1); z is {'z1': `[K, B, Z1]`, 'z2': `[K, B, Z2]`}.

    Attributes:
        lower: q(z1|x).
        upper: z1 -> q(z2|z1), a Normal.

    Source: Burda et al. (2016), section 2.
    """

    lower: Normal
    upper: jax.tree_util.Partial

    def sample(self, key: jax.Array, sample_shape: Shape = ()) -> dict[str, jax.Array]:
        """Draws `[*sample_shape, B, ...]` of both layers. The key is consumed."""
        return self.sample_and_log_prob(key, sample_shape)[0]

    def sample_and_log_prob(
        self, key: jax.Array, sample_shape: Shape = (), antithetic: bool = False
    ) -> tuple[dict[str, jax.Array], jax.Array]:
        """Draws of both layers and their log densities. The key is consumed."""
        key = typed(key)
        low_key, high_key = (jax.vmap(jax.random.split, out_axes=1) if key.ndim else jax.random.split)(key)
        z1, log_q1 = self.lower.sample_and_log_prob(low_key, sample_shape, antithetic)
        upper = self.upper(z1)
        # with a key for each example: the noise of an example may not depend on the others
        eps = standard_normal(high_key, sample_shape, upper.mean.shape[len(sample_shape) :], antithetic)
        log_q2 = standard_log_prob(eps, upper.log_std)
        return {"z1": z1, "z2": upper.mean + std_from_log(upper.log_std) * eps}, log_q1 + log_q2

    def log_prob(self, value: dict[str, jax.Array]) -> jax.Array:
        """Log densities in nats, of both layers, `[...]`."""
        return self.lower.log_prob(value["z1"]) + self.upper(value["z1"]).log_prob(value["z2"])


@distribution("lower", static=("dim",))
class TwoLayerPrior:
    """p(z2) p(z1|z2) with p(z2) = N(0, I); z is {'z1': `[..., Z1]`, 'z2': `[..., Z2]`}.

    Attributes:
        lower: z2 -> p(z1|z2), a Normal.
        dim: Z2.

    Source: Burda et al. (2016), section 2.
    """

    lower: jax.tree_util.Partial
    dim: int

    def sample(self, key: jax.Array, sample_shape: Shape = ()) -> dict[str, jax.Array]:
        """Draws `[*sample_shape, ...]` of both layers. The key is consumed."""
        high_key, low_key = jax.random.split(key)
        z2 = StandardNormal((self.dim,)).sample(high_key, sample_shape)
        return {"z1": self.lower(z2).sample(low_key), "z2": z2}

    def log_prob(self, value: dict[str, jax.Array]) -> jax.Array:
        """Log densities in nats, of both layers, `[...]`."""
        return StandardNormal((self.dim,)).log_prob(value["z2"]) + self.lower(value["z2"]).log_prob(value["z1"])
