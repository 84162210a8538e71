"""FS and GS: their bases, anywhere in the address space, with every kind of operand, as interpreted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from guest import NO_EXECUTE, PRESENT, USER, WRITABLE, Guest
from places import CODE, DATA, END, PAGE

M64 = (1 << 64) - 1
RSI, RDI, RBX, RCX, RAX = 6, 7, 3, 1, 0
FS_BASE, GS_BASE = 0x7F12_3456_7000, 0xFFFF_9000_0000_0000
ALL = PRESENT | WRITABLE | USER | NO_EXECUTE
OFFSETS = (0x100, 0xFFC, 0x1_0000_0100, -0xF00)
"""From the base: within a page, across two, where 32 bits don't reach, below."""
CODES = {
    "mov": b"\x48\x8b\x06",
    "mov to memory": b"\x48\x89\x1e",
    "add": b"\x01\x1e",
    "bts by a register": b"\x48\x0f\xab\x1e",
    "lock btr by a register": b"\xf0\x0f\xb3\x1e",
    "bt of 16 bits": b"\x66\x0f\xa3\x1e",
    "cmpxchg8b": b"\x0f\xc7\x0e",
    "lea": b"\x48\x8d\x06",
    "push": b"\xff\x36",
    "pop": b"\x8f\x06",
    "jmp": b"\xff\x26",
    "movups": b"\x0f\x10\x06",
    "lods": b"\x48\xad",
    "movs": b"\xa5",
    "rep movs": b"\xf3\xa4",
    "cmps": b"\xa7",
    "stos, always by ES": b"\xaa",
    "xlat": b"\xd7",
    "mov from an address": b"\xa1" + (0x100).to_bytes(8, "little"),
    "SIB without base": b"\x8b\x04\x25\x00\x01\x00\x00",
    "movzx": b"\x0f\xb6\x06",
    "high byte": b"\x88\x26",
}
PREFIXES = {
    "fs": b"\x64",
    "gs": b"\x65",
    "fs, 32 bits": b"\x64\x67",
    "gs, 32 bits": b"\x65\x67",
    "gs, then ds": b"\x65\x3e",
    "fs, then gs": b"\x64\x65",
    "gs, then fs": b"\x65\x64",
}


@pytest.fixture(scope="module", params=[0, 3])
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    guest = Guest(cpl=request.param)
    gpa = 0x30_0000
    for base in (FS_BASE, GS_BASE):
        for page in (-PAGE, 0, PAGE, 0x1_0000_0000):
            guest.map(base + page & M64, gpa, ALL)
            gpa += 2 * PAGE
    words = guest.cpu.core.cpu
    for name, base in (("fs", FS_BASE), ("gs", GS_BASE)):
        words.sregs[name] = {**words.sregs[name], "base": base}
    words.commit()
    yield guest
    guest.close()


def outcome(guest: Guest, how: str, offset: int) -> tuple[object, ...]:
    guest.data = bytes(range(256)) * 64
    guest.view[0x30_0000:0x32_0000] = bytes(range(255, -1, -1)) * 512
    registers = [number << 40 | number for number in range(16)]
    registers[RSI] = registers[RBX] = offset & M64
    registers[RDI], registers[4], registers[RCX] = DATA + 0x40, DATA + 0x800, 3
    guest.regs, guest.flags = registers, 2
    fault = getattr(guest, how)(CODE)
    told = (guest.rip,) if guest.rip != CODE else (guest.rip, fault.vector, fault.error, fault.cr2)
    return (
        told,
        guest.regs,
        guest.flags,
        guest.fx[160:176],
        guest.data,
        bytes(guest.view[0x30_0000:0x32_0000]),
    )


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", CODES)
def test_a_base(name, prefix, guest):
    code = CODES[name]
    given = (
        PREFIXES[prefix] + code if code[:1] not in b"\xf0\xf3\x66" else code[:1] + PREFIXES[prefix] + code[1:]
    )
    guest.put(CODE, given + bytes((END,)) * (16 - len(given)))
    for offset in OFFSETS:
        assert outcome(guest, "run", offset) == outcome(guest, "interpret", offset), (
            f"{given.hex()}, {offset:#x}"
        )
