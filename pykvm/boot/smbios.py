"""The SMBIOS tables: what a machine says of its maker, memory and processor to whoever asks (dmidecode).

Both entry points are there: the 32-bit one for old kernels, the 64-bit one for new. A kernel looks for them
on 16-byte boundaries from 0xF0000 on.

Source: DMTF DSP0134 (SMBIOS Reference Specification) 3.6. Fields bear its names.
"""

from __future__ import annotations

import struct

from pykvm.errors import InternalError
from pykvm.frozen import frozen

ANCHOR = 0xF0000  # where the search begins (§5.2.1)
SIZE = 0x800
MAJOR, MINOR, DOCREV = 3, 6, 0

# §5.2.1: Anchor String, Checksum, Length, Major and Minor Version, Maximum Structure Size, Revision,
# Formatted Area; Intermediate Anchor, its Checksum, Structure Table Length and Address, Number of
# Structures, BCD Revision
ENTRY_POINT_32 = struct.Struct("<4sBBBBHB5x5sBHIHB")
INTERMEDIATE_AT = 0x10
# §5.2.2: Anchor String, Checksum, Length, Major, Minor, Docrev, Revision, Reserved, Structure Table Maximum
# Size and Address
ENTRY_POINT_64 = struct.Struct("<5sBBBBBBBIQ")
CHECKSUM_32_AT, CHECKSUM_INTERMEDIATE_AT, CHECKSUM_64_AT = 4, 0x15, 5

BIOS_INFORMATION, SYSTEM_INFORMATION, SYSTEM_ENCLOSURE, PROCESSOR_INFORMATION = 0, 1, 3, 4
PHYSICAL_MEMORY_ARRAY, MEMORY_DEVICE, MEMORY_ARRAY_MAPPED_ADDRESS = 16, 17, 19
SYSTEM_BOOT_INFORMATION, END_OF_TABLE = 32, 127

NOT_SUPPORTED = 1 << 3  # §7.1.1: BIOS characteristics are not supported: there is no BIOS that has any
VIRTUAL_MACHINE = 1 << 4  # §7.1.2.2
OTHER, UNKNOWN = 1, 2
SAFE = 3  # §7.4.1: chassis states
POWER_SWITCH = 6  # §7.2.2: the wake-up type
CENTRAL_PROCESSOR = 3  # §7.5.1
POPULATED_AND_ENABLED = 0x41  # §7.5: status
NO_UPGRADE = 6  # §7.5.5: "None"
IS_64_BIT, EXECUTE_PROTECTION = 1 << 2, 1 << 5  # §7.5.9
SYSTEM_MEMORY, NO_ERROR_CORRECTION = 3, 3  # §7.17.2, §7.17.3
EXTENDED_CAPACITY = 0x8000_0000
NO_ERROR_INFORMATION = 0xFFFE
DIMM, RAM = 9, 7  # §7.18.1, §7.18.2
EXTENDED_SIZE = 0x7FFF
EXTENDED_ADDRESS = 0xFFFF_FFFF
NO_CACHE = 0xFFFF

KIB, MIB = 1 << 10, 1 << 20
MAKER, PRODUCT = "pykvm", "pykvm virtual machine"


@frozen
class Smbios:
    """``image`` belongs at guest-physical ``base``."""

    base: int
    image: bytes


def build(cpus: int, ranges: tuple[tuple[int, int], ...], version: str, base: int = ANCHOR) -> Smbios:
    """The tables of a machine of one socket with ``cpus`` CPUs and RAM in ``ranges`` (start, end).

    The entry points come first, then the structures. Raises InternalError if they don't fit.
    """
    structures = _structures(cpus, ranges, version)
    table = b"".join(structures)
    start = base + _aligned(ENTRY_POINT_32.size) + _aligned(ENTRY_POINT_64.size)
    longest = max(map(len, structures))
    old = bytearray(
        ENTRY_POINT_32.pack(
            *(b"_SM_", 0, ENTRY_POINT_32.size, MAJOR, MINOR, longest, 0),
            *(b"_DMI_", 0, len(table), start, len(structures), MAJOR << 4 | MINOR),
        )
    )
    old[CHECKSUM_INTERMEDIATE_AT] = -sum(old[INTERMEDIATE_AT:]) & 0xFF
    old[CHECKSUM_32_AT] = -sum(old) & 0xFF
    new = bytearray(
        ENTRY_POINT_64.pack(b"_SM3_", 0, ENTRY_POINT_64.size, MAJOR, MINOR, DOCREV, 1, 0, len(table), start)
    )
    new[CHECKSUM_64_AT] = -sum(new) & 0xFF
    image = bytes(old.ljust(_aligned(len(old)), b"\0") + new.ljust(_aligned(len(new)), b"\0")) + table
    if len(image) > SIZE:
        raise InternalError(f"tables of {len(image)} bytes pass {SIZE}", where="smbios")
    return Smbios(base=base, image=image)


