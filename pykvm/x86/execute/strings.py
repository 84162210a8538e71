"""MOVS, CMPS, SCAS, LODS, STOS, INS and OUTS, alone and repeated (Intel SDM vol. 2, by name, and REP).

A repeated one makes at most ``cpu.iterations`` in one call, one with TF set, and then leaves RIP at itself
and the registers true, as a CPU does that an interrupt stops. A fault keeps what was done before it, with the
flags of the last comparison as AMD's processors do (by Intel's SDM a page fault brings those before the
instruction back; who goes on behind the fault compares anew). Elements that lie in one page of memory proper
are moved at once where that comes to the same.
"""

from __future__ import annotations

from pykvm.x86.exceptions import Fault
from pykvm.x86.execute.flags import ARITHMETIC, subtract
from pykvm.x86.execute.integers import RAX, RCX, RDX
from pykvm.x86.execute.linear import PAGE
from pykvm.x86.execute.ports import permitted
from pykvm.x86.execute.step import MASKS
from pykvm.x86.paging import READ, WRITE
from pykvm.x86.registers import RFLAGS_DF, RFLAGS_TF, RFLAGS_ZF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.x86.execute.step import Step
    from pykvm.x86.execute.table import Action, Rows

RSI, RDI = 6, 7

_ALONE = 8
"""An element that is moved alone takes as long as many together, so that fewer are moved in one call."""


