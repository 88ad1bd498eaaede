"""Families wired into models: each is what it says it is, from the config to the numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg
import scipy.stats
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from vae_jax.commands import configuration
from vae_jax.data import datasets, preprocess
from vae_jax.data.splits import Info
from vae_jax.distributions import flows, gaussians
from vae_jax.distributions.basic import Normal, StandardNormal
from vae_jax.errors import ConfigError, DataError
from vae_jax.evaluation import bounds, latent_space
from vae_jax.evaluation.examples import latent_means
from vae_jax.evaluation.generation import normal_sigma
from vae_jax.keys import Use, split_keys
from vae_jax.models import families
from vae_jax.models.model import make_model, sample_prior
from vae_jax.objectives import regularized
from vae_jax.objectives.elbo import elbo_fn, importance_bound
from vae_jax.objectives.loss import make_loss, make_weights
from vae_jax.parallel import devices
from vae_jax.training import step
from vae_jax.training.optimizer import make_optimizer

B, Z = 4, 3
GREY = ("continuous_bernoulli", "categorical", "logistic", "logistic_mixture", "beta_binomial", "bernoulli", "normal")


def make_config(**changes):
    """A small config; changes are keys of config.model, or dotted."""
    config = configuration.default()
    config.data.binarization = "none"
    config.model.update({"latent_dim": Z, "hidden": (6,), "upper_dim": 2, "upper_hidden": (5,), "components": 4})
    config.model.update({"flow_layers": 2, "flow_width": 8, "flow_context": 2, "levels": 16, "mixture_size": 3})
    for name, value in changes.items():
        config.update_from_flattened_dict({name.replace("__", ".") if "__" in name else f"model.{name}": value})
    return configuration.validate(config)


def compiled_model(event_shape, condition_shape, num_train, **changes):
    """Its functions compiled whole: op by op, the tests would spend most of their time in the compiler."""
    model = make_model(make_config(**changes), Info("test", event_shape, num_train, 0, (0.0, 1.0), condition_shape))
    return model._replace(**{name: jax.jit(getattr(model, name)) for name in ("encode", "decode", "make_q", "prior")})


def make(event_shape=(4, 4, 1), condition_shape=None, num_train=20, **changes):
    """(model, params, x [B, *event]) of the config, as `init` leaves them."""
    model = compiled_model(event_shape, condition_shape, num_train, **changes)
    x = np.random.default_rng(0).uniform(0.1, 0.9, (B, *event_shape)).astype(np.float32)
    condition = None if condition_shape is None else np.eye(*condition_shape, dtype=np.float32)[[0, 1, 2, 0]]
    return model, jax.jit(model.init)(jax.random.key(0), x, condition)[0], x


# ---- likelihoods


@pytest.mark.parametrize("likelihood", GREY)
def test_an_untrained_decoder_emits_the_mean_image(likelihood):
    """At z = 0 with a linear decoder only the bias is left, each pixel its own; a grid has it to within a level."""
    model, params, x = make(likelihood=likelihood, decoder="linear", sigma=0.3)
    mean = model.decode(params, jnp.zeros((1, 1, Z))).mean[0, 0]
    tolerance = {"logistic": 0.03, "logistic_mixture": 0.06, "categorical": 0.04}.get(likelihood, 2e-3)
    np.testing.assert_allclose(mean, x.mean(0), atol=tolerance)


@pytest.mark.parametrize("mode, shape", [("learned", ()), ("per_dimension", (4, 4, 1)), ("optimal", ())])
def test_a_learned_sigma_begins_where_the_config_says(mode, shape):
    model, params, _ = make(likelihood="normal", sigma=0.3, sigma_mode=mode)
    assert params["likelihood"]["log_sigma"].shape == shape
    np.testing.assert_allclose(model.decode(params, jnp.zeros((1, 1, Z))).log_std, np.log(0.3), rtol=1e-5)


def test_the_sigma_of_a_trained_model_is_told():
    """The geometric mean of an event's; nothing where p(x|z) is no normal."""
    examples = {"mean": np.zeros((5, Z), np.float32)}
    model, params, _ = make(likelihood="normal", sigma=0.3, sigma_mode="per_dimension")
    params["likelihood"]["log_sigma"] = params["likelihood"]["log_sigma"].at[0].add(1.0)
    assert normal_sigma(model, params, examples) == pytest.approx(0.3 * np.exp(0.25), rel=1e-5)
    assert normal_sigma(*make(likelihood="bernoulli")[:2], examples) is None


