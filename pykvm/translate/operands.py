"""Which operands the instructions have that are translated alike: the tables of the emitters.

``INTEGER`` holds instructions on general registers and one r/m operand, ``VECTOR`` those of x87, MMX and
SSE. Opcodes are numbers as in decode.py.

Source: Intel SDM vol. 2, the instructions' pages and appendix A.
"""

from __future__ import annotations

READ, WRITE, BOTH = 1, 2, 3

# INTEGER: opcode: (access to r/m, the reg field, byte operands, by CL)
DIGIT, SOURCE, TARGET = 0, 1, 2  # the reg field extends the opcode, is a register read, or written
RM_BYTE, REG_BYTE = 1, 2
BYTES = RM_BYTE | REG_BYTE

Row = tuple[int | tuple[int, ...], int, int, bool]


def _integer() -> dict[int, Row]:
    rows: dict[int, Row] = {}
    for operation in range(8):  # add or adc sbb and sub xor cmp
        compare = operation == 7
        for form, access, reg, byte in (
            (0, READ if compare else BOTH, SOURCE, BYTES),
            (1, READ if compare else BOTH, SOURCE, 0),
            (2, READ, SOURCE if compare else TARGET, BYTES),
            (3, READ, SOURCE if compare else TARGET, 0),
        ):
            rows[operation << 3 | form] = (access, reg, byte, False)
    group1 = (*[BOTH] * 7, READ)
    rows |= {0x80: (group1, DIGIT, RM_BYTE, False), 0x81: (group1, DIGIT, 0, False)}
    rows |= {0x83: (group1, DIGIT, 0, False)}
    rows |= {0x84: (READ, SOURCE, BYTES, False), 0x85: (READ, SOURCE, 0, False)}  # test
    rows |= {0x86: (BOTH, TARGET, BYTES, False), 0x87: (BOTH, TARGET, 0, False)}  # xchg
    rows |= {0x88: (WRITE, SOURCE, BYTES, False), 0x89: (WRITE, SOURCE, 0, False)}  # mov
    rows |= {0x8A: (READ, TARGET, BYTES, False), 0x8B: (READ, TARGET, 0, False)}
    for opcode in (0xC0, 0xD0, 0xD2):  # shifts
        rows[opcode] = (BOTH, DIGIT, RM_BYTE, opcode == 0xD2)
        rows[opcode + 1] = (BOTH, DIGIT, 0, opcode == 0xD2)
    rows |= {0xC6: ((WRITE, *[0] * 7), DIGIT, RM_BYTE, False), 0xC7: ((WRITE, *[0] * 7), DIGIT, 0, False)}
    group3 = (READ, READ, BOTH, BOTH, READ, READ, READ, READ)  # test test not neg mul imul div idiv
    rows |= {0xF6: (group3, DIGIT, RM_BYTE, False), 0xF7: (group3, DIGIT, 0, False)}
    rows |= {0xFE: ((BOTH, BOTH, *[0] * 6), DIGIT, RM_BYTE, False)}
    rows |= {0xFF: ((BOTH, BOTH, *[0] * 6), DIGIT, 0, False)}
    rows |= {0x69: (READ, TARGET, 0, False), 0x6B: (READ, TARGET, 0, False)}  # imul
    for condition in range(16):
        rows[0x140 | condition] = (READ, TARGET, 0, False)  # cmovcc
        rows[0x190 | condition] = (WRITE, DIGIT, RM_BYTE, False)  # setcc
    rows |= {0x1A4: (BOTH, SOURCE, 0, False), 0x1AC: (BOTH, SOURCE, 0, False)}  # shld shrd
    rows |= {0x1A5: (BOTH, SOURCE, 0, True), 0x1AD: (BOTH, SOURCE, 0, True)}
    rows |= {0x1AF: (READ, TARGET, 0, False)}  # imul
    rows |= {0x1B0: (BOTH, SOURCE, BYTES, False), 0x1B1: (BOTH, SOURCE, 0, False)}  # cmpxchg
    rows |= {0x1B6: (READ, TARGET, RM_BYTE, False), 0x1BE: (READ, TARGET, RM_BYTE, False)}  # movzx movsx
    rows |= {0x1B7: (READ, TARGET, 0, False), 0x1BF: (READ, TARGET, 0, False)}
    rows |= {0x1BA: ((0, 0, 0, 0, READ, BOTH, BOTH, BOTH), DIGIT, 0, False)}  # bt bts btr btc
    rows |= {0x1BC: (READ, TARGET, 0, False), 0x1BD: (READ, TARGET, 0, False)}  # bsf bsr
    rows |= {0x1B8: (READ, TARGET, 0, False)}  # popcnt, behind F3
    rows |= {0x1C0: (BOTH, TARGET, BYTES, False), 0x1C1: (BOTH, TARGET, 0, False)}  # xadd
    rows |= {0x1C3: (WRITE, SOURCE, 0, False)}  # movnti
    return rows


