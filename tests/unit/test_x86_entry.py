"""Entry states: what VMRUN and VM entry check, and that registers, GDT and page tables agree."""

from __future__ import annotations

import pytest
from x86_doubles import SparseMemory

from pykvm.kvm import structs
from pykvm.x86 import entry
from pykvm.x86.paging import FETCH, WRITE, walk
from pykvm.x86.registers import CR0_PE, CR0_PG, CR4_PAE, EFER_LMA, EFER_LME, RFLAGS_IF
from pykvm.x86.segments import decode_segment

GDT = 0x91000
TABLES = 0x92000
STACK = 0x9C000
SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss")

STATES = {
    "real": entry.real(0x7C05, stack=STACK),
    "protected": entry.protected(0x100000, stack=STACK, gdt=GDT, rsi=0x90000),
    "long": entry.long(0x1000000, stack=STACK, gdt=GDT, page_tables=TABLES, rsi=0x90000),
}


@pytest.fixture(params=STATES, name="state")
def any_state(request):
    return STATES[request.param]


def test_a_state_names_every_register_of_kvm_regs_and_kvm_sregs(state):
    # interrupt_bitmap is no register: it holds an injected interrupt, of which there is none at the start.
    assert set(state["regs"]) == {name for name, _ in structs.kvm_regs._fields_}
    assert set(state["sregs"]) == {name for name, *_ in structs.kvm_sregs._fields_} - {"interrupt_bitmap"}
    for name in (*SEGMENTS, "tr", "ldt"):
        assert set(state["sregs"][name]) == {n for n, _ in structs.kvm_segment._fields_} - {"padding"}


def test_interrupts_are_off_and_only_the_fixed_flag_is_set(state):
    assert state["regs"]["rflags"] == 2
    assert not state["regs"]["rflags"] & RFLAGS_IF


def test_segments_pass_the_checks_of_a_vm_entry(state):
    """SDM vol. 3 §26.3.1.2."""
    sregs = state["sregs"]
    for name in SEGMENTS:
        segment = sregs[name]
        assert segment["unusable"] == 0 and segment["present"] == 1 and segment["s"] == 1, name
        assert segment["type"] & 1, "a usable segment must be accessed"
        assert segment["dpl"] == 0, "CPL is SS.DPL; RPL of CS and SS must agree"
        assert segment["selector"] & 3 == 0
        if segment["limit"] & 0xFFF != 0xFFF:
            assert segment["g"] == 0
        if segment["limit"] >> 20:
            assert segment["g"] == 1
    assert sregs["cs"]["type"] == 11
    assert sregs["ss"]["type"] == 3
    assert not (sregs["cs"]["l"] and sregs["cs"]["db"]), "VMRUN fails with CS.L and CS.D both set"


def test_task_register_holds_a_busy_tss_and_there_is_no_ldt(state):
    tr = state["sregs"]["tr"]
    assert (tr["type"], tr["s"], tr["present"], tr["unusable"], tr["g"]) == (11, 0, 1, 0, 0)
    assert tr["selector"] & 4 == 0
    assert state["sregs"]["ldt"]["unusable"] == 1


def test_control_registers_agree_with_each_other(state):
    """AMD APM vol. 2 §15.5.1: EFER.LME and CR0.PG demand CR4.PAE and CR0.PE, and EFER.LMA is their and."""
    sregs = state["sregs"]
    paging = bool(sregs["cr0"] & CR0_PG)
    assert not paging or sregs["cr0"] & CR0_PE
    assert bool(sregs["efer"] & EFER_LMA) == bool(paging and sregs["efer"] & EFER_LME)
    if sregs["efer"] & EFER_LMA:
        assert sregs["cr4"] & CR4_PAE
    else:
        assert not sregs["cs"]["l"]


def test_registers_of_one_state_are_not_those_of_another():
    sregs = STATES["long"]["sregs"]
    sregs["ds"]["base"] = 1
    try:
        assert sregs["es"]["base"] == sregs["ss"]["base"] == 0
    finally:
        sregs["ds"]["base"] = 0


