"""Instructions on general registers that have forms of their own (for the others see emit.py)."""

from __future__ import annotations

from struct import pack

from pykvm.translate.context import HOST_REGISTER, SCRATCH, SCRATCH2, SLOT
from pykvm.translate.decode import ADDRESS, F3, FS, GS, LOCK, OPERAND, OTHER, REPEAT
from pykvm.translate.emit import (
    FROM_CX,
    HOST_ADDRESS,
    POPPED_4,
    POPPED_8,
    PUSHED_4,
    PUSHED_8,
    STACK_BELOW_4,
    STACK_BELOW_8,
    STACK_TOP,
    TO_CX,
    Emitter,
    NotTranslated,
    Parts,
    prefix_bytes,
)
from pykvm.translate.encode import call_slot, load_slot, register_register, store_slot
from pykvm.translate.encode import move_number as encode_number
from pykvm.translate.operands import BOTH, INTEGER, READ, SOURCE, TARGET, WRITE
from pykvm.x86.registers import SEGMENTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.translate.emit import Action


def verbatim(e: Emitter, p: Parts) -> bytes:
    """On RAX, RDX and flags alone: as it is."""
    if p.prefixes & ~(OPERAND | OTHER):
        raise NotTranslated
    return p.code


def nothing(e: Emitter, p: Parts) -> bytes:
    if p.prefixes & LOCK or (p.opcode == 0x10D and p.value >= 0xC0):  # PREFETCHW has no form with a register
        raise NotTranslated
    return b""


def lea(e: Emitter, p: Parts) -> bytes:
    if p.value >= 0xC0 or p.prefixes & LOCK:
        raise NotTranslated
    host = HOST_REGISTER[p.reg]
    plain = Parts(p.code, p.opcode, p.prefixes & ~(FS | GS), p.rex, p.modrm, p.immediate, p.after)
    out = e.address(plain)
    wide = p.rex & 8
    if host is None:
        if p.prefixes & OPERAND and not wide:
            return (
                out + load_slot(SCRATCH2, SLOT[f"r{p.reg}"]) + b"\x66\x44\x89\xc9"
                + store_slot(SCRATCH2, SLOT[f"r{p.reg}"])
            )  # fmt: skip
        return out + (b"" if wide else b"\x45\x89\xc9") + store_slot(SCRATCH, SLOT[f"r{p.reg}"])
    if p.prefixes & OPERAND and not wide:
        return out + b"\x66" + register_register(0x8B, 0, host, SCRATCH)
    if out[:3] in (b"\x4c\x8d\x0c", b"") or out.count(b"\x8d") != 1 or out[1] != 0x8D or p.rip_relative:
        return out + register_register(0x8B, wide, host, SCRATCH)
    # One LEA: straight to its register.
    rex = out[0] & ~0x0C | host >> 3 << 2 | (out[0] & 8 if wide else 0)
    return bytes((rex, 0x8D, out[2] & 0xC7 | (host & 7) << 3)) + out[3:]


def push_register(e: Emitter, p: Parts) -> bytes:
    if p.prefixes & (OPERAND | LOCK):
        raise NotTranslated
    return e.push(p.low_register)


def pop_register(e: Emitter, p: Parts) -> bytes:
    if p.prefixes & (OPERAND | LOCK):
        raise NotTranslated
    register = p.low_register
    host = HOST_REGISTER[register]
    out = STACK_TOP + e.access(8 if e.wide else 4, READ)
    if register == 4:
        return out + (b"\x4e\x8b\x1c\x09" if e.wide else b"\x46\x8b\x1c\x09")
    if not e.wide:
        assert host is not None
        return out + bytes((0x42 | host >> 3 << 2, 0x8B, 4 | (host & 7) << 3, 0x09)) + POPPED_4
    if host is None:
        return out + b"\x4a\x8b\x0c\x09" + store_slot(SCRATCH2, SLOT[f"r{register}"]) + POPPED_8
    return out + bytes((0x4A | host >> 3 << 2, 0x8B, 4 | (host & 7) << 3, 0x09)) + POPPED_8


