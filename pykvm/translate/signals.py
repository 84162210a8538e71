"""Signals of the host's processor in emitted code: they become the guest's exceptions, not the process's end.

A division by zero, an operand that isn't aligned, a floating-point exception: emitted code lets the host's
processor find them. The handler is emitted code too (runtime.py), as Python's run too late.
"""

from __future__ import annotations

import ctypes
import signal
from ctypes import POINTER, Structure, byref, c_int, c_ulong, c_void_p

from pykvm.libc.calls import LIBC, os_error

SA_SIGINFO = 4
SA_NODEFER = 0x4000_0000
CAUGHT = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP)


class _Action(Structure):
    """struct sigaction of glibc on x86-64 (<bits/sigaction.h>)."""

    _fields_ = (
        ("sa_sigaction", c_void_p),
        ("sa_mask", c_ulong * 16),
        ("sa_flags", c_int),
        ("sa_restorer", c_void_p),
    )


_sigaction = LIBC.sigaction
_sigaction.argtypes = (c_int, POINTER(_Action), POINTER(_Action))
_sigaction.restype = c_int


class Handlers:
    """``handler``, an address, in the place of the process's for CAUGHT, until ``close``."""

    def __init__(self, handler: int) -> None:
        self._before: list[tuple[int, _Action]] = []
        for number in CAUGHT:
            action, before = _Action(), _Action()
            action.sa_sigaction = handler
            action.sa_flags = SA_SIGINFO | SA_NODEFER
            if _sigaction(number, byref(action), byref(before)) != 0:
                raise os_error("sigaction")
            self._before.append((number, before))

    def close(self) -> None:
        while self._before:
            number, before = self._before.pop()
            _sigaction(number, byref(before), None)


__all__ = ["CAUGHT", "Handlers", "ctypes"]
