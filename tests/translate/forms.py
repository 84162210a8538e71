"""Random instructions of 64-bit code, of every form that is translated, with operands and state to match."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from random import Random

from places import CODE, DATA, DATA_END, DATA_PAGES, GS_BASE, NON_CANONICAL, NOWHERE, PAGE

from pykvm.translate.decode import TABLE_64
from pykvm.translate.operands import INTEGER, VECTOR, WORD_RM, X87, X87_LARGE, G

M64 = (1 << 64) - 1
RAX, RCX, RDX, RSP, RBP, RSI, RDI = 0, 1, 2, 4, 5, 6, 7
ARITHMETIC, DF, IF = 0x8D5, 0x400, 0x200
SPECIAL = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 1 << 63, M64)
_NUMBERS = (0.0, -0.0, 1.0, -1.5, 1e300, -1e-300, 5e-324, float("inf"), 123456789.0)
_NANS = (0x7FF8_0000_0000_0000, 0x7FF0_0000_0000_0001, 0x7F80_0000_3F80_0000, 0xFF80_0001_0000_0001)
FLOATS = (*(struct.pack("<d", at) for at in _NUMBERS), *(at.to_bytes(8, "little") for at in _NANS))


@dataclass
class Case:
    """An instruction at ``start`` and the state before it."""

    code: bytes = b""
    start: int = CODE
    regs: list[int] = field(default_factory=list)
    flags: int = 2 | IF
    fx: bytes = b""
    data: bytes = b""
    fixed: set[int] = field(default_factory=set)
    """Registers whose value an address needs."""


def number(rng: Random) -> int:
    """Any 64 bits, and often those at which something turns."""
    choice = rng.random()
    if choice < 0.3:
        return rng.choice(SPECIAL)
    if choice < 0.5:
        return rng.getrandbits(rng.randrange(1, 65))
    return rng.getrandbits(64)


def fx_image(rng: Random) -> bytes:
    """An FXSAVE image that FXRSTOR takes; mostly with all exceptions masked."""
    masked = rng.random() < 0.85
    fcw = 0x37F & ~0x300 | rng.choice((0, 2, 3)) << 8 | rng.randrange(4) << 10
    if not masked:
        fcw &= ~rng.getrandbits(6)
    fsw = rng.getrandbits(16) & 0x7F00
    if rng.random() < 0.1:
        fsw |= rng.getrandbits(6)
    if fsw & ~fcw & 0x3F:
        fsw |= 0x8080  # B and ES: one is pending
    mxcsr = 0x1F80 | rng.randrange(4) << 13
    if rng.random() < 0.2:
        mxcsr |= rng.getrandbits(16) & 0x803F
    if rng.random() < 0.1:
        mxcsr &= ~(rng.getrandbits(6) << 7)
    tags = rng.choice((0xFF, 0x00, rng.getrandbits(8)))
    image = struct.pack("<HHBBHQQII", fcw, fsw, tags, 0, 0, 0, 0, mxcsr, 0xFFFF)
    for _ in range(8):
        image += extended(rng) + bytes(6)
    for _ in range(32):
        image += rng.choice(FLOATS) if rng.random() < 0.3 else rng.randbytes(8)
    return image.ljust(512, b"\0")


def extended(rng: Random) -> bytes:
    """80 bits: mostly numbers of a moderate size."""
    if rng.random() < 0.6:
        return struct.pack(
            "<QH",
            rng.getrandbits(63) | 1 << 63,
            rng.randrange(16383 - 70, 16383 + 70) | rng.getrandbits(1) << 15,
        )
    if rng.random() < 0.5:
        return rng.choice(
            (bytes(10), bytes(7) + b"\x80\xff\x3f", bytes(7) + b"\x80\xff\x7f", bytes(7) + b"\xc0\xff\xff")
        )
    return rng.randbytes(10)


def new_case(rng: Random) -> Case:
    case = Case()
    case.regs = [number(rng) for _ in range(16)]
    case.regs[RSP] = target(rng, 8, 8) if rng.random() < 0.8 else number(rng)
    case.flags = 2 | IF | rng.getrandbits(12) & ARITHMETIC
    case.fx = fx_image(rng)
    case.data = rng.randbytes(DATA_PAGES * PAGE)
    offset = rng.randrange(0x20, 4 * PAGE - 0x40)
    if rng.random() < 0.1:
        offset = rng.randrange(1, 4) * PAGE - rng.randrange(1, 12)
    case.start = CODE + offset
    return case


def target(rng: Random, size: int, align: int = 1) -> int:
    """An address for an operand; few fault."""
    choice = rng.random()
    pages = rng.randrange(1, DATA_PAGES + 1) * PAGE
    if choice < 0.15 and size > 1:
        at = DATA + pages - rng.randrange(1, size)
    elif choice < 0.2:
        at = DATA + pages - size
    elif choice < 0.24:
        at = DATA + DATA_PAGES * PAGE + rng.randrange(PAGE - size)
    elif choice < 0.27:
        at = rng.choice((DATA_END - size // 2, DATA - size // 2, NOWHERE, DATA_END))
    elif choice < 0.28:
        return NON_CANONICAL + rng.randrange(PAGE)
    else:
        at = DATA + rng.randrange(DATA_PAGES * PAGE - size)
    return at & -align


@dataclass
class Encoding:
    """How ModRM names the r/m operand."""

    modrm: int
    rex: int
    tail: bytes = b""
    relative: bool = False
    prefixes: bytes = b""


def in_memory(rng: Random, case: Case, size: int, align: int = 1, at: int | None = None) -> Encoding:
    """An operand of ``size`` bytes in memory, by any way of addressing; its registers get their values."""
    address = target(rng, size, align) if at is None else at
    prefixes = b""
    narrow = rng.random() < 0.08 and address < 1 << 32
    if rng.random() < 0.1 and address < 1 << 32:
        prefixes += b"\x65"
        address = address - GS_BASE & M64
        if narrow and address >> 32:
            narrow = False
    elif rng.random() < 0.04:
        prefixes += bytes((rng.choice((0x2E, 0x36, 0x3E, 0x26)),))
    if narrow:
        prefixes += b"\x67"
    bits = 32 if narrow else 64
    garbage = rng.getrandbits(32) << 32 if narrow else 0
    kind = rng.random()
    reachable = address < 1 << 31
    free = [reg for reg in range(16) if reg not in case.fixed]
    if kind < 0.1 and reachable and at is None and not prefixes.startswith(b"\x65"):
        return Encoding(5, 0, struct.pack("<i", 0), True, prefixes + address.to_bytes(8, "little"))
    if kind < 0.2 and reachable:  # SIB without a base
        index = rng.choice([reg for reg in free if reg != RSP] or [RSP])
        if index == RSP or rng.random() < 0.3:
            return Encoding(4, 0, b"\x25" + struct.pack("<i", address), prefixes=prefixes)
        scale = rng.randrange(4)
        case.regs[index] = rng.randrange(0, 1 << 20) | garbage
        case.fixed.add(index)
        displacement = address - ((case.regs[index] & 0xFFFF_FFFF) << scale)
        if displacement >= -(1 << 31):
            return Encoding(
                4,
                index >> 3 << 1,
                bytes((scale << 6 | (index & 7) << 3 | 5,)) + struct.pack("<i", displacement),
                prefixes=prefixes,
            )
    if not free:
        free = [RAX]
    base = rng.choice(free)
    width = rng.choice((0, 1, 4))
    if base & 7 == RBP and not width:
        width = 1
    displacement = (0, number8(rng), 0, 0, rng.randrange(-(1 << 31), 1 << 31))[width]
    tail = (
        b"",
        struct.pack("<b", displacement) if width == 1 else b"",
        b"",
        b"",
        struct.pack("<i", displacement),
    )[width]
    mod = {0: 0, 1: 0x40, 4: 0x80}[width]
    rex = base >> 3
    others = [reg for reg in free if reg not in (base, RSP)]
    if rng.random() < 0.4 and others:
        index, scale = rng.choice(others), rng.randrange(4)
        case.regs[index] = number(rng)
        case.fixed.add(index)
        case.regs[base] = address - displacement - (case.regs[index] << scale) & (1 << bits) - 1 | garbage
        case.fixed.add(base)
        sib = bytes((scale << 6 | (index & 7) << 3 | base & 7,))
        return Encoding(mod | 4, rex | index >> 3 << 1, sib + tail, prefixes=prefixes)
    case.regs[base] = address - displacement & (1 << bits) - 1 | garbage
    case.fixed.add(base)
    if base & 7 == RSP or rng.random() < 0.05:
        return Encoding(mod | 4, rex, bytes((0x20 | base & 7,)) + tail, prefixes=prefixes)
    return Encoding(mod | base & 7, rex, tail, prefixes=prefixes)


def number8(rng: Random) -> int:
    return rng.randrange(-128, 128)


def assemble(
    case: Case, opcode: int, reg: int, rm: Encoding | int, *,
    rex: int = 0, prefixes: bytes = b"", immediate: bytes = b"", plain: bool = False,
) -> Case:  # fmt: skip
    """Set the case's code; ``rex`` is W and whether a REX is wanted; ``plain``: none may stand there."""
    escape = (b"", b"\x0f", b"\x0f\x38", b"\x0f\x3a")[opcode >> 8]
    if isinstance(rm, int):
        rm = Encoding(0xC0 | rm & 7, rm >> 3)
    rex |= reg >> 3 << 2 | rm.rex
    given = rm.prefixes
    address = 0
    if rm.relative:
        given, address = given[:-8], int.from_bytes(given[-8:], "little")
    mandatory = prefixes
    head = given + mandatory + (bytes((0x40 | rex & 15,)) if rex and not plain else b"")
    head += escape + bytes((opcode & 0xFF, rm.modrm | (reg & 7) << 3))
    tail = rm.tail
    if rm.relative:
        tail = struct.pack("<i", address - (case.start + len(head) + 4 + len(immediate)))
    case.code = head + tail + immediate
    return case


