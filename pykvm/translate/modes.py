"""Modes: what translated code depends on beyond its bytes."""

from __future__ import annotations

from pykvm.translate.breakpoints import ENABLED
from pykvm.translate.codepage import FPU, TIME, USER, WIDE
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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.translate.state import ContextCpu
    from pykvm.x86.segments import Segment

INTERPRET_ONLY = (1 << 64) - 1
"""The mode in which nothing is translated: 16-bit code, segments that aren't flat, single steps."""


def is_open(segment: Segment) -> bool:
    """Whether 32-bit code may read and write at every offset in a segment."""
    return segment["limit"] == 0xFFFF_FFFF and segment["type"] & 14 == 2 and not segment["unusable"]


def present_mode(cpu: ContextCpu) -> int:
    """The mode in which code runs with these registers."""
    sregs, flags = cpu.sregs, cpu.regs["rflags"]
    cr0, cr4 = sregs["cr0"], sregs["cr4"]
    if not cr0 & CR0_PE or flags & (RFLAGS_TF | RFLAGS_VM):
        return INTERPRET_ONLY
    assert cpu.debug is not None
    if cpu.debug[7] & ENABLED:
        return INTERPRET_ONLY
    bits, cpl = cpu.bits, cpu.cpl
    if bits == 16 or cpl in (1, 2) or (cpl == 3 and flags & RFLAGS_AC and cr0 & CR0_AM):
        return INTERPRET_ONLY
    if bits == 32:
        code = sregs["cs"]
        if code["base"] or code["limit"] != 0xFFFF_FFFF:
            return INTERPRET_ONLY
        for name in ("ss", "ds", "es"):
            if sregs[name]["base"] or not is_open(sregs[name]):
                return INTERPRET_ONLY
        if not sregs["ss"]["db"]:
            return INTERPRET_ONLY
    mode = (USER if cpl == 3 else 0) | (WIDE if bits == 64 else 0)
    if not cr0 & (CR0_EM | CR0_TS) and cr4 & CR4_OSFXSR:
        mode |= FPU
    if cpl == 0 or not cr4 & CR4_TSD:
        mode |= TIME
    return mode
