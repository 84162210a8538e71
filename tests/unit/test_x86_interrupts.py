"""INT n and exceptions: through every kind of gate, with the manual's checks and error codes."""

from __future__ import annotations

import pytest
from x86_machine import (
    ABSENT_CODE,
    ABSENT_DATA,
    CODE_16,
    CONFORMING,
    IDT,
    KERNEL_CODE,
    KERNEL_DATA,
    READ_ONLY,
    RING1_CODE,
    RING1_DATA,
    STACK,
    TASK,
    TSS,
    USER_CODE,
    USER_DATA,
    USER_STACK,
    Machine,
)

from pykvm.x86.exceptions import DF, GP, NP, PF, SS, TS, UD, Fault, together
from pykvm.x86.execute.interrupts import EXTERNAL, deliver, raise_exception
from pykvm.x86.execute.linear import Linear
from pykvm.x86.registers import (
    CR4_VME,
    RFLAGS_AC,
    RFLAGS_IF,
    RFLAGS_NT,
    RFLAGS_OF,
    RFLAGS_RF,
    RFLAGS_TF,
    RFLAGS_VM,
)

INT_30 = "cd 30"
HANDLER = 0x5_0000


def external(machine: Machine, vector: int, error: int | None = None, source: int = EXTERNAL) -> Fault | None:
    try:
        deliver(machine.cpu, Linear(machine.cpu, machine.memory), vector, error, source)
    except Fault as fault:
        return fault
    return None


# Real mode


def test_real_mode_pushes_flags_cs_ip_and_takes_the_vector():
    machine = Machine("real")
    machine.regs["rflags"] = 0x2 | RFLAGS_IF | RFLAGS_TF | 1
    machine.memory.put_u32(0x30 * 4, 0xF000_1234)
    machine.regs["rip"] = 0x100
    outcome = machine.run(INT_30)
    assert outcome.fault is None
    assert (machine.sregs["cs"]["selector"], machine.sregs["cs"]["base"]) == (0xF000, 0xF_0000)
    assert machine.regs["rip"] == 0x1234
    assert machine.stack(3, 2) == [0x102, 0x1000, 0x303]
    assert not machine.flag(RFLAGS_IF | RFLAGS_TF)
    assert machine.flag(1)


def test_real_mode_stack_wraps_at_64k_and_keeps_the_upper_half_of_esp():
    machine = Machine("real")
    machine.regs["rsp"] = 0xABCD_0002
    machine.run(INT_30)
    assert machine.regs["rsp"] == 0xABCD_FFFC


def test_real_mode_vector_beyond_the_table_is_gp_without_error_code():
    machine = Machine("real")
    machine.sregs["idt"] = {"base": 0, "limit": 0x30 * 4 + 2}
    assert machine.fault(INT_30) == (GP, None)
    machine.sregs["idt"] = {"base": 0, "limit": 0x30 * 4 + 3}
    assert machine.run(INT_30).fault is None


def test_real_mode_stack_outside_its_segment_is_ss():
    machine = Machine("real")
    machine.sregs["ss"] |= {"limit": 0x7000}
    assert machine.fault(INT_30) == (SS, None)


# Protected mode, the same level


def test_an_interrupt_gate_pushes_three_doublewords_and_turns_interrupts_off():
    machine = Machine("protected")
    machine.gate(0x30, HANDLER)
    machine.regs["rflags"] |= RFLAGS_IF | RFLAGS_NT | RFLAGS_AC
    machine.run(INT_30)
    assert machine.stack(3, 4) == [0x1_0002, KERNEL_CODE, 0x2 | RFLAGS_IF | RFLAGS_NT | RFLAGS_AC]
    assert machine.regs["rip"] == HANDLER
    assert not machine.flag(RFLAGS_IF | RFLAGS_NT | RFLAGS_TF)
    assert machine.flag(RFLAGS_AC)
    assert machine.regs["rsp"] == STACK - 12


def test_a_trap_gate_leaves_interrupts_on():
    machine = Machine("protected")
    machine.gate(0x30, HANDLER, kind=15)
    machine.regs["rflags"] |= RFLAGS_IF
    machine.run(INT_30)
    assert machine.flag(RFLAGS_IF)


