"""Instructions that change RIP, and those after which code must be looked up anew.

Each is made into code, the direct jumps in it (the place of a 32-bit distance in the code, and the target's
address), and whether the block ends with it.
"""

from __future__ import annotations

from struct import pack

from pykvm.translate import emit_system
from pykvm.translate.context import HOST_REGISTER, SCRATCH, SLOT
from pykvm.translate.decode import ADDRESS, LOCK, OPERAND
from pykvm.translate.emit import STACK_TOP, Emitter, NotTranslated, Parts
from pykvm.translate.emit_integer import group5
from pykvm.translate.encode import (
    call_slot,
    load_slot,
    move_number,
    register_register,
    store_number,
    store_slot,
)
from pykvm.translate.lookup import CHECK_ATTENTION
from pykvm.translate.operands import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Jump = tuple[bytes, tuple[tuple[int, int], ...], bool]
    Action = Callable[[Emitter, Parts, int], Jump]

M64 = (1 << 64) - 1


def _target(p: Parts, size: int, mask: int) -> tuple[int, bool]:
    """Where a jump goes, and whether that is back, also by way of the end of all addresses."""
    if p.after > mask:
        raise NotTranslated  # what comes next is back
    target = p.after + p.signed(size) & mask
    return target, target < p.after


def _conditional(e: Emitter, p: Parts, mask: int) -> Jump:
    if p.prefixes & (LOCK | OPERAND):
        raise NotTranslated
    target, back = _target(p, 1 if p.opcode < 0x100 else 4, mask)
    return conditional(p, target, back, p.after & mask)


def conditional(p: Parts, target: int, back: bool, after: int) -> Jump:
    head = CHECK_ATTENTION if back else b""
    code = head + bytes((0x0F, 0x80 | p.opcode & 15)) + b"\0\0\0\0"
    if back:
        code += b"\xe9\0\0\0\0"
        return code, ((len(code) - 9, target), (len(code) - 4, after)), True
    return code, ((len(code) - 4, target),), False


def _jump(e: Emitter, p: Parts, mask: int) -> Jump:
    if p.prefixes & (LOCK | OPERAND):
        raise NotTranslated
    return jump(*_target(p, 1 if p.opcode == 0xEB else 4, mask))


def jump(target: int, back: bool, before: bytes = b"") -> Jump:
    """To ``target``, by way of the code ``before``."""
    code = (CHECK_ATTENTION if back else b"") + before + b"\xe9\0\0\0\0"
    return code, ((len(code) - 4, target),), True


def _call(e: Emitter, p: Parts, mask: int) -> Jump:
    if p.prefixes & (LOCK | OPERAND):
        raise NotTranslated
    return jump(*_target(p, 4, mask), e.push_value(p.after & mask))


def _return(e: Emitter, p: Parts, mask: int) -> Jump:
    if p.prefixes & (LOCK | OPERAND):
        raise NotTranslated
    more = int.from_bytes(p.code[p.immediate : p.immediate + 2], "little") if p.opcode == 0xC2 else 0
    if e.wide:
        code = STACK_TOP + e.access(8, READ) + b"\x4e\x8b\x0c\x09\x4d\x8d\x9b" + pack("<i", 8 + more)
    else:
        code = STACK_TOP + e.access(4, READ) + b"\x46\x8b\x0c\x09\x45\x8d\x9b" + pack("<i", 4 + more)
    return code + e.jump(), (), True


def _group5(e: Emitter, p: Parts, mask: int) -> Jump:
    """FF /2 and /4, the indirect call and jump; the others are no jumps or far ones."""
    digit = p.digit
    if digit in (0, 1, 6):
        return group5(e, p), (), False
    if digit not in (2, 4) or p.prefixes & (LOCK | OPERAND):
        raise NotTranslated
    if p.value >= 0xC0:
        host = HOST_REGISTER[p.rm]
        code = e.push_value(p.after & mask) if digit == 2 else b""
        if digit == 2 and p.rm == 4:
            raise NotTranslated
        if host is None:
            code += load_slot(SCRATCH, SLOT[f"r{p.rm}"])
        else:
            code += register_register(0x8B, e.rexable, SCRATCH, host)
    else:
        code = (
            e.address(p)
            + e.access(8 if e.wide else 4, READ)
            + (b"\x4e" if e.wide else b"\x46")
            + b"\x8b\x0c\x09"
        )
        if digit == 2:
            code += store_slot(SCRATCH, SLOT["temporary"]) + e.push_value(p.after & mask)
            code += load_slot(SCRATCH, SLOT["temporary"])
    return code + e.jump(), (), True


