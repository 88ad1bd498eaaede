"""Our per-datapoint mode beside NumPyro's SVI on one model: the ELBO that each reaches, and how long it takes.

    python benchmarks/numpyro_svi.py     # needs pip install -e '.[test]'

1,400 binary digits, z ~ N(0, I), an MLP decoder, Bernoulli pixels; every image has a Gaussian q(z|x) of its own, from
mean 0 and std 1. `ours`: the program of a run, batches of 100. `local_guide`: SVI under plate(subsample_size=100), its
parameters indexed by the subsample. `auto_normal`: SVI over all images, a step an epoch. All: one draw of z, Adam at
RATE with a cosine, a closed-form KL, a compiled scan. First the decoder is an amortized run's and stays (our step takes
its gradient all the same, at a rate of 0), then it is learned too. All take turns; compiling and measuring is no time.
"""

import argparse
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer import SVI, TraceMeanField_ELBO, autoguide, init_to_value
from side_by_side import deliver

from vae_jax.commands import configuration
from vae_jax.evaluation import elbo_terms, with_entries
from vae_jax.keys import seed_keys
from vae_jax.parallel import devices
from vae_jax.training import setup as setups
from vae_jax.training.program import make_program, training_data

RATE, DECODER_RATE, FINAL = 0.1, 1e-3, 0.01  # of q's parameters, of the decoder's; what a cosine leaves of them
HEADS = "decoder", "ELBO, nats", "less ours", "s in all", "s to near", "over ours"
DRAWS, PART, NEAR = 100, 10, 0.1  # of z; epochs of a turn; nats below the lowest final ELBO, where times are taken


def make_setup(kind, epochs, num_train=0, hidden=(128, 128), latent_dim=10, batch_size=100):
    config = configuration.default()
    config.data.update({"name": "digits", "binarization": "fixed", "num_train": num_train})
    config.model.update({"hidden": hidden, "latent_dim": latent_dim})
    config.train.update({"batch_size": batch_size, "epochs": epochs})
    config.optimizer.update({"schedule": "cosine", "final_fraction": FINAL})
    config.inference.update({"kind": kind, "ascent": "adam", "inner_steps": 1, "learning_rate": RATE})
    return setups.make_setup(configuration.validate(config), 1)


def ours(setup, trained, examples):
    """(start, advance, fitted): steps of a run's own program, the decoder at a learning rate of 0 unless `trained`."""
    program, data, init = make_program(setup), training_data(setup), setups.make_init(setup)
    hyper = setups.hyperparameters(setup.config) | {"learning_rate": jnp.float32(DECODER_RATE * trained)}

    def start(seed, decoder):
        keys, state = dict(zip(("order", "noise"), seed_keys(seed)[1:], strict=True)), init(seed)
        params = state.params | {"decoder": jax.tree.map(jnp.copy, decoder)}  # a program takes its state's memory
        return devices.put_replicated(setup.mesh, hyper | keys), state._replace(params=params)

    advance = lambda carry, epochs: (carry[0], program(epochs * setup.epoch_steps)(*carry, data)[0])
    q_params = lambda carry: with_entries(examples, carry[1].table, *setup.sizes[1:])["q_params"]
    return start, advance, lambda carry: (carry[1].params["decoder"], q_params(carry))


def written(setup, trained, image, batch=None):
    """(model, guide) in NumPyro's language, `batch` images in a step or all."""
    zeros = jnp.zeros((len(image), setup.model.latent_dim))
    plate = lambda: numpyro.plate("images", len(image), subsample_size=batch)

    def model(x, decoder):
        weights = {"decoder": numpyro.param("decoder", decoder) if trained else decoder}
        with plate() as index:
            z = numpyro.sample("z", dist.Normal(zeros[0], 1.0).to_event(1))
            logits = setup.model.decode(weights, z[None]).logits[0]
            numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(x.ndim - 1), obs=x[index])

    def local_guide(x, decoder):
        mean, log_std = numpyro.param("mean", zeros), numpyro.param("log_std", zeros)
        with plate() as index:
            numpyro.sample("z", dist.Normal(mean[index], jnp.exp(log_std[index])).to_event(1))

    auto = autoguide.AutoNormal(model, init_loc_fn=init_to_value(values={"z": zeros}), init_scale=1.0)
    return model, local_guide if batch else auto