def test_a_16_bit_gate_pushes_words_and_has_a_16_bit_offset():
    machine = Machine("protected")
    machine.gate(0x30, 0x1234_5678, kind=6)
    machine.run(INT_30)
    assert machine.regs["rip"] == 0x5678
    assert machine.stack(3, 2) == [0x0002, KERNEL_CODE, 0x2]
    assert machine.regs["rsp"] == STACK - 6


def test_int3_and_int1_return_after_themselves():
    machine = Machine("protected")
    machine.gate(3, HANDLER)
    machine.gate(1, HANDLER)
    machine.run("cc")
    assert machine.stack(1, 4) == [0x1_0001]
    machine = Machine("protected", cpl=3)
    machine.gate(1, HANDLER)
    assert machine.run("f1").fault is None  # the gate's DPL is 0, and INT1 doesn't ask


def test_into_does_something_only_with_of():
    machine = Machine("protected")
    machine.gate(4, HANDLER)
    machine.run("ce")
    assert machine.regs["rip"] == 0x1_0001
    machine.regs["rflags"] |= RFLAGS_OF
    machine.run("ce")
    assert machine.regs["rip"] == HANDLER
    assert machine.stack(1, 4) == [0x1_0002]


def test_into_is_no_instruction_in_64_bit_mode():
    machine = Machine("long")
    assert machine.fault("ce") == (UD, None)


def test_a_conforming_handler_runs_at_the_callers_level():
    machine = Machine("protected", cpl=3)
    machine.gate(0x30, HANDLER, selector=CONFORMING, dpl=3)
    machine.run(INT_30)
    assert machine.sregs["cs"]["selector"] == CONFORMING | 3
    assert machine.regs["rsp"] == USER_STACK - 12
    assert machine.cpu.cpl == 3


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"kind": 12}, (GP, 0x182)),  # a call gate
        ({"dpl": 0, "cpl": 3}, (GP, 0x182)),
        ({"present": 0}, (NP, 0x182)),
        ({"selector": 0}, (GP, 0)),
        ({"selector": 3}, (GP, 0)),
        ({"selector": 0x100}, (GP, 0x100)),
        ({"selector": 0x14}, (GP, 0x14)),  # in an LDT that isn't there
        ({"selector": KERNEL_DATA}, (GP, KERNEL_DATA)),
        ({"selector": TASK}, (GP, TASK)),
        ({"selector": USER_CODE | 3}, (GP, USER_CODE)),  # DPL above CPL
        ({"selector": ABSENT_CODE}, (NP, ABSENT_CODE)),
    ],
)
def test_bad_gates_and_handlers_give_the_manuals_error_codes(change: dict, fault: tuple[int, int]):
    change = dict(change)
    machine = Machine("protected", cpl=change.pop("cpl", 0))
    machine.gate(0x30, HANDLER, **change)
    assert machine.fault(INT_30) == fault


def test_the_same_failure_of_an_external_interrupt_has_ext_set():
    for change, error in (
        ({"kind": 12}, 0x183),
        ({"present": 0}, 0x183),
        ({"selector": 0}, 1),
        ({"selector": KERNEL_DATA}, KERNEL_DATA | 1),
    ):
        machine = Machine("protected")
        machine.gate(0x30, HANDLER, **change)
        assert external(machine, 0x30).error == error


def test_an_external_interrupt_whose_stack_fails_has_ext_set():
    machine = Machine("long", cpl=3)
    machine.gate(0x30, HANDLER)
    machine.sregs["tr"] |= {"limit": 10}
    assert external(machine, 0x30).error == TASK | 1
    machine = Machine("protected", cpl=3)
    machine.gate(0x30, HANDLER)
    for selector, error in ((0, 1), (KERNEL_DATA | 3, KERNEL_DATA | 1), (ABSENT_DATA, ABSENT_DATA | 1)):
        machine.memory.put_u16(TSS + 8, selector)
        assert external(machine, 0x30).error == error
    machine.sregs["tr"] |= {"limit": 8}
    assert external(machine, 0x30).error == TASK | 1
    machine = Machine("protected")
    machine.gate(0x30, HANDLER)
    machine.sregs["ss"] |= {"limit": STACK - 8}
    assert external(machine, 0x30).error == 1


def test_an_external_interrupt_does_not_ask_for_the_gates_dpl():
    machine = Machine("protected", cpl=3)
    machine.gate(0x30, HANDLER)
    assert external(machine, 0x30) is None


