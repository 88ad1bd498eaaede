"""A small model with a Bernoulli likelihood, its parts from this package and from NumPyro; the linear-Gaussian one."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from vae_jax.distributions import basic
from vae_jax.objectives.elbo import draw, elbo_fn

K, B, Z = 3, 4, 2
KEY = jax.random.key(42, impl="rbg")  # compiles three times as fast as the default, wherever one key serves a batch


def assert_close(left, right, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), left, right)


def standard_error(samples):
    return np.std(samples, 0, ddof=1) / math.sqrt(len(samples))


def decoder(weight, bias, sigma):
    """z -> p(x|z) = N(W z + b, sigma^2)."""
    return lambda z: basic.Normal(jnp.matmul(z, weight.T, precision="highest") + bias, jnp.log(sigma))


def posterior(model, shift=0.0, stretch=0.0):
    """q: the true posterior with its means moved by `shift` and its log stds by `stretch`; float64."""
    return basic.Normal(model.mean + shift, np.broadcast_to(model.log_std + stretch, model.mean.shape))


@partial(jax.jit, static_argnums=(3, 4))
def terms_of(x, q, parameters, num_samples, kl):
    return elbo_fn(KEY, x, q, decoder(*parameters), None, num_samples, kl=kl)


def linear_gaussian_terms(model, q, num_samples, kl="auto"):
    parameters = (model.weight, model.bias, model.sigma)
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, terms_of(model.x, q, parameters, num_samples, kl))


def our_q(rows):
    return basic.Normal(rows["mean"], rows["log_std"])


def their_q(rows):
    return dist.Normal(rows["mean"], jnp.exp(rows["log_std"])).to_event(1)


def our_prior(rows):
    return basic.Normal(rows["prior_mean"], rows["prior_log_std"])


def their_prior(rows):
    return dist.Normal(rows["prior_mean"], jnp.exp(rows["prior_log_std"])).to_event(1)


def logits(rows, z):
    return jnp.matmul(z, rows["weight"], precision="highest")


def our_decoder(rows):
    return lambda z: basic.Bernoulli(logits(rows, z))


def their_decoder(rows):
    return lambda z: dist.Bernoulli(logits=logits(rows, z)).to_event(1)


def normal_draw(q_mean, q_log_std, stop):
    return draw(KEY, basic.Normal(q_mean, q_log_std), K, stop)


class DistraxBernoulli:
    """Its methods' arguments as Distrax has them, and integers for z; it does not say that it has no path."""

    def __init__(self, logits):
        self.q = dist.Bernoulli(logits=logits).to_event(1)

    def sample(self, *, seed, sample_shape=()):
        return self.q.sample(seed, sample_shape)

    def sample_and_log_prob(self, *, seed, sample_shape=()):
        z = self.sample(seed=seed, sample_shape=sample_shape)
        return z, self.log_prob(z)

    def log_prob(self, value):
        return self.q.log_prob(value)


def twice(params):
    return jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), params)


# every way of differentiating or compiling a function of parameters; a shape is enough, since they raise when traced
TRANSFORMATIONS = {
    "grad": lambda loss, params: jax.grad(loss)(params),
    "jit": lambda loss, params: jax.jit(loss)(params),
    "jit of grad": lambda loss, params: jax.jit(jax.grad(loss))(params),
    "grad of jit": lambda loss, params: jax.grad(jax.jit(loss))(params),
    "vmap of grad": lambda loss, params: jax.eval_shape(jax.vmap(jax.grad(loss)), twice(params)),
    "grad of vmap": lambda loss, params: jax.eval_shape(jax.grad(lambda p: jax.vmap(loss)(p).sum()), twice(params)),
    "jit of vmap": lambda loss, params: jax.jit(jax.vmap(loss))(twice(params)),
    "jvp": lambda loss, params: jax.eval_shape(lambda p: jax.jvp(loss, (p,), (p,)), params),
    "scan": lambda loss, params: jax.eval_shape(
        jax.grad(lambda p: jax.lax.scan(lambda total, _: (total + loss(p), None), 0.0, length=2)[0]), params
    ),
    "checkpoint": lambda loss, params: jax.eval_shape(jax.grad(jax.checkpoint(loss)), params),
}
