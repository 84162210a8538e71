"""Repeated string instructions: what one call does, and what is left by a fault, a limit or TF."""

from __future__ import annotations

import pytest
from x86_doubles import PAGE, SparseMemory
from x86_machine import TABLES, Machine

from pykvm.x86.exceptions import GP, PF, SS
from pykvm.x86.execute import Cpu, execute
from pykvm.x86.registers import RFLAGS_CF, RFLAGS_DF, RFLAGS_PF, RFLAGS_SF, RFLAGS_TF, RFLAGS_ZF

SOURCE, TARGET, CODE = 0x4_0000, 0x5_0000, 0x1_0000


def strings(count: int, *, mode: str = "long") -> Machine:
    machine = Machine(mode)
    machine.regs |= {"rsi": SOURCE, "rdi": TARGET, "rcx": count, "rax": 0}
    machine.memory.write(SOURCE, bytes(at * 7 & 0xFF for at in range(3 * PAGE)))
    return machine


class OneAtATime:
    """Memory of which nothing says that it is plain: every element is moved alone."""

    def __init__(self, memory: SparseMemory) -> None:
        self.memory = memory
        self.written: list[tuple[int, int]] = []

    def write(self, gpa: int, data: bytes) -> None:
        self.written.append((gpa, len(data)))
        self.memory.write(gpa, data)

    def __getattr__(self, name: str):
        if name == "region_at":
            raise AttributeError
        return getattr(self.memory, name)


def test_a_call_makes_so_many_iterations_and_stays_at_the_instruction():
    machine = strings(5000)
    outcome = machine.run("f3 a4")
    assert (outcome.name, outcome.fault) == ("movs", None)
    assert machine.regs["rip"] == CODE
    assert machine.regs["rcx"] == 5000 - 4096
    assert (machine.regs["rsi"], machine.regs["rdi"]) == (SOURCE + 4096, TARGET + 4096)
    machine.run("f3 a4")
    assert (machine.regs["rip"], machine.regs["rcx"]) == (CODE + 2, 0)
    assert machine.memory.read(TARGET, 5000) == machine.memory.read(SOURCE, 5000)
    assert machine.memory.read(TARGET + 5000, 1) == b"\0"


@pytest.mark.parametrize(
    "code, moved", [("f3 a4", 4096), ("f3 48 a5", 512), ("f3 aa", 4096), ("f3 66 ab", 2048)]
)
def test_a_call_makes_as_many_backwards(code: str, moved: int):
    machine = strings(5000)
    size = 4096 // moved
    ends = {"rsi": SOURCE + 2 * PAGE - size, "rdi": TARGET + 2 * PAGE - size}
    machine.regs |= ends | {"rflags": 2 | RFLAGS_DF, "rax": 0x2020}
    machine.cpu.iterations = moved
    machine.run(code)
    assert machine.regs["rcx"] == 5000 - moved
    assert machine.regs["rdi"] == ends["rdi"] - PAGE
    copied = machine.memory.read(SOURCE + PAGE, PAGE)
    assert machine.memory.read(TARGET + PAGE, PAGE) == (
        copied if "a4" in code or "a5" in code else b" " * PAGE
    )
    assert machine.memory.read(TARGET, PAGE) == bytes(PAGE)


def test_fewer_are_moved_in_a_call_where_each_is_moved_alone():
    machine = strings(5000)
    machine.cpu.iterations = 80
    single = OneAtATime(machine.memory)
    execute(machine.cpu, single, bytes.fromhex("f3 a4"))
    assert machine.regs["rcx"] == 4990
    assert machine.regs["rip"] == CODE


