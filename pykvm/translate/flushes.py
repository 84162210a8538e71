"""What drops entries of the TLB, in machine code: writes to CR3, INVLPG, and CLAC, which hides user pages."""

from __future__ import annotations

from pykvm.translate import context
from pykvm.translate.context import SLOT
from pykvm.translate.encode import AND, CMP, OR, R9, RAX, RBX, RCX, RSP, SHL, SHR, SUB, XOR, Mem
from pykvm.translate.routines import FLUSH_ALL, FLUSH_LOCAL, slot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.translate.routines import Routines


def tlb(asm: Routines) -> None:
    asm.entries["do_cr3_write"] = asm.here  # R9: the new value; ``rip`` is set
    asm.pop_to(slot("block_return"))
    asm.save_flags()
    asm.op(0x83, 7, slot("walk_in_code"))
    asm.raw("00")
    asm.jump_if("e", "interpret-again")
    asm.op(0x85, R9, slot("reserved_bits"))
    asm.jump_if("nz", "interpret-again")
    asm.mov(RCX, R9)
    asm.alu_number(AND, RCX, 0xFFF, wide=False)
    asm.alu(XOR, RCX, R9)
    asm.mov(slot("cr3"), RCX)
    asm.alu(XOR, RCX, R9)
    asm.mov(slot("temporary2"), RCX)  # PWT and PCD
    for count in ("local_log", "check_log"):
        asm.mov(RCX, slot(count))
        asm.alu_number(CMP, RCX, context.LOG_ENTRIES)
        asm.jump_if("ae", "flush-all")
    asm.save("rax", "rbx")
    asm.alu(XOR, RBX, RBX, wide=False)
    asm.jump("drop-checks-test")
    asm.label("drop-checks")
    asm.mov(RAX, Mem(RSP, context.CHECK_LOG - 4, RCX, 4), wide=False)
    asm.mov(Mem(RSP, context.PAGE_CHECKS, RAX, 4), RBX, wide=False)
    asm.alu_number(SUB, RCX, 1)
    asm.label("drop-checks-test")
    asm.alu(OR, RCX, RCX)
    asm.jump_if("nz", "drop-checks")
    asm.mov(slot("check_log"), RCX)
    asm.mov(RCX, slot("local_log"))
    asm.jump("drop-local-test")
    asm.label("drop-local")
    asm.mov(RAX, Mem(RSP, context.LOCAL_LOG - 4, RCX, 4), wide=False)
    asm.load_word(RBX, RAX)  # the entry's number, without which TLB it is in
    asm.alu_number(XOR, RBX, 0x8000, wide=False)
    asm.shift(SHL, RBX, 12)
    asm.op(0xF7, 3, RBX)
    asm.mov(Mem(RSP, context.TLB_READ[0], RAX, 8), RBX)
    asm.mov(Mem(RSP, context.TLB_WRITE[0], RAX, 8), RBX)
    asm.alu_number(SUB, RCX, 1)
    asm.label("drop-local-test")
    asm.alu(OR, RCX, RCX)
    asm.jump_if("nz", "drop-local")
    asm.mov(slot("local_log"), RCX)
    asm.restore("rax", "rbx")
    asm.restore_flags()
    asm.jump_to(slot("block_return"))
    asm.label("flush-all")
    asm.restore_flags()
    asm.event(FLUSH_LOCAL)

    asm.entries["do_invlpg"] = asm.here  # R9: the address
    asm.pop_to(slot("block_return"))
    asm.save_flags()
    asm.save("rax", "rbx")
    asm.mov(RAX, R9)
    asm.shift(SHR, RAX, 21)
    asm.load_word(RAX, RAX)
    asm.op(0x80, 7, Mem(RSP, context.LARGE, RAX), wide=False)
    asm.raw("00")
    asm.jump_if("ne", "invlpg-large")
    asm.mov(RAX, R9)
    asm.shift(SHR, RAX, 12)
    asm.load_word(RAX, RAX)
    asm.invalid(RBX)
    for start in (*context.TLB_READ, *context.TLB_WRITE):
        asm.mov(Mem(RSP, start, RAX, 8), RBX)
    asm.alu(XOR, RBX, RBX, wide=False)
    asm.mov(Mem(RSP, context.PAGE_CHECKS, RAX, 4), RBX, wide=False)
    asm.restore("rax", "rbx")
    asm.restore_flags()
    asm.jump_to(slot("block_return"))
    asm.label("invlpg-large")
    asm.restore("rax", "rbx")
    asm.restore_flags()
    asm.event(FLUSH_ALL)


def access_flag(asm: Routines) -> None:
    # clac: user pages are hidden from ring 0 again
    asm.entries["do_clac"] = asm.here
    asm.pop_to(slot("block_return"))
    asm.save_flags()
    asm.set(slot("access_flag"), 0)
    asm.call("drop-user")
    asm.restore_flags()
    asm.jump_to(slot("block_return"))
    # drop-user: the supervisor's TLB entries for user pages. A call: RSP is 8 below the context.
    asm.label("drop-user")
    asm.mov(RCX, Mem(RSP, 8 + SLOT["user_log"]))
    asm.alu(OR, RCX, RCX)
    asm.jump_if("z", "drop-user-none")
    asm.mov(Mem(RSP, 8 + SLOT["save_rax"]), RAX)
    asm.mov(Mem(RSP, 8 + SLOT["save_rbx"]), RBX)
    asm.label("drop-user-next")
    asm.mov(RAX, Mem(RSP, 8 + context.USER_LOG - 4, RCX, 4), wide=False)
    asm.invalid(RBX)
    asm.mov(Mem(RSP, 8 + context.TLB_READ[0], RAX, 8), RBX)
    asm.mov(Mem(RSP, 8 + context.TLB_WRITE[0], RAX, 8), RBX)
    asm.alu_number(SUB, RCX, 1)
    asm.jump_if("nz", "drop-user-next")
    asm.mov(Mem(RSP, 8 + SLOT["user_log"]), RCX)
    asm.mov(RAX, Mem(RSP, 8 + SLOT["save_rax"]))
    asm.mov(RBX, Mem(RSP, 8 + SLOT["save_rbx"]))
    asm.label("drop-user-none")
    asm.ret()
