"""ADD to CMP, TEST, INC, DEC, NEG, NOT, XADD, CMPXCHG, and the conversions CBW to CQO (Intel SDM vol. 2).

Each is by its name there. Of the flags AF is cleared by AND, OR, XOR and TEST, which the manual leaves open.
"""

from __future__ import annotations

from pykvm.x86.execute.flags import ARITHMETIC, SIGNS, add, of_result, signed, subtract
from pykvm.x86.execute.integers import RAX, RDX
from pykvm.x86.registers import RFLAGS_CF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.x86.execute.step import Step
    from pykvm.x86.execute.table import Action, Rows

    Operation = Callable[[int, int, int, int], tuple[int, int]]


# Of two operands, the flags and the size in bytes: the result and the status flags.


def _add(a: int, b: int, flags: int, size: int) -> tuple[int, int]:
    return add(a, b, 0, size)


def _or(a: int, b: int, flags: int, size: int) -> tuple[int, int]:
    return a | b, of_result(a | b, size)


def _adc(a: int, b: int, flags: int, size: int) -> tuple[int, int]:
    return add(a, b, flags & RFLAGS_CF, size)


def _sbb(a: int, b: int, flags: int, size: int) -> tuple[int, int]:
    return subtract(a, b, flags & RFLAGS_CF, size)


def _and(a: int, b: int, flags: int, size: int) -> tuple[int, int]:
    return a & b, of_result(a & b, size)


def _sub(a: int, b: int, flags: int, size: int) -> tuple[int, int]:
    return subtract(a, b, 0, size)


def _xor(a: int, b: int, flags: int, size: int) -> tuple[int, int]:
    return a ^ b, of_result(a ^ b, size)


# By their number in the opcodes 00 to 3F and in the reg field of 80 to 83.
_BINARY: tuple[tuple[str, Operation], ...] = (
    ("add", _add),
    ("or", _or),
    ("adc", _adc),
    ("sbb", _sbb),
    ("and", _and),
    ("sub", _sub),
    ("xor", _xor),
    ("cmp", _sub),
)


def _set_status(step: Step, flags: int) -> None:
    regs = step.cpu.regs
    regs["rflags"] = regs["rflags"] & ~ARITHMETIC | flags


def _to_memory(operation: Operation, size: int, *, immediate: bool) -> Action:
    """r/m with a register or the immediate, to r/m; ``size`` 0 is the operand size."""

    def action(step: Step) -> None:
        width = size or step.size
        other = step.immediate(width) if immediate else step.reg(width)
        result, flags = operation(step.load_to_change(width), other, step.cpu.regs["rflags"], width)
        step.store(result, width)
        _set_status(step, flags)

    return action


def _only_flags(operation: Operation, size: int, *, immediate: bool) -> Action:
    """CMP and TEST: as _to_memory, but the result is dropped."""

    def action(step: Step) -> None:
        width = size or step.size
        other = step.immediate(width) if immediate else step.reg(width)
        _set_status(step, operation(step.load(width), other, 0, width)[1])

    return action


def _to_register(operation: Operation, size: int, *, store: bool) -> Action:
    def action(step: Step) -> None:
        width = size or step.size
        result, flags = operation(step.reg(width), step.load(width), step.cpu.regs["rflags"], width)
        if store:
            step.set_reg(result, width)
        _set_status(step, flags)

    return action


def _to_accumulator(operation: Operation, size: int, *, store: bool) -> Action:
    def action(step: Step) -> None:
        width, cpu = size or step.size, step.cpu
        old = cpu.byte(RAX, 0) if width == 1 else cpu.reg(RAX, width)
        result, flags = operation(old, step.immediate(width), cpu.regs["rflags"], width)
        if store and width == 1:
            cpu.set_byte(RAX, 0, result)
        elif store:
            cpu.set_reg(RAX, width, result)
        _set_status(step, flags)

    return action


def _binary_rows() -> Rows:
    rows: list[tuple[str, str, Action, str]] = []
    for number, (name, operation) in enumerate(_BINARY):
        store, first = name != "cmp", 8 * number
        to_memory = _to_memory if store else _only_flags
        rows += (
            (f"{first:02X} /r", name, to_memory(operation, 1, immediate=False), ""),
            (f"{first + 1:02X} /r", name, to_memory(operation, 0, immediate=False), ""),
            (f"{first + 2:02X} /r", name, _to_register(operation, 1, store=store), ""),
            (f"{first + 3:02X} /r", name, _to_register(operation, 0, store=store), ""),
            (f"{first + 4:02X} ib", name, _to_accumulator(operation, 1, store=store), ""),
            (f"{first + 5:02X} id", name, _to_accumulator(operation, 0, store=store), ""),
            (f"80 /{number} ib", name, to_memory(operation, 1, immediate=True), ""),
            (f"81 /{number} id", name, to_memory(operation, 0, immediate=True), ""),
            (f"82 /{number} ib", name, to_memory(operation, 1, immediate=True), ""),
            (f"83 /{number} ib", name, to_memory(operation, 0, immediate=True), ""),
        )
    return tuple(rows)