def test_a_vector_beyond_the_idt_is_gp():
    machine = Machine("protected")
    machine.sregs["idt"] = {"base": IDT, "limit": 0x30 * 8 + 6}
    assert machine.fault(INT_30) == (GP, 0x182)


def test_a_handler_beyond_its_segment_is_gp():
    machine = Machine("protected")
    machine.gate(0x30, 0x1_0000, selector=CODE_16)
    assert machine.fault(INT_30) == (GP, 0)


def test_a_stack_without_room_is_ss():
    machine = Machine("protected")
    machine.gate(0x30, HANDLER)
    machine.sregs["ss"] |= {"limit": STACK - 8}
    assert machine.fault(INT_30) == (SS, 0)


# Protected mode, to an inner ring


def test_from_ring_3_the_tss_gives_the_stack_and_the_old_one_is_pushed():
    machine = Machine("protected", cpl=3)
    machine.gate(0x30, HANDLER, dpl=3)
    machine.regs["rflags"] |= RFLAGS_IF
    machine.run(INT_30)
    assert machine.cpu.cpl == 0
    assert machine.sregs["ss"]["selector"] == KERNEL_DATA
    assert machine.regs["rsp"] == STACK - 20
    assert machine.stack(5, 4) == [0x1_0002, USER_CODE | 3, 0x202, USER_STACK, USER_DATA | 3]
    assert machine.sregs["cs"]["selector"] == KERNEL_CODE
    assert machine.sregs["ds"]["selector"] == USER_DATA | 3


def test_the_handlers_selector_takes_the_new_level_as_rpl():
    machine = Machine("protected", cpl=3)
    machine.gate(0x30, HANDLER, selector=RING1_CODE, dpl=3)
    machine.memory.put_u32(TSS + 12, STACK)
    machine.memory.put_u16(TSS + 16, RING1_DATA | 1)
    machine.run(INT_30)
    assert (machine.sregs["cs"]["selector"], machine.cpu.cpl) == (RING1_CODE | 1, 1)


def test_a_16_bit_tss_has_16_bit_stack_pointers():
    machine = Machine("protected", cpl=3)
    machine.gate(0x30, HANDLER, dpl=3)
    machine.sregs["tr"] |= {"type": 3}
    machine.memory.put_u16(TSS + 2, 0x9000)
    machine.memory.put_u16(TSS + 4, KERNEL_DATA)
    machine.run(INT_30)
    assert machine.regs["rsp"] == 0x9000 - 20


@pytest.mark.parametrize(
    ("selector", "fault"),
    [
        (0, (TS, 0)),
        (0x100, (TS, 0x100)),
        (KERNEL_DATA | 1, (TS, KERNEL_DATA)),  # RPL
        (USER_DATA, (TS, USER_DATA)),  # DPL
        (READ_ONLY, (TS, READ_ONLY)),
        (KERNEL_CODE, (TS, KERNEL_CODE)),
        (ABSENT_DATA, (SS, ABSENT_DATA)),
    ],
)
def test_bad_inner_stacks_give_the_manuals_error_codes(selector: int, fault: tuple[int, int]):
    machine = Machine("protected", cpl=3)
    machine.gate(0x30, HANDLER, dpl=3)
    machine.memory.put_u16(TSS + 8, selector)
    assert machine.fault(INT_30) == fault


def test_a_tss_too_short_for_the_stack_is_ts_with_its_selector():
    machine = Machine("protected", cpl=3)
    machine.gate(0x30, HANDLER, dpl=3)
    machine.sregs["tr"] |= {"limit": 8}
    assert machine.fault(INT_30) == (TS, TASK)


def test_an_inner_stack_without_room_is_ss_with_its_selector():
    machine = Machine("protected", cpl=3)
    machine.gate(0x30, HANDLER, dpl=3)
    machine.memory.put_u64(0x1000 + KERNEL_DATA, 0x0040_9300_0000_0FFF)
    assert machine.fault(INT_30) == (SS, KERNEL_DATA)


# Virtual-8086 mode


def test_from_v86_all_data_segments_are_pushed_and_become_null():
    machine = Machine("protected")
    machine.gate(0x30, HANDLER, dpl=3)
    machine.enter_v86()
    machine.run(INT_30)
    assert machine.stack(9, 4) == [
        *(0x102, 0x1000, 0x2_3002, 0x8000, 0x1100),
        *(0x1300, 0x1200, 0x1400, 0x1500),
    ]
    assert all(machine.sregs[name]["unusable"] for name in ("ds", "es", "fs", "gs"))
    assert not machine.flag(RFLAGS_VM)
    assert machine.cpu.cpl == 0


