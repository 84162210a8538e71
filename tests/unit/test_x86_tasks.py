"""Task switches, by the Intel SDM vol. 3 §7.3: what is saved, loaded and marked, and whose a fault is."""

from __future__ import annotations

import pytest
from x86_machine import (
    ABSENT_CODE,
    ABSENT_DATA,
    FREE_TASK,
    GDT,
    KERNEL_CODE,
    KERNEL_DATA,
    LOCAL,
    STACK,
    TASK,
    TSS,
    USER_CODE,
    USER_DATA,
    Machine,
)

from pykvm.x86.exceptions import DB, GP, NP, SS, TS
from pykvm.x86.execute.interrupts import deliver
from pykvm.x86.execute.linear import Linear
from pykvm.x86.registers import CR0_TS, RFLAGS_CF, RFLAGS_NT, RFLAGS_VM
from pykvm.x86.segments import encode_gate

NEW_TSS, PLACE, GATE, NEW_STACK = 0x4800, 0x1234, 0xC0, 0x3_8000
JMP, CALL, IRET = f"ea 00 00 00 00 {FREE_TASK:02x} 00", f"9a 00 00 00 00 {FREE_TASK:02x} 00", "cf"
GENERAL = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")


def two_tasks(**more: int) -> Machine:
    """Task A runs, from the TSS at TSS; task B waits at NEW_TSS."""
    machine = Machine("protected")
    memory = machine.memory
    memory.put_u64(GDT + TASK, 0x0000_8B00_4000_0067)
    machine.sregs["tr"] |= {"selector": TASK, "type": 11}
    machine.sregs["ldt"] |= {"selector": 0}
    values = {
        "eip": PLACE,
        "eflags": 2,
        "cs": KERNEL_CODE,
        "ss": KERNEL_DATA,
        "ds": KERNEL_DATA,
        "ldt": 0,
    } | more
    places = {
        "eip": 0x20,
        "eflags": 0x24,
        "es": 0x48,
        "cs": 0x4C,
        "ss": 0x50,
        "ds": 0x54,
        "fs": 0x58,
        "ldt": 0x60,
    }
    for number in range(8):
        memory.put_u32(NEW_TSS + 0x28 + 4 * number, 0x100 + number)
    memory.put_u32(NEW_TSS + 0x38, NEW_STACK)
    for name, value in values.items():
        memory.put_u32(NEW_TSS + places[name], value)
    return machine


def kind(machine: Machine, selector: int) -> int:
    return machine.memory.read(GDT + selector + 5, 1)[0] & 15


def test_a_jump_saves_one_task_and_goes_on_with_the_other():
    machine = two_tasks()
    machine.regs |= {name: 0x200 + number for number, name in enumerate(GENERAL)}
    machine.regs["rflags"] = 2 | RFLAGS_CF
    assert machine.run(JMP).fault is None
    memory = machine.memory
    assert [memory.u32(TSS + 0x28 + 4 * number) for number in range(8)] == [0x200 + at for at in range(8)]
    assert (memory.u32(TSS + 0x20), memory.u32(TSS + 0x24)) == (0x1_0007, 2 | RFLAGS_CF)
    assert memory.u32(TSS + 0x4C) == KERNEL_CODE
    loaded = [0x100 + number if number != 4 else NEW_STACK for number in range(8)]
    assert [machine.regs[name] for name in GENERAL] == loaded
    assert (machine.regs["rip"], machine.regs["rflags"]) == (PLACE, 2)
    assert machine.sregs["tr"]["selector"] == FREE_TASK
    assert machine.sregs["cr0"] & CR0_TS
    assert (kind(machine, TASK), kind(machine, FREE_TASK)) == (9, 11)


def test_a_call_nests_and_iret_leads_back():
    machine = two_tasks()
    machine.run(CALL)
    assert machine.flag(RFLAGS_NT)
    assert machine.memory.u16(NEW_TSS) == TASK
    assert (kind(machine, TASK), kind(machine, FREE_TASK)) == (11, 11)
    machine.run(IRET)
    assert (machine.regs["rip"], machine.regs["rsp"]) == (0x1_0007, STACK)
    assert not machine.flag(RFLAGS_NT)
    assert machine.sregs["tr"]["selector"] == TASK
    assert (kind(machine, TASK), kind(machine, FREE_TASK)) == (11, 9)
    assert not machine.memory.u32(NEW_TSS + 0x24) & RFLAGS_NT


def test_an_exception_through_a_task_gate_pushes_its_error_code_there():
    machine = two_tasks()
    machine.gate(13, 0, selector=FREE_TASK, kind=5)
    deliver(machine.cpu, Linear(machine.cpu, machine.memory), 13, 0x18)
    assert (machine.regs["rip"], machine.regs["rsp"]) == (PLACE, NEW_STACK - 4)
    assert machine.stack(1, 4) == [0x18]
    assert machine.flag(RFLAGS_NT)


