"""Instructions about selectors and descriptor tables, by the manual's pseudo-code."""

from __future__ import annotations

import pytest
from x86_machine import (
    ABSENT_DATA,
    CODE_16,
    CONFORMING,
    EXECUTE_ONLY,
    FREE_TASK,
    GDT,
    IDT,
    KERNEL_CODE,
    KERNEL_DATA,
    LIMIT,
    LOCAL,
    READ_ONLY,
    SMALL_DATA,
    TASK,
    USER_CODE,
    USER_DATA,
    Machine,
)

from pykvm.x86.exceptions import GP, NP, SS, UD
from pykvm.x86.registers import CR4_UMIP, RFLAGS_ZF

# eax, cx; the r/m operand is ecx
LAR, LSL = "0f 02 c1", "0f 03 c1"
VERR, VERW = "0f 00 e1", "0f 00 e9"
LTR, LLDT, STR, SLDT = "0f 00 d9", "0f 00 d1", "0f 00 c9", "0f 00 c1"
MOV_SS, MOV_DS, MOV_CS = "8e d1", "8e d9", "8e c9"


def with_selector(mode: str, selector: int, cpl: int = 0) -> Machine:
    machine = Machine(mode, cpl)
    machine.regs["rcx"] = 0xFFFF_0000 | selector
    machine.regs["rax"] = 0x1111_1111_1111_1111
    return machine


@pytest.mark.parametrize(
    ("mode", "selector", "cpl", "rights"),
    [
        ("protected", KERNEL_CODE, 0, 0x00CF_9B00),
        ("protected", USER_DATA | 3, 3, 0x00CF_F300),
        ("protected", KERNEL_DATA, 3, None),
        ("protected", USER_DATA, 3, 0x00CF_F300),
        ("protected", CONFORMING | 3, 3, 0x00CF_9F00),
        ("protected", KERNEL_DATA | 3, 0, None),  # RPL above DPL
        ("protected", ABSENT_DATA, 0, 0x00CF_1300),  # presence isn't asked
        ("protected", FREE_TASK, 0, 0x0000_8900),
        ("protected", LOCAL, 0, 0x0000_8200),
        ("protected", 0, 0, None),
        ("protected", 0x100, 0, None),
        ("long", KERNEL_CODE, 0, 0x00AF_9B00),
        ("long", FREE_TASK, 0, 0x0000_8900),
    ],
)
def test_lar_gives_access_rights_or_clears_zf(mode: str, selector: int, cpl: int, rights: int | None):
    machine = with_selector(mode, selector, cpl)
    machine.run(LAR)
    assert machine.flag(RFLAGS_ZF) == (rights is not None)
    expected = 0x1111_1111_1111_1111 if rights is None else rights & 0x00F0_FF00
    assert machine.regs["rax"] == expected


@pytest.mark.parametrize(("kind", "legacy", "long"), [(1, True, False), (5, True, False), (12, True, True)])
def test_lar_sees_the_system_types_of_its_mode(kind: int, legacy: bool, long: bool):
    for mode, seen in (("protected", legacy), ("long", long)):
        machine = with_selector(mode, SMALL_DATA)
        machine.memory.put_u64(GDT + SMALL_DATA, 0x8000_0000_0000 | kind << 40)
        machine.run(LAR)
        assert machine.flag(RFLAGS_ZF) == seen


@pytest.mark.parametrize(
    ("selector", "limit"),
    [(KERNEL_DATA, 0xFFFF_FFFF), (SMALL_DATA, 0xFFF), (CODE_16, 0xFFFF), (LOCAL, 0x17), (0, None)],
)
def test_lsl_gives_the_limit_in_bytes(selector: int, limit: int | None):
    machine = with_selector("protected", selector)
    machine.run(LSL)
    assert machine.flag(RFLAGS_ZF) == (limit is not None)
    assert machine.regs["rax"] == (0x1111_1111_1111_1111 if limit is None else limit)


def test_lsl_of_16_bits_keeps_the_upper_bytes():
    machine = with_selector("long", KERNEL_DATA)
    machine.run("66 " + LSL)
    assert machine.regs["rax"] == 0x1111_1111_1111_FFFF


