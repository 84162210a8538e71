"""Guest-physical memory as the interpreter reaches it: RAM, else the local APIC, else the memory bus.

A write to a page with translated code is told to ``on_write`` after it.
"""

from __future__ import annotations

from pykvm.devices.physical import ApicFirst, PhysicalMemory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pykvm.devices.bus import MemoryBus, PortBus
    from pykvm.devices.lapic import LocalApic
    from pykvm.memory import GuestMemory


class Physical(PhysicalMemory):
    """The memory below the PCI hole by the shortest way. The CPU's own APIC comes by ``connect``."""

    def __init__(
        self, memory: GuestMemory, bus: MemoryBus, on_write: Callable[[int, int], object], lock: Any
    ) -> None:
        super().__init__(memory, bus, lock)
        self._on_write = on_write
        self._low = memory.regions[0].view
        self._low_end = memory.low_end if memory.regions[0].end == memory.low_end else 0
        self.low_words = self._low.cast("Q")
        self.view = memory.view

    def connect(self, apic: LocalApic) -> None:
        self.mmio = ApicFirst(apic, self.mmio)

    def read(self, gpa: int, size: int) -> bytes:
        if gpa + size <= self._low_end:
            return bytes(self._low[gpa : gpa + size])
        return super().read(gpa, size)

    def write(self, gpa: int, data: bytes) -> None:
        if gpa + len(data) <= self._low_end:
            self._low[gpa : gpa + len(data)] = data
            self._on_write(gpa, len(data))
        else:
            super().write(gpa, data)

    def wrote(self, gpa: int, size: int) -> None:
        self._on_write(gpa, size)

    def is_device(self, gpa: int) -> bool:
        """No RAM is there, nor ROM: the local APIC, a device, or nothing."""
        return gpa >= self._low_end and self.region_at(gpa) is None

    def read_device(self, gpa: int, size: int) -> int:
        """An aligned read of 1, 2, 4 or 8 bytes where ``is_device``."""
        with self.lock:
            return self.mmio.read(gpa, size)

    def write_device(self, gpa: int, size: int, value: int) -> None:
        with self.lock:
            self.mmio.write(gpa, size, value)


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
