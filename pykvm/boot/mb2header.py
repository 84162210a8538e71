"""The Multiboot2 header: found in a kernel's file, its tags read and checked.

Source: Multiboot2 Specification 2.0 §3.1. A tag whose flags don't call it optional must be understood. What
is asked for and understood but not there (graphics, EFI) is no fault; a console that is required is one
where the kernel doesn't know EGA text (§3.1.9).
"""

from __future__ import annotations

from struct import unpack_from

from pykvm.boot.addresses import Addresses
from pykvm.boot.mbheader import find_header
from pykvm.boot.relocate import PREFERENCES, Relocation
from pykvm.boot.screen import IN_WORDS
from pykvm.frozen import frozen
from pykvm.memory.layout import FOUR_GIB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pykvm.boot.image import Image

MAGIC = 0xE85250D6
I386 = 0
SEARCH = 32768
"""The header lies wholly in this many bytes of the file (§3.1)."""

ALIGNMENT = 8
"""Of the header and of each tag."""

HEADER_SIZE = 16
TAG_HEADER_SIZE = 8
OPTIONAL = 1 << 0

# Types of the header's tags.
END = 0
INFORMATION_REQUEST = 1
ADDRESS = 2
ENTRY_ADDRESS = 3
FLAGS = 4
FRAMEBUFFER = 5
MODULE_ALIGNMENT = 6
EFI_BOOT_SERVICES = 7
EFI_I386_ENTRY = 8
EFI_AMD64_ENTRY = 9
RELOCATABLE = 10

# Type, size in bytes (0: any), name.
TAGS = {
    INFORMATION_REQUEST: (0, "information request"),
    ADDRESS: (24, "address"),
    ENTRY_ADDRESS: (12, "entry address"),
    FLAGS: (12, "flags"),
    FRAMEBUFFER: (20, "framebuffer"),
    MODULE_ALIGNMENT: (8, "module alignment"),
    EFI_BOOT_SERVICES: (8, "EFI boot services"),
    EFI_I386_ENTRY: (12, "EFI i386 entry address"),
    EFI_AMD64_ENTRY: (12, "EFI amd64 entry address"),
    RELOCATABLE: (24, "relocatable header"),
}
CONSOLE_REQUIRED, EGA_TEXT = 1 << 0, 1 << 1  # console_flags of FLAGS

# What an information request can name (§3.6), by type.
REQUESTS = {
    1: "the command line",
    2: "the loader's name",
    3: "modules",
    4: "the memory's size",
    5: "the BIOS boot device (there is none)",
    6: "the memory map",
    7: "VBE (there is none)",
    8: f"a framebuffer ({IN_WORDS})",
    9: "ELF sections",
    10: "APM (there is none)",
    11: "EFI's 32-bit system table (there is none)",
    12: "EFI's 64-bit system table (there is none)",
    13: "SMBIOS (its tables lie in memory, without a tag)",
    14: "ACPI's old RSDP",
    15: "ACPI's new RSDP",
    16: "a DHCP answer (there is none)",
    17: "EFI's memory map (there is none)",
    18: "EFI's boot services (there are none)",
    19: "EFI's 32-bit image handle (there is none)",
    20: "EFI's 64-bit image handle (there is none)",
    21: "the load base",
}


@frozen
class Tag:
    """``at`` is the tag's offset in the file, ``data`` what follows its own type, flags and size."""

    at: int
    kind: int
    optional: bool
    data: bytes


@frozen
class Header:
    """Where in the file it lies and what its tags say; None for tags that aren't there."""

    at: int
    addresses: Addresses | None
    entry: int | None
    relocation: Relocation | None
    asks: tuple[str, ...]


def find(image: Image) -> int | str:
    """Where the header is, or why there is none."""
    return find_header(image, MAGIC, words=4, alignment=ALIGNMENT, search=SEARCH)