def test_the_optimal_sigma_is_the_root_mean_squared_error():
    """With the decoder held (a rate of 0) the closed form still moves sigma, by steps, to the batch's best."""
    model, params, x = make(
        likelihood="normal", sigma=1.0, sigma_mode="optimal", posterior="dirac", objective__name="autoencoder"
    )
    batch = {"image": x, "index": np.arange(B)}
    train_step = step.make_train_step(
        model, optax.sgd(1.0), regularized.autoencoder, learning_rate=lambda hyper, step: 0.0
    )
    state = step.State(jnp.int32(0), params, optax.sgd(1.0).init(params), (), ())
    one = lambda state, _: train_step(jax.random.key(0), {"objective": {}}, state, batch)
    state, _ = jax.jit(lambda state: jax.lax.scan(one, state, length=100))(state)
    mean = model.decode(params, model.encode(params, x)["mean"][None]).mean[0]
    best = np.sqrt(np.mean((x - mean) ** 2))
    np.testing.assert_allclose(np.exp(state.params["likelihood"]["log_sigma"]), best, rtol=1e-3)
    jax.tree.map(np.testing.assert_array_equal, state.params["decoder"], params["decoder"])


def test_rgb_mixture_and_its_refusal_of_other_channels():
    model, params, x = make(event_shape=(4, 4, 3), likelihood="logistic_mixture")
    decode = lambda params: model.decode(params, jnp.zeros((2, B, Z)))
    log_prob, draw = jax.eval_shape(lambda p: (decode(p).log_prob(x), decode(p).sample(jax.random.key(0))), params)
    assert log_prob.shape == (2, B) and draw.shape == (2, B, 4, 4, 3)
    with pytest.raises(ConfigError, match="1 or 3 channels"):
        make(event_shape=(4, 4, 2), likelihood="logistic_mixture")


# ---- posteriors


def random_rows(params, x, model):
    """Rows and shared weights away from the identity, so that every part of a family counts."""
    noise = lambda leaf, key: leaf + 0.3 * jax.random.normal(key, leaf.shape)
    rows, params = model.encode(params, x), dict(params)
    if "posterior" in params:
        keys = jax.random.split(jax.random.key(1), len(jax.tree.leaves(params["posterior"])))
        leaves, tree = jax.tree.flatten(params["posterior"])
        params["posterior"] = tree.unflatten(map(noise, leaves, keys))
    keys = jax.random.split(jax.random.key(2), len(rows))
    return {name: noise(row, key) for (name, row), key in zip(rows.items(), keys, strict=True)}, params


@pytest.mark.parametrize("posterior", ["normal", "full_normal", "low_rank", "planar", "coupling", "iaf", "two_layer"])
def test_importance_weights_average_to_the_same_evidence(posterior, linear_gaussian):
    """E_q[w] = p(x) for any q: the same decoder, prior and data through each family, against the exact log p(x)."""
    lg, num_samples = linear_gaussian, 20_000
    latent = lg.weight.shape[1]
    config = make_config(
        latent_dim=latent, posterior=posterior, prior="two_layer" if posterior == "two_layer" else "standard_normal"
    )
    family = families.POSTERIORS[posterior](config.model)
    x, decode = (
        jnp.float32(lg.x),
        lambda z: Normal(z @ jnp.float32(lg.weight).T + lg.bias, jnp.log(jnp.float32(lg.sigma))),
    )
    noise = lambda number, shape: 0.2 * jax.random.normal(jax.random.key(number), shape)
    rows = {name: noise(i, (len(x), *shape)) for i, (name, shape) in enumerate(family.heads.items())}
    rows["mean"] += jnp.float32(lg.mean)
    rows["log_std"] += jnp.float32(lg.log_std) + 0.3
    shrink = 0.1 if posterior == "two_layer" else 1.0  # or q(z2|z1) would be far from the p(z2|z1) of this model
    weights = jax.tree.map(lambda leaf: shrink * (leaf + noise(9, leaf.shape)), family.init(jax.random.key(3)))
    q, prior = family.make(weights, rows), StandardNormal((latent,))
    if posterior == "two_layer":
        # p(z1|z2) = p(z1) leaves the marginal of z1 as it is, whatever q(z2|z1)
        prior = gaussians.TwoLayerPrior(
            jax.tree_util.Partial(lambda z2: Normal(jnp.zeros((*z2.shape[:-1], latent)), jnp.zeros(latent))), 2
        )
        inner = decode
        decode = lambda z: inner(z["z1"])
    estimate = jax.jit(lambda key: elbo_fn(key, x, q, decode, prior, num_samples, kl="monte_carlo").log_weights)
    log_weights = np.float64(estimate(jax.random.key(4)))
    got = importance_bound(log_weights)
    weights = np.exp(log_weights - got)
    error = weights.std(0) / np.sqrt(num_samples)
    assert error.max() < 0.05
    np.testing.assert_array_less(np.abs(got - lg.log_px), 5 * error + 1e-4)