# INC and DEC leave CF as it is.


def _inc(a: int, flags: int, size: int) -> tuple[int, int]:
    result, new = add(a, 1, 0, size)
    return result, new & ~RFLAGS_CF | flags & RFLAGS_CF


def _dec(a: int, flags: int, size: int) -> tuple[int, int]:
    result, new = subtract(a, 1, 0, size)
    return result, new & ~RFLAGS_CF | flags & RFLAGS_CF


def _neg(a: int, flags: int, size: int) -> tuple[int, int]:
    return subtract(0, a, 0, size)


def _not(a: int, flags: int, size: int) -> tuple[int, int]:
    return ~a, flags & ARITHMETIC


def _unary(operation: Callable[[int, int, int], tuple[int, int]], size: int) -> Action:
    def action(step: Step) -> None:
        width = size or step.size
        result, flags = operation(step.load_to_change(width), step.cpu.regs["rflags"], width)
        step.store(result, width)
        _set_status(step, flags)

    return action


def _inc_or_dec_register(operation: Callable[[int, int, int], tuple[int, int]]) -> Action:
    """40 to 4F, which 64-bit code has as REX."""

    def action(step: Step) -> None:
        number, cpu = step.opcode_register(), step.cpu
        result, flags = operation(cpu.reg(number, step.size), cpu.regs["rflags"], step.size)
        cpu.set_reg(number, step.size, result)
        _set_status(step, flags)

    return action


def _xadd(size: int) -> Action:
    def action(step: Step) -> None:
        width = size or step.size
        old, source = step.load_to_change(width), step.reg(width)
        result, flags = add(old, source, 0, width)
        if step.instruction.is_memory:
            step.store(result, width)
            step.set_reg(old, width)
        else:  # where both are one register the sum is what stays
            step.set_reg(old, width)
            step.store(result, width)
        _set_status(step, flags)

    return action


def _cmpxchg(size: int) -> Action:
    """Memory is stored to either way, a register only where it was equal."""

    def action(step: Step) -> None:
        width, cpu = size or step.size, step.cpu
        found = step.load_to_change(width)
        accumulator = cpu.byte(RAX, 0) if width == 1 else cpu.reg(RAX, width)
        _, flags = subtract(accumulator, found, 0, width)
        if found == accumulator:
            step.store(step.reg(width), width)
        else:
            if step.instruction.is_memory:
                step.store(found, width)
            if width == 1:
                cpu.set_byte(RAX, 0, found)
            else:
                cpu.set_reg(RAX, width, found)
        _set_status(step, flags)

    return action


# Conversions


def cbw(step: Step) -> None:
    """CBW, CWDE, CDQE: the accumulator from its lower half."""
    half = step.size // 2
    low = step.cpu.byte(RAX, 0) if half == 1 else step.cpu.reg(RAX, half)
    step.cpu.set_reg(RAX, step.size, signed(low, half))


def cwd(step: Step) -> None:
    """CWD, CDQ, CQO: (R/E)DX becomes the sign of the accumulator."""
    negative = step.cpu.reg(RAX, step.size) & SIGNS[step.size]
    step.cpu.set_reg(RDX, step.size, -1 if negative else 0)


INSTRUCTIONS: Rows = (
    *_binary_rows(),
    ("84 /r", "test", _only_flags(_and, 1, immediate=False), ""),
    ("85 /r", "test", _only_flags(_and, 0, immediate=False), ""),
    ("A8 ib", "test", _to_accumulator(_and, 1, store=False), ""),
    ("A9 id", "test", _to_accumulator(_and, 0, store=False), ""),
    ("F6 /0 ib", "test", _only_flags(_and, 1, immediate=True), ""),
    ("F6 /1 ib", "test", _only_flags(_and, 1, immediate=True), ""),
    ("F7 /0 id", "test", _only_flags(_and, 0, immediate=True), ""),
    ("F7 /1 id", "test", _only_flags(_and, 0, immediate=True), ""),
    ("F6 /2", "not", _unary(_not, 1), ""),
    ("F7 /2", "not", _unary(_not, 0), ""),
    ("F6 /3", "neg", _unary(_neg, 1), ""),
    ("F7 /3", "neg", _unary(_neg, 0), ""),
    ("FE /0", "inc", _unary(_inc, 1), ""),
    ("FF /0", "inc", _unary(_inc, 0), ""),
    ("FE /1", "dec", _unary(_dec, 1), ""),
    ("FF /1", "dec", _unary(_dec, 0), ""),
    ("40+r", "inc", _inc_or_dec_register(_inc), ""),
    ("48+r", "dec", _inc_or_dec_register(_dec), ""),
    ("0F C0 /r", "xadd", _xadd(1), ""),
    ("0F C1 /r", "xadd", _xadd(0), ""),
    ("0F B0 /r", "cmpxchg", _cmpxchg(1), ""),
    ("0F B1 /r", "cmpxchg", _cmpxchg(0), ""),
    ("98", "cbw", cbw, ""),
    ("99", "cwd", cwd, ""),
)
