"""Descriptors: what GDT, LDT and IDT hold, and the plain values they stand for.

Layouts are those of the Intel SDM vol. 3 §3.4 (segments), §5.8 (gates) and §7.2, §7.7 (TSS).

A segment is a dict with the fields of kvm_segment::

    {"base", "limit", "selector", "type", "present", "dpl", "db", "s", "l", "g", "avl", "unusable"}

``limit`` is in bytes, the last one that belongs to the segment. A gate is a dict::

    {"offset", "selector", "type", "present", "dpl", "ist", "params"}
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    Segment = dict[str, int]
    Gate = dict[str, int]

# Types of system descriptors (s = 0), SDM vol. 3 table 3-2. In IA-32e mode those of 32 bits mean 64.
TSS16_AVAILABLE = 1
LDT = 2
TSS16_BUSY = 3
CALL_GATE16 = 4
TASK_GATE = 5
INTERRUPT_GATE16 = 6
TRAP_GATE16 = 7
TSS32_AVAILABLE = 9
TSS32_BUSY = 11
CALL_GATE32 = 12
INTERRUPT_GATE32 = 14
TRAP_GATE32 = 15

SYSTEM_TYPES = {
    TSS16_AVAILABLE: "16-bit TSS (available)",
    LDT: "LDT",
    TSS16_BUSY: "16-bit TSS (busy)",
    CALL_GATE16: "16-bit call gate",
    TASK_GATE: "task gate",
    INTERRUPT_GATE16: "16-bit interrupt gate",
    TRAP_GATE16: "16-bit trap gate",
    TSS32_AVAILABLE: "TSS (available)",
    TSS32_BUSY: "TSS (busy)",
    CALL_GATE32: "call gate",
    INTERRUPT_GATE32: "interrupt gate",
    TRAP_GATE32: "trap gate",
}

# Bits of the type of a code or data segment (s = 1), SDM vol. 3 table 3-1.
TYPE_ACCESSED = 1
TYPE_WRITABLE = 2  # of a data segment
TYPE_READABLE = 2  # of a code segment
TYPE_EXPAND_DOWN = 4  # of a data segment
TYPE_CONFORMING = 4  # of a code segment
TYPE_CODE = 8

SELECTOR_TI = 4
"""The selector bit that takes the LDT instead of the GDT."""

# Where a TSS keeps what interrupts use (SDM vol. 3 figures 7-2, 7-10, 7-11): offset of the first stack
# pointer, the step to the next level's, and the width of a stack pointer in bytes. A 16- or 32-bit
# pointer is followed by its SS.
TSS_STACKS = {16: (2, 4, 2), 32: (4, 8, 4), 64: (4, 8, 8)}
TSS64_IST1 = 0x24
TSS_IO_MAP_BASE = 0x66


def null_segment(selector: int = 0) -> Segment:
    """A segment register that holds a null selector."""
    names = ("base", "limit", "type", "present", "dpl", "db", "s", "l", "g", "avl")
    return {**dict.fromkeys(names, 0), "selector": selector, "unusable": 1}


def real_segment(selector: int, dpl: int = 0) -> Segment:
    """What a segment register is after it was loaded in real or virtual-8086 mode (then ``dpl`` is 3)."""
    loaded = {"base": selector << 4, "limit": 0xFFFF, "type": 3, "present": 1, "dpl": dpl, "s": 1}
    return {**null_segment(selector), **loaded, "unusable": 0}


def decode_segment(selector: int, low: int, high: int = 0) -> Segment:
    """The segment of a descriptor: ``low`` is its 8 bytes, ``high`` the second 8 of a system descriptor in
    IA-32e mode (bits 63:32 of the base)."""
    g = low >> 55 & 1
    limit = low & 0xFFFF | low >> 32 & 0xF0000
    return {
        "base": low >> 16 & 0xFFFFFF | low >> 32 & 0xFF000000 | (high & 0xFFFFFFFF) << 32,
        "limit": limit << 12 | 0xFFF if g else limit,
        "selector": selector,
        "type": low >> 40 & 15,
        "present": low >> 47 & 1,
        "dpl": low >> 45 & 3,
        "db": low >> 54 & 1,
        "s": low >> 44 & 1,
        "l": low >> 53 & 1,
        "g": g,
        "avl": low >> 52 & 1,
        "unusable": 0,
    }


def encode_segment(segment: Segment) -> int:
    """The 8 bytes of the descriptor of ``segment``; of a system descriptor in IA-32e mode the first 8."""
    base = segment["base"]
    limit = segment["limit"] >> 12 if segment["g"] else segment["limit"]
    return (
        limit & 0xFFFF
        | (base & 0xFFFFFF) << 16
        | segment["type"] << 40
        | segment["s"] << 44
        | segment["dpl"] << 45
        | segment["present"] << 47
        | (limit >> 16 & 15) << 48
        | segment["avl"] << 52
        | segment["l"] << 53
        | segment["db"] << 54
        | segment["g"] << 55
        | (base >> 24 & 0xFF) << 56
    )


def encode_system_segment(segment: Segment) -> bytes:
    """The 16 bytes of the descriptor of a TSS or LDT in IA-32e mode."""
    return encode_segment(segment).to_bytes(8, "little") + (segment["base"] >> 32).to_bytes(8, "little")


def decode_gate(low: int, high: int = 0) -> Gate:
    """The gate of 8 bytes (``low``), or of 16 in IA-32e mode (``high`` holds bits 63:32 of the offset)."""
    return {
        "offset": low & 0xFFFF | low >> 32 & 0xFFFF0000 | (high & 0xFFFFFFFF) << 32,
        "selector": low >> 16 & 0xFFFF,
        "type": low >> 40 & 0x1F,
        "present": low >> 47 & 1,
        "dpl": low >> 45 & 3,
        "ist": low >> 32 & 7,
        "params": low >> 32 & 31,
    }


def encode_gate(gate: Gate) -> bytes:
    """The 16 bytes of a gate in IA-32e mode; the first 8 are the gate of the other modes.

    ``ist`` (IA-32e mode) and ``params`` (call gates elsewhere) share their bits; give one of them."""
    low = (
        gate["offset"] & 0xFFFF
        | gate["selector"] << 16
        | (gate.get("ist", 0) | gate.get("params", 0)) << 32
        | gate["type"] << 40
        | gate["dpl"] << 45
        | gate["present"] << 47
        | (gate["offset"] >> 16 & 0xFFFF) << 48
    )
    return low.to_bytes(8, "little") + (gate["offset"] >> 32).to_bytes(8, "little")


def type_text(segment: Segment) -> str:
    """What kind of segment it is, in words: ``64-bit code, readable``; ``TSS (busy)``."""
    if segment["unusable"]:
        return "null"
    kind = segment["type"]
    if not segment["s"]:
        return SYSTEM_TYPES.get(kind, f"reserved type {kind}")
    if kind & TYPE_CODE:
        width = 64 if segment["l"] else 32 if segment["db"] else 16
        return (
            f"{width}-bit code"
            + (", conforming" if kind & TYPE_CONFORMING else "")
            + (", readable" if kind & TYPE_READABLE else ", execute-only")
        )
    return (
        "data"
        + (", expand-down" if kind & TYPE_EXPAND_DOWN else "")
        + (", writable" if kind & TYPE_WRITABLE else ", read-only")
    )


def segment_text(name: str, segment: Segment) -> str:
    """One line about a segment register: selector, base, limit, kind and privilege level."""
    line = f"{name:<3} {segment['selector']:04x}  {type_text(segment)}"
    if segment["unusable"]:
        return line
    place = f"base {segment['base']:#x} limit {segment['limit']:#x} dpl {segment['dpl']}"
    return f"{line}; {place}" + ("" if segment["present"] else " not present")
