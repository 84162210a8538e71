"""Moves: MOV, MOVZX, MOVSX, XCHG, BSWAP, LEA, CMOVcc, SETcc, XLAT, far pointers, and instructions on flags.

Each by its name in the Intel SDM vol. 2.
"""

from __future__ import annotations

from pykvm.x86.exceptions import BR, UD, Fault
from pykvm.x86.execute.descriptors import load_segment
from pykvm.x86.execute.flags import ARITHMETIC, holds, signed
from pykvm.x86.execute.integers import RAX, RBX
from pykvm.x86.execute.step import MASKS
from pykvm.x86.registers import RFLAGS_CF, RFLAGS_DF, RFLAGS_FIXED, RFLAGS_OF, RFLAGS_ZF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.x86.execute.step import Step
    from pykvm.x86.execute.table import Action, Rows

_AH = 4  # the number of AH where there is no REX
_LAHF = ARITHMETIC & ~RFLAGS_OF


def _mov_store(size: int) -> Action:
    return lambda step: step.store(step.reg(size), size)


def _mov_load(size: int) -> Action:
    return lambda step: step.set_reg(step.load(size), size)


def _mov_immediate(size: int) -> Action:
    return lambda step: step.store(step.immediate(size or step.size), size)


def mov_register_immediate(step: Step) -> None:
    step.cpu.set_reg(step.opcode_register(), step.size, step.instruction.immediate)


def mov_byte_register_immediate(step: Step) -> None:
    step.cpu.set_byte(step.opcode_register(), step.instruction.rex, step.instruction.immediate)


def _mov_from_offset(size: int) -> Action:
    """A0, A1: the accumulator from the address that stands in the instruction."""

    def action(step: Step) -> None:
        width = size or step.size
        segment = step.instruction.segment or "ds"
        value = int.from_bytes(step.memory.read(segment, step.instruction.immediate, width), "little")
        if width == 1:
            step.cpu.set_byte(RAX, 0, value)
        else:
            step.cpu.set_reg(RAX, width, value)

    return action


def _mov_to_offset(size: int) -> Action:
    def action(step: Step) -> None:
        width = size or step.size
        value = step.cpu.byte(RAX, 0) if width == 1 else step.cpu.reg(RAX, width)
        segment = step.instruction.segment or "ds"
        step.memory.write(segment, step.instruction.immediate, value.to_bytes(width, "little"))

    return action


def _movzx(size: int) -> Action:
    return lambda step: step.set_reg(step.load(size))


def _movsx(size: int) -> Action:
    return lambda step: step.set_reg(signed(step.load(size), size))


def arpl_or_movsxd(step: Step) -> None:
    """63: MOVSXD in 64-bit mode, else ARPL."""
    if step.cpu.bits == 64:
        size = min(step.size, 4)
        step.set_reg(signed(step.load(size), size))
        return
    if not step.cpu.protected or step.cpu.v86:
        raise Fault(UD)
    destination, rpl = step.load(2), step.reg(2) & 3  # written to only where it changes
    lower = destination & 3 < rpl
    if lower:
        step.store(destination & ~3 | rpl, 2)
    step.cpu.set_flags(RFLAGS_ZF if lower else 0, RFLAGS_ZF)


def _xchg(size: int) -> Action:
    def action(step: Step) -> None:
        width = size or step.size
        old = step.load_to_change(width)
        step.store(step.reg(width), width)
        step.set_reg(old, width)

    return action


def xchg_accumulator(step: Step) -> None:
    """90 to 97. XCHG of (E)AX with itself is NOP: it does not clear the upper half of RAX."""
    number, size, cpu = step.opcode_register(), step.size, step.cpu
    if number == RAX:
        return
    old = cpu.reg(RAX, size)
    cpu.set_reg(RAX, size, cpu.reg(number, size))
    cpu.set_reg(number, size, old)


def bswap(step: Step) -> None:
    """Of 16 bits it is undefined, and gives 0."""
    number, size = step.opcode_register(), step.size
    value = 0 if size == 2 else int.from_bytes(step.cpu.reg(number, size).to_bytes(size, "little"), "big")
    step.cpu.set_reg(number, size, value)


def lea(step: Step) -> None:
    step.set_reg(step.offset())


def cmov(step: Step) -> None:
    """The source is read, and a 32-bit destination zero-extended, whether the condition holds or not."""
    value = step.load()
    if holds(step.instruction.opcode & 15, step.cpu.regs["rflags"]):
        step.set_reg(value)
    else:
        step.set_reg(step.reg())


