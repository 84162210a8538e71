"""32-bit code, in compatibility mode: translated, by the interpreter and on the real processor."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from random import Random

import pytest
from compare import FLAGS_SEEN, Pair, undefined
from forms import ARITHMETIC, DF, IF, Case, fx_image, number, target
from guest import PRESENT, USER, WRITABLE, Guest
from native import Native
from places import CODE, DATA, DATA_PAGES, END_32, GS_BASE, PAGE

from pykvm.translate.decode import TABLE_32
from pykvm.translate.operands import INTEGER, VECTOR, X87, X87_LARGE
from pykvm.x86.exceptions import GP
from pykvm.x86.registers import RFLAGS_TF

ROUNDS = 20 + int(os.environ.get("PYKVM_FUZZ", "0")) // 400
EBX, ESP, EBP, ESI, EDI, ECX = 3, 4, 5, 6, 7, 1
M32 = 0xFFFF_FFFF
ON_EAX = tuple(operation << 3 | byte for operation in range(8) for byte in (4, 5))
OPCODES = (
    *sorted(INTEGER), *ON_EAX, *range(0x40, 0x60), 0x63, 0x68, 0x6A, 0x8C, 0x8D, 0x8F, *range(0x90, 0x9A),
    *range(0x9C, 0xC0), 0xC2, 0xC3, 0xC9, *range(0x70, 0x80),
    *range(0x180, 0x190), 0xE0, 0xE1, 0xE2, 0xE3, 0xE8, 0xE9, 0xEB, 0xF5, 0xF8, 0xF9, 0xFC, 0xFD, 0xFF,
    *range(0x1C8, 0x1D0), 0x1A3, 0x1AB, 0x1B3, 0x1BB, 0x1C7, 0x11F, 0x27, 0x2F, 0x37, 0x3F, 0xD4, 0xD5, 0xD7,
)  # fmt: skip


@pytest.fixture(scope="module", params=[(0, True), (3, True), (3, False)], ids=str)
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    cpl, bmi2 = request.param
    guest = Guest(cpl=cpl, wide=False, bmi2=bmi2)
    for page in range(4):
        guest.put(CODE + page * PAGE, bytes((END_32,)) * PAGE)
    yield guest
    guest.close()


GS, PREFIXES = b"\x65", (b"\xf0", b"\x65", b"\x65", b"\x3e", b"\x26", b"\x2e")


def make(opcode: int, seed: str, *, gs: bool = True) -> Case:
    rng = Random(seed)
    case = Case()
    case.regs = [number(rng) & M32 for _ in range(8)] + [0] * 8
    for reg in (ESP, EBP, ESI, EDI):
        case.regs[reg] = target(rng, 8) & M32
    if rng.random() < 0.7:
        case.regs[ECX] = rng.choice((0, 1, 2, 31, 32, rng.randrange(300)))
    case.flags = 2 | IF | rng.getrandbits(12) & ARITHMETIC
    if 0xA4 <= opcode < 0xB0 and opcode not in (0xA8, 0xA9) and rng.random() < 0.3:
        case.flags |= DF
    case.data = rng.randbytes(DATA_PAGES * PAGE)
    if opcode == 0x9D:
        case.data = struct.pack("<I", 2 | IF | rng.getrandbits(12) & (ARITHMETIC | DF)) * (
            len(case.data) // 4
        )
        case.regs[ESP] &= -4
    elif opcode in (0xC2, 0xC3):
        case.data = struct.pack("<I", CODE + rng.randrange(4 * PAGE)) * (len(case.data) // 4)
        case.regs[ESP] &= -4
    case.start = CODE + rng.choice((rng.randrange(0x40, 4 * PAGE - 0x40), 2 * PAGE - rng.randrange(1, 8)))
    prefixes = rng.choice((b"", b"", b"", b"\x66"))
    if 0x70 <= opcode < 0x80 or 0x180 <= opcode < 0x190 or 0xE0 <= opcode < 0xEC or opcode in (0xC2, 0xC3):
        prefixes = rng.choice((b"", b"", b"\x67")) if opcode >= 0xE0 else b""
    if rng.random() < 0.08:
        prefixes += rng.choice(PREFIXES if gs else [at for at in PREFIXES if at != GS])
    if opcode == 0x1B8:
        prefixes += b"\xf3"
    elif 0xA4 <= opcode < 0xB0 and opcode not in (0xA8, 0xA9):
        prefixes += rng.choice((b"", b"\xf3", b"\xf2"))
    size = 2 if b"\x66" in prefixes else 4
    has_modrm, letter = TABLE_32[opcode]
    code = prefixes + (b"\x0f" if opcode > 0xFF else b"") + bytes((opcode & 0xFF,))
    if has_modrm:
        # 0F C7's others are XSAVE's, FF's far ones are test_transfers.py's.
        digit = rng.randrange(3 if opcode == 0x1C7 else 8)
        digit = 2 if opcode == 0xFF and digit in (3, 5) else digit
        code += modrm(rng, case, digit, GS in prefixes, opcode)
        if opcode in (0xF6, 0xF7):
            letter = 0 if digit > 1 else 1 if opcode == 0xF6 else 16
        if opcode in (0x1A4, 0x1A5, 0x1AC, 0x1AD):
            case.regs[ECX] &= 15
    rest = {1: 1, 2: 2, 16: size, 17: size, 18: 4}.get(letter, 0)
    if letter == 18:
        goal = rng.randrange(CODE, CODE + 4 * PAGE - 2)
        if abs(goal - case.start) < 20:  # no jump to itself
            goal = CODE
        code += struct.pack("<i", goal - case.start - len(code) - 4)
    elif opcode in (0x1A4, 0x1AC):
        code += bytes((rng.randrange(16),))
    elif 0xA0 <= opcode < 0xA4:
        code += struct.pack("<I", target(rng, 8) - (GS_BASE if b"\x65" in prefixes else 0) & M32)
    elif 0x70 <= opcode < 0x80 or 0xE0 <= opcode < 0xEC:
        code += bytes((rng.choice((rng.randrange(10, 60), rng.randrange(0xC4, 0xF0))),))
    else:
        code += rng.randbytes(rest)
    case.code = code
    return case


def modrm(rng: Random, case: Case, digit: int, by_gs: bool, opcode: int) -> bytes:
    """A register, or an operand in memory."""
    if rng.random() < 0.4 and opcode not in (0x8D, 0x1C7):
        return bytes((0xC0 | digit << 3 | rng.randrange(8),))
    address = target(rng, 8) & M32
    if by_gs:
        address = address - GS_BASE & M32
    kind = rng.random()
    if kind < 0.2:
        return bytes((digit << 3 | 5,)) + struct.pack("<I", address)
    width = rng.choice((1, 4))
    displacement = rng.randrange(-128, 128) if width == 1 else rng.randrange(-(1 << 31), 1 << 31)
    tail = struct.pack("<b" if width == 1 else "<i", displacement)
    mod = 0x40 if width == 1 else 0x80
    others = [reg for reg in range(8) if reg != digit and reg != ESP]
    base = rng.choice(others)
    if opcode in (0x1A3, 0x1AB, 0x1B3, 0x1BB):
        case.regs[digit] = rng.randrange(-20000, 20000) & M32
    if kind < 0.6:
        case.regs[base] = address - displacement & M32
        return bytes((mod | digit << 3 | base,)) + tail
    index, scale = rng.choice([reg for reg in others if reg != base]), rng.randrange(4)
    case.regs[base] = address - displacement - (case.regs[index] << scale) & M32
    return bytes((mod | digit << 3 | 4, scale << 6 | index << 3 | base)) + tail


def outcome(guest: Guest, case: Case, run: str) -> tuple[object, ...]:
    guest.data, guest.regs, guest.flags = case.data, case.regs, case.flags
    fault = getattr(guest, run)(case.start)
    if fault is None or guest.rip != case.start:  # of what comes next
        told = (guest.rip,)
    else:
        told = (guest.rip, fault.vector, fault.error, fault.cr2)
    flags = guest.flags & FLAGS_SEEN & ~undefined(case)
    if len(told) > 1 and case.code[-1] in (0xA6, 0xA7, 0xAE, 0xAF):
        flags = 0  # of a comparison that is not at its end: processors differ
    return told, [f"{value:#x}" for value in guest.regs], hex(flags), guest.data


@pytest.mark.parametrize("opcode", OPCODES, ids=hex)
def test_translated_as_interpreted(opcode, guest):
    for count in range(ROUNDS):
        seed = f"{opcode:#x}:{guest.cpl}:{count}"
        case = make(opcode, seed)
        guest.put(case.start, case.code)
        interpreted = outcome(guest, case, "interpret")
        translated = outcome(guest, case, "run")
        guest.put(case.start, bytes((END_32,)) * len(case.code))
        assert translated[:3] == interpreted[:3], f"{case.code.hex()} at {case.start:#x}, seed {seed}"
        assert translated[3] == interpreted[3], f"{case.code.hex()} at {case.start:#x}, seed {seed}: memory"


@pytest.fixture(scope="module")
def pair(guest: Guest) -> Iterator[Pair]:
    processor = Native()
    yield Pair(guest, processor)
    processor.close()


@pytest.mark.parametrize("opcode", [at for at in OPCODES if at != 0x8C], ids=hex)
def test_an_instruction_does_what_the_processor_does(opcode, pair):
    """But by way of GS, which has no selector natively, and what reads selectors."""
    for count in range(ROUNDS):
        seed = f"{opcode:#x}:{pair.guest.cpl}:{count}"
        case = make(opcode, seed, gs=False)
        case.fx = fx_image(Random(seed))
        if opcode in (0xA6, 0xA7):  # which of two that fault is the first is the CPU's
            case.regs[ESI] = DATA + 0x234
        assert pair.differences(case) == [], f"{case.code.hex()} at {case.start:#x}, seed {seed}"


def with_operand(
    rng: Random, case: Case, reg: int, size: int, *, align: int = 1, registers: bool = True
) -> bytes:
    """ModRM and what follows: a register, [disp32], [EDI] or [ESI + EBX * 4 + disp8]."""
    if registers and rng.random() < 0.45:
        return bytes((0xC0 | reg << 3 | rng.randrange(8),))
    address = target(rng, size, align) & M32
    kind = rng.randrange(3)
    if kind == 0:
        return bytes((reg << 3 | 5,)) + struct.pack("<I", address)
    if kind == 1:
        case.regs[EDI] = address
        return bytes((reg << 3 | EDI,))
    displacement = rng.randrange(-128, 128)
    case.regs[ESI] = address - displacement - (case.regs[EBX] << 2) & M32
    return bytes((0x44 | reg << 3, 2 << 6 | EBX << 3 | ESI)) + struct.pack("<b", displacement)


def vector(rng: Random, case: Case, opcode: int) -> bytes:
    rows = VECTOR[opcode]
    which = rng.choice([at for at, row in enumerate(rows) if row])
    size, _, _, _ = rows[which] or (0, 0, "", "")
    size = 4 if size < 0 else size
    align = 16 if rng.random() < 0.8 else 1
    escape = (b"", b"\x0f", b"\x0f\x38", b"\x0f\x3a")[opcode >> 8]
    code = (b"", b"\x66", b"\xf3", b"\xf2")[which] + escape + bytes((opcode & 0xFF,))
    if size:
        code += with_operand(rng, case, rng.randrange(8), size, align=align, registers=opcode != 0x1F0)
    else:
        code += bytes((0xC0 | rng.randrange(64),))
    return code + (rng.randbytes(1) if TABLE_32[opcode][1] else b"")


def x87(rng: Random, case: Case, opcode: int) -> bytes:
    digit = rng.randrange(8)
    size, _ = X87[opcode - 0xD8][digit] or X87_LARGE.get((opcode - 0xD8, digit)) or (2, 1)
    return rng.choice((b"", b"", b"\x66")) + bytes((opcode,)) + with_operand(rng, case, digit, size)


def make_with_fpu(opcode: int, seed: str) -> Case:
    rng = Random(seed)
    case = make(0x8B, seed, gs=False)
    case.fx = fx_image(rng)
    case.code = (x87 if 0xD8 <= opcode < 0xE0 else vector)(rng, case, opcode)
    return case


@pytest.mark.parametrize("opcode", (*VECTOR, *range(0xD8, 0xE0)), ids=hex)
def test_x87_and_sse_do_what_the_processor_does(opcode, pair):
    for count in range(ROUNDS):
        seed = f"{opcode:#x}:{pair.guest.cpl}:{count}"
        case = make_with_fpu(opcode, seed)
        assert pair.differences(case) == [], f"{case.code.hex()} at {case.start:#x}, seed {seed}"


@pytest.mark.parametrize("form", ["8b07", "8907", "0107", "d907", "dd1f", "0f1007", "0f1107", "ff37", "f3a5"])
def test_an_access_over_the_end_of_4_gib_is_gp(form, pair):
    """Whatever is mapped there: the limit of the segment comes first (SDM vol. 3 §5.3)."""
    case = make(0x8B, form, gs=False)
    case.regs[EDI], case.regs[ECX], case.fx = 0xFFFF_FFFE, 2, fx_image(Random(1))
    case.regs[ESI] = DATA
    case.code = bytes.fromhex(form)
    assert pair.differences(case) == []
    assert (pair.vector, pair.guest.rip) == (GP, case.start)


def test_most_of_it_is_translated(guest):
    """Else the test before compares the interpreter with itself."""
    kept = 0
    for opcode in INTEGER:
        case = make(opcode, f"{opcode:#x}:kept")
        guest.put(case.start, case.code)
        outcome(guest, case, "run")
        kept += guest.cpu.steps == 1
        guest.put(case.start, bytes((END_32,)) * len(case.code))
    assert kept > len(INTEGER) // 2


STATE_AT = DATA + 0x200


@pytest.mark.parametrize(
    "code", ["0fae07", "0fae0f", "0fae17", "0fae1f"], ids=["fxsave", "fxrstor", "ldmxcsr", "stmxcsr"]
)
def test_state_of_sse_has_eight_registers(code, guest):
    """FXSAVE and FXRSTOR leave XMM8 to XMM15, and their places, alone."""
    rng = Random(code)
    seen = []
    guest.put(CODE, bytes.fromhex(code) + bytes((END_32,)) * 12)
    image, other = fx_image(rng), fx_image(rng)
    for how in ("interpret", "run"):
        guest.data = (bytes(0x200) + other).ljust(DATA_PAGES * PAGE, b"\x77")
        if code == "0fae17":
            guest.data = (bytes(0x200) + b"\x80\x3f\0\0").ljust(DATA_PAGES * PAGE, b"\x77")
        guest.fx = image
        guest.regs, guest.flags = [0] * EDI + [STATE_AT] + [0] * 8, 2
        getattr(guest, how)(CODE)
        assert guest.rip == CODE + 3
        stored = guest.data[0x200:0x400]  # but FIP, FDP and the mask of MXCSR
        seen.append(
            (guest.fx[160:416], guest.fx[24:28], guest.fx[:5], stored[:6], stored[24:28], stored[32:])
        )
    assert seen[0] == seen[1]


SEGMENTS = {
    "null": {"unusable": 1, "selector": 0},
    "small": {"limit": 0x7FF},
    "read-only": {"type": 1},
    "expand-down": {"type": 7, "limit": 0x3FF},
    "code": {"type": 11},
    "execute-only": {"type": 9},
    "based": {"base": 0x6000_1000, "limit": 0x1000_0FFF},
}
BY_SEGMENT = (
    "8b07",
    "8907",
    "0107",
    "ff37",
    "8f07",
    "a1{}",
    "a3{}",
    "d907",
    "0f1007",
    "0f1107",
    "0ff7c1",
    "fe07",
    "0fae1f",
)


@pytest.mark.parametrize("prefixes", ["64", "65", "2665", "6526", "6465", "6564", "2e"])
@pytest.mark.parametrize("name", SEGMENTS)
def test_a_segment_that_is_not_open(name, prefixes, guest):
    """Each access is checked: limit, type, null; of several prefixes the last counts."""
    core = guest.cpu.core
    before = {register: dict(core.cpu.sregs[register]) for register in ("fs", "gs")}
    guest.fx = fx_image(Random(name))[:2].ljust(24, b"\0") + b"\x80\x1f" + bytes(486)
    core.cpu.sregs["fs"] = {**before["fs"], **SEGMENTS[name]}
    core.cpu.commit()
    try:
        for form in BY_SEGMENT:
            for at in (0, 0x3FC, 0x400, 0x7FC, 0x7FE, 0x800, 0x1000_0800):
                code = bytes.fromhex(prefixes + form.format(at.to_bytes(4, "little").hex()))
                seen = []
                for how in ("interpret", "run", "run"):
                    guest.put(CODE, code + bytes((END_32,)) * 8)
                    case = Case(data=b"\x80" * (DATA_PAGES * PAGE), start=CODE, code=code, flags=2)
                    case.regs = [0] * 16
                    case.regs[ESP], case.regs[EDI] = DATA + 0x2000, at
                    seen.append(outcome(guest, case, how))
                assert seen[0] == seen[1] == seen[2], f"{code.hex()} at {at:#x}"
    finally:
        core.cpu.sregs.update(before)
        core.cpu.commit()


NARROW = 0x3000
"""Where a page of data is within reach of 16 bits."""


@pytest.mark.parametrize(
    "form",
    [
        "d903",
        "dd13",
        "d933",
        "dddb",
        "0f1003",
        "0f1113",
        "0f58c1",
        "660f70034e",
        "0fc60b1b",
        "f20f38f103",
        "0f6f03",
        "660fef03",
    ],
)
def test_x87_and_sse_by_16_bit_addresses(form, guest):
    """67 before them, and [EBX] becomes [BP + DI]: the interpreter's decoder, the host's instruction."""
    guest.map(NARROW, guest.place(DATA), PRESENT | WRITABLE | USER)
    seen = []
    for prefix in ("", "67"):
        code = bytes.fromhex(prefix + form)
        case = Case(data=Random(form).randbytes(DATA_PAGES * PAGE), start=CODE, flags=2, code=code)
        case.regs = [0x11, 0, 0, NARROW + 0x40, DATA, NARROW, 0, 0x40] + [0] * 8
        guest.fx = fx_image(Random(form))
        guest.put(CODE, code + bytes((END_32,)) * 8)
        told, *rest = outcome(guest, case, "run")
        assert told == (CODE + len(code),)
        seen.append((rest, guest.fx))
    assert seen[0] == seen[1]


def test_masked_moves_that_are_interpreted(guest):
    """No ModRM names their operand: DS:EDI, here under single steps and by 16 bits."""
    guest.map(NARROW, guest.place(DATA), PRESENT | WRITABLE | USER)
    for code in ("660ff7c1", "0ff7ca", "67660ff7c1", "670ff7ca", "65660ff7c1"):
        seen = []
        for flags in (2, 2 | RFLAGS_TF):
            case = Case(
                data=Random(code).randbytes(DATA_PAGES * PAGE), start=CODE, flags=flags, code=b"\x0f\xf7"
            )
            case.regs = [0] * 7 + [NARROW + 0x7FC] + [0] * 8
            guest.fx = fx_image(Random("masked"))
            if code.startswith("65"):
                case.regs[EDI] = NARROW + 0x7FC - GS_BASE & M32
            guest.put(CODE, bytes.fromhex(code) + bytes((END_32,)) * 8)
            outcome(guest, case, "run")
            seen.append((guest.rip, guest.data, guest.fx[160:416]))
        assert seen[0] == seen[1], code
        assert guest.rip == CODE + len(code) // 2
        assert guest.data != case.data
