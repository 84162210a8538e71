"""IN and OUT: who may use a port (Intel SDM vol. 1 §19.5), and writes that are kept back for a while."""

from __future__ import annotations

from collections.abc import Iterator
from struct import pack

import pytest
from guest import Guest
from places import CODE, DATA, NOWHERE, PAGE

from pykvm.translate.context import PORT_IN, PORT_OUT
from pykvm.x86.exceptions import GP, PF, UD
from pykvm.x86.segments import TSS32_BUSY, TSS_IO_MAP_BASE

LATCH, PLAIN, NOTHING = 0x80, 0x90, 0xA0
RAX, RDX = 0, 2
OUT_DX_AL, OUT_DX_AX, OUT_DX_EAX, IN_AL_DX = b"\xee", b"\x66\xef", b"\xef", b"\xec"
TSS = DATA + PAGE - TSS_IO_MAP_BASE - 2  # the field is a page's last word, the bitmap begins the next
BITMAP = TSS_IO_MAP_BASE + 2
LIMIT = BITMAP + 0x20


class Device:
    def __init__(self, seen: list[tuple[int, int, int]], base: int) -> None:
        self.seen = seen
        self.base = base

    def read(self, offset: int, size: int) -> int:
        self.seen.append((self.base + offset, size, -1))
        return 0x5A

    def write(self, offset: int, size: int, value: int) -> None:
        self.seen.append((self.base + offset, size, value))

    def save(self) -> dict[str, object]:
        return {}

    def load(self, state: dict[str, object]) -> None: ...


class Machine:
    def __init__(self, cpl: int, bmi2: bool) -> None:
        self.guest = Guest(cpl=cpl, bmi2=bmi2)
        self.seen: list[tuple[int, int, int]] = []
        self.guest.ports.attach(Device(self.seen, LATCH), LATCH, 4, width=2, latch=True)
        self.guest.ports.attach(Device(self.seen, PLAIN), PLAIN, 1)

    def run(self, code: bytes, *, base: int = TSS, limit: int = LIMIT, denied: int = 0) -> tuple[int, int]:
        """Run ``code`` with the TSS at ``base`` and the bitmap ``denied``; the vector, and how far."""
        guest = self.guest
        guest.reset()
        guest.data = bytes(4 * PAGE)
        guest.put(TSS + TSS_IO_MAP_BASE, pack("<H", BITMAP))
        guest.put(TSS + BITMAP, denied.to_bytes(0x21, "little"))
        guest.put(CODE, code + b"\x06" * 64)
        task = {**guest.cpu.core.cpu.sregs["tr"], "base": base, "limit": limit, "type": TSS32_BUSY}
        guest.cpu.load({"sregs": {"tr": task}})
        guest.regs, guest.flags = [0] * 16, 2
        self.seen.clear()
        guest.cpu.exits[:] = [0] * len(guest.cpu.exits)
        fault = guest.run(CODE)
        self.fault = fault
        return fault.vector, guest.rip - CODE

    @property
    def port_exits(self) -> int:
        return self.guest.cpu.exits[PORT_OUT] + self.guest.cpu.exits[PORT_IN]


@pytest.fixture(scope="module", params=[(0, True), (3, True), (0, False), (3, False)], ids=str)
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    made = Machine(*request.param)
    yield made
    made.guest.close()


@pytest.fixture(scope="module", params=[True, False], ids=["bmi2", "no bmi2"])
def user(request: pytest.FixtureRequest) -> Iterator[Machine]:
    made = Machine(3, request.param)
    yield made
    made.guest.close()


def to(port: int) -> bytes:
    """mov edx, port"""
    return b"\xba" + pack("<I", port)


def value(number: int) -> bytes:
    """mov eax, number"""
    return b"\xb8" + pack("<I", number)


def test_of_a_latch_s_writes_the_last_arrives_before_what_reaches_another_device(machine):
    code = to(LATCH) + b"".join(value(0x11223300 + each) + OUT_DX_AL for each in range(20))
    code += to(PLAIN) + OUT_DX_AL + to(LATCH) + value(0x42) + b"\xe6\x80"
    assert machine.run(code) == (UD, len(code))
    assert machine.seen == [(LATCH, 1, 19), (PLAIN, 1, 19), (LATCH, 1, 0x42)]
    assert machine.port_exits == 1


def test_a_read_finds_the_last_write(machine):
    code = to(LATCH) + value(7) + OUT_DX_AL + IN_AL_DX
    assert machine.run(code) == (UD, len(code))
    assert machine.seen == [(LATCH, 1, 7), (LATCH, 1, -1)]
    assert machine.guest.regs[RAX] == 0x5A


