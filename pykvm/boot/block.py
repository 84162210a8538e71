"""Structures that point to each other, laid out in guest memory: what boot protocols hand to a kernel."""

from __future__ import annotations

from pykvm.boot import lowmem
from pykvm.boot.places import Range
from pykvm.errors import InputError
from pykvm.memory.layout import HIGH_RAM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.boot.places import Places

LOADER_NAME = b"pykvm"
ALIGNMENT = 16


class Block:
    """Bytes that will lie at ``base``; ``add`` gives addresses."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.data = bytearray()

    def add(self, data: bytes, align: int = 4) -> int:
        """Append ``data``, aligned; returns its address."""
        self.data += bytes(-len(self.data) % align)
        at = self.base + len(self.data)
        self.data += data
        return at

    def text(self, data: bytes) -> int:
        """Append a zero-terminated string; returns its address."""
        return self.add(data + b"\0", 1)


def place(places: Places, where: str, fill: Callable[[Block], None]) -> int:
    """Put what ``fill`` writes into memory, and return its address: low, as kernels expect it, else high.

    ``fill`` is called twice: how much it writes may not depend on the address. Raises InputError about
    the image ``where``.
    """
    measured = Block(0)
    fill(measured)
    size = len(measured.data)
    low = lowmem.INFORMATION
    gpa = places.find(size, align=ALIGNMENT, floor=low.gpa, ceiling=low.end)
    if gpa is None:
        gpa = places.find(size, align=ALIGNMENT, floor=HIGH_RAM)
    if gpa is None:
        raise InputError(
            f"{size} bytes of boot information fit nowhere beside the kernel",
            where=where,
            remedy="set memory to more",
        )
    places.take(Range(name=low.name, gpa=gpa, size=size), where)
    block = Block(gpa)
    fill(block)
    places.memory.write(gpa, block.data)
    return gpa


def check_cmdline(cmdline: bytes) -> bytes:
    """``cmdline``, which is to be a zero-terminated string. Raises InputError."""
    if b"\0" in cmdline:
        raise InputError("holds a NUL, where the kernel would take it to end", where="kernel.cmdline")
    return cmdline
