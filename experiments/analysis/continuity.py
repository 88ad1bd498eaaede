"""Whether what decodes between and beside the codes of images still looks like one: squared distances to real images.

    d(x) = min_n 1/D |x - x_n|^2        over the training images x_n, D elements each

No model is in here: codes `[N, Z]` in, points z `[P, Z]` out; images `[N, *event]` in, distances `[P]` out. d is small
for whatever is close to one image, and for a blur that is close to many: hold it against d of the same decoder's
reconstructions, not against another decoder's d alone.
"""

import numpy as np
from sklearn.metrics import pairwise_distances_argmin
from sklearn.neighbors import NearestNeighbors

COVERED = 0.95  # share of the codes that have another one as near as where codes are said to lie
CANDIDATES = 20  # points drawn for each one wanted where no code lies
PRIOR_REACH = 2.0  # standard deviations of a standard normal prior that are looked at, codes there or not


def nearest_distance(x, real):
    """d(x) of images x `[P, *event]` to the nearest of `real` `[N, *event]`: `[P]`, per element.

    |r|^2 - 2 x r finds the nearest; its distance is then computed anew, since that difference cancels for near ones.
    """
    x, real = (np.asarray(images, np.float32).reshape(len(images), -1) for images in (x, real))
    return ((x - real[pairwise_distances_argmin(x, real)]) ** 2).mean(-1)


def pairs(codes, count, seed):
    """Which codes to go halfway between, indices `[P, 2]`: up to `count` pairs at random, no code in two of them.

    Of a Z of 1 all neighbours on the line: two at random have others between them, and nothing new halfway.
    """
    if codes.shape[-1] == 1:
        order = np.argsort(codes[:, 0])
        return np.stack([order[:-1], order[1:]], axis=1)
    order = np.random.default_rng(seed).permutation(len(codes))
    count = min(count, len(codes) // 2)
    return order[: 2 * count].reshape(count, 2)


def empty(codes, count, seed, prior=False):
    """Up to `count` points where no code lies: uniform over an ellipsoid, those near a code left out.

    All in units of the codes' standard deviations along their principal axes, or the prior's where it is a standard
    normal and larger: so that neither scale nor rotation of z matters. The ellipsoid holds the codes, two standard
    deviations of that prior, and a quarter more; near is what 95 in 100 codes are to their nearest other.
    """
    center, (variance, axes) = codes.mean(0), np.linalg.eigh(np.cov(codes.T, bias=True).reshape(codes.shape[1], -1))
    scale = np.sqrt(np.maximum(variance, 0))
    scale = np.maximum(scale, 1) if prior else np.where(scale > 0, scale, 1)
    scaled = (codes - center) @ axes / scale
    neighbours = NearestNeighbors(n_neighbors=2).fit(scaled)
    near = np.quantile(neighbours.kneighbors(scaled)[0][:, 1], COVERED)
    radius = max(np.linalg.norm(scaled, axis=1).max(), PRIOR_REACH if prior else 0)
    radius += max(radius / 4, 2 * near, 1e-3)  # so that some of it is far from every code
    points = in_ball(np.random.default_rng(seed), CANDIDATES * count, codes.shape[1], radius)
    points = points[neighbours.kneighbors(points, 1)[0][:, 0] > near][:count]
    return (center + points * scale @ axes.T).astype(np.float32)


def in_ball(rng, count, dim, radius):
    """Points `[count, dim]` uniform over a ball around 0."""
    direction = rng.normal(size=(count, dim))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return radius * rng.uniform(size=(count, 1)) ** (1 / dim) * direction


def along(codes, num_codes, steps):
    """Of codes `[N, 1]`: the middle `num_codes` of the line, `[n]` indices in order, and the points `steps` to a gap.

    Points `[(n - 1) * steps + 1, 1]` go from the first of these codes to the last; every `steps`-th is a code.
    """
    order = np.argsort(codes[:, 0])
    first = max(0, (len(order) - num_codes) // 2)
    order = order[first : first + num_codes]
    place = np.arange((len(order) - 1) * steps + 1) / steps
    return order, np.interp(place, np.arange(len(order)), codes[order, 0]).astype(np.float32)[:, None]