@pytest.mark.parametrize("posterior", ["coupling", "iaf"])
def test_a_shared_flow_sees_each_examples_context(posterior):
    """The context of one example moves its own q alone."""
    model, params, x = make(posterior=posterior)
    rows, params = random_rows(params, x, model)
    moved = rows | {"context": rows["context"].at[1].add(1.0)}
    draw = jax.jit(lambda rows: model.make_q(params, rows).sample(jax.random.split(jax.random.key(0), B), (2,)))
    changed = np.asarray(draw(rows) != draw(moved)).any((0, 2))
    np.testing.assert_array_equal(changed, [False, True, False, False])


def test_the_noise_of_estimated_means_makes_no_unit_active():
    """The mean of a flow is estimated from draws: equal q's for all x have no active unit, and unequal ones do."""
    model, params, x = make(posterior="coupling")
    rows = jax.tree.map(lambda leaf: np.zeros((200, *leaf.shape[1:]), np.float32), model.encode(params, x))
    examples = {"q_params": rows, "key": split_keys(0, "test", 200)}
    means = latent_means(model, params, examples, devices.ONE_DEVICE)
    assert means.shape == (200, Z) and latent_space.active_units(means) == 0
    rows["mean"][:100, 1] = 0.5
    assert latent_space.active_units(latent_means(model, params, examples, devices.ONE_DEVICE)) == 1


def test_a_full_normal_of_one_dimension_is_a_normal():
    model, params, x = make(posterior="full_normal", latent_dim=1)
    rows = model.encode(params, x)
    assert set(rows) == {"mean", "log_std"}
    z = np.linspace(-1, 1, 5, dtype=np.float32)[:, None, None] * np.ones((1, B, 1), np.float32)
    got = model.make_q(params, rows).log_prob(z)
    np.testing.assert_allclose(got, Normal(rows["mean"], rows["log_std"]).log_prob(z), rtol=1e-5)


# ---- priors


@pytest.mark.parametrize("inputs", ["learned", "data"])
def test_vamp_components_are_the_encoders_gaussians_at_the_pseudo_inputs(inputs):
    """Which begin at training images; with vamp_inputs = data they get no gradient."""
    model, params, x = make(prior="vamp", vamp_inputs=inputs)
    u = params["prior"]["inputs"]
    assert u.shape == (4, 4, 4, 1)
    nearest = np.abs(u[:, None] - x[None]).max((2, 3, 4)).min(1)
    assert (nearest < 0.05).all() and (nearest > 0).all()
    z = np.random.default_rng(1).normal(size=(5, B, Z)).astype(np.float32)

    @jax.jit
    def by_components(params):
        rows = model.encode(params, u)
        parts = [Normal(rows["mean"][c], rows["log_std"][c]).log_prob(z) for c in range(4)]
        return jax.nn.logsumexp(jnp.stack(parts), axis=0) - np.log(4)

    def value(params):
        log_prob = model.prior(params).log_prob(z)
        return log_prob.sum(), log_prob

    gradient, log_prob = jax.jit(jax.grad(value, has_aux=True))(params)
    np.testing.assert_allclose(log_prob, by_components(params), rtol=1e-5)
    assert (np.abs(gradient["prior"]["inputs"]).max() > 0) == (inputs == "learned")


def test_the_conditional_prior_is_one_for_each_condition():
    model, params, _ = make(prior="conditional", condition_shape=(3,))
    condition = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    prior = model.prior(params, condition)
    np.testing.assert_array_equal(prior.mean[0], prior.mean[3])
    assert np.abs(prior.mean[0] - prior.mean[1]).max() > 1e-3
    assert sample_prior(model, params, jax.random.key(0), 4, condition).shape == (1, 4, Z)
    with pytest.raises(ConfigError, match="needs data with a condition"):
        make(prior="conditional")
    with pytest.raises(ConfigError, match="have no condition"):
        make(prior="vamp", condition_shape=(3,))


