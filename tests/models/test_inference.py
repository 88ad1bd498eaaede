"""Three ways to q(z|x) against what is known: closed-form optima, finite differences, arithmetic by hand."""

from functools import cache, partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import linear_worlds
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from vae_jax.commands import configuration
from vae_jax.distributions.basic import Normal, StandardNormal
from vae_jax.evaluation import examples
from vae_jax.evaluation.examples import bound
from vae_jax.keys import Use, example_keys, fold_each
from vae_jax.models import networks
from vae_jax.models.fits import make_ascent, natural
from vae_jax.models.inference import INFERENCES, STARTS, clip_each, natural_rate, refine, zero_q_params
from vae_jax.models.model import Model, make_model
from vae_jax.objectives import regularized
from vae_jax.objectives.elbo import elbo_fn
from vae_jax.objectives.loss import make_loss, paired
from vae_jax.training import step

Z, DIM, SIGMA, NUM_EXAMPLES = 2, 4, 0.8, 8
HEADS = {"mean": (Z,), "log_std": (Z,)}


# ---- a linear-Gaussian world, where the best diagonal q is known


def make_world(rotated):
    """x = W z + b + sigma eps, and by NumPy in float64 what the best diagonal q and its ELBO are, per example.

    The posterior is N(m, P^-1) with P = I + W'W / sigma^2 and m = P^-1 W'(x - b) / sigma^2. Of all diagonal q,
    N(m, diag(1 / P_jj)) has the least KL to it, which is (sum_j log P_jj - log det P) / 2: none where W has orthogonal
    columns, so that the posterior is itself diagonal.
    """
    rng = np.random.default_rng(7)
    weight = np.linalg.qr(rng.normal(size=(DIM, Z)))[0] * [1.5, 0.7]
    if rotated:
        weight = weight @ [[np.cos(0.7), np.sin(0.7)], [-np.sin(0.7), np.cos(0.7)]]
    bias = rng.normal(size=DIM)
    x = bias + rng.normal(size=(NUM_EXAMPLES, Z)) @ weight.T + SIGMA * rng.normal(size=(NUM_EXAMPLES, DIM))
    precision = np.eye(Z) + weight.T @ weight / SIGMA**2
    mean = np.linalg.solve(precision, weight.T @ (x - bias).T / SIGMA**2).T
    covariance = weight @ weight.T + SIGMA**2 * np.eye(DIM)
    mahalanobis = np.einsum("bi,ij,bj->b", x - bias, np.linalg.inv(covariance), x - bias)
    log_px = -0.5 * (mahalanobis + np.linalg.slogdet(2 * np.pi * covariance)[1])

    def elbo(rows):
        """log p(x) - KL(q || p(z|x)) of any diagonal q, [B]."""
        difference, var = np.asarray(rows["mean"], float) - mean, np.exp(2 * np.asarray(rows["log_std"], float))
        quadratic = np.einsum("bi,ij,bj->b", difference, precision, difference)
        log_det = np.linalg.slogdet(precision)[1]
        return log_px - 0.5 * (var @ np.diag(precision) + quadratic - Z - log_det - np.log(var).sum(-1))

    log_std = np.broadcast_to(-0.5 * np.log(np.diag(precision)), mean.shape)
    best = {"mean": mean, "log_std": log_std}
    return SimpleNamespace(x=x, weight=weight, bias=bias, log_px=log_px, elbo=elbo, best=best)


@pytest.fixture(scope="module", params=[False, True], ids=["diagonal", "rotated"])
def world(request):
    return make_world(request.param)


def test_the_world_is_what_it_says(world):
    """The best diagonal q reaches log p(x) in the diagonal case, and is 0.09 nats short of it in the rotated one."""
    slack = world.log_px - world.elbo(world.best)
    np.testing.assert_allclose(slack, slack[0], atol=1e-12)
    assert abs(slack[0]) < 1e-12 or slack[0] > 0.09
    rng = np.random.default_rng(0)
    for _ in range(20):
        moved = {name: value + 0.1 * rng.normal(size=value.shape) for name, value in world.best.items()}
        assert (world.elbo(moved) < world.elbo(world.best)).all()


