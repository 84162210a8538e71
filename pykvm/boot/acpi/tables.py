"""The ACPI tables: RSDP, RSDT and XSDT, FADT, FACS, MADT and DSDT, laid out for the BIOS area.

Source: ACPI 6.5 §5.2. Fields bear the manual's names.
"""

from __future__ import annotations

import struct

from pykvm.boot.acpi.dsdt import namespace
from pykvm.devices import pit, power, rtc
from pykvm.errors import InternalError
from pykvm.frozen import frozen
from pykvm.memory import layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.boot.acpi.board import Board

IOAPIC_ID = 0  # what an IOAPIC's own register says after reset

OEM_ID = b"PYKVM "
OEM_TABLE_ID = b"PYKVMPC "
CREATOR_ID = b"PYKV"
HYPERVISOR_ID = b"PYKVM"

# Signature, Length, Revision, Checksum, OEMID, OEM Table ID, OEM Revision, Creator ID and Revision
HEADER = struct.Struct("<4sIBB6s8sI4sI")
CHECKSUM_AT = 9
ALIGNMENT = 16
FACS_ALIGNMENT = 64

# Signature, Checksum, OEMID, Revision, RsdtAddress, Length, XsdtAddress, Extended Checksum
RSDP = struct.Struct("<8sB6sBIIQB3x")
RSDP_REVISION = 2
RSDP_CHECKSUM_AT = 8
RSDP_CHECKSUM_OF = 20  # bytes, those of ACPI 1.0
RSDP_EXTENDED_CHECKSUM_AT = 32

# Signature, Length, Hardware Signature, Firmware Waking Vector, Global Lock, Flags,
# X Firmware Waking Vector, Version
FACS = struct.Struct("<4sIIIIIQB31x")
FACS_VERSION = 2

# Generic address structure (§5.2.3.2): address space, bit width, bit offset, access size, address.
GAS = struct.Struct("<BBBBQ")
GAS_SYSTEM_MEMORY = 0
GAS_SYSTEM_IO = 1
GAS_BYTE, GAS_WORD, GAS_DWORD = 1, 2, 3

FADT_REVISION, FADT_MINOR = 6, 3
FADT_FIELDS = (
    ("FIRMWARE_CTRL", "I"),
    ("DSDT", "I"),
    ("Reserved", "B"),
    ("Preferred_PM_Profile", "B"),
    ("SCI_INT", "H"),
    ("SMI_CMD", "I"),
    ("ACPI_ENABLE", "B"),
    ("ACPI_DISABLE", "B"),
    ("S4BIOS_REQ", "B"),
    ("PSTATE_CNT", "B"),
    ("PM1a_EVT_BLK", "I"),
    ("PM1b_EVT_BLK", "I"),
    ("PM1a_CNT_BLK", "I"),
    ("PM1b_CNT_BLK", "I"),
    ("PM2_CNT_BLK", "I"),
    ("PM_TMR_BLK", "I"),
    ("GPE0_BLK", "I"),
    ("GPE1_BLK", "I"),
    ("PM1_EVT_LEN", "B"),
    ("PM1_CNT_LEN", "B"),
    ("PM2_CNT_LEN", "B"),
    ("PM_TMR_LEN", "B"),
    ("GPE0_BLK_LEN", "B"),
    ("GPE1_BLK_LEN", "B"),
    ("GPE1_BASE", "B"),
    ("CST_CNT", "B"),
    ("P_LVL2_LAT", "H"),
    ("P_LVL3_LAT", "H"),
    ("FLUSH_SIZE", "H"),
    ("FLUSH_STRIDE", "H"),
    ("DUTY_OFFSET", "B"),
    ("DUTY_WIDTH", "B"),
    ("DAY_ALRM", "B"),
    ("MON_ALRM", "B"),
    ("CENTURY", "B"),
    ("IAPC_BOOT_ARCH", "H"),
    ("Reserved2", "B"),
    ("Flags", "I"),
    ("RESET_REG", "12s"),
    ("RESET_VALUE", "B"),
    ("ARM_BOOT_ARCH", "H"),
    ("FADT_Minor_Version", "B"),
    ("X_FIRMWARE_CTRL", "Q"),
    ("X_DSDT", "Q"),
    ("X_PM1a_EVT_BLK", "12s"),
    ("X_PM1b_EVT_BLK", "12s"),
    ("X_PM1a_CNT_BLK", "12s"),
    ("X_PM1b_CNT_BLK", "12s"),
    ("X_PM2_CNT_BLK", "12s"),
    ("X_PM_TMR_BLK", "12s"),
    ("X_GPE0_BLK", "12s"),
    ("X_GPE1_BLK", "12s"),
    ("SLEEP_CONTROL_REG", "12s"),
    ("SLEEP_STATUS_REG", "12s"),
    ("Hypervisor_Vendor_Identity", "8s"),
)