def test_int_n_in_v86_needs_iopl_3_but_int3_does_not():
    machine = Machine("protected")
    machine.gate(0x30, HANDLER, dpl=3)
    machine.gate(3, HANDLER, dpl=3)
    machine.enter_v86(iopl=2)
    assert machine.fault(INT_30) == (GP, 0)
    assert machine.run("cc").fault is None


def test_from_v86_the_handler_must_be_in_ring_0():
    machine = Machine("protected")
    machine.gate(0x30, HANDLER, selector=RING1_CODE, dpl=3)
    machine.enter_v86()
    assert machine.fault(INT_30) == (GP, RING1_CODE)
    machine.gate(0x30, HANDLER, selector=CONFORMING, dpl=3)
    assert machine.fault(INT_30) == (GP, CONFORMING)


@pytest.mark.parametrize("iopl", [0, 3])
def test_with_vme_the_tss_says_which_int_stays_in_the_task(iopl: int):
    machine = Machine("protected")
    machine.enter_v86(iopl=iopl)
    machine.sregs["cr4"] |= CR4_VME
    machine.regs["rflags"] |= RFLAGS_IF | RFLAGS_TF
    machine.sregs["tr"] |= {"limit": 0x90}
    machine.memory.put_u16(TSS + 0x66, 0x88)  # the redirection bitmap is at 0x68
    machine.memory.put_u32(4 * 0x30, 0x2000_1234)
    before = machine.regs["rflags"]
    assert machine.run(INT_30).fault is None
    assert (machine.regs["rip"], machine.sregs["cs"]["base"]) == (0x1234, 0x2_0000)
    shown = before if iopl == 3 else before & ~RFLAGS_IF | 3 << 12
    assert machine.stack(3, 2) == [0x102, 0x1000, shown & 0xFFFF]
    cleared = RFLAGS_TF | (RFLAGS_IF if iopl == 3 else 0)
    assert machine.regs["rflags"] == before & ~cleared


def test_with_vme_an_int_that_does_not_stay_is_as_without_it():
    machine = Machine("protected")
    machine.enter_v86(iopl=0)
    machine.sregs["cr4"] |= CR4_VME
    machine.sregs["tr"] |= {"limit": 0x90}
    machine.memory.put_u16(TSS + 0x66, 0x88)
    machine.memory.write(TSS + 0x68 + 6, b"\1")
    assert machine.fault(INT_30) == (GP, 0)


# IA-32e mode


def test_64_bit_delivery_aligns_the_stack_and_pushes_five_quadwords():
    machine = Machine("long")
    machine.gate(0x30, 0xFFFF_8000_1234_5678)
    machine.regs["rsp"] = STACK - 3
    machine.regs["rflags"] |= RFLAGS_IF
    machine.run(INT_30)
    assert machine.regs["rsp"] == STACK - 16 - 40
    assert machine.stack(5, 8) == [0x1_0002, KERNEL_CODE, 0x202, STACK - 3, KERNEL_DATA]
    assert machine.regs["rip"] == 0xFFFF_8000_1234_5678
    assert machine.sregs["ss"]["selector"] == KERNEL_DATA
    assert not machine.flag(RFLAGS_IF)


def test_from_ring_3_rsp0_is_taken_and_ss_becomes_null():
    machine = Machine("long", cpl=3)
    machine.gate(0x30, HANDLER, dpl=3)
    machine.run(INT_30)
    assert machine.regs["rsp"] == STACK - 40
    assert machine.stack(5, 8)[3:] == [USER_STACK, USER_DATA | 3]
    assert (machine.sregs["ss"]["selector"], machine.cpu.cpl) == (0, 0)


def test_ist_gives_a_stack_even_without_a_change_of_level():
    machine = Machine("long")
    machine.gate(0x30, HANDLER, ist=2)
    machine.memory.put_u64(TSS + 0x2C, 0x4_0008)
    machine.run(INT_30)
    assert machine.regs["rsp"] == 0x4_0000 - 40
    assert machine.sregs["ss"]["selector"] == KERNEL_DATA


