"""RFLAGS as a whole, and the ways between rings, in machine code: PUSHF, POPF, SYSCALL, SYSRET, IRET; PAUSE.

The last three are those of 64-bit code with the selectors that STAR tells; all else is the interpreter's.
"""

from __future__ import annotations

from pykvm.translate import context
from pykvm.translate.codepage import KERNEL_64, USER_64
from pykvm.translate.encode import ADD, AND, CMP, OR, R9, R10, R11, RAX, RCX, RSP, SHL, SHR, Mem
from pykvm.translate.routines import ARITHMETIC, SYSTEM, slot
from pykvm.x86.registers import RFLAGS_AC, RFLAGS_FIXED, RFLAGS_IF, RFLAGS_NT, RFLAGS_TF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.translate.routines import Routines

SCHED_YIELD = 24  # <asm/unistd_64.h>


def _image(asm: Routines) -> None:
    """R9 = RFLAGS as the guest sees them, of which the host's are saved. RCX is lost."""
    asm.mov(R9, slot("saved_flags"))
    asm.alu_number(AND, R9, ARITHMETIC, wide=False)
    asm.alu(OR, R9, slot("system_flags"))
    asm.mov(RCX, slot("interrupt_flag"))
    asm.shift(SHL, RCX, 9)
    asm.alu(OR, R9, RCX)
    asm.mov(RCX, slot("access_flag"))
    asm.shift(SHL, RCX, 18)
    asm.alu(OR, R9, RCX)
    asm.alu_number(OR, R9, RFLAGS_FIXED, wide=False)


def _take_image(asm: Routines) -> None:
    """R9, an image of RFLAGS, to the context and to ``saved_flags``. RCX and host flags are lost."""
    asm.mov(RCX, R9)
    asm.alu_number(AND, RCX, SYSTEM, wide=False)
    asm.mov(slot("system_flags"), RCX)
    asm.mov(RCX, R9)
    asm.shift(SHR, RCX, 9)
    asm.alu_number(AND, RCX, 1, wide=False)
    asm.mov(slot("interrupt_flag"), RCX)
    asm.mov(RCX, R9)
    asm.alu_number(AND, RCX, ARITHMETIC, wide=False)
    asm.alu_number(OR, RCX, RFLAGS_IF | RFLAGS_FIXED, wide=False)
    asm.mov(slot("saved_flags"), RCX)
    asm.mov(RCX, R9)
    asm.shift(SHR, RCX, 18)
    asm.alu_number(AND, RCX, 1, wide=False)
    asm.mov(slot("access_flag"), RCX)
    keep = asm.fresh("keep")
    asm.jump_if("nz", keep)
    asm.call("drop-user")
    asm.label(keep)


def _find_pending(asm: Routines) -> None:
    """``temporary`` = not 0 if interrupts are on and one waits. RCX is lost."""
    done = asm.fresh("pending")
    asm.mov(RCX, slot("interrupt_flag"))
    asm.alu(OR, RCX, RCX)
    asm.jump_if("z", done)
    asm.mov(RCX, slot("pending"))
    asm.label(done)
    asm.mov(slot("temporary"), RCX)


def flags(asm: Routines) -> None:
    # pushf: the image in ``temporary``, for the block to store
    asm.entries["do_pushf"] = asm.here
    asm.pop_to(slot("block_return"))
    asm.save_flags()
    _image(asm)
    asm.mov(slot("temporary"), R9)
    asm.restore_flags()
    asm.jump_to(slot("block_return"))
    # popf in ring 0: the image in R9; ``temporary`` says whether an interrupt can be taken now
    asm.entries["do_popf"] = asm.here
    asm.pop_to(slot("block_return"))
    asm.save_flags()
    asm.test(R9, RFLAGS_TF)
    asm.jump_if("nz", "interpret-again")
    _take_image(asm)
    _find_pending(asm)
    asm.restore_flags()
    asm.jump_to(slot("block_return"))


def pause(asm: Routines) -> None:
    """PAUSE: of many, one is the host's sched_yield, as who is waited for may have no processor to run on."""
    asm.entries["do_pause"] = asm.here
    asm.pop_to(slot("block_return"))
    asm.mov(RCX, slot("pauses"))
    asm.lea(RCX, Mem(RCX, -1))
    asm.mov(slot("pauses"), RCX)
    asm.raw("e305")  # jrcxz, over the jump
    asm.jump("paused")
    asm.set(slot("pauses"), context.PAUSES)
    asm.save("rax")
    asm.mov(slot("temporary"), R11)
    asm.set(RAX, SCHED_YIELD)
    asm.raw("0f05")  # syscall: RCX and R11 are lost, flags are kept
    asm.mov(R11, slot("temporary"))
    asm.restore("rax")
    asm.label("paused")
    asm.jump_to(slot("block_return"))


def _jump(asm: Routines, user: int) -> None:
    """Go on in guest code at R9."""
    asm.raw(asm.lookup.jump(user))


def _switch(asm: Routines, user: int) -> None:
    kind = "user" if user else "kernel"
    for name in ("cs", "ss"):
        asm.mov(RCX, slot(f"{kind}_{name}"))
        asm.mov(slot(name), RCX)
    asm.set(slot("mode"), USER_64 if user else KERNEL_64)


