"""One step: the bytes come from CS:RIP, and the faults are those of a fetch."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from pathlib import Path

import pytest
from x86_doubles import PAGE
from x86_machine import CODE, TABLES, Machine

from pykvm.x86.exceptions import GP, PF, UD
from pykvm.x86.execute import Outcome, step
from pykvm.x86.execute.linear import Linear
from pykvm.x86.registers import CR4_SMEP, EFER_NXE

FAR = 0x4000_0000
GUESTS = Path(__file__).parents[2] / "guests"


def run(machine: Machine) -> Outcome:
    outcome = step(machine.cpu, machine.memory)
    assert outcome is not None
    return outcome


def fault(machine: Machine) -> tuple[int, int | None, int | None]:
    before = dict(machine.regs)
    found = run(machine).fault
    assert found is not None
    assert machine.regs == before
    return found.vector, found.error, found.cr2


def code_at_page_end(code: bytes, last: int, second: int) -> Machine:
    """``last`` bytes of ``code`` end a page at FAR; ``second`` is the entry of the page behind it."""
    machine = Machine("long")
    memory = machine.memory
    memory.put_u64(TABLES + 0x1000 + 8, 0x8_0000 | 7)
    memory.put_u64(0x8_0000, 0x8_1000 | 7)
    memory.put_u64(0x8_1000, 0x9_0000 | 7)
    memory.put_u64(0x8_1008, second)
    memory.write(0x9_0000 + PAGE - last, code[:last])
    memory.write(0xA_0000, code[last:])
    machine.regs["rip"] = FAR + PAGE - last
    return machine


@pytest.mark.parametrize(
    ("mode", "code"),
    [
        ("real", "b8 05 00 48 eb fd"),
        ("protected", "b8 05 00 00 00 48 eb fd"),
        ("long", "b8 05 00 00 00 ff c8 eb fc"),
    ],
)
def test_a_program_runs_step_by_step(mode: str, code: str):
    machine = Machine(mode)
    base = 0 if mode == "long" else machine.sregs["cs"]["base"]
    machine.memory.write(base + machine.regs["rip"], bytes.fromhex(code))
    seen = [run(machine).name for _ in range(5)]
    assert seen == ["mov", "dec", "jmp", "dec", "jmp"]
    assert machine.regs["rax"] & 0xFF == 3


def test_code_is_read_anew_each_time():
    machine = Machine("long")
    machine.memory.write(CODE, b"\xff\xc0")
    run(machine)
    machine.memory.write(CODE, b"\xff\xc8")
    machine.regs["rip"] = CODE
    assert run(machine).name == "dec"


@pytest.mark.parametrize("last", [1, 4, 9])
def test_an_instruction_may_lie_on_two_pages(last: int):
    code = bytes.fromhex("48 b8") + (0x1122_3344_5566_7788).to_bytes(8, "little")
    machine = code_at_page_end(code, last, 0xA_0000 | 7)
    assert run(machine).name == "mov"
    assert machine.regs["rax"] == 0x1122_3344_5566_7788
    machine = code_at_page_end(code, last, 0)
    assert fault(machine) == (PF, 0, FAR + PAGE)
    assert not machine.memory.u64(0x8_1008)


def test_the_next_page_is_not_touched_where_the_instruction_ends_before_it():
    machine = code_at_page_end(b"\xff\xc0", 2, 0xA_0000 | 7)
    run(machine)
    assert machine.memory.u64(0x8_1008) == 0xA_0000 | 7  # not accessed


def test_the_error_code_of_a_fetch():
    machine = Machine("long", cpl=3)
    machine.regs["rip"] = FAR
    machine.sregs["efer"] &= ~EFER_NXE
    assert fault(machine) == (PF, 4, FAR)
    machine.sregs["efer"] |= EFER_NXE
    assert fault(machine) == (PF, 0x14, FAR)
    machine.memory.put_u64(TABLES + 0x1000 + 8, 1 << 63 | 0x4000_0087)
    assert fault(machine) == (PF, 0x15, FAR)


def test_smep_keeps_ring_0_from_user_code():
    machine = Machine("long")
    machine.memory.write(CODE, b"\xff\xc0")
    run(machine)
    machine.regs["rip"] = CODE
    machine.sregs["cr4"] |= CR4_SMEP
    assert fault(machine) == (PF, 0x11, CODE)


def test_rip_outside_of_the_limit_or_not_canonical_is_gp():
    machine = Machine("protected")
    machine.sregs["cs"] |= {"limit": CODE - 1}
    assert fault(machine) == (GP, 0, None)
    machine = Machine("long")
    machine.regs["rip"] = 1 << 47
    assert fault(machine) == (GP, 0, None)
    machine = Machine("real")
    machine.regs["rip"] = 0x1_0000
    assert fault(machine) == (GP, None, None)


def test_an_instruction_that_goes_on_beyond_the_limit_is_gp():
    machine = Machine("protected")
    machine.memory.write(CODE, bytes.fromhex("b8 01 02 03 04"))
    machine.sregs["cs"] |= {"limit": CODE + 3}
    assert fault(machine) == (GP, 0, None)
    machine.sregs["cs"] |= {"limit": CODE + 4}
    assert run(machine).fault is None


def test_code_at_the_end_of_the_canonical_range_can_not_go_on():
    machine = Machine("long")
    top = (1 << 47) - PAGE
    memory = machine.memory
    memory.put_u64(TABLES + 8 * 255, 0x8_0000 | 7)
    memory.put_u64(0x8_0000 + 8 * 511, 0x8_1000 | 7)
    memory.put_u64(0x8_1000 + 8 * 511, 0x8_2000 | 7)
    memory.put_u64(0x8_2000 + 8 * 511, 0x9_0000 | 7)
    memory.write(0x9_0FFF, b"\xb8")
    machine.regs["rip"] = top + PAGE - 1
    assert fault(machine) == (GP, 0, None)


def test_fifteen_bytes_are_the_limit_and_what_is_undefined_is_ud():
    machine = Machine("long")
    machine.memory.write(CODE, b"\x66" * 15 + b"\x90")
    assert fault(machine) == (GP, 0, None)
    machine.memory.write(CODE, b"\x06")
    assert fault(machine) == (UD, None, None)


def test_what_is_not_known_is_none_and_changes_nothing():
    machine = Machine("long")
    machine.memory.write(CODE, bytes.fromhex("d9 c0"))
    before = dict(machine.regs)
    assert step(machine.cpu, machine.memory) is None
    assert machine.regs == before


class Block(MutableMapping[str, int]):
    """Registers that live elsewhere."""

    def __init__(self, values: dict[str, int]) -> None:
        self.names = list(values)
        self.words = [values[name] for name in self.names]

    def __getitem__(self, name: str) -> int:
        return self.words[self.names.index(name)]

    def __setitem__(self, name: str, value: int) -> None:
        self.words[self.names.index(name)] = value

    def __delitem__(self, name: str) -> None:
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def test_registers_may_be_any_mapping_and_a_linear_may_serve_many_steps():
    machine = Machine("long")
    machine.cpu.regs = block = Block(machine.regs)
    linear = Linear(machine.cpu, machine.memory)
    machine.gate(3, 0x5_0000)
    machine.memory.write(CODE, bytes.fromhex("6a 07 58 cc"))
    machine.memory.write(0x5_0000, bytes.fromhex("48 cf"))
    names = [outcome.name for _ in range(4) if (outcome := step(machine.cpu, linear)) is not None]
    assert names == ["push", "pop", "int3", "iret"]
    assert (block["rax"], block["rip"]) == (7, CODE + 4)
    machine.cpu.sregs["ss"] |= {"selector": 0x33}
    machine.memory.write(CODE, bytes.fromhex("48 cf"))
    block["rip"] = CODE
    words = list(block.words)
    outcome = step(machine.cpu, linear)
    assert outcome is not None
    assert outcome.fault is not None
    assert block.words == words


# A whole guest


class Board:
    """What the guest `hello` talks to: the serial port's data register, and the power switch."""

    def __init__(self) -> None:
        self.text = b""
        self.off = False

    def read(self, port: int, size: int) -> int:
        raise AssertionError(f"hello reads port {port:#x}")

    def write(self, port: int, size: int, value: int) -> None:
        if port == 0x604:
            self.off = value == 5 << 10 | 1 << 13
        else:
            assert (port, size) == (0x3F8, 1)
            self.text += bytes((value,))


def test_the_guest_hello_runs_from_its_first_to_its_last_instruction():
    machine = Machine("real")
    machine.cpu.ports = board = Board()
    machine.memory.write(machine.sregs["cs"]["base"], (GUESTS / "hello" / "hello.bin").read_bytes())
    machine.regs["rip"] = 0
    for _ in range(1000):
        assert run(machine).fault is None
        if board.off:
            break
    assert board.text == b"Hello from inside the virtual machine.\r\n"
    assert board.off
