"""The guest's memory as the devices and loaders see it: every access is checked, no byte is copied twice."""

from __future__ import annotations

from bisect import bisect_right

from pykvm.errors import HostError, InternalError, PykvmError
from pykvm.libc.calls import anonymous
from pykvm.memory.layout import FOUR_GIB, PAGE, split
from pykvm.memory.region import Region


class MemoryFault(PykvmError):
    """An access to guest-physical addresses where no memory is."""

    status = 70

    def __init__(self, gpa: int, size: int) -> None:
        super().__init__(f"{size} bytes at {gpa:#x} are not guest memory")
        self.gpa = gpa
        self.size = size


class GuestMemory:
    """Regions of guest-physical memory, in order, none overlapping another.

    Reads and writes may cross from one region into its neighbour; anything that touches an address
    without memory raises MemoryFault before a byte is moved.
    """

    def __init__(self) -> None:
        self.regions: list[Region] = []
        self.ram_size = 0
        self.low_end = 0
        self.high_end = FOUR_GIB
        self._starts: list[int] = []

    @classmethod
    def pc(cls, size: int) -> GuestMemory:
        """A PC's RAM of ``size`` bytes: up to 3 GiB from 0, the rest from 4 GiB on."""
        memory = cls()
        memory.ram_size = size
        memory.low_end, memory.high_end = split(size)
        try:
            memory.add(0, memory.low_end)
            if memory.high_end > FOUR_GIB:
                memory.add(FOUR_GIB, memory.high_end - FOUR_GIB)
        except PykvmError:
            memory.close()
            raise
        return memory

    def add(self, gpa: int, size: int, *, readonly: bool = False, name: str = "ram") -> Region:
        """Add ``size`` bytes of zeros at ``gpa``; both are multiples of the page size."""
        if gpa % PAGE or size % PAGE or size <= 0:
            raise InternalError(f"memory of {size:#x} bytes at {gpa:#x} is not whole pages")
        at = bisect_right(self._starts, gpa)
        around = self.regions[max(at - 1, 0) : at + 1]
        if any(gpa < other.end and other.gpa < gpa + size for other in around):
            raise InternalError(f"memory of {size:#x} bytes at {gpa:#x} overlaps other memory")
        try:
            mapping = anonymous(size)
        except OSError as error:
            raise HostError(
                f"the host gives no {size >> 20} MiB of address space for guest memory ({error.strerror})",
                where="memory",
                remedy="make `memory` smaller, or raise the limit that `ulimit -v` shows",
            ) from error
        region = Region(gpa, mapping, readonly=readonly, name=name)
        self.regions.insert(at, region)
        self._starts.insert(at, gpa)
        return region

    def close(self) -> None:
        """Give all memory back. The VM that maps it must be closed before."""
        for region in self.regions:
            region.mapping.close()
        self.regions.clear()
        self._starts.clear()

    def region_at(self, gpa: int) -> Region | None:
        """The region that holds ``gpa``, if any does."""
        at = bisect_right(self._starts, gpa) - 1
        if at >= 0 and gpa < self.regions[at].end:
            return self.regions[at]
        return None

    def view(self, gpa: int, size: int) -> memoryview:
        """``size`` bytes at ``gpa`` as one writable view: for preadv, sendmsg and the like."""
        region = self.region_at(gpa)
        if region is None or size < 0 or gpa + size > region.end:
            raise MemoryFault(gpa, size)
        return region.view[gpa - region.gpa : gpa - region.gpa + size]

    def views(self, gpa: int, size: int) -> list[memoryview]:
        """``size`` bytes at ``gpa`` as views, one a region, in order."""
        found = []
        start, left = gpa, size
        while left > 0:
            region = self.region_at(start)
            if region is None:
                raise MemoryFault(gpa, size)
            take = min(left, region.end - start)
            found.append(region.view[start - region.gpa : start - region.gpa + take])
            start += take
            left -= take
        if size < 0:
            raise MemoryFault(gpa, size)
        return found

    def read(self, gpa: int, size: int) -> bytes:
        """A copy of ``size`` bytes at ``gpa``."""
        return b"".join(self.views(gpa, size))

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        """Copy ``data`` to ``gpa``."""
        source = memoryview(data).cast("B")
        start = 0
        for target in self.views(gpa, len(source)):
            target[:] = source[start : start + len(target)]
            start += len(target)

    def fill(self, gpa: int, size: int, byte: int = 0) -> None:
        """Set ``size`` bytes at ``gpa`` to ``byte``."""
        for target in self.views(gpa, size):
            target[:] = bytes((byte,)) * len(target)

    def u8(self, gpa: int) -> int:
        return self.read(gpa, 1)[0]

    def u16(self, gpa: int) -> int:
        return int.from_bytes(self.read(gpa, 2), "little")

    def u32(self, gpa: int) -> int:
        return int.from_bytes(self.read(gpa, 4), "little")

    def u64(self, gpa: int) -> int:
        return int.from_bytes(self.read(gpa, 8), "little")

    def put_u8(self, gpa: int, value: int) -> None:
        self.write(gpa, value.to_bytes(1, "little"))

    def put_u16(self, gpa: int, value: int) -> None:
        self.write(gpa, value.to_bytes(2, "little"))

    def put_u32(self, gpa: int, value: int) -> None:
        self.write(gpa, value.to_bytes(4, "little"))

    def put_u64(self, gpa: int, value: int) -> None:
        self.write(gpa, value.to_bytes(8, "little"))