def _aligned(size: int) -> int:
    return (size + 15) & ~15


def _structures(cpus: int, ranges: tuple[tuple[int, int], ...], version: str) -> list[bytes]:
    """The structures in the order of their handles; each string is called by its number, from 1."""
    made: list[bytes] = []

    def add(kind: int, body: bytes, *strings: str) -> int:
        """One structure (§6.1.2, §6.1.3): header, body, strings, and a 0."""
        handle = len(made)
        texts = b"".join(text.encode("ascii", "replace") + b"\0" for text in strings) or b"\0"
        made.append(struct.pack("<BBH", kind, 4 + len(body), handle) + body + texts + b"\0")
        return handle

    size = sum(end - start for start, end in ranges)
    # Vendor, version, starting segment, release date, ROM size, characteristics, extensions (two), releases
    bios = struct.pack(
        "<BBHBBQBBBBBB", 1, 2, 0xF000, 3, 0, NOT_SUPPORTED, 0, VIRTUAL_MACHINE, 0xFF, 0xFF, 0xFF, 0xFF
    )
    add(BIOS_INFORMATION, bios, MAKER, version, "01/01/2026")
    # Manufacturer, product, version, serial number, UUID (none set), wake-up type, SKU, family
    add(
        SYSTEM_INFORMATION,
        struct.pack("<BBBB16sBBB", 1, 2, 3, 0, bytes(16), POWER_SWITCH, 0, 0),
        MAKER,
        PRODUCT,
        version,
    )
    # Manufacturer, type, version, serial, asset tag, states (boot-up, power, thermal), security, OEM, height,
    # power cords, contained elements: none, SKU
    add(
        SYSTEM_ENCLOSURE,
        struct.pack("<BBBBBBBBBIBBBBB", 1, OTHER, 0, 0, 0, SAFE, SAFE, SAFE, UNKNOWN, 0, 0, 0, 0, 0, 0),
        MAKER,
    )
    few = min(cpus, 0xFF)
    # Socket, type, family, manufacturer, id, version, voltage, clocks (external, max, now), status, upgrade,
    # caches, serial, asset, part; cores, enabled, threads, characteristics, family 2, and the counts in words
    processor = struct.pack(
        "<BBBBQBBHHHBBHHHBBBBBBHHHHH",
        *(1, CENTRAL_PROCESSOR, UNKNOWN, 2, 0, 0, 0, 0, 0, 0, POPULATED_AND_ENABLED, NO_UPGRADE),
        *(NO_CACHE, NO_CACHE, NO_CACHE, 0, 0, 0, few, few, few),
        *(IS_64_BIT | EXECUTE_PROTECTION, UNKNOWN, cpus, cpus, cpus),
    )
    add(PROCESSOR_INFORMATION, processor, "CPU 0", MAKER)
    # Location, use, error correction, capacity in KiB, error handle, devices, capacity in bytes
    kilobytes, wide = (size // KIB, 0) if size // KIB < EXTENDED_CAPACITY else (EXTENDED_CAPACITY, size)
    body = struct.pack(
        "<BBBIHHQ", OTHER, SYSTEM_MEMORY, NO_ERROR_CORRECTION, kilobytes, NO_ERROR_INFORMATION, 1, wide
    )
    array = add(PHYSICAL_MEMORY_ARRAY, body)
    megabytes = size // MIB
    # Array, error handle, widths, size, form, set, locators, type, detail, speed, maker, serial, asset, part,
    # attributes, extended size, configured speed, voltages
    device = struct.pack(
        "<HHHHHBBBBBHHBBBBBIHHHH",
        *(array, NO_ERROR_INFORMATION, 0xFFFF, 0xFFFF, min(megabytes, EXTENDED_SIZE), DIMM, 0, 1, 0, RAM),
        *(1 << 1, 0, 2, 0, 0, 0, 0, megabytes if megabytes >= EXTENDED_SIZE else 0, 0, 0, 0, 0),
    )
    add(MEMORY_DEVICE, device, "DIMM 0", MAKER)
    for start, end in ranges:
        first, last = start // KIB, end // KIB - 1
        if last < EXTENDED_ADDRESS:
            places = (first, last, array, 1, 0, 0)
        else:
            places = (EXTENDED_ADDRESS, EXTENDED_ADDRESS, array, 1, start, end - 1)
        add(MEMORY_ARRAY_MAPPED_ADDRESS, struct.pack("<IIHBQQ", *places))
    add(SYSTEM_BOOT_INFORMATION, bytes(6) + b"\0")  # no errors detected
    add(END_OF_TABLE, b"")
    return made
