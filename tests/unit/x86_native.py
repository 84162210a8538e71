"""Runs single user-mode instructions on the real processor: registers, flags and XMM in, the same out.

The state is a block of memory: the general registers by number at 0, RFLAGS at 128, an FXSAVE image at 256.
A stub loads all of it, runs the instruction, and stores it back. RSP is the stub's own.
"""

from __future__ import annotations

import ctypes
import mmap
import random

from pykvm.x86.execute.maps import MAPS, VEX_MAPS
from pykvm.x86.execute.table import expand, parse

FLAGS_AT = 128
FX_AT = 256
OWN_FX_AT = 1024
XMM_AT = FX_AT + 160
SAVED_STATE, SAVED_RDI = 0xF00, 0xF08
RSP, RDI = 4, 7


def cpu_flags() -> frozenset[str]:
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("flags"):
                return frozenset(line.split(":")[1].split())
    return frozenset()


def _address(block: mmap.mmap) -> tuple[int, object]:
    keep = ctypes.c_char.from_buffer(block)
    return ctypes.addressof(keep), keep


class Processor:
    """One page of code, one of state, and one of memory for the instruction to work on."""

    def __init__(self) -> None:
        executable = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        self.code = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, executable)
        self.state = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.memory = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.code_address, self._keep_code = _address(self.code)
        self.state_address, self._keep_state = _address(self.state)
        self.memory_address, self._keep_memory = _address(self.memory)
        self._call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self.code_address)

    def load(self, instruction: bytes) -> None:
        """Write the stub around ``instruction``."""
        stub = bytearray.fromhex("53 55 41 54 41 55 41 56 41 57 9c")

        def field(opcode: str, offset: int) -> None:
            stub.extend(bytes.fromhex(opcode) + offset.to_bytes(4, "little"))

        def saved(opcode: str, place: int) -> None:
            code = bytes.fromhex(opcode)
            stub.extend(code + (place - len(stub) - len(code) - 4).to_bytes(4, "little"))

        def move(opcode: int, number: int) -> None:
            rex, modrm = 0x48 | number >> 3 << 2, 0x80 | (number & 7) << 3 | RDI
            field(bytes((rex, opcode, modrm)).hex(), 8 * number)

        others = [number for number in range(16) if number not in (RSP, RDI)]
        saved("48 89 3d", SAVED_STATE)
        field("48 0f ae 87", OWN_FX_AT)  # fxsave64: the process's own state comes back at the end
        field("48 0f ae 8f", FX_AT)  # fxrstor64
        field("ff b7", FLAGS_AT)
        stub.extend(b"\x9d")
        for number in [*others, RDI]:
            move(0x8B, number)
        stub.extend(instruction)
        saved("48 89 3d", SAVED_RDI)
        saved("48 8b 3d", SAVED_STATE)
        for number in others:
            move(0x89, number)
        saved("ff 35", SAVED_RDI)
        field("8f 87", 8 * RDI)
        stub.extend(b"\x9c")
        field("8f 87", FLAGS_AT)
        field("48 0f ae 87", FX_AT)
        field("48 0f ae 8f", OWN_FX_AT)
        stub.extend(bytes.fromhex("9d 41 5f 41 5e 41 5d 41 5c 5d 5b c3"))
        self.code[: len(stub)] = bytes(stub)

    def run(self) -> None:
        self._call(self.state_address)

    def close(self) -> None:
        del self._keep_code, self._keep_state, self._keep_memory
        for block in (self.code, self.state, self.memory):
            block.close()

    def reg(self, number: int) -> int:
        return int.from_bytes(self.state[8 * number : 8 * number + 8], "little")

    def set_reg(self, number: int, value: int) -> None:
        self.state[8 * number : 8 * number + 8] = value.to_bytes(8, "little")

    @property
    def flags(self) -> int:
        return int.from_bytes(self.state[FLAGS_AT : FLAGS_AT + 8], "little")

    @flags.setter
    def flags(self, value: int) -> None:
        self.state[FLAGS_AT : FLAGS_AT + 8] = value.to_bytes(8, "little")

    @property
    def fx(self) -> bytes:
        return self.state[FX_AT : FX_AT + 512]

    @fx.setter
    def fx(self, image: bytes) -> None:
        self.state[FX_AT : FX_AT + 512] = image


