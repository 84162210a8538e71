"""The CPU and the memory that a post-mortem looks at: copies, so that looking changes nothing.

Instructions can be tried on them. What they write goes to pages of the copy's own; no device is reached.
"""

from __future__ import annotations

from pykvm.errors import PykvmError
from pykvm.frozen import frozen
from pykvm.memory.words import Words
from pykvm.x86 import cpuid
from pykvm.x86.exceptions import Fault
from pykvm.x86.execute.cpu import Cpu
from pykvm.x86.execute.linear import Linear
from pykvm.x86.paging import READ
from pykvm.x86.registers import MP_STATE_HALTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Protocol

    class Memory(Protocol):
        """Guest-physical memory; ``read`` raises a PykvmError where none is."""

        def read(self, gpa: int, size: int) -> bytes: ...


PAGE = 0x1000
M64 = (1 << 64) - 1


@frozen
class Raised:
    """One exception that the guest was to be given: what, and at which RIP."""

    vector: int
    error: int | None
    cr2: int | None
    rip: int


class CopyOnWrite(Words):
    """``memory``, with pages of its own where something was written. ``misses``: reads where none is."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._pages: dict[int, bytearray] = {}
        self.misses = 0

    def has(self, gpa: int) -> bool:
        """Whether there is memory at ``gpa``."""
        try:
            self._memory.read(gpa, 1)
        except PykvmError:
            return False
        return True

    def read(self, gpa: int, size: int) -> bytes:
        out = b""
        while len(out) < size:
            at = gpa + len(out)
            length = min(size - len(out), PAGE - at % PAGE)
            page = self._pages.get(at // PAGE)
            if page is not None:
                out += page[at % PAGE : at % PAGE + length]
                continue
            try:
                out += self._memory.read(at, length)
            except PykvmError:
                self.misses += 1
                raise
        return out

    def write(self, gpa: int, data: bytes) -> None:
        done = 0
        while done < len(data):
            at = gpa + done
            length = min(len(data) - done, PAGE - at % PAGE)
            number = at // PAGE
            if number not in self._pages:
                self._pages[number] = bytearray(self._memory.read(number * PAGE, PAGE))
            self._pages[number][at % PAGE : at % PAGE + length] = data[done : done + length]
            done += length


class Subject:
    """A CPU of ``state`` (as a back end gives it) before ``memory``; ``entries`` are its CPUID."""

    def __init__(self, state: dict[str, Any], memory: Memory, entries: Sequence[dict[str, int]] = ()) -> None:
        sregs = {
            name: dict(value) if isinstance(value, dict) else value
            for name, value in state["sregs"].items()
            if name != "interrupt_bitmap"
        }
        xsave = state.get("xsave")
        self.memory = CopyOnWrite(memory)
        self.cpu = Cpu(
            dict(state["regs"]),
            sregs,
            xsave=None if xsave is None else lambda: bytearray(xsave),
            xcr0=state.get("xcr0", 3),
            msrs=dict(state.get("msrs", {})),
            features=cpuid.names(entries) if entries else None,
            physical_bits=cpuid.physical_bits(entries) if entries else 52,
            iterations=1,
        )
        self.cpu.halted = state.get("mp_state") == MP_STATE_HALTED
        self.linear = Linear(self.cpu, self.memory)

    @property
    def code_base(self) -> int:
        """What is added to RIP to make it a linear address."""
        return 0 if self.cpu.bits == 64 else int(self.cpu.sregs["cs"]["base"])

    @property
    def stack(self) -> int:
        """The linear address of the stack's top."""
        rsp, ss = self.cpu.regs["rsp"], self.cpu.sregs["ss"]
        if self.cpu.bits == 64:
            return rsp
        return int(ss["base"]) + (rsp & (0xFFFF_FFFF if ss["db"] else 0xFFFF)) & 0xFFFF_FFFF

    @property
    def rip(self) -> int:
        """RIP as a linear address."""
        where: int = self.cpu.regs["rip"] + self.code_base
        return where & (M64 if self.cpu.bits == 64 else 0xFFFF_FFFF)

    def peek(self, gva: int, size: int) -> bytes:
        """Up to ``size`` bytes at a linear address: fewer where the next page isn't mapped or isn't there."""
        out = b""
        while len(out) < size:
            at = gva + len(out) & M64
            length = min(size - len(out), PAGE - at % PAGE)
            gpa = self.physical(at)
            if gpa is None:
                break
            try:
                out += self.memory.read(gpa, length)
            except PykvmError:
                break
        return out

    def word(self, gva: int, size: int) -> int | None:
        """A number at a linear address, where one can be read."""
        data = self.peek(gva, size)
        return int.from_bytes(data, "little") if len(data) == size else None

    def physical(self, gva: int) -> int | None:
        """Where a linear address leads, for the CPU itself to read; None where it isn't mapped."""
        try:
            return self.linear.translate(gva, READ, False, implicit=True, mark=False)
        except Fault:
            return None
