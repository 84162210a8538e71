"""MUL, IMUL, DIV, IDIV and the decimal adjustments (Intel SDM vol. 2, each by its name).

Flags that the manual leaves undefined stay as they were; the adjustments clear those.
"""

from __future__ import annotations

from pykvm.x86.exceptions import DE, Fault
from pykvm.x86.execute.flags import ARITHMETIC, of_result, signed
from pykvm.x86.execute.integers import RAX, RDX
from pykvm.x86.execute.step import MASKS
from pykvm.x86.registers import RFLAGS_AF, RFLAGS_CF, RFLAGS_OF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.x86.execute.step import Step
    from pykvm.x86.execute.table import Action, Rows

_AH = 4  # the number of AH where there is no REX


def _set_pair(step: Step, low: int, high: int, size: int) -> None:
    """AX (AH:AL), DX:AX, EDX:EAX or RDX:RAX."""
    cpu = step.cpu
    if size == 1:
        cpu.set_reg(RAX, 2, low & 0xFF | (high & 0xFF) << 8)
    else:
        cpu.set_reg(RAX, size, low)
        cpu.set_reg(RDX, size, high)


def _pair(step: Step, size: int) -> int:
    cpu = step.cpu
    if size == 1:
        return cpu.reg(RAX, 2)
    return cpu.reg(RDX, size) << 8 * size | cpu.reg(RAX, size)


def _set_overflow(step: Step, overflow: bool) -> None:
    both = RFLAGS_CF | RFLAGS_OF
    step.cpu.set_flags(both if overflow else 0, both)


def _accumulator(step: Step, size: int) -> int:
    return step.cpu.byte(RAX, 0) if size == 1 else step.cpu.reg(RAX, size)


def _mul(size: int) -> Action:
    def action(step: Step) -> None:
        width = size or step.size
        product = _accumulator(step, width) * step.load(width)
        high = product >> 8 * width
        _set_pair(step, product & MASKS[width], high, width)
        _set_overflow(step, high != 0)

    return action


def _imul(size: int) -> Action:
    def action(step: Step) -> None:
        width = size or step.size
        product = signed(_accumulator(step, width), width) * signed(step.load(width), width)
        low = product & MASKS[width]
        _set_pair(step, low, product >> 8 * width, width)
        _set_overflow(step, signed(low, width) != product)

    return action


def _imul_to_register(step: Step, a: int, b: int) -> None:
    product = signed(a, step.size) * signed(b, step.size)
    low = product & MASKS[step.size]
    step.set_reg(low)
    _set_overflow(step, signed(low, step.size) != product)


def imul_register(step: Step) -> None:
    _imul_to_register(step, step.reg(), step.load())


def imul_immediate(step: Step) -> None:
    _imul_to_register(step, step.load(), step.immediate(step.size))


def _div(size: int) -> Action:
    def action(step: Step) -> None:
        width = size or step.size
        divisor = step.load(width)
        if divisor == 0:
            raise Fault(DE)
        quotient, remainder = divmod(_pair(step, width), divisor)
        if quotient > MASKS[width]:
            raise Fault(DE)
        _set_pair(step, quotient, remainder, width)

    return action


def _idiv(size: int) -> Action:
    """The quotient is cut towards 0, and the remainder has the dividend's sign."""

    def action(step: Step) -> None:
        width = size or step.size
        divisor = signed(step.load(width), width)
        dividend = _pair(step, width)
        if dividend >> 16 * width - 1:
            dividend -= 1 << 16 * width
        if divisor == 0:
            raise Fault(DE)
        quotient = abs(dividend) // abs(divisor)
        if (dividend < 0) != (divisor < 0):
            quotient = -quotient
        if not -(MASKS[width] + 1 >> 1) <= quotient <= MASKS[width] >> 1:
            raise Fault(DE)
        _set_pair(step, quotient, dividend - quotient * divisor, width)

    return action


# Decimal


def _adjust(step: Step, sign: int) -> None:
    """DAA (``sign`` 1) and DAS (-1)."""
    cpu = step.cpu
    old, flags = cpu.byte(RAX, 0), cpu.regs["rflags"]
    al, new = old, 0
    if old & 0xF > 9 or flags & RFLAGS_AF:
        al += 6 * sign
        new |= RFLAGS_AF
        if not 0 <= al <= 0xFF and sign < 0:
            new |= RFLAGS_CF
    if old > 0x99 or flags & RFLAGS_CF:
        al += 0x60 * sign
        new |= RFLAGS_CF
    al &= 0xFF
    cpu.set_byte(RAX, 0, al)
    cpu.set_flags(new | of_result(al, 1), ARITHMETIC)


def daa(step: Step) -> None:
    _adjust(step, 1)


def das(step: Step) -> None:
    _adjust(step, -1)


def _ascii_adjust(step: Step, sign: int) -> None:
    """AAA (``sign`` 1) and AAS (-1)."""
    cpu = step.cpu
    ax, flags = cpu.reg(RAX, 2), cpu.regs["rflags"]
    new = 0
    if ax & 0xF > 9 or flags & RFLAGS_AF:
        ax += 0x106 * sign
        new = RFLAGS_AF | RFLAGS_CF
    ax &= 0xFF0F
    cpu.set_reg(RAX, 2, ax)
    cpu.set_flags(new | of_result(ax & 0xFF, 1), ARITHMETIC)


def aaa(step: Step) -> None:
    _ascii_adjust(step, 1)


def aas(step: Step) -> None:
    _ascii_adjust(step, -1)


def aam(step: Step) -> None:
    base = step.instruction.immediate
    if base == 0:
        raise Fault(DE)
    high, low = divmod(step.cpu.byte(RAX, 0), base)
    step.cpu.set_reg(RAX, 2, high << 8 | low)
    step.cpu.set_flags(of_result(low, 1), ARITHMETIC)


def aad(step: Step) -> None:
    cpu = step.cpu
    low = cpu.byte(RAX, 0) + cpu.byte(_AH, 0) * step.instruction.immediate & 0xFF
    cpu.set_reg(RAX, 2, low)
    cpu.set_flags(of_result(low, 1), ARITHMETIC)


INSTRUCTIONS: Rows = (
    ("F6 /4", "mul", _mul(1), ""),
    ("F7 /4", "mul", _mul(0), ""),
    ("F6 /5", "imul", _imul(1), ""),
    ("F7 /5", "imul", _imul(0), ""),
    ("0F AF /r", "imul", imul_register, ""),
    ("69 /r id", "imul", imul_immediate, ""),
    ("6B /r ib", "imul", imul_immediate, ""),
    ("F6 /6", "div", _div(1), ""),
    ("F7 /6", "div", _div(0), ""),
    ("F6 /7", "idiv", _idiv(1), ""),
    ("F7 /7", "idiv", _idiv(0), ""),
    ("27", "daa", daa, ""),
    ("2F", "das", das, ""),
    ("37", "aaa", aaa, ""),
    ("3F", "aas", aas, ""),
    ("D4 ib", "aam", aam, ""),
    ("D5 ib", "aad", aad, ""),
)
