"""The bus: what it does so that a device sees only accesses that it can take whole."""

from __future__ import annotations

import random

import pytest

from pykvm.devices.bus import MemoryBus, PortBus
from pykvm.errors import InternalError


class Registers:
    """A device whose bytes can be read and written in any width, and which remembers how it was."""

    def __init__(self, size: int) -> None:
        self.bytes = bytearray(range(0x10, 0x10 + size))
        self.accesses: list[tuple[str, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        self.accesses.append(("read", offset, size))
        return int.from_bytes(self.bytes[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self.accesses.append(("write", offset, size))
        self.bytes[offset : offset + size] = value.to_bytes(size, "little")

    def save(self) -> dict[str, object]:
        return {}

    def load(self, state: dict[str, object]) -> None: ...


class Fifo:
    """A byte-wide port that gives 1, 2, 3 … and keeps what it is given."""

    def __init__(self) -> None:
        self.next = 0
        self.got: list[tuple[int, int]] = []

    def read(self, offset: int, size: int) -> int:
        self.next += 1
        return self.next

    def write(self, offset: int, size: int, value: int) -> None:
        self.got.append((size, value))

    def save(self) -> dict[str, object]:
        return {}

    def load(self, state: dict[str, object]) -> None: ...


class TooWide(Registers):
    def read(self, offset: int, size: int) -> int:
        return 0xDEADBEEF_CAFEF00D


# Ports


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_port_where_nothing_is_reads_as_all_ones(size: int) -> None:
    bus = PortBus()
    assert bus.read(0x1234, size) == (1 << 8 * size) - 1
    bus.write(0x1234, size, 0)  # and a write goes nowhere


def test_a_wide_access_to_byte_registers_reaches_each_of_them_in_order() -> None:
    bus, device = PortBus(), Registers(8)
    bus.attach(device, 0x3F8, 8)
    assert bus.read(0x3F8, 4) == 0x13121110
    bus.write(0x3FA, 2, 0xBBAA)
    assert device.bytes[2:4] == b"\xaa\xbb"
    assert device.accesses == [("read", n, 1) for n in range(4)] + [("write", 2, 1), ("write", 3, 1)]


def test_a_device_gets_whole_what_it_can_take_whole() -> None:
    bus, device = PortBus(), Registers(4)
    bus.attach(device, 0xF4, 4, width=4)
    bus.write(0xF4, 4, 0x01020304)
    bus.write(0xF6, 2, 0x0506)
    assert device.accesses == [("write", 0, 4), ("write", 2, 2)]
    assert device.bytes == b"\x04\x03\x06\x05"


def test_an_access_that_straddles_two_devices_is_shared_between_them() -> None:
    bus, left, right = PortBus(), Registers(1), Registers(1)
    bus.attach(left, 0x60, 1)
    bus.attach(right, 0x61, 1)
    right.bytes[0] = 0x99
    assert bus.read(0x60, 2) == 0x9910
    bus.write(0x60, 2, 0x2211)
    assert (left.bytes, right.bytes) == (b"\x11", b"\x22")


def test_an_access_over_the_end_of_a_device_reads_ones_beyond_it() -> None:
    bus, device = PortBus(), Registers(4)
    bus.attach(device, 0xCF8, 4, width=4)
    assert bus.read(0xCFA, 4) == 0xFFFF1312
    bus.write(0xCFB, 4, 0xAABBCCDD)
    assert device.bytes == b"\x10\x11\x12\xdd"


def test_the_last_ports_wrap_to_the_first() -> None:
    bus, first = PortBus(), Registers(1)
    bus.attach(first, 0, 1)
    assert bus.read(0xFFFF, 2) == 0x10FF


def test_a_value_wider_than_the_access_is_cut() -> None:
    bus = PortBus()
    bus.attach(TooWide(4), 0x10, 4, width=4)
    assert [bus.read(0x10, size) for size in (1, 2, 4)] == [0x0D, 0xF00D, 0xCAFEF00D]
    data = bytearray(3)
    bus.read_string(0x10, 1, memoryview(data))
    assert data == b"\x0d\x0d\x0d"


def test_a_device_in_two_places_sees_the_offsets_that_it_was_promised() -> None:
    bus, device = PortBus(), Registers(8)
    bus.attach(device, 0x60, 1)
    bus.attach(device, 0x64, 1, offset=4)
    assert (bus.read(0x60, 1), bus.read(0x64, 1), bus.read(0x62, 1)) == (0x10, 0x14, 0xFF)


def test_string_input_fills_in_order_and_the_port_stays() -> None:
    bus, fifo = PortBus(), Fifo()
    bus.attach(fifo, 0x3F8, 1)
    data = bytearray(5)
    bus.read_string(0x3F8, 1, memoryview(data))
    assert data == b"\x01\x02\x03\x04\x05"


def test_string_output_of_words_to_a_byte_port_is_cut_item_by_item() -> None:
    bus, fifo = PortBus(), Fifo()
    bus.attach(fifo, 0x3F8, 1)
    bus.write_string(0x3F8, 2, memoryview(b"ABCD"))
    # the odd bytes go to 0x3F9, where nothing is
    assert fifo.got == [(1, ord("A")), (1, ord("C"))]


def test_string_output_of_double_words_reaches_a_wide_port_whole() -> None:
    bus, fifo = PortBus(), Fifo()
    bus.attach(fifo, 0x100, 4, width=4)
    bus.write_string(0x100, 4, memoryview(b"\1\0\0\0\2\0\0\0"))
    assert fifo.got == [(4, 1), (4, 2)]


def test_string_input_where_nothing_is_gives_ones() -> None:
    data = bytearray(4)
    PortBus().read_string(0x1234, 2, memoryview(data))
    assert data == b"\xff" * 4


def test_two_devices_cannot_have_one_port() -> None:
    bus = PortBus()
    bus.attach(Registers(8), 0x3F8, 8, name="com1")
    with pytest.raises(InternalError, match="port 0x3fc belongs to com1"):
        bus.attach(Registers(8), 0x3FC, 8)
    assert bus.read(0x400, 1) == 0xFF  # and nothing of the second is there


@pytest.mark.parametrize(("base", "count"), [(0xFFFF, 2), (-1, 1), (0x10000, 1), (0x80, 0)])
def test_ports_that_do_not_exist_are_refused(base: int, count: int) -> None:
    with pytest.raises(InternalError, match="do not exist"):
        PortBus().attach(Registers(1), base, count)


def test_the_run_loop_finds_whole_accesses_in_the_tables() -> None:
    bus, device = PortBus(), Registers(8)
    bus.attach(device, 0x3F8, 8, width=2)
    read, offset = bus.reads[1 << 16 | 0x3FD]
    assert read(offset, 1) == 0x15
    assert 2 << 16 | 0x3FE in bus.writes
    assert 2 << 16 | 0x3FF not in bus.writes  # straddles the end
    assert 4 << 16 | 0x3F8 not in bus.reads  # wider than the device


# Memory-mapped


@pytest.mark.parametrize("size", range(1, 9))
def test_memory_where_nothing_is_reads_as_all_ones(size: int) -> None:
    bus = MemoryBus()
    assert bus.read(0xD000_0000, size) == (1 << 8 * size) - 1
    bus.write(0xD000_0000, size, 0)


def test_devices_are_found_whatever_the_order_they_came_in() -> None:
    bus = MemoryBus()
    devices = {base: Registers(0x10) for base in (0x3000, 0x1000, 0x2000)}
    for base, device in devices.items():
        bus.attach(device, base, 0x10)
        device.bytes[0] = base >> 12
    assert [bus.read(base, 1) for base in (0x1000, 0x2000, 0x3000)] == [1, 2, 3]
    assert bus.read(0x0FFF, 1) == bus.read(0x1010, 1) == 0xFF


def test_eight_bytes_to_a_device_of_four_are_cut_in_order() -> None:
    bus, device = MemoryBus(), Registers(0x10)
    bus.attach(device, 0x1000, 0x10, width=4)
    assert bus.read(0x1008, 8) == 0x1F1E1D1C1B1A1918
    assert device.accesses == [("read", 8, 4), ("read", 12, 4)]


def test_what_a_page_end_leaves_of_an_access_is_cut_into_aligned_registers() -> None:
    bus, device = MemoryBus(), Registers(0x10)
    bus.attach(device, 0xFF0, 0x10, width=8)
    bus.write(0xFFD, 3, 0xCCBBAA)
    assert device.bytes[13:] == b"\xaa\xbb\xcc"
    assert device.accesses == [("write", 13, 1), ("write", 14, 2)]


@pytest.mark.parametrize("size", range(1, 9))
@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_every_cut_gives_the_same_bytes(size: int, width: int) -> None:
    chance = random.Random(size * 16 + width)
    bus, device = MemoryBus(), Registers(0x20)
    bus.attach(device, 0x1000, 0x20, width=width)
    for _ in range(50):
        gpa = 0x1000 + chance.randrange(0x21 - size)
        data = chance.randbytes(size)
        bus.write(gpa, size, int.from_bytes(data, "little"))
        assert device.bytes[gpa - 0x1000 :][:size] == data
        assert bus.read(gpa, size).to_bytes(size, "little") == data
    assert all(taken <= width and taken in (1, 2, 4, 8) for _, _, taken in device.accesses)


def test_an_access_that_straddles_two_mapped_devices_is_shared_between_them() -> None:
    bus, left, right = MemoryBus(), Registers(4), Registers(4)
    bus.attach(left, 0x1000, 4)
    bus.attach(right, 0x1004, 4)
    assert bus.read(0x1002, 4) == 0x11101312
    assert bus.read(0x1006, 4) == 0xFFFF1312


@pytest.mark.parametrize("base", [0xFFC, 0x1000, 0x100F])
def test_two_devices_cannot_have_one_place(base: int) -> None:
    bus = MemoryBus()
    bus.attach(Registers(16), 0x1000, 0x10, name="ioapic")
    with pytest.raises(InternalError, match="belongs to ioapic"):
        bus.attach(Registers(16), base, 0x10)


def test_neighbours_are_no_overlap() -> None:
    bus = MemoryBus()
    bus.attach(Registers(16), 0x1000, 0x10)
    bus.attach(Registers(16), 0x0FF0, 0x10)
    bus.attach(Registers(16), 0x1010, 0x10)
    assert [bus.read(gpa, 1) for gpa in (0x0FF0, 0x0FFF, 0x1000, 0x1010)] == [0x10, 0x1F, 0x10, 0x10]