# FADT: IAPC_BOOT_ARCH (§5.2.9.3). VGA_NOT_PRESENT, bit 2, is clear: every board has one.
LEGACY_DEVICES = 1 << 0
HAS_8042 = 1 << 1

# FADT: Flags (table 5.10). PWR_BUTTON is clear: the power button is a fixed one.
WBINVD = 1 << 0
PROC_C1 = 1 << 2
SLP_BUTTON = 1 << 5  # no fixed sleep button
FIX_RTC = 1 << 6  # no RTC wake status in PM1
TMR_VAL_EXT = 1 << 8
RESET_REG_SUP = 1 << 10

NO_C2_LATENCY = 101  # "a value > 100 indicates the system does not support a C2 state"
NO_C3_LATENCY = 1001

# MADT (§5.2.12): structure types and flags
MADT_REVISION = 5
PCAT_COMPAT = 1  # there are two 8259s besides
PROCESSOR_LOCAL_APIC = 0
IO_APIC = 1
INTERRUPT_SOURCE_OVERRIDE = 2
LOCAL_APIC_NMI = 4
PROCESSOR_LOCAL_X2APIC = 9
LOCAL_X2APIC_NMI = 10
LAPIC_ENABLED = 1 << 0
LAPIC_ONLINE_CAPABLE = 1 << 1
FIRST_X2APIC_ID = 255  # the 8-bit ids end before the broadcast
ISA_BUS = 0
CONFORMS_TO_BUS = 0  # for ISA: rising edge
LEVEL_ACTIVE_HIGH = 3 << 2 | 1
ALL_PROCESSORS, ALL_X2APIC_PROCESSORS = 0xFF, 0xFFFF_FFFF
LINT1 = 1
PIT_GSI = 2


@frozen
class AcpiTables:
    """Tables ready to be laid in memory: ``image`` at guest-physical ``base``."""

    base: int
    image: bytes
    rsdp: int  # guest-physical
    tables: tuple[tuple[str, int, int], ...]  # signature, guest-physical address, length in bytes


def build(board: Board, base: int = layout.TABLES, end: int = layout.HIGH_RAM) -> AcpiTables:
    """The tables of ``board``, from guest-physical ``base`` (a multiple of 64) to ``end`` at most.

    The RSDP comes first; by default it is where a kernel without other hints looks for it, in "the
    BIOS read-only memory space between 0E0000h and 0FFFFFh" (§5.2.5.1). The memory must be reserved
    in the kernel's map and writable: the FACS has a lock in it. Raises InternalError if the tables
    don't fit, or if there are more CPUs than there may be.
    """
    if board.cpus > board.max_cpus:
        raise InternalError(f"{board.cpus} CPUs of {board.max_cpus} at most", where="acpi")
    image = bytearray(FACS_ALIGNMENT)
    tables = [("RSD PTR", base, RSDP.size)]

    def place(table: bytes) -> int:
        image.extend(bytes(-len(image) % ALIGNMENT))
        tables.append((table[:4].decode(), base + len(image), len(table)))
        image.extend(table)
        return tables[-1][1]

    facs = place(FACS.pack(b"FACS", FACS.size, 0, 0, 0, 0, 0, FACS_VERSION))
    dsdt = place(_table(b"DSDT", 2, namespace(board)))
    listed = [place(_fadt(facs, dsdt)), place(_madt(board))]
    if board.hpet:
        listed.append(place(_hpet()))
    rsdt = place(_table(b"RSDT", 1, struct.pack(f"<{len(listed)}I", *listed)))
    xsdt = place(_table(b"XSDT", 1, struct.pack(f"<{len(listed)}Q", *listed)))
    image[: RSDP.size] = _rsdp(rsdt, xsdt)
    if base + len(image) > end:
        raise InternalError(f"tables of {len(image)} bytes at {base:#x} pass {end:#x}", where="acpi")
    return AcpiTables(base=base, image=bytes(image), rsdp=base, tables=tuple(tables))


def _checksum(data: bytes | bytearray) -> int:
    """The byte that makes the sum of all bytes 0."""
    return -sum(data) & 0xFF


def _table(signature: bytes, revision: int, body: bytes) -> bytes:
    """A system description table: the header (§5.2.6) and what it describes."""
    length = HEADER.size + len(body)
    header = HEADER.pack(signature, length, revision, 0, OEM_ID, OEM_TABLE_ID, 1, CREATOR_ID, 1)
    table = bytearray(header + body)
    table[CHECKSUM_AT] = _checksum(table)
    return bytes(table)


def _rsdp(rsdt: int, xsdt: int) -> bytes:
    rsdp = bytearray(RSDP.pack(b"RSD PTR ", 0, OEM_ID, RSDP_REVISION, rsdt, RSDP.size, xsdt, 0))
    rsdp[RSDP_CHECKSUM_AT] = _checksum(rsdp[:RSDP_CHECKSUM_OF])
    rsdp[RSDP_EXTENDED_CHECKSUM_AT] = _checksum(rsdp)
    return bytes(rsdp)


