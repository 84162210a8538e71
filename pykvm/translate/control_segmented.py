"""Jumps of code whose segments aren't flat (emit_segmented.py), as control.py makes them of other code.

RIP is counted from CS's base. A jump's target is cut to the operand's size, and must lie within CS's limit.
"""

from __future__ import annotations

from pykvm.translate.context import HOST_REGISTER, SCRATCH, SLOT
from pykvm.translate.control import by_count, conditional, jump
from pykvm.translate.decode import ADDRESS, OPERAND
from pykvm.translate.emit import Emitter, NotTranslated, Parts
from pykvm.translate.emit_segmented import CUT, CUT_COUNT, TARGET_IN_CODE, SegmentedEmitter, group5, unlocked
from pykvm.translate.encode import load_slot, register_register, store_slot
from pykvm.translate.lookup import CHECK_ATTENTION
from pykvm.translate.operands import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.translate.control import Action, Jump


def _target(e: SegmentedEmitter, p: Parts, size: int) -> tuple[int, bool]:
    """Where a direct jump goes, and whether that is back."""
    mask = 0xFFFF if p.prefixes & OPERAND else 0xFFFF_FFFF
    target = p.after + p.signed(size) & mask
    top = 0xFFFF if e.short else 0xFFFF_FFFF
    if target > top or p.after > top:
        raise NotTranslated  # #GP
    return target, target < p.after


def _conditional(e: Emitter, p: Parts, mask: int) -> Jump:
    target, back = _target(unlocked(e, p), p, 1 if p.opcode < 0x100 else e.operand_size(p))
    return conditional(p, target, back, p.after)


def _jump(e: Emitter, p: Parts, mask: int) -> Jump:
    return jump(*_target(unlocked(e, p), p, 1 if p.opcode == 0xEB else e.operand_size(p)))


def _call(e: Emitter, p: Parts, mask: int) -> Jump:
    e = unlocked(e, p)
    size = e.operand_size(p)
    return jump(*_target(e, p, size), e.push_number(p.after, size))


def _return(e: Emitter, p: Parts, mask: int) -> Jump:
    e = unlocked(e, p)
    size = e.operand_size(p)
    more = int.from_bytes(p.code[p.immediate : p.immediate + 2], "little") if p.opcode == 0xC2 else 0
    code = e.top(size, READ) + _load_target(e, size) + e.move_stack(size + more)
    return code + e.jump(), (), True


def _load_target(e: SegmentedEmitter, size: int) -> bytes:
    """R9 = what a lookup has found, a jump's target."""
    if size == 2:
        return b"\x46\x0f\xb7\x0c\x09"  # movzx r9d, word [rcx + r9]
    return b"\x46\x8b\x0c\x09" + (TARGET_IN_CODE if e.short else b"")


def _group5(e: Emitter, p: Parts, mask: int) -> Jump:
    """FF /2 and /4, the indirect call and jump; the others are no jumps or far ones."""
    digit = p.digit
    if digit in (0, 1, 6):
        return group5(e, p), (), False
    e = unlocked(e, p)
    size = e.operand_size(p)
    if digit not in (2, 4) or p.after > (0xFFFF if e.short else 0xFFFF_FFFF):
        raise NotTranslated
    if p.value >= 0xC0:
        host = HOST_REGISTER[p.rm]
        assert host is not None
        code = register_register(0x8B, 0, SCRATCH, host)
        code += CUT if size == 2 else TARGET_IN_CODE if e.short else b""
    else:
        code = e.address(p) + e.access(size, READ) + _load_target(e, size)
    if digit == 2:
        code += store_slot(SCRATCH, SLOT["temporary"]) + e.push_number(p.after, size)
        code += load_slot(SCRATCH, SLOT["temporary"])
    return code + e.jump(), (), True


def _loop(e: Emitter, p: Parts, mask: int) -> Jump:
    """LOOP and JCXZ, by CX or ECX; LOOPE and LOOPNE are the interpreter's."""
    target, _ = _target(unlocked(e, p), p, 1)
    narrow = p.prefixes & ADDRESS
    code = CHECK_ATTENTION
    if p.opcode == 0xE2:
        code += b"\x41\x8d\x4a\xff" + (b"\x66\x41\x89\xca" if narrow else b"\x41\x89\xca")  # r10, less 1
    code += CUT_COUNT if narrow else b"\x44\x89\xd1"  # or mov ecx, r10d
    return by_count(p, code, target, p.after)


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
}
