"""PUSH, POP, ENTER, LEAVE, PUSHF, POPF in every size, by the manual's pseudo-code."""

from __future__ import annotations

import pytest
from x86_machine import KERNEL_DATA, STACK, USER_STACK, Machine

from pykvm.x86.exceptions import GP, PF, SS
from pykvm.x86.registers import (
    CR4_VME,
    RFLAGS_AC,
    RFLAGS_CF,
    RFLAGS_IF,
    RFLAGS_IOPL,
    RFLAGS_RF,
    RFLAGS_VIF,
    RFLAGS_VIP,
    RFLAGS_VM,
)

GENERAL = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")


@pytest.mark.parametrize(
    ("mode", "code", "width"),
    [
        ("real", "50", 2),
        ("real", "66 50", 4),
        ("protected", "50", 4),
        ("protected", "66 50", 2),
        ("long", "50", 8),
        ("long", "66 50", 2),
    ],
)
def test_push_has_the_operand_size_of_the_mode(mode: str, code: str, width: int):
    machine = Machine(mode)
    before = machine.regs["rsp"]
    machine.regs["rax"] = 0x8877_6655_4433_2211
    machine.run(code)
    assert machine.regs["rsp"] == before - width & 0xFFFF_FFFF
    assert machine.stack(1, width) == [0x8877_6655_4433_2211 & (1 << 8 * width) - 1]
    machine.regs["rcx"] = 0
    machine.run(code.replace("50", "59"))
    assert machine.regs["rcx"] == 0x8877_6655_4433_2211 & (1 << 8 * width) - 1
    assert machine.regs["rsp"] == before


def test_push_of_rsp_stores_what_it_was_and_pop_of_rsp_takes_what_it_finds():
    machine = Machine("long")
    machine.run("54")
    assert machine.stack(1, 8) == [STACK]
    machine.push(0x1234, width=8)
    machine.run("5c")
    assert machine.regs["rsp"] == 0x1234


def test_a_16_bit_stack_wraps_and_keeps_the_upper_half():
    machine = Machine("real")
    machine.regs |= {"rsp": 0xABCD_0000, "rax": 0x1234}
    machine.run("50")
    assert machine.regs["rsp"] == 0xABCD_FFFE
    machine.run("58")
    assert machine.regs["rsp"] == 0xABCD_0000


def test_push_of_an_immediate_extends_its_sign():
    machine = Machine("long")
    machine.run("6a ff")
    assert machine.stack(1, 8) == [(1 << 64) - 1]
    machine.run("68 00 00 00 80")
    assert machine.stack(1, 8) == [0xFFFF_FFFF_8000_0000]


def test_pop_computes_an_address_from_the_moved_rsp():
    machine = Machine("long")
    machine.push(0x11, 0x22, width=8)
    machine.run("8f 04 24")  # pop [rsp]
    assert machine.stack(1, 8) == [0x22]
    assert machine.regs["rsp"] == STACK - 8


def test_pop_to_where_nothing_may_be_written_leaves_rsp():
    machine = Machine("long", cpl=3)
    machine.memory.put_u64(0x5000 + 0x1000 + 8, 0)
    machine.push(0x11, width=8)
    machine.regs["rbx"] = 1 << 30
    assert machine.fault("8f 03") == (PF, 6)


def test_push_where_the_stack_has_no_room_is_ss():
    machine = Machine("protected")
    machine.sregs["ss"] |= {"limit": STACK - 8}
    assert machine.fault("50") == (SS, 0)
    assert machine.fault("ff 33") == (SS, 0)


def test_pusha_and_popa_are_inverse_but_for_esp():
    machine = Machine("protected")
    values = {name: 0x1111_1111 * (number + 1) for number, name in enumerate(GENERAL)} | {"rsp": STACK}
    machine.regs |= values
    machine.run("60")
    assert machine.stack(8, 4) == [values[name] for name in reversed(GENERAL)]
    machine.regs |= dict.fromkeys(set(GENERAL) - {"rsp"}, 0)
    machine.run("61")
    assert {name: machine.regs[name] for name in GENERAL} == values


def test_pusha_without_room_for_all_pushes_none():
    machine = Machine("protected")
    machine.sregs["ss"] |= {"limit": STACK - 1}
    machine.regs["rsp"] = 0x10
    before = machine.memory.read(0, 0x20)
    assert machine.fault("60") == (SS, 0)
    assert machine.memory.read(0, 0x20) == before


