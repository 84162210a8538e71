"""A VM's state is all in plain values: a guest that is moved in the middle of its work doesn't notice."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pykvm.devices.bus import MemoryBus, PortBus
from pykvm.kvm.state import load_vcpu, load_vm, save_vcpu, save_vm
from pykvm.kvm.system import Kvm
from pykvm.kvm.vm import Vm
from pykvm.machine.interrupts import ROUTES
from pykvm.machine.kvmcpu import KvmCpu
from pykvm.memory import GuestMemory
from pykvm.x86 import entry

GUESTS = Path(__file__).parents[2] / "guests"
COM1 = 0x3F8
PM1_CNT = 0x604


class Board:
    """Memory, KVM's chips, one vCPU, and a serial port that stops the guest when it likes."""

    def __init__(self, kvm: Kvm) -> None:
        self.memory = GuestMemory.pc(1 << 20)
        self.vm: Vm = kvm.create_vm()
        region = self.memory.regions[0]
        self.vm.set_memory(0, region.gpa, region.size, region.hva)
        self.vm.create_irqchip()
        self.vm.set_routes(ROUTES)
        self.vm.create_pit()
        self.vcpu = self.vm.create_vcpu(0)
        ports = PortBus()
        ports.attach(self, COM1, 1, name="out")
        ports.attach(self, PM1_CNT, 2, width=2, offset=8, name="off")
        self.cpu = KvmCpu(self.vcpu, ports, MemoryBus(), self.memory, threading.Lock())
        self.printed = ""
        self.off = False
        self.stop_at = 0

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == 8:
            self.off = True
            self.cpu.wake()
        else:
            self.printed += chr(value)
            if self.printed.count(".") == self.stop_at:
                self.cpu.wake()

    def close(self) -> None:
        self.cpu.close()
        self.vm.close()
        self.memory.close()


@pytest.fixture
def boards() -> Iterator[list[Board]]:
    with Kvm() as kvm:
        made = [Board(kvm) for _ in range(2)]
        yield made
        for board in made:
            board.close()


def test_ticks_goes_on_counting_in_another_vm(boards):
    first, second = boards
    first.memory.write(0x10000, (GUESTS / "ticks" / "ticks.bin").read_bytes())
    gdt = 0x500
    state = entry.protected(0x10000, stack=0x9000, gdt=gdt)
    first.memory.write(gdt, entry.descriptors(state))
    first.cpu.load(state)
    first.stop_at = 7
    assert first.cpu.run() is None
    first.cpu.settle()

    saved = {"vm": save_vm(first.vm), "cpu": save_vcpu(first.vcpu)}
    second.memory.write(0, first.memory.read(0, first.memory.ram_size))
    load_vm(second.vm, saved["vm"])
    load_vcpu(second.vcpu, saved["cpu"])
    while not second.off:
        assert second.cpu.run() is None

    assert (first.printed + second.printed).startswith("." * 20 + "\r\n20 ticks")


def test_state_is_plain_values(boards):
    saved = {"vm": save_vm(boards[0].vm), "cpu": save_vcpu(boards[0].vcpu)}
    for part in ("regs", "sregs", "msrs", "events", "xsave", "lapic", "mp_state"):
        assert part in saved["cpu"]
    assert set(saved["vm"]) == {"irqchips", "pit", "clock"}
    json.dumps(saved, default=bytes.hex)
