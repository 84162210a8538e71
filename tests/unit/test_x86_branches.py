"""Near branches, and far ones through segments and call gates, by the manual's pseudo-code."""

from __future__ import annotations

import pytest
from x86_machine import (
    ABSENT_CODE,
    CODE_16,
    CONFORMING,
    GDT,
    KERNEL_CODE,
    KERNEL_DATA,
    LIMIT,
    RING1_CODE,
    RING1_DATA,
    STACK,
    TSS,
    USER_CODE,
    USER_CODE_64,
    USER_DATA,
    USER_STACK,
    Machine,
)

from pykvm.x86.exceptions import GP, NP, PF, SS, TS, UD
from pykvm.x86.registers import RFLAGS_ZF
from pykvm.x86.segments import encode_gate

GATE, PLACE, POINTER = 0xC0, 0x1234, 0x4_0000
CALL_GATE16, CALL_GATE32 = 4, 12


def pointer(selector: int, offset: int, width: int = 4) -> str:
    return (offset.to_bytes(width, "little") + selector.to_bytes(2, "little")).hex()


def jmp(selector: int, offset: int, width: int = 4) -> str:
    return "ea" + pointer(selector, offset, width)


def call(selector: int, offset: int, width: int = 4) -> str:
    return "9a" + pointer(selector, offset, width)


def in_memory(machine: Machine, selector: int, offset: int, width: int = 4) -> None:
    machine.memory.write(POINTER, bytes.fromhex(pointer(selector, offset, width)))
    machine.regs["rbx"] = POINTER


def call_gate(machine: Machine, kind: int = CALL_GATE32, **more: int) -> None:
    gate = {
        "offset": PLACE,
        "selector": KERNEL_CODE,
        "type": kind,
        "present": 1,
        "dpl": 3,
        "params": 0,
    } | more
    data = encode_gate(gate)
    machine.memory.write(GDT + GATE, data if machine.long else data[:8])


# Near


@pytest.mark.parametrize(
    ("mode", "code", "target"),
    [
        ("long", "eb fe", 0x1_0000),
        ("long", "e9 00 00 00 80", 0xFFFF_FFFF_8001_0005),
        ("protected", "e9 00 00 00 f0", 0xF001_0005),
        ("protected", "66 e9 fc ff", 0),  # the upper half of EIP is cut
        ("long", "0f 84 00 01 00 00", 0x1_0106),
        ("long", "75 10", 0x1_0002),
    ],
)
def test_relative_branches(mode: str, code: str, target: int):
    machine = Machine(mode)
    machine.regs["rflags"] |= RFLAGS_ZF
    machine.run(code)
    assert machine.regs["rip"] == target


def test_call_and_ret_with_parameters():
    machine = Machine("long")
    machine.regs["rax"] = 0x5678
    machine.run("ff d0")
    assert machine.regs["rip"] == 0x5678
    assert machine.stack(1, 8) == [0x1_0002]
    machine.run("c2 10 00")
    assert (machine.regs["rip"], machine.regs["rsp"]) == (0x1_0002, STACK + 0x10)


@pytest.mark.parametrize("code", ["ff e0", "ff d0", "c3"])
def test_a_branch_out_of_the_canonical_range_is_gp_at_the_branch(code: str):
    machine = Machine("long")
    machine.regs["rax"] = 1 << 50
    machine.push(1 << 50, width=8)
    assert machine.fault(code) == (GP, 0)


def test_what_the_stack_raises_comes_before_a_target_out_of_the_canonical_range():
    machine = Machine("long")
    machine.regs |= {"rax": 1 << 50, "rsp": 0x4000_0008}
    assert machine.fault("ff d0") == (PF, 2)
    machine.regs["rsp"] = 1 << 50
    assert machine.fault("ff d0") == (SS, 0)


def test_a_call_out_of_the_canonical_range_stores_nothing():
    machine = Machine("long")
    machine.regs["rax"] = 1 << 50
    machine.push(0x1234, width=8)
    machine.regs["rsp"] += 8
    assert machine.fault("ff d0") == (GP, 0)
    assert machine.memory.u64(machine.regs["rsp"] - 8) == 0x1234


def test_a_call_beyond_the_limit_is_gp_before_the_stack_is_looked_at():
    machine = Machine("protected")
    machine.sregs["cs"] |= {"limit": 0x1_0010}
    machine.sregs["ss"] |= {"limit": 0x10}
    machine.regs["rax"] = 0x1_0011
    assert machine.fault("ff d0") == (GP, 0)
    machine.regs["rax"] = 0x1_0010
    assert machine.fault("ff d0") == (SS, 0)


