"""Page walks against the rules of the Intel SDM vol. 3 §4."""

from __future__ import annotations

import itertools

import pytest
from x86_doubles import SparseMemory

from pykvm.x86.paging import (
    FETCH,
    PF_I,
    PF_P,
    PF_PK,
    PF_RSVD,
    PF_U,
    PF_W,
    READ,
    WRITE,
    canonical,
    fault_text,
    mode_text,
    walk,
)
from pykvm.x86.registers import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PKE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
)

P, RW, US, A, D, PS, XD = 1, 2, 4, 1 << 5, 1 << 6, 1 << 7, 1 << 63
ROOT = 0x1000


def sregs(cr4: int = CR4_PAE, efer: int = EFER_LME | EFER_LMA | EFER_NXE, wp: bool = True) -> dict[str, int]:
    return {"cr0": CR0_PE | CR0_PG | (CR0_WP if wp else 0), "cr3": ROOT, "cr4": cr4, "efer": efer}


def four_level(memory: SparseMemory, gva: int, *entries: int) -> None:
    """Tables at 0x1000, 0x2000, …; ``entries`` are the values, the next table's address put in."""
    for level, entry in enumerate(entries):
        shift = 39 - 9 * level
        last = level == len(entries) - 1
        table = 0 if last else ROOT + 0x1000 * (level + 1)
        memory.put_u64(ROOT + 0x1000 * level + (gva >> shift & 511) * 8, entry | table)


def test_without_paging_the_address_is_physical():
    found = walk(SparseMemory(), {"cr0": CR0_PE, "cr3": 0, "cr4": 0, "efer": 0}, 0x1_2345_6789)
    assert (found.gpa, found.fault, found.page) == (0x2345_6789, None, 0)


def test_four_levels_lead_to_a_4k_page_and_list_their_entries():
    memory, gva = SparseMemory(), 0xFFFF_8123_4567_89AB & ~0xFFF | 0xABC
    four_level(memory, gva, P | RW, P | RW, P | RW, 0x55_5000 | P | RW | XD)
    found = walk(memory, sregs(), gva)
    assert found.gpa == 0x55_5ABC
    assert (found.page, found.writable, found.user, found.executable) == (4096, True, False, False)
    assert [entry.name for entry in found.entries] == ["PML4E", "PDPTE", "PDE", "PTE"]
    assert found.entries[-1].value == 0x55_5000 | P | RW | XD


@pytest.mark.parametrize(("entries", "page"), [(2, 1 << 30), (3, 1 << 21)])
def test_large_pages_keep_the_low_bits_of_the_address(entries: int, page: int):
    memory, gva = SparseMemory(), 0x12_3456_789A
    four_level(memory, gva, *[P] * (entries - 1), 0x40_0000_0000 | P | PS)
    found = walk(memory, sregs(), gva)
    assert (found.gpa, found.page) == (0x40_0000_0000 | gva & page - 1, page)


def test_five_levels_start_one_table_higher():
    memory, gva = SparseMemory(), 0x00AB_CDEF_0123_4567
    memory.put_u64(ROOT + (gva >> 48 & 511) * 8, 0x2000 | P)
    memory.put_u64(0x2000 + (gva >> 39 & 511) * 8, 0x3000 | P)
    memory.put_u64(0x3000 + (gva >> 30 & 511) * 8, 0x1_4000_0000 | P | PS)
    found = walk(memory, sregs(CR4_PAE | CR4_LA57), gva)
    assert found.gpa == 0x1_4000_0000 | gva & 0x3FFF_FFFF
    assert found.entries[0].name == "PML5E"


def test_pae_takes_its_root_from_bits_31_to_5_of_cr3():
    memory, gva = SparseMemory(), 0xC123_4567
    state = sregs(efer=EFER_NXE) | {"cr3": 0x1020}
    memory.put_u64(0x1020 + 3 * 8, 0x2000 | P)
    memory.put_u64(0x2000 + (gva >> 21 & 511) * 8, 0x3000 | P | RW | US)
    memory.put_u64(0x3000 + (gva >> 12 & 511) * 8, 0x9_8765_4000 | P | RW | US)
    found = walk(memory, state, gva, WRITE, user=True)
    assert (found.gpa, found.fault) == (0x9_8765_4567, None)  # the PDPTE has no R/W and no U/S bit


def test_pae_large_page_is_2_mib():
    memory, gva = SparseMemory(), 0x0032_4567
    memory.put_u64(ROOT, 0x2000 | P)
    memory.put_u64(0x2000 + 8, 0x0F00_0000 | P | PS)
    found = walk(memory, sregs(efer=0), gva)
    assert (found.gpa, found.page) == (0x0F12_4567, 1 << 21)