def test_a_task_gate_in_the_gdt_leads_to_its_task():
    machine = two_tasks()
    gate = {"offset": 0, "selector": FREE_TASK, "type": 5, "present": 1, "dpl": 0}
    machine.memory.write(GDT + GATE, encode_gate(gate)[:8])
    machine.run(f"ea 00 00 00 00 {GATE:02x} 00")
    assert machine.regs["rip"] == PLACE


def test_a_16_bit_tss_holds_words():
    machine = two_tasks()
    machine.memory.put_u64(GDT + FREE_TASK, 0x0000_8100_4800_002B)
    words = [PLACE, 2, *range(0x300, 0x308), USER_DATA, KERNEL_CODE, KERNEL_DATA, KERNEL_DATA, 0]
    for number, value in enumerate(words):
        machine.memory.put_u16(NEW_TSS + 0x0E + 2 * number, value)
    machine.run(JMP)
    assert machine.regs["rip"] == PLACE
    assert [machine.regs[name] for name in GENERAL] == list(range(0x300, 0x308))
    assert machine.sregs["es"]["selector"] == USER_DATA
    assert machine.sregs["fs"]["unusable"]
    assert machine.memory.u32(TSS + 0x20) == 0x1_0007  # the old one keeps its own form


def test_a_task_may_be_a_virtual_8086_one():
    machine = two_tasks(eflags=2 | RFLAGS_VM, cs=0x2000, ds=0x3000)
    machine.run(JMP)
    assert machine.cpu.v86
    assert (machine.sregs["cs"]["base"], machine.sregs["ds"]["base"]) == (0x2_0000, 0x3_0000)


def test_an_ldt_comes_with_the_task():
    machine = two_tasks(ldt=LOCAL)
    machine.run(JMP)
    assert (machine.sregs["ldt"]["selector"], machine.sregs["ldt"]["base"]) == (LOCAL, 0x9000)


def test_the_tasks_page_tables_come_with_it_where_paging_is_on():
    machine = two_tasks()
    flushed = []
    machine.cpu.flush = flushed.append
    machine.memory.put_u32(NEW_TSS + 0x1C, 0x7000)
    for table in (0x6000, 0x7000):
        machine.memory.put_u32(table, 0x83)
    machine.sregs |= {"cr0": machine.sregs["cr0"] | 1 << 31, "cr3": 0x6000, "cr4": 0x10}
    machine.run(JMP)
    assert machine.sregs["cr3"] == 0x7000
    assert flushed == [None]


@pytest.mark.parametrize(
    ("descriptor", "fault"),
    [
        (0x0000_8B00_4800_0067, (GP, FREE_TASK)),  # busy
        (0x0000_0900_4800_0067, (NP, FREE_TASK)),
        (0x0000_8900_4800_0066, (TS, FREE_TASK)),
    ],
)
def test_faults_before_the_switch_leave_the_old_task(descriptor: int, fault: tuple[int, int]):
    machine = two_tasks()
    machine.memory.put_u64(GDT + FREE_TASK, descriptor)
    assert machine.fault(JMP) == fault
    assert kind(machine, TASK) == 11


def test_a_task_of_an_inner_ring_may_not_be_called():
    machine = two_tasks()
    machine.enter_ring(3)
    assert machine.fault(CALL) == (GP, FREE_TASK)


def test_iret_to_a_task_that_is_not_busy_is_ts():
    machine = two_tasks()
    machine.regs["rflags"] |= RFLAGS_NT
    machine.memory.put_u16(TSS, FREE_TASK)
    assert machine.fault(IRET) == (TS, FREE_TASK)


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ({"cs": KERNEL_DATA}, (TS, KERNEL_DATA)),
        ({"cs": 0}, (TS, 0)),
        ({"cs": USER_CODE}, (TS, USER_CODE)),
        ({"cs": ABSENT_CODE}, (NP, ABSENT_CODE)),
        ({"ss": 0}, (TS, 0)),
        ({"ss": USER_DATA | 3}, (TS, USER_DATA)),
        ({"ss": ABSENT_DATA}, (SS, ABSENT_DATA)),
        ({"ds": ABSENT_DATA}, (NP, ABSENT_DATA)),
        ({"ldt": KERNEL_DATA}, (TS, KERNEL_DATA)),
        ({"eflags": 2 | RFLAGS_VM, "eip": 0x1_0000}, (GP, 0)),
    ],
)
def test_faults_after_the_switch_are_the_new_tasks(more: dict[str, int], fault: tuple[int, int]):
    machine = two_tasks(**more)
    found = machine.run(JMP).fault
    assert found is not None
    assert (found.vector, found.error) == fault
    assert machine.regs["rip"] == more.get("eip", PLACE)
    assert machine.sregs["tr"]["selector"] == FREE_TASK


def test_the_trap_bit_stops_the_task_at_its_begin():
    machine = two_tasks()
    machine.memory.put_u16(NEW_TSS + 0x64, 1)
    machine.cpu.debug = [0] * 8
    found = machine.run(JMP).fault
    assert found is not None
    assert found.vector == DB
    assert machine.cpu.debug[6] == 1 << 15
    assert machine.regs["rip"] == PLACE