def _take_pending(asm: Routines, user: int) -> None:
    """Enter guest code at R9, or Python if an interrupt can be taken there."""
    _find_pending(asm)
    asm.restore_flags()
    asm.mov(RCX, slot("temporary"))
    asm.raw("e305")  # jrcxz, over the jump
    asm.jump("take-interrupt")
    _jump(asm, user)


def system(asm: Routines) -> None:
    asm.label("take-interrupt")
    asm.mov(slot("rip"), R9)
    asm.jump("attention-at-rip")

    asm.entries["do_syscall"] = asm.here  # R9: the next instruction; ``rip``: this one
    asm.pop_to(slot("block_return"))
    asm.save_flags()
    asm.op(0x83, 7, slot("fast_system"))
    asm.raw("00")
    asm.jump_if("e", "interpret-again")
    asm.mov(R10, R9)
    _image(asm)
    asm.mov(slot("r11"), R9)
    asm.mov(RCX, slot("syscall_mask"))
    asm.op(0xF7, 2, RCX)  # not
    asm.alu(AND, R9, RCX)
    asm.alu_number(OR, R9, RFLAGS_FIXED, wide=False)
    _take_image(asm)
    _switch(asm, 0)
    asm.mov(R9, slot("lstar"))
    asm.restore_flags()
    _jump(asm, 0)

    asm.entries["do_sysret"] = asm.here
    asm.pop_to(slot("block_return"))
    asm.save_flags()
    asm.op(0x83, 7, slot("fast_system"))
    asm.raw("00")
    asm.jump_if("e", "interpret-again")
    asm.mov(RCX, R10)
    asm.shift(SHR, RCX, 47)
    asm.jump_if("nz", "interpret-again")
    asm.mov(R9, slot("r11"))
    asm.test(R9, RFLAGS_TF | RFLAGS_AC)
    asm.jump_if("nz", "interpret-again")
    _take_image(asm)
    _switch(asm, 1)
    asm.mov(R9, R10)
    _take_pending(asm, 1)

    asm.entries["do_iret"] = asm.here
    asm.pop_to(slot("block_return"))
    asm.save_flags()
    asm.op(0x83, 7, slot("fast_iret"))
    asm.raw("00")
    asm.jump_if("e", "interpret-again")
    asm.mov(RCX, R11)  # the frame of 40 bytes must lie in a page that the TLB has
    asm.shift(SHR, RCX, 12)
    asm.load_word(RCX, RCX)
    asm.mov(R9, Mem(RSP, context.TLB_READ[0], RCX, 8))
    asm.alu(ADD, R9, R11)
    asm.alu_number(ADD, R9, 39)
    asm.shift(SHR, R9, 16)
    asm.jump_if("nz", "interpret-again")
    asm.mov(R9, Mem(RSP, context.TLB_ADDEND[0], RCX, 8))
    asm.alu(ADD, R9, R11)
    asm.mov(RCX, Mem(R9, 16))
    asm.test(RCX, RFLAGS_TF | RFLAGS_NT | 1 << 17)
    asm.jump_if("nz", "interpret-again")
    asm.mov(RCX, Mem(R9, 8))
    asm.alu(CMP, RCX, slot("cs"))
    asm.jump_if("ne", "iret-user")
    asm.mov(RCX, Mem(R9, 32))  # SS is 0 in a handler that was entered from ring 3
    asm.mov(slot("temporary"), RCX)
    asm.alu(OR, RCX, RCX)
    asm.jump_if("z", "iret-kernel")
    asm.alu(CMP, RCX, slot("ss"))
    asm.jump_if("e", "iret-kernel")
    asm.alu(CMP, RCX, slot("kernel_ss"))
    asm.jump_if("ne", "interpret-again")
    asm.op(0x83, 7, slot("fast_system"))
    asm.raw("00")
    asm.jump_if("e", "interpret-again")
    asm.label("iret-kernel")
    asm.mov(RCX, slot("temporary"))
    asm.mov(slot("ss"), RCX)
    asm.mov(R11, Mem(R9, 24))
    asm.mov(RCX, Mem(R9))
    asm.mov(slot("temporary2"), RCX)
    asm.mov(R9, Mem(R9, 16))
    _take_image(asm)
    asm.mov(R9, slot("temporary2"))
    _take_pending(asm, 0)
    asm.label("iret-user")
    asm.alu(CMP, RCX, slot("user_cs"))
    asm.jump_if("ne", "interpret-again")
    asm.op(0x83, 7, slot("fast_system"))
    asm.raw("00")
    asm.jump_if("e", "interpret-again")
    asm.mov(RCX, Mem(R9, 32))
    asm.alu(CMP, RCX, slot("user_ss"))
    asm.jump_if("ne", "interpret-again")
    asm.op(0xF7, 0, Mem(R9, 16), wide=False)
    asm.raw(RFLAGS_AC.to_bytes(4, "little"))
    asm.jump_if("nz", "interpret-again")
    asm.mov(R11, Mem(R9, 24))
    asm.mov(RCX, Mem(R9))
    asm.mov(slot("temporary2"), RCX)
    asm.mov(R9, Mem(R9, 16))
    _take_image(asm)
    _switch(asm, 1)
    asm.mov(R9, slot("temporary2"))
    _take_pending(asm, 1)
