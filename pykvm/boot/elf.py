"""ELF kernels: vmlinux, and kernels of one's own. Loaded at their physical addresses, entered at e_entry.

Source: System V ABI, "ELF Header" and "Program Header"; little-endian x86 only.
"""

from __future__ import annotations

from struct import Struct

from pykvm.boot import header as setup_header
from pykvm.boot.kernel import Kernel
from pykvm.boot.places import Range
from pykvm.frozen import frozen
from pykvm.memory.layout import FOUR_GIB, PCI_HOLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.boot.image import Image
    from pykvm.boot.places import Places
    from pykvm.config.model import KernelConfig

MAGIC = b"\x7fELF"
CLASS_BITS = {1: 32, 2: 64}  # EI_CLASS
LITTLE_ENDIAN = 1  # EI_DATA
PT_LOAD = 1
PT_INTERP = 3
PT_NOTE = 4
TYPES = {1: "an object file that isn't linked", 4: "a core dump"}  # e_type that can't run
EM_386 = 3
EM_X86_64 = 62
MACHINES = {
    2: "SPARC",
    8: "MIPS",
    20: "PowerPC",
    21: "64-bit PowerPC",
    22: "S/390",
    40: "32-bit ARM",
    43: "64-bit SPARC",
    50: "Itanium",
    183: "AArch64",
    243: "RISC-V",
    258: "LoongArch",
}
MODES = {EM_386: "protected", EM_X86_64: "long"}

LINUX_NOTE = b"Linux\0"
NOTES_LOOK = 1 << 16
MOST_NOTES = 16

HIGH_HALF = 1 << 47
"""From here on, no address of 4-level paging is physical."""

# e_ident, e_type, e_machine, e_version, e_entry, e_phoff, e_shoff, e_flags, e_ehsize, e_phentsize, e_phnum,
# e_shentsize, e_shnum, e_shstrndx
HEADERS = {32: Struct("<16sHHIIIIIHHHHHH"), 64: Struct("<16sHHIQQQIHHHHHH")}
# 32: p_type, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_flags, p_align; 64: p_flags is the second
PROGRAM_HEADERS = {32: Struct("<IIIIIIII"), 64: Struct("<IIQQQQQQ")}

# The highest byte of an initrd, for a vmlinux without the setup header that would say (the values of Linux).
INITRD_ADDR_MAX = {"protected": 0x37FF_FFFF, "long": 0x7FFF_FFFF}


@frozen
class Segment:
    """What a program header of type PT_LOAD says; ``number`` counts all program headers."""

    number: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int


@frozen
class Elf:
    """An ELF file that can be loaded: everything that its headers say has been checked.

    ``linux`` tells that it has a note of Linux's, as a vmlinux has since 4.19 (include/linux/elfnote.h).
    ``notes`` are offset, size and alignment of the notes in the file, ``sections`` the header's fields on
    section headers, which have not been checked: e_shoff, e_shentsize, e_shnum, e_shstrndx.
    """

    bits: int
    machine: int
    entry: int
    segments: tuple[Segment, ...]
    linux: bool
    notes: tuple[tuple[int, int, int], ...]
    sections: tuple[int, int, int, int]


def why_not(image: Image) -> str:
    """Why ``image`` is no ELF file; empty if it is one."""
    start = image.read(0, len(MAGIC))
    return "" if start == MAGIC else f"starts {start.hex(' ')}, not {MAGIC.hex(' ')}"


def load(places: Places, image: Image, kernel: KernelConfig) -> Kernel:
    """Put the segments of ``image`` into memory, which must be fresh: zeros aren't written."""
    elf = read(image)
    mode = mode_for(elf, kernel.entry, image)
    load_segments(places, image, elf)
    plain = setup_header.plain(initrd_addr_max=INITRD_ADDR_MAX[mode])
    return Kernel(
        format="elf",
        mode=mode,
        address=elf.entry,
        header=plain,
        code32_start=elf.entry,
        version="Linux" if elf.linux else "",
    )


def mode_for(elf: Elf, wanted: str, image: Image) -> str:
    """The mode that ``kernel.entry`` asks for, or by default the one that the file's code is for."""
    own = MODES[elf.machine]
    if wanted == "real" or (wanted == "long" and own == "protected"):
        code = "32-bit" if own == "protected" else "64-bit"
        raise image.error(f"holds {code} code, which {wanted} mode can't run", f"set kernel.entry to {own}")
    return own if wanted == "auto" else wanted


def load_segments(places: Places, image: Image, elf: Elf, shift: int = 0) -> None:
    """Give each segment its place, ``shift`` bytes above its own, then fill it straight from the image."""
    # The highest first, so that a machine with too little memory is told of all that is needed.
    for segment in sorted(elf.segments, key=lambda segment: segment.paddr + segment.memsz, reverse=True):
        name, gpa = f"segment {segment.number} of the kernel", segment.paddr + shift
        place = Range(name=name, gpa=gpa, size=segment.memsz)
        places.take(place, image.name)
    for segment in elf.segments:
        places.fill(segment.paddr + shift, segment.filesz, image, segment.offset)


