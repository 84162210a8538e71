"""Linux's setup header: what a bzImage says of itself, and what the loader answers in boot_params.

Source: Linux, Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header". The header lies at
0x1F1 of the file, and at the same offset of boot_params; all values are little-endian.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.boot.image import Image

START = 0x1F1
LENGTH_BASE = 0x202
"""The header ends here plus the byte at 0x201, the distance of the jump over it."""

BOOT_FLAG = 0xAA55
MAGIC = b"HdrS"
PROTOCOL_2_00 = 0x200
PROTOCOL_2_02 = 0x202
"""The first with a pointer to the command line; before, it lies in the real-mode code's segment."""

# Offset in the file, size in bytes, first protocol version that has it, name.
FIELDS = (
    (0x1F1, 1, 0x000, "setup_sects"),
    (0x1F2, 2, 0x000, "root_flags"),
    (0x1F4, 4, 0x204, "syssize"),
    (0x1F8, 2, 0x000, "ram_size"),
    (0x1FA, 2, 0x000, "vid_mode"),
    (0x1FC, 2, 0x000, "root_dev"),
    (0x1FE, 2, 0x000, "boot_flag"),
    (0x200, 2, 0x200, "jump"),
    (0x202, 4, 0x200, "header"),
    (0x206, 2, 0x200, "version"),
    (0x208, 4, 0x200, "realmode_swtch"),
    (0x20C, 2, 0x200, "start_sys_seg"),
    (0x20E, 2, 0x200, "kernel_version"),
    (0x210, 1, 0x200, "type_of_loader"),
    (0x211, 1, 0x200, "loadflags"),
    (0x212, 2, 0x200, "setup_move_size"),
    (0x214, 4, 0x200, "code32_start"),
    (0x218, 4, 0x200, "ramdisk_image"),
    (0x21C, 4, 0x200, "ramdisk_size"),
    (0x220, 4, 0x200, "bootsect_kludge"),
    (0x224, 2, 0x201, "heap_end_ptr"),
    (0x226, 1, 0x202, "ext_loader_ver"),
    (0x227, 1, 0x202, "ext_loader_type"),
    (0x228, 4, 0x202, "cmd_line_ptr"),
    (0x22C, 4, 0x203, "initrd_addr_max"),
    (0x230, 4, 0x205, "kernel_alignment"),
    (0x234, 1, 0x205, "relocatable_kernel"),
    (0x235, 1, 0x20A, "min_alignment"),
    (0x236, 2, 0x20C, "xloadflags"),
    (0x238, 4, 0x206, "cmdline_size"),
    (0x23C, 4, 0x207, "hardware_subarch"),
    (0x240, 8, 0x207, "hardware_subarch_data"),
    (0x248, 4, 0x208, "payload_offset"),
    (0x24C, 4, 0x208, "payload_length"),
    (0x250, 8, 0x209, "setup_data"),
    (0x258, 8, 0x20A, "pref_address"),
    (0x260, 4, 0x20A, "init_size"),
    (0x264, 4, 0x20B, "handover_offset"),
    (0x268, 4, 0x20F, "kernel_info_offset"),
)
PLACES = {name: (offset, size, since) for offset, size, since, name in FIELDS}

# What holds where a kernel's protocol is too old for the field.
BEFORE = {"initrd_addr_max": 0x37FF_FFFF, "cmdline_size": 255}

# loadflags
LOADED_HIGH = 1 << 0
KASLR_FLAG = 1 << 1
CAN_USE_HEAP = 1 << 7

# xloadflags
XLF_KERNEL_64 = 1 << 0
XLF_CAN_BE_LOADED_ABOVE_4G = 1 << 1


class SetupHeader:
    """The fields by name; ``raw`` holds the bytes from 0x1F1 to the header's end."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        offset = PLACES["version"][0] - START
        self.version = int.from_bytes(raw[offset : offset + 2], "little")

    def __contains__(self, name: str) -> bool:
        """Whether the kernel's protocol has the field."""
        offset, size, since = PLACES[name]
        return since <= self.version and offset + size <= START + len(self.raw)

    def __getitem__(self, name: str) -> int:
        if name not in self:
            return BEFORE.get(name, 0)
        offset, size, _ = PLACES[name]
        return int.from_bytes(self.raw[offset - START : offset - START + size], "little")

    @property
    def protocol(self) -> str:
        """The boot protocol's version as boot.rst writes it."""
        return f"{self.version >> 8}.{self.version & 0xFF:02}"

    @property
    def setup_size(self) -> int:
        """Bytes of boot sector and real-mode code; the protected-mode kernel follows them in the file."""
        return ((self["setup_sects"] or 4) + 1) * 512


def why_not(image: Image) -> str:
    """Why ``image`` has no setup header; empty if it has one."""
    start = image.read(0, LENGTH_BASE + 4)
    if len(start) < LENGTH_BASE + 4:
        return f"shorter than {LENGTH_BASE + 4} bytes"
    if int.from_bytes(start[0x1FE:0x200], "little") != BOOT_FLAG:
        return f"no {BOOT_FLAG:#x} at 0x1fe"
    if start[LENGTH_BASE:] != MAGIC:
        return f"no {MAGIC.decode()} at {LENGTH_BASE:#x}"
    return ""


def read(image: Image) -> SetupHeader:
    """The setup header of ``image``, which ``why_not`` has nothing against. Raises InputError."""
    jump = image.read(0x200, 2)
    end = LENGTH_BASE + jump[1]
    if jump[0] != 0xEB or jump[1] > 0x7F:
        raise image.error(f"its setup header is damaged: {jump.hex(' ')} at 0x200 is no jump over it")
    raw = image.read(START, end - START)
    if START + len(raw) < end:
        raise image.error(f"is truncated: its setup header goes to {end:#x}, the file to {image.size:#x}")
    header = SetupHeader(raw + bytes(max(PLACES["version"][0] + 2 - end, 0)))
    least = "cmd_line_ptr" if header.version >= PROTOCOL_2_02 else "ramdisk_size"
    if header.version < PROTOCOL_2_00 or least not in header:
        raise image.error(
            f"speaks boot protocol {header.protocol} in a header of {end - START} bytes",
            "pykvm needs 2.00 (Linux 1.3.73) or later, with all fields up to " + least,
        )
    return header


def plain(*, initrd_addr_max: int) -> SetupHeader:
    """The header for a kernel that comes without one: a vmlinux, entered like what a bzImage unpacks."""
    last_offset, last_size, since, _ = FIELDS[-1]
    page = bytearray(last_offset + last_size)
    values = {
        "boot_flag": BOOT_FLAG,
        "jump": 0xEB | len(page) - LENGTH_BASE << 8,
        "header": int.from_bytes(MAGIC, "little"),
        "version": since,
        "loadflags": LOADED_HIGH,
        "initrd_addr_max": initrd_addr_max,
        "kernel_alignment": 0x20_0000,
        "cmdline_size": 2047,
    }
    for name, value in values.items():
        offset, size, _ = PLACES[name]
        page[offset : offset + size] = value.to_bytes(size, "little")
    return SetupHeader(bytes(page[START:]))


def version_text(image: Image, header: SetupHeader) -> str:
    """What the kernel calls itself, as printable ASCII; empty where the header doesn't point to it."""
    offset = header["kernel_version"]
    if not 0 < offset < header.setup_size - 512:
        return ""
    text = image.read(offset + 0x200, 128).split(b"\0")[0]
    return "".join(chr(byte) for byte in text if 0x20 <= byte < 0x7F)
