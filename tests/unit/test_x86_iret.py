"""IRET in every mode, by the manual's pseudo-code."""

from __future__ import annotations

import pytest
from x86_machine import (
    ABSENT_CODE,
    ABSENT_DATA,
    CODE_16,
    CONFORMING,
    DATA_16,
    EXECUTE_ONLY,
    GDT,
    KERNEL_CODE,
    KERNEL_DATA,
    READ_ONLY,
    RING1_CODE,
    RING1_DATA,
    STACK,
    USER_CODE,
    USER_CODE_64,
    USER_DATA,
    USER_STACK,
    Machine,
)

from pykvm.x86.exceptions import GP, NP, SS
from pykvm.x86.registers import (
    CR4_VME,
    RFLAGS_AC,
    RFLAGS_ID,
    RFLAGS_IF,
    RFLAGS_IOPL,
    RFLAGS_NT,
    RFLAGS_RF,
    RFLAGS_VIF,
    RFLAGS_VIP,
    RFLAGS_VM,
)

IRET, IRET_OTHER, IRETQ = "cf", "66 cf", "48 cf"
PLACE = 0x1234
EVERYTHING = 0x3F_7FD5


# Real mode


def test_real_mode_pops_ip_cs_flags():
    machine = Machine("real")
    machine.push(0x7FD5, 0xABCD, PLACE, width=2)
    machine.regs["rflags"] |= RFLAGS_AC
    machine.run(IRET)
    assert (machine.sregs["cs"]["selector"], machine.sregs["cs"]["base"]) == (0xABCD, 0xA_BCD0)
    assert machine.regs["rip"] == PLACE
    assert machine.regs["rflags"] == 0x7FD7 | RFLAGS_AC


def test_real_mode_32_bit_form_sets_the_upper_flags_but_not_vm_vif_vip():
    machine = Machine("real")
    machine.push(EVERYTHING, 0x1_0100, PLACE, width=4)
    machine.run(IRET_OTHER)
    assert machine.regs["rflags"] == 0x25_7FD7
    assert machine.sregs["cs"]["selector"] == 0x100


def test_real_mode_return_beyond_64k_is_gp():
    machine = Machine("real")
    machine.push(2, 0x100, 0x1_0000, width=4)
    assert machine.fault(IRET_OTHER) == (GP, None)


def test_real_mode_stack_beyond_its_segment_is_ss():
    machine = Machine("real")
    machine.regs["rsp"] = 0xFFFF
    assert machine.fault(IRET) == (SS, None)


# Virtual-8086 mode


def test_v86_with_iopl_3_keeps_iopl_and_vm():
    machine = Machine("protected")
    machine.enter_v86()
    machine.push(0x0202, 0x2000, PLACE, width=2)
    machine.run(IRET)
    assert machine.regs["rflags"] == RFLAGS_VM | 3 << 12 | 0x202
    assert (machine.sregs["cs"]["base"], machine.regs["rip"], machine.cpu.v86) == (0x2_0000, PLACE, True)


def test_v86_with_a_lower_iopl_is_gp_and_with_vme_sets_vif():
    machine = Machine("protected")
    machine.enter_v86(iopl=0)
    assert machine.fault(IRET) == (GP, 0)
    machine.sregs["cr4"] |= CR4_VME
    machine.push(0x3202, 0x2000, PLACE, width=2)
    assert machine.run(IRET).fault is None
    assert machine.regs["rflags"] == RFLAGS_VM | RFLAGS_VIF | 2
    assert (machine.sregs["cs"]["base"], machine.regs["rip"]) == (0x2_0000, PLACE)


def test_v86_with_vme_does_not_let_a_pending_interrupt_in_by_iret():
    machine = Machine("protected")
    machine.enter_v86(iopl=0)
    machine.sregs["cr4"] |= CR4_VME
    machine.regs["rflags"] |= RFLAGS_VIP
    machine.push(0x202, 0x2000, PLACE, width=2)
    assert machine.fault(IRET) == (GP, 0)
    machine.push(2, 0x2000, PLACE, width=2)
    assert machine.run(IRET).fault is None


# Protected mode


def test_to_the_same_level_three_items_are_popped():
    machine = Machine("protected")
    machine.push(0x202, KERNEL_CODE, PLACE, width=4)
    machine.run(IRET)
    assert (machine.regs["rip"], machine.regs["rsp"], machine.regs["rflags"]) == (PLACE, STACK, 0x202)


