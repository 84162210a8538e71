"""Operands across two pages, over and over from the same place in the code."""

from __future__ import annotations

from collections.abc import Iterator
from struct import pack
from unittest import mock

import pytest
from guest import PRESENT, USER, Guest, repeated
from places import CODE, DATA, END, PAGE, READ_ONLY

from pykvm.x86.exceptions import DE, GP, PF, UD

RBX, RCX, RSP, RDI, R9 = 3, 1, 4, 7, 9
TIMES = 50
VALUE = 0x8877_6655_4433_2211
START = bytes(range(1, 65))
PUSH = "53"  # rbx, below RSP


class Machine:
    def __init__(self, bmi2: bool) -> None:
        self.guest = Guest(bmi2=bmi2)
        self.slow = 0
        self._fx = self.guest.fx

    def run(self, code: bytes, at: int, times: int = TIMES) -> int:
        """``code`` that often, RDI and RSP at ``at``; the vector of the end, END's by rule."""
        guest = self.guest
        guest.reset()
        guest.put(CODE, repeated(code))
        regs = [0x1234_5678_9ABC_0000 + number for number in range(16)]
        regs[RBX], regs[RCX], regs[RDI], regs[RSP] = VALUE, times, at, at
        guest.regs, guest.flags, guest.fx = regs, 2, self._fx
        bounce = guest.cpu.core.bounce
        with mock.patch.object(bounce, "carry_out", wraps=bounce.carry_out) as slow:
            self.fault = guest.run(CODE)
        self.slow = slow.call_count + guest.cpu.steps
        return self.fault.vector


