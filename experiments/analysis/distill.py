"""An encoder for a model that was trained without one: it learns the q that a table stores, example by example.

    python experiments/analysis/distill.py RUN --out=NEW

RUN has inference.kind = per_datapoint. NEW is a run like any other, of kind amortized: its decoder and prior are RUN's,
its encoder minimizes the mean of KL(q_table || q_encoder) over the training images. What both find is printed.
"""

import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import several_runs
from ml_collections import ConfigDict

from vae_jax import console
from vae_jax.commands import configuration, train
from vae_jax.console import Parser, guarded
from vae_jax.distributions.basic import closed_form_kl
from vae_jax.errors import ConfigError
from vae_jax.runs import checkpoint, directory, files, load
from vae_jax.training import setup as setups
from vae_jax.training.train import log

EPOCHS, RATE = 50, 2e-3


def main(arguments=None):
    parser = Parser("python experiments/analysis/distill.py", __doc__)
    parser.add_argument("run", metavar="RUN", help="a finished run of inference.kind = per_datapoint")
    parser.add_argument("--out", required=True, type=Path, metavar="NEW", help="the directory of the new run")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the encoder's training")
    given = parser.parse_args(arguments)
    guarded(lambda: show(given.run, given.out, distill(given.run, given.out, given.epochs)))


def distill(source, out, epochs=EPOCHS):
    """Trains the encoder and measures it; the summary of the new run."""
    several_runs.measured(source)  # it is finished
    old, old_params = setups.reopen(source, num_devices=1)
    if old.model.has_encoder:
        raise ConfigError(f"{source} has an encoder already: give a run of inference.kind = per_datapoint")
    if out.exists():
        raise ConfigError(f"{out} is there already: give another --out")
    examples = setups.run_examples(old, old_params, "train", 0, setups.trained_table(old, source))
    setup = setups.make_setup(amortized(old.config, source, epochs), 1)
    state = setups.make_init(setup)()
    state = state._replace(params={**old_params, "encoder": state.params["encoder"]})
    with files.locked(out):
        run = train.begin(setup, out, 0)
        for epoch, (params, divergence, seconds) in enumerate(encoders(setup, state.params, examples), 1):
            log(run, epoch * setup.epoch_steps, "train", {"kl_to_table": divergence, "seconds": seconds})
            state = state._replace(params=params, step=jnp.int32(epoch * setup.epoch_steps))
        files.sync(out / directory.METRICS)
        checkpoint.save(out / load.CHECKPOINTS, int(state.step), state)
        return train.finish(run._replace(events=None), state, alone=False)


def amortized(config, source, epochs):
    """The configuration of the new run."""
    config = ConfigDict(config.to_dict())
    config.inference.kind, config.init_from = "amortized", str(source)
    config.train.update({"epochs": epochs, "select": "last", "log_every": 0})
    config.optimizer.ema = 0.0
    return configuration.validate(config)


def encoders(setup, params, examples):
    """After each epoch: (params, the mean KL over its batches in nats, seconds)."""
    batch, model, epochs = setup.config.train.batch_size, setup.model, setup.config.train.epochs
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, epochs * setup.epoch_steps))
    data = {name: jnp.asarray(examples[name]) for name in ("image", "condition") if name in examples}
    data |= {"q_params": jax.tree.map(jnp.asarray, examples["q_params"])}

    def loss(encoder, rows):
        found = model.encode({**params, "encoder": encoder}, rows["image"], rows.get("condition"))
        divergence = closed_form_kl(model.make_q(params, rows["q_params"]), model.make_q(params, found))
        if divergence is None:
            raise ConfigError(f"config.model.posterior = {setup.config.model.posterior} has no KL in closed form")
        return divergence.mean()

    def one(carry, rows):
        encoder, state = carry
        value, gradient = jax.value_and_grad(loss)(encoder, jax.tree.map(lambda array: array[rows], data))
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(encoder, updates), state), value

    epoch = jax.jit(partial(jax.lax.scan, one))
    carry, random = (params["encoder"], optimizer.init(params["encoder"])), np.random.default_rng(setup.config.seed)
    for _ in range(epochs):
        started = time.perf_counter()
        order = random.permutation(len(examples["image"]))[: batch * setup.epoch_steps]
        carry, values = epoch(carry, order.reshape(setup.epoch_steps, batch))
        yield {**params, "encoder": carry[0]}, float(values.mean()), time.perf_counter() - started


def show(source, out, summary):
    left = [record["kl_to_table"] for record in directory.read_metrics(out) if record["split"] == "train"]
    console.write(f"  KL of the table to the encoder: {left[-1]:.3f} nats")
    for name, splits in ((source, (directory.read_summary(source) or {})["splits"]), (out, summary["splits"])):
        numbers = [
            f"{split} ELBO {console.number(splits[split]['elbo'])}" for split in splits if "elbo" in splits[split]
        ]
        console.write(f"  {name}: " + ", ".join(numbers))
    console.write(f"report    {out / directory.REPORT}")


if __name__ == "__main__":
    main()