def _loop(e: Emitter, p: Parts, mask: int) -> Jump:
    """LOOP and JRCXZ, by RCX and ECX; LOOPE and LOOPNE, and those by CX, are the interpreter's."""
    if p.prefixes & (LOCK | OPERAND) or p.opcode < 0xE2 or (p.prefixes & ADDRESS and not e.wide):
        raise NotTranslated
    target, _ = _target(p, 1, mask)
    narrow = not e.wide or p.prefixes & ADDRESS
    code = CHECK_ATTENTION
    if p.opcode == 0xE2:
        code += b"\x45\x8d\x52\xff" if narrow else b"\x4d\x8d\x52\xff"  # lea r10, [r10 - 1]
    code += b"\x44\x89\xd1" if narrow else b"\x4c\x89\xd1"  # mov rcx, r10
    return by_count(p, code, target, p.after & mask)


def by_count(p: Parts, code: bytes, target: int, after: int) -> Jump:
    """LOOP and JRCXZ behind ``code``, which leaves the count in RCX."""
    code += b"\xe3\x05\xe9\0\0\0\0\xe9\0\0\0\0"  # jrcxz: over the first jump
    zero, other = (after, target) if p.opcode == 0xE2 else (target, after)
    return code, ((len(code) - 9, other), (len(code) - 4, zero)), True


def _routine(name: str) -> Action:
    def emit_routine(e: Emitter, p: Parts, mask: int) -> Jump:
        if not e.wide or p.prefixes & (LOCK | OPERAND):
            raise NotTranslated
        if name == "syscall":
            if not e.user:
                raise NotTranslated
            code = store_number(SLOT["rip"], p.after - len(p.code) & M64) + move_number(
                SCRATCH, p.after & M64
            )
        else:
            if e.user or not p.rex & 8:
                raise NotTranslated
            code = store_number(SLOT["rip"], p.after - len(p.code) & M64)
        return code + call_slot(SLOT[f"do_{name}"]), (), True

    return emit_routine


def _move_control(e: Emitter, p: Parts, mask: int) -> Jump:
    """MOV CR3, r64: code goes on by way of a page check."""
    # Other forms than that of a register are the same to processors, but longer to the decoder.
    if e.user or not e.wide or p.digit != 3 or p.rex & 4 or p.prefixes or p.value < 0xC0:
        raise NotTranslated
    host = HOST_REGISTER[p.rm]
    code = store_number(SLOT["rip"], p.after - len(p.code) & M64)
    code += (
        load_slot(SCRATCH, SLOT[f"r{p.rm}"]) if host is None else register_register(0x8B, 8, SCRATCH, host)
    )
    code += call_slot(SLOT["do_cr3_write"])
    return _go_on(e, code, p)


def _invalidate(e: Emitter, p: Parts, mask: int) -> Jump:
    """INVLPG; the rest of 0F 01 is emit_system's."""
    if p.digit == 7 and p.value < 0xC0 and not e.user and e.wide and not p.prefixes & LOCK:
        code = e.address(p) + store_number(SLOT["rip"], p.after - len(p.code) & M64)
        return _go_on(e, code + call_slot(SLOT["do_invlpg"]), p)
    return emit_system.group_0f01(e, p), (), False


def _go_on(e: Emitter, code: bytes, p: Parts) -> Jump:
    """To the next instruction, but through the jump cache, and so by a page check."""
    return code + move_number(SCRATCH, p.after & M64) + e.jump(), (), True


JUMPS: dict[int, Action] = {
    **dict.fromkeys(range(0x70, 0x80), _conditional),
    **dict.fromkeys(range(0x180, 0x190), _conditional),
    0xEB: _jump,
    0xE9: _jump,
    0xE8: _call,
    0xC3: _return,
    0xC2: _return,
    0xFF: _group5,
    0xE2: _loop,
    0xE3: _loop,
    0x105: _routine("syscall"),
    0x107: _routine("sysret"),
    0xCF: _routine("iret"),
    0x122: _move_control,
    0x101: _invalidate,
}