BIT_STRINGS = ("bt", "bts", "btr", "btc")

SPECIAL = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 1 << 63, (1 << 64) - 1)


def operand(numbers: random.Random) -> int:
    """Any 64 bits, and often those at which something turns."""
    choice = numbers.random()
    if choice < 0.3:
        return numbers.choice(SPECIAL)
    if choice < 0.5:
        return numbers.getrandbits(numbers.randrange(1, 65))
    return numbers.getrandbits(64)


def assemble(row: tuple, numbers: random.Random, memory: bool, size: int) -> tuple[bytes, int, int]:
    """An instruction of the table with random registers; gives its bytes, base and index (-1: none).

    With ``memory`` the r/m operand is [base + index*scale + disp8]. ``size`` (2, 4, 8) sets 66 and REX.W
    where the notation leaves them free.
    """
    notation = numbers.choice(expand(row[0]))
    (vex, escape, opcode), parsed = parse(notation, *row[1:])
    free = [number for number in range(16) if number != RSP]
    reg = numbers.choice(free) if parsed.digit is None else parsed.digit
    rm = numbers.choice(free)
    rex = (8 if size == 8 else 0) | (4 if reg & 8 else 0) | (1 if rm & 8 else 0)
    base = index = -1
    operands = bytearray()
    shape = MAPS[escape][opcode]
    if shape == "f" or shape == "F":
        shape = {("f", True): "M", ("F", True): "Z"}.get((shape, reg < 2), "m")
    if parsed.modrm is not None:
        operands.append(parsed.modrm)
        rex &= 8
    elif shape in ".bzv":
        rex &= 8
        if "+" in row[0] and (opcode & 7 == RSP or numbers.random() < 0.5):
            rex |= 1
    elif memory:
        if row[1] in BIT_STRINGS:  # the reg operand is part of the address, and must not be the rest of it
            free = [number for number in free if number != reg]
            rm = numbers.choice(free)
            rex = rex & ~1 | (1 if rm & 8 else 0)
        base = rm
        if numbers.random() < 0.5 or base & 7 == RSP:
            index = numbers.choice([number for number in free if number != base])
            rex |= 2 if index & 8 else 0
            operands += bytes(
                (0x44 | (reg & 7) << 3, numbers.randrange(4) << 6 | (index & 7) << 3 | base & 7)
            )
        else:
            operands.append(0x40 | (reg & 7) << 3 | base & 7)
        operands.append(numbers.randrange(0, 128, 16))
    else:
        operands.append(0xC0 | (reg & 7) << 3 | rm & 7)
    if shape in "Mb":
        operands += numbers.choice([numbers.randbytes(1), bytes((numbers.randrange(20),))])
    elif shape in "Zzv":
        width = size if shape == "v" else min(size, 4)
        operands += operand(numbers).to_bytes(8, "little")[:width]

    if vex:
        second = (~rex & 7) << 5 | {number: key for key, number in VEX_MAPS.items()}[escape]
        pp = ("", "66", "F3", "F2").index(parsed.prefixes[0])
        vvvv = 0 if escape == "0F3A" else numbers.choice(free)  # RORX has no such operand
        third = (rex & 8) << 4 | (~vvvv & 15) << 3 | pp
        return bytes((0xC4, second, third, opcode)) + operands, base, index
    code = bytearray()
    if size == 2 and parsed.prefixes not in (("",), ("66",)):
        code += b"\x66"
    code += bytes.fromhex(parsed.prefixes[0])
    if rex or numbers.random() < 0.2:
        code.append(0x40 | rex)
    return bytes(code) + bytes.fromhex(escape) + bytes((opcode,)) + bytes(operands), base, index
