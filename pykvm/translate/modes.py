"""Modes: what translated code depends on beyond its bytes."""

from __future__ import annotations

from pykvm.translate.breakpoints import ENABLED
from pykvm.translate.codepage import (
    BASE,
    CODE_16,
    FPU,
    REAL,
    SEGMENTED,
    SHORT,
    STACK_32,
    TIME,
    USER,
    WIDE,
)
from pykvm.x86.registers import (
    CR0_AM,
    CR0_EM,
    CR0_PE,
    CR0_TS,
    CR4_OSFXSR,
    CR4_TSD,
    RFLAGS_AC,
    RFLAGS_TF,
    RFLAGS_VM,
)
from pykvm.x86.segments import TYPE_CODE, TYPE_EXPAND_DOWN, TYPE_READABLE, TYPE_WRITABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.translate.state import ContextCpu
    from pykvm.x86.segments import Segment

INTERPRET_ONLY = (1 << 64) - 1
"""The mode in which nothing is translated: virtual-8086 mode, single steps, breakpoints, odd segments."""


def is_open(segment: Segment) -> bool:
    """Whether 32-bit code may read and write at every offset in a segment."""
    return segment["limit"] == 0xFFFF_FFFF and segment["type"] & 14 == 2 and not segment["unusable"]


def room(segment: Segment, *, write: bool, protected: bool) -> int:
    """What is added to an access's last offset: below 0 if and only if the segment allows it.

    Where limits count otherwise (data that expand down) or type or presence forbid it, 0: none is below. Real
    mode has no types.
    """
    kind = segment["type"]
    if segment["unusable"] or kind & (TYPE_CODE | TYPE_EXPAND_DOWN) == TYPE_EXPAND_DOWN:
        return 0
    if protected and kind & TYPE_CODE and (write or not kind & TYPE_READABLE):
        return 0
    if protected and not kind & TYPE_CODE and write and not kind & TYPE_WRITABLE:
        return 0
    return (1 << 64) - 1 - segment["limit"]


def present_mode(cpu: ContextCpu) -> int:
    """The mode in which code runs with these registers."""
    sregs, flags = cpu.sregs, cpu.regs["rflags"]
    cr0, cr4 = sregs["cr0"], sregs["cr4"]
    if flags & (RFLAGS_TF | RFLAGS_VM):
        return INTERPRET_ONLY
    assert cpu.debug is not None
    if cpu.debug[7] & ENABLED:
        return INTERPRET_ONLY
    bits, cpl = cpu.bits, cpu.cpl
    if cpl in (1, 2) or (cpl == 3 and flags & RFLAGS_AC and cr0 & CR0_AM):
        return INTERPRET_ONLY
    if bits != 64 and not (cr0 & CR0_PE and bits == 32 and _is_flat(sregs)):
        return _segmented(sregs, bits, cpl, bool(cr0 & CR0_PE))
    mode = (USER if cpl == 3 else 0) | (WIDE if bits == 64 else 0)
    if not cr0 & (CR0_EM | CR0_TS) and cr4 & CR4_OSFXSR:
        mode |= FPU
    if cpl == 0 or not cr4 & CR4_TSD:
        mode |= TIME
    return mode


def _is_flat(sregs: dict[str, Segment]) -> bool:
    """Whether 32-bit code reaches all by CS, SS, DS and ES as if there were no segments."""
    code = sregs["cs"]
    if code["base"] or code["limit"] != 0xFFFF_FFFF or not sregs["ss"]["db"]:
        return False
    return all(not sregs[name]["base"] and is_open(sregs[name]) for name in ("ss", "ds", "es"))


def _segmented(sregs: dict[str, Segment], bits: int, cpl: int, protected: bool) -> int:
    code = sregs["cs"]
    if code["limit"] not in (0xFFFF, 0xFFFF_FFFF):
        return INTERPRET_ONLY
    mode = SEGMENTED | (USER if cpl == 3 else 0) | code["base"] << BASE
    if bits == 16:
        mode |= CODE_16
    if sregs["ss"]["db"]:
        mode |= STACK_32
    if not protected and not any(sregs[name]["unusable"] for name in ("ds", "es", "fs", "gs")):
        mode |= REAL
    return mode if code["limit"] > 0xFFFF else mode | SHORT
