"""Shifts, rotates, double shifts and bit tests (Intel SDM vol. 2, each by its name).

Where the manual leaves a flag undefined: OF of a shift or rotate by more than 1 is what the last step by 1
gives, AF is cleared by shifts.
"""

from __future__ import annotations

from pykvm.x86.execute.flags import ARITHMETIC, SIGNS, of_result, signed
from pykvm.x86.execute.integers import RCX
from pykvm.x86.execute.step import MASKS
from pykvm.x86.paging import READ, WRITE
from pykvm.x86.registers import RFLAGS_CF, RFLAGS_OF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.x86.execute.step import Step
    from pykvm.x86.execute.table import Action, Rows

    Shift = Callable[[int, int, int, int], tuple[int, int]]

_ROTATED = RFLAGS_CF | RFLAGS_OF


# Of a value, a count that is not 0, the flags and the size: the result and all status flags.


def _shl(value: int, count: int, flags: int, size: int) -> tuple[int, int]:
    wide = value << count
    result = wide & MASKS[size]
    carry = wide >> 8 * size & 1
    overflow = carry != result >> 8 * size - 1
    return result, of_result(result, size) | carry | (RFLAGS_OF if overflow else 0)


def _shr(value: int, count: int, flags: int, size: int) -> tuple[int, int]:
    before = value >> count - 1
    result = before >> 1
    overflow = (before ^ result) & SIGNS[size]
    return result, of_result(result, size) | before & 1 | (RFLAGS_OF if overflow else 0)


def _sar(value: int, count: int, flags: int, size: int) -> tuple[int, int]:
    before = signed(value, size) >> count - 1
    result = before >> 1 & MASKS[size]
    return result, of_result(result, size) | before & 1


def _rotated(result: int, carry: int, overflow: int, flags: int) -> tuple[int, int]:
    return result, flags & ARITHMETIC & ~_ROTATED | carry | (RFLAGS_OF if overflow else 0)


def _rol(value: int, count: int, flags: int, size: int) -> tuple[int, int]:
    bits = 8 * size
    count %= bits
    result = (value << count | value >> bits - count) & MASKS[size]
    carry = result & 1
    return _rotated(result, carry, carry ^ result >> bits - 1, flags)


def _ror(value: int, count: int, flags: int, size: int) -> tuple[int, int]:
    bits = 8 * size
    count %= bits
    result = (value >> count | value << bits - count) & MASKS[size]
    carry = result >> bits - 1
    return _rotated(result, carry, carry ^ result >> bits - 2 & 1, flags)


def _rcl(value: int, count: int, flags: int, size: int) -> tuple[int, int]:
    bits = 8 * size
    count %= bits + 1
    wide = value | (flags & RFLAGS_CF) << bits
    wide = wide << count | wide >> bits + 1 - count
    result, carry = wide & MASKS[size], wide >> bits & 1
    return _rotated(result, carry, carry ^ result >> bits - 1, flags)


def _rcr(value: int, count: int, flags: int, size: int) -> tuple[int, int]:
    bits = 8 * size
    count %= bits + 1
    wide = value | (flags & RFLAGS_CF) << bits
    wide = wide >> count | wide << bits + 1 - count
    result, carry = wide & MASKS[size], wide >> bits & 1
    return _rotated(result, carry, (result >> bits - 1 ^ result >> bits - 2) & 1, flags)


# By the reg field of C0, C1 and D0 to D3; 6 is another SHL.
_SHIFTS: tuple[tuple[str, Shift], ...] = (
    ("rol", _rol),
    ("ror", _ror),
    ("rcl", _rcl),
    ("rcr", _rcr),
    ("shl", _shl),
    ("shr", _shr),
    ("shl", _shl),
    ("sar", _sar),
)


def _by_one(step: Step) -> int:
    return 1


def _by_immediate(step: Step) -> int:
    return step.instruction.immediate


def _by_cl(step: Step) -> int:
    return step.cpu.byte(RCX, 0)


def _masked(count: int, size: int) -> int:
    """Counts are taken modulo 32, of 64-bit operands modulo 64."""
    return count & (0x3F if size == 8 else 0x1F)


def _shift(operation: Shift, count_of: Callable[[Step], int], size: int) -> Action:
    def action(step: Step) -> None:
        width, regs = size or step.size, step.cpu.regs
        count = _masked(count_of(step), width)
        value = step.load_to_change(width)
        if count == 0:
            step.store(value, width)
            return
        result, flags = operation(value, count, regs["rflags"], width)
        step.store(result, width)
        regs["rflags"] = regs["rflags"] & ~ARITHMETIC | flags

    return action


