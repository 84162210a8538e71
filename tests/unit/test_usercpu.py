"""How a vCPU without controllers in the kernel gets its interrupts: the run page, and the order of things."""

from __future__ import annotations

import threading
from errno import EINTR

import pytest
from doubles import Clock

from pykvm.devices import lapicregisters as reg
from pykvm.devices.bus import MemoryBus, PortBus
from pykvm.kvm import abi, run
from pykvm.kvm.abi import KVM_EXIT_HLT, KVM_EXIT_IRQ_WINDOW_OPEN, KVM_EXIT_MMIO, KVM_EXIT_SET_TPR
from pykvm.machine.controllers import Controllers
from pykvm.machine.interrupts import IsaLines
from pykvm.machine.usercpu import UserInterruptCpu
from pykvm.x86 import entry

LONG = 60
NO_CPUID = [dict.fromkeys(("eax", "ebx", "ecx", "edx"), 0) | {"function": 0, "index": 0, "flags": 0}]


class Page:
    def __init__(self):
        self.u8 = memoryview(bytearray(4096))
        self.u16, self.u32, self.u64 = (self.u8.cast(letter) for letter in "HIQ")
        self.u64[run.APIC_BASE] = entry.APIC_BASE


class Vcpu:
    """Each KVM_RUN plays the next step of ``steps``: what happens in the guest, and the exit's reason."""

    index = 0

    def __init__(self):
        self.page = Page()
        self.steps = []
        self.events = []
        self.sregs_set = {}

    def left(self):
        return EINTR

    def enter(self):
        return -1 if self.run() else 0

    def run(self):
        if self.page.u8[run.IMMEDIATE_EXIT]:
            return EINTR
        self.events.append("run")
        reason = self.steps.pop(0)()
        if reason is None:
            return EINTR
        self.page.u32[run.EXIT_REASON] = reason
        return 0

    def interrupt(self, vector):
        self.events.append(vector)

    def nmi(self):
        self.events.append("nmi")

    def set_sregs(self, values):
        self.sregs_set.update(values)

    def set_regs(self, values):
        self.regs = values

    def set_events(self, values):
        self.events.append("cleared")


class Machine:
    """One CPU, whose steps a test sets with ``plays``."""

    def __init__(self):
        self.vcpu, self.lock = Vcpu(), threading.Lock()
        mmio = MemoryBus()
        self.controllers = Controllers(Clock(), PortBus(), mmio, {})
        self.lines = IsaLines(self.controllers.input)
        self.cpu = UserInterruptCpu(self.vcpu, PortBus(), mmio, None, self.lock)
        self.apic = self.controllers.add_apic(0, self.cpu, NO_CPUID, lambda: 0, 1)
        self.cpu.connect(self.apic)
        self.apic.write(reg.SVR, 4, 0x1FF)
        self.kicks = 0
        self.cpu.kick = self.kick
        self.u8, self.u64 = self.vcpu.page.u8, self.vcpu.page.u64

    def kick(self):
        self.kicks += 1
        self.cpu.wake()

    def send(self, vector):
        """An interrupt comes, from whatever thread this is."""
        with self.lock:
            assert self.apic.accept(0, vector, False)

    def plays(self, *steps):
        """Run the guest through ``steps``; the first runs may end by kicks from before."""
        self.vcpu.steps = [*steps, lambda: None]
        self.vcpu.events.clear()
        for _ in range(10):
            if self.vcpu.steps:
                assert self.cpu.run() is None
        assert self.vcpu.steps == []
        return self.vcpu.events

    def ready(self, reason=KVM_EXIT_IRQ_WINDOW_OPEN):
        """A step after which the guest can take an interrupt."""

        def step():
            self.u8[run.READY_FOR_INTERRUPT_INJECTION] = self.u8[run.IF_FLAG] = 1
            return reason

        return step


@pytest.fixture
def machine():
    return Machine()


def in_thread(action):
    thread = threading.Thread(target=action)
    thread.start()
    thread.join(LONG)
    assert not thread.is_alive()


def test_an_interrupt_waits_for_the_window_that_was_asked_for(machine):
    machine.send(0x40)
    windows = []

    def opens():
        windows.append(machine.u8[run.REQUEST_INTERRUPT_WINDOW])
        return machine.ready()()

    def runs_on():
        windows.append(machine.u8[run.REQUEST_INTERRUPT_WINDOW])
        return KVM_EXIT_IRQ_WINDOW_OPEN

    assert machine.plays(opens, runs_on) == ["run", 0x40, "run", "run"]
    assert windows == [1, 0]


