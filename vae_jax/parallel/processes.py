"""Several processes, on one machine or many, that train one model: joined by `jax.distributed`.

All of them run one program on the devices of all; what only one may do, writing say, the first does through `on_first`.
A process that is alone passes through every function here as if it were not there.
"""

import os
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from vae_jax.errors import DeviceError
from vae_jax.parallel import devices


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
        ones = devices.put_split(mesh, np.ones(mesh.size, np.float32))
        jax.block_until_ready(jax.jit(jnp.sum, out_shardings=devices.replicated(mesh))(ones))


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
