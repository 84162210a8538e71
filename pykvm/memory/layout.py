"""The PC's memory map, as guest-physical addresses.

=====================  ==================================================================
0x0000_0000            RAM: real-mode vectors, boot structures, kernel
0x0009_FC00            extended BIOS data area (reserved)
0x000A_0000            VGA memory, text at 0xB8000: RAM like all other, but reserved; option ROMs
0x000E_0000            tables that a kernel looks for (ACPI, MP): reserved
0x0010_0000            RAM again, up to ``low_end`` (3 GiB at most)
0xC000_0000            the PCI hole: device windows
0xFEC0_0000            IOAPIC
0xFED0_0000            HPET, where the machine has one
0xFEE0_0000            local APIC
0xFEFF_C000            KVM's own four pages on Intel: identity map and TSS
0x1_0000_0000          RAM beyond 3 GiB, up to ``high_end``
=====================  ==================================================================
"""

from __future__ import annotations

PAGE = 0x1000

EBDA = 0x0009_FC00
VGA = 0x000A_0000
TABLES = 0x000E_0000
HIGH_RAM = 0x0010_0000
PCI_HOLE = 0xC000_0000
IOAPIC = 0xFEC0_0000
HPET = 0xFED0_0000
HPET_SIZE = 0x400
LAPIC = 0xFEE0_0000
KVM_IDENTITY_MAP = 0xFEFF_C000
KVM_TSS = 0xFEFF_D000
FOUR_GIB = 0x1_0000_0000


def split(size: int) -> tuple[int, int]:
    """Where RAM of ``size`` bytes ends below and above 4 GiB (0x1_0000_0000: none above)."""
    low_end = min(size, PCI_HOLE)
    return low_end, FOUR_GIB + size - low_end