def test_compatibility_mode_enters_a_64_bit_handler():
    machine = Machine("long", cpl=3)
    machine.load("cs", USER_CODE | 3)
    machine.gate(0x30, HANDLER, dpl=3)
    machine.run(INT_30)
    assert machine.cpu.bits == 64
    assert machine.stack(2, 8) == [0x1_0002, USER_CODE | 3]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"kind": 6}, (GP, 0x182)),
        ({"kind": 5}, (GP, 0x182)),
        ({"selector": CODE_16}, (GP, CODE_16)),  # not a 64-bit segment
        ({"offset": 0x8000_0000_0000}, (GP, 0)),
    ],
)
def test_ia32e_mode_wants_64_bit_gates_and_handlers(change: dict, fault: tuple[int, int]):
    machine = Machine("long")
    machine.gate(0x30, **{"offset": HANDLER} | change)
    assert machine.fault(INT_30) == fault


def test_a_non_canonical_stack_is_ss():
    machine = Machine("long", cpl=3)
    machine.gate(0x30, HANDLER, dpl=3)
    for rsp in (0x8000_0000_0000_0000, 0xFFFF_8000_0000_0010):
        machine.memory.put_u64(TSS + 4, rsp)
        assert machine.fault(INT_30) == (SS, 0)


def test_a_tss_too_short_for_rsp0_is_ts():
    machine = Machine("long", cpl=3)
    machine.gate(0x30, HANDLER, dpl=3)
    machine.sregs["tr"] |= {"limit": 10}
    assert machine.fault(INT_30) == (TS, TASK)


def test_a_page_fault_on_the_new_stack_is_told_with_its_address():
    machine = Machine("long", cpl=3)
    machine.gate(0x30, HANDLER, dpl=3)
    machine.memory.put_u64(TSS + 4, 0x4000_0000_0010)
    fault = machine.run(INT_30).fault
    assert (fault.vector, fault.error, fault.cr2) == (PF, 2, 0x4000_0000_0008)


# Exceptions


def test_a_fault_pushes_its_error_code_and_rf():
    machine = Machine("long")
    machine.gate(GP, HANDLER)
    assert raise_exception(machine.cpu, Linear(machine.cpu, machine.memory), Fault(GP, 0x18))
    assert machine.stack(4, 8) == [0x18, 0x1_0000, KERNEL_CODE, 0x2 | RFLAGS_RF]


def test_an_external_interrupt_pushes_rf_as_it_is():
    machine = Machine("protected")
    machine.gate(0x30, HANDLER)
    external(machine, 0x30)
    assert machine.stack(3, 4) == [0x1_0000, KERNEL_CODE, 0x2]


def test_a_page_fault_sets_cr2():
    machine = Machine("protected")
    machine.gate(PF, HANDLER)
    raise_exception(machine.cpu, Linear(machine.cpu, machine.memory), Fault(PF, 2, 0xDEAD_BEEF))
    assert machine.sregs["cr2"] == 0xDEAD_BEEF
    assert machine.stack(1, 4) == [2]


def test_a_contributory_exception_in_a_contributory_delivery_is_a_double_fault():
    machine = Machine("protected")
    machine.gate(GP, HANDLER, present=0)
    machine.gate(DF, HANDLER)
    assert raise_exception(machine.cpu, Linear(machine.cpu, machine.memory), Fault(GP, 0))
    assert (machine.regs["rip"], machine.stack(1, 4)) == (HANDLER, [0])


def test_a_benign_exception_whose_delivery_fails_gives_way_to_the_second():
    machine = Machine("protected")
    machine.gate(UD, HANDLER, present=0)
    machine.gate(NP, HANDLER)
    assert raise_exception(machine.cpu, Linear(machine.cpu, machine.memory), Fault(UD))
    assert machine.stack(1, 4) == [UD * 8 + 3]


def test_a_double_fault_that_cannot_be_delivered_is_a_triple_fault():
    machine = Machine("protected")
    machine.sregs["idt"] = {"base": 0, "limit": 0}
    before = dict(machine.regs)
    assert not raise_exception(machine.cpu, Linear(machine.cpu, machine.memory), Fault(UD))
    assert machine.regs == before


def test_what_two_exceptions_make_follows_the_manuals_table():
    assert [together(UD, GP), together(GP, PF), together(GP, NP), together(PF, GP)] == [0, 0, 1, 1]
    assert [together(PF, PF), together(DF, PF), together(DF, GP), together(PF, UD)] == [1, 2, 2, 0]