REFINEMENT = {"steps": 3, "natural_rate": 0.2, "learning_rate": 2e-2, "momentum": 0.5, "clip_norm": 5.0}


ONE_FOR_ALL = networks.constant(partial(zero_q_params, HEADS))


def linear_model(kind):
    """A linear encoder or one q for all, and the world's decoder, whose weights are parameters too."""

    def encode(params, x, condition=None):
        if kind == "constant":
            return ONE_FOR_ALL.apply(params["encoder"], x)
        encoder = params["encoder"]
        mean = x @ encoder["weight"] + encoder["bias"]
        return {"mean": mean, "log_std": jnp.broadcast_to(encoder["log_std"], mean.shape)}

    def decode(params, z, condition=None):
        mean = z @ params["decoder"]["weight"].T + params["decoder"]["bias"]
        return Normal(mean, jnp.full_like(mean, jnp.log(SIGMA)))

    make_q = lambda params, rows: Normal(rows["mean"], rows["log_std"])
    ascent, settings = natural(), REFINEMENT | {"ascent": "natural", "stop_gradient": False}
    infer = INFERENCES[kind].make(encode, make_q, ascent, SimpleNamespace(**settings))
    prior = lambda params, condition=None: StandardNormal((Z,))
    return Model(None, infer, partial(STARTS["zeros"], HEADS), make_q, encode, decode, prior)


def linear_params(world, kind):
    encoder = {"weight": jnp.zeros((DIM, Z)), "bias": jnp.zeros(Z), "log_std": jnp.zeros(Z)}
    encoder = ONE_FOR_ALL.init(jax.random.key(0)) if kind == "constant" else encoder
    return {"encoder": encoder, "decoder": {"weight": jnp.asarray(world.weight), "bias": jnp.asarray(world.bias)}}


@cache
def linear_training(kind, num_steps=2000):
    """(start, run): run(state, batch) makes `num_steps` of the training step, the decoder frozen by its optimizer."""
    model = linear_model(kind)
    frozen = {"encoder": optax.adam(1.0), "decoder": optax.set_to_zero()}
    optimizer = optax.multi_transform(frozen, {"encoder": "encoder", "decoder": "decoder"})
    rate = lambda hyper, step: 0.03 * 0.5 * (1 + jnp.cos(jnp.pi * step / num_steps))
    rates = lambda hyper, step, number: (0.1, rate(hyper, step))
    objective = partial(regularized.elbo, num_samples=16)
    updates = step.TableUpdates(model.ascent, objective, rates) if kind == "per_datapoint" else None
    train_step = step.make_train_step(model, optimizer, objective, learning_rate=rate, table_updates=updates)

    def start(params):
        table = model.start_q_params(jax.random.split(jax.random.key(0), NUM_EXAMPLES))
        local = step.Table(table, model.ascent.init(table)) if updates else ()
        return step.State(jnp.int32(0), params, optimizer.init(params), (), local)

    @jax.jit
    def run(state, batch):
        one = lambda state, _: (train_step(jax.random.key(1), {"objective": {}}, state, batch)[0], None)
        return jax.lax.scan(one, state, length=num_steps)[0]

    return model, start, run


