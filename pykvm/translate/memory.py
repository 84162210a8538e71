"""Memory that emitted code needs: its own, the context, and a function that reads the host's TSC."""

from __future__ import annotations

import ctypes

from pykvm.libc.calls import (
    MAP_ANONYMOUS,
    MAP_NORESERVE,
    MAP_PRIVATE,
    PROT_READ,
    PROT_WRITE,
    Mapping,
    anonymous,
)
from pykvm.translate import context
from pykvm.translate.context import SLOT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from array import array

PROT_EXEC = 4


def executable(size: int) -> Mapping:
    """``size`` bytes that can be written and executed. Raises OSError where the host refuses that."""
    return Mapping(size, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)


class ContextMemory:
    """The context (context.py) at ``address``, with its stack below: by bytes, by 4 and by 8."""

    def __init__(self) -> None:
        start = context.STACK_SIZE + context.ALIGNMENT
        self._mapping = anonymous(start + context.CONTEXT_SIZE + 4096)
        self.address = self._mapping.address + start
        self.raw = self._mapping.view[start : start + context.CONTEXT_SIZE]
        self.words = self.raw.cast("Q")
        self.halves = self.raw.cast("I")
        self.fpu = self.raw[SLOT["fpu"] : SLOT["fpu"] + 512]
        self._pins: list[object] = []

    def pin(self, data: bytearray | array[int]) -> int:
        """The address of ``data``, which stays there."""
        size = len(data) * (1 if isinstance(data, bytearray) else data.itemsize)
        pinned = (ctypes.c_char * size).from_buffer(data)
        self._pins.append(pinned)
        return ctypes.addressof(pinned)

    def close(self) -> None:
        for view in (self.fpu, self.halves, self.words, self.raw):
            view.release()
        self._mapping.close()
        self._pins.clear()


class Rdtsc:
    """A function that returns the host's TSC: ``rdtsc; shl rdx, 32; or rax, rdx; ret``."""

    def __init__(self) -> None:
        code = bytes.fromhex("0f31 48c1e220 4809d0 c3")
        self._mapping = executable(4096)
        self._mapping.view[: len(code)] = code
        # It is short: the interpreter's lock is kept.
        self._function = ctypes.PYFUNCTYPE(ctypes.c_uint64)(self._mapping.address)

    def __call__(self) -> int:
        return int(self._function())

    def close(self) -> None:
        self._mapping.close()
