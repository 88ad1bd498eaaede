"""What fits of q leave, in nats, and how long they take: natural gradients beside Adam, with the same draws and steps.

    python benchmarks/fits.py                  # linear-Gaussian models, whose best q is known
    python benchmarks/fits.py --workdir=RUN    # test images of a trained run, against the best fit found

Linear-Gaussian: 64 examples x = W z + sigma eps of 128 dimensions, W drawn from N(0, 1); the best diagonal Gaussian for
each x is known. Fits begin at q = N(0, I), with config.fit as it is by default. Adam has the rates of config.fit too,
once with b2 = 0.95 and once with 0.999. A second fit is timed: the first compiles.
"""

import argparse
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vae_jax import console
from vae_jax.commands import configuration
from vae_jax.distributions.basic import Normal, StandardNormal
from vae_jax.evaluation.examples import fit_from
from vae_jax.evaluation.shortfall import make_runner, mean_log_weight
from vae_jax.keys import Use, split_keys
from vae_jax.models.fits import by_optimizer, natural
from vae_jax.models.inference import zero_q_params
from vae_jax.models.model import Model
from vae_jax.training import setup as setups

ASCENTS = {
    "natural": natural(),
    "adam 0.95": by_optimizer(optax.adam(1.0, b2=0.95)),
    "adam 0.999": by_optimizer(optax.adam(1.0)),
}
WIDTH, COUNT, DRAWS = 128, 64, 200


def linear_model(dim):
    return Model(
        init=None,
        infer=None,
        start_q_params=lambda keys: zero_q_params({"mean": (dim,), "log_std": (dim,)}, keys),
        make_q=lambda params, q_params: Normal(q_params["mean"], q_params["log_std"]),
        encode=None,
        decode=lambda params, z, condition=None: Normal(z @ params["weight"].T, params["log_sigma"], 1),
        prior=lambda params, condition=None: StandardNormal((dim,)),
    )


def linear_world(dim, sigma, width=WIDTH, count=COUNT, seed=0):
    """x = W z + sigma eps with dense W; by NumPy in float64 what the best diagonal q is for each x.

    p(z|x) = N(mean, P^-1) with P = I + W'W / sigma^2; of diagonal q, N(mean, diag(1 / P_jj)) has the least KL to it.
    """
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(width, dim))
    x = rng.normal(size=(count, dim)) @ weight.T + sigma * rng.normal(size=(count, width))
    precision = np.eye(dim) + weight.T @ weight / sigma**2
    mean = np.linalg.solve(precision, weight.T @ x.T / sigma**2).T

    def shortfall(q_params):
        """max L - L[q] of diagonal q, `[B]`."""
        off, log_std = np.asarray(q_params["mean"], float) - mean, np.asarray(q_params["log_std"], float)
        quadratic = np.exp(2 * log_std) @ np.diag(precision) + np.einsum("bi,ij,bj->b", off, precision, off)
        return 0.5 * (quadratic - dim - np.log(np.diag(precision)).sum()) - log_std.sum(-1)

    params = {"weight": jnp.asarray(weight, jnp.float32), "log_sigma": jnp.float32(np.log(sigma))}
    return SimpleNamespace(x=np.float32(x), params=params, mean=mean, precision=precision, shortfall=shortfall)


def timed_fit(model, params, examples, fit):
    """The q_params of a second fit, on the host, and its seconds for 1,000 examples."""
    run = make_runner(model, params, 2500)
    once = lambda: run("", Use.EVAL_FIT, fit_from, examples, fit, images=fit.num_samples)["q_params"]
    once()
    start = time.perf_counter()
    return once(), (time.perf_counter() - start) * 1000 / len(examples["key"])


def linear_rows(fit):
    for dim in (2, 20, 50):
        for sigma in (1, 0.3, 0.1, 0.03, 0.01):
            world = linear_world(dim, sigma)
            keys = split_keys(0, "test", COUNT)
            cells = []
            for ascent in ASCENTS.values():
                model = linear_model(dim)._replace(ascent=ascent)
                examples = {"image": world.x, "key": keys, "q_params": model.start_q_params(keys)}
                q_params, _ = timed_fit(model, world.params, examples, fit)
                cells.append(f"{world.shortfall(q_params).mean():.4f}")
            yield (str(dim), f"{sigma}", *cells)


def run_rows(workdir, count, fit):
    """Of a run's test images: L of each fit less that of the best for each image, and seconds for 1,000 images."""
    setup, params = setups.reopen(workdir)
    examples = setups.split_of(setup, "test", count)
    examples = {name: examples[name] for name in ("image", "key", "condition") if name in examples}
    examples["q_params"] = jax.device_get(setup.model.start_q_params(examples["key"]))
    bounds, seconds = [], []
    for ascent in ASCENTS.values():
        q_params, taken = timed_fit(setup.model._replace(ascent=ascent), jax.device_get(params), examples, fit)
        run = make_runner(setup.model, params, 2500)
        bounds.append(mean_log_weight(run, "", Use.CHECK_REPORT, {**examples, "q_params": q_params}, DRAWS))
        seconds.append(f"{taken:.1f} s")
    short = np.max(bounds, 0) - bounds
    errors = short.std(1, ddof=1) / np.sqrt(len(short[0]))
    yield ("nats left", *(console.measured(float(a), float(b)) for a, b in zip(short.mean(1), errors, strict=True)))
    yield ("1,000 images", *seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", default="")
    parser.add_argument("--num_examples", type=int, default=100)
    args = parser.parse_args()
    fit = configuration.validate(configuration.default()).fit
    if args.workdir:
        table = [("", *ASCENTS), *run_rows(args.workdir, args.num_examples, fit)]
    else:
        table = [("Z", "sigma", *ASCENTS), *linear_rows(fit)]
    print("\n".join(console.columns(table)), flush=True)


if __name__ == "__main__":
    main()
