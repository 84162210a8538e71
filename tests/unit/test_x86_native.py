"""Every user-mode instruction of execute against the real processor, on random operands."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator

import pytest
from x86_doubles import SparseMemory
from x86_native import BIT_STRINGS, XMM_AT, Processor, assemble, cpu_flags, operand

from pykvm.x86.exceptions import DE
from pykvm.x86.execute import (
    Cpu,
    arithmetic,
    bits,
    execute,
    integers,
    moves,
    multiply,
    shifts,
    state,
    system,
    vector_moves,
    vectors,
)
from pykvm.x86.registers import (
    GPRS,
    RFLAGS_AF,
    RFLAGS_CF,
    RFLAGS_DF,
    RFLAGS_OF,
    RFLAGS_PF,
    RFLAGS_SF,
    RFLAGS_ZF,
)
from pykvm.x86.segments import null_segment

ROUNDS = 40
HAVE = cpu_flags()

ARITHMETIC = 0x8D5
UNDEFINED = {
    **dict.fromkeys(("andn", "blsi", "blsmsk", "blsr", "bzhi"), RFLAGS_AF | RFLAGS_PF),
    "bextr": RFLAGS_AF | RFLAGS_SF | RFLAGS_PF,
    **dict.fromkeys(("and", "or", "xor", "test"), RFLAGS_AF),
    **dict.fromkeys(("mul", "imul"), RFLAGS_SF | RFLAGS_ZF | RFLAGS_AF | RFLAGS_PF),
    **dict.fromkeys(("div", "idiv"), ARITHMETIC),
    **dict.fromkeys(BIT_STRINGS, RFLAGS_OF | RFLAGS_SF | RFLAGS_AF | RFLAGS_PF),
    **dict.fromkeys(("bsf", "bsr"), RFLAGS_CF | RFLAGS_OF | RFLAGS_SF | RFLAGS_AF | RFLAGS_PF),
    **dict.fromkeys(("lzcnt", "tzcnt"), RFLAGS_OF | RFLAGS_SF | RFLAGS_PF | RFLAGS_AF),
}

NOT_IN_64_BIT = {"40+r", "48+r", "A0", "A1", "A2", "A3", *(f"82 /{number} ib" for number in range(8)), "D6"}
ELSEWHERE = {"les", "lds", "lss", "lfs", "lgs", "bound", "xlat"}  # of segments, or with an address in RBX

SHIFTS = ("shl", "shr", "sar", "shld", "shrd")
ROTATES = ("rol", "ror", "rcl", "rcr")
BY_CL = ("D2", "D3", "0F A5", "0F AD")


def shift_count(processor: Processor, notation: str, code: bytes, size: int) -> int:
    """The count of a shift or rotate, as it is taken."""
    if notation.startswith(BY_CL):
        count = processor.reg(1)
    else:
        count = 1 if notation.startswith(("D0", "D1")) else code[-1]
    return count & (0x3F if size == 8 else 0x1F)


def undefined(mnemonic: str, count: int) -> int:
    """The flags that the manual leaves undefined."""
    flags = UNDEFINED.get(mnemonic, 0)
    if mnemonic in SHIFTS and count:
        flags |= RFLAGS_AF | (RFLAGS_OF if count > 1 else 0) | (RFLAGS_CF if count >= 8 else 0)
    elif mnemonic in ROTATES and count > 1:
        flags |= RFLAGS_OF
    return flags


HINTS = {
    *("clflush", "clflushopt", "clwb", "lfence", "mfence", "sfence", "prefetchw", "prefetch", "cldemote"),
    *("endbr64", "endbr32", "rdssp", "nop", "serialize"),
}
SIMPLE_STATE = {"ldmxcsr", "stmxcsr"}

ROWS = [
    *bits.INSTRUCTIONS,
    *integers.INSTRUCTIONS,
    *vectors.INSTRUCTIONS,
    *vector_moves.INSTRUCTIONS,
    *(row for row in system.INSTRUCTIONS if row[1] in HINTS),
    *(row for row in arithmetic.INSTRUCTIONS if row[0] not in NOT_IN_64_BIT),
    *(row for row in multiply.INSTRUCTIONS if row[1] in ("mul", "imul", "div", "idiv")),
    *shifts.INSTRUCTIONS,
    *(row for row in moves.INSTRUCTIONS if row[1] not in ELSEWHERE and row[0] not in NOT_IN_64_BIT),
    *(row for row in state.INSTRUCTIONS if row[1] in SIMPLE_STATE),
]


@pytest.fixture(scope="module")
def processor() -> Iterator[Processor]:
    made = Processor()
    yield made
    made.close()


def flat(**more: int) -> dict[str, int]:
    return null_segment() | {"limit": 0xFFFF_FFFF, "present": 1, "s": 1, "g": 1, "unusable": 0} | more


def user_mode(processor: Processor) -> tuple[Cpu, SparseMemory]:
    """A CPU at CPL 3 in 64-bit mode in the processor's state, and its memory, mapped where it is here."""
    memory = SparseMemory(1 << 48)
    address = processor.memory_address
    memory.write(address, processor.memory[:])
    root, table = 0x1000, 0x2000  # of physical memory where this process has nothing
    memory.put_u64(root + (address >> 39 & 511) * 8, table | 7)
    memory.put_u64(table + (address >> 30 & 511) * 8, address >> 30 << 30 | 0x87)
    regs = {name: processor.reg(number) for number, name in enumerate(GPRS)}
    regs |= {"rip": 0x40_0000, "rflags": processor.flags}
    segments = dict.fromkeys(("ds", "es", "fs", "gs"), null_segment())
    sregs = {
        **segments,
        "cs": flat(selector=0x33, type=11, dpl=3, l=1),
        "ss": flat(selector=0x2B, type=3, dpl=3, db=1),
    }
    sregs |= {"cr0": 0x8005_0033, "cr2": 0, "cr3": root, "cr4": 0x0034_06F0, "efer": 0xD01}
    area = processor.fx[:416].ljust(512, b"\0") + (3).to_bytes(8, "little") + bytes(312)
    return Cpu(regs, sregs, xsave=lambda: area), memory


