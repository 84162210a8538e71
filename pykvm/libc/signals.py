"""A signal that does nothing but end the system call which its thread is in."""

from __future__ import annotations

import signal
from ctypes import c_int, c_void_p, cast

from pykvm.libc.calls import LIBC, os_error

_signal = LIBC.signal
_signal.argtypes = (c_int, c_void_p)
_signal.restype = c_void_p
SIG_ERR = c_void_p(-1).value


def only_interrupt(number: int) -> None:
    """Let signal ``number`` end a thread's system call with EINTR, and have no other effect.

    Each signal that has a handler of Python's, or that set_wakeup_fd tells of, wakes the main thread. So the
    handler is one of C's that takes a number and changes nothing: abs(3). ``signal.signal`` takes it away.
    """
    if _signal(number, cast(LIBC.abs, c_void_p)) == SIG_ERR:
        raise os_error("signal")
    signal.siginterrupt(number, True)  # signal(3) would have the call begun again
