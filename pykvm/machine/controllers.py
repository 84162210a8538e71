"""The interrupt controllers that are pykvm's own: PIC pair, IOAPIC and local APICs, wired as on a PC::

    devices ─ input(n) ─┬► PIC pair ─ INTR ─► LINT0 of each local APIC ─┐
                        └► IOAPIC ─ messages ─► local APIC of CPU n ────┴─► CPU n

They serve the back ends that have none in the kernel: the translator, and KVM with `interrupts: user`.
Where only the local APICs are in the kernel (splitcpu.py), the ``Chips`` alone do.

Source: MultiProcessor Specification §3.6.2 (PIC mode's successor, virtual wire mode, and its wiring).
"""

from __future__ import annotations

from pykvm.devices import ioapic, pic
from pykvm.devices.apicbus import ApicBus
from pykvm.devices.ioapic import IoApic
from pykvm.devices.lapic import LocalApic
from pykvm.devices.pic import PicPair
from pykvm.machine.interrupts import IRQ_PIT, PIT_PIN
from pykvm.memory import layout
from pykvm.x86 import cpuid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pykvm.devices.apicbus import Deliver
    from pykvm.devices.bus import MemoryBus, PortBus
    from pykvm.devices.device import Clock, Device, Line
    from pykvm.devices.lapic import Core

ISA_INPUTS = 16
"""Interrupts 0 to 15 go into the PIC pair as well, those of PCI into the IOAPIC alone."""


class Chips:
    """PIC pair and IOAPIC, attached to the buses and entered in ``devices``.

    ``deliver`` takes the IOAPIC's messages, ``intr`` is what the PIC pair's output goes to.
    """

    def __init__(
        self, ports: PortBus, mmio: MemoryBus, devices: dict[str, Device], deliver: Deliver, intr: Line
    ) -> None:
        self.pic = PicPair(intr)
        self.ioapic = IoApic(deliver)
        for port, count, offset in pic.PLACES:
            ports.attach(self.pic, port, count, offset=offset, name="pic")
        mmio.attach(self.ioapic, layout.IOAPIC, ioapic.IOAPIC_SIZE, name="ioapic")
        devices["pic"] = self.pic
        devices["ioapic"] = self.ioapic

    def input(self, irq: int) -> Line:
        """Where interrupt ``irq`` goes in; the PIT's is input 2 of the IOAPIC."""
        lines = [self.ioapic.line(PIT_PIN if irq == IRQ_PIT else irq)]
        if irq < ISA_INPUTS:
            lines.append(self.pic.line(irq))
        return Fork(lines)


class Controllers:
    """All of a machine's, attached to its buses and entered in ``devices``, by which they are saved."""

    def __init__(self, clock: Clock, ports: PortBus, mmio: MemoryBus, devices: dict[str, Device]) -> None:
        self._clock = clock
        self._devices = devices
        self._bus = ApicBus()
        self.chips = Chips(ports, mmio, devices, self._bus.deliver, self)
        self._bus.on_eoi = self.chips.ioapic.eoi
        self._apics: list[LocalApic] = []
        self.input = self.chips.input

    def set(self, level: bool) -> None:
        """INTR of the PIC pair goes to LINT0 of all local APICs."""
        for apic in self._apics:
            apic.lint0.set(level)

    def add_apic(
        self,
        index: int,
        core: Core,
        entries: Sequence[dict[str, int]],
        tsc: Callable[[], int],
        tsc_hz: int,
    ) -> LocalApic:
        """The local APIC of CPU ``index``; ``entries`` is what CPUID tells on it."""
        apic = LocalApic(
            index,
            core,
            self._bus,
            self._clock,
            tsc,
            tsc_hz,
            self.chips.pic.acknowledge,
            bootstrap=index == 0,
            x2apic=cpuid.has(entries, "x2apic"),
            physical_bits=cpuid.physical_bits(entries),
        )
        self._bus.attach(apic)
        self._apics.append(apic)
        self._devices[f"lapic-{index}"] = apic
        return apic


class Fork:
    """One output into several inputs."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self._lines = lines

    def set(self, level: bool) -> None:
        for line in self._lines:
            line.set(level)