def set_up(processor: Processor, numbers: random.Random) -> None:
    for number in range(16):
        processor.set_reg(number, operand(numbers))
    processor.flags = 0x202 | numbers.getrandbits(12) & ARITHMETIC
    processor.memory[:] = numbers.randbytes(4096)
    image = bytearray(512)
    image[:2] = (0x37F).to_bytes(2, "little")
    image[24:28] = (0x1F80).to_bytes(4, "little")
    image[28:32] = (0xFFFF).to_bytes(4, "little")
    for number in range(16):
        value = numbers.choice([numbers.getrandbits(128), operand(numbers) << 64 | operand(numbers)])
        image[160 + 16 * number : 176 + 16 * number] = value.to_bytes(16, "little")
    processor.fx = bytes(image)


def point(processor: Processor, numbers: random.Random, base: int, index: int) -> None:
    processor.set_reg(base, processor.memory_address + 16 * numbers.randrange(64))
    if index >= 0:
        processor.set_reg(index, 16 * numbers.randrange(8))


def make_cmpxchg_succeed(processor: Processor, code: bytes) -> None:
    """Put into RDX:RAX what memory holds, as the model reads it; other rounds prove its address."""
    cpu, memory = user_mode(processor)
    execute(cpu, memory, code)
    processor.set_reg(0, cpu.regs["rax"])
    processor.set_reg(2, cpu.regs["rdx"])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[1]}: {row[0]}")