def test_real_mode_starts_at_the_address_asked_for():
    state = entry.real(0x7C05, stack=STACK)
    cs = state["sregs"]["cs"]
    assert (cs["selector"], cs["base"], state["regs"]["rip"]) == (0x7C0, 0x7C00, 5)
    assert state["sregs"]["ds"]["base"] == state["sregs"]["es"]["base"] == 0x7C00
    assert not state["sregs"]["cr0"] & CR0_PE
    assert state["sregs"]["idt"] == {"base": 0, "limit": 0x3FF}


def test_real_mode_reaches_the_last_byte_of_the_first_mib():
    state = entry.real(0xFFFFF, stack=STACK)
    assert state["sregs"]["cs"]["base"] + state["regs"]["rip"] == 0xFFFFF


@pytest.mark.parametrize("stack", [STACK, 0x8000, 0x4000])
def test_real_mode_stack_ends_where_it_was_put(stack):
    state = entry.real(0x7C00, stack=stack)
    ss = state["sregs"]["ss"]
    assert ss["base"] == ss["selector"] << 4
    assert ss["base"] + state["regs"]["rsp"] == stack
    assert 0 < state["regs"]["rsp"] <= 0xFFFF


@pytest.mark.parametrize(("mode", "db", "long"), [("protected", 1, 0), ("long", 0, 1)])
def test_flat_modes_use_the_selectors_of_linux_boot_protocol(mode, db, long):
    """boot.rst: __BOOT_CS is 0x10, __BOOT_DS 0x18, flat; rsi holds boot_params; ebp, edi, ebx are 0."""
    regs, sregs = STATES[mode]["regs"], STATES[mode]["sregs"]
    assert (sregs["cs"]["selector"], sregs["cs"]["db"], sregs["cs"]["l"]) == (0x10, db, long)
    for name in ("ds", "es", "ss"):
        assert sregs[name]["selector"] == 0x18
    for name in SEGMENTS:
        assert (sregs[name]["base"], sregs[name]["limit"]) == (0, 0xFFFFFFFF)
    assert regs["rsi"] == 0x90000
    assert regs["rbp"] == regs["rdi"] == regs["rbx"] == 0


@pytest.mark.parametrize("mode", ["protected", "long"])
def test_reloading_a_selector_gives_what_the_register_already_holds(mode):
    sregs = STATES[mode]["sregs"]
    table = entry.descriptors(STATES[mode])
    assert sregs["gdt"] == {"base": GDT, "limit": len(table) - 1}
    assert table[:0x10] == bytes(0x10), "the null descriptor, and one that nobody uses"
    for name in ("cs", "ds", "es", "ss", "fs", "gs", "tr"):
        segment = sregs[name]
        selector = segment["selector"]
        low = int.from_bytes(table[selector : selector + 8], "little")
        high = int.from_bytes(table[selector + 8 : selector + 16], "little") if name == "tr" else 0
        assert decode_segment(selector, low, high) == segment


def test_the_tss_lies_behind_the_gdt_it_is_described_in():
    tr = STATES["long"]["sregs"]["tr"]
    assert tr["base"] >= GDT + STATES["long"]["sregs"]["gdt"]["limit"] + 1
    assert tr["limit"] == 0x67


def test_long_mode_maps_the_first_four_gib_to_themselves():
    memory = SparseMemory()
    tables = entry.identity_map(TABLES)
    assert len(tables) == entry.PAGE_TABLES_SIZE
    memory.write(TABLES, tables)
    sregs = STATES["long"]["sregs"]
    for gva in (0, 0x7C05, 0x1FFFFF, 0x200000, 0x3FFFFFFF, 0x40000000, 0xBFFFF123, 0xFEE00000, 0xFFFFFFFF):
        for access in (FETCH, WRITE):
            found = walk(memory, sregs, gva, access)
            assert (found.fault, found.gpa, found.page) == (None, gva, 1 << 21)
    assert walk(memory, sregs, 1 << 32).fault is not None