@pytest.mark.parametrize(
    ("selector", "cpl", "readable", "writable"),
    [
        (KERNEL_DATA, 0, True, True),
        (READ_ONLY, 0, True, False),
        (KERNEL_CODE, 0, True, False),
        (EXECUTE_ONLY, 0, False, False),
        (KERNEL_DATA, 3, False, False),
        (CONFORMING, 3, True, False),
        (USER_DATA | 3, 3, True, True),
        (TASK, 0, False, False),
        (0, 0, False, False),
    ],
)
def test_verr_and_verw_tell_what_the_level_may_do(selector: int, cpl: int, readable: bool, writable: bool):
    machine = with_selector("protected", selector, cpl)
    machine.run(VERR)
    assert machine.flag(RFLAGS_ZF) == readable
    machine.run(VERW)
    assert machine.flag(RFLAGS_ZF) == writable


@pytest.mark.parametrize("code", [LAR, LSL, VERR, LTR, LLDT, STR, SLDT])
def test_real_and_v86_mode_have_none_of_them(code: str):
    assert Machine("real").fault(code) == (UD, None)
    machine = Machine("protected")
    machine.enter_v86()
    assert machine.fault(code) == (UD, None)


def test_the_first_entry_of_the_gdt_is_never_used():
    for selector in (0, 3):
        machine = with_selector("protected", selector)
        machine.memory.put_u64(GDT, 0x00CF_F300_0000_FFFF)
        machine.run(LAR)
        assert not machine.flag(RFLAGS_ZF)


def test_selectors_in_the_ldt():
    machine = with_selector("protected", 0x14)
    machine.sregs["ldt"] |= {"base": 0x9000, "limit": 0x17, "unusable": 0, "present": 1}
    machine.memory.put_u64(0x9010, 0x0040_9300_0000_00FF)
    machine.run(LSL)
    assert machine.regs["rax"] == 0xFF


# LTR, LLDT


def test_ltr_loads_the_tss_and_marks_it_busy():
    machine = with_selector("protected", FREE_TASK)
    machine.run(LTR)
    tr = machine.sregs["tr"]
    assert (tr["selector"], tr["base"], tr["limit"], tr["type"]) == (FREE_TASK, 0x4800, 0x67, 11)
    assert machine.memory.u64(GDT + FREE_TASK) == 0x0000_8B00_4800_0067


def test_ltr_in_ia32e_mode_takes_a_64_bit_base():
    machine = with_selector("long", FREE_TASK)
    machine.memory.put_u64(GDT + FREE_TASK + 8, 0xFFFF_8000)
    machine.run(LTR)
    assert machine.sregs["tr"]["base"] == 0xFFFF_8000_0000_4800


def test_a_16_byte_descriptor_may_be_the_last_of_the_gdt():
    machine = with_selector("long", LIMIT - 15)
    machine.memory.put_u64(GDT + LIMIT - 15, 0x0000_8900_4800_0067)
    machine.run(LTR)
    assert machine.sregs["tr"]["base"] == 0x4800


@pytest.mark.parametrize(
    ("mode", "selector", "fault"),
    [
        ("protected", 0, (GP, 0)),
        ("protected", 0x100, (GP, 0x100)),
        ("protected", FREE_TASK | 4, (GP, FREE_TASK | 4)),
        ("protected", KERNEL_DATA, (GP, KERNEL_DATA)),
        ("protected", LOCAL, (GP, LOCAL)),
        ("long", LIMIT - 7, (GP, LIMIT - 7)),  # its second half is beyond the GDT
    ],
)
def test_bad_task_selectors(mode: str, selector: int, fault: tuple[int, int]):
    machine = with_selector(mode, selector)
    machine.memory.put_u64(GDT + LIMIT - 7, 0x0000_8900_4800_0067)
    assert machine.fault(LTR) == fault


def test_a_busy_tss_cannot_be_loaded_again():
    machine = with_selector("long", FREE_TASK)
    machine.run(LTR)
    assert machine.fault(LTR) == (GP, FREE_TASK)