def pop_memory(e: Emitter, p: Parts) -> bytes:
    """8F /0: an address by RSP counts from RSP as it is after."""
    if p.prefixes & (OPERAND | LOCK) or p.digit:
        raise NotTranslated
    if p.value >= 0xC0:
        raise NotTranslated
    size = 8 if e.wide else 4
    out = STACK_TOP + e.access(size, READ) + (b"\x4e" if e.wide else b"\x46") + b"\x8b\x0c\x09"
    out += store_slot(SCRATCH, SLOT["temporary"]) + e.address(p, size) + e.access(size, WRITE)
    out += HOST_ADDRESS + load_slot(SCRATCH2, SLOT["temporary"])
    return out + (b"\x49" if e.wide else b"\x41") + b"\x89\x09" + (POPPED_8 if e.wide else POPPED_4)


def push_number(e: Emitter, p: Parts) -> bytes:
    if p.prefixes & (OPERAND | LOCK):
        raise NotTranslated
    return e.push_value(p.signed(1 if p.opcode == 0x6A else 4))


def push_memory(e: Emitter, p: Parts) -> bytes:
    """FF /6."""
    if p.prefixes & (OPERAND | LOCK):
        raise NotTranslated
    if p.value >= 0xC0:
        return e.push(p.rm)
    size = 8 if e.wide else 4
    out = e.address(p) + e.access(size, READ)
    out += (b"\x4e" if e.wide else b"\x46") + b"\x8b\x0c\x09" + store_slot(SCRATCH, SLOT["temporary"])
    out += (STACK_BELOW_8 if e.wide else STACK_BELOW_4) + e.access(size, WRITE) + HOST_ADDRESS
    out += load_slot(SCRATCH2, SLOT["temporary"])
    return out + (b"\x49" if e.wide else b"\x41") + b"\x89\x09" + (PUSHED_8 if e.wide else PUSHED_4)


def group5(e: Emitter, p: Parts) -> bytes:
    """FF: inc, dec and push; the jumps are control.py's."""
    if p.digit == 6:
        return push_memory(e, p)
    return e.integer(p)


def leave(e: Emitter, p: Parts) -> bytes:
    if p.prefixes & (OPERAND | LOCK):
        raise NotTranslated
    if not e.wide:
        return (
            b"\x41\x89\xe9" + e.access(4, READ) + b"\x44\x8d\x5d\x04" + b"\x42\x8b\x2c\x09"
        )  # mov r9d, ebp; lea r11d, [rbp+4]; mov ebp, [rcx+r9]
    return b"\x49\x89\xe9" + e.access(8, READ) + b"\x4c\x8d\x5d\x08" + b"\x4a\x8b\x2c\x09"


def move_number(e: Emitter, p: Parts) -> bytes:
    """B8 and up."""
    if p.prefixes & LOCK:
        raise NotTranslated
    register = p.low_register
    host = HOST_REGISTER[register]
    number = p.code[p.immediate :]
    if p.prefixes & OPERAND and not p.rex & 8:
        if host is None:
            raise NotTranslated
        return b"\x66" + (b"\x41" if host > 7 else b"") + bytes((0xB8 | host & 7,)) + number
    value = int.from_bytes(number, "little")
    if host is None:
        return encode_number(SCRATCH, value) + store_slot(SCRATCH, SLOT[f"r{register}"])
    return encode_number(host, value)


def move_byte(e: Emitter, p: Parts) -> bytes:
    """B0 and up."""
    if p.prefixes & LOCK:
        raise NotTranslated
    register = p.low_register
    tail = p.code[p.immediate :]
    if not p.rex and register > 3:
        if register == 5:
            return FROM_CX + bytes((p.opcode,)) + tail + TO_CX
        return bytes((p.opcode,)) + tail
    host = HOST_REGISTER[register]
    if host is None:
        slot = SLOT[f"r{register}"]
        return load_slot(SCRATCH, slot) + bytes((0x41, 0xB0 | SCRATCH & 7)) + tail + store_slot(SCRATCH, slot)
    return bytes((0x40 | host >> 3, 0xB0 | host & 7)) + tail


