"""From bytes to an instruction's parts: prefixes, opcode, operands' places and immediates.

Table-driven (maps.py), for 16-, 32- and 64-bit code, by the Intel SDM vol. 2 §2. VEX prefixes are decoded;
EVEX and AMD's XOP are not.
"""

from __future__ import annotations

from pykvm.x86.execute.maps import MAPS, NOT_IN_64_BIT, VEX_MAPS

MAX_LENGTH = 15

REX_W = 8
REX_R = 4
REX_X = 2
REX_B = 1

_SEGMENT_PREFIXES = {0x26: "es", 0x2E: "cs", 0x36: "ss", 0x3E: "ds", 0x64: "fs", 0x65: "gs"}
_VEX_PREFIXES = ("", "66", "F3", "F2")

# Base and index of the eight 16-bit addressing forms, by rm (SDM vol. 2 table 2-1).
_BX, _BP, _SI, _DI = 3, 5, 6, 7
_FORMS_16 = ((_BX, _SI), (_BX, _DI), (_BP, _SI), (_BP, _DI), (_SI, -1), (_DI, -1), (_BP, -1), (_BX, -1))


class DecodeError(Exception):
    """These bytes are no instruction that this decoder knows."""


class Truncated(DecodeError):
    """The instruction goes on beyond the bytes that were given."""


class TooLong(DecodeError):
    """The instruction is longer than 15 bytes, for which a CPU raises #GP."""


class Undefined(DecodeError):
    """The manual says that these bytes are no instruction, for which a CPU raises #UD."""


class Instruction:
    """The parts of one instruction.

    ``map`` is the escape bytes in front of ``opcode`` (``""``, ``0F``, ``0F38``, ``0F3A``). ``prefix`` is the
    one that selects among instructions: ``F2`` or ``F3``, the last of them, else ``66``, else ``""``.
    ``operand_size`` and ``address_size`` are in bytes. ``modrm`` is -1 without one; then ``mod``, ``reg`` and
    ``rm`` say nothing. ``reg``, ``rm``, ``base``, ``index`` and ``vvvv`` are register numbers with the bits
    of REX and VEX in them; ``base`` and ``index`` are -1 where there is none. ``displacement`` is signed,
    ``immediate`` is not; ``selector`` is that of a far pointer, or the second immediate of ENTER.
    """

    __slots__ = (
        *("address_size", "base", "bits", "code", "displacement", "immediate", "immediate_size", "index"),
        *("length", "lock", "map", "mod", "modrm", "opcode", "operand_size", "prefix", "reg", "rex"),
        *("rip_relative", "rm", "scale", "segment", "selector", "vector_length", "vex", "vvvv"),
    )

    def __init__(self, code: bytes, bits: int) -> None:
        self.code = code
        self.bits = bits
        self.length = 0
        self.lock = False
        self.prefix = ""
        self.segment = ""
        self.rex = 0
        self.vex = False
        self.vector_length = 0
        self.vvvv = 0
        self.map = ""
        self.opcode = 0
        self.modrm = self.mod = self.reg = self.rm = -1
        self.base = self.index = -1
        self.scale = 1
        self.displacement = 0
        self.rip_relative = False
        self.operand_size = 2 if bits == 16 else 4
        self.address_size = bits // 8
        self.immediate = self.immediate_size = 0
        self.selector = 0

    @property
    def is_memory(self) -> bool:
        """Whether the r/m operand is in memory."""
        return 0 <= self.mod < 3


class _Reader:
    """The bytes of the instruction, one after the other."""

    def __init__(self, code: bytes) -> None:
        self.code = code
        self.at = 0

    def take(self, size: int) -> int:
        start = self.at
        self.at += size
        if self.at > MAX_LENGTH:
            raise TooLong
        if self.at > len(self.code):
            raise Truncated
        return int.from_bytes(self.code[start : self.at], "little")

    def peek(self) -> int:
        value = self.take(1)
        self.at -= 1
        return value

    def take_signed(self, size: int) -> int:
        value = self.take(size)
        return value - (1 << 8 * size) if value >> 8 * size - 1 else value


def decode(code: bytes, bits: int) -> Instruction:
    """The instruction at the start of ``code``, in code of ``bits`` bits (16, 32 or 64).

    Raises DecodeError, or one of its kinds Truncated, TooLong and Undefined.
    """
    instruction = Instruction(code, bits)
    reader = _Reader(code)
    byte = _prefixes(instruction, reader)
    if byte in (0xC4, 0xC5) and (bits == 64 or reader.peek() >= 0xC0):
        _vex(instruction, reader, byte)
    elif byte == 0x0F:
        _escape(instruction, reader)
    else:
        instruction.opcode = byte
        if bits == 64 and byte in NOT_IN_64_BIT and byte != 0x62:
            raise Undefined
        evex = byte == 0x62 and (bits == 64 or reader.peek() >= 0xC0)
        if evex or (byte == 0x8F and reader.peek() & 0x38):
            raise DecodeError  # EVEX, XOP
    shape = MAPS[instruction.map][instruction.opcode]
    if shape == "x":
        raise Undefined
    if shape in "mMZfFc":
        _modrm(instruction, reader, registers_only=shape == "c")
    _immediates(instruction, reader, shape)
    instruction.length = reader.at
    instruction.code = code[: reader.at]
    return instruction