def svi(setup, trained, examples, batch=None):
    """(start, advance, fitted) by NumPyro."""
    image, epoch_steps = jnp.asarray(examples["image"]), setup.epoch_steps if batch else 1
    adam = lambda rate: optax.adam(optax.cosine_decay_schedule(rate, setup.config.train.epochs * epoch_steps, FINAL))
    kinds = lambda params: {name: "decoder" if name == "decoder" else "q" for name in params}
    rates = optax.multi_transform({"decoder": adam(DECODER_RATE), "q": adam(RATE)}, kinds)
    pair, optimizer = written(setup, trained, image, batch), numpyro.optim.optax_to_numpyro(rates)
    one = SVI(*pair, optimizer, TraceMeanField_ELBO())
    update = lambda decoder: lambda state, _: one.update(state, image, decoder)
    run = jax.jit(lambda decoder, state, n: jax.lax.scan(update(decoder), state, length=n)[0], static_argnums=2)

    def fitted(carry):
        decoder, found = carry[0], one.get_params(carry[1])
        q_params = {} if batch else {"mean": found["z_auto_loc"], "log_std": jnp.log(found["z_auto_scale"])}
        return found.pop("decoder", decoder), q_params or found

    start = lambda seed, decoder: (decoder, one.init(jax.random.key(seed), image, decoder))
    return start, lambda carry, epochs: (carry[0], run(*carry, epochs * epoch_steps)), fitted


def compare(trained, seeds, epochs, part=PART, **sizes):
    """Of each seed {contender: [(seconds so far, mean ELBO) after each part of the epochs]}."""
    setup = make_setup("per_datapoint", epochs, **sizes)
    examples, decoder = setups.split_of(setup, "train"), setups.make_init(setup)().params["decoder"]
    if not trained:
        start, advance, _ = ours(make_setup("amortized", epochs, **sizes), True, examples)
        decoder = advance(start(0, decoder), epochs)[1].params["decoder"]
    make = {"ours": ours, "local_guide": partial(svi, batch=setup.config.train.batch_size), "auto_normal": svi}
    made = {name: contender(setup, trained, examples) for name, contender in make.items()}
    for start, advance, _ in made.values():
        advance(advance(start(0, decoder), part), part)  # compiled, for a first state and for those that follow
    for seed in range(seeds):
        carry, found = {name: made[name][0](seed, decoder) for name in made}, {name: [] for name in made}
        for number in range(epochs // part):
            for name in list(made)[:: 1 if number % 2 else -1]:
                started = time.perf_counter()
                carry[name] = jax.block_until_ready(made[name][1](carry[name], part))
                seconds = time.perf_counter() - started + (found[name][-1][0] if found[name] else 0)
                weights, q_params = made[name][2](carry[name])
                terms = elbo_terms(setup.model, {"decoder": weights}, examples | {"q_params": q_params}, DRAWS)
                found[name].append((seconds, float(terms["elbo"].mean())))
        yield found


def summarize(runs):
    """Rows of a table from what `compare` yields: means and standard errors over seeds, a median of ratios."""
    spread = lambda values: f"{np.mean(values):.3f} ± {np.std(values, ddof=1) / len(values) ** 0.5:.3f}"
    last = {name: np.array([run[name][-1] for run in runs]) for name in runs[0]}  # [seeds, (seconds, ELBO)]
    goal = np.min([end[:, 1] for end in last.values()]) - NEAR
    times = {name: np.array([next(time for time, elbo in run[name] if elbo >= goal) for run in runs]) for name in last}
    for name, end in last.items():
        seconds = end[:, 0].mean(), times[name].mean(), np.median(times[name] / times["ours"])
        yield [name, spread(end[:, 1]), spread((end - last["ours"])[:, 1]), *(f"{value:.2f}" for value in seconds)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=200, help="of every contender")
    parser.add_argument("--seeds", type=int, default=3, help="runs of all contenders, two or more")
    parser.add_argument("--out", help="where the numbers go, JSON")
    flags = parser.parse_args()
    results = {kind: list(compare(kind == "learned", flags.seeds, flags.epochs)) for kind in ("frozen", "learned")}
    rows = [[f"{kind}: {name}", *rest] for kind, runs in results.items() for name, *rest in summarize(runs)]
    deliver("numpyro_svi", HEADS, rows, {"runs": results}, flags.out)


if __name__ == "__main__":
    main()