def test_the_16_bit_form_in_32_bit_code_pops_words():
    machine = Machine("protected")
    machine.regs["rflags"] |= RFLAGS_AC
    machine.push(0x202, KERNEL_CODE, PLACE, width=2)
    machine.run(IRET_OTHER)
    assert (machine.regs["rip"], machine.regs["rsp"]) == (PLACE, STACK)
    assert machine.regs["rflags"] == 0x202 | RFLAGS_AC


def test_16_bit_code_on_a_16_bit_stack():
    machine = Machine("protected")
    machine.load("cs", CODE_16)
    machine.load("ss", DATA_16)
    machine.regs["rsp"] = 0x5_FFFE
    machine.memory.write(0xFFFE, (PLACE).to_bytes(2, "little"))
    machine.memory.write(0, CODE_16.to_bytes(2, "little") + b"\x02\x02")
    machine.run(IRET)
    assert (machine.regs["rip"], machine.regs["rsp"], machine.regs["rflags"]) == (PLACE, 0x5_0004, 0x202)


def test_ring_0_may_set_all_flags_but_vm():
    machine = Machine("protected")
    machine.push(EVERYTHING & ~(RFLAGS_VM | RFLAGS_NT), KERNEL_CODE, PLACE, width=4)
    machine.run(IRET)
    assert machine.regs["rflags"] == EVERYTHING & ~(RFLAGS_VM | RFLAGS_NT) | 2


def test_ring_3_may_set_neither_if_nor_iopl():
    machine = Machine("protected", cpl=3)
    machine.push(EVERYTHING & ~RFLAGS_NT, USER_CODE | 3, PLACE, width=4)
    machine.run(IRET)
    blocked = RFLAGS_IF | RFLAGS_IOPL | RFLAGS_VM | RFLAGS_VIF | RFLAGS_VIP | RFLAGS_NT
    assert machine.regs["rflags"] == EVERYTHING & ~blocked | 2
    assert machine.flag(RFLAGS_RF) and machine.flag(RFLAGS_AC) and machine.flag(RFLAGS_ID)


def test_ring_3_with_iopl_3_may_set_if():
    machine = Machine("protected", cpl=3)
    machine.regs["rflags"] |= RFLAGS_IOPL
    machine.push(RFLAGS_IF, USER_CODE | 3, PLACE, width=4)
    machine.run(IRET)
    assert machine.regs["rflags"] == RFLAGS_IF | RFLAGS_IOPL | 2


def test_to_an_outer_ring_the_stack_changes_and_inner_segments_become_null():
    machine = Machine("protected")
    machine.sregs["fs"] = machine.sregs["fs"] | {"dpl": 3, "selector": USER_DATA | 3}
    machine.push(USER_DATA | 3, USER_STACK, 0x202, USER_CODE | 3, PLACE, width=4)
    machine.run(IRET)
    assert machine.cpu.cpl == 3
    assert machine.sregs["cs"]["selector"] == USER_CODE | 3
    assert (machine.sregs["ss"]["selector"], machine.regs["rsp"]) == (USER_DATA | 3, USER_STACK)
    assert [machine.sregs[name]["unusable"] for name in ("ds", "es", "fs", "gs")] == [1, 1, 0, 1]


def test_to_an_outer_ring_on_a_16_bit_stack_the_upper_half_of_esp_stays():
    machine = Machine("protected")
    machine.memory.put_u64(GDT + DATA_16, 0x0000_F300_0000_FFFF)
    machine.push(DATA_16 | 3, 0xABCD_8000, 0x202, USER_CODE | 3, PLACE, width=4)
    machine.run(IRET)
    assert machine.regs["rsp"] == (STACK - 20 & ~0xFFFF) | 0x8000


def test_loading_marks_descriptors_as_accessed():
    machine = Machine("protected")
    machine.memory.put_u64(GDT + USER_CODE, 0x00CF_FA00_0000_FFFF)
    machine.memory.put_u64(GDT + USER_DATA, 0x00CF_F200_0000_FFFF)
    machine.push(USER_DATA | 3, USER_STACK, 0x202, USER_CODE | 3, PLACE, width=4)
    machine.run(IRET)
    assert machine.memory.u64(GDT + USER_CODE) == 0x00CF_FB00_0000_FFFF
    assert machine.memory.u64(GDT + USER_DATA) == 0x00CF_F300_0000_FFFF
    assert machine.sregs["ss"]["type"] == 3


