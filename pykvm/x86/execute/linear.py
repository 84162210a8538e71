"""Memory as instructions reach it: segment and offset, then linear, then guest-physical, with every check.

Checks and their order are those of the Intel SDM vol. 3 §5.3 and §5.4 (limit and type), vol. 1 §3.3.7.1
(canonical addresses) and paging.py. Where no memory is, reads give all ones and writes are dropped, as on
a PC's bus: a caller that has devices there passes a memory that reaches them.
"""

from __future__ import annotations

from pykvm.errors import PykvmError
from pykvm.x86.exceptions import AC, GP, PF, SS, Fault
from pykvm.x86.paging import READ, WRITE, canonical, walk
from pykvm.x86.registers import CR0_AM, CR0_PG, CR4_PKE, RFLAGS_AC
from pykvm.x86.segments import TYPE_CODE, TYPE_EXPAND_DOWN, TYPE_READABLE, TYPE_WRITABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    from pykvm.x86 import paging
    from pykvm.x86.execute.cpu import Cpu
    from pykvm.x86.segments import Segment

    class Memory(paging.Memory, Protocol):
        """Guest-physical memory (pykvm.memory.GuestMemory is one)."""

        def read(self, gpa: int, size: int) -> bytes: ...
        def write(self, gpa: int, data: bytes) -> None: ...


PAGE = 0x1000