@pytest.mark.parametrize("code", ["f3 48 a5", "f3 a5", "f3 66 a5", "f2 a4"])
@pytest.mark.parametrize("shift", [0, 3, -3, 16, -16, 1000, -1000])
@pytest.mark.parametrize("flags", [2, 2 | RFLAGS_DF])
def test_at_once_or_one_by_one_comes_to_the_same(code: str, shift: int, flags: int):
    machines = strings(300), strings(300)
    for machine in machines:
        machine.regs |= {"rsi": SOURCE + PAGE + 5, "rdi": SOURCE + PAGE + 5 + shift, "rflags": flags}
    machines[0].run(code)
    single = OneAtATime(machines[1].memory)
    execute(machines[1].cpu, single, bytes.fromhex(code))
    assert {size for _, size in single.written} <= {1, 2, 3, 4, 5, 6, 7, 8}
    assert machines[0].regs == machines[1].regs
    assert machines[0].memory.read(SOURCE, 3 * PAGE) == machines[1].memory.read(SOURCE, 3 * PAGE)


def test_a_copy_onto_what_is_still_to_be_read_repeats_the_first_bytes():
    machine = strings(100)
    machine.memory.write(SOURCE, b"ab")
    machine.regs["rdi"] = SOURCE + 2
    machine.run("f3 a4")
    assert machine.memory.read(SOURCE, 102) == b"ab" * 51


def test_backwards_it_repeats_the_last_bytes():
    machine = strings(100)
    machine.memory.write(SOURCE + 200, b"ab")
    machine.regs |= {"rsi": SOURCE + 201, "rdi": SOURCE + 199, "rflags": 2 | RFLAGS_DF}
    machine.run("f3 a4")
    assert machine.memory.read(SOURCE + 100, 102) == b"ab" * 51


def test_two_pages_of_one_frame_overlap_too():
    machine = strings(64)
    memory = machine.memory  # 4 KiB pages: linear 0x4000_0000 and 0x4000_1000 are both the frame at SOURCE
    memory.put_u64(TABLES + 0x1000 + 8, 0x8_0000 | 7)
    memory.put_u64(0x8_0000, 0x8_1000 | 7)
    memory.put_u64(0x8_1000, SOURCE | 7)
    memory.put_u64(0x8_1008, SOURCE | 7)
    memory.write(SOURCE, b"xy" + bytes(100))
    machine.regs |= {"rsi": 0x4000_0000, "rdi": 0x4000_1002}
    machine.run("f3 a4")
    assert memory.read(SOURCE, 66) == b"xy" * 33


def test_a_fault_in_the_middle_keeps_what_was_done():
    machine = strings(100)
    memory = machine.memory
    memory.put_u64(TABLES + 0x1000 + 8, 0x8_0000 | 7)
    memory.put_u64(0x8_0000, 0x8_1000 | 7)
    memory.put_u64(0x8_1000, 0x9_0000 | 7)  # the page after it is not there
    machine.regs["rdi"] = 0x4000_0FF0
    fault = machine.run("f3 a4").fault
    assert fault is not None
    assert (fault.vector, fault.error, fault.cr2) == (PF, 2, 0x4000_1000)
    assert machine.regs["rip"] == CODE
    assert (machine.regs["rcx"], machine.regs["rdi"], machine.regs["rsi"]) == (84, 0x4000_1000, SOURCE + 16)
    assert memory.read(0x9_0FF0, 16) == memory.read(SOURCE, 16)


@pytest.mark.parametrize("count, flags", [(5, RFLAGS_ZF | RFLAGS_PF), (0, RFLAGS_CF | RFLAGS_SF)])
def test_a_fault_in_the_middle_of_compares_leaves_the_last_ones_flags(count: int, flags: int):
    machine = strings(100, mode="protected")
    machine.sregs["es"] |= {"limit": TARGET + count - 1}
    machine.regs["rflags"] |= RFLAGS_CF | RFLAGS_SF
    machine.memory.write(TARGET, machine.memory.read(SOURCE, count))
    fault = machine.run("f3 a6").fault
    assert fault is not None
    assert (fault.vector, machine.regs["rcx"], machine.regs["rip"]) == (GP, 100 - count, CODE)
    assert machine.regs["rflags"] == 2 | flags


def test_a_limit_in_the_middle_is_gp_where_it_is_reached():
    machine = strings(100, mode="protected")
    machine.sregs["es"] |= {"limit": TARGET + 9}
    fault = machine.run("f3 aa").fault
    assert fault is not None
    assert fault.vector == GP
    assert machine.regs["rcx"] == 90


