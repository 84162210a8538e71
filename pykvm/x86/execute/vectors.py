"""SSE and SSE2 on integers: lanes of 8 to 64 bits in XMM registers (Intel SDM vol. 2, each by its name).

The tables give an operation for one pair of lanes; what is here turns it into an instruction on whole
registers. The bitwise operations on floats (XORPS, …) are here too: they know no numbers.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pykvm.x86.execute.step import Step
    from pykvm.x86.execute.table import Action, Rows

    Binary = Callable[[int, int], int]

_ALL = (1 << 128) - 1


def lanes(value: int, bits: int) -> list[int]:
    """The lanes of 128 bits, the lowest first."""
    mask = (1 << bits) - 1
    return [value >> at & mask for at in range(0, 128, bits)]


def join(values: list[int], bits: int) -> int:
    """128 bits of lanes that are cut to ``bits``."""
    mask = (1 << bits) - 1
    return sum((value & mask) << bits * at for at, value in enumerate(values))


def signed(value: int, bits: int) -> int:
    return value - (value >> bits - 1 << bits)


def saturate(value: int, low: int, high: int) -> int:
    return min(max(value, low), high)


def _whole(operation: Binary) -> Action:
    """An instruction that makes the reg operand of both operands."""

    def action(step: Step) -> None:
        step.need_sse()
        step.set_xmm(operation(step.xmm(), step.load_xmm()) & _ALL)

    return action


def _by_lane(bits: int, operation: Binary) -> Action:
    def whole(a: int, b: int) -> int:
        return join([operation(x, y) for x, y in zip(lanes(a, bits), lanes(b, bits), strict=True)], bits)

    return _whole(whole)


def _by_signed_lane(bits: int, operation: Binary) -> Action:
    return _by_lane(bits, lambda a, b: operation(signed(a, bits), signed(b, bits)))


def _all_ones(bits: int, test: Callable[[int, int], bool]) -> Binary:
    return lambda a, b: (1 << bits) - 1 if test(a, b) else 0


# By lane: opcode after 66 0F, mnemonic, bits of a lane, what becomes of two unsigned lanes.
_UNSIGNED: tuple[tuple[str, str, int, Binary], ...] = (
    ("FC", "paddb", 8, lambda a, b: a + b),
    ("FD", "paddw", 16, lambda a, b: a + b),
    ("FE", "paddd", 32, lambda a, b: a + b),
    ("D4", "paddq", 64, lambda a, b: a + b),
    ("F8", "psubb", 8, lambda a, b: a - b),
    ("F9", "psubw", 16, lambda a, b: a - b),
    ("FA", "psubd", 32, lambda a, b: a - b),
    ("FB", "psubq", 64, lambda a, b: a - b),
    ("DC", "paddusb", 8, lambda a, b: min(a + b, 0xFF)),
    ("DD", "paddusw", 16, lambda a, b: min(a + b, 0xFFFF)),
    ("D8", "psubusb", 8, lambda a, b: max(a - b, 0)),
    ("D9", "psubusw", 16, lambda a, b: max(a - b, 0)),
    ("E0", "pavgb", 8, lambda a, b: a + b + 1 >> 1),
    ("E3", "pavgw", 16, lambda a, b: a + b + 1 >> 1),
    ("DA", "pminub", 8, min),
    ("DE", "pmaxub", 8, max),
    ("D5", "pmullw", 16, lambda a, b: a * b),
    ("E4", "pmulhuw", 16, lambda a, b: a * b >> 16),
    ("F4", "pmuludq", 64, lambda a, b: (a & 0xFFFF_FFFF) * (b & 0xFFFF_FFFF)),
    ("74", "pcmpeqb", 8, _all_ones(8, int.__eq__)),
    ("75", "pcmpeqw", 16, _all_ones(16, int.__eq__)),
    ("76", "pcmpeqd", 32, _all_ones(32, int.__eq__)),
)

# The same with two signed lanes.
_SIGNED: tuple[tuple[str, str, int, Binary], ...] = (
    ("EC", "paddsb", 8, lambda a, b: saturate(a + b, -0x80, 0x7F)),
    ("ED", "paddsw", 16, lambda a, b: saturate(a + b, -0x8000, 0x7FFF)),
    ("E8", "psubsb", 8, lambda a, b: saturate(a - b, -0x80, 0x7F)),
    ("E9", "psubsw", 16, lambda a, b: saturate(a - b, -0x8000, 0x7FFF)),
    ("EA", "pminsw", 16, min),
    ("EE", "pmaxsw", 16, max),
    ("E5", "pmulhw", 16, lambda a, b: a * b >> 16),
    ("64", "pcmpgtb", 8, _all_ones(8, int.__gt__)),
    ("65", "pcmpgtw", 16, _all_ones(16, int.__gt__)),
    ("66", "pcmpgtd", 32, _all_ones(32, int.__gt__)),
)

# On all 128 bits: opcode, mnemonic, the mnemonics for floats of 32 and 64 bits and their opcode.
_BITWISE: tuple[tuple[str, str, str, str, Binary], ...] = (
    ("DB", "pand", "54", "andp", lambda a, b: a & b),
    ("DF", "pandn", "55", "andnp", lambda a, b: ~a & b),
    ("EB", "por", "56", "orp", lambda a, b: a | b),
    ("EF", "pxor", "57", "xorp", lambda a, b: a ^ b),
)


def _pmaddwd(a: int, b: int) -> int:
    products = [signed(x, 16) * signed(y, 16) for x, y in zip(lanes(a, 16), lanes(b, 16), strict=True)]
    return join([products[at] + products[at + 1] for at in range(0, 8, 2)], 32)


def _psadbw(a: int, b: int) -> int:
    differences = [abs(x - y) for x, y in zip(lanes(a, 8), lanes(b, 8), strict=True)]
    return join([sum(differences[:8]), sum(differences[8:])], 64)


def _pshufb(a: int, b: int) -> int:
    source = lanes(a, 8)
    return join([0 if at & 0x80 else source[at & 15] for at in lanes(b, 8)], 8)


# Packing and unpacking


def _unpack(bits: int, *, high: bool) -> Binary:
    def whole(a: int, b: int) -> int:
        count = 64 // bits
        half = slice(count, None) if high else slice(count)
        pairs = zip(lanes(a, bits)[half], lanes(b, bits)[half], strict=True)
        return join([lane for pair in pairs for lane in pair], bits)

    return whole


def _pack(bits: int, low: int, high: int) -> Binary:
    """Signed lanes become saturated ones of half the width, those of ``b`` above those of ``a``."""

    def whole(a: int, b: int) -> int:
        both = lanes(a, bits) + lanes(b, bits)
        return join([saturate(signed(lane, bits), low, high) for lane in both], bits // 2)

    return whole


_WHOLE: tuple[tuple[str, str, str, Binary], ...] = (
    ("66 0F 60", "punpcklbw", "sse2", _unpack(8, high=False)),
    ("66 0F 61", "punpcklwd", "sse2", _unpack(16, high=False)),
    ("66 0F 62", "punpckldq", "sse2", _unpack(32, high=False)),
    ("66 0F 6C", "punpcklqdq", "sse2", _unpack(64, high=False)),
    ("66 0F 68", "punpckhbw", "sse2", _unpack(8, high=True)),
    ("66 0F 69", "punpckhwd", "sse2", _unpack(16, high=True)),
    ("66 0F 6A", "punpckhdq", "sse2", _unpack(32, high=True)),
    ("66 0F 6D", "punpckhqdq", "sse2", _unpack(64, high=True)),
    ("NP 0F 14", "unpcklps", "sse", _unpack(32, high=False)),
    ("66 0F 14", "unpcklpd", "sse2", _unpack(64, high=False)),
    ("NP 0F 15", "unpckhps", "sse", _unpack(32, high=True)),
    ("66 0F 15", "unpckhpd", "sse2", _unpack(64, high=True)),
    ("66 0F 63", "packsswb", "sse2", _pack(16, -0x80, 0x7F)),
    ("66 0F 67", "packuswb", "sse2", _pack(16, 0, 0xFF)),
    ("66 0F 6B", "packssdw", "sse2", _pack(32, -0x8000, 0x7FFF)),
    ("66 0F F5", "pmaddwd", "sse2", _pmaddwd),
    ("66 0F F6", "psadbw", "sse2", _psadbw),
    ("66 0F 38 00", "pshufb", "ssse3", _pshufb),
)


# Shifts


def _shift_left(bits: int, value: int, count: int) -> int:
    return value << count if count < bits else 0


def _shift_right(bits: int, value: int, count: int) -> int:
    return value >> count if count < bits else 0


def _shift_signed(bits: int, value: int, count: int) -> int:
    return signed(value, bits) >> min(count, bits - 1)


# By lane: mnemonic, bits, opcode with a count in XMM or memory, opcode and digit with an immediate count.
_SHIFTS: tuple[tuple[str, int, str, str, Callable[[int, int, int], int]], ...] = (
    ("psrlw", 16, "D1", "71 /2", _shift_right),
    ("psrld", 32, "D2", "72 /2", _shift_right),
    ("psrlq", 64, "D3", "73 /2", _shift_right),
    ("psraw", 16, "E1", "71 /4", _shift_signed),
    ("psrad", 32, "E2", "72 /4", _shift_signed),
    ("psllw", 16, "F1", "71 /6", _shift_left),
    ("pslld", 32, "F2", "72 /6", _shift_left),
    ("psllq", 64, "F3", "73 /6", _shift_left),
)


def _shift_by_xmm(bits: int, operation: Callable[[int, int, int], int]) -> Action:
    def whole(value: int, operand: int) -> int:
        count = operand & (1 << 64) - 1
        return join([operation(bits, lane, count) for lane in lanes(value, bits)], bits)

    return _whole(whole)


def _by_immediate(operation: Binary) -> Action:
    """An instruction that changes the register in r/m by an immediate."""

    def action(step: Step) -> None:
        step.need_sse()
        number = step.instruction.rm
        value = operation(step.cpu.area.xmm(number), step.instruction.immediate)
        step.cpu.set_xmm(number, value & _ALL)

    return action


def _shift_by_immediate(bits: int, operation: Callable[[int, int, int], int]) -> Action:
    return _by_immediate(
        lambda value, count: join([operation(bits, lane, count) for lane in lanes(value, bits)], bits)
    )


# Shuffles by an immediate: two bits of it choose each lane.


def _choose(source: list[int], order: int) -> list[int]:
    return [source[order >> 2 * at & 3] for at in range(4)]


def _shuffled(operation: Callable[[int, int, int], int]) -> Action:
    def action(step: Step) -> None:
        step.need_sse()
        step.set_xmm(operation(step.xmm(), step.load_xmm(), step.instruction.immediate))

    return action


def _pshufd(_: int, source: int, order: int) -> int:
    return join(_choose(lanes(source, 32), order), 32)


def _pshuflw(_: int, source: int, order: int) -> int:
    words = lanes(source, 16)
    return join(_choose(words[:4], order) + words[4:], 16)


def _pshufhw(_: int, source: int, order: int) -> int:
    words = lanes(source, 16)
    return join(words[:4] + _choose(words[4:], order), 16)


def _shufps(a: int, b: int, order: int) -> int:
    return join(_choose(lanes(a, 32), order)[:2] + _choose(lanes(b, 32), order)[2:], 32)


def _shufpd(a: int, b: int, order: int) -> int:
    return join([lanes(a, 64)[order & 1], lanes(b, 64)[order >> 1 & 1]], 64)


def _palignr(a: int, b: int, count: int) -> int:
    return (a << 128 | b) >> 8 * count & _ALL


_SHUFFLES = (
    ("66 0F 70", "pshufd", "sse2", _pshufd),
    ("F2 0F 70", "pshuflw", "sse2", _pshuflw),
    ("F3 0F 70", "pshufhw", "sse2", _pshufhw),
    ("NP 0F C6", "shufps", "sse", _shufps),
    ("66 0F C6", "shufpd", "sse2", _shufpd),
    ("66 0F 3A 0F", "palignr", "ssse3", _palignr),
)


def _rows() -> Iterator[tuple[str, str, Action, str]]:
    for opcode, name, bits, operation in _UNSIGNED:
        yield f"66 0F {opcode} /r", name, _by_lane(bits, operation), "sse2"
    for opcode, name, bits, operation in _SIGNED:
        yield f"66 0F {opcode} /r", name, _by_signed_lane(bits, operation), "sse2"
    for opcode, name, float_opcode, float_name, operation in _BITWISE:
        yield f"66 0F {opcode} /r", name, _whole(operation), "sse2"
        yield f"NP 0F {float_opcode} /r", float_name + "s", _whole(operation), "sse"
        yield f"66 0F {float_opcode} /r", float_name + "d", _whole(operation), "sse2"
    for notation, name, feature, operation in _WHOLE:
        yield f"{notation} /r", name, _whole(operation), feature
    for name, bits, opcode, immediate, shift in _SHIFTS:
        yield f"66 0F {opcode} /r", name, _shift_by_xmm(bits, shift), "sse2"
        yield f"66 0F {immediate} reg", name, _shift_by_immediate(bits, shift), "sse2"
    yield "66 0F 73 /3 reg", "psrldq", _by_immediate(lambda value, count: value >> 8 * count), "sse2"
    yield "66 0F 73 /7 reg", "pslldq", _by_immediate(lambda value, count: value << 8 * min(count, 16)), "sse2"
    for notation, name, feature, shuffle in _SHUFFLES:
        yield f"{notation} /r ib", name, _shuffled(shuffle), feature


INSTRUCTIONS: Rows = tuple(_rows())
