"""Page walks: from a linear to a guest-physical address, or to the page fault that hardware would raise.

Exact by the Intel SDM vol. 3 §4 (permissions §4.6, faults §4.7, accessed and dirty §4.8) for every mode:
no paging, 32-bit, PAE, 4-level and 5-level paging, with WP, NX, SMEP, SMAP, reserved bits and protection
keys of user pages. Memory is whatever has ``u32``, ``u64``, ``put_u32``, ``put_u64`` by physical address.
"""

from __future__ import annotations

from pykvm.errors import PykvmError
from pykvm.frozen import frozen
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
# many bits it takes. A large page is a leaf at a level that translates bits 30, 22 or 21 upward.
_TWO_LEVEL = (("PDE", 22, 10), ("PTE", 12, 10))
_PAE = (("PDPTE", 30, 2), ("PDE", 21, 9), ("PTE", 12, 9))
_FOUR_LEVEL = (("PML4E", 39, 9), ("PDPTE", 30, 9), ("PDE", 21, 9), ("PTE", 12, 9))
_FIVE_LEVEL = (("PML5E", 48, 9), *_FOUR_LEVEL)


@frozen
class Entry:
    """One table entry that a walk read: its name, where it is, its width in bytes, and its value."""

    name: str
    gpa: int
    size: int
    value: int


@frozen
class Walk:
    """What a walk found. ``fault`` is None, or the error code of the page fault; then ``gpa`` says nothing.

    ``page`` is the page's size in bytes (0 without paging); ``writable`` and ``user`` say what the entries
    grant together, ``executable`` whether no entry has XD; ``entries`` are those read, from the root down.
    """

    gva: int
    gpa: int
    fault: int | None = None
    page: int = 0
    writable: bool = True
    user: bool = True
    executable: bool = True
    entries: tuple[Entry, ...] = ()


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
    return names[len(_levels(sregs))]


def _levels(sregs: dict[str, Any]) -> tuple[tuple[str, int, int], ...]:
    if not sregs["cr0"] & CR0_PG:
        return ()
    if not sregs["cr4"] & CR4_PAE:
        return _TWO_LEVEL
    if not sregs["efer"] & EFER_LMA:
        return _PAE
    return _FIVE_LEVEL if sregs["cr4"] & CR4_LA57 else _FOUR_LEVEL


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
    mark: bool = False,
) -> Walk:
    """Translate ``gva`` under ``sregs`` (cr0, cr3, cr4, efer) for ``access`` (READ, WRITE or FETCH).

    ``user``: a user-mode access (from CPL 3, and not to a descriptor table or TSS). ``ac``: an explicit
    supervisor access with RFLAGS.AC set, which SMAP lets pass. ``physical_bits``: MAXPHYADDR, above which
    address bits are reserved. ``mark``: set the accessed and dirty bits as the CPU does.
    Whether the address is canonical is the caller's to check: that is #GP or #SS, not a page fault.
    """
    levels = _levels(sregs)
    if not levels:
        return Walk(gva=gva, gpa=gva & 0xFFFFFFFF)
    cr4 = sregs["cr4"]
    nxe = bool(sregs["efer"] & EFER_NXE) and levels is not _TWO_LEVEL
    error = (PF_W if access == WRITE else 0) | (PF_U if user else 0)
    if access == FETCH and (nxe or cr4 & CR4_SMEP):
        error |= PF_I
    if levels is _FOUR_LEVEL or levels is _FIVE_LEVEL:
        table = sregs["cr3"] & 0xF_FFFF_FFFF_F000
    else:
        gva &= 0xFFFFFFFF
        table = sregs["cr3"] & (0xFFFFFFE0 if levels is _PAE else 0xFFFFF000)

    size = 4 if levels is _TWO_LEVEL else 8
    entries: list[Entry] = []
    writable = may_user = executable = True
    value = shift = 0

    def result(fault: int | None, gpa: int = 0) -> Walk:
        return Walk(
            gva=gva,
            gpa=gpa,
            fault=fault,
            page=1 << shift,
            writable=writable,
            user=may_user,
            executable=executable,
            entries=tuple(entries),
        )

    for name, shift, bits in levels:
        gpa = table + (gva >> shift & (1 << bits) - 1) * size
        value = _read_entry(memory, gpa, size)
        entries.append(Entry(name=name, gpa=gpa, size=size, value=value))
        if not value & PTE_P:
            return result(error)
        leaf = shift == 12 or bool(value & PTE_PS and _may_be_large(levels, shift, cr4))
        if value & _reserved(levels, shift, leaf, physical_bits, nxe):
            return result(error | PF_P | PF_RSVD)
        if not (levels is _PAE and shift == 30):
            writable = writable and bool(value & PTE_RW)
            may_user = may_user and bool(value & PTE_US)
            executable = executable and not (nxe and value & PTE_XD)
        if leaf:
            break
        table = value & (0xFFFFF000 if size == 4 else 0xF_FFFF_FFFF_F000)

    denied = _denied(sregs, access, user, ac, writable, may_user, executable)
    if denied:
        return result(error | PF_P)
    if may_user and access != FETCH and cr4 & CR4_PKE and len(levels) > 3:
        rights = pkru >> 2 * (value >> 59 & 15)
        if rights & 1 or (rights & 2 and access == WRITE and (user or sregs["cr0"] & CR0_WP)):
            return result(error | PF_P | PF_PK)
    if mark:
        _mark(memory, entries, levels, access)
    page = 1 << shift
    if size == 4 and shift == 22:
        frame = value & 0xFFC00000 | (value >> 13 & 0xFF) << 32  # PSE-36
    else:
        frame = value & 0xF_FFFF_FFFF_F000 & ~(page - 1)
    return result(None, frame | gva & page - 1)


