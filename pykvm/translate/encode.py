"""x86-64 machine code by name: the few encodings that emitted code is made of (Intel SDM vol. 2 §2).

Registers are numbers 0 to 15. ``Mem`` is a memory operand. ``Code`` assembles the runtime's routines, with
labels; the functions give single instructions to the emitters, which write millions of them.
"""

from __future__ import annotations

from struct import pack

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 = range(16)
ADD, OR, ADC, SBB, AND, SUB, XOR, CMP = range(8)
ROL, ROR, RCL, RCR, SHL, SHR, _, SAR = range(8)
CONDITIONS = {
    name: number
    for number, names in enumerate(
        ("o", "no", "b c", "ae nc", "e z", "ne nz", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g")
    )
    for name in names.split()
}
M64 = (1 << 64) - 1


class Mem:
    """[base + index * scale + displacement]; ``base`` or ``index`` -1: none."""

    __slots__ = ("base", "displacement", "index", "scale")

    def __init__(self, base: int, displacement: int = 0, index: int = -1, scale: int = 1) -> None:
        self.base = base
        self.displacement = displacement
        self.index = index
        self.scale = scale


def memory_operand(reg: int, base: int, index: int, shift: int, displacement: int) -> tuple[int, bytes]:
    """REX bits, and ModRM with what follows, of [base + (index << shift) + displacement]."""
    rex = reg >> 3 << 2
    field = (reg & 7) << 3
    if base < 0:
        rex |= index >> 3 << 1 if index >= 0 else 0
        sib = shift << 6 | (index & 7 if index >= 0 else 4) << 3 | 5
        return rex, pack("<BBi", 4 | field, sib, displacement)
    rex |= base >> 3
    low = base & 7
    if displacement == 0 and low != 5:
        mod, tail = 0, b""
    elif -128 <= displacement < 128:
        mod, tail = 0x40, pack("<b", displacement)
    else:
        mod, tail = 0x80, pack("<i", displacement)
    if index < 0:
        if low == 4:
            return rex, bytes((mod | field | 4, 0x24)) + tail
        return rex, bytes((mod | field | low,)) + tail
    rex |= index >> 3 << 1
    return rex, bytes((mod | field | 4, shift << 6 | (index & 7) << 3 | low)) + tail


def register_register(opcode: int, wide: int, reg: int, rm: int) -> bytes:
    """``opcode`` with both operands in registers; ``wide`` is 8 for 64 bits, else 0."""
    return bytes((0x40 | wide | reg >> 3 << 2 | rm >> 3, opcode, 0xC0 | (reg & 7) << 3 | rm & 7))


def lea(reg: int, base: int, index: int, shift: int, displacement: int) -> bytes:
    rex, operand = memory_operand(reg, base, index, shift, displacement)
    return bytes((0x48 | rex, 0x8D)) + operand


def load_slot(reg: int, slot: int) -> bytes:
    """``reg`` = the context's 8 bytes at ``slot``."""
    if slot < 128:
        return bytes((0x48 | reg >> 3 << 2, 0x8B, 0x44 | (reg & 7) << 3, 0x24, slot))
    return bytes((0x48 | reg >> 3 << 2, 0x8B, 0x84 | (reg & 7) << 3, 0x24)) + pack("<i", slot)


def store_slot(reg: int, slot: int) -> bytes:
    if slot < 128:
        return bytes((0x48 | reg >> 3 << 2, 0x89, 0x44 | (reg & 7) << 3, 0x24, slot))
    return bytes((0x48 | reg >> 3 << 2, 0x89, 0x84 | (reg & 7) << 3, 0x24)) + pack("<i", slot)


def store_byte(slot: int, value: int) -> bytes:
    """The context's byte at ``slot`` = ``value``."""
    if slot < 128:
        return bytes((0xC6, 0x44, 0x24, slot, value))
    return b"\xc6\x84\x24" + pack("<iB", slot, value)


def store_number(slot: int, value: int) -> bytes:
    """The context's 8 bytes at ``slot`` = ``value``, a number of 64 bits."""
    return (
        b"\xc7\x84\x24"
        + pack("<iI", slot, value & 0xFFFF_FFFF)
        + b"\xc7\x84\x24"
        + pack("<iI", slot + 4, value >> 32)
    )


def call_slot(slot: int) -> bytes:
    """Call the address that lies at ``slot``."""
    if slot < 128:
        return bytes((0xFF, 0x54, 0x24, slot))
    return b"\xff\x94\x24" + pack("<i", slot)


def move_number(reg: int, value: int) -> bytes:
    """``reg`` = ``value``, by the shortest way."""
    value &= M64
    if value < 1 << 32:
        return (bytes((0x41, 0xB8 | reg & 7)) if reg > 7 else bytes((0xB8 | reg,))) + pack("<I", value)
    if value >= M64 - (1 << 31) + 1:
        return bytes((0x48 | reg >> 3, 0xC7, 0xC0 | reg & 7)) + pack("<I", value & 0xFFFF_FFFF)
    return bytes((0x48 | reg >> 3, 0xB8 | reg & 7)) + pack("<Q", value)


class Code:
    """A routine being assembled. Methods append; jumps take labels, which ``label`` places."""

    def __init__(self, origin: int) -> None:
        self.origin = origin
        self.bytes = bytearray()
        self._labels: dict[str, int] = {}
        self._fixes: list[tuple[int, str]] = []

    @property
    def here(self) -> int:
        return self.origin + len(self.bytes)

    def raw(self, code: bytes | str) -> None:
        self.bytes += bytes.fromhex(code) if isinstance(code, str) else code

    def label(self, name: str) -> int:
        self._labels[name] = len(self.bytes)
        return self.here

    def finish(self) -> bytes:
        """The bytes, with all jumps in place."""
        for at, name in self._fixes:
            self.bytes[at : at + 4] = pack("<i", self._labels[name] - at - 4)
        self._fixes.clear()
        return bytes(self.bytes)

    def address(self, name: str) -> int:
        return self.origin + self._labels[name]

    def _operand(self, prefix: bytes, opcode: bytes, reg: int, rm: int | Mem, wide: bool, byte: bool) -> None:
        if isinstance(rm, Mem):
            shift = rm.scale.bit_length() - 1
            rex, tail = memory_operand(reg, rm.base, rm.index, shift, rm.displacement)
        else:
            rex, tail = reg >> 3 << 2 | rm >> 3, bytes((0xC0 | (reg & 7) << 3 | rm & 7,))
        rex |= 8 if wide else 0
        needed = rex or (byte and (4 <= reg < 8 or (not isinstance(rm, Mem) and 4 <= rm < 8)))
        self.bytes += prefix + (bytes((0x40 | rex,)) if needed else b"") + opcode + tail

    def op(
        self, opcode: int | bytes, reg: int, rm: int | Mem, *, wide: bool = True, byte: bool = False
    ) -> None:
        """An instruction by its opcode, with ModRM."""
        self._operand(b"", bytes((opcode,)) if isinstance(opcode, int) else opcode, reg, rm, wide, byte)

    def mov(self, to: int | Mem, source: int | Mem, *, wide: bool = True) -> None:
        if isinstance(to, Mem):
            assert not isinstance(source, Mem)
            self.op(0x89, source, to, wide=wide)
        else:
            self.op(0x8B, to, source, wide=wide)

    def mov_byte(self, to: Mem, source: int) -> None:
        self.op(0x88, source, to, wide=False, byte=True)

    def set(self, to: int | Mem, value: int) -> None:
        """Set a register to any number, or 8 bytes of memory to one of 32 bits with sign."""
        if isinstance(to, Mem):
            self.op(0xC7, 0, to)
            self.bytes += pack("<i", value)
        else:
            self.bytes += move_number(to, value)

    def set32(self, to: Mem, value: int) -> None:
        self.op(0xC7, 0, to, wide=False)
        self.bytes += pack("<I", value)

    def set_byte(self, to: Mem, value: int) -> None:
        self.op(0xC6, 0, to, wide=False)
        self.bytes.append(value)

    def load_byte(self, to: int, source: int | Mem) -> None:
        self._operand(b"", b"\x0f\xb6", to, source, False, True)

    def load_word(self, to: int, source: int | Mem) -> None:
        self._operand(b"", b"\x0f\xb7", to, source, False, False)

    def lea(self, to: int, source: Mem) -> None:
        self.op(0x8D, to, source)

    def alu(self, operation: int, to: int, source: int | Mem, *, wide: bool = True) -> None:
        self.op(operation << 3 | 3, to, source, wide=wide)

    def alu_number(self, operation: int, to: int | Mem, value: int, *, wide: bool = True) -> None:
        if -128 <= value < 128:
            self.op(0x83, operation, to, wide=wide)
            self.bytes += pack("<b", value)
        else:
            self.op(0x81, operation, to, wide=wide)
            self.bytes += pack("<i", value) if value < 1 << 31 else pack("<I", value)

    def shift(self, operation: int, reg: int, count: int, *, wide: bool = True) -> None:
        self.op(0xC1, operation, reg, wide=wide)
        self.bytes.append(count)

    def test(self, reg: int, value: int) -> None:
        """Test bits of the low 32."""
        self.op(0xF7, 0, reg, wide=False)
        self.bytes += pack("<I", value)

    def test_byte(self, at: Mem, value: int) -> None:
        self.op(0xF6, 0, at, wide=False)
        self.bytes.append(value)

    def push(self, reg: int) -> None:
        self.bytes += bytes((0x41, 0x50 | reg & 7)) if reg > 7 else bytes((0x50 | reg,))

    def pop(self, reg: int) -> None:
        self.bytes += bytes((0x41, 0x58 | reg & 7)) if reg > 7 else bytes((0x58 | reg,))

    def jump(self, label: str) -> None:
        self.bytes += b"\xe9\0\0\0\0"
        self._fixes.append((len(self.bytes) - 4, label))

    def jump_if(self, condition: str, label: str) -> None:
        self.bytes += bytes((0x0F, 0x80 | CONDITIONS[condition])) + b"\0\0\0\0"
        self._fixes.append((len(self.bytes) - 4, label))

    def call(self, label: str) -> None:
        self.bytes += b"\xe8\0\0\0\0"
        self._fixes.append((len(self.bytes) - 4, label))

    def jump_to(self, at: Mem) -> None:
        self.op(0xFF, 4, at, wide=False)

    def pop_to(self, at: Mem) -> None:
        """``pop``; an address by RSP counts from RSP as it is after."""
        self.op(0x8F, 0, at, wide=False)

    def push_from(self, at: Mem) -> None:
        self.op(0xFF, 6, at, wide=False)

    def ret(self) -> None:
        self.bytes += b"\xc3"
