"""Code that changes: what runs is always what was written last, however it was written."""

from __future__ import annotations

from collections.abc import Iterator
from struct import pack

import pytest
from changing import (
    ALIAS,
    RAX,
    RBX,
    RCX,
    RDI,
    RDX,
    RETURN,
    RSI,
    TARGET,
    as_new,
    call,
    machine_of,
    mov,
    run,
    store_byte,
)
from guest import CODE_AT, PRESENT, ROM_AT, USER, WRITABLE, Guest
from places import CODE, DATA, END, PAGE

MOV_EAX = b"\xb8"


@pytest.fixture(scope="module", params=[(0, True), (3, True), (0, False), (3, False)], ids=str)
def machine(request: pytest.FixtureRequest) -> Iterator[Guest]:
    yield from machine_of(*request.param)


@pytest.fixture
def guest(machine: Guest) -> Guest:
    return as_new(machine)


def test_the_next_instruction(guest):
    store = store_byte(CODE + 8 + 1, 5)
    assert run(guest, store + mov(RAX, 1))[RAX] == 5


def test_an_instruction_far_behind_in_the_same_block(guest):
    nops = b"\x90" * 30
    assert run(guest, store_byte(CODE + 8 + 30 + 1, 7) + nops + mov(RAX, 1))[RAX] == 7


def test_the_instruction_that_writes_is_carried_out_as_it_was(guest):
    code = store_byte(CODE + 7, 9)
    run(guest, code)
    assert guest.view[CODE_AT[0] + 7] == 9
    guest.run(CODE)
    assert guest.view[CODE_AT[0] + 7] == 9


def test_an_instruction_before_it_in_a_loop(guest):
    add = b"\x83\xc0\x01"  # add eax, 1
    grow = b"\xfe\x04\x25" + pack("<I", CODE + 5 + 2)  # inc byte [the 1]
    loop = b"\xff\xc9\x75"  # dec ecx; jnz
    body = add + grow + loop
    code = mov(RCX, 100) + body + pack("<b", -len(body) - 1)
    assert run(guest, code)[RAX] == sum(range(1, 101))


def test_a_call_sees_each_change(guest):
    guest.put(TARGET, mov(RAX, 0) + RETURN)
    grow = b"\xfe\x04\x25" + pack("<I", TARGET + 1)
    start = mov(RCX, 50)
    at = CODE + len(start)
    body = call(at, TARGET) + b"\x01\xc2" + grow + b"\xff\xc9\x75"  # add edx, eax
    assert run(guest, start + body + pack("<b", -len(body) - 1))[RDX] == sum(range(50))


@pytest.mark.parametrize("split", range(1, 5))
def test_an_instruction_across_two_pages_of_which_the_second_changes(guest, split):
    place = CODE + 2 * PAGE - split
    guest.put(place, MOV_EAX + pack("<I", 0x01010101) + RETURN)
    code = call(CODE, place) + b"\x89\xc2" + store_byte(CODE + 2 * PAGE, 0x77)
    code += call(CODE + len(code), place)
    registers = run(guest, code)
    assert registers[RDX] == 0x01010101
    assert registers[RAX] == 0x01010101 & ~(0xFF << 8 * (split - 1)) | 0x77 << 8 * (split - 1)


def test_an_instruction_across_two_pages_of_which_the_first_changes(guest):
    place = CODE + 2 * PAGE - 2
    guest.put(place, mov(RAX, 0x01010101) + RETURN)
    code = call(CODE, place) + b"\x89\xc2" + store_byte(place + 1, 0x77)
    code += call(CODE + len(code), place)
    registers = run(guest, code)
    assert (registers[RDX], registers[RAX]) == (0x01010101, 0x01010177)


VALUE = 0x11
STORES = {
    "mov8": b"\xc6\x07\x11",
    "mov32": b"\xc7\x07\x11\0\0\0",
    "mov64": b"\x48\x89\x1f",
    "or8": b"\x80\x0f\x11",
    "lock xadd": b"\xf0\x0f\xc1\x1f",
    "xchg": b"\x87\x1f",
    "cmpxchg8b": b"\x0f\xc7\x0f",
    "bts": b"\x0f\xba\x2f\x00" + b"\x0f\xba\x2f\x04",
    "bts by a register": b"\x0f\xab\x0f" + b"\xb9\x04\0\0\0" + b"\x0f\xab\x0f",
    "stosb": b"\x88\xd8\xaa",
    "rep stosb": b"\x88\xd8\xff\xc1\xf3\xaa",
    "movsb": b"\xa4",
    "rep movsb": b"\xff\xc1\xf3\xa4",
    "rep movsd": b"\xff\xc1\xf3\xa5",
    "push": b"\x48\x87\xe7\x48\x83\xc4\x08\x53\x48\x87\xe7",
    "movups": b"\x0f\x10\x06\x0f\x11\x07",
    "movd": b"\x66\x0f\x6e\xc3\x66\x0f\x7e\x07",
    "movntdq": b"\x66\x0f\x6f\x06\x66\x0f\xe7\x07",
    "fistp": b"\xdb\x06\xdb\x1f",
    "setcc": b"\x85\xe4\x0f\x95\x07\x80\x0f\x10",
}


