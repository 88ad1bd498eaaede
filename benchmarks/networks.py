"""The two networks of the benchmarks, and what their matrix products alone cost."""

import itertools

import numpy as np

PIXELS = 784
# name -> hidden widths, Z, activation
NETWORKS = {"mlp": ((500,), 20, "relu"), "table1": ((200, 200), 50, "tanh")}


def shapes(name):
    """(rows in, rows out) of every layer, encoder then decoder."""
    hidden, latent, _ = NETWORKS[name]
    encoder, decoder = (PIXELS, *hidden, 2 * latent), (latent, *hidden[::-1], PIXELS)
    return [pair for sizes in (encoder, decoder) for pair in itertools.pairwise(sizes)]


def training_flop(name):
    """Of the products for one example: forward, and twice as much backward less the gradient of the image."""
    layers = shapes(name)
    return 2 * (3 * sum(i * o for i, o in layers) - layers[0][0] * layers[0][1])


def decoding_flop(name):
    """Of the products to decode one z."""
    layers = shapes(name)
    return 2 * sum(i * o for i, o in layers[len(layers) // 2 :])


def binary_images(count, seed=0):
    """[count, 784] uint8 in {0, 1}, as sparse as MNIST."""
    return (np.random.default_rng(seed).random((count, PIXELS)) < 0.13).astype(np.uint8)
