"""Multiboot 1: the boot protocol of GRUB legacy and of many small kernels.

Source: Multiboot Specification 0.6.96. The kernel is an ELF file, or any file whose header has address
fields. It is entered in 32-bit protected mode with a magic number in EAX and the address of the boot
information in EBX (§3.2). There is no BIOS and no disk: the information says so by leaving the flags of
those fields clear. The screen is in text mode, whatever mode is asked for, and the information says that.
"""

from __future__ import annotations

from struct import pack, unpack_from

from pykvm.boot import addresses, block, elf, lowmem, modules, screen, sections
from pykvm.boot.addresses import Addresses
from pykvm.boot.kernel import Kernel, protected_only
from pykvm.boot.mbheader import find_header
from pykvm.boot.params import e820
from pykvm.frozen import frozen
from pykvm.memory.layout import EBDA, HIGH_RAM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.boot.block import Block
    from pykvm.boot.image import Image
    from pykvm.boot.kernel import Given
    from pykvm.boot.modules import Module
    from pykvm.boot.places import Places
    from pykvm.boot.sections import Sections
    from pykvm.config.model import KernelConfig
    from pykvm.memory import GuestMemory

MAGIC = 0x1BADB002
LOADER_MAGIC = 0x2BADB002
SEARCH = 8192
"""The header lies wholly in this many bytes of the file, 4-byte aligned (§3.1)."""

HEADER_SIZE = 12
HEADER_SIZE_WITH_ADDRESSES = 32
HEADER_SIZE_WITH_VIDEO = 48

# Flags of the header (§3.1.2). Of the first 16, unknown ones must be refused.
PAGE_ALIGN = 1 << 0
MEMORY_INFO = 1 << 1
VIDEO_MODE = 1 << 2
ADDRESS_FIELDS = 1 << 16
MUST_BE_KNOWN = 0xFFFF
ASKS = (
    (PAGE_ALIGN, "modules on page boundaries"),
    (MEMORY_INFO, "the memory's size"),
    (VIDEO_MODE, f"a video mode ({screen.IN_WORDS})"),
)

# Flags of the boot information (§3.3).
INFO_MEMORY = 1 << 0
INFO_CMDLINE = 1 << 2
INFO_MODS = 1 << 3
INFO_ELF_SECTIONS = 1 << 5
INFO_MMAP = 1 << 6
INFO_LOADER_NAME = 1 << 9
INFO_FRAMEBUFFER = 1 << 12

INFO_SIZE = 116
# Offset in the boot information, name.
INFO_FIELDS = (
    (0, "flags"),
    (4, "mem_lower"),
    (8, "mem_upper"),
    (16, "cmdline"),
    (20, "mods_count"),
    (24, "mods_addr"),
    (28, "syms.num"),
    (32, "syms.size"),
    (36, "syms.addr"),
    (40, "syms.shndx"),
    (44, "mmap_length"),
    (48, "mmap_addr"),
    (64, "boot_loader_name"),
)
FRAMEBUFFER_AT = 88


@frozen
class Header:
    """Where in the file it lies, and its fields; ``entry`` is meant only beside ``addresses``."""

    at: int
    flags: int
    addresses: Addresses | None
    entry: int


def why_not(image: Image) -> str:
    """Why ``image`` has no Multiboot header; empty if it has one."""
    found = find(image)
    return found if isinstance(found, str) else ""


def find(image: Image) -> int | str:
    """Where the header is, or why there is none."""
    return find_header(image, MAGIC, words=3, alignment=4, search=SEARCH)


def read(image: Image) -> Header:
    """The header of ``image``, checked as far as it can be without its kernel. Raises InputError."""
    at = find(image)
    if isinstance(at, str):
        raise image.error(f"is no Multiboot kernel: {at}")
    _, flags, _ = unpack_from("<III", image.read(at, HEADER_SIZE))
    unknown = flags & MUST_BE_KNOWN & ~(PAGE_ALIGN | MEMORY_INFO | VIDEO_MODE)
    if unknown:
        raise image.error(
            f"its Multiboot header asks for what pykvm doesn't know: flags {unknown:#x} at {at + 4:#x}",
            "clear them in the header, or start it otherwise: kernel.format",
        )
    size = HEADER_SIZE
    if flags & VIDEO_MODE:
        size = HEADER_SIZE_WITH_VIDEO
    elif flags & ADDRESS_FIELDS:
        size = HEADER_SIZE_WITH_ADDRESSES
    whole = image.read(at, size)
    if len(whole) < size or at + size > SEARCH:
        raise image.error(
            f"its Multiboot header of {size} bytes at {at:#x} goes beyond "
            f"{'the file' if len(whole) < size else f'the first {SEARCH} bytes'}",
            "put it at the file's start",
        )
    if not flags & ADDRESS_FIELDS:
        return Header(at=at, flags=flags, addresses=None, entry=0)
    header_addr, load_addr, load_end, bss_end, entry = unpack_from("<IIIII", whole, HEADER_SIZE)
    fields = Addresses(
        header_addr=header_addr, load_addr=load_addr, load_end_addr=load_end, bss_end_addr=bss_end
    )
    return Header(at=at, flags=flags, addresses=fields, entry=entry)


