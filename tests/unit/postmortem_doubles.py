"""Guests for tests of the post-mortem: a state, a few bytes of code, and the memory that they lie in."""

from __future__ import annotations

from typing import Any

from x86_doubles import SparseMemory

from pykvm.x86 import entry
from pykvm.x86.segments import encode_gate

CODE, STACK, GDT, TABLES, IDT = 0x10_0000, 0x8_0000, 0x9_1000, 0x9_2000, 0x20_0000
MEMORY = 16 << 20
HANDLER = 0x11_0000
UNLIKELY = 0x1234_5678_9ABC_DEF0  # not canonical


def guest(code: str, mode: str = "long") -> tuple[dict[str, Any], SparseMemory]:
    """A guest about to run ``code`` (hexadecimal) at CODE, in the entry state of ``mode``."""
    memory = SparseMemory(MEMORY)
    if mode == "long":
        state = entry.long(CODE, stack=STACK, gdt=GDT, page_tables=TABLES)
        memory.write(TABLES, entry.identity_map(TABLES))
    elif mode == "protected":
        state = entry.protected(CODE, stack=STACK, gdt=GDT)
    else:
        state = entry.real(0x7C00, stack=0x7000)
    if mode != "real":
        memory.write(GDT, entry.descriptors(state))
    memory.write(0x7C00 if mode == "real" else CODE, bytes.fromhex(code))
    return state, memory


def gate(**changes: int) -> bytes:
    """A gate of 64-bit mode to HANDLER, but for ``changes``."""
    fields = {
        "offset": HANDLER,
        "selector": entry.CODE_SELECTOR,
        "type": 14,
        "present": 1,
        "dpl": 0,
        "ist": 0,
    }
    return encode_gate({**fields, **changes})


def with_idt(state: dict[str, Any], memory: SparseMemory, gates: dict[int, bytes], vectors: int = 32) -> None:
    """Give the guest an IDT of ``vectors`` gates: those of ``gates``, and good ones."""
    memory.write(IDT, b"".join(gates.get(vector, gate()) for vector in range(vectors)))
    state["sregs"]["idt"] = {"base": IDT, "limit": 16 * vectors - 1}
