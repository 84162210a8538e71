"""Writes that KVM keeps in its ring: none is lost, none is late, none comes after what the guest did next."""

from __future__ import annotations

import threading
from errno import EINTR

import pytest

from pykvm.devices.bus import MemoryBus, PortBus
from pykvm.kvm import run, structs
from pykvm.kvm.abi import KVM_EXIT_IO, KVM_EXIT_SHUTDOWN
from pykvm.machine.coalesced import CoalescedWrites, Stream
from pykvm.machine.kvmcpu import KvmCpu

THR, LSR = 0x3F8, 0x3FD
RING_PAGE = 2  # as KVM has it on x86 (KVM_COALESCED_MMIO_PAGE_OFFSET)
MAX = 170  # KVM_COALESCED_MMIO_MAX: (4096 - 8) / 24
IN_BYTE = 1 << 8 | 1 << 32  # the io words of a byte's ``in``, but for the port


class Host:
    """A KVM with one vCPU, and a device of 8 ports: it plays what KVM does, and notes what it is told."""

    def __init__(self, lacks: str = "") -> None:
        self.lacks = lacks
        self.seen: list[tuple[int, int | None]] = []
        self.kept: list[int] = []  # ports that it keeps writes of
        self.on_stop: list[int] = []  # values that are written while it is told to stop
        memory = bytearray(3 * 4096)
        self.u8 = memoryview(memory)
        self.u16, self.u32, self.u64 = (self.u8.cast(letter) for letter in "HIQ")
        self.page = self
        self.ring = type(structs.coalesced_mmio_ring(MAX)).from_buffer(memory, RING_PAGE * 4096)
        self.index = 0
        self.does: list = []
        ports, lock = PortBus(), threading.Lock()
        ports.attach(self, THR, 8)
        self.writes = CoalescedWrites(self, ports)
        self.writes.page = self
        self.stream = Stream(self.writes, THR)
        self.cpu = KvmCpu(self, ports, MemoryBus(), None, lock)
        self.cpu.coalesced = self.writes

    # KVM

    def capability(self, name: str) -> int:
        return 0 if name == self.lacks else {"KVM_CAP_COALESCED_MMIO": RING_PAGE}.get(name, 1)

    def coalesce(self, port: int, *, on: bool = True) -> None:
        assert port in self.writes.writers, "a vCPU that leaves the guest now would not look"
        assert (port in self.kept) != on
        if on:
            self.kept.append(port)
        else:
            for value in self.on_stop:
                self.out(value)
            self.kept.remove(port)

    def out(self, value: int) -> None:
        """The guest writes to THR, and does not leave KVM for it."""
        assert self.kept == [THR]
        entry = self.ring.coalesced_mmio[self.ring.last]
        entry.phys_addr, entry.len, entry.pio, entry.data[0] = THR, 1, 1, value
        self.ring.last = (self.ring.last + 1) % MAX
        assert self.ring.last != self.ring.first, "full"

    def enter(self) -> int:
        """KVM_RUN: what the guest does until it leaves."""
        if not self.does:
            return -1
        *written, exit_reason = self.does.pop(0)
        for value in written:
            self.out(value)
        self.u64[run.IO_HEAD] = IN_BYTE | LSR << 16
        self.u64[run.IO_DATA_OFFSET] = 4096
        self.u32[run.EXIT_REASON] = exit_reason
        return -1 if exit_reason == EINTR else 0

    def left(self) -> int:
        return EINTR

    # The device

    def read(self, offset: int, size: int) -> int:
        self.seen.append((offset, None))
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        self.seen.append((offset, value))


LOOK = (5, None)  # LSR is read


def test_what_was_kept_comes_before_what_the_guest_did_next():
    host = Host()
    host.stream.keep()
    host.does = [(1, 2, KVM_EXIT_IO), (KVM_EXIT_IO,), (3, KVM_EXIT_IO)]
    host.cpu.run()
    assert host.seen == [(0, 1), (0, 2), LOOK, LOOK, (0, 3), LOOK]


def test_the_ring_goes_round():
    host = Host()
    host.stream.keep()
    rounds = [range(number, number + 100) for number in range(0, 150, 30)]
    host.does = [(*values, KVM_EXIT_IO) for values in rounds]
    host.cpu.run()
    assert [value for _, value in host.seen if value is not None] == [v for values in rounds for v in values]


@pytest.mark.parametrize("reason", [KVM_EXIT_SHUTDOWN, EINTR], ids=["a triple fault", "a kick"])
def test_nothing_is_left_where_the_guest_ends_or_is_stopped(reason):
    host = Host()
    host.stream.keep()
    host.does = [(1, 2, reason)]
    host.cpu.run()
    assert host.seen == [(0, 1), (0, 2)]


def test_what_is_written_until_the_end_is_brought():
    host = Host()
    host.stream.keep()
    host.on_stop = [7, 8]
    host.stream.end()
    assert host.seen == [(0, 7), (0, 8)]
    assert (host.kept, host.stream.is_kept) == ([], False)
    host.stream.end()  # twice is once
    host.stream.keep()
    assert host.kept == [THR]


def test_nothing_is_kept_while_the_transmitters_interrupt_is_to_come_by_it():
    host = Host()
    host.stream.keep()
    host.on_stop = [7]
    host.stream.urgent(True)
    host.stream.keep()
    assert (host.kept, host.seen) == ([], [(0, 7)])
    host.stream.urgent(False)
    host.stream.keep()
    assert host.kept == [THR]


@pytest.mark.parametrize("lacks", ["KVM_CAP_COALESCED_MMIO", "KVM_CAP_COALESCED_PIO"])
def test_a_kvm_that_keeps_nothing_is_not_asked(lacks):
    host = Host(lacks)
    host.stream.keep()
    assert (host.kept, host.stream.is_kept) == ([], False)
    host.stream.deliver()
    host.stream.end()