def test_an_instruction_does_what_the_processor_does(processor: Processor, row) -> None:
    notation, mnemonic, _, feature = row
    if feature and feature not in HAVE:
        pytest.skip(f"this processor has no {feature}")
    numbers = random.Random(zlib.crc32(notation.encode()))
    for _ in range(ROUNDS):
        memory_form = notation.endswith(" m") or (not notation.endswith(" reg") and numbers.random() < 0.5)
        size = numbers.choice((2, 4, 8))
        code, base, index = assemble(row, numbers, memory_form, size)
        set_up(processor, numbers)
        if base >= 0:
            point(processor, numbers, base, index)
        if mnemonic == "cmpxchg8b":
            code = b"\xf0" * numbers.randrange(2) + code
        if mnemonic in ("cmpxchg8b", "cmpxchg") and not {0, 2} & {base, index} and numbers.random() < 0.7:
            make_cmpxchg_succeed(processor, code)
        if mnemonic in BIT_STRINGS and base >= 0:
            for number in set(range(16)) - {base, index}:
                processor.set_reg(number, numbers.randrange(-8192, 8192) & (1 << 64) - 1)
            processor.set_reg(base, processor.memory_address + 1024 + numbers.randrange(64))
        if mnemonic in ("div", "idiv"):
            if 2 not in (base, index):
                processor.set_reg(2, numbers.choice((0, 0, numbers.randrange(100))))
            if 0 not in (base, index):
                processor.set_reg(0, numbers.randrange(1 << numbers.choice((6, 14, 30, 60))))
        if mnemonic == "ldmxcsr":
            words = [0x1F80 | numbers.getrandbits(6) | numbers.getrandbits(3) << 13 for _ in range(1024)]
            processor.memory[:] = b"".join(word.to_bytes(4, "little") for word in words)
        count = 0
        if mnemonic in SHIFTS + ROTATES:
            count = shift_count(processor, notation, code, size)
            if mnemonic in ("shld", "shrd") and count > 8 * size:
                continue  # all is undefined
        cpu, memory = user_mode(processor)
        outcome = execute(cpu, memory, code)
        if mnemonic in ("div", "idiv") and outcome is not None and outcome.fault is not None:
            assert outcome.fault.vector == DE
            continue  # here it would be a signal
        processor.load(code)
        processor.run()

        told = f"{code.hex(' ')} {mnemonic}"
        assert outcome is not None, told
        assert outcome.fault is None, told
        assert outcome.name == mnemonic or mnemonic in HINTS, told
        assert cpu.regs["rip"] == 0x40_0000 + len(code), told
        for number, name in enumerate(GPRS):
            if name != "rsp":
                assert cpu.regs[name] == processor.reg(number), f"{told}: {name}"
        known = ARITHMETIC & ~undefined(mnemonic, count)
        assert cpu.regs["rflags"] & known == processor.flags & known, f"{told}: flags"
        for number in range(16):
            at = XMM_AT + 16 * number
            assert cpu.area.xmm(number) == int.from_bytes(processor.state[at : at + 16], "little"), (
                f"{told}: xmm{number}"
            )
        assert cpu.area.mxcsr == int.from_bytes(processor.fx[24:28], "little"), told
        assert memory.read(processor.memory_address, 4096) == processor.memory[:], f"{told}: memory"


STRINGS = {"movs": "a4", "cmps": "a6", "stos": "aa", "lods": "ac", "scas": "ae"}


@pytest.mark.parametrize("mnemonic", STRINGS)
@pytest.mark.parametrize("prefix", ["", "f3", "f2"])
def test_a_string_instruction_does_what_the_processor_does(processor: Processor, mnemonic: str, prefix: str):
    numbers = random.Random(zlib.crc32(f"{prefix} {mnemonic}".encode()))
    for _ in range(ROUNDS):
        size = numbers.choice(("", "66", "", "48"))
        opcode = int(STRINGS[mnemonic], 16) | numbers.randrange(2)
        width = 1 if not opcode & 1 else {"": 4, "66": 2, "48": 8}[size]
        code = bytes.fromhex(("66" if size == "66" else "") + prefix + ("48" if size == "48" else ""))
        code += bytes((opcode,))
        set_up(processor, numbers)
        backwards = numbers.random() < 0.3
        processor.flags |= RFLAGS_DF if backwards else 0
        if numbers.random() < 0.7:  # few values, so that comparing goes on for a while
            processor.memory[:] = bytes(numbers.choice((0, 0, 0, 1)) for _ in range(4096))
            processor.set_reg(0, 0)
        aligned = numbers.choice((1, 8))
        for number in (6, 7):
            offset = 1024 + numbers.randrange(1024) // aligned * aligned
            processor.set_reg(number, processor.memory_address + offset)
        if numbers.random() < 0.3:
            processor.set_reg(7, processor.reg(6) + numbers.randrange(-2, 3) * width)
        processor.set_reg(1, numbers.randrange(60))
        cpu, memory = user_mode(processor)
        outcome = execute(cpu, memory, code)
        processor.load(code)
        processor.run()

        told = f"{code.hex(' ')} {mnemonic}"
        assert outcome is not None and outcome.fault is None, told
        assert cpu.regs["rip"] == 0x40_0000 + len(code), told
        for number, name in enumerate(GPRS):
            if name != "rsp":
                assert cpu.regs[name] == processor.reg(number), f"{told}: {name}"
        assert cpu.regs["rflags"] & ARITHMETIC == processor.flags & ARITHMETIC, f"{told}: flags"
        assert memory.read(processor.memory_address, 4096) == processor.memory[:], f"{told}: memory"
