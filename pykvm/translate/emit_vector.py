"""x87, MMX and SSE: the guest's registers are the host's, so that only memory and general registers change.

What the host's processor refuses (an operand that is not aligned, an exception that is not masked, a form
that doesn't exist) comes as a signal and becomes the guest's exception.
"""

from __future__ import annotations

from struct import pack

from pykvm.translate.context import HOST_REGISTER, SCRATCH, SCRATCH2, SLOT
from pykvm.translate.decode import ADDRESS, F2, F3, LOCK, OPERAND
from pykvm.translate.emit import FROM_CX, HOST_ADDRESS, Emitter, NotTranslated, Parts, prefix_bytes
from pykvm.translate.encode import load_slot, store_slot
from pykvm.translate.operands import (
    BOTH,
    MEMORY_ONLY,
    READ,
    VECTOR,
    WRITE,
    WRITES_ECX,
    X87,
    X87_LARGE,
    G,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.translate.emit import Action

_ECX_OUT = b"\x41\x89\xca"  # mov r10d, ecx


def x87(e: Emitter, p: Parts) -> bytes:
    if p.prefixes & LOCK:
        raise NotTranslated
    opcode = bytes((p.opcode,))
    if p.value >= 0xC0:
        return opcode + bytes((p.value,))
    row = X87[p.opcode - 0xD8][p.digit]
    if row is None:
        return _x87_environment(e, p)
    size, access = row
    return e.address(p) + e.access(size, access) + b"\x42" + opcode + bytes((4 | p.digit << 3, 0x09))


def _x87_environment(e: Emitter, p: Parts) -> bytes:
    """FLDENV, FNSTENV, FRSTOR and FNSAVE, in their forms of 32 and 16 bits.

    FIP and FDP would be addresses of the host's: a guest finds 0.
    """
    row = X87_LARGE.get((p.opcode - 0xD8, p.digit))
    if row is None:
        raise NotTranslated
    size, access = row
    narrow = 0 if p.rex & 8 else p.prefixes & OPERAND
    pointers = (6, 10) if narrow else (0x0C, 0x14)
    out = e.address(p) + e.access(size - 14 if narrow else size, access) + HOST_ADDRESS
    out += prefix_bytes(narrow) + b"\x41" + bytes((p.opcode, 1 | p.digit << 3))
    if access == WRITE:
        for pointer in pointers:  # mov dword [r9 + pointer], 0
            out += b"\x41\xc7\x41" + bytes((pointer,)) + pack("<I", 0)
    return out


def fwait(e: Emitter, p: Parts) -> bytes:
    if p.prefixes & LOCK:
        raise NotTranslated
    return b"\x9b"


def vector(e: Emitter, p: Parts) -> bytes:
    forms = VECTOR[p.opcode]
    prefixes = p.prefixes
    if prefixes & LOCK:
        raise NotTranslated
    # F2 or F3 select before 66 does; the last of the two counts, and both are no instruction of a compiler's.
    if prefixes & F2 and prefixes & F3:
        raise NotTranslated
    which = 3 if prefixes & F2 else 2 if prefixes & F3 else 1 if prefixes & OPERAND else 0
    row = forms[which]
    if row is None:
        raise NotTranslated
    size, access, reg_kind, rm_kind = row
    prefix = prefix_bytes((0, OPERAND, F3, F2)[which])
    opcode = e.opcode_bytes(p.opcode)
    tail = p.code[p.immediate :]
    wide = p.rex & 8
    before = after = b""
    reg = p.reg
    if reg_kind == G:
        host = HOST_REGISTER[reg]
        if host is None:
            after = store_slot(SCRATCH2, SLOT[f"r{reg}"])
            host = SCRATCH2
        reg = host
    elif p.opcode in WRITES_ECX:
        after = _ECX_OUT
    if p.value >= 0xC0:
        if p.opcode in MEMORY_ONLY and not (p.opcode == 0x12B):
            raise NotTranslated
        rm = p.rm
        if rm_kind == G:
            host = HOST_REGISTER[rm]
            if host is None:
                host = SCRATCH
                if access == READ:
                    before = load_slot(SCRATCH, SLOT[f"r{rm}"])
                else:
                    after += store_slot(SCRATCH, SLOT[f"r{rm}"])
            rm = host
        rex = wide | reg >> 3 << 2 | rm >> 3
        operand = bytes((0xC0 | (reg & 7) << 3 | rm & 7,))
        return before + prefix + (bytes((0x40 | rex,)) if rex else b"") + opcode + operand + tail + after
    if not size:
        raise NotTranslated
    if size < 0:
        size = 8 if wide else 4
    rex = 0x42 | wide | reg >> 3 << 2
    operand = bytes((4 | (reg & 7) << 3, 0x09))
    return (
        e.address(p) + e.access(size, access) + prefix + bytes((rex,)) + opcode + operand + tail + after
    )  # fmt: skip


def crc32(e: Emitter, p: Parts) -> bytes:
    """F2 0F 38 F0 and F1."""
    if not p.prefixes & F2 or p.prefixes & (F3 | LOCK):
        raise NotTranslated
    size = 1 if p.opcode == 0x2F0 else e.operand_size(p)
    host = HOST_REGISTER[p.reg]
    before = after = b""
    if p.value >= 0xC0:
        if size == 1 and not p.rex and p.rm > 3:
            raise NotTranslated
        rm = HOST_REGISTER[p.rm]
        if rm is None:
            before, rm = load_slot(SCRATCH, SLOT[f"r{p.rm}"]), SCRATCH
        operand, rex = 0xC0 | rm & 7, rm >> 3
    else:
        before = e.address(p) + e.access(size, READ) + HOST_ADDRESS
        operand, rex = 1, 1
    if host is None:
        slot = SLOT[f"r{p.reg}"]
        before, after, host = before + load_slot(SCRATCH2, slot), store_slot(SCRATCH2, slot), SCRATCH2
    return (
        before + prefix_bytes(p.prefixes & OPERAND) + b"\xf2"
        + bytes((0x40 | p.rex & 8 | host >> 3 << 2 | rex,)) + e.opcode_bytes(p.opcode)
        + bytes((operand | (host & 7) << 3,)) + after
    )  # fmt: skip


def movbe(e: Emitter, p: Parts) -> bytes:
    raise NotTranslated


def crc32_or_movbe(e: Emitter, p: Parts) -> bytes:
    return crc32(e, p) if p.prefixes & F2 else movbe(e, p)


def state(e: Emitter, p: Parts) -> bytes:
    """0F AE: FXSAVE, FXRSTOR, LDMXCSR, STMXCSR, the fences and CLFLUSH."""
    if p.prefixes & (LOCK | F2 | F3 | OPERAND):
        raise NotTranslated
    if p.value >= 0xC0:
        if p.digit >= 5:  # lfence mfence sfence
            return p.code
        raise NotTranslated
    if p.digit in (2, 3):
        access = WRITE if p.digit == 3 else READ
        return e.address(p) + e.access(4, access) + b"\x42\x0f\xae" + bytes((4 | p.digit << 3, 0x09))
    if p.digit in (0, 1):
        if not e.wide:
            raise NotTranslated  # the host's would save and restore sixteen XMM registers, not eight
        # FXSAVE leaves the last bytes as they are.
        out = e.address(p) + e.access(512, BOTH if p.digit == 0 else READ) + HOST_ADDRESS
        out += bytes((0x41 | p.rex & 8, 0x0F, 0xAE, 1 | p.digit << 3))
        if p.digit == 0:  # FIP and FDP would be addresses of the host's
            out += b"\x49\xc7\x41\x08" + pack("<i", 0) + b"\x49\xc7\x41\x10" + pack("<i", 0)
        return out
    if p.digit == 7:
        return e.address(p) + e.access(1, READ)
    raise NotTranslated


def masked_move(e: Emitter, p: Parts) -> bytes:
    """MASKMOVQ and MASKMOVDQU, which store at RDI."""
    if p.value < 0xC0 or p.prefixes & (LOCK | F2 | F3):
        raise NotTranslated
    size = 16 if p.prefixes & OPERAND else 8
    narrow = not e.wide or p.prefixes & ADDRESS
    out = b"\x41\x89\xf9" if narrow else b"\x49\x89\xf9"  # mov r9, rdi
    out += e.based(p)
    rex = bytes((0x40 | p.rex & 5,)) if p.rex & 5 else b""
    wait = b"" if size == 16 else b"\x9b"  # what x87 has pending comes while RDI is the guest's
    return (
        wait + out + e.access(size, BOTH) + HOST_ADDRESS
        + b"\x48\x89\xf9\x4c\x89\xcf"  # mov rcx, rdi; mov rdi, r9
        + prefix_bytes(p.prefixes & OPERAND) + rex + b"\x0f\xf7" + bytes((p.value,))
        + b"\x48\x89\xcf"  # mov rdi, rcx
    )  # fmt: skip


def empty_mmx(e: Emitter, p: Parts) -> bytes:
    if p.prefixes & (LOCK | OPERAND | F2 | F3):
        raise NotTranslated
    return b"\x0f\x77"


def _actions() -> dict[int, Action]:
    table: dict[int, Action] = dict.fromkeys(VECTOR, vector)
    table |= dict.fromkeys(range(0xD8, 0xE0), x87)
    table |= {0x9B: fwait, 0x177: empty_mmx, 0x1AE: state, 0x1F7: masked_move}
    table |= {0x2F0: crc32_or_movbe, 0x2F1: crc32_or_movbe}
    return table


ACTIONS = _actions()
USES_FPU = frozenset(ACTIONS) - {0x1AE, 0x2F0, 0x2F1}
__all__ = ["ACTIONS", "FROM_CX", "USES_FPU"]
