"""Random instructions that have emitters of their own: see forms.py."""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random

from forms import (
    ARITHMETIC,
    DF,
    IF,
    M64,
    RAX,
    RBP,
    RCX,
    RDI,
    RSI,
    RSP,
    Case,
    assemble,
    immediate_of,
    in_memory,
    integer,
    new_case,
    number,
    size_of,
    target,
    vector,
    x87,
)  # fmt: skip
from places import CODE, CODE_END, DATA, DATA_END, NON_CANONICAL, PAGE

from pykvm.translate.operands import INTEGER, VECTOR


def _register(rng: Random) -> int:
    return rng.randrange(16)


def lea(rng: Random) -> Case:
    case = new_case(rng)
    _, rex, prefixes = size_of(rng)
    rm = in_memory(rng, case, 8) if rng.random() < 0.97 else _register(rng)
    return assemble(case, 0x8D, _register(rng), rm, rex=rex, prefixes=prefixes)


def by_register(*opcodes: int) -> Callable[[Random], Case]:
    """The register in the opcode: push, pop, xchg, bswap, mov of a number."""

    def form(rng: Random) -> Case:
        case = new_case(rng)
        size, rex, prefixes = size_of(rng)
        opcode, reg = rng.choice(opcodes), _register(rng)
        case.regs[RSP] = target(rng, 8)
        rex |= reg >> 3 | rng.choice((0, 0x40))
        if rng.random() < 0.6 and opcode in (0x50, 0x58):
            prefixes = b""
        immediate = immediate_of(rng, opcode, size)
        escape = b"\x0f" if opcode > 0xFF else b""
        if opcode == 0x1C8 and size == 2:
            prefixes = b""  # undefined
        if rng.random() < 0.02:
            prefixes = b"\xf0" + prefixes
        case.code = (
            prefixes
            + (bytes((0x40 | rex & 15,)) if rex else b"")
            + escape
            + bytes((opcode & 0xFF | reg & 7,))
        )
        case.code += immediate
        return case

    return form


def alone(*codes: str) -> Callable[[Random], Case]:
    """An opcode without operands, or with an immediate: on RAX, the flags, the stack."""

    def form(rng: Random) -> Case:
        case = new_case(rng)
        size, rex, prefixes = size_of(rng)
        code = bytes.fromhex(rng.choice(codes))
        opcode = code[0] if code[0] != 0x0F else 0x100 | code[1]
        case.regs[RSP] = target(rng, 8)
        case.regs[RBP] = target(rng, 8)
        if opcode in (0x9C, 0x9D, 0x68, 0x6A, 0xC9) and rng.random() < 0.7:
            prefixes = b""
        if opcode == 0x9D:
            _put(case, case.regs[RSP], 2 | IF | rng.getrandbits(12) & (ARITHMETIC | DF))
        if opcode in (0x9B, 0x177):
            prefixes = b""
        if rng.random() < 0.01:
            prefixes = b"\xf0" + prefixes
        case.code = prefixes + (bytes((0x40 | rex,)) if rex else b"") + code + immediate_of(rng, opcode, size)
        return case

    return form


def _put(case: Case, address: int, value: int, size: int = 8) -> None:
    at, total = address - DATA, len(case.data)
    if 0 <= at < total:
        case.data = (case.data[:at] + value.to_bytes(size, "little") + case.data[at + size :])[:total]


