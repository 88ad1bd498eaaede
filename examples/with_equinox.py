"""elbo_fn in an Equinox project: the model is a pytree of layers, and elbo_fn sees only the distributions it emits.

pip install -e '.[test]'    # for Equinox
python examples/with_equinox.py
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

from vae_jax import Bernoulli, Normal, elbo_fn

LATENT, WIDTH, BATCH = 8, 64, 100


class VAE(eqx.Module):
    hidden: eqx.nn.Linear
    mean: eqx.nn.Linear
    log_std: eqx.nn.Linear
    generate: eqx.nn.Linear
    logits: eqx.nn.Linear

    def __init__(self, key, dim):
        keys = jax.random.split(key, 5)
        self.hidden = eqx.nn.Linear(dim, WIDTH, key=keys[0])
        self.mean = eqx.nn.Linear(WIDTH, LATENT, key=keys[1])
        self.log_std = eqx.nn.Linear(WIDTH, LATENT, key=keys[2])
        self.generate = eqx.nn.Linear(LATENT, WIDTH, key=keys[3])
        self.logits = eqx.nn.Linear(WIDTH, dim, key=keys[4])

    def encode(self, x):
        """(mean, log_std) of q(z|x) for one x `[D]`: Equinox's layers take single examples, and vmap does the rest."""
        h = jnp.tanh(self.hidden(x))
        return self.mean(h), self.log_std(h)

    def decode(self, z):
        """The logits of p(x|z) for one z `[Z]`."""
        return self.logits(jnp.tanh(self.generate(z)))


def elbo(model, key, x, num_samples=1):
    """The bound of each example `[B]`, nats."""
    q = Normal(*jax.vmap(model.encode)(x))
    decode = lambda z: Bernoulli(jax.vmap(jax.vmap(model.decode))(z))  # over K samples of B examples
    return elbo_fn(key, x, q, decode, num_samples=num_samples).elbo


@eqx.filter_jit
def step(model, state, key, x, optimizer):
    """One step of stochastic gradient ascent on the bound."""
    batch_key, draw_key = jax.random.split(key)
    batch = x[jax.random.randint(batch_key, (BATCH,), 0, len(x))]
    gradient = eqx.filter_grad(lambda model: -elbo(model, draw_key, batch).mean())(model)
    updates, state = optimizer.update(gradient, state)
    return eqx.apply_updates(model, updates), state


def main(steps=1000):
    """Prints the bound on held-out digits before and after training; returns both."""
    x = jnp.asarray(load_digits().data > 7, "float32")
    x, x_test = x[:1500], x[1500:]
    model, optimizer = VAE(jax.random.key(0), x.shape[1]), optax.adam(3e-3)
    measure = eqx.filter_jit(lambda model: elbo(model, jax.random.key(2), x_test, num_samples=20).mean())
    before, state = float(measure(model)), optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    for key in jax.random.split(jax.random.key(1), steps):
        model, state = step(model, state, key, x, optimizer)
    after = float(measure(model))
    print(f"ELBO of held-out digits: {before:.2f} nats before training, {after:.2f} after {steps} steps")
    return before, after


if __name__ == "__main__":
    main()
