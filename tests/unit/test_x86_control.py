"""Control and debug registers, descriptor tables, INVLPG: what each allows, changes and tells the CPU."""

from __future__ import annotations

import pytest
from x86_machine import CODE_16, KERNEL_CODE, TABLES, Machine

from pykvm.x86.exceptions import DB, GP, PF, UD
from pykvm.x86.execute import execute
from pykvm.x86.msr import IA32_EFER
from pykvm.x86.registers import (
    CR0_CD,
    CR0_NW,
    CR0_PE,
    CR0_PG,
    CR0_TS,
    CR0_WP,
    CR4_CET,
    CR4_DE,
    CR4_LA57,
    CR4_PAE,
    CR4_PCIDE,
    CR4_PGE,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
)

PLACE = 0x4_0000
FROM_CR = {number: f"0f 20 {0xC0 | number << 3:02x}" for number in (0, 2, 3, 4)} | {8: "44 0f 20 c0"}
TO_CR = {number: f"0f 22 {0xC0 | number << 3:02x}" for number in (0, 2, 3, 4)} | {8: "44 0f 22 c0"}


def watched(mode: str, cpl: int = 0) -> tuple[Machine, list]:
    machine = Machine(mode, cpl=cpl)
    flushed: list = []
    machine.cpu.flush = flushed.append
    machine.cpu.flush_non_global = lambda: flushed.append("non-global")
    return machine, flushed


def set_cr(machine: Machine, number: int, value: int) -> tuple[int, int | None] | None:
    """MOV to a control register; gives the fault that it raises."""
    machine.regs["rax"] = value
    fault = machine.run(TO_CR[number]).fault
    return None if fault is None else (fault.vector, fault.error)


@pytest.mark.parametrize("number", [0, 2, 3, 4])
def test_control_registers_are_read_whole(number: int):
    machine = Machine("long")
    machine.sregs[f"cr{number}"] |= 0x20
    machine.regs["rax"] = (1 << 64) - 1
    machine.run(FROM_CR[number])
    assert machine.regs["rax"] == machine.sregs[f"cr{number}"]


@pytest.mark.parametrize(
    "code", [*FROM_CR.values(), *TO_CR.values(), "0f 06", "0f 01 f0", "0f 01 13", "0f 01 3b"]
)
def test_outside_of_ring_0_they_are_gp(code: str):
    machine = Machine("long", cpl=3)
    machine.regs["rbx"] = PLACE
    assert machine.fault(code) == (GP, 0)


@pytest.mark.parametrize("code", ["0f 20 c8", "0f 22 e8", "44 0f 20 c8", "44 0f 21 c0"])
def test_registers_that_are_none_are_ud(code: str):
    assert Machine("long").fault(code) == (UD, None)


def test_a_new_value_is_told_to_the_cpu_after_it_is_there():
    machine, flushed = watched("long")
    seen = []
    machine.cpu.flush = lambda gva: seen.append((gva, machine.sregs["cr4"]))
    assert set_cr(machine, 4, CR4_PAE | CR4_PGE) is None
    assert seen == [(None, CR4_PAE | CR4_PGE)]
    assert set_cr(machine, 3, TABLES) is None
    assert flushed == ["non-global"]
    assert "sregs" in machine.cpu.changed


@pytest.mark.parametrize(
    ("mode", "value"),
    [
        ("protected", CR0_PG),  # without PE
        ("protected", CR0_NW | CR0_PE),
        ("long", 1 << 32 | CR0_PG | CR0_PE),
        ("long", CR0_PE),  # 64-bit mode can't leave paging
    ],
)
def test_cr0_values_that_may_not_be(mode: str, value: int):
    machine = Machine(mode)
    machine.regs["rax"] = value
    assert machine.fault(TO_CR[0]) == (GP, 0)


def test_cr0_keeps_et_and_drops_what_it_has_not():
    machine, _ = watched("protected")
    assert set_cr(machine, 0, CR0_PE | CR0_CD | CR0_NW | 1 << 6 | 1 << 28) is None
    assert machine.sregs["cr0"] == CR0_PE | CR0_CD | CR0_NW | 0x10


def test_cet_needs_wp():
    machine = Machine("long")
    machine.sregs["cr0"] &= ~CR0_WP
    assert set_cr(machine, 4, CR4_PAE | CR4_CET) == (GP, 0)
    machine.sregs["cr0"] |= CR0_WP
    assert set_cr(machine, 4, CR4_PAE | CR4_CET) is None
    machine.regs["rax"] = machine.sregs["cr0"] & ~CR0_WP
    assert machine.fault(TO_CR[0]) == (GP, 0)