def test_the_flow_prior_begins_as_the_standard_normal():
    model, params, _ = make(prior="flow")
    z = np.random.default_rng(1).normal(size=(5, B, Z)).astype(np.float32)
    log_prob = jax.jit(lambda params: model.prior(params).log_prob(z))(params)
    np.testing.assert_allclose(log_prob, StandardNormal((Z,)).log_prob(z), rtol=1e-5)
    assert isinstance(model.prior(params), flows.CouplingFlow)


def test_parameters_of_table_1_with_two_layers():
    """784-200-200-100-100-100-50 and back: Burda et al. (2016), two stochastic layers.

    q(z2|z1): 100*100+100 twice and two heads of 100*50+50; p(z1|z2): 50*100+100, 100*100+100, two heads of 100*100+100.
    """
    config = configuration.default()
    config.model.update({"latent_dim": 100, "posterior": "two_layer", "prior": "two_layer"})
    model = make_model(configuration.validate(config), Info("test", (28, 28, 1), 10, 0, (0.0, 1.0), None))
    params = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((2, 28, 28, 1), np.float32))[0]
    count = lambda tree: sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
    assert count(params["posterior"]) == 2 * 10_100 + 2 * 5_050
    assert count(params["prior"]) == 5_100 + 10_100 + 2 * 10_100


# ---- objectives, through the training step


@pytest.mark.parametrize(
    "schedule, shares",
    [
        ("linear", {0: 0.0, 5: 0.25, 20: 1.0, 79: 1.0}),
        ("cyclical", {0: 0.0, 10: 0.5, 20: 1.0, 39: 1.0, 40: 0.0, 50: 0.5}),
    ],
)
def test_a_schedule_moves_its_weight_and_nothing_else(schedule, shares):
    """Linear over 2 epochs of 10 steps; two cycles in 80 steps, each half rise, half level."""
    config = make_config(
        objective__name="capacity", objective__schedule=schedule, objective__schedule_epochs=2, objective__cycles=2
    )
    weights = make_weights(config.objective, 10, 80)
    hyper = {"objective": {"beta": 3.0, "capacity": 8.0}, "schedule_epochs": 2.0}
    for number, share in shares.items():
        got = weights(hyper, jnp.int32(number))
        assert got["beta"] == 3.0
        np.testing.assert_allclose(got["capacity"], 8.0 * share, rtol=1e-6)


def test_a_denoising_encoder_sees_noise_and_explains_the_image():
    """Rows come from the corrupted x, the likelihood from x itself; each example's noise is its key's."""
    corrupt = preprocess.make_corruption(
        make_config(inference__input_noise=0.5, inference__input_dropout=0.25).inference
    )
    keys, x = jax.random.split(jax.random.key(0), 500), np.ones((500, 16), np.float32)
    seen = np.asarray(corrupt(keys, x))
    dropped = (seen == 0).mean()
    assert abs(dropped - 0.25) < 4 * np.sqrt(0.25 * 0.75 / seen.size)
    assert abs(seen[seen != 0].std() - 0.5) < 0.02 and abs(seen[seen != 0].mean() - 1) < 0.03
    np.testing.assert_allclose(corrupt(keys[:3], x[:3]), seen[:3], rtol=1e-6)
    assert preprocess.make_corruption(make_config().inference) is None
    model, params, x = make()
    batch, keys = {"image": x, "index": np.arange(B)}, [jax.random.split(jax.random.key(i), B) for i in range(5)]
    black = lambda keys, image: jnp.zeros_like(image)
    loss = make_loss(model, regularized.elbo, corrupt=black)

    @jax.jit
    def both(params):
        q = model.make_q(params, model.encode(params, np.zeros_like(x)))
        terms = elbo_fn(keys[Use.TRAIN_DRAW], x, q, lambda z: model.decode(params, z), model.prior(params))
        return loss(params, (), batch, keys, {})[0], -terms.elbo.sum()

    np.testing.assert_allclose(*both(params), rtol=1e-5)


