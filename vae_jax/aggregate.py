"""What the latents of a whole data set look like together: the aggregate posterior, and what can be read off the codes.

    q(z) = 1/N sum_j q(z|x_j)
    E_x KL(q(z|x) || p(z)) = I_q(x; z) + KL(q(z) || p(z))          Hoffman and Johnson (2016), eq. 8

I_q, the information about which of the N examples z belongs to, cannot exceed log N: N goes with the number.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vae_jax.distributions import kl_of_dimensions
from vae_jax.elbo import draw
from vae_jax.evaluate import in_chunks, summarize
from vae_jax.inference import fold_in_each

AGGREGATE = 32  # what an example's key is used for here
TOGETHER = 16  # draws whose density under every example's q is computed at once
NEIGHBOURS = 5
ACTIVE_KL = 1e-2  # nats: a dimension is active if its mean KL is above this


def mixture_numbers(model, params, examples, config, spread):
    """I_q(x; z) and KL(q(z) || p(z)), from one draw for each example that has rows; nats."""
    everyone = jax.tree.map(jnp.asarray, examples["rows"])
    function = lambda chunk: log_densities(model, params, chunk, everyone)
    own, mixture, prior = in_chunks(function, examples, config.chunk_rows, spread)
    unit = f"nats, at most log {len(own)} = {np.log(len(own)):.2f}"
    numbers = {"mutual_information": summarize(own - mixture, unit)}
    if not model.conditional:
        numbers["kl_aggregate"] = summarize(mixture - prior)
    return numbers


@partial(jax.jit, static_argnums=0)
def log_densities(model, params, chunk, everyone):
    """log q(z|x), log q(z), log p(z) `[B]` at one draw of each example's q; `everyone` are the rows of all N."""
    q_all, count = model.make_q(params, everyone), len(jax.tree.leaves(everyone)[0])
    keys = fold_in_each(chunk["key"], AGGREGATE)
    z, log_q = draw(keys, model.make_q(params, chunk["rows"]), 1)

    def log_mixture(z):
        copies = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), z)
        return jax.nn.logsumexp(q_all.log_prob(copies)) - jnp.log(count)

    mixture = jax.lax.map(log_mixture, jax.tree.map(lambda leaf: leaf[0], z), batch_size=TOGETHER)
    return log_q[0], mixture, model.prior(params, chunk.get("condition")).log_prob(z)[0]


def mean_kl(model, params, examples, config, spread):
    """E_x KL(q(z_j|x) || p(z_j)) of each dimension `[Z]`, nats; None unless q and p are diagonal Gaussians."""

    def each(chunk):
        return kl_of_dimensions(model.make_q(params, chunk["rows"]), model.prior(params, chunk.get("condition")))

    first = jax.tree.map(lambda leaf: leaf[:1], examples)
    if jax.eval_shape(each, first) is None:
        return None
    return in_chunks(jax.jit(each), examples, config.chunk_rows, spread).mean(0)


def accuracies(train_mean, train_label, test_mean, test_label):
    """What a linear classifier and the nearest neighbours tell of the label from the code: shares of the test set."""
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
    """What `evaluate.all_numbers` does not measure of a split whose examples have rows and means of q."""
    kl = mean_kl(model, params, examples, config, spread)
    if kl is None or not len(kl):
        return {}
    return {"active_units_kl": {"value": int((kl > ACTIVE_KL).sum()), "stderr": None, "unit": f"of {len(kl)}"}}