@pytest.fixture(scope="module", params=[True, False], ids=["bmi2", "no bmi2"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    made = Machine(request.param)
    yield made
    made.guest.close()


INSTRUCTIONS = {
    "load": ("488b07 4801c2", 8),  # mov rax, [rdi]; add rdx, rax
    "load of 4": ("8b07 01c2", 4),
    "load to R9": ("4c8b0f", 8),
    "load with sign": ("480fbf07 4801c2", 2),
    "store": ("48ffc3 48891f", 8),  # inc rbx; mov [rdi], rbx
    "store of 2": ("48ffc3 66891f", 2),
    "store of R9": ("49ffc1 4c890f", 8),
    "store of a number": ("c70778563412", 4),
    "add to memory": ("48011f", 8),
    "add to memory, with carry": ("f9 48111f", 8),
    "shift by CL": ("d327", 4),
    "negate": ("48f71f", 8),
    "compare": ("483b07 4811c0", 8),  # cmp rax, [rdi]; adc rax, rax
    "exchange if equal": ("480fb11f", 8),
    "push and pop": ("53 58 4883c001 50 5b", 8),
    "SSE load and store": ("f30f6f07 660fd4c0 f30f7f07", 16),  # movdqu; paddq; movdqu
    "scalar": ("f20f5807 f20f1107", 8),  # addsd xmm0, [rdi]; movsd
    "x87 of 10 bytes": ("db2f d9e8 dec1 db3f", 10),  # fld; fld1; faddp; fstp
    "backwards": ("fd 48011f fc", 8),  # std; add; cld
}


@pytest.mark.parametrize("code, size", INSTRUCTIONS.values(), ids=INSTRUCTIONS)
def test_the_same_happens_as_within_a_page(machine, code, size):
    guest = machine.guest
    for first in range(1, size):
        found = []
        for at in (DATA + 0x800 - first, DATA + PAGE - first):
            guest.data = bytes(4 * PAGE)
            for offset, byte in enumerate(START, at - 32):
                guest.put(offset, bytes((byte,)))
            assert machine.run(bytes.fromhex(code), at + 8 if code.startswith(PUSH) else at) == UD
            regs = [value - at if number in (RDI, RSP) else value for number, value in enumerate(guest.regs)]
            around = guest.data[at - DATA - 64 : at - DATA + 64]
            rest = guest.data[: at - DATA - 64] + guest.data[at - DATA + 64 :]
            found.append((regs, guest.flags & 0x8D5, guest.fx[32:176], guest.fx[160:288], around, any(rest)))
        assert found[0] == found[1], first
        assert guest.guards_are_whole()


@pytest.mark.parametrize("code, size", INSTRUCTIONS.values(), ids=INSTRUCTIONS)
def test_after_the_first_time_no_python_is_asked(machine, code, size):
    at = DATA + PAGE - size // 2
    assert machine.run(bytes.fromhex(code), at + 8 if code.startswith(PUSH) else at, 1000) == UD
    assert machine.slow <= 2


def test_more_places_than_are_kept_all_do_their_own(machine):
    guest = machine.guest
    guest.data = bytes(4 * PAGE)
    places = [b"\x48\x83\x07" + bytes((number % 100,)) for number in range(400)]  # add qword [rdi], number
    assert machine.run(b"".join(places), DATA + PAGE - 3, 3) == UD
    assert int.from_bytes(guest.data[PAGE - 3 : PAGE + 5], "little") == 3 * sum(n % 100 for n in range(400))


def test_a_page_that_is_mapped_elsewhere_is_followed(machine):
    guest, add = machine.guest, bytes.fromhex("48011f")
    guest.data = bytes(4 * PAGE)
    assert machine.run(add, DATA + PAGE - 4, 1) == UD
    second, third = guest.place(DATA + PAGE), guest.place(DATA + 2 * PAGE)
    guest.map(DATA + PAGE, third)
    try:
        assert machine.run(add, DATA + PAGE - 4, 1) == UD
    finally:
        guest.map(DATA + PAGE, second)
    assert guest.data[PAGE - 4 : PAGE] == pack("<I", 2 * (VALUE & 0xFFFF_FFFF) & 0xFFFF_FFFF)
    assert guest.data[PAGE : PAGE + 4] == pack("<I", VALUE >> 32)
    assert guest.data[2 * PAGE : 2 * PAGE + 4] == pack("<I", VALUE >> 32)


@pytest.mark.parametrize("lacking", [0, 1], ids=["first", "second"])
@pytest.mark.parametrize("code", ["48011f", "48891f", "f30f7f07"])
def test_a_write_that_one_page_forbids_changes_neither(machine, code, lacking):
    guest = machine.guest
    guest.data = bytes(4 * PAGE)
    at = DATA + PAGE - 4
    gva = DATA + lacking * PAGE
    assert machine.run(bytes.fromhex(code), at) == UD
    before = guest.data
    guest.map(gva, guest.place(gva), PRESENT | USER)
    try:
        assert machine.run(bytes.fromhex(code), at) == PF
    finally:
        guest.map(gva, guest.place(gva))
    assert (machine.fault.error, machine.fault.cr2) == (7, DATA + PAGE if lacking else at)
    assert guest.rip == CODE and guest.data == before
    assert machine.run(bytes.fromhex(code), at) == UD


def test_memory_that_may_be_read_only_is_read(machine):
    guest = machine.guest
    guest.data = bytes(4 * PAGE)
    guest.put(READ_ONLY - 4, b"\x01\x02\x03\x04")
    assert machine.run(bytes.fromhex("488b07"), READ_ONLY - 4) == UD
    assert guest.regs[0] & 0xFFFF_FFFF == 0x0403_0201
    assert machine.run(bytes.fromhex("488907"), READ_ONLY - 4) == PF
    assert machine.fault.cr2 == READ_ONLY


@pytest.mark.parametrize("code, vector", [("f737", DE), ("0f2807", GP), ("660fd407", GP)])
def test_what_the_instruction_raises_is_raised_at_it(machine, code, vector):
    """DIV by 0; MOVAPS and PADDQ of what isn't aligned."""
    guest = machine.guest
    guest.data = bytes(4 * PAGE)
    for _ in range(3):
        assert machine.run(bytes.fromhex("90" + code), DATA + PAGE - 2) == vector
        assert guest.rip == CODE + 1


def test_code_that_is_thrown_away_takes_it_along(machine):
    guest, core = machine.guest, machine.guest.cpu.core
    guest.data = bytes(4 * PAGE)
    assert machine.run(bytes.fromhex("48011f"), DATA + PAGE - 4) == UD
    core.shared.make_room()
    core.mmu.forget_page(DATA)  # or the entry of its first page would be there still
    assert machine.run(bytes.fromhex("48291f"), DATA + PAGE - 4) == UD  # at the same place in memory
    assert guest.data == bytes(4 * PAGE)


def test_a_write_into_code_across_pages_changes_that_code(machine):
    """The instruction that the loop is to do next lies in the second page's first bytes."""
    guest = machine.guest
    guest.put(CODE + PAGE, b"\xb8" + pack("<I", 1) + bytes((END,)) * 64)  # mov eax, 1
    guest.reset()
    jump = b"\x48\x89\x1f\xe9"  # mov [rdi], rbx; jmp to the next page
    guest.put(CODE, jump + pack("<i", PAGE - len(jump) - 4))
    for count in range(4):
        regs = [0] * 16
        # the 4 bytes before it stay as they are, mov eax gets another number
        regs[RDI], regs[RBX] = CODE + PAGE - 4, 0x06_06_06_06 | (0xB8 | count + 2 << 8) << 32
        guest.regs, guest.flags = regs, 2
        assert guest.run(CODE).vector == UD
        assert guest.regs[0] == count + 2


@pytest.mark.parametrize("code", ["f3a4", "f348a5", "f3aa", "f348ab"])
def test_where_nothing_crosses_nothing_is_interpreted(machine, code):
    """Both operands at the same place in their pages."""
    guest = machine.guest
    guest.data = bytes(range(256)) * 64
    guest.reset()
    guest.put(CODE, bytes.fromhex(code) + bytes((END,)) * 64)
    regs = [0] * 16
    size = 8 if "48" in code else 1
    regs[RCX], regs[6], regs[RDI] = 6400 // size, DATA + 0x200, DATA + 2 * PAGE - 0xE00
    guest.regs, guest.flags = regs, 2
    assert guest.run(CODE).vector == UD
    assert guest.regs[RCX] == 0 and guest.cpu.steps == 1  # END


@pytest.mark.parametrize("code, size", [("f348a5", 8), ("f3a5", 4), ("f366a5", 2), ("f348ab", 8)])
def test_a_string_instruction_interprets_only_what_crosses(machine, code, size):
    """REP MOVS and REP STOS on addresses that aren't multiples of the element's size."""
    guest, core = machine.guest, machine.guest.cpu.core
    data = bytes((7 * n + (n >> 8)) & 0xFF for n in range(4 * PAGE))
    interpreted: list[int] = []
    plain = core.step

    def step() -> None:
        before = core.cpu.regs["rcx"]
        plain()
        interpreted.append(before - core.cpu.regs["rcx"])

    guest.data = data
    guest.reset()
    guest.put(CODE, bytes.fromhex(code) + bytes((END,)) * 64)
    regs = [0] * 16
    regs[0], regs[RCX], regs[6], regs[RDI] = VALUE, 6000 // size, DATA + 1, DATA + 2 * PAGE + 1
    guest.regs, guest.flags = regs, 2
    with mock.patch.object(core, "step", step):
        assert guest.run(CODE).vector == UD
    assert guest.regs[RCX] == 0 and guest.regs[RDI] == DATA + 2 * PAGE + 6001
    moved = data[1:6001] if code.endswith("a5") else pack("<Q", VALUE) * 750
    assert guest.data == data[: 2 * PAGE + 1] + moved + data[2 * PAGE + 6001 :]
    assert max(interpreted) == 1 and sum(interpreted) <= 2