def immediate_of(rng: Random, opcode: int, size: int) -> bytes:
    letter = TABLE_64[opcode][1]
    small = rng.choice((rng.randbytes(1), bytes((rng.randrange(70),))))
    data = number(rng).to_bytes(8, "little")
    return {0: b"", 1: small, 2: data[:2], 16: data[: min(size, 4)], 17: data[:size]}.get(letter, b"")


def size_of(rng: Random) -> tuple[int, int, bytes]:
    """Operand size, REX.W, prefix."""
    return rng.choice(((2, 0, b"\x66"), (4, 0, b""), (8, 8, b"")))


REX = 0x40
"""Wants a REX prefix though no register needs one."""


def integer(rng: Random, opcode: int) -> Case:
    case = new_case(rng)
    access, reg_use, byte, _ = INTEGER[opcode]
    size, rex, prefixes = size_of(rng)
    if rng.random() < 0.15:
        rex |= REX
    digit = rng.randrange(8)
    if isinstance(access, tuple) and rng.random() < 0.95:
        digit = rng.choice([at for at, row in enumerate(access) if row] or [0])
    reg = rng.randrange(16) if reg_use else digit
    rm_size = 1 if byte & 1 else 2 if opcode in WORD_RM else size
    immediate = immediate_of(rng, opcode, size)
    if opcode in (0xF6, 0xF7) and reg < 2:
        immediate = number(rng).to_bytes(8, "little")[: min(4, 1 if opcode == 0xF6 else size)]
    if opcode == 0x1B8:
        prefixes += b"\xf3"
    elif rng.random() < 0.03 and opcode not in (0x1BC, 0x1BD, 0xC6, 0xC7):
        prefixes += rng.choice((b"\xf2", b"\xf3"))
    if opcode in (0xF6, 0xF7) and reg in (6, 7) and rng.random() < 0.7:  # quotients that fit
        case.regs[RDX] = rng.choice((0, 0, M64, case.regs[RDX] & 0xFF))
        case.regs[RAX] &= rng.choice((M64, 0xFFFF, 0xFF00_0000_0000_00FF))
    if opcode in (0x1A4, 0x1A5, 0x1AC, 0x1AD) and size == 2:  # more than 16 is undefined
        immediate = bytes(at & 15 for at in immediate)
        case.regs[RCX] &= ~0x10
        case.fixed.add(RCX)
    if opcode == 0xFF and reg in (2, 4) and size == 2:  # on AMD's this is of 16 bits
        prefixes = prefixes.replace(b"\x66", b"")
    if reg_use:
        case.fixed.add(reg)
    if rng.random() < 0.55:
        rm = in_memory(rng, case, rm_size)
        if rng.random() < 0.1:
            prefixes = b"\xf0" + prefixes
        return assemble(case, opcode, reg, rm, rex=rex, prefixes=prefixes, immediate=immediate)
    rm_reg = rng.randrange(16) if rng.random() < 0.85 else reg if reg_use else RCX
    if rng.random() < 0.02:
        prefixes = b"\xf0" + prefixes
    if not byte or rng.random() < 0.5:
        return assemble(case, opcode, reg, rm_reg, rex=rex, prefixes=prefixes, immediate=immediate)
    if reg_use:
        reg &= 7
    return assemble(
        case, opcode, reg, rm_reg & 7, rex=rex & 8, prefixes=prefixes, immediate=immediate, plain=not rex & 8
    )


