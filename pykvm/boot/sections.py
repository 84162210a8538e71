"""An ELF kernel's section headers, and the sections that are in no segment: symbols, strings, debugging data.

Multiboot hands them over (0.6.96 §3.3, "syms"; 2.0 §3.6.7): the header table as the file has it, but with
sh_addr, where that was 0, telling where the section has been put. Source: System V ABI, "Sections".
"""

from __future__ import annotations

from struct import Struct

from pykvm.boot.places import Range
from pykvm.frozen import frozen
from pykvm.memory.layout import HIGH_RAM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.boot.elf import Elf
    from pykvm.boot.image import Image
    from pykvm.boot.places import Places

SHT_NULL = 0
SHT_NOBITS = 8

# sh_name, sh_type, sh_flags, sh_addr, sh_offset, sh_size, sh_link, sh_info, sh_addralign, sh_entsize
HEADERS = {32: Struct("<IIIIIIIIII"), 64: Struct("<IIQQQQIIQQ")}

MOST_ALIGNMENT = 0x1000


@frozen
class Sections:
    """``count`` headers of ``size`` bytes each in ``table``; number ``names`` holds their names."""

    count: int
    size: int
    names: int
    table: bytes


def load(places: Places, image: Image, elf: Elf) -> Sections | None:
    """Put the sections that no segment has into memory; None where the file has none or they don't fit.

    Raises InputError for headers that are damaged.
    """
    offset, size, count, names = elf.sections
    if offset == 0 or count == 0:
        return None
    layout = HEADERS[elf.bits]
    if size != layout.size:
        raise image.error(f"is damaged: section headers of {size} bytes, not {layout.size}")
    if names >= count:
        raise image.error(f"is damaged: its section {names} is to hold names, and it has {count}")
    table = bytearray(image.read(offset, count * size))
    if len(table) < count * size:
        raise image.error(f"is truncated: its section headers go to {offset + count * size:#x}")
    homeless, end, most = _layout(image, layout, table, count)
    gpa = places.find(end, align=most, floor=HIGH_RAM)
    if gpa is None:
        return None
    # One range for all: a file may have 65535 of them.
    places.take(Range(name="the kernel's other sections", gpa=gpa, size=end), image.name)
    for number, start, length, at in homeless:
        places.fill(gpa + at, length, image, start)
        fields = list(layout.unpack_from(table, number * size))
        fields[3] = gpa + at
        layout.pack_into(table, number * size, *fields)
    return Sections(count=count, size=size, names=names, table=bytes(table))


def _layout(
    image: Image, layout: Struct, table: bytearray, count: int
) -> tuple[list[tuple[int, int, int, int]], int, int]:
    """The sections that no segment has: number, offset in the file, size, offset in memory.

    Behind them their end and the largest of their alignments.
    """
    found = []
    end, most = 0, 1
    for number in range(count):
        _, kind, _, address, start, length, _, _, align, _ = layout.unpack_from(table, number * layout.size)
        if kind in (SHT_NULL, SHT_NOBITS) or address or not length:
            continue
        if start + length > image.size:
            raise image.error(
                f"is truncated: section {number} goes to {start + length:#x}, the file to {image.size:#x}"
            )
        align = _alignment(align)
        at = -(-end // align) * align
        found.append((number, start, length, at))
        end, most = at + length, max(most, align)
    return found, end, most


def _alignment(align: int) -> int:
    """``align`` where it is a power of two that is no larger than a page, as System V has it; else 16."""
    return align if 0 < align <= MOST_ALIGNMENT and align & (align - 1) == 0 else 16
