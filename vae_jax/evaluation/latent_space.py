"""A latent space as arrays: which z to decode, which images are near, what the codes tell of the data.

Grids over the prior's quantiles, straight lines between two codes, walks along one dimension, draws of one image's
posterior, nearest images, principal components, probes. plotting/latent_space.py draws them.
"""

from functools import partial
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.distributions.basic import kl_of_dimensions
from vae_jax.evaluation.examples import entry, in_chunks, summarize
from vae_jax.keys import Use, fold_each
from vae_jax.objectives.elbo import draw

# scikit-learn is imported where it is used: training, which needs none of it, would start later by half a second

STEPS = 9  # of a line or a walk
REACH = 3.0  # standard deviations of the prior that a walk covers to either side


def quantile_grid(count):
    """z `[count^2, 2]` by rows, evenly spaced in the probability of a standard normal; z2 rises from bottom to top."""
    axis = np.array([NormalDist().inv_cdf((i + 0.5) / count) for i in range(count)], np.float32)
    return plane(axis, axis)


def code_grid(codes, count):
    """z `[count^2, 2]` by rows, evenly spaced in the quantiles of each dimension of the codes `[N, 2]`, like that."""
    return plane(*np.quantile(codes, (np.arange(count) + 0.5) / count, axis=0).T.astype(np.float32))


def plane(axis1, axis2):
    """Every pair of the two axes' values, z2 rising from bottom to top."""
    z1, z2 = np.meshgrid(axis1, axis2[::-1])
    return np.stack([z1.ravel(), z2.ravel()], axis=-1)


def lines(start, end, steps=STEPS):
    """Straight lines from start to end `[N, Z]`: `[N, steps, Z]`."""
    share = np.linspace(0, 1, steps, dtype=np.float32)[:, None]
    return (1 - share) * start[:, None] + share * end[:, None]


def walks(mean, dimensions, steps=STEPS, reach=REACH):
    """From one code `[Z]`, each of the dimensions in turn from -reach to reach: `[len(dimensions), steps, Z]`."""
    z = np.tile(mean, (len(dimensions), steps, 1)).astype(np.float32)
    for row, dimension in enumerate(dimensions):
        z[row, :, dimension] = np.linspace(-reach, reach, steps)
    return z


def most_used(mean, count):
    """The dimensions whose posterior means `[N, Z]` vary most over the data, the most varied first."""
    return np.argsort(-np.var(mean, axis=0))[:count]


@partial(jax.jit, static_argnums=(0, 3))
def posterior_draws(model, params, chunk, count):
    """The mean of p(x|z) at draws of z from each example's q: `[B, count, *event]`."""
    q = model.make_q(params, chunk["q_params"])
    z, _ = draw(fold_each(chunk["key"], Use.POSTERIOR), q, count)
    return jnp.swapaxes(model.decode(params, z, chunk.get("condition")).mean, 0, 1)


@partial(jax.jit, static_argnums=0)
def aggregate_draws(model, params, chunk):
    """One draw of z from each example's q, `[B, Z]`: draws of the aggregate posterior."""
    z, _ = draw(fold_each(chunk["key"], Use.POSTERIOR_DRAW), model.make_q(params, chunk["q_params"]), 1)
    return jax.tree.map(lambda leaf: leaf[0], z)


def nearest(queries, codes, count):
    """Which of the codes `[N, Z]` are nearest to each query `[Q, Z]`, nearest first: `[Q, count]`."""
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=count).fit(codes).kneighbors(queries, return_distance=False)


def principal(mean):
    """Codes `[N, Z]` on their two principal components, `[N, 2]`, and the shares of the variance these carry."""
    from sklearn.decomposition import PCA

    pca = PCA(2, svd_solver="full").fit(mean)
    return pca.transform(mean), pca.explained_variance_ratio_


ACTIVE = 1e-2  # a latent dimension is active if the variance over x of E_q[z|x] is above this; Burda et al. (2016), 5.2


def active_units(mean):
    """Latent dimensions that the data moves: Var_x(E_q[z|x]) > 0.01, from means [N, Z]. Burda et al. (2016), 5.2."""
    return int((np.var(mean, axis=0) > ACTIVE).sum())


TOGETHER = 16  # draws whose density under every example's q is computed at once
NEIGHBOURS = 5
ACTIVE_KL = 1e-2  # nats: a dimension is active if its mean KL is above this


def mixture_numbers(model, params, examples, config, spread):
    """I_q(x; z) and KL(q(z) || p(z)), from one draw for each example that has q_params; nats."""
    everyone = jax.tree.map(jnp.asarray, examples["q_params"])
    function = lambda chunk: log_densities(model, params, chunk, everyone)
    own, mixture, prior = in_chunks(function, examples, config.chunk_images, spread)
    unit = f"nats, at most log {len(own)} = {np.log(len(own)):.2f}"
    numbers = {"mutual_information": summarize(own - mixture, unit)}
    if not model.conditional:
        numbers["kl_aggregate"] = summarize(mixture - prior)
    return numbers


@partial(jax.jit, static_argnums=0)
def log_densities(model, params, chunk, everyone):
    """log q(z|x), log q(z), log p(z) `[B]` at one draw of each example's q; `everyone` are the q_params of all N."""
    q_all, count = model.make_q(params, everyone), len(jax.tree.leaves(everyone)[0])
    keys = fold_each(chunk["key"], Use.AGGREGATE)
    z, log_q = draw(keys, model.make_q(params, chunk["q_params"]), 1)

    def log_mixture(z):
        copies = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), z)
        return jax.nn.logsumexp(q_all.log_prob(copies)) - jnp.log(count)

    mixture = jax.lax.map(log_mixture, jax.tree.map(lambda leaf: leaf[0], z), batch_size=TOGETHER)
    return log_q[0], mixture, model.prior(params, chunk.get("condition")).log_prob(z)[0]


def mean_kl(model, params, examples, config, spread):
    """E_x KL(q(z_j|x) || p(z_j)) of each dimension `[Z]`, nats; None unless q and p are diagonal Gaussians."""

    def each(chunk):
        return kl_of_dimensions(model.make_q(params, chunk["q_params"]), model.prior(params, chunk.get("condition")))

    first = jax.tree.map(lambda leaf: leaf[:1], examples)
    if jax.eval_shape(each, first) is None:
        return None
    return in_chunks(jax.jit(each), examples, config.chunk_images, spread).mean(0)


def accuracies(train_mean, train_label, test_mean, test_label):
    """Shares of the test set whose label a linear classifier, and the nearest neighbours, read off the code."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probes = {
        "linear_probe_accuracy": LogisticRegression(max_iter=1000),
        "knn_accuracy": KNeighborsClassifier(NEIGHBOURS),
    }
    numbers = {}
    for name, probe in probes.items():
        fitted = make_pipeline(StandardScaler(), probe).fit(train_mean, train_label)
        right = fitted.predict(test_mean) == test_label
        numbers[name] = summarize(right, f"of test, {len(train_label):,} train")
    return numbers


def further_numbers(model, params, examples, config, spread):
    """How many dimensions carry a KL above ACTIVE_KL; none of it unless q and p are diagonal Gaussians."""
    kl = mean_kl(model, params, examples, config, spread)
    return {} if kl is None or not len(kl) else {"active_units_kl": entry(int((kl > ACTIVE_KL).sum()), f"of {len(kl)}")}
