"""Interrupt numbers of the board, and the lines that carry them into the interrupt controllers.

On a PC an ISA interrupt n is input n of the PIC pair and input n of the IOAPIC, but for the PIT's:
it is input 2 there. The ACPI tables say the same. What KVM calls a GSI is the number of a line, which
its routes carry to one or both of the controllers.
"""

from __future__ import annotations

from pykvm.config.ports import SERIAL_PORTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.devices.device import Line
    from pykvm.kvm.vm import Vm

IRQ_PIT = 0
IRQ_KEYBOARD = 1
IRQ_RTC = 8
IRQ_SCI = 9
HPET_ROUTES = (10, 11)  # interrupts of a PC that are free: what an HPET's comparator may choose
IRQ_MOUSE = 12
PIT_PIN = 2  # of the IOAPIC
# name: (first port, IRQ), as every PC has them
COM_IRQS = {"com1": 4, "com2": 3, "com3": 4, "com4": 3}
COM_PORTS = {name: (port, COM_IRQS[name]) for name, port in SERIAL_PORTS.items()}

# GSI, controller, pin: the ISA lines to both controllers, those of PCI to the IOAPIC alone.
ROUTES = [
    *((irq, "KVM_IRQCHIP_PIC_MASTER", irq) for irq in range(8) if irq != 2),  # 2 is the cascade
    *((irq, "KVM_IRQCHIP_PIC_SLAVE", irq - 8) for irq in range(8, 16)),
    (IRQ_PIT, "KVM_IRQCHIP_IOAPIC", PIT_PIN),
    *((gsi, "KVM_IRQCHIP_IOAPIC", gsi) for gsi in range(1, 24) if gsi != PIT_PIN),
]


class KvmLine:
    """An input of KVM's in-kernel controllers. Only a change of level is told to KVM."""

    def __init__(self, vm: Vm, gsi: int) -> None:
        self._vm = vm
        self._gsi = gsi
        self._level = False

    def set(self, level: bool) -> None:
        if level != self._level:
            self._level = level
            self._vm.irq_line(self._gsi, level)


class SharedLine:
    """One of several outputs on the same input: the input is high while any output is."""

    def __init__(self, line: Line, levels: set[object]) -> None:
        self._line = line
        self._levels = levels

    def set(self, level: bool) -> None:
        if level:
            self._levels.add(self)
        else:
            self._levels.discard(self)
        self._line.set(bool(self._levels))


class Switched:
    """An output that can be cut off from its input, which then is low."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._level = False
        self._cut = False

    def set(self, level: bool) -> None:
        self._level = level
        if not self._cut:
            self._line.set(level)

    def cut(self, off: bool) -> None:
        self._cut = off
        self._line.set(self._level and not off)


class IsaLines:
    """Hands out the ISA interrupt lines of a machine; a number asked for twice is shared.

    ``input_of`` gives the controllers' input that interrupt n goes into, and is asked once for each.
    """

    def __init__(self, input_of: Callable[[int], Line]) -> None:
        self._input_of = input_of
        self._inputs: dict[int, tuple[Line, set[object]]] = {}

    def line(self, irq: int) -> Line:
        """A new output on ISA interrupt ``irq``."""
        if irq not in self._inputs:
            self._inputs[irq] = self._input_of(irq), set()
        return SharedLine(*self._inputs[irq])
