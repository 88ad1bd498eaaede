"""A training step beside the machine's own matrix products and beside other libraries.

    python benchmarks/training.py                                     # needs pip install -e '.[bench]'
    python benchmarks/training.py --network=table1 --batch=512 --only=ours,products_xla,products_numpy

MNIST-shaped binary images, one stochastic layer, Adam, float32, batches in the order of a fresh permutation. Every
contender is a process of its own, at its best setting (side_by_side.py); a round is so many steps of each. `ours` is
the program that a run compiles, its metrics included; `dynamic` the same with the images binarized anew in every step.
The products alone are those of the model, forward and backward, at the same shapes, with nothing between them.
"""

import argparse
import sys

import numpy as np
from networks import NETWORKS, binary_images, shapes, training_flop
from side_by_side import Contender, deliver, ratio, serve, take_turns

COUNT = 59_904  # images: 468 batches of 128, 117 of 512
STEPS = {"flax": 1 / 20, "pythae": 1}  # a slow contender makes a part of the steps


def ours(network, batch, binarization="none"):
    """This project: the compiled steps of a run."""
    import jax

    from vae_jax.commands import configuration
    from vae_jax.data.splits import Split, assemble
    from vae_jax.parallel import devices
    from vae_jax.training import program as program_module
    from vae_jax.training import setup as setups

    config = configuration.default()
    config.data.binarization = binarization
    config.model.hidden, config.model.latent_dim, config.model.activation = NETWORKS[network]
    config.train.batch_size = batch
    config = configuration.validate(config)
    image = binary_images(COUNT).reshape(-1, 28, 28, 1)
    grey = image * np.random.default_rng(1).integers(1, 256, image.shape, np.uint8)
    image, value_range = (grey, (0.0, 255.0)) if binarization == "dynamic" else (image, (0.0, 1.0))
    dataset = assemble("synthetic", Split(image), Split(image[:1]), Split(image[:1]), {}, value_range)
    setup = setups.make_setup(config, 1, dataset)
    program, arrays = program_module.make_program(setup), program_module.training_data(setup)
    hyper = devices.put_replicated(setup.mesh, setups.hyperparameters(config))
    state = setups.make_init(setup)()

    def run(steps):
        nonlocal state
        state, metrics = program(steps)(hyper, state, arrays)
        jax.block_until_ready(metrics)

    return run


def products_xla(network, batch):
    """The model's matrix products by XLA, one scan of them; the weights of the next step are the gradients of this."""
    import jax
    import jax.numpy as jnp

    def step(weights, _):
        inputs, h = [], x
        for weight in weights:
            h = h[:, : weight.shape[0]]  # an encoder emits mean and log std, a decoder takes z
            inputs.append(h)
            h = h @ weight
        gradients, g = [], h
        for number in reversed(range(len(weights))):
            gradients.append(inputs[number].T @ g)
            if number:
                g = g @ weights[number].T
                g = jnp.pad(g, ((0, 0), (0, weights[number - 1].shape[1] - g.shape[1])))
        return gradients[::-1], None

    x = jnp.asarray(binary_images(batch), jnp.float32)
    weights = [jnp.zeros(shape) for shape in shapes(network)]
    repeated = jax.jit(lambda weights, steps: jax.lax.fori_loop(0, steps, lambda _, w: step(w, None)[0], weights))
    return lambda steps: jax.block_until_ready(repeated(weights, steps))


def products_numpy(network, batch):
    """The same products by NumPy's BLAS, into arrays that are there already."""
    layers = shapes(network)
    make = lambda *shape: np.ones(shape, np.float32)
    forward = [(make(batch, i), make(i, o), make(batch, o)) for i, o in layers]
    backward = [(make(batch, i), make(batch, o), make(i, o)) for i, o in layers]

    def run(steps):
        for _ in range(steps):
            for x, weight, y in forward:
                np.matmul(x, weight, out=y)
            for number, (x, g, gradient) in enumerate(backward):
                np.matmul(x.T, g, out=gradient)
                if number:
                    np.matmul(g, forward[number][1].T, out=x)

    return run


def dynamic(network, batch):
    return ours(network, batch, "dynamic")


def peer(name):
    def make(network, batch):
        import peers

        return peers.TRAINING[name](network, batch, binary_images(COUNT))

    return make


CONTENDERS = {
    "ours": ours,
    "dynamic": dynamic,
    "products_xla": products_xla,
    "products_numpy": products_numpy,
    **{name: peer(name) for name in ("torch", "torch_compile", "pythae", "flax", "flax_jit")},
}


def compare(network, batch, names, rounds, steps):
    """Seconds of a step of each contender in every round."""
    own = [f"--network={network}", f"--batch={batch}"]
    count = lambda name: max(1, round(steps * STEPS.get(name, 1)))
    command = lambda name: [sys.executable, __file__, f"--contender={name}", *own]
    return take_turns([Contender(name, command(name), count(name), warm_up=2) for name in names], rounds)


def report(network, batch, times, out):
    flop, names = batch * training_flop(network), list(times)
    products = [name for name in names if name.startswith("products")]
    fastest = min(products, key=lambda name: np.median(times[name]), default=None)
    rows, results = [], {"network": network, "batch": batch, "seconds": times, "ratios": {}}
    for name in names:
        step = float(np.median(times[name]))
        slower = ratio(times, name, "ours")
        share = 100 * ratio(times, fastest, name)[0] if fastest else float("nan")
        results["ratios"][name] = {"to_ours": slower, "percent_of_products": share}
        spread = f"{slower[0]:.2f} ({slower[1]:.2f} to {slower[2]:.2f})"
        rows.append(
            (
                name,
                f"{1e3 * step:.2f}",
                f"{step * (COUNT // batch):.2f}",
                f"{flop / step / 1e9:.0f}",
                spread,
                f"{share:.0f} %",
            )
        )
    print(f"{network}, batch {batch}, median of {len(times[names[0]])} rounds")
    heads = ("", "ms/step", "s/epoch", "GFLOP/s", "time over ours", "of the products")
    deliver("training", heads, rows, results, out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="mlp")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=117, help="of each contender in a round")
    parser.add_argument("--only", default=",".join(CONTENDERS), help="contenders, the first of them ours")
    parser.add_argument("--out", help="FILE.json for all times")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.contender:
        serve(CONTENDERS[flags.contender](flags.network, flags.batch))
        return
    names = flags.only.split(",")
    report(flags.network, flags.batch, compare(flags.network, flags.batch, names, flags.rounds, flags.steps), flags.out)


if __name__ == "__main__":
    main()
