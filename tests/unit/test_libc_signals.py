"""Signals that only interrupt: the system call ends, and the main thread doesn't hear of it."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from errno import EINTR

import pytest

from pykvm.libc.calls import LIBC
from pykvm.libc.signals import only_interrupt

SIGNAL = signal.SIGRTMIN + 5
TIMES = 100


@pytest.fixture
def signalled():
    """What set_wakeup_fd tells of while ``SIGNAL`` only interrupts."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    before = signal.getsignal(SIGNAL)
    only_interrupt(SIGNAL)
    wakeup = signal.set_wakeup_fd(writer)
    yield reader
    signal.set_wakeup_fd(wakeup)
    signal.signal(SIGNAL, before)
    os.close(reader)
    os.close(writer)


def test_it_ends_a_threads_system_call_and_wakes_nobody_else(signalled):
    reader, writer = os.pipe()
    ended = []

    def wait() -> None:
        ended.append((LIBC.read(reader, ctypes.create_string_buffer(1), 1), ctypes.get_errno()))

    thread = threading.Thread(target=wait)
    thread.start()
    for _ in range(TIMES):  # the first may come before the call
        signal.pthread_kill(thread.ident, SIGNAL)
        thread.join(0.05)
        if not thread.is_alive():
            break
    os.write(writer, b"x")
    thread.join()
    os.close(reader)
    os.close(writer)
    assert ended == [(-1, EINTR)]
    with pytest.raises(BlockingIOError):
        os.read(signalled, 1)


def test_the_number_of_no_signal_is_an_error():
    with pytest.raises(OSError):
        only_interrupt(1000)