def with_operand(
    opcode: int,
    digits: tuple[int, ...],
    bytes_: int,
    *,
    align: int = 1,
    registers: bool = True,
    sized: bool = True,
) -> Callable[[Random], Case]:
    """An opcode with ModRM whose operand has ``bytes_`` (0: by its size); no digits: any register."""

    def form(rng: Random) -> Case:
        case = new_case(rng)
        size, rex, prefixes = size_of(rng) if sized else (4, rng.choice((0, 8)), b"")
        if opcode in (0x8F, 0xFF) and rng.random() < 0.7:
            size, rex, prefixes = 8, 0, b""
        if opcode == 0x1C7:
            prefixes = rng.choice((b"", b"\xf0"))
            if rng.random() < 0.3:
                case.regs[0], case.regs[2] = (rng.choice((0, number(rng))) for _ in range(2))
        reg = rng.choice(digits) if digits else _register(rng)
        if not digits:
            case.fixed.add(reg)
        case.fixed.add(RSP)
        case.regs[RSP] = target(rng, 8)
        length = bytes_ or size
        if opcode == 0x1C7 and rex & 8:
            length = 16
        if opcode == 0x1AE and reg in (1, 2):  # what is restored must be restorable, mostly
            at = DATA + rng.randrange(200) * 16 + (rng.random() < 0.1)
            if reg == 2:
                _put(
                    case,
                    at,
                    int.from_bytes(case.fx[24:28], "little")
                    if rng.random() < 0.9
                    else number(rng) & 0xFFFF_FFFF,
                    4,
                )
            else:
                case.data = case.data[: at - DATA] + case.fx + case.data[at - DATA + 512 :]
            return assemble(case, opcode, reg, in_memory(rng, case, length, at=at), rex=rex)
        if registers and rng.random() < 0.3:
            return assemble(case, opcode, reg, _register(rng), rex=rex, prefixes=prefixes)
        rm = in_memory(rng, case, length, align if rng.random() < 0.8 else 1)
        return assemble(
            case, opcode, reg, rm, rex=rex, prefixes=prefixes, immediate=immediate_of(rng, opcode, size)
        )

    return form


def bit_string(rng: Random) -> Case:
    """BT and its kin by a register: the bit may lie anywhere around the operand."""
    case = new_case(rng)
    size, rex, prefixes = size_of(rng)
    opcode, reg = rng.choice((0x1A3, 0x1AB, 0x1B3, 0x1BB)), _register(rng)
    if rng.random() < 0.3:
        return assemble(case, opcode, reg, _register(rng), rex=rex, prefixes=prefixes)
    bits = rng.randrange(-(1 << 15), 1 << 15) & (1 << 8 * size) - 1
    case.regs[reg] = number(rng) & M64 & ~((1 << 8 * size) - 1) | bits
    case.fixed.add(reg)
    if rng.random() < 0.15:
        prefixes = b"\xf0" + prefixes
    return assemble(case, opcode, reg, in_memory(rng, case, size), rex=rex, prefixes=prefixes)


