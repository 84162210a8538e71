"""Guest-physical addresses as an instruction's operand reaches them: memory, else the devices on the bus."""

from __future__ import annotations

from pykvm.memory.words import Words

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading

    from pykvm.devices.bus import MemoryBus
    from pykvm.memory import GuestMemory

WIDEST = 8
"""Bytes of the widest single access on the bus; KVM cuts wider operands into such, too."""


class PhysicalMemory(Words):
    """``memory``, and ``mmio`` where none is or where it takes no writes.

    For instructions that pykvm carries out itself (``x86.execute``). ``lock`` is the device lock, held for
    each access to the bus; whoever calls must not hold it.
    """

    def __init__(self, memory: GuestMemory, mmio: MemoryBus, lock: threading.Lock) -> None:
        self._memory = memory
        self._mmio = mmio
        self._lock = lock

    def read(self, gpa: int, size: int) -> bytes:
        """``size`` bytes within one page."""
        if self._memory.region_at(gpa) is not None:
            return self._memory.read(gpa, size)
        with self._lock:
            return b"".join(
                self._mmio.read(gpa + start, length).to_bytes(length, "little")
                for start, length in _accesses(gpa, size)
            )

    def write(self, gpa: int, data: bytes) -> None:
        """Write within one page."""
        region = self._memory.region_at(gpa)
        if region is not None and not region.readonly:
            self._memory.write(gpa, data)
            return
        with self._lock:
            for start, length in _accesses(gpa, len(data)):
                self._mmio.write(gpa + start, length, int.from_bytes(data[start : start + length], "little"))


def _accesses(gpa: int, size: int) -> list[tuple[int, int]]:
    """Start and length of each access to the bus: up to the next multiple of WIDEST, then WIDEST each."""
    found, start = [], 0
    while start < size:
        length = min(size - start, WIDEST - (gpa + start) % WIDEST)
        found.append((start, length))
        start += length
    return found
