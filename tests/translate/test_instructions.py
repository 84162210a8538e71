"""Every translated form against the real processor: registers, flags, x87, SSE, memory and faults.

A seeded run of some thousands here; PYKVM_FUZZ=1000000 does as many, from a seed of its own.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from dataclasses import replace

import native
import pytest
from compare import KINDS, Pair, make
from forms import RBP, Case
from guest import Guest
from native import Native
from places import DATA

from pykvm.x86.exceptions import MF, UD, XM

ROUNDS = 12
FUZZ = int(os.environ.get("PYKVM_FUZZ", "0"))


MODES = {"ring 0": (0, True), "ring 3": (3, True), "without BMI2": (3, False)}


@pytest.fixture(scope="module", params=MODES.values(), ids=MODES)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    cpl, bmi2 = request.param
    guest = Guest(cpl=cpl, bmi2=bmi2)
    processor = Native()
    yield Pair(guest, processor)
    processor.close()
    guest.close()


@pytest.mark.parametrize("name, kind, opcode", KINDS, ids=[row[0] for row in KINDS])
def test_an_instruction_does_what_the_processor_does(name, kind, opcode, pair):
    bmi2 = pair.guest.cpu.core.blocks.lookup.bmi2
    for count in range(ROUNDS if bmi2 else ROUNDS // 3):
        seed = f"{name}:{pair.guest.cpl}:{bmi2}:{count}"
        case = make(kind, opcode, seed)
        assert pair.differences(case) == [], f"{case.code.hex()} at {case.start:#x}, seed {seed}"


if FUZZ:

    def test_as_many_as_asked_for(pair):
        found = []
        start = time.time_ns()
        for count in range(FUZZ // len(KINDS) + 1):
            for name, kind, opcode in KINDS:
                seed = f"{name}:{start}:{count}"
                case = make(kind, opcode, seed)
                if told := pair.differences(case):
                    found.append(f"seed {seed}: {case.code.hex()} at {case.start:#x}: {told}")
        assert found == []


REGRESSIONS = {
    "MOVNTI of a register is undefined": "integer-1c3:0",
    "MOVNTI has no F2": "integer-1c3:1",
    "SHA operands need not be aligned": "vector-2cc:0",
    "FNSTENV": "x87-d9:0",
    "FLDENV": "x87-d9:3",
    "FRSTOR": "x87-dd:5",
    "FNSAVE": "x87-dd:7",
    "MASKMOVQ with a prefix of addresses took the host's": "masked-move:0",
    "MASKMOVDQU across pages stores what is selected only": "masked-move:13",
    "MASKMOVQ with an x87 exception pending showed the host's RDI": "masked-move:232",
    "MMX with an x87 exception pending: #MF, not #XM": "vector-12a:2",
    "CMPXCHG16B that is not aligned: #GP": "cmpxchg8b-16b:6",
    "#GP of an SSE operand at no canonical address": "vector-168:4",
    "#SS of one by RSP": "vector-204:11",
    "FXSAVE across pages leaves its last bytes": "fxsave:12",
    "#SS of one that isn't canonical comes before its alignment": "fxsave:1795928513773154760:34",
    "FBSTP that stores nothing": "x87-df:15",
    "an x87 exception comes before all of an MMX operand's": "vector-201:3:True:1",
    "not aligned comes before a page fault": "vector-129:29",
    "CMPS that faults after some rounds keeps the last one's flags": "string:1795933409752778829:866",
    "a page fault of CALL's stack comes before #GP of its target": "integer-0ff:1795933669403096628:2314",
    "REP MOVS reads before it writes, where both fault": "string:1795951203413372342:13",
    "a page fault in the half that natively is the kernel's": "integer-0ff:1795933114897189928:216",
}


@pytest.mark.parametrize("seed", REGRESSIONS.values(), ids=REGRESSIONS)
def test_what_has_differed_once(seed, pair):
    _, kind, opcode = next(row for row in KINDS if row[0] == seed.split(":")[0])
    assert pair.differences(make(kind, opcode, seed)) == []


@pytest.mark.parametrize("code", ["4c0fa5c8", "4d0fadc8"], ids=["shld rax, r9, cl", "shrd r8, r9, cl"])
def test_what_a_c_library_shifts_numbers_with_is_translated(code, pair):
    case = replace(make("integer", 0x1A5, "a seed"), code=bytes.fromhex(code))
    assert pair.differences(case) == []
    assert pair.guest.cpu.steps == 1  # the end's, not the shift's


PREFIXED = {
    "x87 behind a REX that is void": "40 66 d8 f6",
    "SSE behind a REX that is void": "48 66 0f 38 25 c1",
    "MMX behind two": "4f 48 0f dc c1",
    "of F2 and F3 the last counts": "f3 f2 44 0f 5c fc",
    "a void REX between them": "f2 48 f3 0f 5c cd",
    "FNSTENV with REX.W has 28 bytes": "66 48 d9 75 00",
    "FLDENV with REX.W too": "66 48 d9 65 00",
}


@pytest.mark.parametrize("code", PREFIXED.values(), ids=PREFIXED)
def test_what_has_differed_once_with_prefixes(code, pair):
    case = make("x87", 0xD9, "a seed")
    case.regs[RBP] = DATA + 0x100
    assert pair.differences(replace(case, code=bytes.fromhex(code))) == []
    assert pair.processor.word(native.VECTOR) == UD  # the end's
    assert pair.guest.rip == case.start + len(bytes.fromhex(code))


ONE, MINUS_ONE, THREE, ZERO = (0x3FFF, 1 << 63), (0xBFFF, 1 << 63), (0x4000, 3 << 62), (0, 0)
DENORMAL, LARGEST, SMALLEST = (0, 1), (0x7FFE, (1 << 64) - 1), (1, 1 << 63)
X87_EXCEPTIONS = {
    "invalid": (0, "d9fa", MINUS_ONE, ZERO),  # fsqrt
    "denormal operand": (1, "d8c1", DENORMAL, ONE),  # fadd
    "divide by zero": (2, "d8f1", ONE, ZERO),  # fdiv
    "overflow": (3, "d8c8", LARGEST, ONE),  # fmul st0, st0
    "underflow": (4, "d8c8", SMALLEST, ONE),
    "precision": (5, "d8f1", ONE, THREE),
}
SSE_EXCEPTIONS = {
    "invalid": (0, "0f51c1", 0xBF80_0000),  # sqrtps xmm0, xmm1
    "denormal operand": (1, "0f58c1", 1),  # addps
    "divide by zero": (2, "0f5ec1", 0),  # divps
    "overflow": (3, "0f59c9", 0x7F7F_FFFF),  # mulps xmm1, xmm1
    "underflow": (4, "0f59c9", 0x0080_0001),
    "precision": (5, "0f5ec1", 0x4040_0000),
}


def with_state(
    code: str, fcw: int, mxcsr: int, st: tuple[tuple[int, int], ...], xmm: tuple[int, int]
) -> Case:
    """A case with x87's stack and the singles of XMM0 and XMM1."""
    image = bytearray(
        struct.pack("<HHBBHQQII", fcw, 0, 3 if st else 0, 0, 0, 0, 0, mxcsr, 0xFFFF).ljust(512, b"\0")
    )
    for number, (exponent, significand) in enumerate(st):
        image[32 + 16 * number : 42 + 16 * number] = struct.pack("<QH", significand, exponent)
    for number, single in enumerate(xmm):
        image[160 + 16 * number : 176 + 16 * number] = struct.pack("<I", single) * 4
    case = make("x87", 0xD9, "a seed")
    return replace(case, code=bytes.fromhex(code), fx=bytes(image))


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("name", X87_EXCEPTIONS)
def test_each_x87_exception(name, masked, pair):
    """It waits for the next x87 instruction, here FWAIT, and is #MF there (SDM vol. 1 §8.6)."""
    bit, code, *st = X87_EXCEPTIONS[name]
    fcw = 0x37F if masked else 0x37F & ~(1 << bit)
    case = with_state(code + "9b", fcw, 0x1F80, tuple(st), (0, 0))
    assert pair.differences(case) == []
    assert pair.vector == (UD if masked else MF)
    assert pair.guest.rip == case.start + len(code) // 2 + masked
    assert pair.guest.fx[2] >> bit & 1


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("name", SSE_EXCEPTIONS)
def test_each_sse_exception(name, masked, pair):
    bit, code, operand = SSE_EXCEPTIONS[name]
    mxcsr = 0x1F80 if masked else 0x1F80 & ~(0x80 << bit)
    case = with_state(code, 0x37F, mxcsr, (), (0x3F80_0000, operand))
    assert pair.differences(case) == []
    assert pair.vector == (UD if masked else XM)
    assert pair.guest.rip == case.start + (3 if masked else 0)
    assert pair.guest.fx[24] >> bit & 1


def test_an_x87_stack_fault_is_invalid(pair):
    case = with_state("d8c1 9b", 0x37E, 0x1F80, (), (0, 0))
    assert pair.differences(case) == []
    assert (pair.vector, pair.guest.fx[2] & 0x41) == (MF, 0x41)  # SF and IE
