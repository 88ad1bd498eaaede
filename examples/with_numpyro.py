"""elbo_fn for a NumPyro model: prior and likelihood are read from its sites, and q is a NumPyro distribution too.

pip install -e '.[test]'    # for NumPyro
python examples/with_numpyro.py

Any pair (q, prior) that NumPyro has a formula for gets its closed-form KL by `kl=dist.kl_divergence`.
"""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.handlers import seed, substitute, trace
from sklearn.datasets import load_digits

from vae_jax import elbo_fn

LATENT, WIDTH, BATCH = 8, 64, 100


def init(key, dim):
    sizes = {"hidden": (dim, WIDTH), "mean": (WIDTH, LATENT), "log_std": (WIDTH, LATENT)}
    sizes |= {"generate": (LATENT, WIDTH), "logits": (WIDTH, dim)}
    keys = dict(zip(sizes, jax.random.split(key, len(sizes)), strict=True))
    glorot = jax.nn.initializers.glorot_uniform()
    return {name: {"w": glorot(keys[name], size), "b": jnp.zeros(size[1])} for name, size in sizes.items()}


def dense(layer, h):
    return h @ layer["w"] + layer["b"]


def model(params):
    """The generative model of one image, as NumPyro writes it."""
    z = numpyro.sample("z", dist.Normal(jnp.zeros(LATENT), 1.0).to_event(1))
    logits = dense(params["logits"], jnp.tanh(dense(params["generate"], z)))
    numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1))


def site(name, params, values):
    """The distribution of a site of the model where other sites have the given values, say z `[K, B, Z]`."""
    return trace(substitute(seed(model, 0), values)).get_trace(params)[name]["fn"]


def encode(params, x):
    """q(z|x) for x `[B, D]`; without `.to_event(1)` elbo_fn would refuse it."""
    h = jnp.tanh(dense(params["hidden"], x))
    return dist.Normal(dense(params["mean"], h), jnp.exp(dense(params["log_std"], h))).to_event(1)


def elbo(params, key, x, num_samples=1):
    """The bound of each example `[B]`, nats."""
    prior, decode = site("z", params, {}), lambda z: site("x", params, {"z": z})
    return elbo_fn(key, x, encode(params, x), decode, prior, num_samples, kl=dist.kl_divergence).elbo


def train(params, key, x, steps, optimizer):
    """`steps` of stochastic gradient ascent on the bound, in one compiled loop."""

    def step(carry, key):
        params, state = carry
        batch_key, draw_key = jax.random.split(key)
        batch = x[jax.random.randint(batch_key, (BATCH,), 0, len(x))]
        gradient = jax.grad(lambda params: -elbo(params, draw_key, batch).mean())(params)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), None

    start = params, optimizer.init(params)
    (params, _), _ = jax.jit(lambda start, keys: jax.lax.scan(step, start, keys))(start, jax.random.split(key, steps))
    return params


def main(steps=1000):
    """Prints the bound on held-out digits before and after training; returns both."""
    x = jnp.asarray(load_digits().data > 7, "float32")
    x, x_test = x[:1500], x[1500:]
    start = init(jax.random.key(0), x.shape[1])
    params = train(start, jax.random.key(1), x, steps, optax.adam(3e-3))
    measure = jax.jit(lambda params: elbo(params, jax.random.key(2), x_test, num_samples=20).mean())
    before, after = float(measure(start)), float(measure(params))
    print(f"ELBO of held-out digits: {before:.2f} nats before training, {after:.2f} after {steps} steps")
    return before, after


if __name__ == "__main__":
    main()
