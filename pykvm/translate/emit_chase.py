"""MOV by its own target, ``mov rax, [rax + 8]``: the step of a walk along pointers.

Such a walk waits for each load before it can begin the next, and with it for what lies between: the index
into the TLB, the entry's addend, the sum. That is twice as long as the load itself. But neighbouring pages
mostly have the same addend, so the one that this register's last step had is held in the context, and the
entry's only compared to it: the host's branch predictor takes that for equal and loads at once. Where it
is another, as in a walk over pages that lie scattered, the entry's is taken, and held from now on.

``held`` and its complement ``unheld`` are 8 bytes of the context for each register. As no addend is -1,
zeros in both are no addend's.
"""

from __future__ import annotations

from pykvm.translate.context import HOST_REGISTER, SCRATCH, SCRATCH2, SLOT
from pykvm.translate.decode import ADDRESS, FS, GS, LOCK, OPERAND, REPEAT
from pykvm.translate.emit import Emitter, Parts
from pykvm.translate.encode import load_slot, memory_operand, store_slot
from pykvm.translate.operands import READ

_LESS_HELD = b"\x4a\x8d\x4c\x09\x01"  # lea rcx, [rcx + r9 + 1]: R9 is the complement; NOT keeps flags
_WHOLE = b"\x49\xf7\xd1\x4a\x8d\x0c\x09"  # not r9; lea rcx, [rcx + r9]
_COMPLEMENT = b"\x49\x89\xc9\x49\xf7\xd1"  # mov r9, rcx; not r9
_OTHER = LOCK | OPERAND | REPEAT | ADDRESS | FS | GS


def load(e: Emitter, p: Parts) -> bytes:
    """8B: MOV from memory or a register."""
    host = HOST_REGISTER[p.reg]
    if p.value >= 0xC0 or p.prefixes & _OTHER or p.rip_relative or host is None or not e.may_hold:
        return e.integer(p)
    base, index, _, displacement = e.effective(p)
    if base != p.reg or index >= 0:
        return e.integer(p)
    held, unheld = SLOT[f"held_{base}"], SLOT[f"unheld_{base}"]
    same = load_slot(SCRATCH2, held)
    other = (
        _WHOLE + store_slot(SCRATCH2, held) + _COMPLEMENT + store_slot(SCRATCH, unheld)
        + b"\xeb" + bytes((len(same),))
    )  # fmt: skip
    rex, operand = memory_operand(host, SCRATCH2, host, 0, displacement)
    return (
        e.address(p) + e.access(8 if p.rex & 8 else 4, READ)
        + load_slot(SCRATCH, unheld) + _LESS_HELD + b"\xe3" + bytes((len(other),)) + other + same
        + bytes((0x40 | p.rex & 8 | rex, 0x8B)) + operand
    )  # fmt: skip