def test_of_two_interrupts_one_is_given_at_a_time_and_a_window_asked_for_the_other(machine):
    machine.send(0x40)
    machine.send(0x51)
    windows = []

    def serves():
        windows.append(machine.u8[run.REQUEST_INTERRUPT_WINDOW])
        machine.apic.write(reg.EOI, 4, 0)
        return KVM_EXIT_IRQ_WINDOW_OPEN

    events = machine.plays(machine.ready(), serves, machine.ready(), serves)
    assert events == ["run", 0x51, "run", "run", 0x40, "run", "run"]
    assert windows == [0, 0]  # while 0x51 is served 0x40 is not to come; the EOI changes that


def test_a_request_that_goes_before_it_is_taken_is_not_given(machine):
    line = machine.lines.line(4)

    def falls():
        with machine.lock:
            line.set(True)
            line.set(False)
        return machine.ready()()

    assert machine.plays(falls) == ["run", "run"]


def test_halted_it_sleeps_until_an_interrupt_comes_and_needs_no_kick(machine):
    asleep = threading.Event()
    clear = machine.cpu._news.clear

    def cleared():
        clear()
        asleep.set()

    machine.cpu._news.clear = cleared
    machine.vcpu.steps = [machine.ready(KVM_EXIT_HLT), lambda: None]
    thread = threading.Thread(target=machine.cpu.run)
    thread.start()
    assert asleep.wait(LONG)
    machine.send(0x40)
    thread.join(LONG)
    assert not thread.is_alive()
    assert machine.vcpu.events == ["run", 0x40, "run"]
    assert machine.kicks == 0


def test_a_kick_ends_the_sleep_which_goes_on_at_the_next_run(machine):
    machine.vcpu.steps = [machine.ready(KVM_EXIT_HLT)]
    for _ in range(3):
        thread = threading.Thread(target=machine.cpu.run)
        thread.start()
        machine.cpu.wake()
        thread.join(LONG)
        assert not thread.is_alive()
    assert machine.vcpu.events in (["run"], [])  # a kick may come before KVM_RUN
    machine.cpu.wake()
    assert machine.cpu.run() is None


def test_halted_with_interrupts_off_it_is_halted_for_ever_until_an_nmi(machine):
    def halts():
        machine.cpu.wake()  # so that it doesn't sleep
        return KVM_EXIT_HLT

    machine.vcpu.steps = [halts]
    assert machine.cpu.run() is None
    machine.send(0x40)
    assert machine.cpu.halted_for_ever()
    machine.apic.accept(4, 0, False)
    assert not machine.cpu.halted_for_ever()
    assert machine.plays() == ["nmi", "run"]


def test_another_thread_kicks_a_running_guest_and_its_own_does_not(machine):
    def own():
        machine.send(0x40)
        return

    machine.vcpu.steps = [own]
    machine.cpu.run()
    assert machine.kicks == 0
    machine.apic.acknowledge()
    machine.apic.write(reg.EOI, 4, 0)
    machine.vcpu.steps = [lambda: in_thread(lambda: machine.send(0x41))]
    machine.cpu.run()
    assert machine.kicks == 1


def test_cr8_goes_both_ways(machine):
    def lowers():
        assert machine.u64[run.CR8] == 5
        machine.u64[run.CR8] = 3
        return KVM_EXIT_SET_TPR

    machine.apic.write(reg.TPR, 4, 0x5F)
    machine.send(0x44)
    assert machine.plays(machine.ready(), lowers, lambda: KVM_EXIT_SET_TPR) == [
        "run",
        "run",
        0x44,
        "run",
        "run",
    ]
    assert machine.apic.read(reg.TPR, 4) == 0x30


def test_a_task_priority_below_the_class_of_cr8_stays(machine):
    machine.apic.write(reg.TPR, 4, 0x5F)
    machine.plays(machine.ready())
    assert machine.apic.read(reg.TPR, 4) == 0x5F


