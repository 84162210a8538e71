"""Names of the kernel's functions, from the symbol table of its ELF file.

Source: System V ABI, "Sections" and "Symbol Table". The file may be anything: what isn't right is left out.
"""

from __future__ import annotations

from bisect import bisect_right
from struct import Struct, error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class File(Protocol):
        """A file, read in parts; fewer bytes come where it ends before."""

        size: int

        def read(self, offset: int, size: int) -> bytes: ...


MAGIC = b"\x7fELF"
SHT_SYMTAB = 2
STT_NOTYPE, STT_FUNC = 0, 2
MOST_SECTIONS = 4096
MOST_BYTES = 64 << 20
FARTHEST = 1 << 20
"""Bytes behind its start up to which an address may belong to the last symbol before it."""

# Of the ELF header: e_shoff, e_shentsize, e_shnum; of a section header: sh_type, sh_offset, sh_size, sh_link;
# of a symbol: st_name, st_value, st_info, st_shndx. By class: 1 is 32, 2 is 64 bits.
_HEADER = {1: Struct("<32xI10xHH"), 2: Struct("<40xQ10xHH")}
_SECTION = {1: Struct("<4xI8xIII12x"), 2: Struct("<4xI16xQQI20x")}
_SYMBOL = {1: Struct("<II4xBxH"), 2: Struct("<IBxHQ8x")}


class Symbols:
    """``names`` by address."""

    def __init__(self, names: dict[int, str]) -> None:
        self._addresses = sorted(names)
        self._names = names

    def __bool__(self) -> bool:
        return bool(self._addresses)

    def name(self, address: int) -> str:
        """``main+0x12``; empty where no symbol is near."""
        at = bisect_right(self._addresses, address) - 1
        if at < 0 or address - self._addresses[at] > FARTHEST:
            return ""
        start = self._addresses[at]
        offset = address - start
        return self._name_of(start) + (f"+{offset:#x}" if offset else "")

    def _name_of(self, start: int) -> str:
        """The name of the symbol that is at ``start``."""
        return self._names[start]


def read(file: File) -> Symbols:
    """The functions and labels of an ELF file; none where it is something else or has no table."""
    try:
        return Symbols(_names(file))
    except (error, IndexError, KeyError):
        return Symbols({})


def _names(file: File) -> dict[int, str]:
    start = file.read(0, 64)
    if start[:4] != MAGIC or start[5:6] != b"\x01":
        return {}
    bits = start[4]
    offset, entry, count = _HEADER[bits].unpack_from(start)
    layout = _SECTION[bits]
    if entry < layout.size or count > MOST_SECTIONS:
        return {}
    headers = file.read(offset, entry * count)
    sections = [layout.unpack_from(headers, number * entry) for number in range(count)]
    names: dict[int, str] = {}
    for kind, place, size, link in sections:
        if kind == SHT_SYMTAB and size <= MOST_BYTES and sections[link][2] <= MOST_BYTES:
            strings = file.read(sections[link][1], sections[link][2])
            _add(names, file.read(place, size), strings, bits)
    return names


def _add(names: dict[int, str], table: bytes, strings: bytes, bits: int) -> None:
    layout = _SYMBOL[bits]
    for fields in layout.iter_unpack(table[: len(table) - len(table) % layout.size]):
        if bits == 1:
            at, value, info, section = fields
        else:
            at, info, section, value = fields
        if info & 15 not in (STT_NOTYPE, STT_FUNC) or not section or section >= 0xFF00:
            continue
        name = strings[at : strings.find(b"\0", at)].decode("utf-8", "replace")
        # A function's own name goes before a label's at the same place.
        if name and (info & 15 == STT_FUNC or value not in names):
            names[value] = name
