"""A small physical memory and page tables for tests of pykvm.x86."""

from __future__ import annotations

from pykvm.errors import PykvmError

PAGE = 0x1000


class SparseMemory:
    """Physical memory that has the pages which were written, up to ``size``, and nothing beyond it."""

    def __init__(self, size: int = 1 << 40) -> None:
        self.size = size
        self.pages: dict[int, bytearray] = {}

    def region_at(self, gpa: int) -> SparseMemory | None:
        return self if gpa < self.size else None

    def _at(self, gpa: int) -> tuple[bytearray, int]:
        return self.pages.setdefault(gpa // PAGE, bytearray(PAGE)), gpa % PAGE

    def read(self, gpa: int, size: int) -> bytes:
        if gpa + size > self.size:
            raise PykvmError(f"no memory at {gpa:#x}")
        out = bytearray()
        while len(out) < size:
            page, offset = self._at(gpa + len(out))
            out += page[offset : offset + size - len(out)]
        return bytes(out)

    def write(self, gpa: int, data: bytes) -> None:
        if gpa + len(data) > self.size:
            raise PykvmError(f"no memory at {gpa:#x}")
        done = 0
        while done < len(data):
            page, offset = self._at(gpa + done)
            part = data[done : done + PAGE - offset]
            page[offset : offset + len(part)] = part
            done += len(part)

    def u16(self, gpa: int) -> int:
        return int.from_bytes(self.read(gpa, 2), "little")

    def u32(self, gpa: int) -> int:
        return int.from_bytes(self.read(gpa, 4), "little")

    def u64(self, gpa: int) -> int:
        return int.from_bytes(self.read(gpa, 8), "little")

    def put_u16(self, gpa: int, value: int) -> None:
        self.write(gpa, value.to_bytes(2, "little"))

    def put_u32(self, gpa: int, value: int) -> None:
        self.write(gpa, value.to_bytes(4, "little"))

    def put_u64(self, gpa: int, value: int) -> None:
        self.write(gpa, value.to_bytes(8, "little"))
