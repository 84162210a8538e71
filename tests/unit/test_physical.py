"""Operands of instructions that pykvm carries out: memory where there is some, else the bus."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pykvm.devices.bus import MemoryBus
from pykvm.devices.physical import PhysicalMemory
from pykvm.memory import GuestMemory

DEVICE = 0xD000_0000


class Recorder:
    """Registers of up to 8 bytes that tell of each access; each byte reads as its offset."""

    def __init__(self, lock: threading.Lock) -> None:
        self.lock = lock
        self.accesses: list[tuple[object, ...]] = []

    def read(self, offset: int, size: int) -> int:
        assert self.lock.locked()
        self.accesses.append(("read", offset, size))
        return int.from_bytes(bytes(range(offset, offset + size)), "little")

    def write(self, offset: int, size: int, value: int) -> None:
        assert self.lock.locked()
        self.accesses.append(("write", offset, size, value))


class Space:
    def __init__(self) -> None:
        self.ram = GuestMemory()
        self.ram.add(0, 0x2000)
        self.ram.add(0x10000, 0x1000, readonly=True)
        lock = threading.Lock()
        self.device, self.rom = Recorder(lock), Recorder(lock)
        mmio = MemoryBus()
        mmio.attach(self.device, DEVICE, 0x100, width=8)
        mmio.attach(self.rom, 0x10000, 0x100, width=8)
        self.physical = PhysicalMemory(self.ram, mmio, lock)


@pytest.fixture
def space() -> Iterator[Space]:
    made = Space()
    yield made
    made.ram.close()


def test_memory_is_read_and_written_without_the_bus(space):
    space.physical.write(0x0FFC, b"12345678")
    assert space.ram.read(0x0FFC, 8) == b"12345678"
    assert space.physical.read(0x0FFE, 4) == b"3456"
    assert space.device.accesses == []


def test_a_devices_register_is_read_and_written_whole(space):
    assert space.physical.read(DEVICE + 0x10, 4) == bytes((0x10, 0x11, 0x12, 0x13))
    space.physical.write(DEVICE + 0x20, bytes((1, 2)))
    assert space.device.accesses == [("read", 0x10, 4), ("write", 0x20, 2, 0x0201)]


def test_a_wide_operand_goes_in_eights(space):
    assert space.physical.read(DEVICE + 0x10, 16) == bytes(range(0x10, 0x20))
    space.physical.write(DEVICE + 0x24, bytes(range(16)))
    assert space.device.accesses == [
        ("read", 0x10, 8),
        ("read", 0x18, 8),
        ("write", 0x24, 4, 0x03020100),
        ("write", 0x28, 8, 0x0B0A0908_07060504),
        ("write", 0x30, 4, 0x0F0E0D0C),
    ]


def test_where_nothing_is_reads_give_ones_and_writes_go_nowhere(space):
    assert space.physical.read(0x8000_0000, 4) == b"\xff" * 4
    space.physical.write(0x8000_0000, b"1234")
    assert space.physical.u64(0x8000_0000) == (1 << 64) - 1


def test_memory_that_takes_no_writes_gives_them_to_the_bus(space):
    space.ram.write(0x10000, b"ROM!")
    space.physical.write(0x10000, b"\x01")
    assert space.physical.read(0x10000, 4) == b"ROM!"
    assert space.rom.accesses == [("write", 0, 1, 1)]


def test_page_table_entries_are_read_and_written_in_their_order(space):
    space.physical.put_u32(0x100, 0x04030201)
    space.physical.put_u64(0x104, 0x0C0B0A09_08070605)
    assert space.ram.read(0x100, 12) == bytes(range(1, 13))
    assert space.physical.u32(0x101) == 0x05040302
    assert space.physical.u64(0x101) == 0x09080706_05040302
