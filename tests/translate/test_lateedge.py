"""A serial port's interrupt while the CPU takes none: it is there when it can be, and gone with its cause."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from pykvm.devices import lapicregisters as reg
from pykvm.devices.bus import MemoryBus, PortBus
from pykvm.devices.serial import Serial
from pykvm.devices.serialregisters import (
    FCR,
    FCR_ENABLE,
    IER,
    IER_ETBEI,
    IIR,
    IIR_FIFOS,
    IIR_NONE,
    IIR_THR_EMPTY,
    MCR,
    MCR_OUT2,
    THR,
)  # fmt: skip
from pykvm.machine.controllers import Controllers
from pykvm.memory import layout
from pykvm.translate.context import SLOT
from pykvm.translate.lateedge import LateEdges

IRQ, VECTOR = 4, 0x41
IRR_ROW = reg.ISR + 0x80 * 2 + 0x10 * (VECTOR // 32)  # ISR, TMR, IRR
W_PENDING, W_IF = SLOT["pending"] // 8, SLOT["interrupt_flag"] // 8
SELECT, WINDOW = layout.IOAPIC, layout.IOAPIC + 0x10
ENTRY = 0x10 + 2 * IRQ
NMI_MODE, MASKED = 4 << 8, 1 << 16
PIC_DATA = 0x21


class Sink:
    def put(self, byte: int) -> bool:
        return True


class Cpu:
    """What the edges ask of the translator's CPU."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.late: LateEdges | None = None
        self.core = SimpleNamespace(words=[0] * 256, apic=None)
        self.nmis = 0

    def changed(self) -> None:
        apic: Any = self.core.apic
        late = self.late is not None and bool(self.late.waiting)
        self.core.words[W_PENDING] = int(apic is not None and (apic.has_interrupt() or late))

    def nmi(self) -> None:
        self.nmis += 1

    def init(self) -> None: ...

    def start(self, vector: int) -> None: ...


class Machine:
    """A serial port whose interrupt goes to a CPU by the IOAPIC; the PIC pair's inputs are masked."""

    def __init__(self) -> None:
        clock: Any = SimpleNamespace(now=lambda: 0, wall=lambda: 0, call_at=None)
        self.ports, self.mmio, self.cpu = PortBus(), MemoryBus(), Cpu()
        controllers = Controllers(clock, self.ports, self.mmio, {})
        late = LateEdges(controllers.chips.pic, controllers.chips.ioapic)
        self.uart = Serial(late.line(controllers.input(IRQ), IRQ), Sink())
        cpu: Any = self.cpu
        self.apic = self.cpu.core.apic = controllers.add_apic(0, cpu, [], lambda: 0, 10**9)
        late.connect(cpu)
        self.late = late
        self.apic.write(reg.SVR, 4, reg.SVR_ENABLE | 0xFF)
        self.route(VECTOR)
        for word, value in enumerate((0x11, 0x20, 4, 1)):
            self.ports.write(0x20 + (word > 0), 1, value)
        self.ports.write(PIC_DATA, 1, 0xFF)
        for register, value in ((FCR, FCR_ENABLE), (MCR, MCR_OUT2)):
            self.uart.write(register, 1, value)

    def route(self, low: int) -> None:
        self.mmio.write(SELECT, 4, ENTRY)
        self.mmio.write(WINDOW, 4, low)

    @property
    def requested(self) -> bool:
        """Without looking by a register, which would have it sent."""
        return bool(self.apic._vectors._irr >> VECTOR & 1)

    def take(self) -> int:
        """The CPU sets IF and takes what there is."""
        assert self.cpu.core.words[W_PENDING], "nothing would make it look"
        self.late.settle()
        return self.apic.acknowledge()

    def handler(self) -> None:
        """What Linux's does to the end of what it had to send."""
        assert self.uart.read(IIR, 1) == IIR_THR_EMPTY | IIR_FIFOS
        for byte in b"abc":
            self.uart.write(THR, 1, byte)
        self.uart.write(IER, 1, 0)
        assert self.uart.read(IIR, 1) == IIR_NONE | IIR_FIFOS
        self.apic.write(reg.EOI, 4, 0)


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_a_handler_that_sends_its_last_bytes_is_not_called_again(machine):
    machine.uart.write(IER, 1, IER_ETBEI)
    assert machine.take() == VECTOR
    machine.handler()
    assert not machine.requested
    assert not machine.cpu.core.words[W_PENDING]


def test_one_that_has_more_to_send_is(machine):
    machine.uart.write(IER, 1, IER_ETBEI)
    assert machine.take() == VECTOR
    assert machine.uart.read(IIR, 1) == IIR_THR_EMPTY | IIR_FIFOS
    machine.uart.write(THR, 1, 0x61)
    machine.apic.write(reg.EOI, 4, 0)
    assert machine.take() == VECTOR
    assert machine.uart.read(IIR, 1) == IIR_THR_EMPTY | IIR_FIFOS


def test_with_interrupts_on_it_comes_at_once(machine):
    machine.cpu.core.words[W_IF] = 1
    machine.uart.write(IER, 1, IER_ETBEI)
    assert machine.requested


def test_from_another_thread_it_comes_at_once(machine):
    """Which can't know whether IF is clear."""
    thread = threading.Thread(target=machine.uart.write, args=(IER, 1, IER_ETBEI))
    thread.start()
    thread.join()
    assert machine.requested


def test_the_pic_pair_gets_it_at_once(machine):
    machine.ports.write(PIC_DATA, 1, 0xFF & ~(1 << IRQ))
    machine.uart.write(IER, 1, IER_ETBEI)
    assert machine.requested


def test_as_an_nmi_it_comes_at_once(machine):
    machine.route(NMI_MODE)
    machine.uart.write(IER, 1, IER_ETBEI)
    assert machine.cpu.nmis == 1


def test_an_edge_on_a_masked_input_is_lost_as_ever(machine):
    machine.route(VECTOR | MASKED)
    machine.uart.write(IER, 1, IER_ETBEI)
    machine.route(VECTOR)
    machine.late.settle()
    assert not machine.requested


def test_who_reads_irr_sees_it(machine):
    machine.uart.write(IER, 1, IER_ETBEI)
    assert machine.apic.read(IRR_ROW, 4) >> VECTOR % 32 & 1


def test_who_polls_the_pic_pair_sees_it(machine):
    machine.uart.write(IER, 1, IER_ETBEI)
    assert machine.ports.read(0x20, 1) & 1 << IRQ  # IRR, of masked inputs, too


def test_who_masks_the_input_comes_after_it(machine):
    machine.uart.write(IER, 1, IER_ETBEI)
    machine.route(VECTOR | MASKED)
    assert machine.requested


def test_who_unmasks_the_pic_pair_s_input_finds_it_there(machine):
    machine.uart.write(IER, 1, IER_ETBEI)
    machine.ports.write(PIC_DATA, 1, 0xFF & ~(1 << IRQ))
    assert machine.apic.acknowledge() == 0x20 + IRQ
