"""Page tables of 32-bit paging, of every sort: the walk in machine code and the manual's come to the same.

As test_tables.py has it for 4 levels. PYKVM_FUZZ: as many hundredths.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from guest import CODE_AT, Guest
from places import CODE, END_32, PAGE

from pykvm.translate.context import MISS, PAGE_CHECK
from pykvm.x86 import entry, paging
from pykvm.x86.registers import CR0_PG, CR0_WP, CR4_PGE, CR4_PSE, CR4_SMAP, CR4_SMEP, GPRS, RFLAGS_AC

ROUNDS = 150 + int(os.environ.get("PYKVM_FUZZ", "0")) // 100
DIRECTORY, CODE_TABLE = 0x2000, 0x3000
SLOT = 300
"""The directory's entry under which all this lies."""
IN_RAM = tuple(0x30_0000 + PAGE * number for number in range(3))
DATA = (0x31_0000, 0x31_1000)
NOTHING = 0xD010_0000
PLACES = (*IN_RAM * 4, *DATA * 2, DIRECTORY, NOTHING)
INDEXES = (40, 41, SLOT, 1023)
ACCESSES = {
    "read": b"\x8a\x06",
    "read 4": b"\x8b\x06",
    "write": b"\x88\x06",
    "write 4": b"\x89\x06",
    "change": b"\x0f\xc1\x06",
    "run": b"\xff\xe6",
    "push": b"\x54",
    "rep stosb": b"\xf3\xaa",
}
MODES = {
    "ring 0": (0, CR4_PSE, CR0_WP),
    "ring 0 without WP": (0, CR4_PSE, 0),
    "ring 0 without PSE": (0, 0, CR0_WP),
    "SMEP and SMAP": (0, CR4_PSE | CR4_SMEP | CR4_SMAP, CR0_WP),
    "ring 3": (3, CR4_PSE | CR4_PGE, CR0_WP),
}


class Machine:
    def __init__(self, cpl: int, cr4: int, wp: int) -> None:
        self.guest = Guest(cpl=cpl, wide=False)
        self.state = entry.protected(CODE, stack=CODE, gdt=0x1000)
        sregs = self.state["sregs"]
        sregs["cr0"] |= CR0_PG | wp
        sregs["cr4"] = cr4
        sregs["cr3"] = DIRECTORY
        for name in ("cs", "ss", "ds", "es", "fs", "gs"):
            sregs[name] = {**sregs[name], "dpl": cpl, "selector": sregs[name]["selector"] | cpl}
        self.directory = bytearray(PAGE)
        at = CODE >> 22 << 2
        self.directory[at : at + 4] = (CODE_TABLE | 0x67).to_bytes(4, "little")
        rights = 0x67 if cpl else 0x63  # with SMEP ring 0 runs no code of ring 3's
        self.guest.view[CODE_TABLE : CODE_TABLE + PAGE] = bytes(PAGE)
        at = CODE_TABLE + ((CODE >> 12 & 1023) << 2)
        self.guest.view[at : at + 4] = (CODE_AT[0] | rights).to_bytes(4, "little")

    def outcome(self, how: str, pages: dict[int, bytes], registers: list[int], flags: int) -> tuple[Any, ...]:
        guest, core = self.guest, self.guest.cpu.core
        for place, page in pages.items():
            guest.view[place : place + PAGE] = page
        core.shared.make_room()  # throws all code away, and the TLB
        guest.cpu.load(self.state)
        guest.regs, guest.flags = registers, flags
        core.mmu.plain = how != "walk" and core.mmu.plain
        fault = guest.run(CODE) if how == "run" else guest.interpret(CODE)
        if fault is None and guest.rip == registers[6]:  # it has jumped only
            fault = guest.interpret(guest.rip)
        told: tuple[object, ...] = (guest.rip,)
        if guest.rip in (CODE, registers[6]):
            assert fault is not None
            told = (guest.rip, fault.vector, fault.error, fault.cr2)
        seen = [guest.view[place : place + PAGE].cast("I").tolist() for place in pages]
        if len(told) > 1:  # whether entries before the one that faults have been used already is the CPU's
            seen = [[value & ~paging.PTE_A for value in page] for page in seen]
        return told, dict(zip(GPRS, guest.regs, strict=True)), seen


@pytest.fixture(scope="module", params=MODES.values(), ids=MODES)
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    machine = Machine(*request.param)
    yield machine
    machine.guest.close()


def entry_of(rng: Random, level: int) -> int:
    value = rng.choice(PLACES) | 1
    for bit, chance in ((1, 0.9), (2, 0.85), (3, 0.2), (4, 0.2), (5, 0.8), (6, 0.6), (8, 0.2)):
        value |= (rng.random() < chance) << bit
    if level == 0 and rng.random() < 0.25:  # 4 MiB
        value = value & 0xFFF | 0x80 | (0 if rng.random() < 0.8 else value & 0xFFFF_F000)
    if rng.random() < 0.1:
        value ^= 1 << rng.choice((0, 7, 13, 20, 21, 22, 31))
    return value


@pytest.mark.parametrize("name", ACCESSES)
def test_any_tables_are_walked_alike(name, machine):
    guest = machine.guest
    guest.put(CODE, ACCESSES[name] + bytes((END_32,)) * 8)
    in_code = 0
    for number in range(ROUNDS):
        rng = Random(f"{name}:{number}")
        pages = dict.fromkeys(DATA, bytes((END_32,)) * PAGE)
        for level, place in enumerate(IN_RAM):
            page = [0] * 1024
            for index in INDEXES:
                page[index] = entry_of(rng, 1 if level else 0)
            pages[place] = b"".join(value.to_bytes(4, "little") for value in page)
        directory = bytearray(machine.directory)
        directory[4 * SLOT : 4 * SLOT + 4] = entry_of(rng, 0).to_bytes(4, "little")
        pages[DIRECTORY] = bytes(directory)
        gva = SLOT << 22 | rng.choice(INDEXES) << 12
        gva |= rng.choice((0x200, 0x7F8, 0xF00, 0xE00 if name == "run" else 0xFFE))
        registers = [0x1111_1111 * at if at < 8 else 0 for at in range(16)]
        registers[6] = registers[7] = gva
        registers[4] = gva + 4 if name == "push" else 0
        registers[1] = 5
        flags = 2 | (RFLAGS_AC if rng.random() < 0.3 and not guest.cpl else 0)
        one = machine.outcome("walk", pages, registers, flags)
        quick = machine.outcome("interpret", pages, registers, flags)
        assert quick == one, f"seed {name}:{number}, {gva:#x}, interpreted"
        before = list(guest.cpu.exits)
        other = machine.outcome("run", pages, registers, flags)
        in_code += guest.cpu.exits[MISS] == before[MISS] and guest.cpu.exits[PAGE_CHECK] == before[PAGE_CHECK]
        assert other == one, f"seed {name}:{number}, {gva:#x}"
    assert in_code > ROUNDS // 20
    assert guest.guards_are_whole()