def _read_entry(memory: Memory, gpa: int, size: int) -> int:
    try:
        return memory.u32(gpa) if size == 4 else memory.u64(gpa)
    except PykvmError:
        return (1 << 8 * size) - 1  # a PC reads all ones where nothing is


def _may_be_large(levels: tuple[tuple[str, int, int], ...], shift: int, cr4: int) -> bool:
    """Whether PTE_PS makes an entry that translates bits from ``shift`` up map a large page."""
    if shift == 22:
        return bool(cr4 & CR4_PSE)
    return shift == 21 or (shift == 30 and levels is not _PAE)


def _reserved(
    levels: tuple[tuple[str, int, int], ...], shift: int, leaf: bool, physical_bits: int, nxe: bool
) -> int:
    """The bits that must be 0 in a present entry (SDM vol. 3 tables 4-4 to 4-20)."""
    if levels is _TWO_LEVEL:
        if shift == 12 or not leaf:
            return 0
        # PSE-36: bits 13 and up hold address bits 32 and up, those the CPU has; bit 21 none.
        have = min(max(physical_bits - 32, 0), 8)
        return 0x3FE000 & ~((1 << have) - 1 << 13)
    address = (1 << 52) - (1 << physical_bits)
    if levels is _PAE:
        if shift == 30:
            return 0xFFF0_0000_0000_01E6 | address
        mask = 0x7FF0_0000_0000_0000 | address
    else:
        mask = address
        if shift >= 39:
            mask |= PTE_PS
    if not nxe:
        mask |= PTE_XD
    if leaf and shift > 12:
        mask |= (1 << shift) - (1 << 13)
    return mask


def _denied(
    sregs: dict[str, Any],
    access: int,
    user: bool,
    ac: bool,
    writable: bool,
    may_user: bool,
    executable: bool,
) -> bool:
    """Whether the rights that the entries grant together refuse the access (SDM vol. 3 §4.6.1)."""
    if user and not may_user:
        return True
    if access == FETCH:
        return not executable or (not user and may_user and bool(sregs["cr4"] & CR4_SMEP))
    if not user and may_user and sregs["cr4"] & CR4_SMAP and not ac:
        return True
    return access == WRITE and not writable and (user or bool(sregs["cr0"] & CR0_WP))


def _mark(
    memory: Memory, entries: list[Entry], levels: tuple[tuple[str, int, int], ...], access: int
) -> None:
    for entry in entries:
        bits = PTE_A
        if entry is entries[-1] and access == WRITE:
            bits |= PTE_D
        if levels is _PAE and entry.name == "PDPTE":
            continue  # PDPTEs of PAE paging have neither
        if entry.value & bits != bits:
            put = memory.put_u32 if entry.size == 4 else memory.put_u64
            put(entry.gpa, entry.value | bits)