def string(rng: Random) -> Case:
    case = new_case(rng)
    size, rex, prefixes = size_of(rng)
    opcode = rng.choice((0xA4, 0xA6, 0xAA, 0xAC, 0xAE)) | rng.randrange(2)
    if not opcode & 1:
        size = 1
    if rng.random() < 0.4:
        case.flags |= DF
    repeat = rng.choice((b"", b"\xf3", b"\xf2"))
    count = rng.choice((0, 1, 2, rng.randrange(20), rng.randrange(1500)))
    case.regs[RCX] = count
    align = size if rng.random() < 0.5 else 1
    case.regs[RSI], case.regs[RDI] = target(rng, size, align), target(rng, size, align)
    if opcode & 0xFE == 0xA6 and rng.random() < 0.7:  # long runs of the same
        case.data = case.data[: PAGE // 2] * 8
        case.regs[RSI] = case.regs[RDI] - rng.randrange(2) * PAGE // 2
    elif opcode & 0xFE == 0xAE and rng.random() < 0.7:
        fill = rng.randbytes(1)
        case.data = fill * (2 * PAGE) + case.data[2 * PAGE :]
        case.regs[RAX] = int.from_bytes((fill if rng.random() < 0.6 else rng.randbytes(1)) * 8, "little")
    elif rng.random() < 0.3:
        case.regs[RSI] = case.regs[RDI] + rng.randrange(-16, 17)  # they overlap
    if opcode & 0xFE == 0xA6 and not DATA <= case.regs[RDI] < DATA_END:  # which faults first is the CPU's
        case.regs[RSI] = DATA + rng.randrange(PAGE)
    if rng.random() < 0.08 and max(case.regs[RSI], case.regs[RDI]) < 1 << 32:
        prefixes += b"\x67"
        for reg in (RCX, RSI, RDI):
            case.regs[reg] |= rng.getrandbits(32) << 32
    case.code = prefixes + repeat + (bytes((0x40 | rex,)) if rex else b"") + bytes((opcode,))
    return case


def masked_move(rng: Random) -> Case:
    case = new_case(rng)
    case.regs[RDI] = target(rng, 16)
    prefixes = rng.choice((b"", b"\x66"))
    if rng.random() < 0.1:
        prefixes += b"\x67"
    return assemble(case, 0x1F7, rng.randrange(8), rng.randrange(8), prefixes=prefixes)


def crc32(rng: Random) -> Case:
    case = new_case(rng)
    size, rex, prefixes = size_of(rng)
    opcode, reg = rng.choice((0x2F0, 0x2F1)), _register(rng)
    if rng.random() < 0.5:
        rm = in_memory(rng, case, 1 if opcode == 0x2F0 else size)
        return assemble(case, opcode, reg, rm, rex=rex, prefixes=prefixes + b"\xf2")
    plain = rng.random() < 0.2
    rm_reg = rng.randrange(8) if plain else _register(rng)
    if plain:
        reg, rex = reg & 7, 0
    return assemble(case, opcode, reg, rm_reg, rex=rex, prefixes=prefixes + b"\xf2", plain=plain)


def jump(rng: Random) -> Case:
    case = new_case(rng)
    kind = rng.choice((0x70, 0x180, 0xEB, 0xE9, 0xE8, 0xE0, 0xC3, 0xC2, 0xFF))
    case.regs[RSP] = target(rng, 8)
    goal = rng.randrange(CODE, CODE_END)
    if abs(goal - case.start) < 20:
        goal = CODE if case.start > CODE + 40 else CODE_END - 1
    if kind in (0xC3, 0xC2, 0xFF) and rng.random() < 0.1:
        goal = NON_CANONICAL + rng.randrange(PAGE)
    if kind in (0x70, 0xEB, 0xE0):
        opcode = kind | rng.randrange(16 if kind == 0x70 else 4 if kind == 0xE0 else 1)
        case.regs[RCX] = rng.choice((0, 1, 2, 1 << 32, number(rng)))
        prefixes = b"\x67" if kind == 0xE0 and rng.random() < 0.3 else b""
        case.code = prefixes + bytes((opcode, rng.choice((rng.randrange(4, 30), rng.randrange(0xC0, 0xF0)))))
    elif kind in (0x180, 0xE9, 0xE8):
        head = bytes((0x0F, 0x80 | rng.randrange(16))) if kind == 0x180 else bytes((kind,))
        case.code = head + struct.pack("<i", goal - case.start - len(head) - 4)
    elif kind in (0xC3, 0xC2):
        _put(case, case.regs[RSP], goal)
        case.code = bytes((kind,)) + (struct.pack("<H", rng.randrange(1 << 16)) if kind == 0xC2 else b"")
    else:
        digit = rng.choice((2, 4))
        case.fixed.add(RSP)
        if rng.random() < 0.4:
            reg = rng.choice([at for at in range(16) if at != RSP])
            case.regs[reg] = goal
            return assemble(case, 0xFF, digit, reg)
        at = target(rng, 8)
        case = assemble(case, 0xFF, digit, in_memory(rng, case, 8, at=at))
        _put(case, at, goal)
    return case


def direct(rng: Random) -> Case:
    """MOV between RAX and an address in the code."""
    case = new_case(rng)
    size, rex, prefixes = size_of(rng)
    opcode = rng.randrange(0xA0, 0xA4)
    address = target(rng, size if opcode & 1 else 1)
    code = (bytes((0x40 | rex,)) if rex else b"") + bytes((opcode,))
    case.code = prefixes + code + address.to_bytes(8, "little")
    return case


def exchange_bytes(rng: Random) -> Case:
    """XLAT."""
    case = new_case(rng)
    case.regs[3] = target(rng, 256)
    case.code = b"\xd7"
    return case


def sign_extend(rng: Random) -> Case:
    case = new_case(rng)
    size, rex, prefixes = size_of(rng)
    reg = _register(rng)
    case.fixed.add(reg)
    rm = in_memory(rng, case, 2 if size == 2 else 4) if rng.random() < 0.5 else _register(rng)
    return assemble(case, 0x63, reg, rm, rex=rex, prefixes=prefixes)


_OTHERS = bytes.fromhex("2e 36 3e 26 65 66 67 f2 f3 f0 40 48 4f")
_NO_MORE = frozenset((0x69, 0x81, 0xC7, 0xF7, 0x12B, 0x1A4, 0x1A5, 0x1AC, 0x1AD, 0x1B8, 0x1BC, 0x1BD, 0xFF))
"""With 66, F2 or F3 they end elsewhere (their numbers), are undefined (SHLD) or others (POPCNT, MOVNTSS)."""


def prefixed(rng: Random) -> Case:
    """With more prefixes than it needs: of the same kind, a REX in front of others, up to too long."""
    kind = rng.choice((integer, vector, x87, None))
    opcodes = {integer: INTEGER, vector: VECTOR, x87: range(0xD8, 0xE0)}
    if kind is None:
        case = rng.choice(_TO_BE_PREFIXED)(rng)
    else:
        case = kind(rng, rng.choice([at for at in opcodes[kind] if at not in _NO_MORE]))
    room = 15 - len(case.code)
    more = rng.choice((1, 2, 3, room, room + 1 if rng.random() < 0.3 else 1))
    case.code = bytes(rng.choice(_OTHERS) for _ in range(more)) + case.code
    return case


_ON_RAX = tuple(f"{operation << 3 | byte:02x}" for operation in range(8) for byte in (4, 5))
_TO_BE_PREFIXED = (
    *(lea, bit_string, crc32, direct, exchange_bytes, sign_extend, by_register(0x50, 0x58, 0x90)),
    *(alone("98", "99", "9e", "9f", "c9", "9c"), with_operand(0xFF, (6,), 8), with_operand(0x8F, (0,), 8)),
    with_operand(0x11F, (0,), 0),
    *(with_operand(0x1AE, (digit,), 4, registers=False, sized=False) for digit in (2, 3)),
)


def step_of_a_walk(rng: Random) -> Case:
    """MOV by its own target, whose page another may have been before (emit_chase.py)."""
    case = new_case(rng)
    rex, reg = rng.choice((0, 8)), _register(rng)
    displacement = rng.choice((0, 8, -128, rng.randrange(-(1 << 31), 1 << 31)))
    mod = 2 if displacement not in (0, 8, -128) else 1 if displacement or reg & 7 == 5 else 0
    code = bytes((0x8B, mod << 6 | (reg & 7) * 9)) + (b"\x24" if reg & 7 == 4 else b"")
    code += displacement.to_bytes((0, 1, 4)[mod], "little", signed=True)
    rex |= (reg >> 3) * 5
    case.regs[reg] = target(rng, 8 if rex & 8 else 4) - displacement & M64
    case.code = (bytes((0x40 | rex,)) if rex else b"") + code
    return case


FORMS: dict[str, Callable[[Random], Case]] = {
    "lea": lea,
    "push": by_register(0x50),
    "pop": by_register(0x58),
    "xchg-rax": by_register(0x90),
    "bswap": by_register(0x1C8),
    "mov-number": by_register(0xB0, 0xB8),
    "rax-and-number": alone(*_ON_RAX, "a8", "a9"),
    "alone": alone("98", "99", "9e", "9f", "f5", "f8", "f9", "fc", "fd", "9b", "0f77"),
    "push-number": alone("68", "6a"),
    "pushf": alone("9c"),
    "popf": alone("9d"),
    "leave": alone("c9"),
    "push-memory": with_operand(0xFF, (6,), 8),
    "pop-memory": with_operand(0x8F, (0,), 8),
    "cmpxchg8b-16b": with_operand(0x1C7, (1,), 8, align=16, registers=False, sized=False),
    "nop": with_operand(0x11F, (0,), 0),
    "hints": with_operand(0x118, (0, 1, 2, 3), 1, registers=False, sized=False),
    "fxsave": with_operand(0x1AE, (0,), 512, align=16, registers=False, sized=False),
    "fxrstor": with_operand(0x1AE, (1,), 512, align=16, registers=False, sized=False),
    "ldmxcsr": with_operand(0x1AE, (2,), 4, registers=False, sized=False),
    "stmxcsr": with_operand(0x1AE, (3,), 4, registers=False, sized=False),
    "clflush": with_operand(0x1AE, (7,), 1, registers=False, sized=False),
    "bit-string": bit_string,
    "string": string,
    "masked-move": masked_move,
    "crc32": crc32,
    "jump": jump,
    "direct": direct,
    "step-of-a-walk": step_of_a_walk,
    "xlat": exchange_bytes,
    "movsxd": sign_extend,
    "prefixed": prefixed,
}
