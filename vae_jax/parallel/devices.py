"""Devices, axes, processes and donation: the one place that knows of them.

The per-device program is pmap's: each device runs the same step on its share of the examples, and gradients are summed
over the axis 'devices'. JAX implements pmap as jit of shard_map today and tells new code to say so, as `device_program`
does. Parameters are replicated; the data and the tables of per-datapoint inference are split into blocks.

Of several processes (processes.py) each gives its own devices their blocks.
"""

import os
import pathlib
import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vae_jax.errors import DeviceError

AXIS = "devices"


class Axis(NamedTuple):
    """What a step does with the other devices; each is a function of a pytree.

    Attributes:
        vary: marks replicated values as this device's own, so that their gradient is this device's share.
        sum: over the devices.
        gather: `[b, ...]` of each device -> `[B, ...]` on all.
    """

    vary: Callable[[Any], Any]
    sum: Callable[[Any], Any]
    gather: Callable[[Any], Any]


NO_AXIS = Axis(vary=lambda tree: tree, sum=lambda tree: tree, gather=lambda tree: tree)

# Without pcast the gradient of a replicated value under shard_map is already summed over devices, and summing it again
# makes it D times too large: Adam hides that, SGD does not.
DEVICES = Axis(
    vary=lambda tree: jax.lax.pcast(tree, AXIS, to="varying"),
    sum=lambda tree: jax.lax.psum(tree, AXIS),
    gather=lambda tree: jax.lax.all_gather(tree, AXIS, tiled=True),
)


def axis(mesh: Mesh) -> Axis:
    """What a step does with the other devices of a mesh; on one device nothing, since a sum over one is a copy.

    Args:
        mesh: the devices.

    Returns:
        The functions of the axis.
    """
    return DEVICES if mesh.size > 1 else NO_AXIS


def make_mesh(num_devices: int = 0) -> Mesh:
    """A mesh over the axis 'devices'.

    Args:
        num_devices: how many devices, equally many of every process; 0: all.

    Returns:
        The mesh.

    Raises:
        DeviceError: there are not so many, or processes cannot have equally many each.
    """
    available = jax.device_count()
    if num_devices > available:
        virtual = f"; XLA_FLAGS=--xla_force_host_platform_device_count={num_devices} makes virtual ones of a CPU"
        raise DeviceError(
            f"--devices={num_devices}: only {available} {jax.default_backend()} devices are there"
            + (virtual if jax.default_backend() == "cpu" else "")
        )
    chosen = first_devices(num_devices or available)
    return jax.make_mesh((len(chosen),), (AXIS,), axis_types=(AxisType.Auto,), devices=chosen)


def first_devices(num_devices):
    """So many devices, the first of every process, equally many of each. Raises DeviceError."""
    processes = range(jax.process_count())
    each = num_devices // len(processes)
    chosen = [device for p in processes for device in [d for d in jax.devices() if d.process_index == p][:each]]
    if len(chosen) != num_devices:
        raise DeviceError(f"--devices={num_devices}: {len(processes)} processes must have equally many of them each")
    return chosen


def each_alone(mesh):
    """A mesh of one device for every device of `mesh`."""
    return [Mesh([device], (AXIS,), axis_types=(AxisType.Auto,)) for device in mesh.devices.flat]


def use_cores():
    """Makes every core of a CPU a device, unless jax was told how many there are to be; accelerators are left alone.

    To be called before jax makes a backend. Small programs use one core each, so many run side by side.
    """
    told = jax.config.jax_num_cpu_devices > 0  # pyright: ignore[reportAttributeAccessIssue] set at run time
    if not told and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        jax.config.update("jax_num_cpu_devices", cores)


