"""NLL(5000) of the Table 1 model beside the matrix products it needs, and beside pythae's `get_nll`.

    python benchmarks/evaluation.py                                  # needs pip install -e '.[bench]'
    python benchmarks/evaluation.py --only=ours,products             # without PyTorch

A round of `ours` estimates log p(x) of so many images through `bounds.likelihood_numbers`, as the end of a run does;
`products` decodes as many z by its matrix products alone, in blocks of the same size; pythae's model has networks of
the same widths. Times are for one image; what 10,000 images take is 10,000 times that. Memory: the peak of the
resident set of a process of its own while it estimates, above what it was before.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from networks import NETWORKS, binary_images, decoding_flop, shapes
from per_datapoint import resident
from side_by_side import Contender, deliver, ratio, serve, take_turns

from vae_jax.keys import split_keys

NETWORK, SAMPLES, CHUNK = "table1", 5000, 2500
IMAGES = {"pythae": 1}  # in a round; the others take --images


def ours():
    """The importance-sampled log p(x) of a model as initialized: values differ from a trained one's, work does not."""
    import jax

    from vae_jax.commands import configuration
    from vae_jax.data.splits import Info
    from vae_jax.evaluation import bounds
    from vae_jax.evaluation.examples import with_q_params
    from vae_jax.models.model import make_model
    from vae_jax.parallel.devices import ONE_DEVICE

    config = configuration.default()
    config.model.hidden, config.model.latent_dim, config.model.activation = NETWORKS[NETWORK]
    config.eval.num_samples, config.eval.chunk_images = SAMPLES, CHUNK
    config = configuration.validate(config)
    info = Info("synthetic", (28, 28, 1), 100, 0, (0.0, 1.0), None)
    model = make_model(config, info)
    image = binary_images(1000).reshape(-1, 28, 28, 1).astype(np.float32)
    params, _ = model.init(jax.random.key(0), image)

    def run(count):
        examples = {"image": image[:count], "key": split_keys(0, "test", count)}
        examples = with_q_params(model, params, examples, config, ONE_DEVICE)
        quiet = lambda done: None
        bounds.likelihood_numbers(model, params, examples, config.eval, ONE_DEVICE, quiet)

    return run


def products():
    """The decoder's products for CHUNK z at a time, by XLA."""
    import jax
    import jax.numpy as jnp

    layers = shapes(NETWORK)
    weights = [jnp.ones(shape) for shape in layers[len(layers) // 2 :]]

    def block(_, z):
        h = z
        for weight in weights:
            h = h @ weight
        return z + h[:, : z.shape[1]]  # so that no block can be left out

    decode = jax.jit(lambda z, blocks: jax.lax.fori_loop(0, blocks, block, z))
    z = jnp.zeros((CHUNK, layers[len(layers) // 2][0]))
    return lambda count: jax.block_until_ready(decode(z, count * SAMPLES // CHUNK))


def pythae():
    """pythae's `get_nll` at its best batch size of several tried."""
    import peers
    import torch

    model = peers.pythae_model(NETWORK).eval()
    images = torch.from_numpy(binary_images(100)).float()

    def run(count):
        with torch.no_grad():
            model.get_nll(images[:count], n_samples=SAMPLES, batch_size=1000)

    return run


CONTENDERS = {"ours": ours, "products": products, "pythae": pythae}


def peak_memory(images):
    """Bytes that the resident set of this process rises by while `ours` estimates."""
    run = ours()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    run(images)
    return resident("VmHWM") - before


def report(times, memory, out):
    flop, rows = SAMPLES * decoding_flop(NETWORK), []
    ratios = {name: ratio(times, name, "products") for name in times}
    for name, each in times.items():
        seconds = float(np.median(each))
        spread = "{:.2f} ({:.2f} to {:.2f})".format(*ratios[name])
        rows.append((name, f"{1e3 * seconds:.2f}", f"{1e4 * seconds:.0f}", f"{flop / seconds / 1e9:.0f}", spread))
    print(f"NLL({SAMPLES}), decoder of {NETWORK}; peak of memory above the start: {memory / 1e6:.0f} MB")
    heads = ("", "ms/image", "s for 10,000", "GFLOP/s", "time over the products")
    deliver("evaluation", heads, rows, {"seconds": times, "ratios": ratios, "peak_bytes": memory}, out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, default=100, help="in a round of ours")
    parser.add_argument("--only", default=",".join(CONTENDERS))
    parser.add_argument("--out", help="FILE.json for all times")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.memory:
        print(json.dumps(peak_memory(flags.images)))
        return
    if flags.contender:
        serve(CONTENDERS[flags.contender]())
        return
    memory = subprocess.run([sys.executable, __file__, "--memory"], check=True, capture_output=True, text=True).stdout
    command = lambda name: [sys.executable, __file__, f"--contender={name}"]
    names = flags.only.split(",")
    contenders = [Contender(name, command(name), IMAGES.get(name, flags.images)) for name in names]
    report(take_turns(contenders, flags.rounds), json.loads(memory.splitlines()[-1]), flags.out)


if __name__ == "__main__":
    main()