def _port(port: int, length: int, access: int) -> bytes:
    return GAS.pack(GAS_SYSTEM_IO, 8 * length, 0, access, port)


def _fadt(facs: int, dsdt: int) -> bytes:
    """FADT (§5.2.9). ACPI is always on, so that there is no SMI_CMD; there are no GPE blocks."""
    values: dict[str, int | bytes] = {
        "FIRMWARE_CTRL": facs,  # and not X_FIRMWARE_CTRL: one of the two, says §5.2.9
        "DSDT": dsdt,
        "X_DSDT": dsdt,
        "SCI_INT": power.SCI_IRQ,
        "PM1a_EVT_BLK": power.PM1_EVT_BLK,
        "PM1_EVT_LEN": power.PM1_EVT_LEN,
        "X_PM1a_EVT_BLK": _port(power.PM1_EVT_BLK, power.PM1_EVT_LEN, GAS_WORD),
        "PM1a_CNT_BLK": power.PM1_CNT_BLK,
        "PM1_CNT_LEN": power.PM1_CNT_LEN,
        "X_PM1a_CNT_BLK": _port(power.PM1_CNT_BLK, power.PM1_CNT_LEN, GAS_WORD),
        "PM_TMR_BLK": power.PM_TMR_BLK,
        "PM_TMR_LEN": power.PM_TMR_LEN,
        "X_PM_TMR_BLK": _port(power.PM_TMR_BLK, power.PM_TMR_LEN, GAS_DWORD),
        "P_LVL2_LAT": NO_C2_LATENCY,
        "P_LVL3_LAT": NO_C3_LATENCY,
        "CENTURY": rtc.CENTURY,
        "IAPC_BOOT_ARCH": LEGACY_DEVICES | HAS_8042,
        "Flags": WBINVD | PROC_C1 | SLP_BUTTON | FIX_RTC | TMR_VAL_EXT | RESET_REG_SUP,
        "RESET_REG": _port(power.RESET_REG, 1, GAS_BYTE),
        "RESET_VALUE": power.RESET_VALUE,
        "FADT_Minor_Version": FADT_MINOR,
        "Hypervisor_Vendor_Identity": HYPERVISOR_ID,
    }
    body = b"".join(
        struct.pack("<" + form, values.get(name, b"" if form.endswith("s") else 0))
        for name, form in FADT_FIELDS
    )
    return _table(b"FACP", FADT_REVISION, body)


def _madt(board: Board) -> bytes:
    """MADT (§5.2.12): CPUs, the IOAPIC, and where ISA's interrupts are not what ISA says."""
    structures = [struct.pack("<II", layout.LAPIC, PCAT_COMPAT)]

    def add(kind: int, form: str, *values: int) -> None:
        structures.append(struct.pack("<BB" + form, kind, 2 + struct.calcsize("<" + form), *values))

    for cpu in range(board.max_cpus):
        flags = LAPIC_ENABLED if cpu < board.cpus else LAPIC_ONLINE_CAPABLE
        if cpu < FIRST_X2APIC_ID:
            add(PROCESSOR_LOCAL_APIC, "BBI", cpu, cpu, flags)
        else:
            add(PROCESSOR_LOCAL_X2APIC, "HIII", 0, cpu, flags, cpu)
    add(IO_APIC, "BBII", IOAPIC_ID, 0, layout.IOAPIC, 0)
    add(INTERRUPT_SOURCE_OVERRIDE, "BBIH", ISA_BUS, pit.PIT_IRQ, PIT_GSI, CONFORMS_TO_BUS)
    add(INTERRUPT_SOURCE_OVERRIDE, "BBIH", ISA_BUS, power.SCI_IRQ, power.SCI_IRQ, LEVEL_ACTIVE_HIGH)
    add(LOCAL_APIC_NMI, "BHB", ALL_PROCESSORS, CONFORMS_TO_BUS, LINT1)
    if board.max_cpus > FIRST_X2APIC_ID:
        add(LOCAL_X2APIC_NMI, "HIB3x", CONFORMS_TO_BUS, ALL_X2APIC_PROCESSORS, LINT1)
    return _table(b"APIC", MADT_REVISION, b"".join(structures))


def _hpet() -> bytes:
    """HPET (IA-PC HPET Specification 1.0a §3.2.4): what it is, where, its number, and its fastest period.

    The shortest period in ticks is a hint; "page protection" 0 guarantees nothing about its page.
    """
    from pykvm.devices import hpet, hpettimer  # late: few machines have one

    place = GAS.pack(GAS_SYSTEM_MEMORY, 64, 0, 0, layout.HPET)
    body = struct.pack("<I12sBHB", hpet.CAPABILITIES & 0xFFFF_FFFF, place, 0, hpettimer.CLOSEST, 0)
    return _table(b"HPET", 1, body)