def _shift_rows() -> Rows:
    rows: list[tuple[str, str, Action, str]] = []
    for number, (name, operation) in enumerate(_SHIFTS):
        rows += (
            (f"C0 /{number} ib", name, _shift(operation, _by_immediate, 1), ""),
            (f"C1 /{number} ib", name, _shift(operation, _by_immediate, 0), ""),
            (f"D0 /{number}", name, _shift(operation, _by_one, 1), ""),
            (f"D1 /{number}", name, _shift(operation, _by_one, 0), ""),
            (f"D2 /{number}", name, _shift(operation, _by_cl, 1), ""),
            (f"D3 /{number}", name, _shift(operation, _by_cl, 0), ""),
        )
    return tuple(rows)


def _double_shift(count_of: Callable[[Step], int], *, left: bool) -> Action:
    """SHLD and SHRD. A 16-bit shift by more than 16 goes on with the destination's own bits."""

    def action(step: Step) -> None:
        size, regs = step.size, step.cpu.regs
        bits = 8 * size
        count = _masked(count_of(step), size)
        value, source = step.load_to_change(size), step.reg()
        if count == 0:
            step.store(value)
            return
        if left:
            wide = (value << 2 * bits | source << bits | value) << count
            result, carry = wide >> 2 * bits & MASKS[size], wide >> 3 * bits & 1
        else:
            wide = value << 2 * bits | source << bits | value
            result, carry = wide >> count & MASKS[size], wide >> count - 1 & 1
        step.store(result)
        overflow = (value ^ result) & SIGNS[size]
        flags = of_result(result, size) | carry | (RFLAGS_OF if overflow else 0)
        regs["rflags"] = regs["rflags"] & ~ARITHMETIC | flags

    return action


# Bit tests: CF becomes the bit, the other flags stay.


def _set_bit(value: int, mask: int) -> int:
    return value | mask


def _reset_bit(value: int, mask: int) -> int:
    return value & ~mask


def _complement_bit(value: int, mask: int) -> int:
    return value ^ mask


def _bit_test(change: Callable[[int, int], int] | None, *, immediate: bool) -> Action:
    """With a register the bit may be anywhere in memory, its number is signed; else it is in the operand."""

    def action(step: Step) -> None:
        size, memory, instruction = step.size, step.memory, step.instruction
        bits = 8 * size
        number = instruction.immediate if immediate else signed(step.reg(), size)
        mask = 1 << number % bits
        if not instruction.is_memory:
            value = step.load()
            if change is not None:
                step.store(change(value, mask))
        else:
            place = step.offset() + (0 if immediate else number // bits * size)
            place &= MASKS[instruction.address_size]
            access = READ if change is None else WRITE
            value = int.from_bytes(memory.read(step.segment, place, size, access), "little")
            if change is not None:
                memory.write(step.segment, place, change(value, mask).to_bytes(size, "little"))
        step.cpu.set_flags(RFLAGS_CF if value & mask else 0, RFLAGS_CF)

    return action


INSTRUCTIONS: Rows = (
    *_shift_rows(),
    ("0F A4 /r ib", "shld", _double_shift(_by_immediate, left=True), ""),
    ("0F A5 /r", "shld", _double_shift(_by_cl, left=True), ""),
    ("0F AC /r ib", "shrd", _double_shift(_by_immediate, left=False), ""),
    ("0F AD /r", "shrd", _double_shift(_by_cl, left=False), ""),
    ("0F A3 /r", "bt", _bit_test(None, immediate=False), ""),
    ("0F AB /r", "bts", _bit_test(_set_bit, immediate=False), ""),
    ("0F B3 /r", "btr", _bit_test(_reset_bit, immediate=False), ""),
    ("0F BB /r", "btc", _bit_test(_complement_bit, immediate=False), ""),
    ("0F BA /4 ib", "bt", _bit_test(None, immediate=True), ""),
    ("0F BA /5 ib", "bts", _bit_test(_set_bit, immediate=True), ""),
    ("0F BA /6 ib", "btr", _bit_test(_reset_bit, immediate=True), ""),
    ("0F BA /7 ib", "btc", _bit_test(_complement_bit, immediate=True), ""),
)
