"""Images unlike the data, on which reconstruction errors show how special a model is to its data.

All are `[N, H, W]` or `[N, H, W, C]`, in the range of the test images that they are compared with, and binary if those
are.
"""

from itertools import pairwise

import numpy as np

STROKE = 4  # corners of a drawn stroke


def probes(images, seed):
    """{what it is: images like `images` `[N, H, W, ...]`}, the images themselves first; the same for each seed."""
    rng, images = np.random.default_rng(seed), np.asarray(images)
    low, high = images.min(), images.max()
    unit = {name: make(rng, images.shape) for name, make in DRAWN.items()}
    if np.isin(images, (low, high)).all():
        unit = {name: np.where(made > 0.5, 1.0, 0.0) for name, made in unit.items()}
    drawn = {name: (low + (high - low) * made).astype(images.dtype) for name, made in unit.items()}
    return {"test images": images, "upside down": images[:, ::-1], "pixels permuted": permuted(rng, images), **drawn}


def permuted(rng, images):
    """All pixels by one permutation, their channels together."""
    pixels = images.reshape(len(images), images.shape[1] * images.shape[2], -1)
    return pixels[:, rng.permutation(pixels.shape[1])].reshape(images.shape)


def noise(rng, shape):
    return rng.uniform(size=shape)


def constant(rng, shape):
    """One colour each."""
    return np.broadcast_to(colours(rng, shape), shape)


def colours(rng, shape):
    """`[N, 1, 1, ...]`."""
    return rng.uniform(size=(shape[0], 1, 1, *shape[3:]))


def checkerboard(rng, shape):
    """A colour and its complement in squares of an eighth of the height."""
    side = max(1, shape[1] // 8)
    rows, columns = np.indices(shape[1:3]) // side
    dark, colour = ((rows + columns) % 2).reshape(1, *shape[1:3], *[1] * len(shape[3:])), colours(rng, shape)
    return np.where(dark, colour, 1 - colour)


def stroke(rng, shape):
    """A line through a few random points, about a tenth of the height thick, white on black, its edges grey."""
    height, width = shape[1:3]
    pixels = np.moveaxis(np.indices((height, width)), 0, -1) + 0.5
    corners = rng.uniform(0.15, 0.85, (shape[0], STROKE, 2)) * (height, width)
    far = np.stack([line_distance(pixels, some) for some in corners])
    made = np.clip(0.05 * height + 0.5 - far, 0, 1)
    return np.broadcast_to(made.reshape(*made.shape, *[1] * len(shape[3:])), shape)


def line_distance(pixels, corners):
    """How far each pixel `[H, W, 2]` is from the line through the corners `[P, 2]`: `[H, W]`."""
    each = []
    for start, end in pairwise(corners):
        along = end - start
        share = np.clip((pixels - start) @ along / (along @ along), 0, 1)
        each.append(np.linalg.norm(pixels - start - share[..., None] * along, axis=-1))
    return np.min(each, axis=0)


DRAWN = {"uniform noise": noise, "constant colour": constant, "checkerboard": checkerboard, "drawn stroke": stroke}