class _String:
    """The operands of a string instruction: where they are and how they move on."""

    def __init__(self, step: Step, size: int) -> None:
        self.step = step
        self.cpu, self.memory = step.cpu, step.memory
        self.size = size
        self.wide = step.instruction.address_size
        self.source = step.instruction.segment or "ds"
        self.backwards = bool(self.cpu.regs["rflags"] & RFLAGS_DF)

    @property
    def si(self) -> int:
        return self.cpu.reg(RSI, self.wide)

    @property
    def di(self) -> int:
        return self.cpu.reg(RDI, self.wide)

    def advance(self, number: int, count: int = 1) -> None:
        """Move RSI or RDI on by ``count`` elements."""
        by = -self.size * count if self.backwards else self.size * count
        self.cpu.set_reg(number, self.wide, self.cpu.reg(number, self.wide) + by & MASKS[self.wide])

    def lowest(self, first: int, count: int) -> int:
        """Where the lowest of ``count`` elements is, the first of which is at ``first``."""
        return first - (count - 1) * self.size if self.backwards else first

    def load_source(self) -> int:
        return int.from_bytes(self.memory.read(self.source, self.si, self.size), "little")

    def load_destination(self) -> int:
        return int.from_bytes(self.memory.read("es", self.di, self.size), "little")

    def together(self, segment: str, offset: int, count: int, access: int) -> tuple[int, int]:
        """How many of ``count`` elements from ``offset`` on may be moved at once, and where the first is.

        Those that are in one page of memory proper and within the segment.
        """
        if count < 4:
            return 0, 0
        size = self.size
        first = self.memory.address(segment, offset, size, access)
        room = (PAGE - first % PAGE) // size  # elements from the first to the page's end
        if self.backwards:
            count = min(count, first % PAGE // size + 1, offset // size + 1) if room else 0
        else:
            count = min(count, room, (MASKS[self.wide] - offset + 1) // size)
        user = self.cpu.cpl == 3
        if count < 4 or (user and first % size):  # unaligned ones may raise #AC
            return 0, 0
        try:
            self.memory.address(segment, self.lowest(offset, count), count * size, access)
        except Fault:  # the limit lies between
            return 0, 0
        gpa = self.memory.translate(first, access, user)
        return (count, gpa) if self.memory.is_plain(gpa) else (0, 0)


# Each makes up to ``count`` iterations; gives how many, and whether the last one ends the repetition.


def _movs(string: _String, count: int) -> int:
    memory = string.memory
    many, source = string.together(string.source, string.si, count, READ)
    if many:
        many, target = string.together("es", string.di, many, WRITE)
        length = many * string.size
        source, target = string.lowest(source, many), string.lowest(target, many)
        # Each element is written before the next is read, which must not be among those written.
        low, high = (target, source) if string.backwards else (source, target)
        if many and not low < high < low + length:
            memory.store(target, memory.load(source, length))
            string.advance(RSI, many)
            string.advance(RDI, many)
            return many
    memory.write("es", string.di, memory.read(string.source, string.si, string.size))
    string.advance(RSI)
    string.advance(RDI)
    return 1


def _stos(string: _String, count: int) -> int:
    data = (string.cpu.regs["rax"] & MASKS[string.size]).to_bytes(string.size, "little")
    many, target = string.together("es", string.di, count, WRITE)
    if many:
        string.memory.store(string.lowest(target, many), data * many)
    else:
        many = 1
        string.memory.write("es", string.di, data)
    string.advance(RDI, many)
    return many


def _lods(string: _String, count: int) -> int:
    value = string.load_source()
    if string.size == 1:
        string.cpu.set_byte(RAX, 0, value)
    else:
        string.cpu.set_reg(RAX, string.size, value)
    string.advance(RSI)
    return 1


def _ins(string: _String, count: int) -> int:
    """The destination must allow the write before the port is read."""
    port = string.cpu.reg(RDX, 2)
    ports = permitted(string.step, port, string.size)
    string.memory.check_write("es", string.di, string.size)
    value = ports.read(port, string.size) & MASKS[string.size]
    string.memory.write("es", string.di, value.to_bytes(string.size, "little"))
    string.advance(RDI)
    return 1


def _outs(string: _String, count: int) -> int:
    port = string.cpu.reg(RDX, 2)
    ports = permitted(string.step, port, string.size)
    ports.write(port, string.size, string.load_source())
    string.advance(RSI)
    return 1


def _set_status(string: _String, a: int, b: int) -> None:
    _, flags = subtract(a, b, 0, string.size)
    string.cpu.set_flags(flags, ARITHMETIC)


def _cmps(string: _String, count: int) -> int:
    many = source = target = 0
    if not string.backwards:
        many, source = string.together(string.source, string.si, count, READ)
    if many:
        many, target = string.together("es", string.di, many, READ)
    if many:
        length = many * string.size
        ours, theirs = string.memory.load(source, length), string.memory.load(target, length)
        many = _until(string, ours, theirs)
        _set_status(string, _element(string, ours, many - 1), _element(string, theirs, many - 1))
    else:
        many = 1
        _set_status(string, string.load_source(), string.load_destination())
    string.advance(RSI, many)
    string.advance(RDI, many)
    return many


def _scas(string: _String, count: int) -> int:
    wanted = string.cpu.regs["rax"] & MASKS[string.size]
    many, target = (0, 0) if string.backwards else string.together("es", string.di, count, READ)
    if many:
        found = string.memory.load(target, many * string.size)
        many = _until(string, wanted.to_bytes(string.size, "little") * many, found)
        _set_status(string, wanted, _element(string, found, many - 1))
    else:
        many = 1
        _set_status(string, wanted, string.load_destination())
    string.advance(RDI, many)
    return many


def _element(string: _String, data: bytes, number: int) -> int:
    return int.from_bytes(data[number * string.size : (number + 1) * string.size], "little")


def _until(string: _String, ours: bytes, theirs: bytes) -> int:
    """How many elements are compared until REPE or REPNE ends: up to the first that differs, or is equal."""
    size = string.size
    count = len(ours) // size
    while_equal = string.step.instruction.prefix == "F3"
    if while_equal and ours == theirs:
        return count
    for number in range(count):
        at = number * size
        if (ours[at : at + size] == theirs[at : at + size]) != while_equal:
            return number + 1
    return count


def _instruction(
    one: Callable[[_String, int], int], size: int, *, compares: bool, largest: int = 8
) -> Action:
    """``one`` alone, or repeated; with ``compares`` F3 and F2 end by ZF."""

    def action(step: Step) -> None:
        string = _String(step, size or min(step.size, largest))
        prefix = step.instruction.prefix
        if prefix not in ("F2", "F3"):
            one(string, 1)
            return
        cpu, wide = step.cpu, step.instruction.address_size
        goes_on = RFLAGS_ZF if prefix == "F3" else 0
        first = left = cpu.reg(RCX, wide)
        budget = 1 if cpu.regs["rflags"] & RFLAGS_TF else cpu.iterations
        try:
            while left and budget > 0:
                done = one(string, min(left, budget))
                left -= done
                budget -= done if done > 1 else _ALONE
                cpu.set_reg(RCX, wide, left)
                if compares and cpu.regs["rflags"] & RFLAGS_ZF != goes_on:
                    return
        except Fault as fault:
            if left != first:
                cpu.regs["rip"] = step.start
                fault.keeps = True
            raise
        if left:
            cpu.regs["rip"] = step.start

    return action


def _rows() -> Rows:
    table = (
        (0xA4, "movs", _movs, False, 8),
        (0xA6, "cmps", _cmps, True, 8),
        (0xAA, "stos", _stos, False, 8),
        (0xAC, "lods", _lods, False, 8),
        (0xAE, "scas", _scas, True, 8),
        (0x6C, "ins", _ins, False, 4),
        (0x6E, "outs", _outs, False, 4),
    )
    rows: list[tuple[str, str, Action, str]] = []
    for opcode, name, one, compares, largest in table:
        rows.append((f"{opcode:02X}", name, _instruction(one, 1, compares=compares), ""))
        wide = _instruction(one, 0, compares=compares, largest=largest)
        rows.append((f"{opcode + 1:02X}", name, wide, ""))
    return tuple(rows)


INSTRUCTIONS: Rows = _rows()
