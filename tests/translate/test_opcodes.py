"""Every opcode of every map, with and without prefixes: what it does, or that it is none, natively too.

In 64-bit and 32-bit code, in ring 3. PYKVM_FUZZ takes all forms of ModRM, else some of each are taken.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from random import Random

import pytest
from compare import Pair
from forms import Case, fx_image
from guest import HOST, Guest
from native import Native
from places import CODE, DATA, DATA_PAGES, END, END_32, PAGE

from pykvm.translate import features
from pykvm.x86 import cpuid
from pykvm.x86.exceptions import UD
from pykvm.x86.execute.maps import MAPS, NOT_IN_64_BIT

ALL = bool(os.environ.get("PYKVM_FUZZ"))
ESCAPES = {"": b"", "0F": b"\x0f", "0F38": b"\x0f\x38", "0F3A": b"\x0f\x3a"}
MANDATORY = (b"", b"\x66", b"\xf3", b"\xf2")
WITH_MODRM = "mMZfFc"
MEMORY, REGISTER = 0x03, 0xC2  # [rbx], [ebx]; rdx: with a digit or a register
FORMS = tuple(form | digit << 3 for form in (MEMORY, REGISTER) for digit in range(8))
WHERE = DATA + 0x800
"""RAX; the other registers point to places behind it."""
STACK = WHERE + 0x400
NO_INSTRUCTION = frozenset(bytes.fromhex("0f 26 2e 36 3e 64 65 66 67 f0 f2 f3"))
REX, VEX = frozenset(range(0x40, 0x50)), frozenset((0x62, 0xC4, 0xC5))

NATIVELY_THE_HOSTS = {
    "": {
        **dict.fromkeys((0x06, 0x0E, 0x16, 0x1E, 0x8C), "the process's selectors"),
        **dict.fromkeys((0x07, 0x17, 0x1F, 0x8E), "the process's segments"),
        **dict.fromkeys((0x9A, 0xCA, 0xCB, 0xCF, 0xEA), "to other code of the process's"),
        **dict.fromkeys((0xCC, 0xCD, 0xF1), "by the host's IDT"),
    },
    "0F": {
        **dict.fromkeys((0x05, 0x34), "a system call"),
        **dict.fromkeys((0x31, 0x33, 0xA2), "the host's numbers"),
        **dict.fromkeys((0x00, 0x02, 0x03), "the host's descriptors"),
        **dict.fromkeys((0xA0, 0xA8), "the process's selectors"),
        **dict.fromkeys((0xA1, 0xA9, 0xB2, 0xB4, 0xB5), "the process's segments"),
    },
    "0F38": {},
    "0F3A": {},
}
"""What can't be compared, and is done or answered there by the host's system."""

TZCNT, LZCNT = AS_WITHOUT_PREFIX = (("bmi1",), ("abm",))  # else BSF and BSR
NOT_OFFERED = {
    ("0F", 0x01): ("svm", "clzero", "xsave", "mwaitx"),
    ("0F", 0x2B): ("sse4a",),
    ("0F", 0x78): ("sse4a",),
    ("0F", 0x79): ("sse4a",),
    ("0F", 0xAE): ("xsave", "clwb", "clflushopt"),
    ("0F", 0xBC): TZCNT,
    ("0F", 0xBD): LZCNT,
    ("0F", 0xC7): ("xsavec", "xsaves"),
    ("0F38", 0x82): ("invpcid",),
    ("0F38", 0xCF): ("gfni",),
    ("0F38", 0xF0): ("movbe",),
    ("0F38", 0xF1): ("movbe",),
    ("0F38", 0xF6): ("adx",),
    ("0F3A", 0xCE): ("gfni",),
    ("0F3A", 0xCF): ("gfni",),
}
"""What some processors have and the translated CPU has not, by the features that CPUID then shows."""


def left_out(escape: str, opcode: int, modrm: int, prefix: bytes, wide: bool) -> bool:
    digit, memory = modrm >> 3 & 7, modrm < 0xC0
    if opcode in NATIVELY_THE_HOSTS[escape]:
        return True
    if escape == "0F":
        if opcode in (0x38, 0x3A):  # escapes
            return True
        if opcode == 0x01:  # SGDT, SIDT, SMSW; XGETBV, RDTSCP; calls of the hypervisor
            return digit in (0, 1, 4) if memory else digit == 4 or modrm in (0xC1, 0xD0, 0xD9, 0xF9)
        if opcode == 0x07:  # SYSRET: #UD where EFER.SCE is 0, natively #GP
            return True
        if opcode == 0x0D and not memory:  # a NOP to Intel's, #UD to AMD's
            return True
        if opcode == 0xC7 and not memory:  # RDRAND, RDSEED, RDPID
            return digit > 5
        if opcode == 0xAE and prefix == b"\xf3" and not memory:  # bases of FS and GS
            return digit < 4
        return wide and opcode & 0xF0 == 0x80 and prefix == b"\x66"
    if escape == "":
        if opcode in NO_INSTRUCTION or (wide and opcode in REX):
            return True
        if opcode in VEX and (wide or not memory or opcode != 0x62):  # LES, LDS; VEX and EVEX
            return True
        if opcode == 0xFF and digit in (3, 5):  # far
            return True
        if opcode in (0xE0, 0xE1) and prefix in (b"\xf2", b"\xf3"):  # AMD's let the prefix decide
            return True
        # To Intel's a near branch of 64-bit code has 64 bits, to AMD's with this prefix 16.
        branch = opcode & 0xF0 == 0x70 or opcode in (0xC2, 0xC3, 0xE0, 0xE1, 0xE2, 0xE3, 0xE8, 0xE9, 0xEB)
        return wide and prefix == b"\x66" and (branch or (opcode == 0xFF and digit in (2, 4)))
    return False


@pytest.fixture(scope="module", params=[True, False], ids=["64-bit", "32-bit"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    guest = Guest(cpl=3, wide=request.param)
    cpu = guest.cpu.core.cpu
    cpu.sregs["tr"] = {**cpu.sregs["tr"], "limit": 0}  # no permission for any port
    cpu.commit()
    processor = Native()
    yield Pair(guest, processor)
    processor.close()
    guest.close()


def make(escape: str, opcode: int, modrm: int, prefix: bytes, wide: bool) -> Case:
    rng = Random(f"{escape}:{opcode}:{modrm}:{prefix.hex()}")
    code = prefix + ESCAPES[escape] + bytes((opcode,))
    if MAPS[escape][opcode] in WITH_MODRM:
        code += bytes((modrm,))
    code += bytes((END if wide else END_32,)) * 8  # an immediate, or what ends the run
    data = rng.randbytes(STACK - DATA) + b"\x02\x02\0\0\0\0\0\0"  # flags, for POPF
    regs = [WHERE + 0x100 * number for number in range(16 if wide else 8)]
    return Case(
        code=code,
        start=CODE,
        regs=regs + [0] * (16 - len(regs)),
        fx=fx_image(rng),
        data=data + rng.randbytes(DATA_PAGES * PAGE - len(data)),
    )


@pytest.mark.parametrize("escape", MAPS)
def test_every_opcode(escape, pair):
    wide, offered = pair.guest.wide, cpuid.names(features.offered(HOST))
    found, rng = [], Random(escape)
    for opcode in range(256):
        for prefix in MANDATORY:
            forms = FORMS if ALL else rng.sample(FORMS, 4)
            if (escape, opcode) == ("0F", 0x01):
                forms = (*range(MEMORY, 0x40, 8), *range(0xC0, 0x100))  # each its own instruction
            for modrm in forms:
                if left_out(escape, opcode, modrm, prefix, wide):
                    continue
                case = make(escape, opcode, modrm, prefix, wide)
                if not (told := pair.differences(case)):
                    continue
                lacking = NOT_OFFERED.get((escape, opcode), ())
                undefined = pair.guest.rip == CODE and pair.vector == UD
                if lacking and offered.isdisjoint(lacking) and (undefined or lacking in AS_WITHOUT_PREFIX):
                    continue
                found.append(f"{case.code.hex()}: {told}")
    assert found == []


@pytest.mark.parametrize("code", ["c5f858c0", "c4e27918c0", "62f17c4858c0", "8fe878c0c001", "c5f877"])
@pytest.mark.parametrize("cpl", [0, 3])
def test_vector_extensions_that_are_not_offered_are_undefined(code, cpl):
    guest = Guest(cpl=cpl)
    guest.put(CODE, bytes.fromhex(code))
    assert (guest.run(CODE).vector, guest.rip) == (UD, CODE)
    guest.close()


@pytest.mark.parametrize("opcode", sorted(NOT_IN_64_BIT - VEX), ids=hex)
@pytest.mark.parametrize("cpl", [0, 3])
def test_what_64_bit_code_has_no_more_is_undefined(opcode, cpl):
    guest = Guest(cpl=cpl)
    guest.put(CODE, bytes((opcode, 0xC0)) + bytes(8))
    assert (guest.run(CODE).vector, guest.rip) == (UD, CODE)
    guest.close()