def read(image: Image) -> Elf:
    """The headers of ``image``, checked, with a physical e_entry. Raises InputError."""
    elf = headers(image)
    if not in_segments(elf, elf.entry):
        raise image.error(f"starts at {elf.entry:#x}, where none of its segments lies physically")
    return elf


def in_segments(elf: Elf, address: int) -> bool:
    """Whether code at physical ``address`` can be entered."""
    return address < FOUR_GIB and any(s.paddr <= address < s.paddr + s.memsz for s in elf.segments)


def physical_entry(elf: Elf, image: Image) -> int:
    """Where e_entry lies physically, which may itself be virtual. Raises InputError."""
    for segment in elf.segments:
        if segment.vaddr <= elf.entry < segment.vaddr + segment.memsz:
            entry = elf.entry - segment.vaddr + segment.paddr
            if entry < FOUR_GIB:
                return entry
    if not in_segments(elf, elf.entry):
        raise image.error(f"starts at {elf.entry:#x}, where none of its segments lies below 4 GiB")
    return elf.entry


def headers(image: Image) -> Elf:
    """The headers of ``image``, checked but for e_entry. Raises InputError."""
    ident = image.read(0, 16)
    reason = why_not(image)
    if reason:
        raise image.error(f"is no ELF file: {reason}")
    bits = CLASS_BITS.get(ident[4], 0) if len(ident) == 16 else 0
    if not bits:
        raise image.error(
            f"is a damaged ELF file: class {ident[4:5].hex() or 'missing'} is neither 32 nor 64 bits"
        )
    if ident[5] != LITTLE_ENDIAN:
        raise image.error("is an ELF file for a big-endian machine", "pykvm runs x86")
    layout = HEADERS[bits]
    start = image.read(0, layout.size)
    if len(start) < layout.size:
        raise image.error(f"is truncated: an ELF header of {layout.size} bytes, a file of {image.size}")
    _, kind, machine, _, entry, phoff, shoff, _, _, phentsize, phnum, *sections = layout.unpack(start)
    if machine not in MODES:
        name = MACHINES.get(machine, "another machine")
        raise image.error(f"is for {name} (e_machine {machine})", "pykvm runs x86")
    if kind in TYPES:
        raise image.error(f"is {TYPES[kind]}", "name the linked kernel")
    segments, notes = _segments(image, bits, phoff, phentsize, phnum)
    notes = notes[:MOST_NOTES]
    linux = any(LINUX_NOTE in image.read(offset, min(size, NOTES_LOOK)) for offset, size, _ in notes)
    return Elf(
        bits=bits,
        machine=machine,
        entry=entry,
        segments=segments,
        linux=linux,
        notes=tuple(notes),
        sections=(shoff, *sections),
    )


def _segments(
    image: Image, bits: int, phoff: int, phentsize: int, phnum: int
) -> tuple[tuple[Segment, ...], list[tuple[int, int, int]]]:
    """What is to be loaded, and offset, size and alignment of notes."""
    layout = PROGRAM_HEADERS[bits]
    if phnum == 0:
        raise image.error("has no program headers, so nothing of it can be loaded", "name the linked kernel")
    if phentsize != layout.size:
        raise image.error(f"is damaged: program headers of {phentsize} bytes, not {layout.size}")
    table = image.read(phoff, phnum * layout.size)
    if len(table) < phnum * layout.size:
        raise image.error(f"is truncated: its program headers go to {phoff + phnum * layout.size:#x}")
    found = []
    notes = []
    for number, fields in enumerate(layout.iter_unpack(table)):
        if bits == 64:
            kind, _, offset, vaddr, paddr, filesz, memsz, align = fields
        else:
            kind, offset, vaddr, paddr, filesz, memsz, _, align = fields
        if kind == PT_INTERP:
            raise image.error("is a program that runs under an operating system, no kernel", "name a kernel")
        if kind == PT_NOTE:
            notes.append((offset, filesz, align))
        if kind != PT_LOAD or memsz == filesz == 0:
            continue
        if filesz > memsz:
            raise image.error(f"is damaged: segment {number} has {filesz:#x} bytes in {memsz:#x} of memory")
        if offset + filesz > image.size:
            end = offset + filesz
            raise image.error(f"is truncated: segment {number} goes to {end:#x}, the file to {image.size:#x}")
        if paddr + memsz > 1 << bits:
            raise image.error(f"is damaged: segment {number} at {paddr:#x} of {memsz:#x} bytes wraps around")
        if paddr == vaddr and (paddr >= HIGH_HALF or (bits == 32 and paddr >= PCI_HOLE)):
            raise image.error(
                f"gives virtual addresses as physical ones: segment {number} at {paddr:#x}",
                "link it with AT(), so that p_paddr says where it lies in memory",
            )
        found.append(
            Segment(number=number, offset=offset, vaddr=vaddr, paddr=paddr, filesz=filesz, memsz=memsz)
        )
    if not found:
        raise image.error("has no segment to load (PT_LOAD)", "name the linked kernel")
    return tuple(found), notes