def test_two_levels_of_32_bit_entries():
    memory, gva = SparseMemory(), 0xC040_3123
    memory.put_u32(ROOT + (gva >> 22) * 4, 0x2000 | P | RW)
    memory.put_u32(0x2000 + (gva >> 12 & 1023) * 4, 0x00AB_C000 | P)
    found = walk(memory, sregs(cr4=0, efer=0), gva)
    assert (found.gpa, found.page, found.writable) == (0x00AB_C123, 4096, False)
    assert [(entry.name, entry.size) for entry in found.entries] == [("PDE", 4), ("PTE", 4)]


def test_pse_36_puts_address_bits_32_and_up_at_bit_13():
    memory, gva = SparseMemory(), 0x0051_2345
    memory.put_u32(ROOT + 4, 0x8040_0000 | 0x5 << 13 | P | PS)
    found = walk(memory, sregs(cr4=CR4_PSE, efer=0), gva, physical_bits=36)
    assert (found.gpa, found.page) == (0x5_8051_2345, 1 << 22)


def test_pse_36_bits_that_the_cpu_lacks_are_reserved():
    memory = SparseMemory()
    memory.put_u32(ROOT, 0x20 << 13 | P | PS)
    found = walk(memory, sregs(cr4=CR4_PSE, efer=0), 0, physical_bits=36)
    assert found.fault == PF_P | PF_RSVD


def test_without_pse_the_page_size_bit_means_nothing():
    memory = SparseMemory()
    memory.put_u32(ROOT, 0x2000 | P | PS)
    memory.put_u32(0x2000, 0x7000 | P)
    assert walk(memory, sregs(cr4=0, efer=0), 5).gpa == 0x7005


@pytest.mark.parametrize("missing", range(4))
def test_an_entry_that_is_not_present_faults_with_p_clear(missing: int):
    memory = SparseMemory()
    entries = [P | RW | US] * 4
    entries[missing] = RW | US | 1 << 51 | PS  # bits of an entry that is not present are not looked at
    four_level(memory, 0, *entries)
    found = walk(memory, sregs(), 0, WRITE, user=True, physical_bits=46)
    assert found.fault == PF_W | PF_U
    assert len(found.entries) == missing + 1


@pytest.mark.parametrize(
    ("level", "bits", "physical_bits", "nxe"),
    [
        (0, 1 << 46, 46, True),
        (0, PS, 52, True),
        (1, 1 << 51, 51, True),
        (1, PS | 1 << 13, 52, True),
        (1, PS | 1 << 29, 52, True),
        (2, PS | 1 << 20, 52, True),
        (3, 1 << 40, 40, True),
        (3, XD, 52, False),
        (0, XD, 52, False),
    ],
)
def test_reserved_bits_of_4_level_entries(level: int, bits: int, physical_bits: int, nxe: bool):
    memory = SparseMemory()
    entries = [P | RW | US] * 4
    entries[level] |= bits
    four_level(memory, 0, *entries)
    efer = EFER_LME | EFER_LMA | (EFER_NXE if nxe else 0)
    assert walk(memory, sregs(efer=efer), 0, physical_bits=physical_bits).fault == PF_P | PF_RSVD


def test_without_gigabyte_pages_their_bit_is_reserved():
    memory = SparseMemory()
    four_level(memory, 0, P, P | PS)
    assert walk(memory, sregs(), 0).fault is None
    assert walk(memory, sregs(), 0, gigabyte_pages=False).fault == PF_P | PF_RSVD


@pytest.mark.parametrize("bits", [2, 4, 1 << 5, 1 << 8, 1 << 63, 1 << 52])
def test_reserved_bits_of_a_pae_pdpte(bits: int):
    memory = SparseMemory()
    memory.put_u64(ROOT, 0x2000 | P | bits)
    assert walk(memory, sregs(efer=EFER_NXE), 0).fault == PF_P | PF_RSVD


def test_bits_62_to_52_are_reserved_in_pae_but_ignored_in_4_levels():
    memory = SparseMemory()
    memory.put_u64(ROOT, 0x2000 | P)
    memory.put_u64(0x2000, 0x3000 | P | 1 << 55)
    assert walk(memory, sregs(efer=0), 0).fault == PF_P | PF_RSVD
    memory = SparseMemory()
    four_level(memory, 0, *[P | 1 << 55] * 4)
    assert walk(memory, sregs(), 0).fault is None


def allowed(access, user, ac, rw, us, xd, wp, smep, smap, nxe) -> bool:
    """Intel SDM vol. 3 §4.6.1, sentence by sentence."""
    if not user and not us:  # supervisor-mode access to a supervisor-mode address
        if access == READ:
            return True
        if access == WRITE:
            return rw if wp else True
        return not (nxe and xd)
    if not user:  # supervisor-mode access to a user-mode address
        if access == READ:
            return ac if smap else True
        if access == WRITE:
            return (rw or not wp) and (ac if smap else True)
        return False if smep else not (nxe and xd)
    if not us:
        return False
    if access == READ:
        return True
    return rw if access == WRITE else not (nxe and xd)


