"""The MP tables: CPUs, buses, the IOAPIC and its wires, for kernels from before ACPI.

The floating pointer lies in the first KiB of the extended BIOS data area, which is the last of base memory
too: two of the places where a kernel looks for it (§4).

Source: Intel MultiProcessor Specification 1.4 §4. Fields bear the manual's names.
"""

from __future__ import annotations

import struct

from pykvm.devices import pit, power
from pykvm.devices.ioapic import VERSION
from pykvm.devices.lapicregisters import RESET
from pykvm.devices.lapicregisters import VERSION as LAPIC_VERSION
from pykvm.devices.pci.bus import DEVICES, interrupt_of
from pykvm.memory import layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.boot.acpi.board import Board

POINTER = layout.EBDA + 0x10
"""Where the floating pointer goes: behind the area's first byte, its size, on a 16-byte boundary."""

# Signature, Physical Address Pointer, Length (in 16 bytes), Spec_Rev, Checksum, MP Feature Bytes 1 to 5
FLOATING_POINTER = struct.Struct("<4sIBBB5B")
# Signature, Base Table Length, Spec_Rev, Checksum, OEM ID, Product ID, OEM Table Pointer and Size, Entry
# Count, Address of Local APIC, Extended Table Length and Checksum, reserved
HEADER = struct.Struct("<4sHBB8s12sIHHIHBx")
CHECKSUM_AT = 7
POINTER_CHECKSUM_AT = 10
SPEC_REV = 4  # 1.4
OEM_ID, PRODUCT_ID = b"PYKVM   ", b"PC          "

# Entries (table 4-3): type, then
PROCESSOR = struct.Struct("<BBBBIIII")  # APIC id, version, flags, signature, features, two reserved
BUS = struct.Struct("<BB6s")  # id, type string
IO_APIC = struct.Struct("<BBBBI")  # id, version, flags, address
INTERRUPT = struct.Struct("<BBHBBBB")  # type, flags, source bus, source irq, destination id, its input
PROCESSOR_ENTRY, BUS_ENTRY, IO_APIC_ENTRY, IO_INTERRUPT, LOCAL_INTERRUPT = range(5)
ENABLED, BOOTSTRAP = 1 << 0, 1 << 1
INT, NMI, SMI, EXTINT = range(4)
CONFORMS = 0  # to the bus: for ISA a rising edge
LEVEL_ACTIVE_HIGH = 3 << 2 | 1
PCI, ISA = 0, 1  # ids of the buses: PCI's are those of configuration space
ALL_APICS = 0xFF
IO_APIC_ID = (
    0  # after power-up: "it is the responsibility of the operating system" to make it unique (§3.6.6)
)
SIGNATURE, FEATURES = 0x600, 0x201  # family 6; an FPU and an APIC: kernels ask CPUID for the rest
PIT_PIN, CASCADE = 2, 2
ISA_INTERRUPTS = 16


def build(board: Board, base: int) -> tuple[bytes, bytes]:
    """The floating pointer, to lie at POINTER, and the configuration table, to lie at ``base``."""
    entries = [*_processors(board), *_wires()]
    body = b"".join(entries)
    header = HEADER.pack(
        b"PCMP",
        HEADER.size + len(body),
        SPEC_REV,
        0,
        OEM_ID,
        PRODUCT_ID,
        0,
        0,
        len(entries),
        layout.LAPIC,
        0,
        0,
    )
    table = bytearray(header + body)
    table[CHECKSUM_AT] = -sum(table) & 0xFF
    pointer = bytearray(FLOATING_POINTER.pack(b"_MP_", base, 1, SPEC_REV, 0, *bytes(5)))
    pointer[POINTER_CHECKSUM_AT] = -sum(pointer) & 0xFF
    return bytes(pointer), bytes(table)


def _processors(board: Board) -> list[bytes]:
    version = RESET[LAPIC_VERSION] & 0xFF
    return [
        PROCESSOR.pack(
            PROCESSOR_ENTRY,
            number,
            version,
            (ENABLED if number < board.cpus else 0) | (0 if number else BOOTSTRAP),
            SIGNATURE,
            FEATURES,
            0,
            0,
        )
        for number in range(board.max_cpus)
    ]


def _wires() -> list[bytes]:
    rows = [
        BUS.pack(BUS_ENTRY, PCI, b"PCI   "),
        BUS.pack(BUS_ENTRY, ISA, b"ISA   "),
        IO_APIC.pack(IO_APIC_ENTRY, IO_APIC_ID, VERSION, ENABLED, layout.IOAPIC),
    ]
    for irq in range(ISA_INTERRUPTS):
        if irq != CASCADE:
            flags = LEVEL_ACTIVE_HIGH if irq == power.SCI_IRQ else CONFORMS
            pin = PIT_PIN if irq == pit.PIT_IRQ else irq
            rows.append(INTERRUPT.pack(IO_INTERRUPT, INT, flags, ISA, irq, IO_APIC_ID, pin))
    for device in range(DEVICES):
        for line in range(4):
            # §D.3: the device in bits 2 to 6, the pin in bits 0 and 1
            source, pin = device << 2 | line, interrupt_of(device, line)
            rows.append(INTERRUPT.pack(IO_INTERRUPT, INT, LEVEL_ACTIVE_HIGH, PCI, source, IO_APIC_ID, pin))
    rows.append(INTERRUPT.pack(LOCAL_INTERRUPT, EXTINT, CONFORMS, ISA, 0, ALL_APICS, 0))
    rows.append(INTERRUPT.pack(LOCAL_INTERRUPT, NMI, CONFORMS, ISA, 0, ALL_APICS, 1))
    return rows