@pytest.mark.parametrize("code", ["ff e0", "ff d0", "c3", "eb 40"])
def test_a_branch_beyond_the_limit_is_gp_at_the_branch(code: str):
    machine = Machine("protected")
    machine.sregs["cs"] |= {"limit": 0x1_0010}
    machine.regs["rax"] = 0x1_0011
    machine.push(0x1_0011, width=4)
    assert machine.fault(code) == (GP, 0)


@pytest.mark.parametrize(
    ("code", "count", "zero", "taken"),
    [
        ("e2", 2, False, True),
        ("e2", 1, False, False),
        ("e1", 2, True, True),
        ("e1", 2, False, False),
        ("e0", 2, True, False),
        ("e0", 2, False, True),
    ],
)
def test_loop_counts_down_and_asks_for_zf(code: str, count: int, zero: bool, taken: bool):
    machine = Machine("long")
    machine.regs |= {"rcx": count, "rflags": 2 | (RFLAGS_ZF if zero else 0)}
    machine.run(code + " 10")
    assert machine.regs["rcx"] == count - 1
    assert machine.regs["rip"] == (0x1_0012 if taken else 0x1_0002)


def test_the_count_of_loop_and_jcxz_has_address_size():
    machine = Machine("long")
    machine.regs["rcx"] = 0x1_0000_0000
    machine.run("67 e3 10")
    assert machine.regs["rip"] == 0x1_0013
    machine.run("67 e2 10")
    assert machine.regs["rcx"] == 0xFFFF_FFFF


# Far, direct


def test_real_mode_far_call_and_return():
    machine = Machine("real")
    machine.regs["rip"] = 0x100
    machine.run(call(0x2000, PLACE, 2))
    assert (machine.sregs["cs"]["base"], machine.regs["rip"]) == (0x2_0000, PLACE)
    assert machine.stack(2, 2) == [0x105, 0x1000]
    machine.run("ca 06 00")
    assert (machine.sregs["cs"]["base"], machine.regs["rip"]) == (0x1_0000, 0x105)


def test_far_jump_between_code_of_32_and_16_bits():
    machine = Machine("protected")
    machine.run(jmp(CODE_16, PLACE))
    assert (machine.cpu.bits, machine.regs["rip"], machine.sregs["cs"]["selector"]) == (16, PLACE, CODE_16)
    machine.run("66" + jmp(KERNEL_CODE, PLACE))
    assert machine.cpu.bits == 32


def test_far_jump_from_64_bit_to_compatibility_mode():
    machine = Machine("long", cpl=3)
    in_memory(machine, USER_CODE | 3, PLACE)
    machine.run("ff 2b")
    assert (machine.cpu.bits, machine.regs["rip"]) == (32, PLACE)
    machine.run(jmp(USER_CODE_64, PLACE))
    assert machine.cpu.bits == 64


def test_rex_w_gives_a_far_pointer_64_bits():
    machine = Machine("long")
    in_memory(machine, KERNEL_CODE, 0xFFFF_8000_0000_1234, 8)
    machine.run("48 ff 2b")
    assert machine.regs["rip"] == 0xFFFF_8000_0000_1234
    in_memory(machine, KERNEL_CODE, 1 << 50, 8)
    assert machine.fault("48 ff 2b") == (GP, 0)


@pytest.mark.parametrize(
    ("selector", "fault"),
    [
        (0, (GP, 0)),
        (LIMIT + 1, (GP, LIMIT + 1)),
        (KERNEL_DATA, (GP, KERNEL_DATA)),
        (USER_CODE, (GP, USER_CODE)),
        (KERNEL_CODE | 1, (GP, KERNEL_CODE)),
        (ABSENT_CODE, (NP, ABSENT_CODE)),
    ],
)
@pytest.mark.parametrize("make", [jmp, call])
def test_far_transfers_that_may_not_be(make, selector: int, fault: tuple[int, int]):
    machine = Machine("protected")
    assert machine.fault(make(selector, PLACE)) == fault


def test_a_conforming_segment_keeps_the_callers_level():
    machine = Machine("protected", cpl=3)
    machine.run(call(CONFORMING, PLACE))
    assert machine.sregs["cs"]["selector"] == CONFORMING | 3
    assert machine.cpu.cpl == 3


def test_a_far_target_beyond_the_limit_is_gp():
    machine = Machine("protected")
    assert machine.fault(jmp(CODE_16, 0x1_0000)) == (GP, 0)


def test_a_far_call_without_stack_changes_nothing():
    machine = Machine("protected")
    machine.sregs["ss"] |= {"limit": STACK - 8}
    assert machine.fault(call(KERNEL_CODE, PLACE)) == (SS, 0)


def test_far_pointers_name_memory():
    assert Machine("protected").fault("ff e8") == (UD, None)
    assert Machine("protected").fault("ff d8") == (UD, None)


# Through gates