def _prefixes(instruction: Instruction, reader: _Reader) -> int:
    """Take all prefixes; the byte after them is the opcode or an escape."""
    other_operand_size = other_address_size = False
    repeat = ""
    while True:
        byte = reader.take(1)
        if byte in _SEGMENT_PREFIXES:
            if instruction.bits != 64 or byte in (0x64, 0x65):
                instruction.segment = _SEGMENT_PREFIXES[byte]
        elif byte == 0x66:
            other_operand_size = True
        elif byte == 0x67:
            other_address_size = True
        elif byte == 0xF0:
            instruction.lock = True
        elif byte in (0xF2, 0xF3):
            repeat = f"{byte:X}"
        elif instruction.bits == 64 and byte & 0xF0 == 0x40:
            instruction.rex = byte
            continue
        else:
            break
        instruction.rex = 0  # REX counts only right in front of the opcode
    instruction.prefix = repeat or ("66" if other_operand_size else "")
    if other_operand_size:
        instruction.operand_size = 4 if instruction.bits == 16 else 2
    if instruction.rex & REX_W:
        instruction.operand_size = 8
    if other_address_size:
        instruction.address_size = {16: 4, 32: 2, 64: 4}[instruction.bits]
    return byte


def _escape(instruction: Instruction, reader: _Reader) -> None:
    instruction.map = "0F"
    byte = reader.take(1)
    if byte in (0x38, 0x3A):
        instruction.map = f"0F{byte:X}"
        byte = reader.take(1)
    instruction.opcode = byte


def _vex(instruction: Instruction, reader: _Reader, byte: int) -> None:
    """SDM vol. 2 §2.3.5: R, X, B and vvvv are stored inverted."""
    if instruction.rex or instruction.lock or instruction.prefix:
        raise Undefined
    first = reader.take(1)
    rex = REX_R if not first & 0x80 else 0
    if byte == 0xC5:
        instruction.map, last = "0F", first
    else:
        if first & 0x1F not in VEX_MAPS:
            raise DecodeError
        instruction.map, last = VEX_MAPS[first & 0x1F], reader.take(1)
        rex |= (0 if first & 0x40 else REX_X) | (0 if first & 0x20 else REX_B)
        rex |= REX_W if last & 0x80 else 0
    instruction.vex = True
    instruction.vector_length = 32 if last & 4 else 16
    instruction.prefix = _VEX_PREFIXES[last & 3]
    instruction.vvvv = ~last >> 3 & 15
    if instruction.bits == 64:
        instruction.rex = rex | 0x40
        instruction.operand_size = 8 if rex & REX_W else 4
    else:
        instruction.vvvv &= 7
        instruction.operand_size = 4
    instruction.opcode = reader.take(1)


def _modrm(instruction: Instruction, reader: _Reader, registers_only: bool) -> None:
    modrm = instruction.modrm = reader.take(1)
    rex = instruction.rex
    instruction.mod = 3 if registers_only else modrm >> 6
    instruction.reg = modrm >> 3 & 7 | (8 if rex & REX_R else 0)
    instruction.rm = modrm & 7 | (8 if rex & REX_B else 0)
    if instruction.mod == 3:
        return
    if instruction.address_size == 2:
        instruction.base, instruction.index = _FORMS_16[modrm & 7]
        size = (0, 1, 2)[instruction.mod]
        if instruction.mod == 0 and modrm & 7 == 6:
            instruction.base, size = -1, 2
    else:
        size = (0, 1, 4)[instruction.mod]
        instruction.base = instruction.rm
        if modrm & 7 == 4:
            sib = reader.take(1)
            index = sib >> 3 & 7 | (8 if rex & REX_X else 0)
            instruction.index = -1 if index == 4 else index
            instruction.scale = 1 << (sib >> 6)
            instruction.base = sib & 7 | (8 if rex & REX_B else 0)
            if instruction.mod == 0 and sib & 7 == 5:
                instruction.base, size = -1, 4
        elif instruction.mod == 0 and modrm & 7 == 5:
            instruction.base, size = -1, 4
            instruction.rip_relative = instruction.bits == 64
    if size:
        instruction.displacement = reader.take_signed(size)


def _immediates(instruction: Instruction, reader: _Reader, shape: str) -> None:
    by_operand = min(instruction.operand_size, 4)
    reg = instruction.reg & 7
    size = 0
    if shape in "Mb" or (shape == "f" and reg < 2):
        size = 1
    elif shape in "we":
        size = 2
    elif shape in "Zzp" or (shape == "F" and reg < 2):
        size = by_operand
    elif shape == "j":
        size = 4 if instruction.bits == 64 else by_operand
    elif shape == "v":
        size = instruction.operand_size
    elif shape == "o":
        size = instruction.address_size
    if size:
        instruction.immediate = reader.take(size)
        instruction.immediate_size = size
    if shape == "p":
        instruction.selector = reader.take(2)
    elif shape == "e":
        instruction.selector = reader.take(1)
