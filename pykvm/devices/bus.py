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

    from pykvm.devices.device import Device

    Reader = Callable[[int, int], int]
    Writer = Callable[[int, int, int], None]

PORTS = 0x10000


class PortBus:
    """The 64 Ki ports of ``in`` and ``out``.

    ``reads`` and ``writes`` hold, by ``size << 16 | port``, the bound method of the device and
    the offset for each access that the device takes whole: the run loop looks there first, and
    calls ``read`` or ``write`` of the bus for all others.
    """

    def __init__(self) -> None:
        self.reads: dict[int, tuple[Reader, int]] = {}
        self.writes: dict[int, tuple[Writer, int]] = {}
        self.names: dict[int, str] = {}

    def attach(self, device: Device, base: int, count: int, *, width: int = 1, name: str = "") -> None:
        """Put ``device`` at ports ``base`` to ``base + count - 1``.

        ``width`` is the widest access in bytes (1, 2 or 4) that the device takes whole.
        """
        if not 0 <= base <= base + count <= PORTS:
            raise InternalError(f"ports {base:#x} to {base + count - 1:#x} do not exist", where="bus")
        taken = [port for port in range(base, base + count) if port in self.names]
        if taken:
            raise InternalError(f"port {taken[0]:#x} belongs to {self.names[taken[0]]}", where="bus")
        for offset in range(count):
            self.names[base + offset] = name or type(device).__name__.lower()
            for size in (1, 2, 4):
                if size <= width and offset + size <= count:
                    key = size << 16 | base + offset
                    self.reads[key] = device.read, offset
                    self.writes[key] = device.write, offset

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
        """``ins``: fill ``data`` with items of ``size`` bytes, in order, all from ``port``."""
        for start in range(0, len(data), size):
            data[start : start + size] = self.read(port, size).to_bytes(size, "little")

    def write_string(self, port: int, size: int, data: memoryview) -> None:
        """``outs``: write the items of ``size`` bytes in ``data``, in order, all to ``port``."""
        for start in range(0, len(data), size):
            self.write(port, size, int.from_bytes(data[start : start + size], "little"))


class MemoryBus:
    """Devices in guest-physical addresses where no memory is (MMIO)."""

    def __init__(self) -> None:
        self._bases: list[int] = []
        self._ranges: list[tuple[int, int, Device, int, str]] = []

    def attach(self, device: Device, base: int, size: int, *, width: int = 4, name: str = "") -> None:
        """Put ``device`` at guest-physical ``base``, for ``size`` bytes; it takes up to ``width`` whole."""
        for start, end, _, _, other in self._ranges:
            if base < end and start < base + size:
                raise InternalError(f"{base:#x} belongs to {other}", where="bus")
        at = bisect_right(self._bases, base)
        self._bases.insert(at, base)
        label = name or type(device).__name__.lower()
        self._ranges.insert(at, (base, base + size, device, width, label))

    def _find(self, gpa: int, size: int) -> tuple[Device, int] | None:
        at = bisect_right(self._bases, gpa) - 1
        if at >= 0:
            base, end, device, width, _ = self._ranges[at]
            if gpa + size <= end and size <= width:
                return device, gpa - base
        return None

    def read(self, gpa: int, size: int) -> int:
        """Read ``size`` bytes (1 to 8) at ``gpa``."""
        found = self._find(gpa, size)
        if found is not None:
            return found[0].read(found[1], size) & (1 << 8 * size) - 1
        if size == 1:
            return 0xFF
        half = size // 2
        return self.read(gpa, half) | self.read(gpa + half, size - half) << 8 * half

    def write(self, gpa: int, size: int, value: int) -> None:
        """Write ``size`` bytes (1 to 8) at ``gpa``."""
        found = self._find(gpa, size)
        if found is not None:
            found[0].write(found[1], size, value)
        elif size > 1:
            half = size // 2
            self.write(gpa, half, value & (1 << 8 * half) - 1)
            self.write(gpa + half, size - half, value >> 8 * half)