def test_latches_that_take_turns_lose_nothing(machine):
    code = b"".join(
        to(LATCH + each % 2) + value(each) + (OUT_DX_AX if each % 3 else OUT_DX_AL) for each in range(9)
    )
    assert machine.run(code) == (UD, len(code))
    assert [last for _, _, last in machine.seen] == list(range(9))


@pytest.mark.parametrize("out, size", [(OUT_DX_AL, 1), (OUT_DX_AX, 2), (OUT_DX_EAX, 4)])
def test_only_what_the_device_takes_whole_is_kept_back(machine, out, size):
    code = to(LATCH + 1) + value(0xAABBCCDD) + out + out
    assert machine.run(code) == (UD, len(code))
    whole = [(LATCH + 1, size, 0xAABBCCDD & (1 << 8 * size) - 1)]
    halves = [(LATCH + 1, 2, 0xCCDD), (LATCH + 3, 1, 0xBB)]
    if size < 4:
        assert machine.seen == whole and machine.port_exits == 0
    else:
        assert machine.seen[0] == halves[0] and machine.port_exits == 2


def test_flags_and_registers_stay(machine):
    code = (
        to(LATCH) + b"\xf9" + OUT_DX_AL + b"\x0f\x92\xc3" + to(PLAIN) + b"\xf9" + OUT_DX_AL + b"\x0f\x92\xc1"
    )
    assert machine.run(code) == (UD, len(code))
    regs = machine.guest.regs
    assert (regs[1], regs[2], regs[3]) == (1, PLAIN, 1)


@pytest.mark.parametrize("port", [LATCH, PLAIN, NOTHING, 0x87, 0xFF])
@pytest.mark.parametrize("code, size", [(OUT_DX_AL, 1), (OUT_DX_AX, 2), (OUT_DX_EAX, 4), (IN_AL_DX, 1)])
def test_each_port_of_an_access_needs_its_bit_clear(user, port, code, size):
    """A set bit for any port that is accessed raises #GP(0)."""
    for at in range(-1, size + 1):
        told = user.run(to(port) + code, denied=1 << port + at)
        expected = (GP, 5) if 0 <= at < size else (UD, 5 + len(code))
        assert told == expected, f"bit {at}"
        assert user.fault.error == (0 if told[0] == GP else None)
        assert (user.seen == []) or told[0] == UD


def test_iopl_3_needs_no_bitmap(user):
    user.run(b"")  # a guest with all in place
    code = to(LATCH) + OUT_DX_AL
    user.guest.put(CODE, code + b"\x06")
    user.guest.flags = 2 | 3 << 12
    user.guest.put(TSS + BITMAP, b"\xff" * 0x20)
    fault = user.guest.run(CODE)
    assert (fault.vector, user.guest.rip) == (UD, CODE + len(code))


@pytest.mark.parametrize(
    "limit, port, allowed",
    [
        (BITMAP + 0x11, LATCH, True),
        (BITMAP + 0x10, LATCH, False),  # both bytes that are read must lie within the limit
        (TSS_IO_MAP_BASE + 1, LATCH, False),
        (TSS_IO_MAP_BASE, LATCH, False),
        (0, LATCH, False),
    ],
)
def test_the_bitmap_ends_at_the_tss_s_limit(user, limit, port, allowed):
    code = to(port) + OUT_DX_AL
    assert user.run(code, limit=limit) == ((UD, 6) if allowed else (GP, 5))


def test_a_tss_in_no_page_is_the_processor_s_own_page_fault(user):
    """The bitmap is read with the supervisor's rights: the error code says so."""
    assert user.run(to(LATCH) + OUT_DX_AL, base=NOWHERE) == (PF, 5)
    assert (user.fault.error, user.fault.cr2) == (0, NOWHERE + TSS_IO_MAP_BASE)
    assert user.seen == []


def test_a_change_of_the_bitmap_holds_at_once(user):
    patch = b"\xc6\x04\x25" + pack("<IB", TSS + BITMAP + LATCH // 8, 1)  # mov byte [...], 1
    code = to(LATCH) + OUT_DX_AL + patch
    assert user.run(code + OUT_DX_AL) == (GP, len(code))


def test_a_latch_may_come_later(machine):
    machine.guest.ports.attach(Device(machine.seen, 0x300), 0x300, 1, latch=True)
    code = to(0x300) + value(1) + OUT_DX_AL + value(2) + OUT_DX_AL
    assert machine.run(code, limit=0x200) == (UD, len(code))
    assert machine.seen == [(0x300, 1, 2)]