@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize("alias", [False, True])
def test_every_kind_of_store(guest, name, alias):
    """To code that has run, at its own address or another mapping of its page, whose entry is in the TLB."""
    guest.map(ALIAS, guest.place(TARGET) & -PAGE)
    guest.put(TARGET - 1, b"\x90" + mov(RAX, 0) + RETURN + b"\0" * 24)
    where = TARGET + 1 if not alias else ALIAS + (TARGET + 1) % PAGE
    if name == "movntdq":
        guest.put(TARGET, bytes((END,)) * 64)
        where = where & -16
    place = where - (where & PAGE - 1) + (TARGET & -PAGE) % PAGE
    entry = (TARGET & -PAGE) + (where - 1 & PAGE - 1)
    guest.put(entry, mov(RAX, 0) + RETURN + b"\0" * 24)
    source = mov(RAX, 0)[1:] + RETURN + b"\0" * 24
    guest.data = (bytes((VALUE,)) + source[1:]).ljust(4 * PAGE, b"\0")
    code = store_byte(place + 0xF00, 0)  # the page can be written by the TLB
    code += call(CODE + len(code), entry)
    code += mov(RSI, DATA) + mov(RDI, where) + mov(RBX, VALUE) + mov(RCX, 0) + mov(RAX, 0) + mov(RDX, 0xC3)
    if name in ("mov64", "push"):
        code += b"\x48\xbb" + pack("<Q", VALUE | 0xC3 << 32)
    elif name == "cmpxchg8b":
        code += mov(RAX, 0) + mov(RCX, 0xC3)
    code += STORES[name]
    code += call(CODE + len(code), entry)
    assert run(guest, code)[RAX] == VALUE


def test_a_store_across_two_pages_both_of_which_hold_code(guest):
    first, second = CODE + 2 * PAGE - 7, CODE + 2 * PAGE
    guest.put(first, mov(RAX, 0x0101) + b"\xeb\x00")  # jmp to the next page
    guest.put(second, mov(RDX, 0x0101) + RETURN)
    code = call(CODE, first)
    code += b"\x48\xbb" + pack("<Q", int.from_bytes(b"\x00\x00\xeb\x00\xba\x02\x02\x00", "little"))
    code += b"\x48\x89\x1c\x25" + pack("<I", CODE + 2 * PAGE - 4)
    code += call(CODE + len(code), first)
    registers = run(guest, code)
    assert (registers[RAX], registers[RDX]) == (0x0101, 0x0202)


def test_a_jump_into_an_instruction(guest):
    """One page, two ways to read it; a change ends both."""
    guest.put(TARGET, MOV_EAX + b"\x6a\x05\x58\xc3" + RETURN)  # mov eax, ...; or push 5, pop rax, ret
    code = call(CODE, TARGET) + b"\x89\xc3"
    code += call(CODE + len(code), TARGET + 1) + b"\x89\xc1"
    code += store_byte(TARGET + 2, 6)
    code += call(CODE + len(code), TARGET) + b"\x89\xc6"
    code += call(CODE + len(code), TARGET + 1)
    registers = run(guest, code)
    assert (registers[RBX], registers[RCX]) == (0xC358056A, 5)
    assert (registers[RSI], registers[RAX]) == (0xC358066A, 6)


def test_code_that_writes_its_whole_successor_and_falls_into_it(guest):
    new = mov(RAX, 0x99) + bytes((END,))
    guest.data = new.ljust(4 * PAGE, b"\0")
    head = mov(RSI, DATA) + mov(RCX, len(new))
    at = CODE + len(head) + 5 + 2
    code = head + mov(RDI, at) + b"\xf3\xa4" + b"\x90" * 20
    guest.put(CODE, code + bytes((END,)))
    for _ in range(3):
        guest.run(CODE)
        assert guest.regs[RAX] == 0x99
        assert guest.rip == at + 5


