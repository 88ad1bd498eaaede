"""SIGTERM and Ctrl-C: the first is remembered, the second ends the process."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from vae_jax.training import stop


@pytest.fixture(autouse=True)
def not_ignored():
    """What a shell starts in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def wait_for(asked):
    until = time.monotonic() + 5
    while not asked() and time.monotonic() < until:
        time.sleep(0.001)
    return asked()


@pytest.mark.parametrize("number", stop.SIGNALS)
def test_the_first_signal_is_remembered_and_handlers_come_back(number, capsys):
    before = signal.getsignal(number)
    with stop.caught() as asked:
        assert asked() == 0
        os.kill(os.getpid(), number)
        assert wait_for(asked) == number
    assert asked() == number and signal.getsignal(number) is before
    assert signal.Signals(number).name in capsys.readouterr().err


def test_what_is_ignored_stays_ignored():
    """As a shell starts what runs in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop.caught():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_nothing_is_caught():
    def enter():
        with stop.caught() as asked:
            seen.append(asked())

    seen = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [0]


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_second_ends_the_process_without_a_traceback(number, status):
    """Though the main thread never comes back from its work; a thread hears of it."""
    code = """
import signal, time
from vae_jax.training import stop
signal.signal(signal.SIGINT, signal.default_int_handler)
with stop.caught():
    print(flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.send_signal(number)
    process.stderr.readline(), process.stderr.readline()  # an empty line and what the first does
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == status and "Traceback" not in out + err