def test_a_task_priority_by_memory_is_cr8_at_the_next_entry(machine):
    seen = []

    def writes():
        page = machine.vcpu.page
        page.u64[run.MMIO_GPA], page.u32[run.MMIO_LEN] = 0xFEE0_0000 + reg.TPR, 4
        page.u8[run.MMIO_IS_WRITE] = 1
        page.u64[run.MMIO_DATA // 8] = 0x70
        return KVM_EXIT_MMIO

    def looks():
        seen.append(machine.u64[run.CR8])
        return KVM_EXIT_SET_TPR

    machine.plays(looks, looks, writes, looks, looks)
    assert seen == [0, 0, 7, 7]


def test_its_registers_are_where_the_base_says_also_when_they_were_used_before(machine):
    def writes(page_at, value):
        def step():
            page = machine.vcpu.page
            page.u64[run.MMIO_GPA], page.u32[run.MMIO_LEN] = page_at + reg.TPR, 4
            page.u8[run.MMIO_IS_WRITE] = 1
            page.u64[run.MMIO_DATA // 8] = value
            return KVM_EXIT_MMIO

        return step

    def moves():
        machine.u64[run.APIC_BASE] = 0xFED5_0900
        return KVM_EXIT_IRQ_WINDOW_OPEN

    old, new = 0xFEE0_0000, 0xFED5_0000
    machine.plays(writes(old, 0x20), writes(new, 0x30))
    assert machine.apic.cr8 == 2
    machine.plays(moves, writes(old, 0x40))
    assert machine.apic.cr8 == 2
    machine.plays(writes(new, 0x50))
    assert machine.apic.cr8 == 5


def test_a_window_is_asked_for_as_long_as_an_interrupt_waits(machine):
    seen = []

    def looks():
        seen.append(machine.u8[run.REQUEST_INTERRUPT_WINDOW])
        machine.u8[run.READY_FOR_INTERRUPT_INJECTION] = 0
        return KVM_EXIT_SET_TPR

    machine.plays(looks)
    machine.send(0x40)
    assert machine.plays(looks, looks, machine.ready(), looks)[-3:] == [0x40, "run", "run"]
    assert seen == [0, 1, 1, 0]


def test_a_cpu_that_init_stops_sleeps_until_its_sipi_and_takes_kicks(machine):
    second = UserInterruptCpu(Vcpu(), PortBus(), MemoryBus(), None, machine.lock)
    second.connect(machine.controllers.add_apic(1, second, NO_CPUID, lambda: 0, 1))
    for _ in range(3):  # not yet started: a kick ends the sleep, and the next run sleeps again
        second.wake()
        assert second.run() is None
    assert second._vcpu.events == []
    with machine.lock:
        second._apic.accept(6, 0x12, False)
    second._vcpu.steps = [lambda: None]
    while second._vcpu.steps:
        assert second.run() is None
    assert second._vcpu.events == ["cleared", "run"]
    assert second._vcpu.sregs_set["cs"]["base"] == 0x12000
    with machine.lock:
        second._apic.accept(5, 0, False)
    for _ in range(3):
        second.wake()
        assert second.run() is None
    assert second._vcpu.events == ["cleared", "run", "cleared"]


def test_the_page_follows_the_base_that_kvm_tells_of(machine):
    def moves():
        machine.u64[run.APIC_BASE] = 0xFED5_0900
        return KVM_EXIT_IRQ_WINDOW_OPEN

    assert machine.vcpu.sregs_set["apic_base"] == entry.APIC_BASE
    machine.plays(moves)
    assert machine.apic.page == 0xFED5_0000


def test_after_init_the_first_cpu_starts_at_the_reset_vector(machine):
    machine.apic.accept(5, 0, False)
    assert machine.plays()[0] == "cleared"
    assert machine.vcpu.regs["rip"] == 0xFFF0
    assert (machine.vcpu.sregs_set["cs"]["selector"], machine.vcpu.sregs_set["cs"]["base"]) == (
        0xF000,
        0xFFFF_0000,
    )
    assert machine.vcpu.sregs_set["apic_base"] == entry.APIC_BASE


@pytest.mark.parametrize("reason", [abi.KVM_EXIT_SHUTDOWN, abi.KVM_EXIT_FAIL_ENTRY])
def test_other_exits_end_it_as_they_do_with_controllers_in_the_kernel(machine, reason):
    machine.vcpu.steps = [lambda: reason]
    assert machine.cpu.run().outcome == "crash"
