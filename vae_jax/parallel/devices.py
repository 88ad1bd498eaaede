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
from typing import NamedTuple

import jax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vae_jax.errors import DeviceError

AXIS = "devices"


class Axis(NamedTuple):
    """What a step needs to know of the devices beside it."""

    vary: Callable  # marks replicated values as this device's own, so that their gradient is this device's share
    sum: Callable  # over the devices
    gather: Callable  # [b, ...] of each device -> [B, ...] on all


NO_AXIS = Axis(vary=lambda tree: tree, sum=lambda tree: tree, gather=lambda tree: tree)

# Without pcast the gradient of a replicated value under shard_map is already summed over devices, and summing it again
# makes it D times too large: Adam hides that, SGD does not.
DEVICES = Axis(
    vary=lambda tree: jax.lax.pcast(tree, AXIS, to="varying"),
    sum=lambda tree: jax.lax.psum(tree, AXIS),
    gather=lambda tree: jax.lax.all_gather(tree, AXIS, tiled=True),
)


def axis(mesh):
    """What a step needs to know of the devices of `mesh`; summed over one, gradients would be copied for nothing."""
    return DEVICES if mesh.size > 1 else NO_AXIS


def make_mesh(num_devices=0):
    """A mesh of the first `num_devices` devices (0: all) over the axis 'devices'."""
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
    told = jax.config.jax_num_cpu_devices > 0 or "xla_force_host_platform_device_count" in os.environ.get(
        "XLA_FLAGS", ""
    )
    if not told:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        jax.config.update("jax_num_cpu_devices", cores)


def free_bytes(mesh):
    """Memory that is free for each device of a mesh, a CPU's divided by them; None where that cannot be known."""
    device = mesh.devices.flat[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    try:
        available = re.search(r"MemAvailable:\s+(\d+) kB", pathlib.Path("/proc/meminfo").read_text())
    except OSError:
        return None
    return int(available[1]) * 1024 // mesh.size if available else None


def program_bytes(compiled):
    """What a compiled program takes of each device's memory: arguments, results and what lies between."""
    memory = compiled.memory_analysis()
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return kept + memory.temp_size_in_bytes


def largest_divisor(num_streams):
    """How many of the devices there are `num_streams` streams can be shared by, equally many of every process."""
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
    """A pytree of host arrays that every process holds, of which each gives its own devices their blocks."""
    if place.is_fully_addressable:
        return jax.device_put(tree, place)
    return jax.tree.map(lambda a: jax.make_array_from_callback(a.shape, place, lambda block: a[block]), tree)


def put_split(mesh, tree):
    """A pytree of host arrays, each `[n, ...]` divided into equal blocks over the devices."""
    return put(split(mesh), tree)


def put_replicated(mesh, tree):
    """A pytree of host arrays, whole on every device."""
    return put(replicated(mesh), tree)


def fetch(tree):
    """A pytree of arrays, wherever their blocks are, whole on the host of every process."""
    whole = lambda leaf: not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated
    get = lambda leaf: jax.device_get(leaf) if whole(leaf) else multihost_utils.process_allgather(leaf, tiled=True)
    return jax.tree.map(get, tree)


def to_host(tree):
    """A pytree of replicated arrays as a process can use them by itself, without the others."""
    return jax.tree.map(lambda a: a if a.is_fully_addressable else a.addressable_data(0), tree)


class Spread(NamedTuple):
    """How an evaluation gives a chunk of examples to the devices."""

    put: Callable = lambda tree: tree
    multiple: int = 1  # the size of a chunk must be a multiple of this


ONE_DEVICE = Spread()


def spread(mesh):
    """Chunks divided over the devices of a mesh."""
    return Spread(partial(put_split, mesh), mesh.size)


def device_program(function, mesh, in_specs, out_specs, donate=()):
    """`function` as one compiled program that every device runs on its blocks; `donate` names arguments given up.

    What it does with the devices beside it goes through `axis(mesh)`.
    """
    if mesh.size == 1:
        places = {"in_shardings": shardings(mesh, in_specs), "out_shardings": shardings(mesh, out_specs)}
        return jax.jit(function, donate_argnums=donate, **places)
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs), donate_argnums=donate)


def shardings(mesh, specs):
    """Partition specs -> shardings, leaf by leaf."""
    is_spec = lambda leaf: isinstance(leaf, P)
    return jax.tree.map(partial(NamedSharding, mesh), specs, is_leaf=is_spec)
