"""boot_params, the "zero page": what a boot loader tells Linux.

Source: Linux, arch/x86/include/uapi/asm/bootparam.h and Documentation/arch/x86/zero-page.rst. What is
not written stays 0, which says: none (no screen, no APM, no EFI, no EDD, …).
"""

from __future__ import annotations

from struct import pack

from pykvm.boot import header as setup_header
from pykvm.boot.header import CAN_USE_HEAP, KASLR_FLAG
from pykvm.boot.lowmem import BOOT_PARAMS, COMMAND_LINE
from pykvm.errors import InputError
from pykvm.memory.layout import EBDA, FOUR_GIB, HIGH_RAM, KVM_IDENTITY_MAP, PAGE, TABLES, VGA

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.boot.header import SetupHeader
    from pykvm.boot.kernel import Kernel
    from pykvm.boot.places import Places, Range
    from pykvm.memory import GuestMemory

# Offset, size in bytes, name.
FIELDS = (
    (0x000, 0x40, "screen_info"),
    (0x002, 2, "screen_info.ext_mem_k"),
    (0x040, 0x14, "apm_bios_info"),
    (0x058, 8, "tboot_addr"),
    (0x060, 0x10, "ist_info"),
    (0x070, 8, "acpi_rsdp_addr"),
    (0x080, 0x10, "hd0_info"),
    (0x090, 0x10, "hd1_info"),
    (0x0A0, 0x10, "sys_desc_table"),
    (0x0B0, 0x10, "olpc_ofw_header"),
    (0x0C0, 4, "ext_ramdisk_image"),
    (0x0C4, 4, "ext_ramdisk_size"),
    (0x0C8, 4, "ext_cmd_line_ptr"),
    (0x140, 0x80, "edid_info"),
    (0x1C0, 0x20, "efi_info"),
    (0x1E0, 4, "alt_mem_k"),
    (0x1E4, 4, "scratch"),
    (0x1E8, 1, "e820_entries"),
    (0x1E9, 1, "eddbuf_entries"),
    (0x1EA, 1, "edd_mbr_sig_buf_entries"),
    (0x1EB, 1, "kbd_status"),
    (0x1EC, 1, "secure_boot"),
    (0x1EF, 1, "sentinel"),
    (0x1F1, 0x7B, "hdr"),
    (0x290, 0x40, "edd_mbr_sig_buffer"),
    (0x2D0, 0xA00, "e820_table"),
    (0xD00, 0x1EC, "eddbuf"),
)
PLACES = {name: (offset, size) for offset, size, name in FIELDS}

LOADER_UNDEFINED = 0xFF
VIDEO_NORMAL = 0xFFFF

E820_RAM = 1
E820_RESERVED = 2
KVM_PAGES = 4 * PAGE
"""KVM keeps its identity map and TSS here on Intel CPUs without unrestricted guests."""


def write(
    places: Places, kernel: Kernel, cmdline: bytes, where: str, *, initrd: Range | None, rsdp: int
) -> None:
    """Put boot_params and ``cmdline`` into memory.

    ``rsdp`` is where ACPI's tables begin, 0 for none; ``where`` is the image that errors are about.
    """
    assert kernel.header is not None
    check_cmdline(cmdline, kernel.header)
    places.take(COMMAND_LINE, where)
    places.take(BOOT_PARAMS, where)
    places.memory.write(COMMAND_LINE.gpa, cmdline + b"\0")
    places.memory.write(
        BOOT_PARAMS.gpa, page(places.memory, kernel.header, kernel.code32_start, initrd, rsdp)
    )


def page(
    memory: GuestMemory, header: SetupHeader, code32_start: int, initrd: Range | None, rsdp: int
) -> bytes:
    """The 4096 bytes of boot_params."""
    params = bytearray(BOOT_PARAMS.size)
    params[setup_header.START : setup_header.START + len(header.raw)] = header.raw
    hdr = {
        "vid_mode": VIDEO_NORMAL,
        "type_of_loader": LOADER_UNDEFINED,
        "loadflags": header["loadflags"] & ~(CAN_USE_HEAP | KASLR_FLAG),
        "code32_start": code32_start,
        "ramdisk_image": initrd.gpa & 0xFFFF_FFFF if initrd else 0,
        "ramdisk_size": initrd.size & 0xFFFF_FFFF if initrd else 0,
        "ext_loader_ver": 0,
        "ext_loader_type": 0,
        "cmd_line_ptr": COMMAND_LINE.gpa,
        "hardware_subarch": 0,
        "setup_data": 0,
    }
    for name, value in hdr.items():
        if name in header:
            offset, size, _ = setup_header.PLACES[name]
            params[offset : offset + size] = value.to_bytes(size, "little")
    ranges = e820(memory)
    high_kib = max(memory.low_end - HIGH_RAM, 0) >> 10
    fields = {
        "screen_info.ext_mem_k": min(high_kib, 0xFFFF),
        "acpi_rsdp_addr": rsdp,
        "ext_ramdisk_image": initrd.gpa >> 32 if initrd else 0,
        "ext_ramdisk_size": initrd.size >> 32 if initrd else 0,
        "alt_mem_k": high_kib,
        "e820_entries": len(ranges),
    }
    for name, value in fields.items():
        offset, size = PLACES[name]
        params[offset : offset + size] = value.to_bytes(size, "little")
    table = b"".join(pack("<QQI", start, end - start, kind) for start, end, kind in ranges)
    offset, _ = PLACES["e820_table"]
    params[offset : offset + len(table)] = table
    return bytes(params)


def e820(memory: GuestMemory) -> list[tuple[int, int, int]]:
    """The map of memory as a BIOS would give it: (start, end, type), in order."""
    ranges = (
        (0, min(EBDA, memory.low_end), E820_RAM),
        (EBDA, VGA, E820_RESERVED),
        (TABLES, HIGH_RAM, E820_RESERVED),
        (HIGH_RAM, memory.low_end, E820_RAM),
        (KVM_IDENTITY_MAP, KVM_IDENTITY_MAP + KVM_PAGES, E820_RESERVED),
        (FOUR_GIB, memory.high_end, E820_RAM),
    )
    return [(start, end, kind) for start, end, kind in ranges if start < end]


def check_cmdline(cmdline: bytes, header: SetupHeader) -> None:
    """Raise InputError for a command line that the kernel can't take."""
    most = min(header["cmdline_size"], COMMAND_LINE.size - 1)
    if len(cmdline) > most:
        raise InputError(
            f"is {len(cmdline)} bytes long, and this kernel takes {most}",
            where="kernel.cmdline",
            remedy="shorten it",
        )
    if b"\0" in cmdline:
        raise InputError("holds a NUL, where the kernel would take it to end", where="kernel.cmdline")
