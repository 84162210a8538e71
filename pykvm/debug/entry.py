"""What in a CPU's state no processor accepts: for a failed entry.

Source: Intel SDM vol. 3 §26.3.1, "Checks on the Guest State Area"; AMD APM vol. 2 §15.5.1.
"""

from __future__ import annotations

from pykvm.x86.paging import canonical
from pykvm.x86.registers import (
    CR0_CD,
    CR0_NW,
    CR0_PE,
    CR0_PG,
    CR4_PAE,
    EFER_LMA,
    EFER_LME,
    RFLAGS_FIXED,
)
from pykvm.x86.segments import TSS16_BUSY, TSS32_BUSY, TYPE_CODE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def refused(regs: Mapping[str, int], sregs: dict[str, Any]) -> list[str]:
    """What is wrong, a sentence each; empty where none of the usual rules is broken."""
    cr0, cr4, efer, cs = sregs["cr0"], sregs["cr4"], sregs["efer"], sregs["cs"]
    long = bool(efer & EFER_LMA)
    rules = (
        (cr0 & CR0_PG and not cr0 & CR0_PE, "CR0.PG is set without CR0.PE"),
        (cr0 & CR0_NW and not cr0 & CR0_CD, "CR0.NW is set without CR0.CD"),
        (long != bool(efer & EFER_LME and cr0 & CR0_PG), "EFER.LMA isn't EFER.LME and CR0.PG"),
        (long and not cr4 & CR4_PAE, "long mode without CR4.PAE"),
        (long and cs["l"] and cs["db"], "CS has both L and D"),
        (not cs["s"] or (not cs["type"] & TYPE_CODE and cr0 & CR0_PE), "CS is no code segment"),
        (not cs["present"], "CS isn't present"),
        (not regs["rflags"] & RFLAGS_FIXED, "bit 1 of RFLAGS is 0"),
        (long and not canonical(regs["rip"], cr4), "RIP isn't canonical"),
        (sregs["tr"]["type"] not in (TSS16_BUSY, TSS32_BUSY), "TR holds no busy TSS"),
        (not sregs["tr"]["present"] or sregs["tr"]["unusable"], "TR isn't usable"),
        (cr4 >> 25 & ~7, f"CR4 {cr4:#x} has reserved bits set"),
    )
    return [text for broken, text in rules if broken]
