"""From bytes to an instruction's parts, fast: what the translator needs to know of one before all else.

The same maps as the interpreter's decoder (x86/execute/maps.py), turned into tables by opcode. An opcode is
a number: the byte, and 0x100, 0x200 or 0x300 more behind 0F, 0F 38 and 0F 3A. VEX, EVEX and XOP are left to
the interpreter, and in flat 32-bit code 16-bit addresses.
"""

from __future__ import annotations

from pykvm.x86.execute.maps import MAPS, NOT_IN_64_BIT

OPERAND, F2, F3, FS, GS, LOCK, ADDRESS, OTHER = (1 << bit for bit in range(8))
REPEAT = F2 | F3
PREFIXES = {
    0x66: OPERAND,
    0xF2: F2,
    0xF3: F3,
    0x64: FS,
    0x65: GS,
    0xF0: LOCK,
    0x67: ADDRESS,
    **dict.fromkeys((0x2E, 0x36, 0x3E, 0x26), OTHER),
}
MAX_LENGTH = 15

# What follows ModRM: bytes, and whether a SIB byte decides on a displacement.
_AFTER_MODRM = tuple(
    (
        0 if modrm >= 0xC0 else (modrm & 7 == 4) + (4 if modrm & 0xC7 == 5 else (0, 1, 4)[modrm >> 6]),
        modrm < 0x40 and modrm & 7 == 4,
    )
    for modrm in range(256)
)

# The same of 16-bit addresses, where rm 6 without a displacement is one alone.
_AFTER_MODRM_16 = tuple(
    0 if modrm >= 0xC0 else 2 if modrm & 0xC7 == 6 else (0, 1, 2)[modrm >> 6] for modrm in range(256)
)

_Z, _V, _J, _TEST1, _TESTZ, _OFFSET = 16, 17, 18, 19, 20, 21  # sizes that depend on the rest
_SIZES = {
    **dict.fromkeys("Mb", 1),
    "w": 2,
    "e": 3,
    "Z": _Z,
    "z": _Z,
    "v": _V,
    "j": _J,
    "f": _TEST1,
    "F": _TESTZ,
    "o": _OFFSET,
}
_UNKNOWN = -1


def _table() -> list[tuple[bool, int]]:
    """By opcode: whether ModRM follows, and the immediate's size."""
    table = []
    for escape in ("", "0F", "0F38", "0F3A"):
        for letter in MAPS[escape]:
            if letter in "xp":  # far pointers are the interpreter's
                table.append((False, _UNKNOWN))
            else:
                table.append((letter in "mMZfFc", _SIZES.get(letter, 0)))
    return table


TABLE_32 = _table()
TABLE_64 = list(TABLE_32)
for _opcode in NOT_IN_64_BIT:
    TABLE_64[_opcode] = (False, _UNKNOWN)
REX = range(0x40, 0x50)
for _opcode in REX:
    TABLE_64[_opcode] = (False, _UNKNOWN)
for _opcode in (0xC4, 0xC5, 0x62):  # VEX and EVEX
    TABLE_32[_opcode] = TABLE_64[_opcode] = (False, _UNKNOWN)


_VOIDING = frozenset((*PREFIXES, *REX))
"""Behind a REX these make it void (Intel SDM vol. 2 §2.2.1)."""


class Undecoded(Exception):
    """An instruction that isn't decoded here: the interpreter knows it, or raises what it raises."""