def test_the_way_into_long_mode_and_back():
    machine, flushed = watched("protected")
    machine.memory.put_u64(TABLES, TABLES + 0x1000 | 7)
    machine.memory.put_u64(TABLES + 0x1000, 0x87)
    machine.regs |= {"rcx": IA32_EFER, "rdx": 0, "rax": EFER_LME}
    machine.run("0f 30")
    assert machine.sregs["efer"] == EFER_LME
    assert set_cr(machine, 0, machine.sregs["cr0"] | CR0_PG) == (GP, 0)  # without PAE
    assert set_cr(machine, 4, CR4_PAE) is None
    assert set_cr(machine, 3, TABLES) is None
    assert set_cr(machine, 0, machine.sregs["cr0"] | CR0_PG) is None
    assert machine.sregs["efer"] == EFER_LME | EFER_LMA
    assert machine.cpu.bits == 32
    machine.memory.put_u64(0x1000 + KERNEL_CODE, 0x00AF_9B00_0000_FFFF)
    machine.run(f"ea 00 00 02 00 {KERNEL_CODE:02x} 00")
    assert machine.cpu.bits == 64
    assert set_cr(machine, 4, 0) == (GP, 0)
    machine.memory.write(PLACE, (0x3000).to_bytes(4, "little") + CODE_16.to_bytes(2, "little"))
    machine.regs["rbx"] = PLACE
    assert machine.run("ff 2b").fault is None
    assert set_cr(machine, 0, machine.sregs["cr0"] & ~CR0_PG) is None
    assert machine.sregs["efer"] == EFER_LME
    assert set_cr(machine, 0, machine.sregs["cr0"] & ~CR0_PE) is None
    assert not machine.cpu.protected
    assert flushed.count("non-global") == 1
    assert flushed.count(None) == 5


def test_paging_can_not_begin_in_a_segment_of_64_bits():
    machine = Machine("protected")
    machine.sregs |= {"efer": EFER_LME, "cr4": CR4_PAE}
    machine.sregs["cs"] |= {"l": 1}
    assert set_cr(machine, 0, machine.sregs["cr0"] | CR0_PG) == (GP, 0)


def test_pae_paging_loads_its_pdptes_and_refuses_reserved_bits():
    machine, _ = watched("protected")
    machine.sregs |= {"cr4": CR4_PAE, "cr3": TABLES}
    machine.memory.put_u64(TABLES + 8, 3)
    assert set_cr(machine, 0, machine.sregs["cr0"] | CR0_PG) == (GP, 0)
    machine.memory.put_u64(TABLES + 8, 2)  # not present: nothing is reserved
    assert set_cr(machine, 0, machine.sregs["cr0"] | CR0_PG) is None
    machine.memory.put_u64(0x7000, 1 | 1 << 60)
    assert set_cr(machine, 3, 0x7000) == (GP, 0)
    assert machine.sregs["cr3"] == TABLES


def test_cr3_has_no_bits_beyond_the_physical_address():
    machine, flushed = watched("long")
    machine.cpu.physical_bits = 40
    assert set_cr(machine, 3, 1 << 40) == (GP, 0)
    assert set_cr(machine, 3, 1 << 63 | TABLES) == (GP, 0)
    machine.sregs["cr4"] |= CR4_PCIDE
    assert set_cr(machine, 3, 1 << 63 | TABLES | 5) is None
    assert machine.sregs["cr3"] == TABLES | 5
    assert flushed == ["non-global"]


def test_cr4_has_the_bits_of_the_features():
    machine = Machine("long")
    machine.cpu.features = frozenset(("pae", "pge"))
    assert set_cr(machine, 4, CR4_PAE | CR4_PGE) is None
    assert set_cr(machine, 4, CR4_PAE | CR4_SMEP) == (GP, 0)
    machine.cpu.features = None
    assert set_cr(machine, 4, CR4_PAE | CR4_SMEP) is None
    assert set_cr(machine, 4, CR4_PAE | 1 << 40) == (GP, 0)
    assert set_cr(machine, 4, CR4_PAE | CR4_LA57) == (GP, 0)  # not while paging in IA-32e mode


def test_pcid_begins_in_long_mode_with_a_clear_cr3():
    machine = Machine("long")
    machine.sregs["cr3"] |= 1
    assert set_cr(machine, 4, CR4_PAE | CR4_PCIDE) == (GP, 0)
    machine.sregs["cr3"] &= ~1
    assert set_cr(machine, 4, CR4_PAE | CR4_PCIDE) is None
    assert set_cr(Machine("protected"), 4, CR4_PCIDE) == (GP, 0)


def test_cr8_is_the_callers_to_keep():
    machine = Machine("long")
    assert set_cr(machine, 8, 9) is None
    assert machine.cpu.cr8 == machine.sregs["cr8"] == 9
    machine.run(FROM_CR[8])
    assert machine.regs["rax"] == 9
    assert set_cr(machine, 8, 16) == (GP, 0)


def test_lmsw_sets_pe_and_never_clears_it():
    machine, flushed = watched("real")
    machine.regs["rax"] = 0xFFF1
    machine.run("0f 01 f0")
    assert machine.sregs["cr0"] & 0xF == CR0_PE
    assert flushed == [None]
    machine.regs["rax"] = 0xE
    machine.run("0f 01 f0")
    assert machine.sregs["cr0"] & 0xF == 0xF


