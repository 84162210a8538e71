"""Loads and stores that reach a device, over and over from the same place in the code."""

from __future__ import annotations

from collections.abc import Iterator
from struct import pack
from unittest import mock

import pytest
from guest import PRESENT, WRITABLE, Guest, repeated
from places import CODE, DATA, PAGE

from pykvm.x86.exceptions import PF, UD

DEVICE, AT = 0x6E00_0000, 0xFEB0_0000  # where the guest sees it, and where it lies
RBX, RCX, RSI, RDI = 3, 1, 6, 7
AGAIN = "4889f3"  # mov rbx, rsi, which has VALUE too
TIMES = 3
VALUE = 0x8877_6655_4433_2211


class Registers:
    """Remembers what is done, and answers with the count of it in each byte."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, int | None]] = []

    def read(self, offset: int, size: int) -> int:
        self.seen.append((offset, size, None))
        return int.from_bytes(bytes((len(self.seen),)) * size, "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self.seen.append((offset, size, value))

    def save(self) -> dict[str, object]:
        return {}

    def load(self, state: dict[str, object]) -> None: ...


class Machine:
    def __init__(self, bmi2: bool) -> None:
        self.guest = Guest(cpl=0, bmi2=bmi2)
        self.device = Registers()
        self.guest.mmio.attach(self.device, AT, PAGE, width=8)
        self.present()

    def present(self) -> None:
        self.guest.map(DEVICE, AT, PRESENT | WRITABLE)

    def run(self, code: bytes, times: int = TIMES) -> int:
        """``code`` that often, RDI at the device's register 8, RBX with VALUE; the vector of the end."""
        guest = self.guest
        guest.reset()
        guest.put(CODE, repeated(code))
        regs = [0] * 16
        regs[RBX], regs[RSI], regs[RCX], regs[RDI] = VALUE, VALUE, times, DEVICE + 8
        guest.regs, guest.flags = regs, 2
        self.device.seen.clear()
        self.fault = guest.run(CODE)
        return self.fault.vector


@pytest.fixture(scope="module", params=[True, False], ids=["bmi2", "no bmi2"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    made = Machine(request.param)
    yield made
    made.guest.close()


@pytest.mark.parametrize(
    "code, size, value",
    [
        ("881f", 1, 0x11),  # mov [rdi], bl
        ("883f", 1, 0x22),  # mov [rdi], bh: DIL with REX
        ("40883f", 1, 0x08),  # mov [rdi], dil
        ("66891f", 2, 0x2211),
        ("891f", 4, 0x4433_2211),
        ("48891f", 8, VALUE),
        ("c6075a", 1, 0x5A),
        ("66c7075a69", 2, 0x695A),
        ("c7075a697887", 4, 0x8778_695A),
        ("48c7075a697887", 8, 0xFFFF_FFFF_8778_695A),  # the number's sign is extended
        ("f0011f", 4, None),  # lock add: a read and a write, known to the interpreter alone
    ],
)
def test_each_store_arrives_with_its_value_and_size(machine, code, size, value):
    assert machine.run(bytes.fromhex(code)) == UD
    stores = [entry for entry in machine.device.seen if entry[2] is not None]
    assert len(stores) == TIMES
    assert {entry[:2] for entry in stores} == {(8, size)}
    if value is not None:
        assert {entry[2] for entry in stores} == {value}


@pytest.mark.parametrize(
    "code, size, found",
    [
        ("8a1f", 1, VALUE & ~0xFF | 3),  # mov bl, [rdi]
        ("8a3f", 1, VALUE & ~0xFF00 | 0x300),  # mov bh, [rdi]
        ("668b1f", 2, VALUE & ~0xFFFF | 0x303),
        ("8b1f", 4, 0x0303_0303),  # 32 bits clear the rest
        ("488b1f", 8, 0x0303_0303_0303_0303),
        ("0fb61f", 1, 3),  # movzx ebx, byte [rdi]
    ],
)
def test_each_load_brings_what_the_device_says_that_time(machine, code, size, found):
    assert machine.run(bytes.fromhex(AGAIN + code)) == UD
    assert machine.device.seen == [(8, size, None)] * TIMES
    assert machine.guest.regs[RBX] == found


def test_registers_that_emitted_code_keeps_in_memory_serve_as_others(machine):
    # mov r9, [rdi]; mov [rdi], r9d
    assert machine.run(bytes.fromhex("4c8b0f 44890f")) == UD
    stores = [value for _, _, value in machine.device.seen if value is not None]
    assert stores == [0x0101_0101, 0x0303_0303, 0x0505_0505]


def test_an_instruction_is_taken_apart_once(machine):
    bounce = machine.guest.cpu.core.bounce
    with mock.patch.object(bounce, "carry_out", wraps=bounce.carry_out) as slow:
        assert machine.run(bytes.fromhex("895f04"), 50) == UD
    assert slow.call_count == 1 and len(machine.device.seen) == 50


def test_flags_stay(machine):
    # stc; mov [rdi], ebx; adc edx, 0
    assert machine.run(bytes.fromhex("f9 891f 83d200")) == UD
    assert machine.guest.regs[2] == TIMES


def test_a_page_that_is_mapped_elsewhere_is_the_device_no_longer(machine):
    store = bytes.fromhex("891f")
    assert machine.run(store) == UD
    assert len(machine.device.seen) == TIMES
    machine.guest.map(DEVICE, machine.guest.place(DATA), PRESENT | WRITABLE)
    assert machine.run(store) == UD
    assert machine.device.seen == []
    assert machine.guest.data[8:12] == b"\x11\x22\x33\x44"
    machine.guest.map(DEVICE, AT, PRESENT)
    assert machine.run(store) == PF
    assert (machine.fault.error, machine.fault.cr2) == (3, DEVICE + 8)
    assert machine.device.seen == [] and machine.guest.rip == CODE
    machine.present()
    assert machine.run(store) == UD
    assert len(machine.device.seen) == TIMES


def test_an_access_across_the_page_s_end_is_no_device_s_alone(machine):
    guest = machine.guest
    guest.map(DEVICE + PAGE, guest.place(DATA), PRESENT | WRITABLE)
    guest.data = bytes(4 * PAGE)
    # mov [rdi + PAGE - 10], ebx: two bytes in the device, two in RAM
    assert machine.run(bytes.fromhex("899f") + pack("<i", PAGE - 10)) == UD
    assert machine.device.seen == [(PAGE - 2, 2, 0x2211)] * TIMES
    assert guest.data[:2] == b"\x33\x44"


def test_code_that_the_device_changes_is_new_code_at_once(machine):
    """A device that writes into the block that reaches it (by DMA, say) ends that block."""
    guest, device = machine.guest, machine.device
    store = b"\x89\x1f" + b"\xb8" + pack("<I", 1)  # mov [rdi], ebx; mov eax, 1
    plain = device.write

    def write(offset: int, size: int, value: int) -> None:
        plain(offset, size, value)
        if len(device.seen) == TIMES:
            guest.put(CODE + 3, pack("<I", 2))

    device.write = write  # type: ignore[method-assign]
    try:
        assert machine.run(store) == UD
    finally:
        device.write = plain  # type: ignore[method-assign]
    assert guest.regs[0] == 2
