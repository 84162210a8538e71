"""The two address spaces of a PC, and the awkward parts of reaching a device in them.

A device sees ``(offset, size, value)`` of accesses that it can take whole. The bus cuts those that
are wider than the device's registers, that straddle two devices or the end of one; it answers
reads of nothing with all ones, as a PC does, and drops writes to nothing.
"""

from __future__ import annotations

from bisect import bisect_right

from pykvm.errors import InternalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from pykvm.devices.device import Device

    Reader = Callable[[int, int], int]
    Writer = Callable[[int, int, int], None]

PORTS = 0x10000

ITEMS: dict[int, Literal["B", "H", "I"]] = {1: "B", 2: "H", 4: "I"}
"""The items of a string by their size, as ``memoryview.cast`` has them; host and guest are little-endian."""


class PortBus:
    """The 64 Ki ports of ``in`` and ``out``.

    ``reads`` and ``writes`` hold, by ``size << 16 | port``, the bound method of the device and
    the offset for each access that the device takes whole. ``reader`` and ``writer`` give that, or
    the bus's own method for all other accesses. Who keeps what they gave adds to ``on_change`` a
    call that forgets it: devices come and go.
    """

    def __init__(self) -> None:
        self.on_change: list[Callable[[], None]] = []
        self.reads: dict[int, tuple[Reader, int]] = {}
        self.writes: dict[int, tuple[Writer, int]] = {}
        self.latches: set[int] = set()
        """Those of ``writes`` of which only the last counts."""
        self.names: dict[int, str] = {}

    def attach(
        self,
        device: Device,
        base: int,
        count: int,
        *,
        width: int = 1,
        offset: int = 0,
        name: str = "",
        latch: bool = False,
    ) -> None:
        """Put ``device`` at ports ``base`` to ``base + count - 1``.

        ``width`` is the widest access in bytes (1, 2 or 4) that the device takes whole; ``offset``
        is what the device calls the first of these ports: one that has several places is attached
        several times. ``latch``: of several writes only the last counts, and it may come late: who writes
        may keep it back until it reaches another device, or stops. Raises InternalError where a port
        doesn't exist or is taken.
        """
        if not 0 <= base < base + count <= PORTS:
            raise InternalError(f"ports {base:#x} to {base + count - 1:#x} do not exist", where="bus")
        taken = [port for port in range(base, base + count) if port in self.names]
        if taken:
            raise InternalError(f"port {taken[0]:#x} belongs to {self.names[taken[0]]}", where="bus")
        for index in range(count):
            self.names[base + index] = name or type(device).__name__.lower()
            for size in (1, 2, 4):
                if size <= width and index + size <= count:
                    key = size << 16 | base + index
                    self.reads[key] = device.read, offset + index
                    self.writes[key] = device.write, offset + index
                    if latch:
                        self.latches.add(key)
        for forget in self.on_change:
            forget()

    def reader(self, port: int, size: int) -> tuple[Reader, int]:
        """What reads ``size`` bytes at ``port`` when it is called with the number beside it and ``size``."""
        return self.reads.get(size << 16 | port, (self.read, port))

    def writer(self, port: int, size: int) -> tuple[Writer, int]:
        """The same for a write."""
        return self.writes.get(size << 16 | port, (self.write, port))

    def read(self, port: int, size: int) -> int:
        """``in`` of ``size`` bytes (1, 2 or 4) at ``port``."""
        entry = self.reads.get(size << 16 | port)
        if entry is not None:
            return entry[0](entry[1], size) & (1 << 8 * size) - 1
        if size == 1:
            return 0xFF
        half = size // 2
        return self.read(port, half) | self.read(port + half & 0xFFFF, half) << 8 * half

    def write(self, port: int, size: int, value: int) -> None:
        """``out`` of ``size`` bytes (1, 2 or 4) at ``port``."""
        entry = self.writes.get(size << 16 | port)
        if entry is not None:
            entry[0](entry[1], size, value)
        elif size > 1:
            half = size // 2
            self.write(port, half, value & (1 << 8 * half) - 1)
            self.write(port + half & 0xFFFF, half, value >> 8 * half)

    def read_string(self, port: int, size: int, data: memoryview) -> None:
        """``ins``: fill ``data``, bytes, with items of ``size`` bytes, in order, all from ``port``."""
        read, place = self.reader(port, size)
        mask = (1 << 8 * size) - 1
        items = data.cast(ITEMS[size])
        for index in range(len(items)):
            items[index] = read(place, size) & mask

    def write_string(self, port: int, size: int, data: memoryview) -> None:
        """``outs``: write the items of ``size`` bytes in ``data``, in order, all to ``port``."""
        write, place = self.writer(port, size)
        for value in data.cast(ITEMS[size]):
            write(place, size, value)


