"""SIGTERM (preemption) and Ctrl-C while training: the steps under way are finished and saved, then the run stops."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator

from vae_jax.parallel import processes

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def caught() -> Iterator[Callable[[], int]]:
    """Yields asked() -> the number of the first signal of SIGNALS, 0 before; a second one ends the process at once.

    A thread hears of them, since the main thread may be in a compiled program for long. Nothing is caught outside the
    main thread, where Python allows no handlers; a signal that is ignored stays so.
    """
    kept = {number: signal.getsignal(number) for number in SIGNALS}
    kept = {number: handler for number, handler in kept.items() if handler not in (signal.SIG_IGN, None)}
    if threading.current_thread() is not threading.main_thread() or not kept:
        yield lambda: 0
        return
    received: list[int] = []
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    listener = threading.Thread(target=listen, args=(reader, received), daemon=True)
    listener.start()
    for number in kept:
        signal.signal(number, lambda *_: None)  # the bytes of wake-ups say all
    try:
        yield lambda: received[0] if received else 0
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before)
        writer.close()
        listener.join()
        reader.close()


def listen(reader: socket.socket, received: list[int]) -> None:
    """Appends to `received` the signals whose numbers come as bytes, until there are no more."""
    while byte := reader.recv(1):
        if received:
            os._exit(128 + byte[0])
        received.append(byte[0])
        name = signal.Signals(byte[0]).name
        print(f"\n{name}: the steps under way are finished and saved; again, it stops at once", file=sys.stderr)


def agreed(asked: int) -> int:
    """The number of a signal that any process was sent, the same on all; they must all come here."""
    return max(map(int, processes.exchange(str(asked))))
