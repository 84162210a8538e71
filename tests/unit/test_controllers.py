"""The wiring of pykvm's own interrupt controllers, as a kernel finds it by ports, pages and interrupts."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from doubles import Clock
from host_doubles import entries_of

from pykvm.config import load
from pykvm.devices import lapicregisters as reg
from pykvm.devices.bus import MemoryBus, PortBus
from pykvm.machine import plan as plans
from pykvm.machine.build import build_translated
from pykvm.machine.controllers import Controllers
from pykvm.machine.interrupts import IRQ_PIT, IsaLines
from pykvm.translate import cpu as translated_cpu
from pykvm.translate import features
from pykvm.x86 import cpuid
from pykvm.x86.cpuid import get

IOREGSEL, IOWIN = 0xFEC0_0000, 0xFEC0_0010
LEVEL, MASKED = 1 << 15, 1 << 16
EXTINT = 7 << 8
TSC_HZ = 2_500_000_000
CRYSTAL_HZ = 1_000_000_000


class Core:
    """A CPU that only its local APIC knows."""

    def __init__(self):
        self.told = 0

    def changed(self):
        self.told += 1

    def nmi(self): ...

    def init(self): ...

    def start(self, vector): ...


class Board:
    """Controllers on buses, with local APICs enabled by software and PICs at vectors 0x30 and 0x38."""

    def __init__(self, cpus=1):
        self.ports, self.mmio, self.devices = PortBus(), MemoryBus(), {}
        self.controllers = Controllers(Clock(), self.ports, self.mmio, self.devices)
        self.lines = IsaLines(self.controllers.input)
        entries = entries_of({"x2apic"})
        self.apics = [
            self.controllers.add_apic(index, Core(), entries, lambda: 0, TSC_HZ) for index in range(cpus)
        ]
        for apic in self.apics:
            apic.write(reg.SVR, 4, 0x1FF)
        for first, vector, cascade in ((0x20, 0x30, 4), (0xA0, 0x38, 2)):
            for port, value in ((first, 0x11), (first + 1, vector), (first + 1, cascade), (first + 1, 1)):
                self.ports.write(port, 1, value)

    def route(self, pin, low):
        for register, value in ((0x11 + 2 * pin, 0), (0x10 + 2 * pin, low)):
            self.mmio.write(IOREGSEL, 4, register)
            self.mmio.write(IOWIN, 4, value)

    def mask_pics(self):
        self.ports.write(0x21, 1, 0xFF)
        self.ports.write(0xA1, 1, 0xFF)

    def take(self, index=0):
        apic = self.apics[index]
        return apic.acknowledge() if apic.has_interrupt() else None


def test_an_isa_interrupt_comes_by_the_pic_to_who_only_knows_that():
    board = Board()
    line = board.lines.line(4)
    assert board.take() is None
    line.set(True)
    assert board.take() == 0x34


def test_an_interrupt_of_the_second_pic_comes_by_the_cascade():
    board = Board()
    board.lines.line(12).set(True)
    assert board.take() == 0x3C


def test_an_isa_interrupt_comes_by_the_ioapic_where_the_pics_are_masked():
    board = Board()
    board.mask_pics()
    board.route(4, 0x41)
    board.lines.line(4).set(True)
    assert board.take() == 0x41
    assert board.take() is None


def test_the_timer_is_input_0_of_the_pic_and_2_of_the_ioapic():
    board = Board()
    line = board.lines.line(IRQ_PIT)
    line.set(True)
    assert board.take() == 0x30
    line.set(False)
    board.mask_pics()
    board.route(0, 0x50)
    board.route(2, 0x52)
    line.set(True)
    assert board.take() == 0x52
    assert board.take() is None


def test_an_interrupt_of_pci_comes_by_the_ioapic_alone():
    board = Board()
    board.route(17, 0x61 | LEVEL)
    board.lines.line(17).set(True)
    assert board.take() == 0x61


def test_a_level_comes_again_after_the_eoi_while_it_stays():
    board = Board()
    board.mask_pics()
    board.route(9, 0x49 | LEVEL)
    line = board.lines.line(9)
    line.set(True)
    assert board.take() == 0x49
    assert board.take() is None
    board.apics[0].write(reg.EOI, 4, 0)
    assert board.take() == 0x49
    line.set(False)
    board.apics[0].write(reg.EOI, 4, 0)
    assert board.take() is None


def test_a_shared_interrupt_stays_while_one_of_its_devices_asks():
    board = Board()
    board.mask_pics()
    board.route(4, 0x44 | LEVEL)
    first, second = board.lines.line(4), board.lines.line(4)
    first.set(True)
    second.set(True)
    assert board.take() == 0x44
    first.set(False)
    board.apics[0].write(reg.EOI, 4, 0)
    assert board.take() == 0x44
    second.set(False)
    board.apics[0].write(reg.EOI, 4, 0)
    assert board.take() is None


def test_intr_goes_to_every_local_apic_and_the_bootstrap_cpu_is_wired_to_take_it():
    board = Board(cpus=2)
    board.lines.line(1).set(True)
    assert [apic.has_interrupt() for apic in board.apics] == [True, False]
    board.apics[1].write(reg.LVT_LINT0, 4, EXTINT)
    assert board.apics[1].has_interrupt()
    assert board.take(1) == 0x31
    assert not board.apics[0].has_interrupt()


def test_the_edge_level_registers_are_there():
    board = Board()
    board.ports.write(0x4D1, 1, 0x0E)
    assert board.ports.read(0x4D1, 1) == 0x0E


def test_all_of_it_is_saved_with_the_devices():
    first, second = Board(cpus=2), Board(cpus=2)
    assert set(first.devices) == {"pic", "ioapic", "lapic-0", "lapic-1"}
    first.route(5, 0x75)
    first.lines.line(5).set(True)
    saved = json.loads(json.dumps({name: device.save() for name, device in first.devices.items()}))
    for name, device in second.devices.items():
        device.load(saved[name])
    assert second.take() == first.take() == 0x35
    second.ports.write(0x20, 1, 0x20)
    first.ports.write(0x20, 1, 0x20)
    assert second.take() == first.take() == 0x75


@pytest.mark.parametrize("tsc_hz", [1_000_000_000, 2_495_998_000, 4_999_990_000, 799_990_000])
def test_the_clocks_of_leaf_0x15_multiply_to_the_tsc(tsc_hz):
    told = cpuid.with_clocks(entries_of({"fpu"}), CRYSTAL_HZ, tsc_hz)
    leaf = get(told, 0x15)
    assert leaf["ecx"] == CRYSTAL_HZ
    assert abs(leaf["ecx"] * leaf["ebx"] / leaf["eax"] - tsc_hz) < tsc_hz / 50_000
    assert leaf["ebx"] * (CRYSTAL_HZ // 1000) < 1 << 32  # as Linux reckons
    assert get(told, 0)["eax"] == 0x15


class StubCpu:
    """What the builder asks of the translator's CPU, noted."""

    made = []

    def __init__(self, index, memory, ports, mmio, lock, entries, *, tsc_hz, cause, shared):
        self.shared = shared
        self.index, self.entries, self.tsc_hz = index, entries, tsc_hz
        self.memory, self.ports, self.mmio, self.lock = memory, ports, mmio, lock
        self.exits = [0]
        self.core = SimpleNamespace(words=[0] * 512)
        self.apic = None
        self.core = SimpleNamespace(apic=None, kept=None, words=[0] * 1024)
        self.thread = 0
        self.loaded = None
        self.closed = 0
        StubCpu.made.append(self)

    def tsc(self):
        return 7

    def connect(self, apic):
        self.apic = self.core.apic = apic

    def load(self, state):
        assert self.apic is not None, "the APIC comes first"
        self.loaded = state

    def changed(self): ...

    def wake(self): ...

    def close(self):
        self.closed += 1