def move_offset(e: Emitter, p: Parts) -> bytes:
    """A0 to A3 of 32-bit code: MOV of AL and EAX from and to an address, which ModRM 05 says otherwise."""
    opcode = (0x8A, 0x8B, 0x88, 0x89)[p.opcode & 3]
    code = p.code[: p.immediate - 1] + bytes((opcode, 0x05)) + p.code[p.immediate :]
    after = p.after + len(code) - len(p.code)  # so that it begins where it does
    return e.integer(Parts(code, opcode, p.prefixes, 0, p.immediate, len(code), after))


def exchange_rax(e: Emitter, p: Parts) -> bytes:
    """90 and up; 90 itself is NOP, or PAUSE."""
    if p.prefixes & LOCK:
        raise NotTranslated
    register = p.low_register
    if register == 0:
        return call_slot(SLOT["do_pause"]) if p.prefixes & REPEAT == F3 else b""
    prefix = prefix_bytes(p.prefixes & OPERAND)
    host = HOST_REGISTER[register]
    if host is None:
        slot = SLOT[f"r{register}"]
        return (
            load_slot(SCRATCH, slot) + prefix + register_register(0x87, p.rex & 8, 0, SCRATCH)
            + store_slot(SCRATCH, slot)
        )  # fmt: skip
    return prefix + register_register(0x87, p.rex & 8, 0, host)


def step_register(e: Emitter, p: Parts) -> bytes:
    """40 to 4F of 32-bit code: inc and dec, whose opcodes are REX in 64-bit code."""
    if p.prefixes & LOCK:
        raise NotTranslated
    host = HOST_REGISTER[p.opcode & 7]
    assert host is not None
    digit = p.opcode >> 3 & 1
    return prefix_bytes(p.prefixes & OPERAND) + bytes((0x40 | host >> 3, 0xFF, 0xC0 | digit << 3 | host & 7))


def from_segment(e: Emitter, p: Parts) -> bytes:
    """8C to a register: the selector, zero-extended."""
    if p.value < 0xC0 or p.prefixes & LOCK or p.digit > 5:
        raise NotTranslated
    slot = SLOT[SEGMENTS[p.digit]]
    host = HOST_REGISTER[p.rm]
    if p.prefixes & OPERAND and not p.rex & 8:
        if host is None:
            raise NotTranslated
        return load_slot(SCRATCH2, slot) + b"\x66" + register_register(0x89, 0, SCRATCH2, host)
    if host is None:
        return load_slot(SCRATCH, slot) + store_slot(SCRATCH, SLOT[f"r{p.rm}"])
    return load_slot(host, slot)


def swap_bytes(e: Emitter, p: Parts) -> bytes:
    if p.prefixes & (LOCK | OPERAND):
        raise NotTranslated
    register = p.low_register
    host = HOST_REGISTER[register]
    if host is None:
        slot = SLOT[f"r{register}"]
        return load_slot(SCRATCH, slot) + bytes((0x41 | p.rex & 8, 0x0F, 0xC9)) + store_slot(SCRATCH, slot)
    return bytes((0x40 | p.rex & 8 | host >> 3, 0x0F, 0xC8 | host & 7))


def bit_test(e: Emitter, p: Parts) -> bytes:
    """BT, BTS, BTR, BTC by a register: in memory the bit may be anywhere around the operand."""
    access = READ if p.opcode == 0x1A3 else BOTH
    prefixes = p.prefixes & (OPERAND | LOCK)
    opcode = e.opcode_bytes(p.opcode)
    if p.value >= 0xC0:
        if p.prefixes & LOCK:
            raise NotTranslated
        return e.registers(p, access, SOURCE, 0, False, prefixes, opcode, b"")
    if p.prefixes & LOCK and access == READ:
        raise NotTranslated
    if p.prefixes & ADDRESS and p.prefixes & (FS | GS):
        raise NotTranslated  # the base would have to be added to the bit's address of 32 bits
    size = e.operand_size(p)
    if size == 2:
        raise NotTranslated
    if not e._lookup.bmi2:
        raise NotTranslated  # it takes flags to shift and to mask
    # R9 += the element's distance; then the bit's number in that element.
    host = HOST_REGISTER[p.reg]
    number = load_slot(SCRATCH2, SLOT[f"r{p.reg}"]) if host is None else register_register(0x8B, 8, 1, host)
    out = e.address(p) + store_slot(SCRATCH, SLOT["temporary"]) + number
    if size == 4:
        out += b"\x48\x63\xc9"  # movsxd rcx, ecx
    out += encode_number(SCRATCH, 5 if size == 4 else 6) + b"\xc4\xe2\xb2\xf7\xc9"  # sarx rcx, rcx, r9
    out += load_slot(SCRATCH, SLOT["temporary"])
    narrow = not e.wide or p.prefixes & ADDRESS
    out += bytes(
        (0x45 if narrow else 0x4D, 0x8D, 0x0C, 0x89 if size == 4 else 0xC9)
    )  # lea r9, [r9 + rcx*size]
    out += e.access(size, access) + HOST_ADDRESS + number
    mask = SLOT["mask_31" if size == 4 else "mask_63"]
    out += b"\xc4\xe2\xf2\xf5\x8c\x24" + pack("<i", mask)  # pext rcx, rcx, mask
    return out + prefix_bytes(prefixes) + bytes((0x41 | p.rex & 8,)) + opcode + b"\x09"


