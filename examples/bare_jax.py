"""elbo_fn in a project of bare jax.numpy: parameters are a dict, networks are functions of them.

python examples/bare_jax.py
"""

import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

from vae_jax import Bernoulli, Normal, elbo_fn

LATENT, WIDTH, BATCH = 8, 64, 100


def digits():
    """Scikit-learn's 1,797 handwritten digits, 8x8, black and white: 1,500 to train on, 297 held out."""
    x = (load_digits().data > 7).astype("float32")
    return x[:1500], x[1500:]


def init(key, dim):
    sizes = {"hidden": (dim, WIDTH), "mean": (WIDTH, LATENT), "log_std": (WIDTH, LATENT)}
    sizes |= {"generate": (LATENT, WIDTH), "logits": (WIDTH, dim)}
    keys = dict(zip(sizes, jax.random.split(key, len(sizes)), strict=True))
    glorot = jax.nn.initializers.glorot_uniform()
    return {name: {"w": glorot(keys[name], size), "b": jnp.zeros(size[1])} for name, size in sizes.items()}


def dense(layer, h):
    return h @ layer["w"] + layer["b"]


def encode(params, x):
    """q(z|x) for x `[B, D]`."""
    h = jnp.tanh(dense(params["hidden"], x))
    return Normal(dense(params["mean"], h), dense(params["log_std"], h))


def decode(params, z):
    """p(x|z) for z `[K, B, Z]`."""
    return Bernoulli(dense(params["logits"], jnp.tanh(dense(params["generate"], z))))


def elbo(params, key, x, num_samples=1):
    """The bound of each example `[B]`, nats."""
    return elbo_fn(key, x, encode(params, x), lambda z: decode(params, z), num_samples=num_samples).elbo


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
    """Prints the bound on held-out digits before and after training; returns both and the parameters."""
    x, x_test = map(jnp.asarray, digits())
    start = init(jax.random.key(0), x.shape[1])
    params = train(start, jax.random.key(1), x, steps, optax.adam(3e-3))
    measure = jax.jit(lambda params: elbo(params, jax.random.key(2), x_test, num_samples=20).mean())
    before, after = float(measure(start)), float(measure(params))
    print(f"ELBO of held-out digits: {before:.2f} nats before training, {after:.2f} after {steps} steps")
    return before, after, params


if __name__ == "__main__":
    main()
