"""Code whose segments aren't flat: real mode, 16-bit protected mode, 32-bit code with bases or limits.

An operand is an offset in a segment. Before the lookup (lookup.py) emitted code adds what the context has of
the segment, its room and its base: room is 0 less what fits in, so that the offset of an access's last byte
and it are below 0 where the segment allows the access. Else the interpreter does the instruction, and raises
what there is to raise. Flags stay: ``not`` and ``bswap`` bring the sign down to a register's low byte.

Segment registers are loaded by the interpreter, which brings the context up to date (state.py); in real mode
also by emitted code, all but CS and SS. The base of CS is part of the mode (modes.py): RIP is what the guest
sees, and the jump cache's tags have the mode too.
"""

from __future__ import annotations

from struct import pack, unpack_from

from pykvm.translate import emit_integer, emit_system
from pykvm.translate.context import HOST_REGISTER, SCRATCH, SCRATCH2, SLOT
from pykvm.translate.decode import ADDRESS, F2, FS, GS, LOCK, OPERAND, OTHER, REPEAT
from pykvm.translate.emit import HOST_ADDRESS, Emitter, NotTranslated, Parts
from pykvm.translate.encode import call_slot, lea, load_slot, move_number, register_register, store_slot
from pykvm.translate.operands import READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.translate.emit import Action
    from pykvm.translate.lookup import Lookup

ES, CS, SS, DS = "es", "cs", "ss", "ds"
OVERRIDE = {0x26: ES, 0x2E: CS, 0x36: SS, 0x3E: DS, 0x64: "fs", 0x65: "gs"}
NAMES = (ES, CS, SS, DS, "fs", "gs")
RBX, RBP, RSI, RDI = 3, 5, 6, 7
NARROW = ((RBX, RSI), (RBX, RDI), (RBP, RSI), (RBP, RDI), (RSI, -1), (RDI, -1), (RBP, -1), (RBX, -1))
"""What a 16-bit address is made of, by rm (Intel SDM vol. 2 table 2-1)."""
CUT = b"\x45\x0f\xb7\xc9"  # movzx r9d, r9w
CUT_COUNT = b"\x41\x0f\xb7\xca"  # movzx ecx, r10w
FOUND_WORD = b"\x42\x0f\xb7\x0c\x09"  # movzx ecx, word [rcx + r9]
_BEYOND = call_slot(SLOT["beyond"])
# not rcx; bswap rcx; movzx ecx, cl: 0 where RCX was below 0; jecxz
_UNLESS_BELOW = bytes.fromhex("48f7d1 480fc9 0fb6c9 67e3") + bytes((len(_BEYOND),)) + _BEYOND
TARGET_IN_CODE = b"\x49\x8d\x89" + pack("<i", -0x10000) + _UNLESS_BELOW  # lea rcx, [r9 - 10000h]


class SegmentedEmitter(Emitter):
    """``short``: CS ends at 64 KiB. ``deep``: the stack pointer has 32 bits. ``real``: it is real mode."""

    def __init__(self, lookup: Lookup, user: int, *, short: bool, deep: bool, real: bool = False) -> None:
        super().__init__(lookup, user, False)
        self.real = real
        self.short = short
        self.deep = deep
        self.fpu = False
        self.segment = DS

    # Operands

    def address(self, p: Parts, popped: int = 0) -> bytes:
        """R9 = the offset of the memory operand; ``access``, which comes next, adds the segment's base."""
        if p.prefixes & ADDRESS:
            base, index, displacement = _narrow(p)
            out = lea(SCRATCH, base, index, 0, displacement & 0xFFFF) if base >= 0 else b""
            out = out + CUT if out else move_number(SCRATCH, displacement & 0xFFFF)
        elif p.rip_relative:
            (displacement,) = unpack_from("<i", p.code, p.modrm + 1)
            base, out = -1, move_number(SCRATCH, displacement & 0xFFFF_FFFF)
        else:
            base, index, shift, displacement = self.effective(p)
            hosts = [HOST_REGISTER[each] if each >= 0 else -1 for each in (base, index)]
            assert hosts[0] is not None and hosts[1] is not None
            made = lea(SCRATCH, hosts[0], hosts[1], shift, displacement)
            out = bytes((made[0] & ~8,)) + made[1:]
        self.segment = self.named(p) or (SS if base in (4, RBP) else DS)
        return out

    def named(self, p: Parts) -> str:
        """The segment that a prefix names, or none; the last of several counts."""
        if p.prefixes & (FS | GS | OTHER):
            for byte in reversed(p.code[: p.modrm]):
                if byte in OVERRIDE:
                    return OVERRIDE[byte]
        return ""

    def access(self, size: int, access: int) -> bytes:
        use = "write" if access & WRITE else "read"
        return (
            load_slot(SCRATCH2, SLOT[f"{self.segment}_{use}"])
            + b"\x4a\x8d\x8c\x09" + pack("<i", size - 1)  # lea rcx, [rcx + r9 + size - 1]
            + _UNLESS_BELOW
            + load_slot(SCRATCH2, SLOT[f"{self.segment}_base"])
            + b"\x46\x8d\x0c\x09"  # lea r9d, [rcx + r9]
            + super().access(size, access)
        )  # fmt: skip

    def jump(self) -> bytes:
        return load_slot(SCRATCH2, SLOT["jump_key"]) + HOST_ADDRESS + super().jump()

    # The stack

    def top(self, size: int, access: int, below: int = 0) -> bytes:
        """The lookup of ``size`` bytes at the stack's top, or ``below`` it."""
        self.segment = SS
        return b"\x45\x8d\x4b" + pack("<b", -below) + (b"" if self.deep else CUT) + self.access(size, access)

    def move_stack(self, by: int) -> bytes:
        """The stack pointer, ``by`` further; RCX is lost."""
        if self.deep:
            return b"\x45\x8d\x9b" + pack("<i", by)  # lea r11d, [r11 + by]
        return b"\x41\x8d\x8b" + pack("<i", by) + b"\x66\x41\x89\xcb"  # lea ecx, [r11 + by]; mov r11w, cx

    def push_number(self, value: int, size: int) -> bytes:
        number = pack("<I", value & 0xFFFF_FFFF)[:size]
        stored = (b"\x66" if size == 2 else b"") + b"\x42\xc7\x04\x09" + number
        return self.top(size, WRITE, size) + stored + self.move_stack(-size)

    def push(self, register: int) -> bytes:
        raise NotTranslated  # in which size, the instruction says

    def push_value(self, value: int) -> bytes:
        raise NotTranslated


