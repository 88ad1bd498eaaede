"""elbo_fn in a Flax NNX project: modules that hold their parameters, differentiated by nnx.grad.

python examples/with_nnx.py
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from sklearn.datasets import load_digits

from vae_jax import Bernoulli, Normal, elbo_fn

LATENT, WIDTH, BATCH = 8, 64, 100


class VAE(nnx.Module):
    def __init__(self, dim, rngs):
        self.hidden = nnx.Linear(dim, WIDTH, rngs=rngs)
        self.mean = nnx.Linear(WIDTH, LATENT, rngs=rngs)
        self.log_std = nnx.Linear(WIDTH, LATENT, rngs=rngs)
        self.generate = nnx.Linear(LATENT, WIDTH, rngs=rngs)
        self.logits = nnx.Linear(WIDTH, dim, rngs=rngs)

    def encode(self, x):
        """q(z|x) for x `[B, D]`."""
        h = jnp.tanh(self.hidden(x))
        return Normal(self.mean(h), self.log_std(h))

    def decode(self, z):
        """p(x|z) for z `[K, B, Z]`."""
        return Bernoulli(self.logits(jnp.tanh(self.generate(z))))


def elbo(model, key, x, num_samples=1):
    """The bound of each example `[B]`, nats."""
    return elbo_fn(key, x, model.encode(x), model.decode, num_samples=num_samples).elbo


@nnx.jit
def step(model, optimizer, key, x):
    """One step of stochastic gradient ascent on the bound, in place."""
    batch_key, draw_key = jax.random.split(key)
    batch = x[jax.random.randint(batch_key, (BATCH,), 0, len(x))]
    gradient = nnx.grad(lambda model: -elbo(model, draw_key, batch).mean())(model)
    optimizer.update(model, gradient)


def main(steps=1000):
    """Prints the bound on held-out digits before and after training; returns both."""
    x = jnp.asarray(load_digits().data > 7, "float32")
    x, x_test = x[:1500], x[1500:]
    model = VAE(x.shape[1], nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)
    measure = nnx.jit(lambda model: elbo(model, jax.random.key(2), x_test, num_samples=20).mean())
    before = float(measure(model))
    for key in jax.random.split(jax.random.key(1), steps):
        step(model, optimizer, key, x)
    after = float(measure(model))
    print(f"ELBO of held-out digits: {before:.2f} nats before training, {after:.2f} after {steps} steps")
    return before, after


if __name__ == "__main__":
    main()