def decode(
    code: bytes, at: int, wide: bool, prefixes: int = 0, skip: int = 0
) -> tuple[int, int, int, int, int, int]:
    """The instruction at ``code[at]`` of 64-bit (``wide``) or 32-bit code.

    Of its bytes the first ``skip`` are known to be ``prefixes``. Returns length, opcode, prefixes, REX (0:
    none), and the places of ModRM and the immediate. Raises Undecoded, and IndexError where ``code`` ends
    within the instruction.
    """
    q = at + skip
    rex = 0
    byte = code[q]
    while byte in PREFIXES:
        prefix = PREFIXES[byte]
        prefixes = (prefixes & ~REPEAT if prefix & REPEAT else prefixes) | prefix  # the last F2 or F3 counts
        q += 1
        byte = code[q]
    if wide and byte & 0xF0 == 0x40:
        rex = byte
        q += 1
        byte = code[q]
    q += 1
    if byte == 0x0F:
        byte = 0x100 | code[q]
        q += 1
        if byte == 0x138 or byte == 0x13A:
            byte = (0x200 if byte == 0x138 else 0x300) | code[q]
            q += 1
    has_modrm, size = (TABLE_64 if wide else TABLE_32)[byte]
    modrm = q
    if has_modrm:
        if prefixes & ADDRESS and not wide:
            raise Undecoded
        value = code[q]
        more, sib = _AFTER_MODRM[value]
        if sib and code[q + 1] & 7 == 5:
            more += 4
        q += 1 + more
    immediate = q
    if size:
        if size < _Z:
            if size < 0:
                if rex and byte in _VOIDING:
                    return decode(code, at, wide, prefixes, q - 1 - at)
                raise Undecoded
            q += size
        elif size == _Z:
            q += 2 if prefixes & OPERAND and not rex & 8 else 4
        elif size == _V:
            q += 8 if rex & 8 else 2 if prefixes & OPERAND else 4
        elif size == _J:
            if prefixes & OPERAND:
                raise Undecoded  # CPUs differ in 64-bit code; 16-bit targets in 32-bit code are rare
            q += 4
        elif size == _OFFSET:
            if wide or prefixes & ADDRESS:
                raise Undecoded  # offsets of 8 and of 2 bytes are rare
            q += 4
        elif not code[modrm] & 0x30:  # TEST of group 3
            q += 1 if size == _TEST1 else 2 if prefixes & OPERAND and not rex & 8 else 4
    if q - at > MAX_LENGTH:
        raise Undecoded
    code[q - 1]
    return q - at, byte, prefixes, rex, modrm, immediate


def decode_segmented(code: bytes, at: int, narrow: bool) -> tuple[int, int, int, int, int, int]:
    """The same of code whose segments aren't flat, 16-bit (``narrow``) or 32-bit.

    Of the prefixes OPERAND says that operands have 16 bits, ADDRESS that addresses have, whatever the code's
    own width is.
    """
    q = at
    prefixes = 0
    byte = code[q]
    while byte in PREFIXES:
        prefix = PREFIXES[byte]
        prefixes = (prefixes & ~REPEAT if prefix & REPEAT else prefixes) | prefix
        q += 1
        byte = code[q]
    if narrow:
        prefixes ^= OPERAND | ADDRESS
    q += 1
    if byte == 0x0F:
        byte = 0x100 | code[q]
        q += 1
        if byte == 0x138 or byte == 0x13A:
            byte = (0x200 if byte == 0x138 else 0x300) | code[q]
            q += 1
    has_modrm, size = TABLE_32[byte]
    modrm = q
    if has_modrm:
        value = code[q]
        if prefixes & ADDRESS:
            more = _AFTER_MODRM_16[value]
        else:
            more, sib = _AFTER_MODRM[value]
            if sib and code[q + 1] & 7 == 5:
                more += 4
        q += 1 + more
    immediate = q
    if size < 0:
        raise Undecoded
    if size >= _Z:
        if size == _OFFSET:
            size = 2 if prefixes & ADDRESS else 4
        elif size in (_TEST1, _TESTZ) and code[modrm] & 0x30:
            size = 0  # of group 3 only TEST has a number
        elif size == _TEST1:
            size = 1
        else:
            size = 2 if prefixes & OPERAND else 4
    q += size
    if q - at > MAX_LENGTH:
        raise Undecoded
    code[q - 1]
    return q - at, byte, prefixes, 0, modrm, immediate