INTEGER = _integer()
WORD_RM = (0x1B7, 0x1BF)  # movzx and movsx of 16 bits
LOCKABLE = frozenset(
    (
        *(operation << 3 | form for operation in range(7) for form in (0, 1)),
        *(0x80, 0x81, 0x83, 0x86, 0x87, 0xF6, 0xF7, 0xFE, 0xFF, 0x1AB, 0x1B3, 0x1BB, 0x1BA),
        *(0x1B0, 0x1B1, 0x1C0, 0x1C1, 0x1C7),
    )
)

# VECTOR: opcode: by mandatory prefix (none, 66, F3, F2) a row (bytes in memory, access, reg, rm) or None.
# reg and rm are X (XMM), M (MMX) or G (general). Bytes 0: no memory form; -1: 4, or 8 with REX.W.
X, M, G = "x", "m", "g"
VectorRow = tuple[int, int, str, str]


def _vector() -> dict[int, tuple[VectorRow | None, ...]]:
    rows: dict[int, list[VectorRow | None]] = {}

    def put(
        opcode: int, *forms: tuple[int, ...] | None, access: int = READ, reg: str = X, rm: str = X
    ) -> None:
        found = rows.setdefault(opcode, [None] * 4)
        for prefix, form in enumerate(forms):
            if form is not None:
                found[prefix] = (form[0], access, reg, rm)

    four = ((16,), (16,), (4,), (8,))
    put(0x110, *four)
    put(0x111, *four, access=WRITE)
    put(0x112, (8,), (8,), (16,), (8,))
    put(0x116, (8,), (8,), (16,))
    for opcode in (0x113, 0x117):
        put(opcode, (8,), (8,), access=WRITE)
    for opcode in (0x114, 0x115, 0x128, *range(0x154, 0x158), 0x1C6):
        put(opcode, (16,), (16,))
    for opcode in (0x129, 0x12B):
        put(opcode, (16,), (16,), access=WRITE)
    put(0x12A, (8,), (8,), rm=M)
    put(0x12A, None, None, (-1,), (-1,), rm=G)
    for opcode in (0x12C, 0x12D):
        put(opcode, (8,), (16,), reg=M)
        put(opcode, None, None, (4,), (8,), reg=G)
    for opcode in (0x12E, 0x12F):
        put(opcode, (4,), (8,))
    put(0x150, (0,), (0,), reg=G)
    for opcode in (0x151, 0x158, 0x159, 0x15C, 0x15D, 0x15E, 0x15F, 0x1C2):
        put(opcode, *four)
    for opcode in (0x152, 0x153):
        put(opcode, (16,), None, (4,))
    put(0x15A, (8,), (16,), (4,), (8,))
    put(0x15B, (16,), (16,), (16,))
    packed = (
        *range(0x163, 0x16C), *range(0x174, 0x177), *range(0x1D1, 0x1D6), *range(0x1D8, 0x1E6),
        *range(0x1E8, 0x1F0), *range(0x1F1, 0x1F7), *range(0x1F8, 0x1FF),
    )  # fmt: skip
    for opcode in (0x160, 0x161, 0x162):
        put(opcode, (4,), reg=M, rm=M)
        put(opcode, None, (16,))
    for opcode in (0x16C, 0x16D):
        put(opcode, None, (16,))
    for opcode in (*packed, *range(0x200, 0x20C), 0x21C, 0x21D, 0x21E, 0x170, 0x16F, 0x30F):
        put(opcode, (8,), reg=M, rm=M)
        put(opcode, None, (16,))
    put(0x16E, (-1,), reg=M, rm=G)
    put(0x16E, None, (-1,), rm=G)
    put(0x16F, None, None, (16,))
    put(0x170, None, None, (16,), (16,))
    for opcode in (0x171, 0x172, 0x173):
        put(opcode, (0,), reg=M, rm=M)
        put(opcode, None, (0,))
    for opcode in (0x17C, 0x17D, 0x1D0):
        put(opcode, None, (16,), None, (16,))
    put(0x17E, (-1,), reg=M, rm=G, access=WRITE)
    put(0x17E, None, (-1,), rm=G, access=WRITE)
    put(0x17E, None, None, (8,))
    put(0x17F, (8,), reg=M, rm=M, access=WRITE)
    put(0x17F, None, (16,), (16,), access=WRITE)
    put(0x1C4, (2,), reg=M, rm=G)
    put(0x1C4, None, (2,), rm=G)
    put(0x1C5, (0,), reg=G, rm=M)
    put(0x1C5, None, (0,), reg=G)
    put(0x1D6, None, (8,), access=WRITE)
    put(0x1D6, None, None, (0,), rm=M)
    put(0x1D6, None, None, None, (0,), reg=M)
    put(0x1D7, (0,), reg=G, rm=M)
    put(0x1D7, None, (0,), reg=G)
    put(0x1E6, None, (16,), (8,), (16,))
    put(0x1E7, (8,), reg=M, rm=M, access=WRITE)
    put(0x1E7, None, (16,), access=WRITE)
    put(0x1F0, None, None, None, (16,))
    for opcode in (
        0x210,
        0x214,
        0x215,
        0x217,
        *range(0x228, 0x22C),
        *range(0x237, 0x242),
        *range(0x2DB, 0x2E0),
    ):
        put(opcode, None, (16,))
    for first in (0x220, 0x230):  # pmovsx, pmovzx
        for opcode, size in enumerate((8, 4, 2, 8, 4, 8), first):
            put(opcode, None, (size,))
    for opcode in (*range(0x308, 0x310), *range(0x340, 0x343), 0x344, *range(0x360, 0x364), 0x3DF):
        put(opcode, None, (16,))
    put(0x30A, None, (4,))
    put(0x30B, None, (8,))
    for opcode, size in ((0x314, 1), (0x315, 2), (0x316, -1), (0x317, 4)):
        put(opcode, None, (size,), rm=G, access=WRITE)
    put(0x320, None, (1,), rm=G)
    put(0x321, None, (4,))
    put(0x322, None, (-1,), rm=G)
    for opcode in (*range(0x2C8, 0x2CE), 0x3CC):  # sha
        put(opcode, (16,))
    return {opcode: tuple(found) for opcode, found in rows.items()}


