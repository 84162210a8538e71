"""IN and OUT, and who may use which port (Intel SDM vol. 1 §19.5)."""

from __future__ import annotations

import pytest
from x86_machine import TSS, Machine

from pykvm.x86.exceptions import GP
from pykvm.x86.execute import execute


class Ports:
    def __init__(self) -> None:
        self.log: list[tuple[int, ...]] = []

    def read(self, port: int, size: int) -> int:
        self.log.append((port, size))
        return 0xFFEE_DDCC & (1 << 8 * size) - 1

    def write(self, port: int, size: int, value: int) -> None:
        self.log.append((port, size, value))


def machine_with_ports(mode: str = "long", cpl: int = 0) -> tuple[Machine, Ports]:
    machine = Machine(mode, cpl=cpl)
    machine.cpu.ports = ports = Ports()
    machine.regs |= {"rax": 0x8877_6655_4433_2211, "rdx": 0xABCD_03F8}
    return machine, ports


@pytest.mark.parametrize(
    ("code", "rax", "access"),
    [
        ("e4 60", 0x8877_6655_4433_22CC, (0x60, 1)),
        ("66 e5 60", 0x8877_6655_4433_DDCC, (0x60, 2)),
        ("e5 60", 0xFFEE_DDCC, (0x60, 4)),
        ("48 ed", 0xFFEE_DDCC, (0x3F8, 4)),
        ("ec", 0x8877_6655_4433_22CC, (0x3F8, 1)),
    ],
)
def test_in_sets_the_part_of_rax_that_it_reads(code: str, rax: int, access: tuple[int, int]):
    machine, ports = machine_with_ports()
    machine.run(code)
    assert machine.regs["rax"] == rax
    assert ports.log == [access]


@pytest.mark.parametrize(
    ("code", "access"),
    [("e6 80", (0x80, 1, 0x11)), ("66 ef", (0x3F8, 2, 0x2211)), ("ef", (0x3F8, 4, 0x4433_2211))],
)
def test_out_writes_the_part_of_rax_that_it_names(code: str, access: tuple[int, int, int]):
    machine, ports = machine_with_ports()
    machine.run(code)
    assert ports.log == [access]


def test_without_ports_nothing_is_carried_out():
    machine = Machine("long")
    assert execute(machine.cpu, machine.memory, b"\xec") is None
    assert machine.regs["rip"] == 0x1_0000


def test_iopl_lets_a_ring_use_all_ports():
    machine, ports = machine_with_ports(cpl=3)
    machine.regs["rflags"] |= 3 << 12
    machine.run("ec")
    assert ports.log == [(0x3F8, 1)]


@pytest.mark.parametrize(
    ("code", "bits", "allowed"),
    [("ec", 0, True), ("ec", 1, False), ("66 ed", 2, False), ("66 ed", 4, True), ("ed", 8, False)],
)
@pytest.mark.parametrize("mode", ["long", "protected"])
def test_below_iopl_the_bitmap_of_the_tss_must_have_zeros(mode: str, code: str, bits: int, allowed: bool):
    machine, ports = machine_with_ports(mode, cpl=3)
    machine.sregs["tr"] |= {"limit": 0x200, "type": 11}
    machine.memory.put_u16(TSS + 0x66, 0x68)
    machine.memory.write(TSS + 0x68 + 0x3F8 // 8, bytes((bits,)))
    if allowed:
        assert machine.run(code).fault is None
    else:
        assert machine.fault(code) == (GP, 0)
        assert ports.log == []


def test_four_ports_may_lie_in_two_bytes_of_the_bitmap():
    machine, _ = machine_with_ports(cpl=3)
    machine.sregs["tr"] |= {"limit": 0x200}
    machine.memory.put_u16(TSS + 0x66, 0x68)
    machine.regs["rdx"] = 0x3FE
    machine.memory.write(TSS + 0x68 + 0x400 // 8, b"\2")
    assert machine.fault("ed") == (GP, 0)
    machine.regs["rdx"] = 0x3FD
    assert machine.run("ed").fault is None


@pytest.mark.parametrize("limit", [0x66, 0x68 + 0x3F8 // 8])
def test_ports_beyond_the_limit_of_the_tss_are_denied(limit: int):
    machine, _ = machine_with_ports(cpl=3)
    machine.memory.put_u16(TSS + 0x66, 0x68)
    machine.sregs["tr"] |= {"limit": limit}
    assert machine.fault("ec") == (GP, 0)


def test_v86_code_goes_by_the_bitmap_whatever_its_iopl():
    machine, _ = machine_with_ports("protected")
    machine.enter_v86(iopl=3)
    machine.memory.put_u16(TSS + 0x66, 0x68)
    machine.sregs["tr"] |= {"limit": 0x200}
    assert machine.run("e4 60").fault is None
    machine.memory.write(TSS + 0x68 + 12, b"\1")
    assert machine.fault("e4 60") == (GP, 0)