def test_a_linear_autoencoder_finds_the_subspace_of_pca():
    """Squared error of a linear code: its decoder spans the leading principal components, and errs by the rest."""
    image = np.float32(load_digits().data[:300] / 16)
    config = dict(posterior="dirac", objective__name="autoencoder", encoder="linear", decoder="linear")
    model, params, _ = make(event_shape=(64,), likelihood="normal", latent_dim=2, **config)
    keys = jax.random.split(jax.random.key(0), len(image))
    loss = make_loss(model, regularized.autoencoder)
    batch = {"image": image, "index": np.arange(len(image))}
    value = lambda params: loss(params, (), batch, [keys] * 5, {})[0] / len(image)
    optimizer = optax.lbfgs()

    def one(carry, _):
        params, state = carry
        now, gradient = optax.value_and_grad_from_state(value)(params, state=state)
        updates, state = optimizer.update(gradient, state, params, value=now, grad=gradient, value_fn=value)
        return (optax.apply_updates(params, updates), state), now

    run = jax.jit(lambda params: jax.lax.scan(one, (params, optimizer.init(params)), length=150)[0][0])
    params = run(params)
    pca = PCA(2).fit(image)
    kernel = np.asarray(params["decoder"]["output"]["kernel"])  # [2, 64]
    angles = scipy.linalg.subspace_angles(kernel.T, pca.components_.T)
    assert angles.max() < 0.02, angles
    mean = model.decode(params, model.encode(params, image)["mean"][None]).mean[0]
    best = np.mean((image - pca.inverse_transform(pca.transform(image))) ** 2)
    np.testing.assert_allclose(np.mean((image - mean) ** 2), best, rtol=1e-3)


# ---- models of a condition


def test_the_nll_given_a_condition_is_that_of_the_exact_gaussian():
    """z ~ N(m(c), s(c)^2), x = A z + B c + b + sigma eps, so that x given c is N(A m + B c + b, A S A' + sigma^2 I).

    A has orthogonal columns, the posterior is diagonal; from it every weight is p(x|c), and K = 1 is as good as any.
    """
    config = dict(likelihood="normal", sigma=0.4, encoder="linear", decoder="linear", prior="conditional")
    model, params, _ = make(event_shape=(5,), condition_shape=(3,), upper_hidden=(), **config)
    rng = np.random.default_rng(2)
    a = np.linalg.qr(rng.normal(size=(5, Z)))[0] * [1.5, 1.0, 0.5]
    b, bias = rng.normal(size=(5, 3)), rng.normal(size=5)
    mean, log_std = rng.normal(size=(3, Z)), 0.5 * rng.normal(size=(3, Z))  # a row for each condition
    linear = lambda kernel, bias: {"kernel": np.float32(kernel), "bias": np.float32(bias)}
    params["decoder"]["output"] = linear(np.concatenate([a, b], 1).T, bias)
    params["prior"] = {"mean": linear(mean, np.zeros(Z)), "log_std": linear(log_std, np.zeros(Z))}
    label = np.array([0, 1, 2, 0])
    x = rng.normal(size=(B, 5))
    expected, rows = [], {"mean": [], "log_std": []}
    for i, c in enumerate(label):
        center, s = a @ mean[c] + b[:, c] + bias, np.exp(2 * log_std[c])
        covariance = a * s @ a.T + 0.4**2 * np.eye(5)
        expected.append(scipy.stats.multivariate_normal.logpdf(x[i], center, covariance))
        variance = 1 / (1 / s + (a**2).sum(0) / 0.4**2)
        rows["mean"].append(mean[c] + variance * (a.T @ (x[i] - center)) / 0.4**2)
        rows["log_std"].append(0.5 * np.log(variance))
    chunk = {"image": np.float32(x), "condition": np.eye(3, dtype=np.float32)[label]}
    chunk |= {"q_params": {name: np.float32(row) for name, row in rows.items()}, "key": split_keys(0, "test", B)}
    log_px = lambda num, at_once: lambda chunk: bounds.importance_log_px(model, params, chunk, num, at_once)["log_px"]
    one, seven = jax.jit(log_px(1, 1)), jax.jit(log_px(7, 3))
    for estimate in (one, seven):
        np.testing.assert_allclose(estimate(chunk), expected, rtol=1e-4)
    wrong = {**chunk, "condition": np.roll(chunk["condition"], 1, axis=0)}
    assert (np.abs(one(wrong) - np.array(expected)) > 0.1).any()


