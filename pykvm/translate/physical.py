"""Guest-physical memory as the interpreter reaches it: RAM, else the local APIC, else the memory bus.

A write to a page with translated code is told to ``on_write`` after it.
"""

from __future__ import annotations

from pykvm.memory.words import Words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pykvm.devices.bus import MemoryBus, PortBus
    from pykvm.memory import GuestMemory, Region

PAGE = 0x1000
WIDEST = 8


class Physical(Words):
    """``flags`` has a byte for each page of RAM, by ``number``."""

    def __init__(
        self, memory: GuestMemory, bus: MemoryBus, on_write: Callable[[int, int], object], lock: Any
    ) -> None:
        self._memory = memory
        self._bus = bus
        self._on_write = on_write
        self._lock = lock
        self.apic: Any = None
        self._low = memory.regions[0].view
        self._low_end = memory.low_end if memory.regions[0].end == memory.low_end else 0
        self.low_words = self._low.cast("Q")

    def view(self, gpa: int, size: int) -> memoryview:
        """RAM, to read."""
        return self._memory.view(gpa, size)

    def region_at(self, gpa: int) -> Region | None:
        return self._memory.region_at(gpa)

    def read(self, gpa: int, size: int) -> bytes:
        """``size`` bytes within one page."""
        if gpa + size <= self._low_end:
            return bytes(self._low[gpa : gpa + size])
        if self._memory.region_at(gpa) is not None:
            return self._memory.read(gpa, size)
        with self._lock:
            return b"".join(
                self._device_read(gpa + at, length).to_bytes(length, "little")
                for at, length in _accesses(gpa, size)
            )

    def write(self, gpa: int, data: bytes) -> None:
        """Write within one page."""
        if gpa + len(data) <= self._low_end:
            self._low[gpa : gpa + len(data)] = data
            self._on_write(gpa, len(data))
            return
        region = self._memory.region_at(gpa)
        if region is not None:
            if not region.readonly:
                self._memory.write(gpa, data)
                self._on_write(gpa, len(data))
            return
        with self._lock:
            for at, length in _accesses(gpa, len(data)):
                self._device_write(gpa + at, length, int.from_bytes(data[at : at + length], "little"))

    def is_device(self, gpa: int) -> bool:
        """No RAM is there, nor ROM: the local APIC, a device, or nothing."""
        return gpa >= self._low_end and self._memory.region_at(gpa) is None

    def read_device(self, gpa: int, size: int) -> int:
        """An aligned read of 1, 2, 4 or 8 bytes where ``is_device``."""
        with self._lock:
            return self._device_read(gpa, size)

    def write_device(self, gpa: int, size: int, value: int) -> None:
        with self._lock:
            self._device_write(gpa, size, value)

    def _device_read(self, gpa: int, size: int) -> int:
        page = self.apic.page if self.apic is not None else None
        if page is not None and page <= gpa < page + PAGE:
            return int(self.apic.read(gpa - page, size)) & (1 << 8 * size) - 1
        return self._bus.read(gpa, size)

    def _device_write(self, gpa: int, size: int, value: int) -> None:
        page = self.apic.page if self.apic is not None else None
        if page is not None and page <= gpa < page + PAGE:
            self.apic.write(gpa - page, size, value)
        else:
            self._bus.write(gpa, size, value)


class LockedPorts:
    """The port bus, for the interpreter: under the device lock."""

    def __init__(self, bus: PortBus, lock: Any) -> None:
        self._bus = bus
        self._lock = lock

    def read(self, port: int, size: int) -> int:
        with self._lock:
            return self._bus.read(port, size)

    def write(self, port: int, size: int, value: int) -> None:
        with self._lock:
            self._bus.write(port, size, value)


def _accesses(gpa: int, size: int) -> list[tuple[int, int]]:
    """Start and length of each access to the bus: up to the next multiple of WIDEST, then WIDEST each."""
    found, start = [], 0
    while start < size:
        length = min(size - start, WIDEST - (gpa + start) % WIDEST)
        found.append((start, length))
        start += length
    return found