@pytest.mark.parametrize(
    ("selector", "fault"),
    [
        (0, (GP, 0)),
        (0x100, (GP, 0x100)),
        (0x14, (GP, 0x14)),
        (KERNEL_DATA, (GP, KERNEL_DATA)),
        (KERNEL_CODE | 3, (GP, KERNEL_CODE)),  # DPL below RPL, not conforming
        (USER_CODE, (GP, USER_CODE)),  # DPL above RPL
        (ABSENT_CODE, (NP, ABSENT_CODE)),
    ],
)
def test_bad_code_selectors(selector: int, fault: tuple[int, int]):
    machine = Machine("protected")
    machine.push(USER_DATA | 3, USER_STACK, 2, selector, PLACE, width=4)
    assert machine.fault(IRET) == fault


def test_an_absent_code_segment_is_np_with_its_selector_without_rpl():
    machine = Machine("protected")
    machine.memory.put_u64(GDT + ABSENT_CODE, 0x00CF_7B00_0000_FFFF)
    machine.push(USER_DATA | 3, USER_STACK, 2, ABSENT_CODE | 3, PLACE, width=4)
    assert machine.fault(IRET) == (NP, ABSENT_CODE)


def test_a_return_to_an_inner_ring_is_gp():
    machine = Machine("protected", cpl=3)
    machine.push(2, KERNEL_CODE, PLACE, width=4)
    assert machine.fault(IRET) == (GP, KERNEL_CODE)


def test_a_conforming_segment_may_be_returned_to_at_any_outer_level():
    machine = Machine("protected")
    machine.push(USER_DATA | 3, USER_STACK, 2, CONFORMING | 3, PLACE, width=4)
    machine.run(IRET)
    assert (machine.sregs["cs"]["selector"], machine.cpu.cpl) == (CONFORMING | 3, 3)


@pytest.mark.parametrize(
    ("selector", "fault"),
    [
        (0, (GP, 0)),
        (3, (GP, 0)),
        (0x103, (GP, 0x100)),
        (USER_DATA | 1, (GP, USER_DATA)),
        (KERNEL_DATA | 3, (GP, KERNEL_DATA)),
        (READ_ONLY | 3, (GP, READ_ONLY)),
        (EXECUTE_ONLY | 3, (GP, EXECUTE_ONLY)),
    ],
)
def test_bad_stack_selectors_of_an_outer_ring(selector: int, fault: tuple[int, int]):
    machine = Machine("protected")
    machine.push(selector, USER_STACK, 2, USER_CODE | 3, PLACE, width=4)
    assert machine.fault(IRET) == fault


def test_an_absent_outer_stack_is_ss():
    machine = Machine("protected")
    machine.memory.put_u64(GDT + ABSENT_DATA, 0x00CF_7300_0000_FFFF)
    machine.push(ABSENT_DATA | 3, USER_STACK, 2, USER_CODE | 3, PLACE, width=4)
    assert machine.fault(IRET) == (SS, ABSENT_DATA)


def test_a_return_beyond_the_code_segment_is_gp():
    machine = Machine("protected")
    machine.push(2, CODE_16, 0x1_0000, width=4)
    assert machine.fault(IRET) == (GP, 0)


def test_an_item_beyond_the_stack_segment_is_ss():
    machine = Machine("protected")
    machine.push(2, KERNEL_CODE, PLACE, width=4)
    machine.sregs["ss"] |= {"limit": STACK - 2}
    assert machine.fault(IRET) == (SS, 0)


def test_ring_0_returns_to_v86_with_all_segments():
    machine = Machine("protected")
    machine.push(0x600, 0x500, 0x400, 0x300, 0x200, 0x7000, RFLAGS_VM | 0x3202, 0x100, 0x44, width=4)
    machine.run(IRET)
    assert machine.cpu.v86
    assert machine.regs["rflags"] == RFLAGS_VM | 0x3202
    assert (machine.regs["rip"], machine.regs["rsp"]) == (0x44, 0x7000)
    names = ("cs", "ss", "es", "ds", "fs", "gs")
    assert [machine.sregs[name]["selector"] for name in names] == [0x100, 0x200, 0x300, 0x400, 0x500, 0x600]
    assert {machine.sregs[name]["limit"] for name in names} == {0xFFFF}
    assert machine.sregs["ss"]["base"] == 0x2000
    assert machine.cpu.cpl == 3