def test_tf_traps_after_each_iteration():
    machine = strings(3)
    machine.regs["rflags"] |= RFLAGS_TF
    assert machine.run("f3 a4").single_step
    assert (machine.regs["rcx"], machine.regs["rip"]) == (2, CODE)


def test_without_a_count_nothing_is_touched():
    machine = strings(0)
    machine.regs |= {"rsi": 1 << 50, "rdi": 1 << 50}
    assert machine.run("f3 a4").fault is None
    assert machine.regs["rip"] == CODE + 2


@pytest.mark.parametrize(("code", "count", "zero"), [("f3 a6", 100 - 41, False), ("f2 a6", 99, True)])
def test_compares_end_by_zf(code: str, count: int, zero: bool):
    machine = strings(100)
    machine.memory.write(TARGET, machine.memory.read(SOURCE, 40) + b"\xee" * 60)
    machine.run(code)
    assert machine.regs["rcx"] == count
    assert machine.regs["rip"] == CODE + 2
    assert machine.flag(RFLAGS_ZF) == zero


def test_scas_finds_the_end_of_a_string_across_pages():
    machine = strings((1 << 64) - 1)
    machine.regs["rdi"] = TARGET + PAGE - 10
    machine.memory.write(TARGET + PAGE - 10, b"x" * 50)
    machine.run("f2 ae")
    assert machine.regs["rdi"] == TARGET + PAGE - 10 + 51
    assert -machine.regs["rcx"] - 2 & (1 << 64) - 1 == 50


def test_address_size_cuts_count_and_pointers():
    machine = strings(3 | 1 << 32)
    machine.regs |= {"rsi": SOURCE | 5 << 32, "rdi": TARGET | 5 << 32}
    machine.run("67 f3 a4")
    assert (machine.regs["rcx"], machine.regs["rsi"], machine.regs["rdi"]) == (0, SOURCE + 3, TARGET + 3)
    machine = strings(0x1_0004, mode="real")
    machine.regs |= {"rsi": 0xFFFE, "rdi": 0x10}
    machine.run("f3 a4")
    assert (machine.regs["rcx"], machine.regs["rsi"], machine.regs["rdi"]) == (0x1_0000, 2, 0x14)


def test_the_source_has_a_segment_override_and_the_target_none():
    machine = strings(1, mode="protected")
    machine.sregs["fs"] |= {"base": 0x1000}
    machine.sregs["ss"] |= {"limit": 0}
    machine.run("64 a4")
    assert machine.memory.read(TARGET, 1) == machine.memory.read(SOURCE + 0x1000, 1)
    assert machine.fault("36 a4") == (SS, 0)


class Ports:
    def __init__(self) -> None:
        self.log: list[tuple[int, ...]] = []

    def read(self, port: int, size: int) -> int:
        self.log.append((port, size))
        return 0x4433_2211 + len(self.log)

    def write(self, port: int, size: int, value: int) -> None:
        self.log.append((port, size, value))


def with_ports(machine: Machine) -> tuple[Cpu, Ports]:
    machine.cpu.ports = ports = Ports()
    machine.regs["rdx"] = 0x1F0
    return machine.cpu, ports


def test_ins_and_outs_move_elements_to_and_from_a_port():
    machine = strings(3)
    _, ports = with_ports(machine)
    machine.run("f3 66 6d")
    assert ports.log == [(0x1F0, 2)] * 3
    assert machine.memory.read(TARGET, 6) == bytes.fromhex("12 22 13 22 14 22")
    assert (machine.regs["rdi"], machine.regs["rcx"]) == (TARGET + 6, 0)
    ports.log.clear()
    machine.regs["rcx"] = 2
    machine.run("f3 6e")
    assert ports.log == [(0x1F0, 1, 0), (0x1F0, 1, 7)]
    assert machine.regs["rsi"] == SOURCE + 2


def test_ins_reads_no_port_where_it_can_not_store():
    machine = strings(1)
    _, ports = with_ports(machine)
    machine.regs["rdi"] = 5 << 30
    assert machine.fault("6c")[0] == PF
    assert ports.log == []