def test_clts_clears_ts():
    machine = Machine("long")
    machine.sregs["cr0"] |= CR0_TS
    machine.run("0f 06")
    assert not machine.sregs["cr0"] & CR0_TS


def test_real_mode_gives_a_segment_that_was_null_its_limit_back():
    machine = Machine("real")
    limit = machine.sregs["es"]["limit"]
    machine.sregs["es"] |= {"unusable": 1, "limit": 0, "type": 0}
    machine.sregs["fs"] |= {"limit": 0xFFFF_FFFF}
    machine.regs["rax"] = 0x4000
    machine.run("8e c0")
    machine.run("8e e0")
    assert (machine.sregs["es"]["base"], machine.sregs["es"]["limit"]) == (0x4_0000, limit)
    assert (machine.sregs["fs"]["base"], machine.sregs["fs"]["limit"]) == (0x4_0000, 0xFFFF_FFFF)
    assert machine.run("26 88 07").fault is None


# Debug registers


def test_debug_registers_have_fixed_bits():
    machine = Machine("long")
    machine.cpu.debug = [0] * 8
    for code, number, stored in (("0f 23 f0", 6, 0xFFFF_0FF0 | 0xE00F), ("0f 23 f8", 7, 0xFFFF_27FF)):
        machine.regs["rax"] = 0xFFFF_FFFF
        machine.run(code)
        assert machine.cpu.debug[number] == stored
    machine.cpu.debug[7] = 0x400
    machine.regs["rax"] = 1 << 32
    assert machine.fault("0f 23 f0") == (GP, 0)
    machine.regs["rax"] = 1 << 40
    machine.run("0f 23 c0")
    machine.run("0f 21 c1")
    assert machine.regs["rcx"] == 1 << 40
    assert "debug" in machine.cpu.changed


def test_dr4_and_dr5_are_dr6_and_dr7_without_de():
    machine = Machine("long")
    machine.cpu.debug = [0, 0, 0, 0, 0, 0, 0x66, 0x77]
    machine.run("0f 21 e0")
    assert machine.regs["rax"] == 0x66
    machine.sregs["cr4"] |= CR4_DE
    assert machine.fault("0f 21 e0") == (UD, None)


def test_gd_guards_debug_registers():
    machine = Machine("long")
    machine.cpu.debug = [0, 0, 0, 0, 0, 0, 0, 1 << 13]
    assert machine.fault("0f 21 c0") == (DB, None)
    assert (machine.cpu.debug[6], machine.cpu.debug[7]) == (1 << 13, 0)


def test_without_debug_registers_nothing_is_carried_out():
    machine = Machine("long")
    assert execute(machine.cpu, machine.memory, bytes.fromhex("0f 21 c0")) is None


# Descriptor tables and translations


@pytest.mark.parametrize(
    ("mode", "code", "name", "base"),
    [
        ("long", "0f 01 13", "gdt", 0xFFFF_8000_1122_3344),
        ("long", "0f 01 1b", "idt", 0xFFFF_8000_1122_3344),
        ("protected", "0f 01 13", "gdt", 0x1122_3344),
        ("protected", "66 0f 01 1b", "idt", 0x22_3344),
    ],
)
def test_lgdt_and_lidt_load_limit_and_base(mode: str, code: str, name: str, base: int):
    machine = Machine(mode)
    machine.regs["rbx"] = PLACE
    machine.memory.write(PLACE, (0xFFFF_8000_1122_3344 << 16 | 0x57).to_bytes(10, "little"))
    machine.run(code)
    assert machine.sregs[name] == {"base": base, "limit": 0x57}


def test_lgdt_refuses_a_base_that_is_not_canonical():
    machine = Machine("long")
    machine.regs["rbx"] = PLACE
    machine.memory.write(PLACE, (1 << 63).to_bytes(10, "little"))
    assert machine.fault("0f 01 13") == (GP, 0)
    machine.regs["rbx"] = 1 << 30
    assert machine.fault("0f 01 13")[0] == PF


def test_invlpg_tells_the_linear_address_and_checks_none():
    machine, flushed = watched("long")
    machine.regs["rbx"] = 0xFFFF_8000_0000_1234
    machine.run("0f 01 3b")
    assert flushed == [0xFFFF_8000_0000_1234]
    machine.regs["rbx"] = 1 << 50
    assert machine.run("0f 01 3b").fault is None
    assert len(flushed) == 1
    machine, flushed = watched("protected")
    machine.sregs["ds"] |= {"base": 0x1000, "limit": 0}
    machine.regs["rbx"] = 0x5000
    machine.run("0f 01 3b")
    assert flushed == [0x6000]


def test_invpcid_tells_one_address_or_all():
    machine, flushed = watched("long")
    machine.regs["rbx"] = PLACE
    machine.memory.put_u64(PLACE + 8, 0x7000)
    for kind in (0, 1, 2, 3):
        machine.regs["rax"] = kind
        machine.run("66 0f 38 82 03")
    assert flushed == [0x7000, None, None, None]
