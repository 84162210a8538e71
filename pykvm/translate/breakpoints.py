"""The breakpoints of the debug registers, for instructions that are interpreted; with one armed all are.

By the Intel SDM vol. 3 §17.2 (registers) and §17.3.1 (those on instructions are faults, which RF holds
back; those on data and ports are traps).
"""

from __future__ import annotations

from pykvm.x86.execute.linear import Linear
from pykvm.x86.paging import READ, WRITE
from pykvm.x86.registers import CR4_DE, RFLAGS_RF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from pykvm.x86.execute.cpu import Cpu

    class Ports(Protocol):
        def read(self, port: int, size: int) -> int: ...
        def write(self, port: int, size: int, value: int) -> None: ...


ENABLED = 0xFF
"""DR7's L0 to G3."""
STEP = 1 << 14
"""DR6.BS."""
ON_CODE, ON_WRITE, ON_PORT, ON_ACCESS = range(4)
"""DR7's R/W fields; ON_PORT only with CR4.DE."""
_LENGTHS = (1, 2, 8, 4)


class Breakpoints:
    """Those of ``cpu``: what an instruction hits, as bits of DR6."""

    def __init__(self, cpu: Cpu) -> None:
        self._cpu = cpu
        self.hits = 0

    @property
    def armed(self) -> bool:
        debug = self._cpu.debug
        return debug is not None and bool(debug[7] & ENABLED)

    def on_code(self) -> int:
        """What the instruction at CS:RIP hits before it runs."""
        regs = self._cpu.regs
        if regs["rflags"] & RFLAGS_RF:
            return 0
        base = 0 if self._cpu.bits == 64 else self._cpu.sregs["cs"]["base"]
        return self._matching((ON_CODE,), regs["rip"] + base, 1)

    def note_data(self, gva: int, size: int, access: int) -> None:
        if access in (READ, WRITE):
            self.hits |= self._matching((ON_WRITE, ON_ACCESS) if access == WRITE else (ON_ACCESS,), gva, size)

    def note_port(self, port: int, size: int) -> None:
        if self._cpu.sregs["cr4"] & CR4_DE:
            self.hits |= self._matching((ON_PORT,), port, size)

    def _matching(self, kinds: tuple[int, ...], first: int, size: int) -> int:
        debug, found = self._cpu.debug, 0
        assert debug is not None
        for number in range(4):
            field = debug[7] >> 16 + 4 * number
            if debug[7] >> 2 * number & 3 and field & 3 in kinds:
                length = _LENGTHS[field >> 2 & 3]
                start = debug[number] & -length
                if start < first + size and first < start + length:
                    found |= 1 << number
        return found


class WatchedLinear(Linear):
    """Memory whose accesses by instructions are noted while a breakpoint is armed."""

    breakpoints: Breakpoints | None = None

    def address(self, name: str, offset: int, size: int, access: int) -> int:
        gva = super().address(name, offset, size, access)
        if self.breakpoints is not None:
            self.breakpoints.note_data(gva, size, access)
        return gva


class WatchedPorts:
    """The interpreter's ports, noted in the same way."""

    breakpoints: Breakpoints | None = None

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    def read(self, port: int, size: int) -> int:
        if self.breakpoints is not None:
            self.breakpoints.note_port(port, size)
        return self._ports.read(port, size)

    def write(self, port: int, size: int, value: int) -> None:
        if self.breakpoints is not None:
            self.breakpoints.note_port(port, size)
        self._ports.write(port, size, value)
