"""Annealed importance sampling of log p(x), from below, and its reverse, from above.

    f_beta(z) = start(z)^(1 - beta) p(x, z)^beta,   0 = beta_0 < ... < beta_T = 1       Neal (2001), eq. 3
    log w     = sum_t (beta_t - beta_{t-1}) [log p(x, z_{t-1}) - log start(z_{t-1})]
    z_0 ~ start,   z_t ~ a Hamiltonian transition from z_{t-1} that leaves f_{beta_t} invariant

E[w] = p(x) exactly, so log 1/K sum_k w_k is a lower bound on log p(x) in expectation. That needs transitions that do
not depend on the chains they move: step sizes are tuned on pilot chains with keys of their own, then frozen, where the
published codes adapt them on the very chains that they weight. The reverse run begins at an exact draw of p(z|x), known
for simulated data, and walks back: E[1/w] = 1/p(x), so -log 1/K sum_k 1/w_k is an upper bound in expectation. The two
together are bidirectional Monte Carlo: Grosse, Ghahramani and Adams (2015).

What is sampled is `target(example) -> (start, log_joint)` for one example, any pytree: `start` is a normalized
distribution over one z, with batch shape () or (1,), and log_joint(z [Z]) = log p(x|z) + log p(z). Everything is in
nats. B examples, K chains, T temperatures; each example has its own keys and step sizes, so chunks change no number.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.mcmc import hmc
from jax.random import fold_in

from vae_jax.keys import Use
from vae_jax.objectives.elbo import importance_bound
from vae_jax.objectives.importance import effective_sample_size

TARGET_ACCEPTANCE = 0.65  # Neal (2011), section 4.4, and both published codes
GAIN = 0.2  # of the pilot's log step size on its excess acceptance: settles within about ten transitions
FIRST_STEP = 1.0  # of the pilot: a little high, since it falls faster than it rises
SMOOTHING = 5  # pilot temperatures over which a step size is averaged
WARM_UP = 30  # pilot transitions at the first temperature, before any that counts
STRETCHES = 10  # of the path, over each of which an acceptance rate is reported


class Annealing(NamedTuple):
    """How the path is walked; hashable, to be a static argument of a compiled program."""

    num_chains: int  # K, weighted
    num_temperatures: int  # T
    num_leapfrog: int  # leapfrog steps, that is decoder gradients, of a transition
    schedule: str  # a name in SCHEDULES
    pilot_chains: int
    pilot_temperatures: int


class Ais(NamedTuple):
    """An estimate of log p(x) for each example, and what shows whether to believe it."""

    log_px: jax.Array  # [B] a lower bound in expectation, or from `reverse` an upper one
    ess: jax.Array  # [B] effective sample size of the K weights
    acceptance: jax.Array  # [B, STRETCHES] over chains and stretches of the path, from beta = 0 to 1
    z: jax.Array  # [B, K, Z] where the chains end: after a forward run close to draws of p(z|x)


class Ends(NamedTuple):
    """Values [] and gradients [Z] of log start and log p(x, z) at one z: all that any temperature asks of it."""

    log_start: jax.Array
    log_joint: jax.Array
    start_grad: jax.Array
    joint_grad: jax.Array

    def value(self, beta):
        return (1 - beta) * self.log_start + beta * self.log_joint

    def gradient(self, beta):
        return (1 - beta) * self.start_grad + beta * self.joint_grad


def sigmoidal(t, delta=4.0):
    """beta_t for t in [0, 1]: small steps at both ends. Grosse, Ghahramani and Adams (2015), section 7; delta = 4."""
    low, high = jax.nn.sigmoid(-delta), jax.nn.sigmoid(delta)
    return (jax.nn.sigmoid(delta * (2 * t - 1)) - low) / (high - low)


SCHEDULES = {"linear": lambda t: t, "sigmoidal": sigmoidal}


def temperatures(schedule, count):
    """beta_0 = 0, ..., beta_T = 1, `[T + 1]`."""
    return SCHEDULES[schedule](jnp.arange(count + 1) / count).at[-1].set(1.0)


def tune(keys, examples, target, settings):
    """Log step sizes for each example along the path, `[B, pilot_temperatures]`, from pilot chains made for that alone.

    log step += GAIN (acceptance - 0.65) after each temperature, then smoothed. Keys `[B]` may be those of `estimate`.
    """
    betas = temperatures(settings.schedule, settings.pilot_temperatures)[1:]
    warm_up = jnp.full(WARM_UP, betas[0])

    def one(key, example):
        chains = start_chains(fold_in(key, Use.AIS_PILOT), example, target, settings.pilot_chains)

        def move(carry, beta):
            chains, log_step = carry
            chains, acceptance = transition(chains, example, target, beta, jnp.exp(log_step), settings.num_leapfrog)
            log_step += GAIN * (acceptance.mean() - TARGET_ACCEPTANCE)
            return (chains, log_step), log_step

        _, log_steps = jax.lax.scan(move, (chains, jnp.log(FIRST_STEP)), jnp.concatenate([warm_up, betas]))
        return smooth(log_steps[WARM_UP:])

    return jax.vmap(one)(keys, examples)


def smooth(values):
    """Moving average over 2 SMOOTHING + 1 entries of `[T]`, fewer at the ends."""
    window = jnp.ones(2 * SMOOTHING + 1)
    padded = lambda array: jnp.convolve(jnp.pad(array, SMOOTHING), window, mode="valid")
    return padded(values) / padded(jnp.ones_like(values))


def estimate(keys, examples, target, log_steps, settings):
    """log p(x) of each example from K weighted chains that walk from `start` to p(x, z): `Ais`, a lower bound.

    keys `[B]` are consumed. log_steps: from `tune`, or any `[B, n]` that these keys had no part in.
    """

    def one(key, example, log_steps):
        chains = start_chains(fold_in(key, Use.AIS_RUN), example, target, settings.num_chains)
        return anneal(chains, example, target, log_steps, settings)

    return jax.vmap(one)(keys, examples, log_steps)


def reverse(keys, examples, z, target, log_steps, settings):
    """log p(x) from K chains that walk back from `z` `[B, Z]`, an exact draw of p(z|x): `Ais`, an upper bound.

    One exact draw serves all K chains: their weights are no longer independent, but each still has mean 1/p(x).
    """

    def one(key, example, z, log_steps):
        keys = chain_keys(fold_in(key, Use.AIS_REVERSE), settings.num_chains)
        chains = (keys, *evaluate_chains(jnp.tile(z, (settings.num_chains, 1)), example, target))
        result = anneal(chains, example, target, log_steps, settings, backwards=True)
        return result._replace(log_px=-result.log_px, acceptance=result.acceptance[::-1])

    return jax.vmap(one)(keys, examples, z, log_steps)


def anneal(chains, example, target, log_steps, settings, backwards=False):
    """`Ais` of one example, whose chains move along the path, or back; log_px is log 1/K sum_k w_k of this walk.

    A temperature's step takes up its part of log p(x, z) - log start(z) in the weight before the transition on the way
    to p(x, z), after it on the way back: the reverse run is the forward run, step by step undone.
    """
    betas = temperatures(settings.schedule, settings.num_temperatures)
    steps = jnp.exp(along_path(log_steps, settings.num_temperatures))
    path = (betas[1:], steps, jnp.diff(betas))
    path = jax.tree.map(jnp.flip, path) if backwards else path

    def move(carry, now):
        chains, log_w = carry
        beta, step, change = now
        log_w += 0 if backwards else change * log_ratio(chains)
        chains, acceptance = transition(chains, example, target, beta, step, settings.num_leapfrog)
        log_w -= change * log_ratio(chains) if backwards else 0
        return (chains, log_w), acceptance.mean()

    (chains, log_w), acceptance = jax.lax.scan(move, (chains, jnp.zeros(settings.num_chains)), path)
    return Ais(importance_bound(log_w), effective_sample_size(log_w), stretches(acceptance), chains[1])


def log_ratio(chains):
    _, _, ends = chains
    return ends.log_joint - ends.log_start


def stretches(values):
    """Means of `[T]` over STRETCHES parts of it, or over each value where there are fewer."""
    parts = min(STRETCHES, len(values))
    part = jnp.arange(len(values)) * parts // len(values)
    total, count = (jax.ops.segment_sum(v, part, parts) for v in (values, jnp.ones_like(values)))
    return total / count


def along_path(log_steps, count):
    """`[n]` pilot values -> `[count]`, by linear interpolation in t."""
    t = (jnp.arange(count) + 1) / count
    return jnp.interp(t, (jnp.arange(len(log_steps)) + 1) / len(log_steps), log_steps)


def start_chains(key, example, target, num_chains):
    """Chains at draws from `start`: (keys [K], z [K, Z], ends [K]). The key is consumed."""
    start, _ = target(example)
    z = start.sample(fold_in(key, num_chains), (num_chains,)).reshape(num_chains, -1)
    return (chain_keys(key, num_chains), *evaluate_chains(z, example, target))


def evaluate_chains(z, example, target):
    return z, jax.vmap(lambda z: evaluate(z, example, target))(z)


def evaluate(z, example, target):
    """`Ends` at z [Z]: the one place that asks for the decoder and its gradient."""
    start, log_joint = target(example)
    log_start = lambda z: start.log_prob(z[None]).sum()  # one number, whether the batch shape is () or (1,)
    (start_value, start_grad), (joint_value, joint_grad) = (jax.value_and_grad(f)(z) for f in (log_start, log_joint))
    return Ends(start_value, joint_value, start_grad, joint_grad)


def transition(chains, example, target, beta, step, num_leapfrog) -> tuple[Any, Any]:
    """One Hamiltonian transition of every chain, by blackjax's kernel; (chains, acceptance probability [K])."""
    kernel = hmc.build_kernel(leapfrog(lambda z: evaluate(z, example, target), beta))

    unused = lambda z: 0.0  # the integrator carries values and gradients itself

    def one(key, z, ends):
        now, later = jax.random.split(key)
        state = hmc.HMCState(z, ends.value(beta), ends)
        state, info = kernel(now, state, unused, step, jnp.ones_like(z), num_leapfrog)
        return (later, state.position, state.logdensity_grad), info.acceptance_rate

    return jax.vmap(one)(*chains)


def leapfrog(evaluate, beta):
    """A leapfrog integrator for `blackjax.hmc.build_kernel` that carries `Ends` where blackjax's carries one gradient.

    The values and gradients of both ends then come with the chain: a new temperature, and the weight, cost no pass
    through the decoder. blackjax's own integrator would need one gradient more for each transition, and the weight one
    value: measured on the 784-200-200-50 decoder, 1.30 times the time with 5 leapfrog steps and 1.14 times with 10.
    """

    def integrator(logdensity_fn, kinetic_energy):
        def one_step(state, step_size):
            momentum = state.momentum + 0.5 * step_size * state.logdensity_grad.gradient(beta)
            z = state.position + step_size * jax.grad(kinetic_energy)(momentum)
            ends = evaluate(z)
            momentum = momentum + 0.5 * step_size * ends.gradient(beta)
            return type(state)(z, momentum, ends.value(beta), ends)

        return one_step

    return integrator


def chain_keys(key, num_chains):
    return jax.vmap(lambda k: fold_in(key, k))(jnp.arange(num_chains))
