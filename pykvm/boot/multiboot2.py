"""Multiboot 2: the boot protocol of GRUB 2. A header of tags asks, boot information of tags answers.

Source: Multiboot2 Specification 2.0. The kernel is an ELF file, or any file whose header has an address tag.
It is entered in 32-bit protected mode with a magic number in EAX and the address of the boot information in
EBX (§3.3). There is no EFI and no BIOS: their tags are not there, asked for or not (§3.1.4). The screen is in
text mode, whatever mode is asked for, and its tag says that.
"""

from __future__ import annotations

from struct import pack

from pykvm.boot import addresses, block, elf, lowmem, modules, relocate, screen, sections
from pykvm.boot.kernel import Kernel, protected_only
from pykvm.boot.mb2header import ALIGNMENT, find, read
from pykvm.boot.multiboot import memory_sizes
from pykvm.boot.params import e820

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.boot.block import Block
    from pykvm.boot.image import Image
    from pykvm.boot.kernel import Given
    from pykvm.boot.mb2header import Header
    from pykvm.boot.modules import Module
    from pykvm.boot.places import Places
    from pykvm.boot.sections import Sections
    from pykvm.config.model import KernelConfig
    from pykvm.memory import GuestMemory

LOADER_MAGIC = 0x36D76289

# Types of the boot information's tags (§3.6) that are given.
END = 0
COMMAND_LINE = 1
LOADER_NAME = 2
MODULE = 3
BASIC_MEMORY = 4
MEMORY_MAP = 6
FRAMEBUFFER = 8
ELF_SECTIONS = 9
ACPI_OLD_RSDP = 14
ACPI_NEW_RSDP = 15
LOAD_BASE = 21

MEMORY_MAP_ENTRY = 24

RSDP_SIGNATURE = b"RSD PTR "
OLD_RSDP_SIZE = 20  # of ACPI 1.0; ACPI 6.5 §5.2.5.3: Length, at offset 20, counts all of the new one
NEW_RSDP_SIZE = 36


def why_not(image: Image) -> str:
    """Why ``image`` has no Multiboot2 header; empty if it has one."""
    found = find(image)
    return found if isinstance(found, str) else ""


def load(places: Places, image: Image, kernel: KernelConfig) -> Kernel:
    """Put the kernel into memory, which must be fresh. Raises InputError."""
    header = read(image)
    protected_only(image, kernel)
    shift, entry, symbols = _load(places, image, header)

    def tell(given: Given) -> dict[str, int]:
        lowmem.bios_data(places, image.name)
        loaded = modules.load(places, given.modules)
        cmdline = block.check_cmdline(given.cmdline)
        base = None if header.relocation is None else shift.base

        def fill(out: Block) -> None:
            _inform(out, places.memory, cmdline, loaded, symbols, given.rsdp, base)

        return {"rax": LOADER_MAGIC, "rbx": block.place(places, image.name, fill)}

    return Kernel(
        format="multiboot2", mode="protected", address=entry, header=None, tell=tell, asks=header.asks
    )


def _load(places: Places, image: Image, header: Header) -> tuple[relocate.Shift, int, Sections | None]:
    """Put the kernel into memory; tells how far from its place, its entry, and its section headers."""
    if header.addresses is not None:
        what = addresses.read(image, header.at, header.addresses)
        shift = relocate.choose(places, image, header.relocation, what.gpa, what.gpa + what.memory)
        addresses.load(places, image, what, shift.by)
        entry = header.entry
        if entry is None:
            raise image.error(
                "its Multiboot2 header has an address tag (type 2) and no entry address tag (type 3)",
                "add one",
            )
        if not what.gpa <= entry < what.gpa + what.memory:
            raise _outside(image, entry)
        return shift, entry + shift.by, None
    if elf.why_not(image):
        raise image.error(
            "has a Multiboot2 header without an address tag (type 2), and is no ELF file: nothing says where "
            "it goes",
            "link it as ELF, or give its header an address tag",
        )
    file = elf.headers(image)
    first = min(segment.paddr for segment in file.segments)
    last = max(segment.paddr + segment.memsz for segment in file.segments)
    shift = relocate.choose(places, image, header.relocation, first, last)
    if header.entry is None:
        entry = elf.physical_entry(file, image)
    else:
        entry = header.entry
        if not elf.in_segments(file, entry):
            raise _outside(image, entry)
    elf.load_segments(places, image, file, shift.by)
    return shift, entry + shift.by, sections.load(places, image, file)


def _outside(image: Image, entry: int) -> Exception:
    return image.error(
        f"its Multiboot2 header is wrong: entry_addr {entry:#x} is outside the kernel",
        "correct the entry address tag (type 3)",
    )


def _inform(
    out: Block,
    memory: GuestMemory,
    cmdline: bytes,
    loaded: list[Module],
    symbols: Sections | None,
    rsdp: int,
    base: int | None,
) -> None:
    """The boot information: its size, then tags (§3.6)."""
    out.add(bytes(8), ALIGNMENT)

    def tag(kind: int, content: bytes) -> None:
        out.add(pack("<II", kind, 8 + len(content)) + content, ALIGNMENT)

    tag(COMMAND_LINE, cmdline + b"\0")
    tag(LOADER_NAME, block.LOADER_NAME + b"\0")
    for module in loaded:
        tag(MODULE, pack("<II", module.gpa, module.gpa + module.size) + module.text + b"\0")
    tag(BASIC_MEMORY, pack("<II", *memory_sizes(memory)))
    rows = (pack("<QQII", start, end - start, kind, 0) for start, end, kind in e820(memory))
    tag(MEMORY_MAP, pack("<II", MEMORY_MAP_ENTRY, 0) + b"".join(rows))
    tag(FRAMEBUFFER, screen.SCREEN + bytes(2))
    if symbols is not None:
        tag(ELF_SECTIONS, pack("<III", symbols.count, symbols.size, symbols.names) + symbols.table)
    for kind, size in ((ACPI_OLD_RSDP, OLD_RSDP_SIZE), (ACPI_NEW_RSDP, NEW_RSDP_SIZE)):
        copy = memory.read(rsdp, size) if rsdp else b""
        if copy.startswith(RSDP_SIGNATURE):
            tag(kind, copy)
    if base is not None:
        tag(LOAD_BASE, pack("<I", base))
    tag(END, b"")
    out.data[0:4] = len(out.data).to_bytes(4, "little")