def load(places: Places, image: Image, kernel: KernelConfig) -> Kernel:
    """Put the kernel into memory, which must be fresh. Raises InputError."""
    header = read(image)
    protected_only(image, kernel)
    found: Sections | None = None
    if header.addresses is not None:
        what = addresses.read(image, header.at, header.addresses)
        entry = header.entry
        check_entry(image, entry, what.gpa, what.memory)
        addresses.load(places, image, what)
    else:
        if elf.why_not(image):
            raise image.error(
                "has a Multiboot header without address fields (flag bit 16), and is no ELF file: nothing "
                "says where it goes",
                "link it as ELF, or give its header address fields",
            )
        file = elf.headers(image)
        entry = elf.physical_entry(file, image)
        elf.load_segments(places, image, file)
        found = sections.load(places, image, file)

    def tell(given: Given) -> dict[str, int]:
        lowmem.bios_data(places, image.name)
        loaded = modules.load(places, given.modules)
        cmdline = block.check_cmdline(given.cmdline)

        def fill(out: Block) -> None:
            _inform(out, places.memory, cmdline, loaded, found)

        return {"rax": LOADER_MAGIC, "rbx": block.place(places, image.name, fill)}

    return Kernel(
        format="multiboot",
        mode="protected",
        address=entry,
        header=None,
        tell=tell,
        asks=tuple(words for flag, words in ASKS if header.flags & flag),
    )


def check_entry(image: Image, entry: int, gpa: int, size: int) -> None:
    """Raise InputError unless ``entry`` lies in the kernel's ``size`` bytes at ``gpa``."""
    if not gpa <= entry < gpa + size:
        raise image.error(
            f"its Multiboot header is wrong: entry_addr {entry:#x} is outside the kernel at "
            f"{gpa:#x}–{gpa + size - 1:#x}",
            "correct the header's entry address",
        )


def memory_sizes(memory: GuestMemory) -> tuple[int, int]:
    """mem_lower and mem_upper: KiB from 0, and from 1 MiB to the first hole."""
    return min(EBDA, memory.low_end) >> 10, max(memory.low_end - HIGH_RAM, 0) >> 10


def _inform(
    out: Block, memory: GuestMemory, cmdline: bytes, loaded: list[Module], found: Sections | None
) -> None:
    """The boot information (§3.3), and what it points to behind it."""
    info = out.add(bytes(INFO_SIZE))
    lower, upper = memory_sizes(memory)
    # §3.3: the size of an entry doesn't count its own size field.
    ranges = b"".join(pack("<IQQI", 20, start, end - start, kind) for start, end, kind in e820(memory))
    values = {
        "mem_lower": lower,
        "mem_upper": upper,
        "mmap_length": len(ranges),
        "mmap_addr": out.add(ranges),
        "mods_count": len(loaded),
    }
    flags = INFO_MEMORY | INFO_CMDLINE | INFO_MODS | INFO_MMAP | INFO_LOADER_NAME | INFO_FRAMEBUFFER
    if found is not None:
        flags |= INFO_ELF_SECTIONS
        values["syms.num"], values["syms.size"] = found.count, found.size
        values["syms.addr"], values["syms.shndx"] = out.add(found.table, 8), found.names
    texts = [out.text(module.text) for module in loaded]
    rows = (
        pack("<IIII", module.gpa, module.gpa + module.size, text, 0)
        for module, text in zip(loaded, texts, strict=True)
    )
    values["mods_addr"] = out.add(b"".join(rows))
    values["cmdline"] = out.text(cmdline)
    values["boot_loader_name"] = out.text(block.LOADER_NAME)
    values["flags"] = flags
    for offset, name in INFO_FIELDS:
        at = info - out.base + offset
        out.data[at : at + 4] = values.get(name, 0).to_bytes(4, "little")
    at = info - out.base + FRAMEBUFFER_AT
    out.data[at : at + len(screen.SCREEN)] = screen.SCREEN