@pytest.mark.parametrize("level", [0, 1, 3])
def test_enter_copies_the_frame_pointers_of_outer_levels(level: int):
    machine = Machine("protected")
    machine.regs["rbp"] = 0x3_0000
    machine.memory.put_u32(0x3_0000 - 4, 0xAAAA)
    machine.memory.put_u32(0x3_0000 - 8, 0xBBBB)
    machine.run(f"c8 20 00 {level:02x}")
    frame = STACK - 4
    display = [0xAAAA, 0xBBBB][: max(level - 1, 0)] + ([frame] if level else [])
    assert machine.regs["rbp"] == frame
    assert machine.memory.u32(frame) == 0x3_0000
    assert [machine.memory.u32(frame - 4 * (at + 1)) for at in range(len(display))] == display
    assert machine.regs["rsp"] == frame - 4 * len(display) - 0x20
    machine.run("c9")
    assert (machine.regs["rsp"], machine.regs["rbp"]) == (STACK, 0x3_0000)


def test_enter_copies_what_it_has_just_pushed():
    """EBP in the new frame: each copy is of the item before (SDM, ENTER: push and read in turn)."""
    machine = Machine("protected")
    machine.regs["rbp"] = STACK
    machine.run("c8 00 00 03")
    assert machine.stack(4, 4) == [STACK - 4, STACK, STACK, STACK]


def test_enter_without_room_for_its_frame_leaves_the_registers():
    machine = Machine("protected")
    machine.sregs["ss"] |= {"limit": STACK - 1}
    machine.regs |= {"rsp": 0x40, "rbp": 0x123}
    assert machine.fault("c8 80 00 00") == (SS, 0)
    assert (machine.regs["rsp"], machine.regs["rbp"]) == (0x40, 0x123)


# Flags


def test_pushf_hides_rf_and_vm():
    machine = Machine("long")
    machine.regs["rflags"] = 2 | RFLAGS_RF | RFLAGS_CF | RFLAGS_AC
    machine.run("9c")
    assert machine.stack(1, 8) == [2 | RFLAGS_CF | RFLAGS_AC]


@pytest.mark.parametrize(
    ("cpl", "iopl", "interrupts", "privilege"),
    [(0, 0, True, True), (3, 0, False, False), (3, 3, True, False), (1, 1, True, False)],
)
def test_popf_sets_if_by_iopl_and_iopl_in_ring_0(cpl: int, iopl: int, interrupts: bool, privilege: bool):
    machine = Machine("protected", cpl=cpl)
    machine.regs["rflags"] = 2 | iopl << 12 | RFLAGS_VIF
    machine.push(0x3F_7FD7, width=4)
    machine.run("9d")
    wanted = 0x3F_7FD7 & ~(RFLAGS_RF | RFLAGS_VM | RFLAGS_VIP)
    if not interrupts:
        wanted &= ~RFLAGS_IF
    if not privilege:
        wanted = wanted & ~RFLAGS_IOPL | iopl << 12
    assert machine.regs["rflags"] == wanted


def test_popf_of_16_bits_leaves_the_upper_half():
    machine = Machine("long")
    machine.regs["rflags"] = 2 | RFLAGS_AC
    machine.push(RFLAGS_CF, width=2)
    machine.run("66 9d")
    assert machine.regs["rflags"] == 2 | RFLAGS_CF | RFLAGS_AC


@pytest.mark.parametrize("code", ["9c", "9d", "66 9c", "66 9d"])
def test_v86_code_needs_iopl_3_for_its_flags(code: str):
    machine = Machine("protected")
    machine.enter_v86(iopl=2)
    assert machine.fault(code) == (GP, 0)
    machine.enter_v86(iopl=3)
    assert machine.run(code).fault is None
    assert machine.flag(RFLAGS_VM)


def test_with_vme_v86_code_sees_and_sets_vif_in_the_place_of_if():
    machine = Machine("protected")
    machine.enter_v86(iopl=0)
    machine.sregs["cr4"] |= CR4_VME
    machine.regs["rflags"] |= RFLAGS_VIF
    machine.run("9c")
    assert machine.stack(1, 2) == [0x3202]
    machine.regs["rsp"] += 2
    machine.push(2, width=2)
    machine.run("9d")
    assert machine.regs["rflags"] == RFLAGS_VM | 2
    machine.regs["rflags"] |= RFLAGS_VIP
    machine.push(0x202, width=2)
    assert machine.fault("9d") == (GP, 0)
    assert machine.fault("66 9d") == (GP, 0)


def test_segment_registers_are_pushed_zero_extended():
    machine = Machine("long")
    machine.push((1 << 64) - 1, width=8)
    machine.regs["rsp"] += 8
    machine.sregs["fs"] |= {"selector": KERNEL_DATA}
    machine.run("0f a0")
    assert machine.stack(1, 8) == [KERNEL_DATA]


def test_a_user_stack_is_reached_with_user_rights():
    machine = Machine("long", cpl=3)
    assert machine.run("50").fault is None
    assert machine.regs["rsp"] == USER_STACK - 8
    machine.memory.put_u64(0x5000 + 0x1000, 0x83)  # the page is the supervisor's
    assert machine.fault("50") == (PF, 7)