def vector(rng: Random, opcode: int) -> Case:
    case = new_case(rng)
    rows = VECTOR[opcode]
    which = rng.choice([at for at, row in enumerate(rows) if row])
    if rng.random() < 0.03 and opcode != 0x12B:  # MOVNTSS and MOVNTSD are AMD's
        which = rng.randrange(4)
    row = rows[which] or (16, 1, "x", "x")
    size, _, reg_kind, rm_kind = row
    wide = rng.choice((0, 0, 8)) if G in (reg_kind, rm_kind) else rng.choice((0, 0, 0, 8))
    if size < 0:
        size = 8 if wide else 4
    prefixes = (b"", b"\x66", b"\xf3", b"\xf2")[which]
    if which > 1 and rng.random() < 0.05:
        prefixes = b"\x66" + prefixes
    immediate = immediate_of(rng, opcode, 4)
    reg = rng.randrange(16 if reg_kind != "m" else 8)
    if rng.random() < 0.01:
        prefixes = b"\xf0" + prefixes
    if (size and rng.random() < 0.55) or opcode == 0x1F0:
        rm: Encoding | int = in_memory(rng, case, size or 16, 16 if rng.random() < 0.8 else 1)
    else:
        rm = rng.randrange(16 if rm_kind != "m" else 8)
    return assemble(case, opcode, reg, rm, rex=wide, prefixes=prefixes, immediate=immediate)


def x87(rng: Random, opcode: int) -> Case:
    case = new_case(rng)
    digit = rng.randrange(8)
    if rng.random() < 0.5:
        row = X87[opcode - 0xD8][digit] or X87_LARGE.get((opcode - 0xD8, digit)) or (2, 1)
        rm: Encoding | int = in_memory(rng, case, row[0])
    else:
        rm = rng.randrange(8)
    return assemble(case, opcode, digit, rm, prefixes=b"\x66" if rng.random() < 0.1 else b"")