def _narrow(p: Parts) -> tuple[int, int, int]:
    """Base, index and displacement of a 16-bit address; -1: none."""
    mod, rm = p.value >> 6, p.value & 7
    base, index = NARROW[rm]
    displacement = 0
    if mod == 0 and rm == 6:
        base, mod = -1, 2
    if mod == 1:
        displacement = p.code[p.modrm + 1] - ((p.code[p.modrm + 1] & 0x80) << 1)
    elif mod == 2:
        (displacement,) = unpack_from("<h", p.code, p.modrm + 1)
    return base, index, displacement


def unlocked(e: Emitter, p: Parts) -> SegmentedEmitter:
    assert isinstance(e, SegmentedEmitter)
    if p.prefixes & LOCK:
        raise NotTranslated
    return e


def _register(opcode: int, register: int, size: int) -> bytes:
    """MOV (89: to memory, 8B: from) between a register and what a lookup has found."""
    host = HOST_REGISTER[register]
    assert host is not None
    return (b"\x66" if size == 2 else b"") + bytes(
        (0x42 | host >> 3 << 2, opcode, 4 | (host & 7) << 3, 0x09)
    )  # [rcx + r9]


# Instructions


def verbatim(e: Emitter, p: Parts) -> bytes:
    """On RAX, RDX and flags alone."""
    if p.prefixes & ~(OPERAND | ADDRESS | OTHER | FS | GS):
        raise NotTranslated
    return (b"\x66" if p.prefixes & OPERAND else b"") + bytes((p.opcode,)) + p.code[p.immediate :]


def load_address(e: Emitter, p: Parts) -> bytes:
    """LEA."""
    e = unlocked(e, p)
    if p.value >= 0xC0:
        raise NotTranslated
    host = HOST_REGISTER[p.reg]
    assert host is not None
    narrow = b"\x66" if p.prefixes & OPERAND else b""
    return e.address(p) + narrow + register_register(0x8B, 0, host, SCRATCH)


def move_offset(e: Emitter, p: Parts) -> bytes:
    """A0 to A3: MOV of AL, AX and EAX from and to an address."""
    e = unlocked(e, p)
    size = 1 if not p.opcode & 1 else e.operand_size(p)
    address = p.code[p.immediate : p.immediate + (2 if p.prefixes & ADDRESS else 4)]
    e.segment = e.named(p) or DS
    writes = p.opcode & 2
    return (
        move_number(SCRATCH, int.from_bytes(address, "little")) + e.access(size, WRITE if writes else READ)
        + (b"\x66" if size == 2 else b"")
        + bytes((0x42, (0x88 if writes else 0x8A) | p.opcode & 1, 0x04, 0x09))
    )  # fmt: skip


def push_register(e: Emitter, p: Parts) -> bytes:
    e = unlocked(e, p)
    size = e.operand_size(p)
    return e.top(size, WRITE, size) + _register(0x89, p.low_register, size) + e.move_stack(-size)