def read(image: Image) -> Header:
    """The header of ``image``, with all that its tags say checked. Raises InputError."""
    at = find(image)
    if isinstance(at, str):
        raise image.error(f"is no Multiboot2 kernel: {at}")
    _, architecture, length, _ = unpack_from("<IIII", image.read(at, HEADER_SIZE))
    if architecture != I386:
        raise _wrong(image, at + 4, f"architecture {architecture} is not i386 (0)", "pykvm runs x86")
    if length < HEADER_SIZE + TAG_HEADER_SIZE or at + length > min(SEARCH, image.size):
        raise _wrong(
            image,
            at + 8,
            f"a length of {length} bytes, from {at:#x} in a file of {image.size} bytes; from "
            f"{HEADER_SIZE + TAG_HEADER_SIZE} on and in the first {SEARCH} would be right",
        )
    found: Addresses | None = None
    entry: int | None = None
    relocation: Relocation | None = None
    asks: list[str] = []
    for tag in _tags(image, at, length):
        if not _understood(image, tag):
            continue
        if tag.kind == INFORMATION_REQUEST:
            asks += _requests(image, tag)
        elif tag.kind == ADDRESS:
            fields = unpack_from("<IIII", tag.data)
            found = _addresses(at, *fields)
        elif tag.kind == ENTRY_ADDRESS:
            (entry,) = unpack_from("<I", tag.data)
        elif tag.kind == FLAGS:
            _console(image, tag)
        elif tag.kind == FRAMEBUFFER:
            width, height, depth = unpack_from("<III", tag.data)
            asks.append(f"a screen of {width}x{height}x{depth} ({IN_WORDS})")
        elif tag.kind == MODULE_ALIGNMENT:
            asks.append("modules on page boundaries")
        elif tag.kind == RELOCATABLE:
            relocation = _relocation(image, tag)
            asks.append(f"a place from {relocation.least:#x} to {relocation.most:#x}")
    return Header(at=at, addresses=found, entry=entry, relocation=relocation, asks=tuple(asks))


def _tags(image: Image, header_at: int, length: int) -> Iterator[Tag]:
    """All tags up to the end tag, each within the header's length."""
    data = image.read(header_at, length)
    at = HEADER_SIZE
    while at + TAG_HEADER_SIZE <= length:
        kind, flags, size = unpack_from("<HHI", data, at)
        if size < TAG_HEADER_SIZE or at + size > length:
            raise _wrong(image, header_at + at, f"tag {kind} of {size} bytes, with {length - at} left")
        if kind == END:
            return
        yield Tag(
            at=header_at + at,
            kind=kind,
            optional=bool(flags & OPTIONAL),
            data=data[at + TAG_HEADER_SIZE : at + size],
        )
        at += -(-size // ALIGNMENT) * ALIGNMENT
    raise _wrong(image, header_at + at, "the tags have no end tag (type 0, size 8)")


def _understood(image: Image, tag: Tag) -> bool:
    """Whether the tag is known and of its size; one that isn't may be passed over only if it is optional."""
    size, name = TAGS.get(tag.kind, (0, ""))
    if not name:
        if tag.optional:
            return False
        raise _wrong(
            image,
            tag.at,
            f"it requires tag {tag.kind}, which pykvm doesn't know",
            "mark it as optional (flags bit 0), or leave it out",
        )
    if size and TAG_HEADER_SIZE + len(tag.data) < size:
        raise _wrong(image, tag.at, f"the {name} tag has {TAG_HEADER_SIZE + len(tag.data)} bytes, not {size}")
    return True


def _requests(image: Image, tag: Tag) -> list[str]:
    if len(tag.data) % 4:
        raise _wrong(image, tag.at, f"the information request has {len(tag.data)} bytes of 4-byte types")
    kinds = unpack_from(f"<{len(tag.data) // 4}I", tag.data)
    unknown = [kind for kind in kinds if kind not in REQUESTS and kind != END]
    if unknown and not tag.optional:
        raise _wrong(
            image,
            tag.at,
            f"it requires information of type {unknown[0]}, which pykvm doesn't know",
            "mark the request as optional (flags bit 0), or leave it out",
        )
    return [REQUESTS[kind] for kind in kinds if kind in REQUESTS]


def _addresses(at: int, header_addr: int, load_addr: int, load_end: int, bss_end: int) -> Addresses:
    # §3.1.5: a load_addr of -1 means that the file is loaded from its beginning.
    if load_addr == FOUR_GIB - 1:
        load_addr = header_addr - at
    return Addresses(
        header_addr=header_addr, load_addr=load_addr, load_end_addr=load_end, bss_end_addr=bss_end
    )


def _console(image: Image, tag: Tag) -> None:
    (flags,) = unpack_from("<I", tag.data)
    if flags & CONSOLE_REQUIRED and not flags & EGA_TEXT and not tag.optional:
        raise _wrong(
            image,
            tag.at,
            f"it requires a console (flags tag, bit 0) and knows no EGA text (bit 1), and {IN_WORDS}",
            "mark the tag as optional (flags bit 0), or support text",
        )


def _relocation(image: Image, tag: Tag) -> Relocation:
    least, most, align, preference = unpack_from("<IIII", tag.data)
    if least > most:
        raise _wrong(image, tag.at, f"min_addr {least:#x} is above max_addr {most:#x}")
    if align & (align - 1):
        raise _wrong(image, tag.at, f"an alignment of {align:#x} is no power of two")
    if preference not in PREFERENCES:
        raise _wrong(image, tag.at, f"preference {preference} is none of {PREFERENCES}")
    return Relocation(least=least, most=most, align=align, preference=preference)


def _wrong(image: Image, at: int, what: str, remedy: str = "correct the header") -> Exception:
    return image.error(f"its Multiboot2 header is wrong at {at:#x} of the file: {what}", remedy)
