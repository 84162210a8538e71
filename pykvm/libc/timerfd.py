"""timerfd(2) by ctypes: Python has it from 3.13 on."""

from __future__ import annotations

import os
import time
from ctypes import Structure, addressof, c_int, c_long, c_void_p

from pykvm.libc.calls import LIBC, os_error

TFD_NONBLOCK = 0o4000
TFD_CLOEXEC = 0o2000000
TFD_TIMER_ABSTIME = 1


class timespec(Structure):
    _fields_ = [("tv_sec", c_long), ("tv_nsec", c_long)]


class itimerspec(Structure):
    _fields_ = [("it_interval", timespec), ("it_value", timespec)]


_create = LIBC.timerfd_create
_create.argtypes = (c_int, c_int)
_create.restype = c_int
_settime = LIBC.timerfd_settime
_settime.argtypes = (c_int, c_int, c_void_p, c_void_p)
_settime.restype = c_int


class TimerFd:
    """A timer's descriptor, ``fd``, on the clock of ``time.monotonic_ns``; readable once it has expired."""

    def __init__(self) -> None:
        self.fd: int = _create(time.CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
        if self.fd < 0:
            raise os_error("timerfd_create")
        # Made once: a guest's clock is set hundreds of times a second.
        self._value = itimerspec()
        self._when = self._value.it_value
        self._address = addressof(self._value)

    def set(self, when: int) -> None:
        """Expire once, at ``when`` in nanoseconds; a time that has passed is at once."""
        self._when.tv_sec, self._when.tv_nsec = divmod(max(when, 1), 1_000_000_000)
        if _settime(self.fd, TFD_TIMER_ABSTIME, self._address, None) != 0:
            raise os_error("timerfd_settime")

    def drain(self) -> None:
        """Take note of an expiry, so that the descriptor is readable no longer."""
        try:
            os.read(self.fd, 8)
        except BlockingIOError:  # set anew since it expired
            return

    def close(self) -> None:
        os.close(self.fd)
