"""A guest that tries every edge reaches what the interpreter reaches, and never the host's memory."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator

import pytest
from guest import NO_EXECUTE, PRESENT, RAM, USER, WRITABLE, Guest
from places import CODE, DATA, DATA_END, END, NON_CANONICAL, PAGE

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
M64 = (1 << 64) - 1
ALL = PRESENT | WRITABLE | USER | NO_EXECUTE
# Pages at the ends of the address space, and those that share an entry of the TLB with others (64 Ki pages).
MAPPED = {
    0: 0x30_0000,
    0xF000: 0x30_1000,
    0x1_0000: 0x30_2000,
    0x0FFF_F000: 0x30_3000,
    0x1000_0000: 0x30_4000,
    DATA + 0x1000_0000: 0x30_5000,
    0x7FFF_FFFF_F000: 0x30_6000,
    0xFFFF_8000_0000_0000: 0x30_7000,
    0xFFFF_FFFF_FFFF_F000: 0x30_8000,
    0x4000_0000: RAM - PAGE,
    0x4000_1000: RAM,  # no memory is there
    0x4001_0000: (1 << 40) - PAGE,
    0x4002_0000: 1 << 32,
    0x4003_0000: 0,
}
PREFIXES = (b"", b"", b"\x0f", b"\x0f\x38", b"\x0f\x3a", b"\x66", b"\xf3", b"\xf2\x0f", b"\x66\x0f")
LONG = 60  # seconds until a test gives up
FUZZ = int(os.environ.get("PYKVM_FUZZ", "0"))
EDGES = sorted(
    {
        at + more & M64
        for at in (
            *MAPPED, *(start + PAGE for start in MAPPED), DATA, DATA_END, DATA + PAGE, 1 << 47, NON_CANONICAL,
            M64 - (1 << 47) + 1, 1 << 63, 1 << 32, 1 << 31, DATA + (1 << 28), DATA + (1 << 40),
        )
        for more in (-16, -8, -4, -1, 0, 1, 8, 0xFF8)
    }
)  # fmt: skip
ACCESSES = {
    "read 1": b"\x8a\x06",
    "read 2": b"\x66\x8b\x06",
    "read 4": b"\x8b\x06",
    "read 8": b"\x48\x8b\x06",
    "write 1": b"\x88\x06",
    "write 2": b"\x66\x89\x06",
    "write 4": b"\x89\x06",
    "write 8": b"\x48\x89\x06",
    "add": b"\x48\x01\x06",
    "bts": b"\x48\x0f\xab\x1e",
    "cmpxchg16b": b"\x48\x0f\xc7\x0e",
    "movups read": b"\x0f\x10\x06",
    "movups write": b"\x0f\x11\x06",
    "push": b"\x50",
    "pop": b"\x58",
    "push memory": b"\xff\x36",
    "leave": b"\xc9",
    "rep stosb": b"\xf3\xaa",
    "rep movsq": b"\xf3\x48\xa5",
    "rep lodsb": b"\xf3\xac",
    "backwards": b"\xfd\xf3\x66\xa5",
    "repe cmpsb": b"\xf3\xa6",
    "xlat": b"\xd7",
}


@pytest.fixture(scope="module", params=[(0, True), (3, True), (3, False)], ids=str)
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    cpl, bmi2 = request.param
    guest = Guest(cpl=cpl, bmi2=bmi2)
    for gva, gpa in MAPPED.items():
        guest.map(gva, gpa, ALL)
    yield guest
    guest.close()


PARTS = (slice(0x20_0000, 0x21_1000), slice(0x30_0000, 0x30_A000), slice(RAM - 2 * PAGE, RAM))
"""Of RAM, what is mapped here."""


@pytest.mark.parametrize("name", ACCESSES)
def test_every_edge_is_as_the_interpreter_finds_it(name, guest):
    code = ACCESSES[name]
    guest.put(CODE, code + bytes((END,)) * 8)
    start = CODE + (code[0] == 0xFD)  # STD by itself
    flags = 2 | (0x400 if code[0] == 0xFD else 0)
    before = [random.Random(name).randbytes(part.stop - part.start) for part in PARTS]
    for edge in EDGES:
        seen = []
        for how in ("interpret", "run", "run"):
            for part, data in zip(PARTS, before, strict=True):
                guest.view[part] = data
            registers = [0x1111_1111_1111_1111 * number & M64 for number in range(16)]
            registers[RSP] = registers[RBP] = registers[RSI] = registers[RBX] = registers[RDI] = edge
            registers[RCX], registers[RAX] = 5, 0x1234_5678_9ABC_DE7F
            if name in ("rep movsq", "backwards", "repe cmpsb"):
                registers[RSI] = DATA + 0x800
            if name == "bts":
                registers[RBX] = 70
            guest.regs, guest.flags = registers, flags
            guest.fx = guest.fx[:32] + bytes(range(1, 225)) + bytes(256)
            fault = getattr(guest, how)(start)
            told = (guest.rip,) if guest.rip != start else (guest.rip, fault.vector, fault.error, fault.cr2)
            seen.append((told, guest.regs, guest.fx[160:416], [bytes(guest.view[part]) for part in PARTS]))
        for part in range(4):
            assert seen[0][part] == seen[1][part] == seen[2][part], f"{name} at {edge:#x}"
    assert guest.guards_are_whole()


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("cpl", [3, 0])
def test_any_bytes_end_in_the_guest(cpl, wide):
    """Random code, some of it system instructions: an exception of the guest's is all that comes of it."""
    guest = Guest(cpl=cpl, wide=wide)
    for gva, gpa in MAPPED.items():
        guest.map(gva, gpa, ALL)
    tables = bytes(guest.view[:0x10_0000])
    numbers = random.Random(f"{cpl}:{wide}:{FUZZ}")
    for _ in range(300 + FUZZ // 100):
        guest.reset()
        guest.view[:0x10_0000] = tables
        guest.cpu.core.mmu.forget()
        kind = numbers.random()
        prefix = numbers.choice(PREFIXES)
        code = prefix + numbers.randbytes(12) if kind < 0.7 else numbers.randbytes(14)
        guest.put(CODE + 0x100, code + bytes((END,)))
        mask = M64 if wide else 0xFFFF_FFFF
        choices = [at & mask for at in EDGES if wide or at < 1 << 32]
        guest.regs = [
            numbers.choice((numbers.choice(choices), numbers.getrandbits(64) & mask, DATA + 0x100))
            for _ in range(16 if wide else 8)
        ] + [0] * (0 if wide else 8)
        guest.flags = 2 | numbers.getrandbits(12) & 0xCD5
        alarm = threading.Timer(0.1, guest.cpu.wake)  # for what halts, or never ends
        alarm.start()
        try:
            guest.run_at_most(CODE + 0x100)
        except Exception as error:
            raise AssertionError(f"{code.hex()} at CPL {cpl}: {error}") from error
        finally:
            alarm.cancel()
            alarm.join()
        assert guest.guards_are_whole()
    guest.close()


def test_code_that_jumps_round_all_addresses_forwards_only_hears_of_what_waits():
    """In 32-bit code three jumps of less than 2 GiB lead to where they began, none of them back."""
    places = (CODE, CODE + 0x5000_0000, CODE + 0xA000_0000 & 0xFFFF_FFFF)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(LONG)
            guest = Guest(wide=False)
            for number, gva in enumerate(places):
                gpa = 0x30_0000 + number * PAGE
                guest.map(gva, gpa, PRESENT | USER)
                distance = (places[(number + 1) % 3] - gva & 0xFFFF_FFFF) - 5
                guest.cpu.core.physical.write(gpa, b"\xe9" + distance.to_bytes(4, "little"))
            threading.Timer(0.1, guest.cpu.wake).start()
            status = 0 if guest.run_at_most(CODE) is None else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