class MemoryBus:
    """Devices in guest-physical addresses where no memory is (MMIO).

    ``reader``, ``writer`` and ``on_change`` are as those of ``PortBus``.
    """

    def __init__(self) -> None:
        self.on_change: list[Callable[[], None]] = []
        self._bases: list[int] = []
        self._ranges: list[tuple[int, int, Device, int, str]] = []

    def attach(self, device: Device, base: int, size: int, *, width: int = 4, name: str = "") -> None:
        """Put ``device`` at guest-physical ``base``, for ``size`` bytes; it takes up to ``width`` whole.

        Raises InternalError where the place is taken.
        """
        for start, end, _, _, other in self._ranges:
            if base < end and start < base + size:
                raise InternalError(f"{base:#x} belongs to {other}", where="bus")
        at = bisect_right(self._bases, base)
        self._bases.insert(at, base)
        label = name or type(device).__name__.lower()
        self._ranges.insert(at, (base, base + size, device, width, label))
        for forget in self.on_change:
            forget()

    def reader(self, gpa: int, size: int) -> tuple[Reader, int]:
        """What reads ``size`` bytes at ``gpa`` when it is called with the number beside it and ``size``."""
        found = self.find(gpa, size)
        return (self.read, gpa) if found is None else (found[0].read, found[1])

    def writer(self, gpa: int, size: int) -> tuple[Writer, int]:
        """The same for a write."""
        found = self.find(gpa, size)
        return (self.write, gpa) if found is None else (found[0].write, found[1])

    def _is_hole(self, gpa: int, size: int) -> bool:
        """No device has any of these bytes."""
        at = bisect_right(self._bases, gpa + size - 1) - 1
        return at < 0 or self._ranges[at][1] <= gpa

    def find(self, gpa: int, size: int) -> tuple[Device, int] | None:
        """The device that takes this access whole, and its offset there."""
        at = bisect_right(self._bases, gpa) - 1
        if at >= 0:
            base, end, device, width, _ = self._ranges[at]
            # KVM cuts an access at the page's end, so that 3, 5, 6 or 7 bytes may be left: no device
            # has registers of that size.
            if gpa + size <= end and size <= width and size & size - 1 == 0:
                return device, gpa - base
        return None

    def read(self, gpa: int, size: int) -> int:
        """Read ``size`` bytes (1 to 8) at ``gpa``."""
        found = self.find(gpa, size)
        if found is not None:
            return found[0].read(found[1], size) & (1 << 8 * size) - 1
        if size == 1 or self._is_hole(gpa, size):
            return (1 << 8 * size) - 1
        part = first_part(gpa, size)
        return self.read(gpa, part) | self.read(gpa + part, size - part) << 8 * part

    def write(self, gpa: int, size: int, value: int) -> None:
        """Write ``size`` bytes (1 to 8) at ``gpa``."""
        found = self.find(gpa, size)
        if found is not None:
            found[0].write(found[1], size, value)
        elif size > 1 and not self._is_hole(gpa, size):
            part = first_part(gpa, size)
            self.write(gpa, part, value & (1 << 8 * part) - 1)
            self.write(gpa + part, size - part, value >> 8 * part)


def first_part(gpa: int, size: int) -> int:
    """How many of the ``size`` > 1 bytes at ``gpa`` go first when an access is cut.

    It is the largest power of two below ``size`` to which ``gpa`` is aligned.
    """
    largest = 1 << (size - 1).bit_length() - 1
    return min(largest, gpa & -gpa or largest)
