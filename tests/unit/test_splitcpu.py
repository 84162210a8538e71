"""PIC pair and IOAPIC in front of local APICs in the kernel: what KVM is told, and when."""

from __future__ import annotations

import threading

import pytest
from test_usercpu import Vcpu

from pykvm.devices.bus import MemoryBus, PortBus
from pykvm.errors import HostError
from pykvm.kvm import run
from pykvm.kvm.abi import KVM_EXIT_IOAPIC_EOI, KVM_EXIT_IRQ_WINDOW_OPEN
from pykvm.machine.interrupts import IsaLines
from pykvm.machine.splitcpu import SplitControllers, SplitInterruptCpu

IOREGSEL, IOWIN = 0xFEC0_0000, 0xFEC0_0010
LOGICAL, LEVEL, MASK = 1 << 11, 1 << 15, 1 << 16


class Vm:
    def __init__(self, able=True):
        self.able, self.takes = able, True
        self.pins, self.sent, self.routes, self.changes = 0, [], [], 0

    def capability(self, name):
        return name == "KVM_CAP_SPLIT_IRQCHIP" and self.able

    def split_irqchip(self, pins):
        self.pins = pins

    def signal_msi(self, address, data):
        self.sent.append((address, data))
        return self.takes

    def set_msi_routes(self, routes):
        self.routes, self.changes = routes, self.changes + 1


class Machine:
    def __init__(self):
        self.vm, self.vcpu, self.lock = Vm(), Vcpu(), threading.Lock()
        self.ports, self.mmio, self.kicks = PortBus(), MemoryBus(), 0
        controllers = SplitControllers(self.vm, self.ports, self.mmio, {})
        self.lines = IsaLines(controllers.input)
        self.cpu = SplitInterruptCpu(self.vcpu, self.ports, self.mmio, None, self.lock)
        self.cpu.kick = self.kick
        self.cpu.connect(controllers)
        self.u8 = self.vcpu.page.u8
        for port, value in ((0x20, 0x11), (0x21, 0x30), (0x21, 4), (0x21, 1)):
            self.ports.write(port, 1, value)

    def kick(self):
        self.kicks += 1

    def route(self, pin, low, high=0):
        for register, value in ((0x11 + 2 * pin, high), (0x10 + 2 * pin, low)):
            self.mmio.write(IOREGSEL, 4, register)
            self.mmio.write(IOWIN, 4, value)

    def plays(self, *steps):
        self.vcpu.steps = [*steps, lambda: None]
        self.vcpu.events.clear()
        assert self.cpu.run() is None
        return self.vcpu.events

    def ready(self):
        self.u8[run.READY_FOR_INTERRUPT_INJECTION] = 1
        return KVM_EXIT_IRQ_WINDOW_OPEN

    def eoi(self, vector):
        def step():
            self.u8[run.EOI_VECTOR] = vector
            return KVM_EXIT_IOAPIC_EOI

        return step


@pytest.fixture
def machine():
    return Machine()


def test_a_kvm_that_cannot_split_is_an_error_of_the_key():
    with pytest.raises(HostError) as caught:
        SplitControllers(Vm(able=False), PortBus(), MemoryBus(), {})
    assert (caught.value.where, caught.value.status) == ("interrupts", 69)


def test_an_edge_is_a_message_to_the_kernel_and_needs_no_route(machine):
    assert machine.vm.pins == 24
    machine.route(4, 0x41 | LOGICAL, 2 << 24)
    machine.lines.line(4).set(True)
    assert machine.vm.sent == [(0xFEE0_2004, 0x41)]
    assert machine.vm.changes == 0


def test_a_level_has_its_route_and_comes_again_after_the_exit_for_its_eoi(machine):
    machine.route(9, 0x49 | LEVEL)
    message = (0xFEE0_0000, 0xC049)
    assert machine.vm.routes == [(9, *message)]
    machine.lines.line(9).set(True)
    assert machine.vm.sent == [message]
    machine.plays(machine.eoi(0x48))
    assert machine.vm.sent == [message]
    machine.plays(machine.eoi(0x49))
    assert machine.vm.sent == [message] * 2


def test_a_level_that_no_apic_took_waits_for_no_eoi(machine):
    machine.vm.takes = False
    machine.route(9, 0x49 | LEVEL)
    machine.lines.line(9).set(True)
    machine.vm.takes = True
    machine.route(9, 0x49 | LEVEL)
    assert len(machine.vm.sent) >= 2


def test_masking_leaves_the_route_and_an_edge_takes_it_away(machine):
    machine.route(9, 0x49 | LEVEL)
    machine.route(9, 0x49 | LEVEL | MASK)
    machine.route(9, 0x49 | LEVEL)
    assert (machine.vm.changes, len(machine.vm.routes)) == (1, 1)
    machine.route(9, 0x49)
    assert machine.vm.routes == []


def test_the_pics_vector_is_given_where_the_guest_can_take_it(machine):
    machine.lines.line(4).set(True)
    assert machine.kicks == 1
    asked = []

    def window():
        asked.append(machine.u8[run.REQUEST_INTERRUPT_WINDOW])
        return machine.ready()

    def after():
        asked.append(machine.u8[run.REQUEST_INTERRUPT_WINDOW])
        return KVM_EXIT_IRQ_WINDOW_OPEN

    assert machine.plays(window, after) == ["run", 0x34, "run", "run"]
    assert asked == [1, 0]


def test_a_request_of_the_pics_that_went_away_is_not_given(machine):
    line = machine.lines.line(4)
    line.set(True)
    line.set(False)
    assert machine.plays(machine.ready, machine.ready) == ["run"] * 3
    assert machine.u8[run.REQUEST_INTERRUPT_WINDOW] == 0