def free_bytes(mesh):
    """Memory that is free for each device of a mesh, a CPU's divided by them; None where that cannot be known."""
    own = mesh.local_devices  # others do not tell
    stats = own[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    try:
        available = re.search(r"MemAvailable:\s+(\d+) kB", pathlib.Path("/proc/meminfo").read_text())
    except OSError:
        return None
    return int(available[1]) * 1024 // len(own) if available else None


def program_bytes(compiled):
    """What a compiled program takes of each device's memory: arguments, results and what lies between."""
    memory = compiled.memory_analysis()
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return kept + memory.temp_size_in_bytes


def largest_divisor(num_streams):
    """The largest number of devices, equally many of every process, that divides `num_streams`. Raises DeviceError."""
    processes = jax.process_count()
    fitting = [d for d in range(processes, jax.device_count() + 1, processes) if num_streams % d == 0]
    if not fitting:
        raise DeviceError(
            f"{processes} processes cannot share {num_streams} streams: config.data.streams must be a multiple of "
            f"{processes} that divides config.train.batch_size"
        )
    return fitting[-1]


def check(num_devices, num_streams, batch_size):
    """Raises DeviceError unless devices divide streams and streams divide the batch."""
    if num_streams % num_devices or batch_size % num_streams:
        raise DeviceError(
            f"{num_devices} devices cannot share {num_streams} streams of a batch of {batch_size}: devices must divide "
            "config.data.streams and streams must divide config.train.batch_size; use --devices=N to take fewer"
        )


def replicated(mesh):
    return NamedSharding(mesh, P())


def split(mesh):
    return NamedSharding(mesh, P(AXIS))


def put(place, tree):
    """Puts a pytree of host arrays, which every process holds, in a sharding: each fills its own devices' blocks."""
    if place.is_fully_addressable:
        return jax.device_put(tree, place)
    return jax.tree.map(lambda a: jax.make_array_from_callback(a.shape, place, lambda block: a[block]), tree)


def put_split(mesh: Mesh, tree: Any) -> Any:
    """Puts arrays on the devices of a mesh, a block on each.

    Args:
        mesh: the devices.
        tree: a pytree of host arrays `[n, ...]`; every process holds all of them.

    Returns:
        The same pytree of arrays divided into equal blocks along their first axis.
    """
    return put(split(mesh), tree)


def put_replicated(mesh: Mesh, tree: Any) -> Any:
    """Puts arrays on the devices of a mesh, whole on each.

    Args:
        mesh: the devices.
        tree: a pytree of host arrays; every process holds all of them.

    Returns:
        The same pytree of replicated arrays.
    """
    return put(replicated(mesh), tree)


def fetch(tree: Any) -> Any:
    """Brings arrays, wherever their blocks are, to the host of every process. All processes must call it.

    Args:
        tree: a pytree of arrays.

    Returns:
        The same pytree of whole NumPy arrays.
    """
    whole = lambda leaf: not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated
    get = lambda leaf: jax.device_get(leaf) if whole(leaf) else multihost_utils.process_allgather(leaf, tiled=True)
    return jax.tree.map(get, tree)


def to_host(tree: Any) -> Any:
    """Replicated arrays as a process can use them by itself, without the others.

    Args:
        tree: a pytree of arrays that every device holds whole.

    Returns:
        The same pytree of arrays of this process alone.
    """
    return jax.tree.map(lambda a: a if a.is_fully_addressable else a.addressable_data(0), tree)


class Spread(NamedTuple):
    """How an evaluation gives a chunk of examples to the devices.

    Attributes:
        put: a pytree of host arrays `[n, ...]` -> the same on the devices.
        multiple: the size n of a chunk must be a multiple of this.
    """

    put: Callable[[Any], Any] = lambda tree: tree
    multiple: int = 1


ONE_DEVICE = Spread()


def spread(mesh: Mesh) -> Spread:
    """How chunks are divided over the devices of a mesh.

    Args:
        mesh: the devices.

    Returns:
        The function that puts a chunk there, and what its size must be a multiple of.
    """
    return Spread(partial(put_split, mesh), mesh.size)


def device_program(
    function: Callable, mesh: Mesh, in_specs: Any, out_specs: Any, donate: int | tuple[int, ...] = ()
) -> Callable:
    """One compiled program that every device runs on its own blocks.

    Args:
        function: of blocks; it reaches the other devices through `axis(mesh)`.
        mesh: the devices.
        in_specs: partition specs of its arguments, as `jax.shard_map` takes them.
        out_specs: partition specs of its results.
        donate: numbers of the arguments whose memory the results may take.

    Returns:
        The compiled function of whole arrays.
    """
    if mesh.size == 1:
        places = {"in_shardings": shardings(mesh, in_specs), "out_shardings": shardings(mesh, out_specs)}
        return jax.jit(function, donate_argnums=donate, **places)
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs), donate_argnums=donate)


def shardings(mesh, specs):
    """Partition specs -> shardings, leaf by leaf."""
    is_spec = lambda leaf: isinstance(leaf, P)
    return jax.tree.map(partial(NamedSharding, mesh), specs, is_leaf=is_spec)
