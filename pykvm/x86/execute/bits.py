"""Bits of general registers: POPCNT, LZCNT, TZCNT, BMI1 and BMI2 (Intel SDM vol. 2, each by its name).

Flags that the manual leaves undefined stay as they were.
"""

from __future__ import annotations

from pykvm.x86.exceptions import UD, Fault
from pykvm.x86.execute.flags import ARITHMETIC
from pykvm.x86.registers import RFLAGS_CF, RFLAGS_OF, RFLAGS_SF, RFLAGS_ZF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.x86.execute.step import Step


def popcnt(step: Step) -> None:
    source = step.load()
    step.set_reg(source.bit_count())
    step.cpu.set_flags(0 if source else RFLAGS_ZF, ARITHMETIC)


def lzcnt(step: Step) -> None:
    source = step.load()
    count = 8 * step.size - source.bit_length()
    _count_zeros(step, source, count)


def tzcnt(step: Step) -> None:
    source = step.load()
    count = (source & -source).bit_length() - 1 if source else 8 * step.size
    _count_zeros(step, source, count)


def _count_zeros(step: Step, source: int, count: int) -> None:
    step.set_reg(count)
    step.cpu.set_flags(
        (0 if source else RFLAGS_CF) | (0 if count else RFLAGS_ZF),
        RFLAGS_CF | RFLAGS_ZF,
    )


def bsr(step: Step) -> None:
    """Also what the bytes of LZCNT mean to a CPU without it."""
    _scan(step, lambda source: source.bit_length() - 1)


def bsf(step: Step) -> None:
    """Also what the bytes of TZCNT mean to a CPU without it."""
    _scan(step, lambda source: (source & -source).bit_length() - 1)


def _scan(step: Step, position: Callable[[int], int]) -> None:
    source = step.load()
    if source:
        step.set_reg(position(source))
    step.cpu.set_flags(0 if source else RFLAGS_ZF, RFLAGS_ZF)


def _need_vex(step: Step) -> None:
    """VEX instructions on general registers: SDM vol. 2 §2.5.1, exceptions type 13."""
    if not step.cpu.protected or step.cpu.v86 or step.instruction.vector_length != 16:
        raise Fault(UD)


def _result(step: Step, result: int, carry: bool) -> int:
    """SF and ZF by ``result``, CF as given, OF clear; gives the result cut to size."""
    bits = 8 * step.size
    result &= (1 << bits) - 1
    flags = (
        (RFLAGS_SF if result >> bits - 1 else 0) | (0 if result else RFLAGS_ZF) | (RFLAGS_CF if carry else 0)
    )
    step.cpu.set_flags(flags, RFLAGS_SF | RFLAGS_ZF | RFLAGS_CF | RFLAGS_OF)
    return result


def andn(step: Step) -> None:
    _need_vex(step)
    step.set_reg(_result(step, ~step.vvvv() & step.load(), False))


def bextr(step: Step) -> None:
    _need_vex(step)
    control = step.vvvv()
    start, length = control & 0xFF, control >> 8 & 0xFF
    result = step.load() >> start & (1 << length) - 1
    step.set_reg(result)
    step.cpu.set_flags(0 if result else RFLAGS_ZF, RFLAGS_ZF | RFLAGS_CF | RFLAGS_OF)


def blsi(step: Step) -> None:
    _need_vex(step)
    source = step.load()
    step.set_vvvv(_result(step, -source & source, source != 0))


def blsmsk(step: Step) -> None:
    _need_vex(step)
    source = step.load()
    step.set_vvvv(_result(step, source - 1 ^ source, source == 0))


def blsr(step: Step) -> None:
    _need_vex(step)
    source = step.load()
    step.set_vvvv(_result(step, source - 1 & source, source == 0))


def bzhi(step: Step) -> None:
    _need_vex(step)
    keep = step.vvvv() & 0xFF
    step.set_reg(_result(step, step.load() & (1 << keep) - 1, keep >= 8 * step.size))


def mulx(step: Step) -> None:
    _need_vex(step)
    product = step.cpu.reg(2, step.size) * step.load()
    step.set_vvvv(product)
    step.set_reg(product >> 8 * step.size)  # the high half wins where both are one register


def pdep(step: Step) -> None:
    _need_vex(step)
    source, mask = step.vvvv(), step.load()
    result = 0
    while mask:
        lowest = mask & -mask
        result |= lowest if source & 1 else 0
        source >>= 1
        mask ^= lowest
    step.set_reg(result)


def pext(step: Step) -> None:
    _need_vex(step)
    source, mask = step.vvvv(), step.load()
    result = position = 0
    while mask:
        lowest = mask & -mask
        result |= bool(source & lowest) << position
        position += 1
        mask ^= lowest
    step.set_reg(result)


def rorx(step: Step) -> None:
    _need_vex(step)
    if step.instruction.vvvv:
        raise Fault(UD)  # an operand that RORX doesn't have
    bits = 8 * step.size
    count, source = step.instruction.immediate & bits - 1, step.load()
    step.set_reg(source >> count | source << bits - count)


def sarx(step: Step) -> None:
    _need_vex(step)
    bits = 8 * step.size
    source = step.load()
    signed = source - (source >> bits - 1 << bits)
    step.set_reg(signed >> (step.vvvv() & bits - 1))


def shlx(step: Step) -> None:
    _need_vex(step)
    step.set_reg(step.load() << (step.vvvv() & 8 * step.size - 1))


def shrx(step: Step) -> None:
    _need_vex(step)
    step.set_reg(step.load() >> (step.vvvv() & 8 * step.size - 1))


INSTRUCTIONS = (
    ("F3 0F B8 /r", "popcnt", popcnt, "popcnt"),
    ("F3 0F BD /r", "lzcnt", lzcnt, "abm"),
    ("0F BD /r", "bsr", bsr, ""),
    ("F3 0F BC /r", "tzcnt", tzcnt, "bmi1"),
    ("0F BC /r", "bsf", bsf, ""),
    ("VEX.LZ.0F38 F2 /r", "andn", andn, "bmi1"),
    ("VEX.LZ.0F38 F7 /r", "bextr", bextr, "bmi1"),
    ("VEX.LZ.0F38 F3 /3", "blsi", blsi, "bmi1"),
    ("VEX.LZ.0F38 F3 /2", "blsmsk", blsmsk, "bmi1"),
    ("VEX.LZ.0F38 F3 /1", "blsr", blsr, "bmi1"),
    ("VEX.LZ.0F38 F5 /r", "bzhi", bzhi, "bmi2"),
    ("VEX.LZ.F2.0F38 F6 /r", "mulx", mulx, "bmi2"),
    ("VEX.LZ.F2.0F38 F5 /r", "pdep", pdep, "bmi2"),
    ("VEX.LZ.F3.0F38 F5 /r", "pext", pext, "bmi2"),
    ("VEX.LZ.F2.0F3A F0 /r ib", "rorx", rorx, "bmi2"),
    ("VEX.LZ.F3.0F38 F7 /r", "sarx", sarx, "bmi2"),
    ("VEX.LZ.66.0F38 F7 /r", "shlx", shlx, "bmi2"),
    ("VEX.LZ.F2.0F38 F7 /r", "shrx", shrx, "bmi2"),
)
