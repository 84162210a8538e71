"""REP MOVS and REP STOS, forwards, in machine code: a page's rest at a time."""

from __future__ import annotations

from pykvm.translate.encode import ADD, AND, CMP, R9, R10, RAX, RCX, RDI, RDX, RSI, SUB
from pykvm.translate.routines import slot
from pykvm.x86.registers import RFLAGS_DF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.translate.routines import Routines


def rep(asm: Routines, name: str, user: int) -> None:
    """``element`` is the size's logarithm, ``rip`` the instruction."""
    moves = name == "movs"
    place = f"{name}-{user}"
    asm.entries[f"do_rep_{name}_{user}"] = asm.here
    asm.pop_to(slot("block_return"))
    asm.save_flags()
    asm.op(0xF7, 0, slot("saved_flags"), wide=False)
    asm.raw(RFLAGS_DF.to_bytes(4, "little"))
    asm.jump_if("nz", "interpret-again")
    asm.restore_flags()
    asm.label(f"{place}-again")
    asm.mov(RCX, R10)
    asm.raw("e305")  # jrcxz: more than an 8-bit jump needs lies ahead
    asm.jump(f"{place}-more")
    asm.jump_to(slot("block_return"))
    asm.label(f"{place}-more")
    if moves:
        asm.mov(R9, RSI)
        asm.raw(asm.lookup.code(user, 0, 1))
        asm.mov(slot("temporary2"), RCX)
    asm.mov(R9, RDI)  # last: whether a page may be written can change when Python is asked
    asm.raw(asm.lookup.code(user, 1, 1))
    asm.mov(slot("temporary"), RCX)
    asm.save_flags()
    asm.save("rax", "rdx")
    asm.set(RAX, 0x1000)
    asm.mov(RCX, RDI)
    asm.alu_number(AND, RCX, 0xFFF, wide=False)
    asm.alu(SUB, RAX, RCX)
    if moves:
        asm.set(RDX, 0x1000)
        asm.mov(RCX, RSI)
        asm.alu_number(AND, RCX, 0xFFF, wide=False)
        asm.alu(SUB, RDX, RCX)
        asm.alu(CMP, RDX, RAX)
        asm.op(b"\x0f\x42", RAX, RDX)  # cmovb
    asm.mov(RCX, slot("element"))
    asm.raw("48d3e8")  # shr rax, cl: of bytes by 0, which leaves the flags
    asm.op(0x85, RAX, RAX)  # test
    asm.jump_if("z", f"{place}-edge")
    asm.alu(CMP, R10, RAX)
    asm.op(b"\x0f\x42", RAX, R10)  # cmovb: elements that are done now
    asm.alu(SUB, R10, RAX)
    asm.raw("48d3e0")  # shl rax, cl: bytes
    asm.raw("4989c9")  # mov r9, rcx
    asm.mov(RCX, RAX)
    asm.raw("4987c9")  # xchg rcx, r9: rcx the logarithm, r9 the bytes
    asm.raw("49d3e9")  # shr r9, cl
    asm.alu(ADD, RDI, slot("temporary"))
    if moves:
        asm.alu(ADD, RSI, slot("temporary2"))
    else:
        asm.restore("rax")  # the value to store
    for log, digits in ((0, "a4"), (1, "66a5"), (2, "a5"), (3, "48a5")):
        asm.op(0x83, 7, slot("element"))
        asm.raw(bytes((log,)))
        asm.jump_if("ne", f"{place}-not-{log}")
        asm.mov(RCX, R9)
        code = bytes.fromhex(digits)
        code = code[:-1] + bytes((code[-1] + (0 if moves else 6),))
        asm.raw(b"\x66\xf3" + code[1:] if log == 1 else b"\xf3" + code)
        asm.jump(f"{place}-done")
        asm.label(f"{place}-not-{log}")
    asm.label(f"{place}-done")
    asm.alu(SUB, RDI, slot("temporary"))
    if moves:
        asm.alu(SUB, RSI, slot("temporary2"))
    asm.restore("rax", "rdx")
    asm.restore_flags()
    asm.mov(RCX, slot("attention"))
    asm.raw("e305")
    asm.jump("attention-at-rip")
    asm.jump(f"{place}-again")
    asm.label(f"{place}-edge")  # an element across two pages
    asm.restore("rax", "rdx")
    asm.restore_flags()
    asm.jump("then-edge")
