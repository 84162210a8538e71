"""Page walks: from a linear to a guest-physical address, or to the page fault that hardware would raise.

Exact by the Intel SDM vol. 3 §4 (permissions §4.6, faults §4.7, accessed and dirty §4.8) for every mode:
no paging, 32-bit, PAE, 4-level and 5-level paging, with WP, NX, SMEP, SMAP, reserved bits and protection
keys of user pages. Memory is whatever has ``u32``, ``u64``, ``put_u32``, ``put_u64`` by physical address.
"""

from __future__ import annotations

from pykvm.errors import PykvmError
from pykvm.x86.registers import (
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PKE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_NXE,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    class Memory(Protocol):
        """Guest-physical memory; a PykvmError from a read means that nothing is there."""

        def u32(self, gpa: int) -> int: ...
        def u64(self, gpa: int) -> int: ...
        def put_u32(self, gpa: int, value: int) -> None: ...
        def put_u64(self, gpa: int, value: int) -> None: ...


READ = 0
WRITE = 1
FETCH = 2

PTE_P = 1 << 0
PTE_RW = 1 << 1
PTE_US = 1 << 2
PTE_PWT = 1 << 3
PTE_PCD = 1 << 4
PTE_A = 1 << 5
PTE_D = 1 << 6
PTE_PS = 1 << 7
PTE_G = 1 << 8
PTE_XD = 1 << 63

# The error code of a page fault.
PF_P = 1 << 0
PF_W = 1 << 1
PF_U = 1 << 2
PF_RSVD = 1 << 3
PF_I = 1 << 4
PF_PK = 1 << 5

_ERROR_WORDS = (
    (PF_P, "protection", "not present"),
    (PF_W, "write", ""),
    (PF_U, "user", "supervisor"),
    (PF_RSVD, "reserved bit", ""),
    (PF_I, "fetch", ""),
    (PF_PK, "protection key", ""),
)

# By paging mode, from the root down: the table's name, the lowest address bit that it translates and how
# many bits it takes.
_TWO_LEVEL = (("PDE", 22, 10), ("PTE", 12, 10))
_PAE = (("PDPTE", 30, 2), ("PDE", 21, 9), ("PTE", 12, 9))
_FOUR_LEVEL = (("PML4E", 39, 9), ("PDPTE", 30, 9), ("PDE", 21, 9), ("PTE", 12, 9))
_FIVE_LEVEL = (("PML5E", 48, 9), *_FOUR_LEVEL)

_FRAME = 0xF_FFFF_FFFF_F000


class Entry:
    """One table entry that a walk read: its name, where it is, its width in bytes, and its value."""

    __slots__ = ("gpa", "name", "size", "value")

    def __init__(self, name: str, gpa: int, size: int, value: int) -> None:
        self.name = name
        self.gpa = gpa
        self.size = size
        self.value = value


class Walk:
    """What a walk found. ``fault`` is None, or the error code of the page fault; then ``gpa`` says nothing.

    ``page`` is the page's size in bytes (0 without paging); ``writable`` and ``user`` say what the entries
    grant together, ``executable`` whether no entry has XD; ``entries`` are those read, from the root down.
    ``reserved`` are the bits of the last entry that must be 0 and are not.
    """

    __slots__ = ("entries", "executable", "fault", "gpa", "gva", "page", "reserved", "user", "writable")

    def __init__(self, gva: int, gpa: int) -> None:
        self.gva = gva
        self.gpa = gpa
        self.fault: int | None = None
        self.page = self.reserved = 0
        self.writable = self.user = self.executable = True
        self.entries: list[Entry] = []


class _Level:
    """What entries of one level look like in a paging mode and with a CPU's features."""

    __slots__ = ("has_rights", "large", "mask", "name", "reserved", "reserved_large", "shift")

    def __init__(self, name: str, shift: int, bits: int) -> None:
        self.name = name
        self.shift = shift
        self.mask = (1 << bits) - 1
        self.large = shift == 12  # whether every entry is a leaf, or one with PTE_PS
        self.has_rights = True
        self.reserved = self.reserved_large = 0


def canonical(gva: int, cr4: int) -> bool:
    """Whether a 64-bit linear address is in canonical form for the paging that CR4.LA57 selects."""
    top = gva >> (56 if cr4 & CR4_LA57 else 47)
    return top == 0 or top == (0xFF if cr4 & CR4_LA57 else 0x1FFFF)


def fault_text(error: int) -> str:
    """The error code of a page fault in words: ``protection, write, user``."""
    words = (yes if error & bit else no for bit, yes, no in _ERROR_WORDS)
    return ", ".join(word for word in words if word)


def mode_text(sregs: dict[str, Any]) -> str:
    """The paging mode by the manual's name."""
    names = {0: "no paging", 2: "32-bit paging", 3: "PAE paging", 4: "4-level paging", 5: "5-level paging"}
    return names[_mode(sregs)]


def _mode(sregs: dict[str, Any]) -> int:
    """How many levels there are."""
    if not sregs["cr0"] & CR0_PG:
        return 0
    if not sregs["cr4"] & CR4_PAE:
        return 2
    if not sregs["efer"] & EFER_LMA:
        return 3
    return 5 if sregs["cr4"] & CR4_LA57 else 4


def walk(
    memory: Memory,
    sregs: dict[str, Any],
    gva: int,
    access: int = READ,
    *,
    user: bool = False,
    ac: bool = False,
    pkru: int = 0,
    physical_bits: int = 52,
    gigabyte_pages: bool = True,
    mark: bool = False,
) -> Walk:
    """Translate ``gva`` under ``sregs`` (cr0, cr3, cr4, efer) for ``access`` (READ, WRITE or FETCH).

    ``user``: a user-mode access (from CPL 3, and not to a descriptor table or TSS). ``ac``: an explicit
    supervisor access with RFLAGS.AC set, which SMAP lets pass. ``physical_bits``: MAXPHYADDR, above which
    address bits are reserved. ``gigabyte_pages``: whether the CPU has them. ``mark``: set the accessed and
    dirty bits as the CPU does.
    Whether the address is canonical is the caller's to check: that is #GP or #SS, not a page fault.
    """
    mode = _mode(sregs)
    if not mode:
        return Walk(gva, gva & 0xFFFFFFFF)
    cr4 = sregs["cr4"]
    nxe = mode > 2 and bool(sregs["efer"] & EFER_NXE)
    levels = _levels(mode, nxe, bool(cr4 & CR4_PSE), physical_bits, gigabyte_pages)
    if mode < 4:
        gva &= 0xFFFFFFFF
    size = 4 if mode == 2 else 8
    found = Walk(gva, 0)
    error = (PF_W if access == WRITE else 0) | (PF_U if user else 0)
    if access == FETCH and (nxe or cr4 & CR4_SMEP):
        error |= PF_I

    value = sregs["cr3"] & (0xFFFFFFE0 if mode == 3 else _FRAME)  # of PAE the PDPT is 32 bytes
    for level in levels:
        gpa = (value & _FRAME if found.entries else value) + (gva >> level.shift & level.mask) * size
        value = _read_entry(memory, gpa, size)
        found.entries.append(Entry(level.name, gpa, size, value))
        found.page = 1 << level.shift
        if not value & PTE_P:
            found.fault = error
            return found
        leaf = level.large and (value & PTE_PS or level.shift == 12)
        if wrong := value & (level.reserved_large if leaf else level.reserved):
            found.reserved = wrong
            found.fault = error | PF_P | PF_RSVD
            return found
        if level.has_rights:
            found.writable = found.writable and bool(value & PTE_RW)
            found.user = found.user and bool(value & PTE_US)
            found.executable = found.executable and not (nxe and value & PTE_XD)
        if leaf:
            break

    if _denied(sregs, access, user, ac, found):
        found.fault = error | PF_P
    elif (
        mode > 3 and cr4 & CR4_PKE and _key_denies(sregs, access, user, found, pkru >> 2 * (value >> 59 & 15))
    ):
        found.fault = error | PF_P | PF_PK
    else:
        if mark:
            _mark(memory, found.entries, access, mode)
        frame = value & _FRAME & -found.page
        if mode == 2 and found.page > 0x1000:
            frame |= (value >> 13 & 0xFF) << 32  # PSE-36
        found.gpa = frame | gva & found.page - 1
    return found


def _read_entry(memory: Memory, gpa: int, size: int) -> int:
    try:
        return memory.u32(gpa) if size == 4 else memory.u64(gpa)
    except PykvmError:
        return (1 << 8 * size) - 1  # a PC reads all ones where nothing is


_known: dict[tuple[int, bool, bool, int, bool], tuple[_Level, ...]] = {}


def _levels(mode: int, nxe: bool, pse: bool, physical_bits: int, gigabyte_pages: bool) -> tuple[_Level, ...]:
    """The levels of a mode and the bits that must be 0 in present entries (SDM vol. 3 tables 4-4 to 4-20)."""
    key = (mode, nxe, pse, physical_bits, gigabyte_pages)
    if key not in _known:
        tables = {2: _TWO_LEVEL, 3: _PAE, 4: _FOUR_LEVEL, 5: _FIVE_LEVEL}[mode]
        levels = tuple(_Level(*row) for row in tables)
        if mode == 2:
            _describe_two_level(levels[0], pse, physical_bits)
        else:
            for level in levels:
                _describe(level, mode, nxe, physical_bits, gigabyte_pages)
        _known[key] = levels
    return _known[key]


def _describe_two_level(directory: _Level, pse: bool, physical_bits: int) -> None:
    """PSE-36: in a large page's entry bits 13 and up hold address bits 32 and up, as many as the CPU has."""
    directory.large = pse
    have = min(max(physical_bits - 32, 0), 8)
    directory.reserved_large = 0x3FE000 & ~((1 << have) - 1 << 13)


def _describe(level: _Level, mode: int, nxe: bool, physical_bits: int, gigabyte_pages: bool) -> None:
    reserved = (1 << 52) - (1 << physical_bits)
    if mode == 3:
        reserved |= 0x7FF0_0000_0000_0000
    if not nxe:
        reserved |= PTE_XD
    if level.shift == 21:
        level.large = True
    elif level.shift == 30 and mode > 3:
        level.large = gigabyte_pages
    if level.shift == 30 and mode == 3:
        level.has_rights = False
        reserved |= PTE_XD | 0x1E6
    elif level.shift > 12 and not level.large:
        reserved |= PTE_PS
    level.reserved = reserved
    level.reserved_large = reserved | ((1 << level.shift) - (1 << 13) if level.shift > 12 else 0)


def _denied(sregs: dict[str, Any], access: int, user: bool, ac: bool, found: Walk) -> bool:
    """Whether the rights that the entries grant together refuse the access (SDM vol. 3 §4.6.1)."""
    if user and not found.user:
        return True
    if access == FETCH:
        return not found.executable or (not user and found.user and bool(sregs["cr4"] & CR4_SMEP))
    if not user and found.user and sregs["cr4"] & CR4_SMAP and not ac:
        return True
    return access == WRITE and not found.writable and (user or bool(sregs["cr0"] & CR0_WP))


def _key_denies(sregs: dict[str, Any], access: int, user: bool, found: Walk, rights: int) -> bool:
    """Whether the page's protection key refuses it: bit 0 of ``rights`` any data, bit 1 writes (§4.6.2)."""
    if not found.user or access == FETCH:
        return False
    return bool(rights & 1) or (
        bool(rights & 2) and access == WRITE and (user or bool(sregs["cr0"] & CR0_WP))
    )


def _mark(memory: Memory, entries: list[Entry], access: int, mode: int) -> None:
    for entry, bits in _marks(entries, access, mode):
        put = memory.put_u32 if entry.size == 4 else memory.put_u64
        put(entry.gpa, entry.value | bits)


def _marks(entries: list[Entry], access: int, mode: int) -> list[tuple[Entry, int]]:
    """The entries that lack accessed or dirty bits, with those; the PDPTEs of PAE paging have neither."""
    found = []
    for entry in entries[1 if mode == 3 else 0 :]:
        bits = PTE_A | PTE_D if access == WRITE and entry is entries[-1] else PTE_A
        if entry.value & bits != bits:
            found.append((entry, bits))
    return found


def unmarked(found: Walk, access: int, sregs: dict[str, Any]) -> bool:
    """Whether ``walk`` with ``mark`` would change what it found without."""
    return bool(_marks(found.entries, access, _mode(sregs)))