@pytest.mark.parametrize("network", ["linear", "mlp", "conv"])
@pytest.mark.parametrize("shape", [(3,), (4, 4, 1)])
def test_without_z_every_bound_is_the_decoders_log_likelihood(network, shape):
    """latent_dim = 0: no weights but the decoder's, KL 0, and -NLL = ELBO = log p(x|c) for any K and any key."""
    model = compiled_model((4, 4, 1), shape, 20, latent_dim=0, encoder=network, decoder=network, channels=(2, 3))
    rng = np.random.default_rng(0)
    x, condition = rng.integers(0, 2, (B, 4, 4, 1)).astype(np.float32), rng.uniform(size=(B, *shape)).astype(np.float32)
    params, local = jax.jit(model.init)(jax.random.key(0), x, condition)
    assert local == () and not jax.tree.leaves(params["encoder"]) and set(params) == {"encoder", "decoder"}
    # with no hidden layer and no z the decoder is a logistic regression, which NumPy can do
    mean = np.asarray(model.decode(params, jnp.zeros((1, B, 0)), condition).mean[0], np.float64)
    if network == "linear":
        output = jax.tree.map(np.float64, params["decoder"]["output"])
        logits = condition.reshape(B, -1) @ output["kernel"] + output["bias"]
        np.testing.assert_allclose(mean.reshape(B, -1), 1 / (1 + np.exp(-logits)), rtol=1e-5)
    expected = (x * np.log(mean) + (1 - x) * np.log1p(-mean)).sum((1, 2, 3))
    chunk = {"image": x, "condition": condition, "q_params": model.encode(params, x, condition)}
    for seed, num_samples in ((0, 1), (1, 5)):
        chunk["key"] = split_keys(seed, "test", B)
        terms, log_px = jax.jit(
            lambda params, chunk, count=num_samples: (
                bounds.elbo_terms(model, params, chunk, count),
                bounds.importance_log_px(model, params, chunk, count, 2)["log_px"],
            )
        )(params, chunk)
        assert not terms["kl"].any()
        for got in (terms["elbo"], log_px):
            np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_matrices_and_moments_train_without_z(optimizer):
    """Every weight moves and stays finite, though the encoder has none."""
    config = make_config(latent_dim=0, optimizer__name=optimizer)
    model = make_model(config, Info("test", (4, 4, 1), 20, 0, (0.0, 1.0), (3,)))
    x = np.random.default_rng(0).integers(0, 2, (B, 4, 4, 1)).astype(np.float32)
    batch = {"image": x, "index": np.arange(B), "condition": np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]}
    chain = make_optimizer(config.optimizer)
    state = step.init_state(model, chain, jax.random.key(0), x, batch["condition"])
    train_step = step.make_train_step(model, chain, regularized.elbo, learning_rate=lambda hyper, step: 0.01)
    new, metrics = jax.jit(train_step)(jax.random.key(0), {"objective": {}}, state, batch)
    moved = jax.tree.map(lambda old, new: np.any(old != new) and np.isfinite(new).all(), state.params, new.params)
    assert all(jax.tree.leaves(moved)) and metrics["kl"] == 0 and metrics["elbo"] == metrics["log_likelihood"]


def test_no_z_and_no_condition_is_nothing():
    with pytest.raises(ConfigError, match="nothing but a condition"):
        make(latent_dim=0)


# ---- data with a condition


def test_conditions_of_the_data():
    """label: one-hot; upper: the lower rows given the upper ones, scaled to [0, 1]."""
    config = configuration.default().data
    plain = datasets.load(config)
    config.condition = "label"
    labelled = datasets.load(config)
    assert labelled.info.condition_shape == (10,)
    np.testing.assert_array_equal(labelled.test.condition.argmax(1), plain.test.label)
    np.testing.assert_array_equal(labelled.train.image, plain.train.image)
    config.condition = "upper"
    halved = datasets.load(config)
    assert halved.info.event_shape == (4, 8, 1) and halved.info.condition_shape == (4, 8, 1)
    both = np.concatenate([halved.test.condition * 16, halved.test.image], axis=1)
    np.testing.assert_allclose(both, plain.test.image, atol=1e-5)


@pytest.mark.parametrize("condition, match", [("label", "has no labels"), ("upper", "are no images")])
def test_data_without_what_a_condition_needs_are_refused(condition, match):
    config = configuration.default().data
    config.update({"name": "ppca", "binarization": "none", "condition": condition})
    with pytest.raises(DataError, match=match):
        datasets.load(config)
