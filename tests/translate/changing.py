"""Guest code that writes to guest code: a guest for it, and the instructions that it is put together from."""

from __future__ import annotations

from collections.abc import Iterator
from struct import pack

from guest import CODE_AT, Guest
from places import CODE, DATA, END, PAGE

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
ALIAS = CODE + 0x1_0000
TARGET = CODE + 2 * PAGE + 0x100
RETURN = b"\xc3"


def machine_of(cpl: int, bmi2: bool) -> Iterator[Guest]:
    """For a fixture: a machine for many tests."""
    guest = Guest(cpl=cpl, bmi2=bmi2)
    yield guest
    guest.close()


def as_new(machine: Guest) -> Guest:
    """``machine`` as each test finds it: nothing but END in the pages for code, zeros in those for data."""
    for number, gpa in enumerate(CODE_AT):
        machine.map(CODE + number * PAGE, gpa)
        machine.put(CODE + number * PAGE, bytes((END,)) * PAGE)
    machine.data = bytes(4 * PAGE)
    registers = [0] * 16
    registers[RSP] = DATA + PAGE
    machine.regs, machine.flags = registers, 2
    return machine


def mov(register: int, value: int) -> bytes:
    """mov register, value; of 32 bits"""
    return bytes((0xB8 | register,)) + pack("<I", value)


def store_byte(address: int, value: int) -> bytes:
    """mov byte [address], value"""
    return b"\xc6\x04\x25" + pack("<IB", address, value)


def call(at: int, target: int) -> bytes:
    """call target, where the instruction itself is ``at``"""
    return b"\xe8" + pack("<i", target - at - 5)


def run(guest: Guest, code: bytes, at: int = CODE) -> list[int]:
    """Run ``code`` to its end; the registers there."""
    guest.put(at, code + bytes((END,)))
    guest.run(at)
    assert guest.rip == at + len(code)
    return guest.regs
