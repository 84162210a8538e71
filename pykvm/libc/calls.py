"""System calls by ctypes: ioctl, and mmap with the flags that Python's mmap module of 3.11 lacks.

Each function has its argument types declared, so that a 64-bit value is never cut to an int, and
raises OSError with the errno of the call.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import c_int, c_long, c_size_t, c_ulong, c_void_p, get_errno

LIBC = ctypes.CDLL(None, use_errno=True)

PROT_READ = 1
PROT_WRITE = 2
PROT_EXEC = 4
MAP_SHARED = 0x01
MAP_PRIVATE = 0x02
MAP_ANONYMOUS = 0x20
MAP_NORESERVE = 0x4000
MAP_FAILED = c_void_p(-1).value
MADV_DONTNEED = 4
MADV_HUGEPAGE = 14
MADV_DONTDUMP = 16

# One object a type of third argument: a structure's address, and a plain number.
ioctl = LIBC.ioctl
ioctl.argtypes = (c_int, c_ulong, c_void_p)
ioctl.restype = c_int

# KVM_RUN's. Without declared types ctypes takes a plain int for a C int and None for NULL, at once; with
# them it calls each type to convert its argument, which costs 0.15 µs more. A descriptor and a request
# fit in an int, and the third argument may only be None.
untyped_ioctl = LIBC["ioctl"]

_mmap = LIBC.mmap
_mmap.argtypes = (c_void_p, c_size_t, c_int, c_int, c_int, c_long)
_mmap.restype = c_void_p
_munmap = LIBC.munmap
_munmap.argtypes = (c_void_p, c_size_t)
_munmap.restype = c_int
_madvise = LIBC.madvise
_madvise.argtypes = (c_void_p, c_size_t, c_int)
_madvise.restype = c_int


def os_error(what: str) -> OSError:
    """The OSError of the call that has just failed in this thread."""
    number = get_errno()
    return OSError(number, os.strerror(number), what)


class Mapping:
    """A range of this process's address space: ``address``, ``size`` and a writable ``view``.

    The view is made from the address, so nothing pins the mapping: whoever made it closes it after
    the last view is out of use. Raises OSError (ENOMEM where the host has no room).
    """

    def __init__(self, size: int, prot: int, flags: int, fd: int = -1) -> None:
        address = _mmap(None, size, prot, flags, fd, 0)
        if address == MAP_FAILED or address is None:
            raise os_error("mmap")
        self.address: int = address
        self.size = size
        self.view = memoryview((ctypes.c_ubyte * size).from_address(address)).cast("B")

    def advise(self, advice: int, offset: int = 0, size: int | None = None) -> None:
        """madvise(2) on ``size`` bytes at ``offset``; both multiples of the page size."""
        if _madvise(self.address + offset, self.size - offset if size is None else size, advice) != 0:
            raise os_error("madvise")

    def close(self) -> None:
        """Unmap; twice is once. Every view made of this mapping is dead afterwards."""
        if self.address:
            self.view.release()
            _munmap(self.address, self.size)
            self.address = 0


def anonymous(size: int) -> Mapping:
    """``size`` bytes of zeros that cost host memory only where they are touched.

    Private, so that a forked child gets a copy and not its parent's guest; without reservation, so
    that a guest may be given more than is free just now.
    """
    return Mapping(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)


def shared(fd: int, size: int) -> Mapping:
    """``size`` bytes of the file ``fd``, written by both sides (KVM's run page)."""
    return Mapping(size, PROT_READ | PROT_WRITE, MAP_SHARED, fd)
