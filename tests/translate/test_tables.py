"""Page tables of every sort: the walk in machine code, the quick one and the manual's come to the same.

Tables that lead to themselves and to each other, at every level; those in ROM, in a device, and where nothing
is; entries with all bits. PYKVM_FUZZ: as many hundredths.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from guest import CODE_AT, PRESENT, RAM, ROM_AT, TABLES, Guest
from places import CODE, END, PAGE

from pykvm.x86 import paging
from pykvm.x86.registers import CR0_WP, CR4_PGE, CR4_SMAP, CR4_SMEP, EFER_NXE, GPRS, RFLAGS_AC

ROUNDS = 60 + int(os.environ.get("PYKVM_FUZZ", "0")) // 100
SLOT = 300
"""The PML4's entry under which all this lies."""
IN_RAM = tuple(0x30_0000 + PAGE * number for number in range(5))
DATA = (0x31_0000, 0x31_1000)
DEVICE, NOTHING, BEYOND = 0xD000_0000, 0xD010_0000, 1 << 39
PLACES = (*IN_RAM * 4, *DATA, *DATA, *[TABLES, ROM_AT, DEVICE] * 2, NOTHING, BEYOND)
INDEXES = (40, 41, 42, SLOT, 511)
M64 = (1 << 64) - 1
ACCESSES = {
    "read": b"\x8a\x06",
    "read 8": b"\x48\x8b\x06",
    "write": b"\x88\x06",
    "write 8": b"\x48\x89\x06",
    "change": b"\x48\x0f\xc1\x06",
    "read 16": b"\x0f\x10\x06",
    "run": b"\xff\xe6",
    "push": b"\x54",
    "rep stosb": b"\xf3\xaa",
}
MODES = {
    "ring 0": (0, 0, CR0_WP, EFER_NXE),
    "ring 0 without WP": (0, 0, 0, EFER_NXE),
    "SMEP and SMAP": (0, CR4_SMEP | CR4_SMAP, CR0_WP, EFER_NXE),
    "ring 3": (3, CR4_SMEP | CR4_SMAP | CR4_PGE, CR0_WP, EFER_NXE),
    "ring 3 without NX": (3, 0, CR0_WP, 0),
}


class Device:
    """Reads give an entry that leads to a page of data."""

    def read(self, offset: int, size: int) -> int:
        return (DATA[0] | 0x67) >> 8 * (offset % 8) & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        pass


@pytest.fixture(scope="module", params=MODES.values(), ids=MODES)
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    cpl, cr4, wp, nxe = request.param
    guest = Guest(cpl=cpl, rom=PAGE)
    guest.mmio.attach(Device(), DEVICE, PAGE, width=8)
    sregs = guest.cpu.core.cpu.sregs
    sregs["cr4"] |= cr4
    sregs["cr0"] = sregs["cr0"] & ~CR0_WP | wp
    sregs["efer"] = sregs["efer"] & ~EFER_NXE | nxe
    if not cpl:
        guest.map(CODE, CODE_AT[0], PRESENT)
    guest.cpu.core.cpu.commit()
    guest.cpu.core.flush(None)
    yield guest
    guest.close()


def entry(rng: Random, level: int) -> int:
    value = rng.choice(PLACES) | 1
    for bit, chance in ((1, 0.9), (2, 0.85), (3, 0.2), (4, 0.2), (5, 0.8), (6, 0.6), (8, 0.2), (63, 0.05)):
        value |= (rng.random() < chance) << bit
    if level in (1, 2) and rng.random() < 0.2:  # a large page
        size = 1 << (30, 21)[level - 1]
        value = value & 0xFFF | 0x80 | (0x20_0000 & -size if rng.random() < 0.8 else value & 0xF000)
    if rng.random() < 0.1:
        value ^= 1 << rng.choice((0, 7, 13, 39, 40, 45, 51, 52, 62))
    return value


def tables(rng: Random) -> dict[int, bytes]:
    """Pages full of entries, by address."""
    made = {}
    for number, place in enumerate((*IN_RAM, ROM_AT)):
        page = [0] * 512
        for index in INDEXES:
            page[index] = entry(rng, number % 4)
        made[place] = b"".join(value.to_bytes(8, "little") for value in page)
    return made


def address(rng: Random, *, crossing: bool) -> int:
    """Not beside an entry of a table, but with ``crossing`` over a page's end."""
    value = SLOT
    for _ in range(3):
        value = value << 9 | rng.choice(INDEXES)
    return 0xFFFF << 48 | value << 12 | rng.choice((0x200, 0x7F8, 0xF00, 0xFFC if crossing else 0xE00))


def outcome(guest: Guest, how: str, before: bytes, registers: list[int], flags: int) -> tuple[Any, ...]:
    core = guest.cpu.core
    guest.view[:] = before
    guest.regs, guest.flags, guest.fx = registers, flags, guest.fx[:160] + bytes(352)
    core.shared.make_room()  # throws all code away, and the TLB
    if how == "walk":
        core.mmu.fast = False
        try:
            fault = guest.interpret(CODE)
        finally:
            core.mmu.follow()
    else:
        fault = getattr(guest, how)(CODE)
    if fault is None and guest.rip == registers[6]:  # it has jumped only
        core.mmu.fast = how != "walk" and core.mmu.fast
        fault = guest.interpret(guest.rip)
        core.mmu.follow()
    told = (guest.rip,)
    if guest.rip in (CODE, registers[6]):
        told = (guest.rip, fault.vector, fault.error, fault.cr2)
    seen = [guest.view[place : place + PAGE].cast("Q").tolist() for place in (TABLES, *IN_RAM, *DATA)]
    if len(told) > 1:  # whether entries before the one that faults have been used already is the CPU's
        seen = [[value & ~paging.PTE_A for value in page] for page in seen]
    return told, dict(zip(GPRS, guest.regs, strict=True)), guest.fx[160:176], seen


@pytest.mark.parametrize("name", ACCESSES)
def test_any_tables_are_walked_alike(name, guest):
    code = ACCESSES[name]
    guest.put(CODE, code + bytes((END,)) * 8)
    clean = bytearray(guest.view)
    for number in range(ROUNDS):
        rng = Random(f"{name}:{number}")
        before = bytearray(clean)
        for place, page in tables(rng).items():
            if place < RAM:
                before[place : place + PAGE] = page
            else:
                guest.memory.region_at(place).view[:PAGE] = page
        for place in DATA:
            before[place : place + PAGE] = bytes((END,)) * PAGE
        before[TABLES + 8 * SLOT : TABLES + 8 * SLOT + 8] = entry(rng, 0).to_bytes(8, "little")
        gva = address(rng, crossing=name != "run")
        registers = [0x1111_1111_1111_1111 * at & M64 for at in range(16)]
        for at in (6, 7):
            registers[at] = gva
        registers[4] = gva + 8 if name == "push" else 0
        registers[1] = 5
        flags = 2 | (RFLAGS_AC if rng.random() < 0.3 else 0)
        seen = [outcome(guest, how, before, registers, flags) for how in ("walk", "interpret", "run")]
        for way in (1, 2):
            assert seen[way] == seen[0], f"seed {name}:{number}, {gva:#x}: way {way}"
    assert guest.guards_are_whole()
