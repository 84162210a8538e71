"""Every user-mode instruction of execute against the real processor, on random operands."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator

import pytest
from x86_doubles import SparseMemory
from x86_native import XMM_AT, Processor, assemble, cpu_flags, operand

from pykvm.x86.execute import Cpu, bits, execute, integers, state, system, vector_moves, vectors
from pykvm.x86.registers import GPRS, RFLAGS_AF, RFLAGS_OF, RFLAGS_PF, RFLAGS_SF
from pykvm.x86.segments import null_segment

ROUNDS = 60
HAVE = cpu_flags()

ARITHMETIC = 0x8D5
UNDEFINED = {
    **dict.fromkeys(("andn", "blsi", "blsmsk", "blsr", "bzhi"), RFLAGS_AF | RFLAGS_PF),
    "bextr": RFLAGS_AF | RFLAGS_SF | RFLAGS_PF,
    **dict.fromkeys(("lzcnt", "tzcnt"), RFLAGS_OF | RFLAGS_SF | RFLAGS_PF | RFLAGS_AF),
}
"""Flags that the manual leaves undefined."""

NOT_HERE = {"bsf", "bsr"}  # their bytes are LZCNT and TZCNT on this processor

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
    *(row for row in state.INSTRUCTIONS if row[1] in SIMPLE_STATE),
]
ROWS = [row for row in ROWS if row[1] not in NOT_HERE]


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
        code, base, index = assemble(row, numbers, memory_form, numbers.choice((2, 4, 8)))
        set_up(processor, numbers)
        if base >= 0:
            point(processor, numbers, base, index)
        if mnemonic == "cmpxchg8b":
            code = b"\xf0" * numbers.randrange(2) + code
            if not {0, 2} & {base, index}:
                make_cmpxchg_succeed(processor, code)
        if mnemonic == "ldmxcsr":
            words = [0x1F80 | numbers.getrandbits(6) | numbers.getrandbits(3) << 13 for _ in range(1024)]
            processor.memory[:] = b"".join(word.to_bytes(4, "little") for word in words)
        cpu, memory = user_mode(processor)
        processor.load(code)
        processor.run()
        outcome = execute(cpu, memory, code)

        told = f"{code.hex(' ')} {mnemonic}"
        assert outcome is not None, told
        assert outcome.fault is None, told
        assert outcome.name == mnemonic or mnemonic in HINTS, told
        assert cpu.regs["rip"] == 0x40_0000 + len(code), told
        for number, name in enumerate(GPRS):
            if name != "rsp":
                assert cpu.regs[name] == processor.reg(number), f"{told}: {name}"
        known = ARITHMETIC & ~UNDEFINED.get(mnemonic, 0)
        assert cpu.regs["rflags"] & known == processor.flags & known, f"{told}: flags"
        for number in range(16):
            at = XMM_AT + 16 * number
            assert cpu.area.xmm(number) == int.from_bytes(processor.state[at : at + 16], "little"), (
                f"{told}: xmm{number}"
            )
        assert cpu.area.mxcsr == int.from_bytes(processor.fx[24:28], "little"), told
        assert memory.read(processor.memory_address, 4096) == processor.memory[:], f"{told}: memory"
