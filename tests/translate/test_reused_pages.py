"""Pages with code that serve for data now: writes to them are not seen for ever, and no change is missed."""

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
from guest import Guest
from kept import CROSSING, boot, cache_in, program
from places import CODE, DATA, END, PAGE

from pykvm.translate import blocks
from pykvm.translate.context import MISS

BESIDE = TARGET + 0x800
SEEN = 8  # writes beside code that may come to Python before its page is let go


@pytest.fixture(scope="module", params=[(0, True), (3, True), (3, False)], ids=str)
def machine(request: pytest.FixtureRequest) -> Iterator[Guest]:
    yield from machine_of(*request.param)


@pytest.fixture
def guest(machine: Guest) -> Guest:
    guest = as_new(machine)
    guest.map(ALIAS, guest.place(TARGET) & -PAGE)
    return guest


def written_often(address: int = BESIDE, times: int = 100) -> bytes:
    """mov ecx, times; 1: inc byte [address]; dec ecx; jnz 1b"""
    return mov(RCX, times) + b"\xfe\x04\x25" + pack("<I", address) + b"\xff\xc9\x75\xf5"


def called_and_let_go(target: int = TARGET) -> bytes:
    """Call ``target``, then write beside it until its page is let go."""
    return call(CODE, target) + written_often()


def test_most_writes_are_not_seen(guest):
    guest.put(TARGET, mov(RAX, 1) + RETURN)
    before = guest.cpu.exits[MISS]
    run(guest, called_and_let_go())
    assert guest.view[guest.place(BESIDE)] == END + 100
    assert guest.cpu.exits[MISS] - before < SEEN


def test_code_that_did_not_change_is_not_translated_again(guest):
    guest.put(TARGET, mov(RAX, 1) + RETURN)
    code = called_and_let_go() + mov(RAX, 0)
    guest.put(CODE, code + call(CODE + len(code), TARGET) + bytes((END,)))
    guest.run(CODE)
    before = guest.cpu.core.blocks.translated
    guest.run(CODE)
    assert guest.regs[RAX] == 1
    assert guest.cpu.core.blocks.translated == before


@pytest.mark.parametrize("mapped", [TARGET, ALIAS + TARGET % PAGE], ids=["here", "elsewhere"])
@pytest.mark.parametrize("by", ["the guest", "a device"])
def test_a_change_is_noticed_by_who_comes_next(guest, mapped, by):
    guest.put(TARGET, mov(RAX, 1) + RETURN)
    code = called_and_let_go() + mov(RAX, 0)
    if by == "the guest":
        code += store_byte(mapped + 1, 2)
        code += call(CODE + len(code), TARGET)
        assert run(guest, code)[RAX] == 2
    else:
        run(guest, code)
        guest.put(TARGET + 1, b"\2")
        assert run(guest, call(CODE, TARGET))[RAX] == 2


def test_it_is_noticed_again_and_again(guest):
    """Each round calls the code, writes beside it, and then changes it."""
    guest.put(TARGET, mov(RAX, 0) + RETURN)
    grow = b"\xfe\x04\x25" + pack("<I", TARGET + 1)
    start = mov(RBX, 50)
    body = call(CODE + len(start), TARGET) + b"\x01\xc2" + written_often(times=5) + grow + b"\xff\xcb\x75"
    code = start + body + pack("<b", -len(body) - 1)  # add edx, eax; ...; dec ebx; jnz
    assert run(guest, code)[RDX] == sum(range(50))


def test_both_mappings_of_a_page_notice_it(guest):
    alias = ALIAS + TARGET % PAGE
    guest.put(TARGET, mov(RAX, 1) + RETURN)
    code = call(CODE, alias)
    code += call(CODE + len(code), TARGET) + written_often() + store_byte(TARGET + 1, 2)
    code += call(CODE + len(code), TARGET) + b"\x89\xc3" + store_byte(TARGET + 1, 3)
    code += call(CODE + len(code), alias)
    registers = run(guest, code)
    assert (registers[RBX], registers[RAX]) == (2, 3)


@pytest.mark.parametrize("let_go", [CODE + PAGE, CODE + 2 * PAGE], ids=["first", "second"])
@pytest.mark.parametrize("at", [0, 1], ids=["its beginning", "its end"])
def test_an_instruction_across_two_pages_of_which_one_is_let_go(guest, let_go, at):
    place = CODE + 2 * PAGE - 3
    guest.put(place, mov(RAX, 0x01010101) + RETURN)
    where = place + 1 if let_go < place else place + 3 + at
    code = call(CODE, place) + written_often(let_go + 0x80) + store_byte(where, 0x77)
    code += call(CODE + len(code), place)
    expected = 0x01010101 & ~(0xFF << 8 * (where - place - 1)) | 0x77 << 8 * (where - place - 1)
    assert run(guest, code)[RAX] == expected


def test_a_page_whose_own_code_writes_to_it_is_not_let_go(guest):
    start = mov(RBX, 4)
    body = written_often(CODE + 0x800)
    value = CODE + len(start) + len(body) + 7 + 2 + 1
    body += b"\xfe\x04\x25" + pack("<I", value) + b"\xeb\x00" + mov(RAX, 0)  # inc byte [value]; jmp
    body += b"\x01\xc2\xff\xcb\x75"  # add edx, eax; dec ebx; jnz
    assert run(guest, start + body + pack("<b", -len(body) - 1))[RDX] == 1 + 2 + 3 + 4


def test_strings_that_fill_a_page(guest):
    """REP STOS over what was code, and REP MOVS of other code to it."""
    guest.put(TARGET, mov(RAX, 1) + RETURN)
    new = mov(RAX, 2) + RETURN
    guest.data = new.ljust(4 * PAGE, b"\0")
    code = called_and_let_go()
    code += mov(RDI, TARGET & -PAGE) + mov(RCX, PAGE // 4) + mov(RAX, 0) + b"\xf3\xab"
    code += mov(RDI, TARGET) + mov(RSI, DATA) + mov(RCX, len(new)) + b"\xf3\xa4"
    code += call(CODE + len(code), TARGET)
    assert run(guest, code)[RAX] == 2


def test_a_guest_does_not_have_more_copied_than_there_is_room_for(guest, monkeypatch):
    monkeypatch.setattr(blocks, "MOST_COPIES", 0)
    guest.put(TARGET, mov(RAX, 1) + RETURN)
    before = guest.cpu.exits[MISS]
    code = called_and_let_go() + store_byte(TARGET + 1, 2)
    code += call(CODE + len(code), TARGET)
    assert run(guest, code)[RAX] == 2
    assert guest.cpu.exits[MISS] - before < SEEN
    assert all(page.copy is None for page in guest.cpu.core.blocks.pages.values())


def test_what_was_let_go_is_kept_for_the_next_boot(tmp_path):
    """A kernel's code for its start, whose pages it uses for data afterwards."""
    code = program()
    behind = CODE + 3 * PAGE
    start = code[CROSSING][:-1]
    code[CROSSING] = start + call(CROSSING + len(start), behind) + bytes((END,))
    fill = mov(RDI, CODE + 2 * PAGE) + mov(RCX, PAGE // 4) + b"\xf3\xab"
    code[behind] = written_often(behind - 4) + fill + RETURN
    with cache_in(tmp_path):
        first = boot(code)
        second = boot(code)
    assert (second.translated, second.outcome) == (0, first.outcome)
