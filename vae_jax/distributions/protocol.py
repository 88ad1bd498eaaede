"""What a distribution is here: NumPyro's protocol, what else may be said of one, and how ours are made.

A distribution speaks NumPyro's protocol, so either library's fits wherever one is wanted:

    sample(key, sample_shape=()) -> value [*sample_shape, *batch, *event]
    log_prob(value)              -> [*sample_shape, *batch]
    event_shape, has_rsample     where a library offers them; what they are is in `Distribution`

Those of ours that serve as q add `sample_and_log_prob(key, sample_shape, antithetic=False)`, whose log density comes
from the draw itself, and accept one key per example (a key array `[B]`) where NumPyro takes a single key. All are
pytrees whose parameters are leaves: `jax.lax.stop_gradient`, `jax.vmap` and `jax.tree.map` mean on a distribution what
they mean on its parameters.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp

Shape = tuple[int, ...]
T = TypeVar("T")


class Distribution(Protocol):
    """What is asked of q(z|x), p(z) and p(x|z), ours or another library's: NumPyro's two methods.

    Three attributes are read where there are any. `event_shape`, of one value: a value of another shape is refused
    where it would broadcast. `mean`, E[z]: where there is none, draws are averaged. `has_rsample`, False where the
    gradient through draws misses a part, as NumPyro says it of discrete distributions and mixtures: such a q is drawn
    and measured, and refused where that gradient is asked for.
    """

    def sample(self, key: jax.Array, sample_shape: Shape = ()) -> Any:
        """Draws `[*sample_shape, *batch, *event]`, an array or a pytree of arrays. The key is consumed."""

    def log_prob(self, value: Any) -> jax.Array:
        """Log densities `[*sample_shape, *batch]` in nats, events summed."""
        ...


def has_density(q: Any) -> bool:
    """Whether a distribution has a density; False for a point mass, whose bound is minus infinity.

    Args:
        q: a distribution. One of another library, which has no such field, is taken to have a density.

    Returns:
        The field `has_density` of the distribution, or True.
    """
    return getattr(q, "has_density", True)


def density_anywhere(q: Any) -> bool:
    """Whether `q.log_prob` takes any value; False where the density is known at q's own draws only.

    Args:
        q: a distribution. One of another library, which has no such field, is taken to know its density anywhere.

    Returns:
        The field `density_anywhere` of the distribution, or True.
    """
    return getattr(q, "density_anywhere", True)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def refuse_gradient(values, family):
    """The values themselves, a pytree; differentiating them raises ValueError, for they are draws of `family`."""
    return values


@refuse_gradient.defjvp
def _refuse_gradient_jvp(family, primals, tangents):
    raise ValueError(NO_PATH.format(family))


NO_PATH = "draws of {} carry a part of its gradient only (has_rsample = False): use tvo, or a reparameterized family"


def typed(key: jax.Array) -> jax.Array:
    """A key, or an array of keys, as `jax.random.key` makes it.

    Args:
        key: of the new style, or of the old one of `jax.random.PRNGKey`, uint32 `[..., 2]`.

    Returns:
        The same key in the new style.

    Raises:
        TypeError: it is neither, a seed for example.
    """
    if not hasattr(key, "dtype"):
        raise TypeError(f"key = {key!r:.40}: expected a random key, as jax.random.key(seed) makes it")
    return key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)


@dataclass_transform(frozen_default=True)
def distribution(
    *data: str,
    static: tuple[str, ...] = (),
    has_density: bool = True,
    density_anywhere: bool = True,
    has_rsample: bool = True,
    event: str = "mean",
    after: int = 0,
) -> Callable[[type[T]], type[T]]:
    """Class decorator: a frozen dataclass that is a pytree, with what the distribution can do as class attributes.

    Args:
        *data: names of the fields that are leaves, which may be arrays or pytrees.
        static: names of the fields that are part of the structure, and hashable.
        has_density: False for a point mass.
        density_anywhere: False where the log density is known at the distribution's own draws only.
        has_rsample: False where the gradient through a draw misses a part: discrete values, mixtures.
        event: the field that is shaped like a value, from which `event_shape` is read; without it there is none.
        after: how many axes of that field follow those of a value: levels or components.

    Returns:
        The decorator.

    Raises:
        ValueError: the class has other fields than these.
    """

    def event_shape(self) -> Shape:
        shape = jnp.shape(getattr(self, event))
        end = len(shape) - after
        return shape[end - getattr(self, "event_ndims", 1) : end]

    def register(cls):
        cls = dataclasses.dataclass(frozen=True)(cls)
        cls.has_density, cls.density_anywhere, cls.has_rsample = has_density, density_anywhere, has_rsample
        if event in data:
            cls.event_shape = property(event_shape)
        if {*data, *static} != {field.name for field in dataclasses.fields(cls)}:
            raise ValueError(f"{cls.__name__} has other fields than {', '.join((*data, *static))}")
        # not as a dataclass: jax 0.10 takes two of those with the same fields for one another, so that in one of a
        # hundred processes a jitted function would run the program of another family without a word
        fixed = lambda q: tuple(getattr(q, name) for name in static)
        leaves = lambda q: tuple((jax.tree_util.GetAttrKey(name), getattr(q, name)) for name in data)
        made = lambda fixed, leaves: cls(**dict(zip((*data, *static), (*leaves, *fixed), strict=True)))
        jax.tree_util.register_pytree_with_keys(cls, lambda q: (leaves(q), fixed(q)), made)
        return cls

    return register