def setcc(step: Step) -> None:
    step.store(int(holds(step.instruction.opcode & 15, step.cpu.regs["rflags"])), 1)


def xlat(step: Step) -> None:
    size = step.instruction.address_size
    offset = step.cpu.reg(RBX, size) + step.cpu.byte(RAX, 0) & MASKS[size]
    segment = step.instruction.segment or "ds"
    step.cpu.set_byte(RAX, 0, step.memory.read(segment, offset, 1)[0])


def _load_pointer(name: str) -> Action:
    """LDS, LES, LSS, LFS, LGS: an offset of operand size, and a selector behind it."""

    def action(step: Step) -> None:
        size = step.size
        pointer = step.load_memory(size + 2)
        load_segment(step.cpu, step.memory, name, pointer >> 8 * size)
        step.set_reg(pointer & MASKS[size])

    return action


def bound(step: Step) -> None:
    size = step.size
    pair = step.load_memory(2 * size)
    index = signed(step.reg(), size)
    if not signed(pair & MASKS[size], size) <= index <= signed(pair >> 8 * size, size):
        raise Fault(BR)


# Flags


def lahf(step: Step) -> None:
    step.cpu.set_byte(_AH, 0, step.cpu.regs["rflags"] & _LAHF | RFLAGS_FIXED)


def sahf(step: Step) -> None:
    step.cpu.set_flags(step.cpu.byte(_AH, 0), _LAHF)


def salc(step: Step) -> None:
    """AL becomes FF or 0 by CF (SDM vol. 2 table A-2 leaves D6 out; every CPU has it)."""
    step.cpu.set_byte(RAX, 0, 0xFF if step.cpu.regs["rflags"] & RFLAGS_CF else 0)


def _flag(values: int, mask: int) -> Action:
    return lambda step: step.cpu.set_flags(values, mask)


def cmc(step: Step) -> None:
    step.cpu.regs["rflags"] ^= RFLAGS_CF


INSTRUCTIONS: Rows = (
    ("88 /r", "mov", _mov_store(1), ""),
    ("89 /r", "mov", _mov_store(0), ""),
    ("8A /r", "mov", _mov_load(1), ""),
    ("8B /r", "mov", _mov_load(0), ""),
    ("C6 /0 ib", "mov", _mov_immediate(1), ""),
    ("C7 /0 id", "mov", _mov_immediate(0), ""),
    ("B0+r ib", "mov", mov_byte_register_immediate, ""),
    ("B8+r id", "mov", mov_register_immediate, ""),
    ("A0", "mov", _mov_from_offset(1), ""),
    ("A1", "mov", _mov_from_offset(0), ""),
    ("A2", "mov", _mov_to_offset(1), ""),
    ("A3", "mov", _mov_to_offset(0), ""),
    ("0F B6 /r", "movzx", _movzx(1), ""),
    ("0F B7 /r", "movzx", _movzx(2), ""),
    ("0F BE /r", "movsx", _movsx(1), ""),
    ("0F BF /r", "movsx", _movsx(2), ""),
    ("63 /r", "movsxd", arpl_or_movsxd, ""),
    ("86 /r", "xchg", _xchg(1), ""),
    ("87 /r", "xchg", _xchg(0), ""),
    ("90+r", "xchg", xchg_accumulator, ""),
    ("0F C8+r", "bswap", bswap, ""),
    ("8D /r m", "lea", lea, ""),
    ("0F 40+cc /r", "cmov", cmov, "cmov"),
    ("0F 90+cc /r", "set", setcc, ""),
    ("D7", "xlat", xlat, ""),
    ("C4 /r m", "les", _load_pointer("es"), ""),
    ("C5 /r m", "lds", _load_pointer("ds"), ""),
    ("0F B2 /r m", "lss", _load_pointer("ss"), ""),
    ("0F B4 /r m", "lfs", _load_pointer("fs"), ""),
    ("0F B5 /r m", "lgs", _load_pointer("gs"), ""),
    ("62 /r m", "bound", bound, ""),
    ("9F", "lahf", lahf, ""),
    ("9E", "sahf", sahf, ""),
    ("D6", "salc", salc, ""),
    ("F5", "cmc", cmc, ""),
    ("F8", "clc", _flag(0, RFLAGS_CF), ""),
    ("F9", "stc", _flag(RFLAGS_CF, RFLAGS_CF), ""),
    ("FC", "cld", _flag(0, RFLAGS_DF), ""),
    ("FD", "std", _flag(RFLAGS_DF, RFLAGS_DF), ""),
)