def pop_register(e: Emitter, p: Parts) -> bytes:
    """POP of SP goes last: of ESP the upper half counts the bytes that were popped (SDM vol. 2, POP)."""
    e = unlocked(e, p)
    size = e.operand_size(p)
    loaded = _register(0x8B, p.low_register, size)
    if p.low_register == 4:
        return e.top(size, READ) + (e.move_stack(size) if e.deep else b"") + loaded
    return e.top(size, READ) + loaded + e.move_stack(size)


def push_number(e: Emitter, p: Parts) -> bytes:
    e = unlocked(e, p)
    size = e.operand_size(p)
    return e.push_number(p.signed(1 if p.opcode == 0x6A else size), size)


def push_segment(e: Emitter, p: Parts) -> bytes:
    """06, 0E, 16, 1E, 0F A0, 0F A8: of 4 bytes processors write 2 (SDM vol. 2, PUSH); so the interpreter."""
    e = unlocked(e, p)
    if not p.prefixes & OPERAND:
        raise NotTranslated
    stored = (
        HOST_ADDRESS + load_slot(SCRATCH2, SLOT[NAMES[p.opcode >> 3 & 7]]) + b"\x66\x41\x89\x09"
    )  # mov [r9], cx
    return e.top(2, WRITE, 2) + stored + e.move_stack(-2)


def load_segment(e: Emitter, p: Parts) -> bytes:
    """8E in real mode: MOV to ES, DS, FS and GS."""
    e = unlocked(e, p)
    if p.digit not in (0, 3, 4, 5):
        raise NotTranslated  # SS holds interrupts back; CS is #UD
    if p.value < 0xC0:
        return e.address(p) + e.access(2, READ) + FOUND_WORD + _load(e, NAMES[p.digit])
    host = HOST_REGISTER[p.rm]
    assert host is not None
    return bytes((0x40 | host >> 3, 0x0F, 0xB7, 0xC8 | host & 7)) + _load(e, NAMES[p.digit])  # movzx ecx, ...


def pop_segment(e: Emitter, p: Parts) -> bytes:
    """07, 1F, 0F A1, 0F A9 in real mode."""
    e = unlocked(e, p)
    size = e.operand_size(p)
    if size != 2:
        raise NotTranslated
    return e.top(2, READ) + FOUND_WORD + _load(e, NAMES[p.opcode >> 3 & 7]) + e.move_stack(2)


def _load(e: SegmentedEmitter, name: str) -> bytes:
    """The segment register ``name`` is ECX: its limit and rights stay."""
    if not e.real:
        raise NotTranslated
    by_16 = b"\x48\x8d\x0c\xcd\0\0\0\0\x48\x8d\x0c\x09"  # lea rcx, [rcx * 8]; lea rcx, [rcx + rcx]
    return store_slot(SCRATCH2, SLOT[name]) + by_16 + store_slot(SCRATCH2, SLOT[f"{name}_base"])


def group5(e: Emitter, p: Parts) -> bytes:
    """FF: inc, dec and push."""
    if p.digit != 6:
        return e.integer(p)
    e = unlocked(e, p)
    size = e.operand_size(p)
    if p.value >= 0xC0:
        return e.top(size, WRITE, size) + _register(0x89, p.rm, size) + e.move_stack(-size)
    found = FOUND_WORD if size == 2 else b"\x42\x8b\x0c\x09"  # to ECX
    out = e.address(p) + e.access(size, READ) + found + store_slot(SCRATCH2, SLOT["temporary"])
    out += e.top(size, WRITE, size) + HOST_ADDRESS + load_slot(SCRATCH2, SLOT["temporary"])
    return out + (b"\x66" if size == 2 else b"") + b"\x41\x89\x09" + e.move_stack(-size)


def bit_test(e: Emitter, p: Parts) -> bytes:
    """In memory the bit may be anywhere in the segment."""
    if p.value < 0xC0:
        raise NotTranslated
    return emit_integer.bit_test(e, p)