def test_an_absent_tss_is_np():
    machine = with_selector("protected", FREE_TASK)
    machine.memory.put_u64(GDT + FREE_TASK, 0x0000_0900_4800_0067)
    assert machine.fault(LTR) == (NP, FREE_TASK)


def test_a_16_bit_tss_is_for_legacy_modes_only():
    for mode in ("protected", "long"):
        machine = with_selector(mode, FREE_TASK)
        machine.memory.put_u64(GDT + FREE_TASK, 0x0000_8100_4800_002B)
        if mode == "long":
            assert machine.fault(LTR) == (GP, FREE_TASK)
        else:
            machine.run(LTR)
            assert machine.sregs["tr"]["type"] == 3


def test_a_non_canonical_base_of_a_tss_is_gp():
    machine = with_selector("long", FREE_TASK)
    machine.memory.put_u64(GDT + FREE_TASK + 8, 0x0001_0000)
    assert machine.fault(LTR) == (GP, FREE_TASK)


def test_lldt_loads_an_ldt_or_none():
    machine = with_selector("protected", LOCAL)
    machine.run(LLDT)
    ldt = machine.sregs["ldt"]
    assert (ldt["base"], ldt["limit"], ldt["selector"], ldt["unusable"]) == (0x9000, 0x17, LOCAL, 0)
    machine.regs["rcx"] = 0
    machine.run(LLDT)
    assert machine.sregs["ldt"]["unusable"] == 1


@pytest.mark.parametrize("selector", [FREE_TASK, KERNEL_DATA, LOCAL | 4])
def test_bad_ldt_selectors(selector: int):
    assert with_selector("protected", selector).fault(LLDT) == (GP, selector)


@pytest.mark.parametrize("code", [LTR, LLDT])
def test_loading_system_segments_is_for_ring_0(code: str):
    assert with_selector("protected", FREE_TASK, cpl=3).fault(code) == (GP, 0)


# MOV to and from segment registers


def test_mov_ss_loads_a_stack_and_holds_interrupts_back():
    machine = with_selector("protected", SMALL_DATA)
    machine.run(MOV_SS)
    assert (machine.sregs["ss"]["selector"], machine.sregs["ss"]["limit"]) == (SMALL_DATA, 0xFFF)
    assert machine.cpu.interrupt_shadow
    machine.run("9b")
    assert not machine.cpu.interrupt_shadow


@pytest.mark.parametrize(
    ("selector", "fault"),
    [
        (0, (GP, 0)),
        (0x100, (GP, 0x100)),
        (KERNEL_DATA | 3, (GP, KERNEL_DATA)),
        (USER_DATA, (GP, USER_DATA)),
        (READ_ONLY, (GP, READ_ONLY)),
        (KERNEL_CODE, (GP, KERNEL_CODE)),
        (TASK, (GP, TASK)),
        (ABSENT_DATA, (SS, ABSENT_DATA)),
    ],
)
def test_bad_stacks(selector: int, fault: tuple[int, int]):
    assert with_selector("protected", selector).fault(MOV_SS) == fault


def test_a_null_stack_is_allowed_in_64_bit_mode_below_ring_3():
    machine = with_selector("long", 0)
    machine.run(MOV_SS)
    assert (machine.sregs["ss"]["selector"], machine.cpu.cpl) == (0, 0)
    assert with_selector("long", 3, cpl=3).fault(MOV_SS) == (GP, 0)


@pytest.mark.parametrize(
    ("selector", "cpl", "fault"),
    [
        (KERNEL_DATA, 3, (GP, KERNEL_DATA)),
        (KERNEL_DATA | 3, 0, (GP, KERNEL_DATA)),
        (EXECUTE_ONLY, 0, (GP, EXECUTE_ONLY)),
        (ABSENT_DATA, 0, (NP, ABSENT_DATA)),
        (TASK, 0, (GP, TASK)),
    ],
)
def test_bad_data_segments(selector: int, cpl: int, fault: tuple[int, int]):
    assert with_selector("protected", selector, cpl).fault(MOV_DS) == fault


