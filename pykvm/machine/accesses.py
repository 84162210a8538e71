"""What is done on an exit to a device, looked up once for each place, size and direction.

KVM tells of an access in a few words of the run page. They are a key here; what it leads to is the
device's own bound method, and where in the run page the value is. The first access to a place asks the
bus, all others are one look into a dict.
"""

from __future__ import annotations

from pykvm.kvm.run import IO_HEAD, MMIO_GPA, MMIO_IS_WRITE, MMIO_LEN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pykvm.devices.bus import MemoryBus, PortBus
    from pykvm.kvm.run import RunPage

    Access = tuple[bool, Callable[..., Any], int, int, memoryview, int, int]
    """A write or not, the method, its offset, the size, the run page in cells of that size, from bytes to
    cells by a shift, and the mask for what is read."""

LIMIT = 4096
"""Places that are kept: more than a machine's drivers use, and a bound where a guest tries them all."""

SIZES = (1, 2, 4, 8)


class Accesses:
    """Of one vCPU: ``ports`` by ``IO_HEAD``, ``memory`` by ``memory_key``.

    A device that is attached or goes, or an APIC that moves, makes them ``forget``.
    """

    def __init__(self, page: RunPage, ports: PortBus, mmio: MemoryBus) -> None:
        self.ports: dict[int, Access] = {}
        self.memory: dict[int, Access] = {}
        self._page = page
        self._cells = dict(zip(SIZES, (page.u8, page.u16, page.u32, page.u64), strict=True))
        self._ports = ports
        self._mmio = mmio
        ports.on_change.append(self.ports.clear)
        mmio.on_change.append(self.memory.clear)

    def bind_port(self, size: int, port: int, is_write: bool) -> Access:
        """Look up the access to a single item that the run page tells of."""
        found = (self._ports.writer if is_write else self._ports.reader)(port, size)
        return self._keep(self.ports, self._page.u64[IO_HEAD], (is_write, *found, size, *self._view(size)))

    def bind_memory(self) -> Access | None:
        """Look up the access that the run page tells of; None of 3, 5, 6 or 7 bytes.

        KVM cuts an access at the page's end, so that such sizes may be left.
        """
        page = self._page
        gpa, size, is_write = page.u64[MMIO_GPA], page.u32[MMIO_LEN], page.u8[MMIO_IS_WRITE]
        if size not in SIZES:
            return None
        found = (self._mmio.writer if is_write else self._mmio.reader)(gpa, size)
        key = gpa << 8 | size << 1 | is_write
        return self._keep(self.memory, key, (bool(is_write), *found, size, *self._view(size)))

    def _view(self, size: int) -> tuple[memoryview, int, int]:
        return self._cells[size], size.bit_length() - 1, (1 << 8 * size) - 1

    def _keep(self, table: dict[int, Access], key: int, access: Access) -> Access:
        if len(table) >= LIMIT:
            table.clear()
        table[key] = access
        return access
