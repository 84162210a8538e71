"""Exits to devices, as the run page tells of them: the right method and bytes, whatever came before."""

from __future__ import annotations

import itertools
import threading
from errno import EINTR

import pytest

from pykvm.devices.bus import MemoryBus, PortBus
from pykvm.kvm import abi, run
from pykvm.kvm.abi import KVM_EXIT_IO, KVM_EXIT_MMIO
from pykvm.machine import accesses
from pykvm.machine.kvmcpu import KvmCpu

DATA = 0x1000  # where the items of port I/O are, in bytes from the run page's start
PORT, PLACE = 0x3F8, 0xFEC0_0000


class Page:
    def __init__(self):
        self.u8 = memoryview(bytearray(3 * 4096))
        self.u16, self.u32, self.u64 = (self.u8.cast(letter) for letter in "HIQ")


class Vcpu:
    """KVM_RUN ends by the exits of ``exits`` in turn, each a call that fills the run page, then by a kick."""

    index = 0

    def __init__(self):
        self.page = Page()
        self.exits = []

    def enter(self):
        if not self.exits:
            return -1
        self.page.u32[run.EXIT_REASON] = self.exits.pop(0)()
        return 0

    def left(self):
        return EINTR


class Device:
    """Tells what it was asked, and answers with more bits than were asked for."""

    def __init__(self, lock):
        self.seen = []
        self._lock = lock

    def read(self, offset, size):
        assert self._lock.locked()
        self.seen.append(("read", offset, size))
        return 0x1122_3344_5566_7788_99

    def write(self, offset, size, value):
        assert self._lock.locked()
        self.seen.append(("write", offset, size, value))