VECTOR = _vector()
MEMORY_ONLY = frozenset((0x113, 0x117, 0x12B, 0x1E7, 0x1F0, 0x22A))
WRITES_ECX = (0x361, 0x363)  # pcmpestri, pcmpistri
OWN_PREFIX_ONLY = frozenset((0x112, 0x116))  # their 66 forms are loads only

# x87 memory operands: by opcode less D8 and digit, (bytes, access); None: the bounce or undefined.
X87 = (
    ((4, READ),) * 8,
    ((4, READ), None, (4, WRITE), (4, WRITE), None, (2, READ), None, (2, WRITE)),
    ((4, READ),) * 8,
    ((4, READ), (4, WRITE), (4, WRITE), (4, WRITE), None, (10, READ), None, (10, WRITE)),
    ((8, READ),) * 8,
    ((8, READ), (8, WRITE), (8, WRITE), (8, WRITE), None, None, None, (2, WRITE)),
    ((2, READ),) * 8,
    ((2, READ), (2, WRITE), (2, WRITE), (2, WRITE), (10, READ), (8, READ), (10, WRITE), (8, WRITE)),
)
X87_LARGE = {(1, 4): (28, READ), (1, 6): (28, WRITE), (5, 4): (108, READ), (5, 6): (108, WRITE)}