def compare_exchange_wide(e: Emitter, p: Parts) -> bytes:
    """0F C7 /1: CMPXCHG8B and 16B, which take the guest's RCX."""
    if p.digit != 1 or p.value >= 0xC0 or p.prefixes & (REPEAT | OPERAND):
        raise NotTranslated
    size = 16 if p.rex & 8 else 8
    return (
        e.address(p) + e.access(size, BOTH) + HOST_ADDRESS + FROM_CX
        + prefix_bytes(p.prefixes & LOCK) + bytes((0x41 | p.rex & 8, 0x0F, 0xC7, 0x09))
    )  # fmt: skip


def sign_extend_double(e: Emitter, p: Parts) -> bytes:
    """63 of 64-bit code: MOVSXD."""
    if not e.wide or p.prefixes & (LOCK | OPERAND):
        raise NotTranslated
    if p.value >= 0xC0:
        return e.registers(p, READ, TARGET, 0, False, 0, b"\x63", b"")
    out = e.address(p) + e.access(4, READ)
    host = HOST_REGISTER[p.reg]
    if host is None:
        slot = SLOT[f"r{p.reg}"]
        return out + bytes((0x42 | p.rex & 8, 0x63, 0x0C, 0x09)) + store_slot(SCRATCH2, slot)
    return out + bytes((0x42 | p.rex & 8 | host >> 3 << 2, 0x63, 4 | (host & 7) << 3, 0x09))


def _actions() -> list[Action | None]:
    """By opcode, the method that emits it; None: the interpreter's, or a jump."""
    table: list[Action | None] = [None] * 0x400
    for opcode in INTEGER:
        table[opcode] = Emitter.integer
    for opcode in (0x04, 0x05):
        for operation in range(8):
            table[operation << 3 | opcode] = verbatim
    for opcode in (0x98, 0x99, 0x9E, 0x9F, 0xA8, 0xA9, 0xF5, 0xF8, 0xF9, 0xFC, 0xFD):
        table[opcode] = verbatim  # cbw cwd sahf lahf test cmc clc stc cld std
    for register in range(8):
        table[0x40 | register] = table[0x48 | register] = step_register
        table[0x50 | register] = push_register
        table[0x58 | register] = pop_register
        table[0x90 | register] = exchange_rax
        table[0xB0 | register] = move_byte
        table[0xB8 | register] = move_number
        table[0x1C8 | register] = swap_bytes
    table[0x63] = sign_extend_double
    table[0x68] = table[0x6A] = push_number
    table[0x8F] = pop_memory
    for opcode in range(0xA0, 0xA4):
        table[opcode] = move_offset
    table[0x8C] = from_segment
    table[0x8D] = lea
    table[0xC9] = leave
    table[0xFF] = group5
    table[0x1C7] = compare_exchange_wide
    for opcode in (0x1A3, 0x1AB, 0x1B3, 0x1BB):
        table[opcode] = bit_test
    for opcode in (0x10D, 0x118, 0x119, 0x11A, 0x11B, 0x11C, 0x11D, 0x11E, 0x11F):
        table[opcode] = nothing  # prefetches, hints, NOP
    return table


ACTIONS = _actions()