class Machine:
    def __init__(self):
        self.vcpu, lock = Vcpu(), threading.Lock()
        self.ports, self.mmio = PortBus(), MemoryBus()
        self.device = Device(lock)
        self.ports.attach(self.device, PORT, 8, width=4)
        self.mmio.attach(self.device, PLACE, 0x20, width=8)
        self.cpu = KvmCpu(self.vcpu, self.ports, self.mmio, None, lock)
        self.page = self.vcpu.page

    def plays(self, *exits):
        """Run through ``exits``; what the device saw."""
        self.vcpu.exits = list(exits)
        self.device.seen = []
        assert self.cpu.run() is None
        assert not self.vcpu.exits
        return self.device.seen

    def port(self, port, size, value=None, count=1):
        """A port is read, or ``value`` written to it (an int, or a string's items)."""

        def exit_():
            page = self.page
            page.u8[run.IO_DIRECTION] = int(value is not None)
            page.u8[run.IO_SIZE], page.u16[run.IO_PORT], page.u32[run.IO_COUNT] = size, port, count
            page.u64[run.IO_DATA_OFFSET] = DATA
            if value is not None:
                data = value.to_bytes(size, "little") if isinstance(value, int) else value
                page.u8[DATA : DATA + len(data)] = data
            return KVM_EXIT_IO

        return exit_

    def memory(self, gpa, size, value=None):
        """An address is read, or ``value`` written to it."""

        def exit_():
            page = self.page
            page.u64[run.MMIO_GPA], page.u32[run.MMIO_LEN] = gpa, size
            page.u8[run.MMIO_IS_WRITE] = int(value is not None)
            page.u64[run.MMIO_DATA // 8] = 0xEEEE_EEEE_EEEE_EEEE if value is None else value
            return KVM_EXIT_MMIO

        return exit_


@pytest.fixture
def machine():
    return Machine()


def test_the_head_of_a_port_access_is_all_that_tells_one_from_another():
    page = Page()
    page.u8[run.IO_DIRECTION], page.u8[run.IO_SIZE] = 1, 2
    page.u16[run.IO_PORT], page.u32[run.IO_COUNT] = 0xCF8, 3
    assert page.u64[run.IO_HEAD] == 1 | 2 << 8 | 0xCF8 << 16 | 3 << 32
    assert abi.RUN_PAGE["io.data_offset"] == 8 * run.IO_HEAD + 8


@pytest.mark.parametrize("size", [1, 2, 4])
def test_each_access_to_a_port_reaches_its_device_the_first_time_and_the_next(machine, size):
    value = 0x8899_AABB & (1 << 8 * size) - 1
    for _ in range(2):
        seen = machine.plays(machine.port(PORT + 2, size, value), machine.port(PORT + 2, size))
        assert seen == [("write", 2, size, value), ("read", 2, size)]
        assert machine.page.u8[DATA : DATA + 4] == (
            bytes.fromhex("99887766")[:size] + value.to_bytes(4, "little")[size:]
        )


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_each_access_to_memory_reaches_its_device_the_first_time_and_the_next(machine, size):
    value = 0x0011_2233_8899_AABB & (1 << 8 * size) - 1
    for _ in range(2):
        seen = machine.plays(machine.memory(PLACE + 8, size, value), machine.memory(PLACE + 8, size))
        assert seen == [("write", 8, size, value), ("read", 8, size)]
        read = machine.page.u8[run.MMIO_DATA : run.MMIO_DATA + 8]
        assert read == bytes.fromhex("9988776655443322")[:size] + b"\xee" * (8 - size)


def test_accesses_that_differ_in_one_thing_are_not_taken_for_each_other(machine):
    of_ports = [(port, size) for port in (PORT, PORT + 4) for size in (1, 2, 4)]
    of_memory = [(gpa, size) for gpa in (PLACE, PLACE + 8) for size in (1, 2, 4, 8)]
    for _ in range(2):
        for (place, size), write in itertools.product(of_ports, (True, False)):
            seen = machine.plays(machine.port(place, size, 0x55 if write else None))
            assert seen == [("write", place - PORT, size, 0x55) if write else ("read", place - PORT, size)]
        for (place, size), write in itertools.product(of_memory, (True, False)):
            seen = machine.plays(machine.memory(place, size, 0x55 if write else None))
            assert seen == [("write", place - PLACE, size, 0x55) if write else ("read", place - PLACE, size)]


def test_a_string_goes_item_by_item_and_a_single_access_after_it_alone(machine):
    items = bytes(range(6))
    assert machine.plays(machine.port(PORT, 2, items, count=3), machine.port(PORT, 2, 0x1234)) == [
        *(("write", 0, 2, value) for value in (0x100, 0x302, 0x504)),
        ("write", 0, 2, 0x1234),
    ]
    assert machine.plays(machine.port(PORT, 2, count=3)) == [("read", 0, 2)] * 3
    assert machine.page.u8[DATA : DATA + 6] == bytes.fromhex("9988") * 3


@pytest.mark.parametrize("size", [3, 5, 6, 7])
def test_what_a_page_end_leaves_is_cut_as_the_bus_cuts_it(machine, size):
    machine.plays(machine.memory(PLACE + 1, size, 0x77_6655_4433_2211 & (1 << 8 * size) - 1))
    taken = {}
    for _, offset, length, value in machine.device.seen:
        taken |= dict(enumerate(value.to_bytes(length, "little"), offset))
    assert taken == dict(enumerate(bytes.fromhex("11223344556677")[:size], 1))
    machine.plays(machine.memory(PLACE + 1, size))
    assert sum(length for _, _, length in machine.device.seen) == size
    assert machine.page.u8[run.MMIO_DATA + size : run.MMIO_DATA + 8] == b"\xee" * (8 - size)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_device_that_comes_later_takes_the_place_from_then_on(machine, size):
    port, gpa = 0x500, 0xD000_0000
    for _ in range(2):
        machine.plays(machine.port(port, size), machine.memory(gpa, size))
        assert machine.page.u8[DATA : DATA + size] == b"\xff" * size
        assert machine.page.u8[run.MMIO_DATA : run.MMIO_DATA + size] == b"\xff" * size
    machine.ports.attach(machine.device, port, 4, width=4)
    machine.mmio.attach(machine.device, gpa, 4)
    assert machine.plays(machine.port(port, size), machine.memory(gpa, size)) == [("read", 0, size)] * 2


def test_a_guest_that_tries_every_place_does_not_fill_the_host(machine):
    places = range(0, 8 * 3 * accesses.LIMIT, 8)
    machine.plays(*(machine.memory(0xD000_0000 + place, 4, 0) for place in places))
    machine.plays(*(machine.port(port, 1) for port in range(0x10000) if not PORT <= port < PORT + 8))
    assert len(machine.cpu._accesses.memory) <= accesses.LIMIT
    assert len(machine.cpu._accesses.ports) <= accesses.LIMIT
    assert machine.plays(machine.port(PORT, 1, 7)) == [("write", 0, 1, 7)]


def test_a_device_that_fails_leaves_the_device_lock_free(machine):
    def fails(offset, size, value):
        raise RuntimeError("bug")

    machine.device.write = fails
    machine.ports.attach(machine.device, 0x500, 1)
    machine.vcpu.exits = [machine.port(0x500, 1, 0)]
    with pytest.raises(RuntimeError):
        machine.cpu.run()
    assert not machine.cpu._lock.locked()