def test_a_return_to_v86_beyond_64k_is_gp():
    machine = Machine("protected")
    machine.push(0, 0, 0, 0, 0, 0x7000, RFLAGS_VM, 0x100, 0x1_0000, width=4)
    assert machine.fault(IRET) == (GP, 0)


def test_ring_1_cannot_return_to_v86():
    machine = Machine("protected", cpl=1)
    machine.push(RFLAGS_VM | 2, RING1_CODE | 1, PLACE, width=4)
    machine.run(IRET)
    assert not machine.cpu.v86
    assert machine.regs["rip"] == PLACE


# IA-32e mode


def test_64_bit_code_always_pops_the_stack_too():
    machine = Machine("long")
    machine.push(KERNEL_DATA, 0x9000, 0x202, KERNEL_CODE, 0xFFFF_8000_0000_1234, width=8)
    machine.run(IRETQ)
    assert (machine.regs["rip"], machine.regs["rsp"]) == (0xFFFF_8000_0000_1234, 0x9000)
    assert machine.regs["rflags"] == 0x202


def test_a_null_stack_selector_is_fine_for_64_bit_code_in_ring_0():
    machine = Machine("long")
    machine.push(0, 0x9000, 2, KERNEL_CODE, PLACE, width=8)
    machine.run(IRETQ)
    assert (machine.sregs["ss"]["selector"], machine.cpu.cpl) == (0, 0)


def test_a_null_stack_selector_is_gp_for_ring_3():
    machine = Machine("long")
    machine.push(3, 0x9000, 2, USER_CODE_64 | 3, PLACE, width=8)
    assert machine.fault(IRETQ) == (GP, 0)


def test_to_64_bit_user_code():
    machine = Machine("long")
    machine.push(USER_DATA | 3, USER_STACK, 0x202, USER_CODE_64 | 3, 0x40_0000, width=8)
    machine.run(IRETQ)
    assert (machine.cpu.cpl, machine.cpu.bits, machine.regs["rsp"]) == (3, 64, USER_STACK)


def test_to_compatibility_mode():
    machine = Machine("long")
    machine.push(USER_DATA | 3, USER_STACK, 0x202, USER_CODE | 3, 0x40_0000, width=8)
    machine.run(IRETQ)
    assert (machine.cpu.cpl, machine.cpu.bits) == (3, 32)


def test_compatibility_mode_to_the_same_level_pops_no_stack():
    machine = Machine("long", cpl=3)
    machine.load("cs", USER_CODE | 3)
    machine.push(0x202, USER_CODE | 3, PLACE, width=4)
    machine.run(IRET)
    assert (machine.regs["rip"], machine.regs["rsp"]) == (PLACE, USER_STACK)


def test_the_32_bit_form_in_64_bit_code():
    machine = Machine("long")
    machine.push(RING1_DATA | 1, 0x9000, 2, RING1_CODE | 1, PLACE, width=4)
    machine.run(IRET)
    assert (machine.cpu.cpl, machine.regs["rip"], machine.regs["rsp"]) == (1, PLACE, 0x9000)


def test_nt_is_gp_in_ia32e_mode():
    machine = Machine("long")
    machine.regs["rflags"] |= RFLAGS_NT
    assert machine.fault(IRETQ) == (GP, 0)


@pytest.mark.parametrize("place", [0x8000_0000_0000, 0xFFFF_7FFF_FFFF_FFFF])
def test_a_non_canonical_return_is_gp(place: int):
    machine = Machine("long")
    machine.push(KERNEL_DATA, 0x9000, 2, KERNEL_CODE, place, width=8)
    assert machine.fault(IRETQ) == (GP, 0)


def test_a_code_segment_with_both_l_and_d_is_gp():
    machine = Machine("long")
    machine.memory.put_u64(GDT + USER_CODE, 0x00EF_FB00_0000_FFFF)
    machine.push(USER_DATA | 3, USER_STACK, 2, USER_CODE | 3, PLACE, width=8)
    assert machine.fault(IRETQ) == (GP, USER_CODE)


def test_iret_ends_the_masking_of_nmis():
    machine = Machine("long")
    machine.cpu.nmi_masked = True
    machine.push(0, 0x9000, 2, KERNEL_CODE, PLACE, width=8)
    machine.run(IRETQ)
    assert not machine.cpu.nmi_masked
