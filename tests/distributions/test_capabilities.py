"""What a distribution says that it can do, against what it does."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from vae_jax import distributions
from vae_jax.distributions import density_anywhere, distribution, has_density

LOGITS = np.array([-1.0, 0.5, 3.0])
LEVELS = {"levels": 4}

# parameters -> distribution, and the parameters
CASES = {
    "Normal": (lambda p: distributions.Normal(p, 0 * p), LOGITS),
    "FullNormal": (lambda p: distributions.FullNormal(p, 0 * p, jnp.ones((3, 3))), LOGITS),
    "LowRankNormal": (lambda p: distributions.LowRankNormal(p, 0 * p, jnp.ones((3, 2))), LOGITS),
    "Dirac": (distributions.Dirac, LOGITS),
    "ContinuousBernoulli": (distributions.ContinuousBernoulli, LOGITS),
    "Bernoulli": (distributions.Bernoulli, LOGITS),
    "Categorical": (lambda p: distributions.Categorical(p[None]), LOGITS),
    "DiscretizedLogistic": (lambda p: distributions.DiscretizedLogistic(p, 0 * p, **LEVELS), LOGITS),
}


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_of_draws_is_that_of_the_mean_where_it_is_said_to_be(name, key):
    """E[dz/dp] = d E[z]/dp of a reparameterized sampler, within 5 standard errors; of the others it is 0."""
    make, parameters = CASES[name]
    of_draws = jax.jit(jax.vmap(jax.jacobian(lambda p, key: make(p).sample(key)), (None, 0)))
    found = np.asarray(of_draws(parameters, jax.random.split(key, 20_000)), np.float64)
    expected = np.asarray(jax.jacobian(lambda p: make(p).mean)(parameters))
    assert np.abs(expected).max() > 0.01
    if make(parameters).has_rsample:
        stderr = found.std(0) / np.sqrt(len(found))
        assert (np.abs(found.mean(0) - expected) <= 5 * stderr + 1e-6).all()
    else:
        assert (found == 0).all()


def test_a_mixture_refuses_a_gradient_in_its_weights(key):
    """Where draws have none; in its means they have all."""
    draws = lambda logits, mean: distributions.NormalMixture(logits, mean, 0 * mean).sample(key, (100,)).mean()
    assert not distributions.NormalMixture.has_rsample
    with pytest.raises(ValueError, match="draws of NormalMixture"):
        jax.grad(draws)(np.zeros(2), np.array([[-1.0], [2.0]]))
    np.testing.assert_allclose(jax.grad(draws, 1)(np.zeros(2), np.array([[-1.0], [2.0]])).sum(), 1, rtol=0.2)


SHAPES = {
    "StandardNormal": (lambda d: d.StandardNormal((3,)), (3,)),
    "Normal": (lambda d: d.Normal(np.zeros((2, 3, 4)), 0.0, event_ndims=2), (3, 4)),
    "FullNormal": (lambda d: d.FullNormal(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, 3, 3))), (3,)),
    "NormalMixture": (lambda d: d.NormalMixture(np.zeros(5), np.zeros((5, 3)), np.zeros((5, 3))), (3,)),
    "PlanarFlow": (lambda d: d.PlanarFlow(np.zeros((2, 3)), np.zeros((2, 3)), {}), (3,)),
    "Bernoulli": (lambda d: d.Bernoulli(jnp.zeros((2, 3, 4)), event_ndims=0), ()),
    "TwoLayerPrior": (lambda d: d.TwoLayerPrior(jax.tree_util.Partial(lambda z: d.Normal(z, 0 * z)), 3), None),
    "Categorical": (lambda d: d.Categorical(np.zeros((2, 3, 7))), (3,)),
    "BetaBinomial": (lambda d: d.BetaBinomial(np.zeros((2, 3)), np.zeros((2, 3))), (3,)),
    "LogisticMixture": (lambda d: d.LogisticMixture(*[np.zeros((2, 4, 3, 5))] * 4, event_ndims=2), (4, 3)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_event_shape_is_that_of_a_draw(name):
    make, expected = SHAPES[name]
    q = make(distributions)
    assert getattr(q, "event_shape", None) == expected
    if name not in ("PlanarFlow", "TwoLayerPrior"):  # which needs weights, whose value is a dict
        drawn = jax.eval_shape(lambda q: q.sample(jax.random.key(0)), q)
        assert drawn.shape[len(drawn.shape) - len(expected) :] == expected


def test_capabilities_are_attributes_of_the_class_not_leaves():
    point = distributions.Dirac(jnp.zeros((2, 3)))
    assert len(jax.tree.leaves(point)) == 1 and not has_density(jax.tree.map(lambda leaf: leaf, point))
    assert [distributions.Dirac.has_density, distributions.Dirac.density_anywhere] == [False, False]
    for family in (distributions.PlanarFlow, distributions.InverseAutoregressiveFlow):
        assert family.has_density and not family.density_anywhere and family.has_rsample
    for family in (distributions.PlanarFlow, distributions.InverseAutoregressiveFlow, distributions.CouplingFlow):
        assert "mean" not in family.__dataclass_fields__  # which would be taken for E[z]
    assert distributions.CouplingFlow.density_anywhere and distributions.TwoLayerPosterior.has_rsample


def test_other_libraries_are_taken_to_have_a_density_and_our_decorator_serves_users():
    assert has_density(dist.Normal(0.0, 1.0)) and density_anywhere(dist.Normal(0.0, 1.0))

    @distribution("mean", density_anywhere=False)
    class Own:
        mean: jax.Array

    assert has_density(Own(jnp.zeros(2))) and not density_anywhere(Own(jnp.zeros(2)))


def test_the_standard_normal_has_a_mean():
    np.testing.assert_array_equal(distributions.StandardNormal((3,)).mean, np.zeros(3))


def test_no_family_is_taken_for_another():
    """Where the structures of two pytrees are equal, a jitted function may run the program of one on the other."""
    one = jnp.zeros((1, 1))
    families = [cls for cls in vars(distributions).values() if hasattr(cls, "__dataclass_fields__")]
    made = {cls.__name__: cls(**dict.fromkeys(cls.__dataclass_fields__, one) | fixed(cls)) for cls in families}
    structures = {name: jax.tree.structure(q) for name, q in made.items()}
    assert len(structures) > 10
    for name, other in itertools.combinations(structures, 2):
        assert structures[name] != structures[other], (name, other)


def fixed(cls):
    """Fields of a family that are no leaves, in all families the same."""
    every = {"levels": 4, "event_ndims": 1, "event_shape": (1,), "dim": 1}
    return {name: value for name, value in every.items() if name in cls.__dataclass_fields__}


def test_a_field_that_is_neither_a_leaf_nor_static_is_refused():
    with pytest.raises(ValueError, match="Own has other fields than mean"):

        @distribution("mean")
        class Own:
            mean: jax.Array
            log_std: jax.Array