def string(e: Emitter, p: Parts) -> bytes:
    """MOVS, STOS, LODS, CMPS, SCAS: once, or repeated by a loop."""
    e = unlocked(e, p)
    kind = p.opcode & ~1
    size = 1 if not p.opcode & 1 else e.operand_size(p)
    host = (b"\x66" if size == 2 else b"") + bytes((p.opcode,))
    once = _once(e, p, kind, size, host)
    if not p.prefixes & REPEAT:
        return once
    narrow = p.prefixes & ADDRESS
    count = CUT_COUNT if narrow else b"\x44\x89\xd1"  # or mov ecx, r10d
    less = b"\x8d\x49\xff" + (b"\x66\x41\x89\xca" if narrow else b"\x41\x89\xca")  # lea ecx, [rcx - 1]; mov
    body = once + count + less
    if kind in (0xA6, 0xAE):
        body += b"\x0f" + (b"\x84" if p.prefixes & F2 else b"\x85") + b"\0\0\0\0"
    tail = load_slot(SCRATCH2, SLOT["attention"])
    leave = call_slot(SLOT["leave_for_attention"])
    tail += b"\xe3" + bytes((len(leave),)) + leave
    head = count + b"\x67\xe3\x02\xeb\x05\xe9\0\0\0\0"  # jecxz 1f; jmp 2f; 1: jmp end; 2:
    length = len(head) + len(body) + len(tail) + 5
    head = head[:-4] + pack("<i", length - len(head))
    if kind in (0xA6, 0xAE):
        body = body[:-4] + pack("<i", length - len(head) - len(body))
    return head + body + tail + b"\xe9" + pack("<i", -length)


def _once(e: SegmentedEmitter, p: Parts, kind: int, size: int, host: bytes) -> bytes:
    """With RSI and RDI the host's for the time of one instruction, whatever DF says."""
    cut = CUT if p.prefixes & ADDRESS else b""
    out = b""
    steps = b""
    back = b""
    if kind in (0xA4, 0xA6, 0xAC):
        e.segment = e.named(p) or DS
        out += b"\x41\x89\xf1" + cut + e.access(size, READ)  # mov r9d, esi
        out += HOST_ADDRESS + store_slot(SCRATCH, SLOT["temporary"])
        steps += store_slot(RSI, SLOT["string_rsi"]) + load_slot(RSI, SLOT["temporary"])
        back += _advance(RSI, "temporary", "string_rsi", narrow=bool(cut))
    if kind != 0xAC:
        e.segment = ES
        out += b"\x41\x89\xf9" + cut + e.access(size, WRITE if kind in (0xA4, 0xAA) else READ)  # mov r9d, edi
        out += HOST_ADDRESS + store_slot(SCRATCH, SLOT["temporary2"])
        steps += store_slot(RDI, SLOT["string_rdi"]) + load_slot(RDI, SLOT["temporary2"])
        back += _advance(RDI, "temporary2", "string_rdi", narrow=bool(cut))
    return out + steps + host + back


def _advance(register: int, began: str, before: str, *, narrow: bool) -> bytes:
    """``register`` has gone from where ``began`` says; it shall be as far from where it was ``before``."""
    low = register & 7
    complement = bytes((0x48, 0xF7, 0xD0 | low))  # not
    out = load_slot(SCRATCH2, SLOT[began]) + complement + lea(register, register, SCRATCH2, 0, 0) + complement
    out += load_slot(SCRATCH2, SLOT[before])
    if not narrow:
        made = lea(register, register, SCRATCH2, 0, 0)
        return out + bytes((made[0] & ~8,)) + made[1:]
    out += lea(SCRATCH2, register, SCRATCH2, 0, 0) + load_slot(register, SLOT[before])
    return out + b"\x66" + register_register(0x89, 0, SCRATCH2, register)


def _actions() -> list[Action | None]:
    """By opcode, what emits it; None: the interpreter's, or a jump."""
    table = list(emit_integer.ACTIONS)
    for opcode, action in enumerate(table):
        if action is emit_integer.verbatim:
            table[opcode] = verbatim
        elif action is emit_integer.bit_test:
            table[opcode] = bit_test
    for register in range(8):
        table[0x50 | register] = push_register
        table[0x58 | register] = pop_register
    for opcode in range(0xA0, 0xA4):
        table[opcode] = move_offset
    for opcode in (0x06, 0x0E, 0x16, 0x1E, 0x1A0, 0x1A8):
        table[opcode] = push_segment
    for opcode in (0x07, 0x1F, 0x1A1, 0x1A9):
        table[opcode] = pop_segment
    table[0x8E] = load_segment
    table[0x68] = table[0x6A] = push_number
    table[0x8D] = load_address
    for opcode in (0x8F, 0xC9):  # pop to memory, leave
        table[opcode] = None
    for opcode in (0x1C3, 0x1C7):  # movnti, cmpxchg8b, to which 66 is no matter of size
        table[opcode] = None
    table[0xFA], table[0xFB] = emit_system.cli, emit_system.sti
    for opcode in (0xE4, 0xE5, 0xE6, 0xE7, 0xEC, 0xED, 0xEE, 0xEF):
        table[opcode] = emit_system.port
    for opcode in (0xA4, 0xA5, 0xA6, 0xA7, 0xAA, 0xAB, 0xAC, 0xAD, 0xAE, 0xAF):
        table[opcode] = string
    return table


ACTIONS = _actions()
