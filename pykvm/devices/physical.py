"""Guest-physical addresses as an instruction's operand reaches them: memory, else the devices on the bus."""

from __future__ import annotations

from pykvm.devices.bus import MemoryBus
from pykvm.memory.words import Words

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading

    from pykvm.devices.bus import Reader, Writer
    from pykvm.devices.lapic import LocalApic
    from pykvm.memory import GuestMemory

PAGE = 0x1000
WIDEST = 8
"""Bytes of the widest single access on the bus; KVM cuts wider operands into such, too."""


class PhysicalMemory(Words):
    """``memory``, and ``mmio`` where none is or where it takes no writes.

    For instructions that pykvm carries out itself (``x86.execute``). ``lock`` is the device lock, held for
    each access to the bus; whoever calls must not hold it.
    """

    def __init__(self, memory: GuestMemory, mmio: MemoryBus, lock: threading.Lock) -> None:
        self.memory = memory
        self.mmio = mmio
        self.lock = lock
        self.region_at = memory.region_at

    def read(self, gpa: int, size: int) -> bytes:
        """``size`` bytes within one page."""
        if self.region_at(gpa) is not None:
            return self.memory.read(gpa, size)
        with self.lock:
            return b"".join(
                self.mmio.read(gpa + start, length).to_bytes(length, "little")
                for start, length in _accesses(gpa, size)
            )

    def write(self, gpa: int, data: bytes) -> None:
        """Write within one page."""
        region = self.region_at(gpa)
        if region is not None and not region.readonly:
            self.memory.write(gpa, data)
            self.wrote(gpa, len(data))
            return
        with self.lock:
            for start, length in _accesses(gpa, len(data)):
                self.mmio.write(gpa + start, length, int.from_bytes(data[start : start + length], "little"))

    def wrote(self, gpa: int, size: int) -> None:
        """Memory has been written."""


def _accesses(gpa: int, size: int) -> list[tuple[int, int]]:
    """Start and length of each access to the bus: up to the next multiple of WIDEST, then WIDEST each."""
    found, start = [], 0
    while start < size:
        length = min(size - start, WIDEST - (gpa + start) % WIDEST)
        found.append((start, length))
        start += length
    return found


class ApicFirst(MemoryBus):
    """The memory bus as one CPU sees it: its local APIC lies over what else is there."""

    def __init__(self, apic: LocalApic, bus: MemoryBus) -> None:
        super().__init__()
        self.on_change = bus.on_change
        self._apic = apic
        self._bus = bus

    def reader(self, gpa: int, size: int) -> tuple[Reader, int]:
        page = self._apic.page
        if page is not None and page <= gpa and gpa + size <= page + PAGE:
            return self._apic.read, gpa - page
        return self._bus.reader(gpa, size)

    def writer(self, gpa: int, size: int) -> tuple[Writer, int]:
        page = self._apic.page
        if page is not None and page <= gpa and gpa + size <= page + PAGE:
            return self._apic.write, gpa - page
        return self._bus.writer(gpa, size)

    def read(self, gpa: int, size: int) -> int:
        page = self._apic.page
        if page is not None and page <= gpa and gpa + size <= page + PAGE:
            return self._apic.read(gpa - page, size) & (1 << 8 * size) - 1
        return self._bus.read(gpa, size)

    def write(self, gpa: int, size: int, value: int) -> None:
        page = self._apic.page
        if page is not None and page <= gpa and gpa + size <= page + PAGE:
            self._apic.write(gpa - page, size, value)
        else:
            self._bus.write(gpa, size, value)
