"""Several processes, on one machine or many, that train one model: joined by `jax.distributed`.

All of them run one program on the devices of all; what only one may do, such as writing, the first does through
`on_first`. For a process by itself every function here does nothing but call its argument.
"""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from vae_jax.errors import DeviceError
from vae_jax.parallel import devices

T = TypeVar("T")


class Launch(NamedTuple):
    """How to find the other processes; jax.distributed finds out from the cluster what is None.

    Attributes:
        coordinator: HOST:PORT, where the first process listens.
        num_processes: how many there are.
        process_id: which of them this one is.
    """

    coordinator: str | None
    num_processes: int | None
    process_id: int | None


def launch(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Launch | None:
    """How to find the other processes: from the arguments, else JAX_* of the environment, else from the launcher.

    Args:
        coordinator: HOST:PORT, or 'auto' for what jax.distributed detects; None: JAX_COORDINATOR_ADDRESS.
        num_processes: how many there are; None: JAX_NUM_PROCESSES.
        process_id: which of them this one is; None: JAX_PROCESS_ID.
        environment: variables, by default those of the process; a launcher says by some that it has started several.

    Returns:
        What `connect` needs, or None for a process by itself.

    Raises:
        DeviceError: an address or a number that is none.
    """
    environment = os.environ if environment is None else environment
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


def connect(found: Launch, heartbeat: int, timeout: int) -> None:
    """Joins the other processes. When one is missing or dead jax aborts the rest, which no `except` catches.

    Args:
        found: how to find them.
        heartbeat: seconds of silence after which a process counts as dead.
        timeout: seconds to wait for the others at the start.

    Raises:
        DeviceError: jax knows too little to begin.
    """
    jax.config.update("jax_enable_preemption_service", False)  # it would keep SIGTERM from ending a process
    loopback = re.match(r"(127\.|localhost:)", found.coordinator or "")
    try:
        jax.distributed.initialize(
            found.coordinator,
            found.num_processes,
            found.process_id,
            initialization_timeout=timeout,
            coordinator_bind_address=found.coordinator if loopback else None,  # otherwise on every interface
            heartbeat_timeout_seconds=heartbeat,
            shutdown_timeout_seconds=heartbeat,
        )
    except (ValueError, TypeError, RuntimeError) as error:
        missing = "; give --coordinator=HOST:PORT, --num_processes and --process_id" if None in found else ""
        raise DeviceError(f"jax.distributed cannot start: {str(error).splitlines()[0]}{missing}") from error


def several() -> bool:
    """Whether this process is one of several. Starts jax's backend only if it is."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def first() -> bool:
    """Whether this is the process that writes and talks."""
    return not several() or jax.process_index() == 0


def greet(mesh):
    """A first sum over the devices of a mesh, at a point that all processes reach at the same time.

    The first collective of a set of devices fails if a process is late, with gloo by 30 s; later ones wait.
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


def everywhere(function: Callable[[], T]) -> T:
    """Calls a function on every process; if it fails on one, all raise, so that none waits for another for ever.

    Args:
        function: without arguments. All processes must call.

    Returns:
        The result on this process.

    Raises:
        DeviceError: it failed on another process; what it raises itself is raised as it is.
    """
    if not several():
        return function()
    result: Any = None
    failure = None
    try:
        result = function()
    except Exception as error:  # of any kind: the others must be told
        failure = error
    messages = exchange("" if failure is None else str(failure) or type(failure).__name__)
    if failure is not None:
        raise failure
    for process, message in enumerate(messages):
        if message:
            raise DeviceError(f"process {process}: {message}")
    return result


def on_first(function: Callable[[], T]) -> T | None:
    """Calls a function on the first process while the others wait.

    Args:
        function: without arguments. All processes must call.

    Returns:
        The result on the first process, None on the others.

    Raises:
        DeviceError: it failed on the first process; there what it raises is raised as it is.
    """
    return everywhere(lambda: function() if first() else None)


def in_turn(function: Callable[[], T]) -> T:
    """Calls a function on the first process, then on the others, which find what it left on disk, such as a download.

    Args:
        function: without arguments. All processes must call.

    Returns:
        The result on this process.

    Raises:
        DeviceError: it failed on another process; what it raises itself is raised as it is.
    """
    made: Any = on_first(function)
    return everywhere(lambda: made if first() else function())


def agreed(function: Callable[[], Any]) -> bool:
    """Whether `function()` is true on the first process; the same answer on all."""
    return exchange(str(bool(on_first(function))))[0] == "True"


def require_same(value: str, way: str) -> None:
    """Raises DeviceError on every process unless all have the same `value`; `way` is the line's advice."""
    values = exchange(value)
    for process, other in enumerate(values):
        if other != values[0]:
            raise DeviceError(f"process {process} has {other}, process 0 has {values[0]}: {way}")