IN_RING_0 = pytest.mark.parametrize("machine", [(0, True), (0, False)], indirect=True, ids=str)
"""For INVLPG and MOV to CR3."""


@IN_RING_0
def test_a_page_that_is_mapped_elsewhere_from_now_on(guest):
    guest.put(TARGET, mov(RAX, 1) + RETURN)
    other = CODE_AT[3] + TARGET % PAGE
    guest.put(CODE + 3 * PAGE + TARGET % PAGE, mov(RAX, 2) + RETURN)
    table = guest.table_of(TARGET)
    guest.map(ALIAS, table)
    entry = ALIAS + (TARGET >> 12 & 511) * 8
    code = call(CODE, TARGET) + b"\x89\xc3"
    code += mov(RDX, other & -PAGE | PRESENT | WRITABLE | USER)
    code += b"\x48\x89\x14\x25" + pack("<I", entry)
    invalidate = b"\x0f\x01\x3c\x25" + pack("<I", TARGET)
    code += invalidate
    code += call(CODE + len(code), TARGET)
    registers = run(guest, code)
    assert (registers[RBX], registers[RAX]) == (1, 2)


@IN_RING_0
@pytest.mark.parametrize("how", ["invlpg", "mov cr3"])
def test_code_beside_the_page_table_that_maps_it(guest, how):
    """Its own page is written by the CPU, for accessed and dirty bits, and by itself."""
    table = guest.table_of(DATA)
    guest.map(ALIAS, table)
    here = ALIAS + 300 * 8
    guest.data = b"".join(bytes((number + 1,)) * PAGE for number in range(4))
    entry = ALIAS + (DATA >> 12 & 511) * 8
    read = b"\x8a\x04\x25" + pack("<I", DATA)  # mov al, [DATA]
    invalidate = b"\x0f\x01\x3c\x25" + pack("<I", DATA) if how == "invlpg" else b"\x0f\x20\xd9\x0f\x22\xd9"
    before = int.from_bytes(guest.view[table + (DATA >> 12 & 511) * 8 :][:8], "little")
    second = guest.place(DATA + PAGE) | PRESENT | WRITABLE | USER
    code = read + b"\x88\xc3" + mov(RDX, second) + b"\x48\x89\x14\x25" + pack("<I", entry) + invalidate
    code += read + b"\xc6\x04\x25" + pack("<IB", DATA + 8, 0x55)
    guest.cpu.core.physical.write(table + 300 * 8, code + bytes((END,)))
    for _ in range(2):
        guest.view[table + (DATA >> 12 & 511) * 8 :][:8] = (before & ~0x60).to_bytes(8, "little")
        guest.cpu.core.mmu.forget()
        guest.run(here)
        assert guest.rip == here + len(code)
        assert (guest.regs[RBX] & 0xFF, guest.regs[RAX] & 0xFF) == (1, 2)
        assert guest.view[guest.place(DATA + PAGE) + 8] == 0x55
        guest.view[guest.place(DATA + PAGE) + 8] = 2
        value = int.from_bytes(guest.view[table + (DATA >> 12 & 511) * 8 :][:8], "little")
        assert value & 0x60 == 0x60  # accessed and dirty
    guest.view[table + (DATA >> 12 & 511) * 8 :][:8] = before.to_bytes(8, "little")
    guest.cpu.core.mmu.forget()


@pytest.mark.parametrize("cpl", [0, 3])
@pytest.mark.parametrize("split", [0, 2, 4])
def test_code_in_rom_stays_as_it_is(cpl, split):
    """Writes to it go nowhere. ``split``: so many bytes of its first instruction are in RAM before it."""
    guest = Guest(cpl=cpl, rom=PAGE)
    start = ALIAS + PAGE - split
    guest.map(ALIAS, CODE_AT[1])
    guest.map(ALIAS + PAGE, ROM_AT)
    head = mov(RAX, 1)
    code = head + store_byte(start + len(head) + 8 + 1, 5) + mov(RDX, 2) + bytes((END,))
    guest.view[CODE_AT[1] + PAGE - split : CODE_AT[1] + PAGE] = code[:split]
    rom = guest.memory.region_at(ROM_AT).view
    rom[: len(code) - split] = code[split:]
    for _ in range(2):
        guest.regs = [0] * 16
        guest.run(start)
        assert guest.rip == start + len(code) - 1
        assert (guest.regs[RAX], guest.regs[RDX]) == (1, 2)
        assert rom[: len(code) - split] == code[split:]
    guest.close()
