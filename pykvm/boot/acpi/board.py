"""The board that the tables describe."""

from __future__ import annotations

from pykvm.devices import pvpanic
from pykvm.frozen import frozen
from pykvm.memory.layout import IOAPIC, PCI_HOLE


@frozen
class Board:
    """What differs from one machine to another. The rest of a PC is where a PC has it.

    CPU n has APIC id n and ACPI processor UID n.
    """

    cpus: int = 1
    max_cpus: int = 1  # those from ``cpus`` on are told as absent, to be plugged in
    serials: tuple[tuple[int, int], ...] = ()  # port and IRQ, COM1 first
    pci_hole: tuple[int, int] = (PCI_HOLE, IOAPIC)  # addresses below 4 GiB for BARs: from, to
    pci_hole_high: tuple[int, int] | None = None  # and above 4 GiB
    pit: bool = True
    hpet: bool = False
    mouse: bool = False
    pvpanic: int | None = pvpanic.PORT