@pytest.fixture
def translated(tmp_path, monkeypatch):
    """Builds a machine of the stub's CPUs from a machine file."""
    monkeypatch.setattr(features, "cpuid", lambda cpus: entries_of({"fpu", "apic", "x2apic"}))
    monkeypatch.setattr(translated_cpu, "TranslatedCpu", StubCpu)
    monkeypatch.setattr(StubCpu, "made", [])
    (tmp_path / "code.bin").write_bytes(b"\xf4")
    open_plans = []

    def make(more=""):
        path = tmp_path / "machine.yaml"
        path.write_text(
            "memory: 1M\nkernel: {image: code.bin, format: flat, entry: real, load: 0x1000}\n"
            "devices: [{serial: {to: none}}]\n" + more
        )
        config = load(str(path))
        plan = plans.make(config, config.kernel)
        open_plans.append(plan)
        return build_translated(plan, TSC_HZ), plan

    yield make
    for plan in open_plans:
        plan.memory.close()


def test_a_translated_machine_has_the_board_and_controllers_of_its_own(translated):
    machine, plan = translated()
    (cpu,) = StubCpu.made
    assert {"pic", "ioapic", "lapic-0", "pit", "speaker", "rtc", "com1", "power"} <= set(machine.devices)
    assert cpu.apic is machine.devices["lapic-0"]
    assert (cpu.memory, cpu.lock, cpu.tsc_hz) == (plan.memory, machine.lock, TSC_HZ)
    assert cpu.loaded == plan.entry.state
    assert cpu.mmio.read(0xFEC0_0000, 4) == 0  # IOREGSEL
    leaf = get(cpu.entries, 0x15)
    assert leaf["ecx"] * leaf["ebx"] // leaf["eax"] == TSC_HZ
    machine.close()
    assert cpu.closed == 1


def test_the_timer_chip_of_a_translated_machine_interrupts_by_the_pic(translated):
    machine, _ = translated()
    (cpu,) = StubCpu.made
    for port, value in ((0x20, 0x11), (0x21, 0x30), (0x21, 4), (0x21, 1)):
        cpu.ports.write(port, 1, value)
    cpu.ports.write(0x43, 1, 0x30)  # counter 0, mode 0: OUT falls now and rises at the end
    assert not cpu.apic.has_interrupt()
    cpu.ports.write(0x43, 1, 0x34)  # mode 2: OUT is high
    assert cpu.apic.acknowledge() == 0x30
    machine.close()


def test_the_cpus_of_a_translated_machine_share_their_code_and_each_has_an_apic(translated):
    machine, plan = translated("cpus: 3\n")
    made = StubCpu.made
    assert [cpu.index for cpu in made] == [0, 1, 2]
    assert [cpu.apic for cpu in made] == [machine.devices[f"lapic-{index}"] for index in range(3)]
    assert len({id(cpu.shared) for cpu in made}) == 1
    assert not made[0].shared.alone
    assert [cpu.loaded for cpu in made] == [plan.entry.state, None, None]
    machine.close()


def test_a_translated_machine_may_have_no_timer_chip(translated):
    machine, _ = translated("pit: none\n")
    assert "pit" not in machine.devices
    machine.close()
