"""Entry states: what the registers hold when a guest's first instruction runs.

========== ======================================================= =============================
mode       code segment                                            data, stack
========== ======================================================= =============================
real       selector start >> 4, IP start & 15                      data: CS's selector; stack: its own
protected  selector 0x10: flat, 32 bits, paging off                0x18: flat
long       selector 0x10: 64 bits, first 4 GiB mapped 1:1          0x18: flat
========== ======================================================= =============================

Interrupts are off and there is no IDT but real mode's, so that an exception ends the machine until
the guest has made its own. The selectors are those of Linux's boot protocol
(Documentation/arch/x86/boot.rst, "32-bit" and "64-bit Boot Protocol"). The states pass the checks
of VMRUN (AMD APM vol. 2 §15.5.1) and of VM entry (Intel SDM vol. 3 §26.3.1): the task register
holds a busy TSS, the LDT is unusable, EFER.LMA agrees with CR0.PG and EFER.LME.

A state is a dict of plain values, named like the fields of kvm_regs and kvm_sregs.
"""

from __future__ import annotations

from struct import pack

from pykvm.x86.paging import PTE_P, PTE_PS, PTE_RW
from pykvm.x86.registers import (
    CR0_ET,
    CR0_PE,
    CR0_PG,
    CR4_PAE,
    EFER_LMA,
    EFER_LME,
    GPRS,
    RFLAGS_FIXED,
    SEGMENTS,
)
from pykvm.x86.segments import (
    TSS32_BUSY,
    TYPE_ACCESSED,
    TYPE_CODE,
    TYPE_READABLE,
    TYPE_WRITABLE,
    encode_segment,
    encode_system_segment,
    null_segment,
    real_segment,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pykvm.x86.segments import Segment

    State = dict[str, dict[str, Any]]

CODE_SELECTOR = 0x10
DATA_SELECTOR = 0x18
TSS_SELECTOR = 0x20

CODE_TYPE = TYPE_CODE | TYPE_READABLE | TYPE_ACCESSED
DATA_TYPE = TYPE_WRITABLE | TYPE_ACCESSED

GDT_SIZE = 0x30
TSS_OFFSET = 0x40
TSS_SIZE = 0x68
"""The GDT and, at TSS_OFFSET from it, a TSS of zeros: no guest uses it, but a CPU must have one."""

APIC_BASE = 0xFEE0_0900
"""IA32_APIC_BASE of the first CPU after reset: enabled, bootstrap processor (SDM vol. 3 §10.4.4)."""

REAL_MODE_END = 0x10_0000
"""Real mode starts below: CS = start >> 4 has 16 bits."""

REAL_MODE_STACK = 0x8000

PAGE = 0x1000
LARGE_PAGE = 0x20_0000
FOUR_GIB = 0x1_0000_0000
PAGE_TABLES_SIZE = PAGE * (2 + FOUR_GIB // LARGE_PAGE // 512)


def real(start: int, *, stack: int, segment: int | None = None) -> State:
    """Real mode at physical ``start`` (below 1 MiB); the stack grows down from physical ``stack``.

    CS is ``segment``, by default the one with the smallest IP.
    """
    code = real_segment(start >> 4 if segment is None else segment)
    base = max(stack - REAL_MODE_STACK, 0) >> 4
    segments = {**dict.fromkeys(SEGMENTS, code), "cs": {**code, "type": CODE_TYPE}, "ss": real_segment(base)}
    task = {**null_segment(), "limit": 0xFFFF, "type": TSS32_BUSY, "present": 1, "unusable": 0}
    return _state(
        {"rip": start - code["base"], "rsp": stack - (base << 4)},
        segments,
        tr=task,
        gdt={"base": 0, "limit": 0xFFFF},
        idt={"base": 0, "limit": 0x3FF},
        cr0=CR0_ET,
    )


def protected(start: int, *, stack: int, gdt: int, rsi: int = 0, task: int | None = None) -> State:
    """32-bit protected mode without paging; the GDT (``descriptors``) lies at physical ``gdt``.

    The TSS is at ``task``, by default behind the GDT.
    """
    state = _flat({"rip": start, "rsp": stack, "rsi": rsi}, {"db": 1, "l": 0}, gdt, cr0=CR0_PE | CR0_ET)
    if task is not None:
        state["sregs"]["tr"]["base"] = task
    return state


def long(start: int, *, stack: int, gdt: int, page_tables: int, rsi: int = 0) -> State:
    """64-bit mode; the GDT (``descriptors``) lies at ``gdt``, ``identity_map`` at ``page_tables``."""
    return _flat(
        {"rip": start, "rsp": stack, "rsi": rsi},
        {"db": 0, "l": 1},
        gdt,
        cr0=CR0_PE | CR0_ET | CR0_PG,
        cr3=page_tables,
        cr4=CR4_PAE,
        efer=EFER_LME | EFER_LMA,
    )


def descriptors(state: State) -> bytes:
    """The GDT that agrees with the segment registers of a protected or long mode ``state``."""
    sregs = state["sregs"]
    table = bytearray(GDT_SIZE)
    for segment in (sregs["cs"], sregs["ds"]):
        table[segment["selector"] : segment["selector"] + 8] = encode_segment(segment).to_bytes(8, "little")
    table[TSS_SELECTOR : TSS_SELECTOR + 16] = encode_system_segment(sregs["tr"])
    return bytes(table)


def identity_map(base: int) -> bytes:
    """Page tables to lie at physical ``base`` that map the first 4 GiB to themselves.

    A PML4, a PDPT and four page directories of 2 MiB pages (not every CPU has pages of 1 GiB);
    PAGE_TABLES_SIZE bytes.
    """
    table = PTE_P | PTE_RW
    directories = range(base + 2 * PAGE, base + PAGE_TABLES_SIZE, PAGE)
    pages = range(table | PTE_PS, FOUR_GIB, LARGE_PAGE)
    return b"".join(
        (
            pack("<512Q", base + PAGE | table, *[0] * 511),
            pack("<512Q", *(gpa | table for gpa in directories), *[0] * (512 - len(directories))),
            pack(f"<{len(pages)}Q", *pages),
        )
    )


def _flat(regs: dict[str, int], width: dict[str, int], gdt: int, **control: int) -> State:
    flat = {**null_segment(), "limit": 0xFFFF_FFFF, "present": 1, "s": 1, "g": 1, "unusable": 0}
    code: Segment = {**flat, **width, "selector": CODE_SELECTOR, "type": CODE_TYPE}
    data: Segment = {**flat, "db": 1, "selector": DATA_SELECTOR, "type": DATA_TYPE}
    task: Segment = {
        **null_segment(TSS_SELECTOR),
        "base": gdt + TSS_OFFSET,
        "limit": TSS_SIZE - 1,
        "type": TSS32_BUSY,
        "present": 1,
        "unusable": 0,
    }
    return _state(
        regs,
        {**dict.fromkeys(SEGMENTS, data), "cs": code},
        tr=task,
        gdt={"base": gdt, "limit": GDT_SIZE - 1},
        idt={"base": 0, "limit": 0},
        **control,
    )


def _state(regs: dict[str, int], segments: dict[str, Segment], **sregs: Any) -> State:
    control = dict.fromkeys(("cr0", "cr2", "cr3", "cr4", "cr8", "efer"), 0)
    return {
        "regs": {**dict.fromkeys(GPRS, 0), "rip": 0, "rflags": RFLAGS_FIXED, **regs},
        "sregs": {
            **{name: dict(segment) for name, segment in segments.items()},
            "ldt": null_segment(),
            "apic_base": APIC_BASE,
            **control,
            **sregs,
        },
    }