@pytest.mark.parametrize("selector", [USER_DATA | 3, CONFORMING | 3, USER_CODE | 3])
def test_ring_3_may_load_what_its_level_reaches(selector: int):
    machine = with_selector("protected", selector, cpl=3)
    machine.run(MOV_DS)
    assert machine.sregs["ds"]["selector"] == selector


def test_a_null_data_segment_is_unusable_until_it_is_used():
    machine = with_selector("protected", 2)
    machine.run(MOV_DS)
    assert machine.sregs["ds"]["unusable"]
    assert machine.fault("0f 38 f0 03") == (GP, 0)  # movbe eax, [ebx]


def test_real_mode_takes_any_selector():
    machine = Machine("real")
    machine.regs["rcx"] = 0xABCD
    machine.run(MOV_DS)
    assert machine.sregs["ds"]["base"] == 0xA_BCD0


def test_v86_mode_segments_have_64k():
    machine = Machine("protected")
    machine.enter_v86()
    machine.regs["rcx"] = 0xABCD
    machine.run(MOV_DS)
    ds = machine.sregs["ds"]
    assert (ds["base"], ds["limit"], ds["dpl"]) == (0xA_BCD0, 0xFFFF, 3)


def test_cs_cannot_be_loaded_by_mov():
    assert with_selector("protected", KERNEL_CODE).fault(MOV_CS) == (UD, None)
    assert with_selector("protected", KERNEL_CODE).fault("8e f1") == (UD, None)


def test_a_selector_is_stored_in_16_bits_of_memory_or_a_whole_register():
    machine = Machine("long")
    machine.regs |= {"rax": (1 << 64) - 1, "rbx": 0x8000}
    machine.memory.put_u64(0x8000, (1 << 64) - 1)
    machine.run("8c d8")  # mov eax, ds
    assert machine.regs["rax"] == KERNEL_DATA
    machine.run("8c 1b")  # mov [rbx], ds
    assert machine.memory.u64(0x8000) == 0xFFFF_FFFF_FFFF_0000 | KERNEL_DATA


# SGDT and its kin


def test_sgdt_and_sidt_store_limit_and_base():
    machine = Machine("long")
    machine.regs["rbx"] = 0x8000
    machine.sregs["gdt"] = {"base": 0xFFFF_FE00_0000_1000, "limit": 0x7F}
    machine.run("0f 01 03")
    assert machine.memory.read(0x8000, 10) == bytes.fromhex("7f00 0010 0000 00fe ffff")
    machine.run("0f 01 0b")
    assert machine.memory.read(0x8000, 10) == (0x7FF | IDT << 16).to_bytes(10, "little")


def test_sidt_outside_of_64_bit_mode_stores_six_bytes():
    machine = Machine("protected")
    machine.regs["rbx"] = 0x8000
    machine.memory.write(0x8000, b"\xee" * 8)
    machine.run("0f 01 0b")
    assert machine.memory.read(0x8000, 8) == (0x7FF | IDT << 16).to_bytes(6, "little") + b"\xee\xee"


def test_str_sldt_and_smsw():
    machine = Machine("long")
    machine.regs["rcx"] = (1 << 64) - 1
    machine.run(STR)
    assert machine.regs["rcx"] == TASK
    machine.run(SLDT)
    assert machine.regs["rcx"] == 0
    machine.run("0f 01 e1")
    assert machine.regs["rcx"] == machine.sregs["cr0"]
    machine.run("66 0f 01 e1")
    assert machine.regs["rcx"] == machine.sregs["cr0"]


@pytest.mark.parametrize("code", ["0f 01 03", "0f 01 0b", STR, SLDT, "0f 01 e1"])
def test_umip_keeps_them_from_ring_3(code: str):
    machine = Machine("long", cpl=3)
    machine.regs["rbx"] = 0x8000
    assert machine.run(code).fault is None
    machine.sregs["cr4"] |= CR4_UMIP
    assert machine.fault(code) == (GP, 0)