def test_access_rights_in_all_combinations():
    for rw, us, xd in itertools.product((False, True), repeat=3):
        for level in range(4):  # one entry takes the right away, or gives XD
            memory = SparseMemory()
            entries = [P | RW | US] * 4
            entries[level] = P | RW * rw | US * us | XD * xd
            four_level(memory, 0, *entries)
            for access, *switches in itertools.product((READ, WRITE, FETCH), *[(False, True)] * 6):
                user, ac, wp, smep, smap, nxe = switches
                if xd and not nxe:
                    continue  # then XD is a reserved bit
                state = sregs(
                    CR4_PAE | CR4_SMEP * smep | CR4_SMAP * smap,
                    EFER_LME | EFER_LMA | EFER_NXE * nxe,
                    wp,
                )
                found = walk(memory, state, 0, access, user=user, ac=ac)
                if allowed(access, user, ac, rw, us, xd, wp, smep, smap, nxe):
                    assert found.fault is None
                else:
                    fetch = PF_I * (access == FETCH and (nxe or smep))
                    assert found.fault == PF_P | PF_W * (access == WRITE) | PF_U * user | fetch


@pytest.mark.parametrize(
    ("pkru", "access", "user", "wp", "denied"),
    [
        (0, WRITE, True, True, False),
        (1 << 6, READ, True, True, True),
        (1 << 6, READ, False, True, True),
        (1 << 6, FETCH, True, True, False),
        (2 << 6, READ, True, True, False),
        (2 << 6, WRITE, True, True, True),
        (2 << 6, WRITE, False, True, True),
        (2 << 6, WRITE, False, False, False),
        (3 << 4, WRITE, True, True, False),
    ],
)
def test_protection_keys_of_user_pages(pkru: int, access: int, user: bool, wp: bool, denied: bool):
    memory = SparseMemory()
    four_level(memory, 0, P | RW | US, P | RW | US, P | RW | US, P | RW | US | 3 << 59)
    found = walk(memory, sregs(CR4_PAE | CR4_PKE, wp=wp), 0, access, user=user, pkru=pkru)
    assert bool(found.fault) == denied
    if denied:
        assert found.fault == PF_P | PF_PK | PF_W * (access == WRITE) | PF_U * user


def test_marking_sets_accessed_everywhere_and_dirty_in_the_leaf_of_a_write():
    memory = SparseMemory()
    four_level(memory, 0, *[P | RW] * 4)
    walk(memory, sregs(), 0, mark=True)
    assert [memory.u64(ROOT + 0x1000 * level) & (A | D) for level in range(4)] == [A] * 4
    walk(memory, sregs(), 0, WRITE, mark=True)
    assert [memory.u64(ROOT + 0x1000 * level) & (A | D) for level in range(4)] == [A, A, A, A | D]


def test_without_marking_a_walk_changes_nothing():
    memory = SparseMemory()
    four_level(memory, 0, *[P | RW] * 4)
    before = memory.read(ROOT, 0x4000)
    walk(memory, sregs(), 0, WRITE)
    assert memory.read(ROOT, 0x4000) == before


def test_pae_marks_no_pdpte():
    memory = SparseMemory()
    memory.put_u64(ROOT, 0x2000 | P)
    memory.put_u64(0x2000, P | PS)
    walk(memory, sregs(efer=0), 0, mark=True)
    assert (memory.u64(ROOT), memory.u64(0x2000)) == (0x2000 | P, P | PS | A)


def test_tables_outside_memory_read_as_all_ones_and_fault():
    memory = SparseMemory(size=0x10000)
    found = walk(memory, sregs() | {"cr3": 0x8000_0000}, 0)
    assert found.fault == PF_P | PF_RSVD


def test_canonical_addresses_of_48_and_57_bits():
    for gva in (0, 0x7FFF_FFFF_FFFF, 0xFFFF_8000_0000_0000, 0xFFFF_FFFF_FFFF_FFFF):
        assert canonical(gva, 0)
    for gva in (0x8000_0000_0000, 0xFFFF_7FFF_FFFF_FFFF):
        assert not canonical(gva, 0)
        assert canonical(gva, CR4_LA57)
    assert not canonical(0x0100_0000_0000_0000, CR4_LA57)


def test_faults_and_modes_have_words():
    assert fault_text(PF_P | PF_W | PF_U) == "protection, write, user"
    assert fault_text(PF_I) == "not present, supervisor, fetch"
    assert mode_text(sregs()) == "4-level paging"
    assert mode_text(sregs(efer=0)) == "PAE paging"
    assert mode_text(sregs(cr4=0, efer=0)) == "32-bit paging"
    assert mode_text({"cr0": 0, "cr4": 0, "efer": 0}) == "no paging"