class Linear:
    """The memory of one CPU at its present mode and privilege."""

    def __init__(self, cpu: Cpu, memory: Memory) -> None:
        self.cpu = cpu
        self.memory = memory
        self._kept = (-1, 0, 0)  # linear address, size and guest-physical address of what will be stored to

    def begin(self) -> None:
        """A new instruction: nothing that was translated for the one before is good for it."""
        self._kept = (-1, 0, 0)

    def lock(self) -> None:
        """What the instruction reads and writes is one access to other CPUs (LOCK): nothing to do for one."""

    # By segment and offset, with the rights of the running code

    def read(self, segment: str, offset: int, size: int, access: int = READ) -> bytes:
        """Read ``size`` bytes; with WRITE as ``access``, where they may be written, too."""
        gva = self.address(segment, offset, size, access)
        self._check_alignment(gva, size)
        if access == WRITE and gva % PAGE + size <= PAGE:
            gpa = self.translate(gva, WRITE, self.cpu.cpl == 3)
            self._kept = (gva, size, gpa)
            return self.load(gpa, size)
        return self._read(gva, size, self.cpu.cpl == 3, implicit=False, access=access)

    def write(self, segment: str, offset: int, data: bytes) -> None:
        gva = self.address(segment, offset, len(data), WRITE)
        if self._kept[0] == gva and self._kept[1] == len(data):
            self.store(self._kept[2], data)
            return
        self._check_alignment(gva, len(data))
        self.write_linear(gva, data, user=self.cpu.cpl == 3)

    def check_write(self, segment: str, offset: int, size: int) -> None:
        """Raise what a write of ``size`` bytes would raise, and write nothing."""
        gva = self.address(segment, offset, size, WRITE)
        for _ in self._pieces(gva, size, WRITE, self.cpu.cpl == 3, implicit=False, mark=False):
            pass

    def address(self, name: str, offset: int, size: int, access: int) -> int:
        """The linear address of ``size`` bytes at ``offset`` in a segment register.

        Raises #GP(0), or #SS(0) for SS, where the segment does not allow the access.
        """
        segment: Segment = self.cpu.sregs[name]
        if self.cpu.bits == 64:
            gva = offset + (segment["base"] if name in ("fs", "gs") else 0) & 0xFFFF_FFFF_FFFF_FFFF
            cr4 = self.cpu.sregs["cr4"]
            allowed = canonical(gva, cr4) and canonical(gva + size - 1 & 0xFFFF_FFFF_FFFF_FFFF, cr4)
        else:
            gva = segment["base"] + offset & 0xFFFF_FFFF
            allowed = within_limit(segment, offset, size)
            if self.cpu.protected and not self.cpu.v86:
                allowed = allowed and _type_allows(segment, access)
        if not allowed:
            raise Fault(SS if name == "ss" else GP, 0)
        return gva

    def _check_alignment(self, gva: int, size: int) -> None:
        """#AC from CPL 3 with CR0.AM and RFLAGS.AC, for operands of 2, 4 and 8 bytes."""
        cpu = self.cpu
        if (
            size in (2, 4, 8)
            and gva % size
            and cpu.cpl == 3
            and cpu.sregs["cr0"] & CR0_AM
            and cpu.regs["rflags"] & RFLAGS_AC
        ):
            raise Fault(AC, 0)

    # By linear address

    def read_linear(self, gva: int, size: int, *, user: bool) -> bytes:
        """Read with user or supervisor rights."""
        return self._read(gva, size, user, implicit=False)

    def write_linear(self, gva: int, data: bytes, *, user: bool) -> None:
        """Write with user or supervisor rights; a page fault in any page leaves all as it was."""
        self._write(gva, data, user, implicit=False)

    def read_system(self, gva: int, size: int) -> int:
        """Read a descriptor table or TSS: with supervisor rights whatever the CPL."""
        return int.from_bytes(self._read(gva, size, False, implicit=True), "little")

    def write_system(self, gva: int, size: int, value: int) -> None:
        self._write(gva, value.to_bytes(size, "little"), False, implicit=True)

    def _read(self, gva: int, size: int, user: bool, implicit: bool, access: int = READ) -> bytes:
        if gva % PAGE + size <= PAGE:
            return self.load(self.translate(gva, access, user, implicit), size)
        pieces = list(self._pieces(gva, size, access, user, implicit))
        return b"".join([self.load(gpa, length) for gpa, length in pieces])

    def _write(self, gva: int, data: bytes, user: bool, implicit: bool) -> None:
        if gva % PAGE + len(data) <= PAGE:
            self.store(self.translate(gva, WRITE, user, implicit), data)
            return
        done = 0
        for gpa, length in list(self._pieces(gva, len(data), WRITE, user, implicit)):
            self.store(gpa, data[done : done + length])
            done += length

    # By guest-physical address

    def load(self, gpa: int, size: int) -> bytes:
        try:
            return self.memory.read(gpa, size)
        except PykvmError:
            return b"\xff" * size

    def store(self, gpa: int, data: bytes) -> None:
        try:
            self.memory.write(gpa, data)
        except PykvmError:
            pass  # nothing is there: a PC drops the write

    def is_plain(self, gpa: int) -> bool:
        """Whether the page at ``gpa`` is memory for certain: many bytes there may be moved at once."""
        region_at = getattr(self.memory, "region_at", None)
        return region_at is not None and region_at(gpa) is not None

    def translate(self, gva: int, access: int, user: bool, implicit: bool = False, mark: bool = True) -> int:
        """The guest-physical address of a linear one for ``access`` by user or supervisor; raises #PF.

        ``implicit``: the access is the CPU's own, to a descriptor table or TSS. Without ``mark`` accessed and
        dirty bits stay as they are."""
        cpu = self.cpu
        sregs = cpu.sregs
        if not sregs["cr0"] & CR0_PG:
            return gva & 0xFFFF_FFFF
        gva &= 0xFFFF_FFFF_FFFF_FFFF if cpu.long else 0xFFFF_FFFF
        found = walk(
            self.memory,
            sregs,
            gva,
            access,
            user=user,
            ac=not implicit and bool(cpu.regs["rflags"] & RFLAGS_AC),
            pkru=cpu.area.pkru() if sregs["cr4"] & CR4_PKE else 0,
            physical_bits=cpu.physical_bits,
            gigabyte_pages=cpu.has("pdpe1gb"),
            mark=mark,
        )
        if found.fault is not None:
            raise Fault(PF, found.fault, gva)
        return found.gpa

    def _pieces(
        self, gva: int, size: int, access: int, user: bool, implicit: bool, mark: bool = True
    ) -> Iterator[tuple[int, int]]:
        """The guest-physical pieces of ``size`` bytes at ``gva``, a page each."""
        while size > 0:
            length = min(size, PAGE - gva % PAGE)
            yield self.translate(gva, access, user, implicit, mark), length
            gva += length
            size -= length


def within_limit(segment: Segment, offset: int, size: int) -> bool:
    """Whether ``size`` bytes at ``offset`` lie within the segment (SDM vol. 3 §5.3)."""
    if segment["unusable"]:
        return False
    last = offset + size - 1
    if segment["s"] and segment["type"] & (TYPE_CODE | TYPE_EXPAND_DOWN) == TYPE_EXPAND_DOWN:
        return segment["limit"] < offset and last <= (0xFFFF_FFFF if segment["db"] else 0xFFFF)
    return last <= segment["limit"]


def _type_allows(segment: Segment, access: int) -> bool:
    kind = segment["type"]
    if kind & TYPE_CODE:
        return access == READ and bool(kind & TYPE_READABLE)
    return access == READ or bool(kind & TYPE_WRITABLE)
