"""Devices, axes, processes and donation: the one place that knows of them.

The per-device program is pmap's: each device runs the same step on its share of the examples, and gradients are summed
over the axis 'devices'. JAX implements pmap as jit of shard_map today and tells new code to say so, as `device_program`
does. Parameters are replicated; the data and the rows of per-datapoint tables are split into blocks.

Several processes, on one machine or many, run one program on the devices of all of them, joined by `jax.distributed`.
All of them do the same; what only one may do, writing say, the first does through `on_first`. A process that is alone
passes through every function here as if it were not there.
"""

import os
import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

AXIS = "devices"


class DeviceError(ValueError):
    """One readable line: the numbers that do not divide, or the process that cannot go on."""


class Axis(NamedTuple):
    """What a step needs to know of the devices beside it."""

    vary: Callable  # marks replicated values as this device's own, so that their gradient is this device's share
    sum: Callable  # over the devices
    gather: Callable  # [b, ...] of each device -> [B, ...] on all


ALONE = Axis(vary=lambda tree: tree, sum=lambda tree: tree, gather=lambda tree: tree)

# Without pcast the gradient of a replicated value under shard_map is already summed over devices, and summing it again
# makes it D times too large: Adam hides that, SGD does not.
DEVICES = Axis(
    vary=lambda tree: jax.lax.pcast(tree, AXIS, to="varying"),
    sum=lambda tree: jax.lax.psum(tree, AXIS),
    gather=lambda tree: jax.lax.all_gather(tree, AXIS, tiled=True),
)


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


def here(tree):
    """A pytree of replicated arrays as a process can use them by itself, without the others."""
    return jax.tree.map(lambda a: a if a.is_fully_addressable else a.addressable_data(0), tree)


class Spread(NamedTuple):
    """How an evaluation gives a chunk of examples to the devices."""

    put: Callable = lambda tree: tree
    multiple: int = 1  # the size of a chunk must be a multiple of this


HERE = Spread()


def spread(mesh):
    """Chunks divided over the devices of a mesh."""
    return Spread(partial(put_split, mesh), mesh.size)


def device_program(function, mesh, in_specs, out_specs, donate=()):
    """`function` as one compiled program that every device runs on its blocks; `donate` names arguments given up."""
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs), donate_argnums=donate)


def shardings(mesh, specs):
    """Partition specs -> shardings, leaf by leaf."""
    is_spec = lambda leaf: isinstance(leaf, P)
    return jax.tree.map(partial(NamedSharding, mesh), specs, is_leaf=is_spec)


# ---- several processes


class Launch(NamedTuple):
    """How to find the other processes; what is None jax.distributed finds out from the cluster."""

    coordinator: str | None  # HOST:PORT, where the first process listens
    num_processes: int | None
    process_id: int | None


def launch(coordinator=None, num_processes=None, process_id=None, environment=os.environ):
    """A Launch, from what is given and the environment; None for a process by itself. Raises DeviceError.

    coordinator: HOST:PORT, or 'auto' for what jax.distributed detects. Without it JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID, or a launcher that says it has started several processes.
    """
    coordinator = coordinator or environment.get("JAX_COORDINATOR_ADDRESS")
    num_processes = whole_number("JAX_NUM_PROCESSES", environment) if num_processes is None else num_processes
    process_id = whole_number("JAX_PROCESS_ID", environment) if process_id is None else process_id
    asked = coordinator or num_processes or process_id is not None or launched(environment)
    if num_processes == 1 or not asked:
        return None
    if coordinator in (None, "auto"):
        return Launch(None, num_processes, process_id)
    if not re.fullmatch(r"\S+:\d+", coordinator):
        raise DeviceError(f"--coordinator={coordinator}: expected HOST:PORT, the same for every process, or auto")
    return Launch(coordinator, num_processes, process_id)


def launched(environment):
    """Whether Slurm, Open MPI or a TPU pod says that this process is one of several."""
    counts = [environment.get(name, "1") for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")]
    return counts != ["1", "1"] or "," in environment.get("TPU_WORKER_HOSTNAMES", "")


def whole_number(name, environment):
    value = environment.get(name)
    if value and not value.isdigit():
        raise DeviceError(f"{name}={value} in the environment: expected a whole number")
    return int(value) if value else None


def connect(found, heartbeat, timeout):
    """Joins the processes of a Launch; jax aborts those for which others do not come in `timeout` seconds.

    A process that is silent for `heartbeat` seconds is dead, and jax aborts the others, which no `except` catches.
    Raises DeviceError where jax knows too little to begin.
    """
    jax.config.update("jax_enable_preemption_service", False)  # it would keep SIGTERM from ending a process
    loopback = re.match(r"(127\.|localhost:)", found.coordinator or "")
    times = {"heartbeat_timeout_seconds": heartbeat, "shutdown_timeout_seconds": heartbeat}
    try:
        jax.distributed.initialize(
            *found,
            initialization_timeout=timeout,
            coordinator_bind_address=found.coordinator if loopback else None,  # otherwise on every interface
            **times,
        )
    except (ValueError, TypeError, RuntimeError) as error:
        missing = "; give --coordinator=HOST:PORT, --num_processes and --process_id" if None in found else ""
        raise DeviceError(f"jax.distributed cannot start: {str(error).splitlines()[0]}{missing}") from error


def several():
    """Whether this process is one of several. Starts jax's backend only if it is."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def first():
    """Whether this is the process that writes and talks."""
    return not several() or jax.process_index() == 0


def greet(mesh):
    """A first sum over all devices of a mesh, while the processes are abreast.

    The first collective of some devices fails if a process comes late, over gloo by 30 s; those after it wait.
    """
    if several():
        ones = put_split(mesh, np.ones(mesh.size, np.float32))
        jax.block_until_ready(jax.jit(jnp.sum, out_shardings=replicated(mesh))(ones))


LONGEST = 1000  # bytes of a text that processes exchange


def exchange(text):
    """The text of every process, in their order. All must come here, and wait until all have come."""
    if not several():
        return [text]
    line = np.frombuffer(text.encode()[:LONGEST].ljust(LONGEST, b"\0"), np.uint8)
    return [bytes(other).rstrip(b"\0").decode(errors="replace") for other in multihost_utils.process_allgather(line)]


def everywhere(function):
    """`function()` on every process; if it fails on one then all raise, so that none waits for another in vain."""
    if not several():
        return function()
    result, failure = None, None
    try:
        result = function()
    except Exception as error:  # whatever it is, the others must hear of it
        failure = error
    said = exchange("" if failure is None else str(failure) or type(failure).__name__)
    if failure is not None:
        raise failure
    for process, words in enumerate(said):
        if words:
            raise DeviceError(f"process {process}: {words}")
    return result


def on_first(function):
    """`function()` on the first process, for which the others wait; None there."""
    return everywhere(lambda: function() if first() else None)


def in_turn(function):
    """`function()` on the first process, then on the others: what it makes, say a download, they find."""
    made = on_first(function)
    return everywhere(lambda: made if first() else function()) if several() else made


def agreed(function):
    """What `function()` -> bool says on the first process, on all."""
    return exchange(str(bool(on_first(function))))[0] == "True"


def require_same(value, way):
    """Raises DeviceError on every process, with the `way` out, unless all have the same `value`, a text."""
    values = exchange(value)
    for process, other in enumerate(values):
        if other != values[0]:
            raise DeviceError(f"process {process} has {other}, process 0 has {values[0]}: {way}")