def test_a_gate_of_the_same_level_pushes_by_its_own_width():
    machine = Machine("protected")
    call_gate(machine, CALL_GATE16, offset=0xABCD_1234)
    machine.run(call(GATE, 0x9999))
    assert machine.regs["rip"] == 0x1234
    assert machine.stack(2, 2) == [0x0007, KERNEL_CODE]


def test_a_gate_to_an_inner_ring_changes_the_stack_and_copies_parameters():
    machine = Machine("protected", cpl=3)
    call_gate(machine, params=2)
    machine.push(0xAAAA, 0xBBBB, width=4)
    machine.run(call(GATE, 0))
    assert (machine.cpu.cpl, machine.regs["rip"]) == (0, PLACE)
    assert (machine.sregs["cs"]["selector"], machine.sregs["ss"]["selector"]) == (KERNEL_CODE, KERNEL_DATA)
    frame = [0x1_0007, USER_CODE | 3, 0xBBBB, 0xAAAA, USER_STACK - 8, USER_DATA | 3]
    assert machine.stack(6, 4) == frame
    machine.run("ca 08 00")
    assert (machine.cpu.cpl, machine.regs["rip"], machine.regs["rsp"]) == (3, 0x1_0007, USER_STACK)


def test_a_gate_of_ia_32e_mode_changes_to_a_null_stack_segment():
    machine = Machine("long", cpl=3)
    call_gate(machine)
    in_memory(machine, GATE, 0)
    machine.run("ff 1b")
    assert (machine.cpu.cpl, machine.regs["rip"]) == (0, PLACE)
    assert machine.sregs["ss"]["selector"] == 0
    assert machine.stack(4, 8) == [0x1_0002, USER_CODE_64 | 3, USER_STACK, USER_DATA | 3]
    machine.run("48 cb")
    assert (machine.cpu.cpl, machine.cpu.bits, machine.regs["rsp"]) == (3, 64, USER_STACK)


def test_a_jump_through_a_gate_stays_in_its_ring():
    machine = Machine("protected")
    call_gate(machine)
    machine.run(jmp(GATE, 0))
    assert machine.regs["rip"] == PLACE
    machine = Machine("protected", cpl=3)
    call_gate(machine)
    assert machine.fault(jmp(GATE, 0)) == (GP, KERNEL_CODE)


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ({"dpl": 2}, (GP, GATE)),
        ({"present": 0}, (NP, GATE)),
        ({"selector": 0}, (GP, 0)),
        ({"selector": KERNEL_DATA}, (GP, KERNEL_DATA)),
        ({"selector": ABSENT_CODE}, (NP, ABSENT_CODE)),
        ({"selector": RING1_CODE}, (TS, 0)),  # the TSS has no stack for ring 1
    ],
)
def test_gates_that_may_not_be_called(more: dict[str, int], fault: tuple[int, int]):
    machine = Machine("protected", cpl=3)
    call_gate(machine, **more)
    assert machine.fault(call(GATE, 0)) == fault


def test_the_inner_stack_of_a_call_is_checked():
    machine = Machine("protected", cpl=3)
    call_gate(machine)
    machine.memory.put_u16(TSS + 8, RING1_DATA | 1)
    assert machine.fault(call(GATE, 0)) == (TS, RING1_DATA)


@pytest.mark.parametrize("kind", [1, 4, 5, 9])
def test_ia_32e_mode_has_no_16_bit_gates_and_no_tasks(kind: int):
    machine = Machine("long")
    call_gate(machine, kind)
    in_memory(machine, GATE, 0)
    assert machine.fault("ff 1b") == (GP, GATE)


# Returns


def test_a_return_to_an_outer_ring_drops_segments_that_are_too_good_for_it():
    machine = Machine("protected")
    machine.push(USER_DATA | 3, USER_STACK, USER_CODE | 3, PLACE, width=4)
    machine.run("cb")
    assert (machine.cpu.cpl, machine.regs["rip"], machine.regs["rsp"]) == (3, PLACE, USER_STACK)
    assert machine.sregs["ds"]["unusable"]


@pytest.mark.parametrize(
    ("selector", "fault"),
    [
        (0, (GP, 0)),
        (KERNEL_DATA, (GP, KERNEL_DATA)),
        (USER_CODE, (GP, USER_CODE)),
        (ABSENT_CODE, (NP, ABSENT_CODE)),
    ],
)
def test_returns_that_may_not_be(selector: int, fault: tuple[int, int]):
    machine = Machine("protected")
    machine.push(selector, PLACE, width=4)
    assert machine.fault("cb") == fault


def test_a_return_to_an_inner_ring_is_gp():
    machine = Machine("protected", cpl=3)
    machine.push(KERNEL_CODE, PLACE, width=4)
    assert machine.fault("cb") == (GP, KERNEL_CODE)