@pytest.mark.parametrize("kind", INFERENCES)
def test_every_way_finds_the_best_q(kind, world):
    """Trained with the decoder known and frozen, the q of every example is within 0.01 nats of the best.

    A linear encoder can represent that best q here. Where the posterior is diagonal, the ELBO is then log p(x). One q
    for all is at best the average of their means with their scale: the ELBO is quadratic in the mean, of one curvature.
    """
    model, start, run = linear_training(kind)
    index = jnp.arange(NUM_EXAMPLES)
    batch = {"image": jnp.asarray(world.x, jnp.float32), "index": index, "slot": index}
    state = start(linear_params(world, kind))
    trained = run(state, batch)

    def q_params_of(state):
        bound = examples.bound(model, state.params, batch, num_samples=64)
        keys = example_keys(jax.random.key(2), index, Use.TRAIN_REFINE)
        return model.infer(state.params, step.q_params_of(state.table), keys, batch, bound)

    worth, best = world.elbo, world.best
    if kind == "constant":
        worth = lambda q_params: world.elbo(q_params).mean()
        best = best | {"mean": np.broadcast_to(best["mean"].mean(0), best["mean"].shape)}
        assert world.elbo(world.best).mean() - worth(best) > 0.1
    assert (worth(best) - worth(q_params_of(state)) > 0.1).all(), "the start must not be the answer"
    gap = worth(best) - worth(q_params_of(trained))
    assert gap.min() > -1e-5 and gap.max() < 0.01, gap
    for before, after in zip(*(jax.tree.leaves(s.params["decoder"]) for s in (state, trained)), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("sigma", [1, 0.1, 0.03])
def test_a_table_follows_a_likelihood_of_any_sharpness(sigma):
    """As a run updates it by default: 40 visits of 5 updates, of 2 draws each, from zeros, the decoder frozen. Nothing
    is tuned to sigma: 0.04 nats are left on the average, 0.09 at most, of each. (Single, unpaired draws: 3 and 18.)
    """
    world = linear_worlds.make_world(8, 32, sigma)
    model = linear_worlds.model_of("normal", 8)._replace(infer=INFERENCES["per_datapoint"].make(None, None, None, None))
    rates = lambda hyper, step, number: (natural_rate(0.5, number), 0.01)
    updates = step.TableUpdates(model.ascent, paired(regularized.elbo, 2, stopped=True), rates, 5)
    train_step = step.make_train_step(model, optax.set_to_zero(), regularized.elbo, table_updates=updates)
    index = jnp.arange(len(world.x))
    batch = {"image": jnp.float32(world.x), "index": index, "slot": index}
    table = model.start_q_params(jax.random.split(jax.random.key(0), len(index)))
    state = step.State(jnp.int32(0), world.params, optax.EmptyState(), (), step.Table(table, model.ascent.init(table)))
    one = lambda state, _: (train_step(jax.random.key(1), {"objective": {}}, state, batch)[0], None)
    state = jax.jit(lambda state: jax.lax.scan(one, state, length=40)[0])(state)
    shortfall = world.shortfall(state.table.q_params)
    assert shortfall.mean() < 0.06 and shortfall.max() < 0.15, shortfall


# ---- refinement


def keys_of(count, seed):
    return jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(jnp.arange(count))


def by_momentum(value, q_params, keys, **changes):
    """`refine` by momentum with these changes of REFINEMENT."""
    config = SimpleNamespace(**REFINEMENT | {"ascent": "momentum"} | changes)
    return refine(value, q_params, keys, make_ascent(config, natural()), config)


def test_refinement_by_hand():
    """value = -row^2 / 2, so that the gradient is -row; step 0.1, momentum 0.5, norm at most 5.

    From 1:  velocity -1, row 0.9;  velocity -0.5 - 0.9 = -1.4, row 0.76.
    From 10: velocity -5 (clipped from -10), row 9.5;  velocity -2.5 - 5 (from -9.5) = -7.5, row 8.75.
    """
    value = lambda keys, rows: -0.5 * (rows["a"] ** 2).sum(-1)
    climb = lambda **changes: by_momentum(value, {"a": jnp.array([[1.0], [10.0]])}, keys_of(2, 0), **changes)
    refined = climb(steps=2, learning_rate=0.1)
    np.testing.assert_allclose(refined["a"], [[0.76], [8.75]], rtol=1e-6)
    free = climb(steps=2, learning_rate=0.1, clip_norm=0.0)
    np.testing.assert_allclose(free["a"], [[0.76], [7.6]], rtol=1e-6)


def test_clipping_by_hand():
    """Norms over all of an example's numbers: (3, 4) | 12 has 13, clipped to 6.5 it halves; (0.3, 0.4) | 1.2 stays."""
    gradient = {"a": jnp.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]]), "b": jnp.array([[[12.0]], [[1.2]], [[0.0]]])}
    clipped = clip_each(gradient, 6.5)
    np.testing.assert_allclose(clipped["a"], [[1.5, 2.0], [0.3, 0.4], [0.0, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(clipped["b"], [[[6.0]], [[1.2]], [[0.0]]], rtol=1e-6)
    slope = jax.jit(jax.grad(lambda g: sum(leaf.sum() for leaf in jax.tree.leaves(clip_each(g, 6.5)))))(gradient)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


class Info:
    event_shape, num_train, value_range = (3, 2), 16, (0.0, 1.0)
    condition_shape = None
    condition_shape = None


@cache
def small_model(kind="semi_amortized", **changes):
    """A Bernoulli model with tanh layers; refined by steps large enough to matter, some examples clipped."""
    config = configuration.default()
    config.model.latent_dim, config.model.hidden = Z, (4,)
    config.inference.kind, config.data.binarization = kind, "fixed"
    climb = {"ascent": "momentum", "learning_rate": 0.1, "momentum": 0.5, "clip_norm": CLIP, "stop_gradient": False}
    config.inference.update(climb | changes)
    return make_model(configuration.validate(config), Info)


CLIP = 2.0


def small_batch(count=6):
    """Random parameters, in float64 where that is on, and a batch of binary images."""
    rng, dtype = np.random.default_rng(5), jnp.zeros(()).dtype
    x = jnp.asarray(rng.uniform(size=(count, *Info.event_shape)) < 0.4, dtype)
    shapes, _ = jax.eval_shape(small_model().init, jax.random.key(0), x)
    params = jax.tree.map(lambda leaf: jnp.asarray(0.6 * rng.normal(size=leaf.shape), dtype), shapes)
    return params, {"image": x, "index": jnp.arange(count)}


def noise(batch):
    return [example_keys(jax.random.key(8), batch["index"], use) for use in range(5)]


def outer_loss(model, batch):
    """params -> the training loss of the batch, refinement included, which ascends the ELBO by pairs of draws."""
    loss = make_loss(model, regularized.elbo, paired(regularized.elbo, 2, stopped=False))
    return lambda params: loss(params, (), batch, noise(batch), {})[0]


@pytest.mark.parametrize(
    "changes",
    [{"steps": 0}, pytest.param({"steps": 1}, marks=pytest.mark.slow), {"steps": 5}, {"steps": 3, "ascent": "natural"}],
    ids=["0", "1", "5", "natural"],
)
def test_outer_gradient_is_that_of_finite_differences(changes):
    """Every parameter of encoder and decoder, float64, central differences: (L(p + h) - L(p - h)) / 2h, h = 1e-5.

    Truncation is of order h^2 = 1e-10, rounding 1e-16 * 20 / h = 2e-10.
    """
    with jax.enable_x64(True):
        params, batch = small_batch()
        loss = outer_loss(small_model(**changes), batch)
        flat, unravel = ravel_pytree(params)
        assert flat.dtype == jnp.float64
        moved = flat + 1e-5 * jnp.concatenate([jnp.eye(len(flat)), -jnp.eye(len(flat))])
        both = jax.jit(
            lambda flat, moved: (jax.grad(loss)(unravel(flat)), jax.lax.map(lambda p: loss(unravel(p)), moved))
        )
        gradient, values = both(flat, moved)
        gradient, (up, down) = ravel_pytree(gradient)[0], values.reshape(2, -1)
        np.testing.assert_allclose(gradient, (up - down) / 2e-5, rtol=1e-7, atol=2e-8)
        assert np.abs(gradient).max() > 0.1


def test_some_examples_are_clipped_and_some_are_not():
    """What the finite differences went through: first gradients on both sides of the clipping norm."""
    params, batch = small_batch()
    model = small_model()

    @jax.jit
    def first_gradient(params, batch):
        bound, keys = examples.bound(model, params, batch, 2), fold_each(noise(batch)[Use.TRAIN_REFINE], 0)
        value = lambda rows: bound(keys, batch["image"], model.make_q(params, rows)).sum()
        return jax.grad(value)(model.encode(params, batch["image"]))

    gradient = first_gradient(params, batch)
    norm = np.sqrt(sum((np.asarray(leaf) ** 2).sum(-1) for leaf in jax.tree.leaves(gradient)))
    assert 0 < (norm > CLIP).sum() < len(norm), norm


def test_no_steps_are_amortized_inference():
    """K = 0: loss and gradient are those of the encoder alone, bit for bit."""
    params, batch = small_batch()
    models = small_model(steps=0), small_model(kind="amortized")
    none, plain = [jax.jit(jax.value_and_grad(outer_loss(model, batch)))(params) for model in models]
    for a, b in zip(jax.tree.leaves(none), jax.tree.leaves(plain), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_stopped_gradient_takes_the_refinement_for_a_constant():
    """rows = encoder(x) + constant, the constant being what refinement added: the same value, another gradient."""
    params, batch = small_batch()
    exact, stopped = small_model(steps=3), small_model(steps=3, stop_gradient=True)

    @jax.jit
    def addition(params, batch):
        bound = examples.bound(exact, params, batch, num_samples=2)
        refined = exact.infer(params, (), noise(batch)[Use.TRAIN_REFINE], batch, bound)
        return jax.tree.map(jnp.subtract, refined, exact.encode(params, batch["image"]))

    added = addition(params, batch)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(added)) > 0.1

    def by_hand(params):
        rows = jax.tree.map(jnp.add, exact.encode(params, batch["image"]), added)
        q = exact.make_q(params, rows)
        decode = partial(exact.decode, params)
        return -elbo_fn(noise(batch)[Use.TRAIN_DRAW], batch["image"], q, decode, exact.prior(params)).elbo.sum()

    losses = by_hand, outer_loss(stopped, batch), outer_loss(exact, batch)
    run = jax.jit(lambda params: [jax.tree.leaves(jax.value_and_grad(loss)(params)) for loss in losses])
    hand, stop, through = run(params)
    for a, b in zip(hand, stop, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stop[0], through[0], rtol=1e-6)
    differences = [np.abs(a - b).max() for a, b in zip(stop[1:], through[1:], strict=True)]
    assert min(differences) > 1e-3, "decoder and encoder both feel the way through the refinement"


def test_refinement_does_not_see_the_batch():
    """An example's refined rows: in a batch of 6, alone, and beside copies of another. (A published code divides the
    gradient by the batch size and clips the norm of the whole batch.)"""
    params, batch = small_batch()
    model = small_model(steps=5)

    @jax.jit
    def infer(image, index):
        batch = {"image": image, "index": index}
        keys = example_keys(jax.random.key(8), index, Use.TRAIN_REFINE)
        return model.infer(params, (), keys, batch, bound(model, params, batch))

    together = infer(batch["image"], batch["index"])
    alone = infer(batch["image"][2:3], batch["index"][2:3])
    beside = infer(batch["image"][jnp.array([0, 0, 0, 0, 0, 2])], jnp.array([0, 0, 0, 0, 0, 2]))
    for name in HEADS:
        np.testing.assert_allclose(together[name][2], alone[name][0], atol=1e-6)
        np.testing.assert_allclose(together[name][2], beside[name][5], atol=1e-6)


def test_refinement_raises_the_bound():
    """Without noise, in small steps without momentum, no example's value falls at any step."""
    rng = np.random.default_rng(0)
    target = jnp.asarray(rng.normal(size=(6, Z)))
    value = lambda keys, rows: -jnp.cosh(rows["mean"] - target).sum(-1)
    rows, values = {"mean": jnp.zeros((6, Z))}, []
    for _ in range(3):
        values.append(value(None, rows))
        rows = by_momentum(value, rows, keys_of(6, 0), steps=1, learning_rate=0.05, momentum=0.0, clip_norm=0.0)
    assert (np.diff(values, axis=0) > 0).all()


def test_starts():
    """zeros: q = N(0, I). prior: means drawn one key each, so an example's row depends on its key alone."""
    keys = keys_of(400, 0)
    zeros, prior = STARTS["zeros"](HEADS, keys), STARTS["prior"](HEADS, keys)
    assert all((leaf == 0).all() and leaf.shape == (400, Z) for leaf in jax.tree.leaves(zeros))
    assert (prior["log_std"] == 0).all()
    assert abs(prior["mean"].mean()) < 4 / np.sqrt(800) and abs(prior["mean"].std() - 1) < 4 / np.sqrt(1600)
    np.testing.assert_array_equal(STARTS["prior"](HEADS, keys[7:9])["mean"], prior["mean"][7:9])
