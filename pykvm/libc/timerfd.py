"""timerfd(2) by ctypes: Python has it from 3.13 on."""

from __future__ import annotations

import ctypes
import os
import time
from ctypes import POINTER, Structure, byref, c_int, c_long

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
_settime.argtypes = (c_int, c_int, POINTER(itimerspec), ctypes.c_void_p)
_settime.restype = c_int


def create() -> int:
    """A timer's descriptor on the clock of ``time.monotonic_ns``; readable once it has expired."""
    fd: int = _create(time.CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
    if fd < 0:
        raise os_error("timerfd_create")
    return fd


def settime(fd: int, when: int) -> None:
    """Let ``fd`` expire once, at ``when`` in nanoseconds; a time that has passed is at once."""
    seconds, nanoseconds = divmod(max(when, 1), 1_000_000_000)
    value = itimerspec(timespec(0, 0), timespec(seconds, nanoseconds))
    if _settime(fd, TFD_TIMER_ABSTIME, byref(value), None) != 0:
        raise os_error("timerfd_settime")


def drain(fd: int) -> None:
    """Take note of an expiry, so that ``fd`` is readable no longer."""
    try:
        os.read(fd, 8)
    except BlockingIOError:  # set anew since it expired
        return
