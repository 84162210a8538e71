"""The status flags of arithmetic (Intel SDM vol. 1 §3.4.3.1), and conditions on them (vol. 2 table B-10)."""

from __future__ import annotations

from pykvm.x86.execute.step import MASKS
from pykvm.x86.registers import RFLAGS_AF, RFLAGS_CF, RFLAGS_OF, RFLAGS_PF, RFLAGS_SF, RFLAGS_ZF

ARITHMETIC = RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF | RFLAGS_OF

SIGNS = {1: 1 << 7, 2: 1 << 15, 4: 1 << 31, 8: 1 << 63}
"""The highest bit of a value by its size in bytes."""

PARITY = tuple(0 if byte.bit_count() & 1 else RFLAGS_PF for byte in range(256))
"""PF by the low byte of a result."""


def of_result(result: int, size: int) -> int:
    """SF, ZF and PF by a result of ``size`` bytes; the other flags 0."""
    flags = PARITY[result & 0xFF]
    if not result:
        flags |= RFLAGS_ZF
    elif result & SIGNS[size]:
        flags |= RFLAGS_SF
    return flags


def add(a: int, b: int, carry: int, size: int) -> tuple[int, int]:
    """``a + b + carry``: the result and all status flags."""
    total = a + b + carry
    result = total & MASKS[size]
    flags = of_result(result, size) | (a ^ b ^ result) & RFLAGS_AF
    if total != result:
        flags |= RFLAGS_CF
    if (a ^ result) & (b ^ result) & SIGNS[size]:
        flags |= RFLAGS_OF
    return result, flags


def subtract(a: int, b: int, borrow: int, size: int) -> tuple[int, int]:
    """``a - b - borrow``: the result and all status flags."""
    difference = a - b - borrow
    result = difference & MASKS[size]
    flags = of_result(result, size) | (a ^ b ^ result) & RFLAGS_AF
    if difference < 0:
        flags |= RFLAGS_CF
    if (a ^ b) & (a ^ result) & SIGNS[size]:
        flags |= RFLAGS_OF
    return result, flags


def signed(value: int, size: int) -> int:
    """An unsigned value of ``size`` bytes as a signed one."""
    return value - (SIGNS[size] << 1) if value & SIGNS[size] else value


def holds(condition: int, flags: int) -> bool:
    """Whether a condition holds: its number is the low four bits of the opcode."""
    which = condition >> 1
    if which == 0:
        result = bool(flags & RFLAGS_OF)
    elif which == 1:
        result = bool(flags & RFLAGS_CF)
    elif which == 2:
        result = bool(flags & RFLAGS_ZF)
    elif which == 3:
        result = bool(flags & (RFLAGS_CF | RFLAGS_ZF))
    elif which == 4:
        result = bool(flags & RFLAGS_SF)
    elif which == 5:
        result = bool(flags & RFLAGS_PF)
    else:
        result = bool(flags & RFLAGS_SF) != bool(flags & RFLAGS_OF)
        if which == 7:
            result = result or bool(flags & RFLAGS_ZF)
    return result != bool(condition & 1)
