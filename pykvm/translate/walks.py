"""The page walk in machine code (Intel SDM vol. 3 §4.5), for what is common: after a miss of the TLB, and
for a page check. What is not common, and every fault, is left to Python.
"""

from __future__ import annotations

from pykvm.translate import context, crossings
from pykvm.translate.codepage import CHECK_SIZE, HEAD_SIZE, IDS
from pykvm.translate.encode import (
    ADD,
    AND,
    CMP,
    OR,
    R8,
    R9,
    RAX,
    RBX,
    RCX,
    RDI,
    RDX,
    RSI,
    RSP,
    SAR,
    SHL,
    SHR,
    SUB,
    XOR,
    Mem,
)
from pykvm.translate.routines import SAVED, slot
from pykvm.x86.paging import PTE_A, PTE_D, PTE_P, PTE_PS, PTE_RW, PTE_US

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.translate.routines import Routines

NARROW_WALK = 2
"""What ``walk_in_code`` is where 32-bit paging without PAE is on."""
LARGE_RESERVED = 0x3F_E000
"""Bits 13 to 21 of an entry that maps 4 MiB: the address's above 32, and one that is reserved."""


def _to_host(asm: Routines, slow: str) -> None:
    """RDX, a guest-physical address, to R8, the host's, and RDI, the page's number among RAM's."""
    high, done = asm.fresh("high"), asm.fresh("host")
    asm.alu(CMP, RDX, slot("low_end"))
    asm.jump_if("ae", high)
    asm.mov(RDI, RDX)
    asm.shift(SHR, RDI, 12)
    asm.mov(R8, slot("guest_low"))
    asm.alu(ADD, R8, RDX)
    asm.jump(done)
    asm.label(high)
    asm.set(R8, 1 << 32)
    asm.mov(RDI, RDX)
    asm.alu(SUB, RDI, R8)
    asm.jump_if("b", slow)
    asm.alu(CMP, RDI, slot("high_size"))
    asm.jump_if("ae", slow)
    asm.mov(R8, slot("guest_high"))
    asm.alu(ADD, R8, RDI)
    asm.shift(SHR, RDI, 12)
    asm.alu(ADD, RDI, slot("low_pages"))
    asm.label(done)


def _mark(asm: Routines, bit: int, slow: str, wide: bool = True) -> None:
    """Set a bit of the page-table entry at R8, in RAM's page RDI, unless RCX, its value, has it.

    RAX and RSI are lost. An entry that another CPU has changed meanwhile stays as it is. ``wide``: it has 8
    bytes, not 4.
    """
    done = asm.fresh("marked")
    asm.test(RCX, bit)
    asm.jump_if("nz", done)
    asm.mov(RSI, slot("page_flags"))
    asm.op(0x80, 7, Mem(RSI, 0, RDI), wide=False)  # cmp byte, 0
    asm.raw("00")
    asm.jump_if("ne", slow)
    asm.mov(RAX, RCX)
    asm.mov(RSI, RCX)
    asm.alu_number(OR, RSI, bit)
    asm.raw("f0")
    asm.op(b"\x0f\xb1", RSI, Mem(R8), wide=wide)  # lock cmpxchg
    asm.jump_if("ne", slow)
    asm.label(done)


def walker(asm: Routines, user: int, write: int) -> None:
    place = f"{user}{write}"
    slow = f"walk-slow-{place}"
    for size in context.MISS_SIZES:
        asm.entries[f"miss_{place}_{size}"] = asm.label(f"miss-{place}-{size}")
        asm.pop_to(slot("return"))
        asm.set(slot("size"), size - 1)
        if size != context.MISS_SIZES[-1]:
            asm.jump(f"walk-{place}")
    asm.label(f"walk-{place}")
    asm.save_flags()
    asm.save(*SAVED)
    asm.mov(RAX, R9)
    asm.alu(ADD, RAX, slot("size"))
    asm.alu(XOR, RAX, R9)
    asm.shift(SHR, RAX, 12)
    asm.jump_if("nz", f"crossing-{place}")
    asm.op(0x83, 7, slot("walk_in_code"))
    asm.raw("00")
    asm.jump_if("e", slow)
    asm.mov(RAX, R9)  # canonical: bits 47 to 63 are all the same
    asm.shift(SAR, RAX, 47)
    asm.alu_number(ADD, RAX, 1)
    asm.alu_number(CMP, RAX, 1)
    asm.jump_if("a", slow)
    _walk_any(asm, place, slow, write=write, user=user)
    _fill(asm, user, write, slow)
    asm.label(f"crossing-{place}")
    crossings.find(asm, slow)
    asm.label(slow)
    asm.restore(*SAVED)
    asm.restore_flags()
    asm.set(slot("argument"), user | write << 1)
    asm.jump("then-miss")


def _walk_any(
    asm: Routines, place: str, slow: str, *, fetch: bool = False, write: int = 0, user: int = 0
) -> None:
    """Find the leaf entry for R9: to RCX, all entries' AND to RBX, the page to RDX.

    R8 and RDI are of the entry, or, where it needs no mark any more, of the page.
    """
    asm.op(0x83, 7, slot("walk_in_code"))
    asm.raw(bytes((NARROW_WALK,)))
    asm.jump_if("ne", f"wide-{place}")
    _walk_narrow(asm, place, slow, write, user)
    asm.label(f"wide-{place}")
    _walk(asm, place, slow, fetch)


def _walk_narrow(asm: Routines, place: str, slow: str, write: int, user: int) -> None:
    """By the two levels of 4-byte entries of 32-bit paging, of which the first can map 4 MiB."""
    asm.mov(RDX, slot("cr3"))
    for shift in (22, 12):
        asm.mov(RAX, R9)
        asm.shift(SHR, RAX, shift)
        asm.alu_number(AND, RAX, 1023, wide=False)
        _to_host(asm, slow)
        asm.lea(R8, Mem(R8, 0, RAX, 4))
        asm.mov(RCX, Mem(R8), wide=False)
        asm.test(RCX, PTE_P)
        asm.jump_if("z", slow)
        if shift == 22:
            asm.op(0x85, RCX, slot("reserved_bits"))  # test: PS, where CR4.PSE isn't set
            asm.jump_if("nz", slow)
        _mark(asm, PTE_A, slow, wide=False)
        if shift == 22:
            asm.mov(RBX, RCX)
            asm.test(RCX, PTE_PS)
            asm.jump_if("nz", f"large-22-{place}")
        else:
            asm.alu(AND, RBX, RCX)
        asm.mov(RDX, RCX)
        asm.alu_number(AND, RDX, -0x1000)
    asm.jump(f"narrow-leaf-{place}")
    asm.label(f"large-22-{place}")
    asm.test(RCX, LARGE_RESERVED)
    asm.jump_if("nz", slow)
    asm.mov(RDX, RCX)
    asm.shift(SHR, RDX, 22)
    asm.shift(SHL, RDX, 22)
    asm.mov(RAX, R9)
    asm.alu_number(AND, RAX, 0x3F_F000, wide=False)
    asm.alu(OR, RDX, RAX)
    asm.mov(RAX, R9)
    asm.shift(SHR, RAX, 21)
    asm.load_word(RAX, RAX)
    asm.set_byte(Mem(RSP, context.LARGE, RAX), 1)
    asm.alu_number(XOR, RAX, 1, wide=False)  # both halves
    asm.set_byte(Mem(RSP, context.LARGE, RAX), 1)
    asm.label(f"narrow-leaf-{place}")
    if write:
        asm.test(RBX, PTE_US)
        if user:
            asm.jump_if("z", slow)
        else:  # with SMAP Python knows whether this is allowed
            asm.jump_if("z", f"narrow-allowed-{place}")
            asm.op(0x83, 7, slot("smap"))
            asm.raw("00")
            asm.jump_if("ne", slow)
            asm.label(f"narrow-allowed-{place}")
        asm.test(RBX, PTE_RW)
        asm.jump_if("z", slow)
        _mark(asm, PTE_D, slow, wide=False)
        asm.alu_number(OR, RCX, PTE_D)
    _to_host(asm, slow)
    asm.jump(f"leaf-{place}")


def _walk(asm: Routines, place: str, slow: str, fetch: bool = False) -> None:
    """Find the leaf entry for R9: to RCX, its place to R8, all entries' AND to RBX, the page to RDX."""
    asm.mov(RDX, slot("cr3"))
    asm.set(RBX, -1)
    for shift in (39, 30, 21, 12):
        asm.mov(RAX, R9)
        asm.shift(SHR, RAX, shift)
        asm.alu_number(AND, RAX, 511, wide=False)
        _to_host(asm, slow)
        asm.lea(R8, Mem(R8, 0, RAX, 8))
        asm.mov(RCX, Mem(R8))
        asm.test(RCX, PTE_P)
        asm.jump_if("z", slow)
        asm.op(0x85, RCX, slot("reserved_bits"))  # test
        asm.jump_if("nz", slow)
        if fetch:
            asm.alu(OR, RCX, RCX)
            asm.jump_if("s", slow)  # XD
        _mark(asm, PTE_A, slow)
        asm.alu(AND, RBX, RCX)
        if shift > 12:
            asm.test(RCX, PTE_PS)
            asm.jump_if("nz", slow if shift == 39 else f"large-{shift}-{place}")
        asm.mov(RDX, RCX)  # bits 12 to 51
        asm.shift(SHL, RDX, 12)
        asm.shift(SHR, RDX, 24)
        asm.shift(SHL, RDX, 12)
    asm.jump(f"leaf-{place}")
    for shift in (30, 21):
        asm.label(f"large-{shift}-{place}")
        asm.test(RCX, (1 << shift) - 1 & ~0x1FFF)  # reserved
        asm.jump_if("nz", slow)
        asm.mov(RDX, RCX)
        asm.shift(SHL, RDX, 12)
        asm.shift(SHR, RDX, 12 + shift)
        asm.shift(SHL, RDX, shift)
        asm.mov(RAX, R9)
        asm.alu_number(AND, RAX, (1 << shift) - 1 & ~0xFFF, wide=False)
        asm.alu(OR, RDX, RAX)
        asm.mov(RAX, R9)
        asm.shift(SHR, RAX, 21)
        asm.load_word(RAX, RAX)
        asm.set_byte(Mem(RSP, context.LARGE, RAX), 1)
        asm.jump(f"leaf-{place}")
    asm.label(f"leaf-{place}")


def _fill(asm: Routines, user: int, write: int, slow: str) -> None:
    """RCX is the leaf entry, at R8; RBX all entries' AND; RDX the page: into the TLB, and back."""
    place = f"{user}{write}"
    asm.test(RBX, PTE_US)
    if user:
        asm.jump_if("z", slow)
    else:
        asm.jump_if("z", f"allowed-{place}")
        asm.op(0x83, 7, slot("smap"))
        asm.raw("00")
        asm.jump_if("e", f"allowed-{place}")
        asm.op(0x83, 7, slot("access_flag"))
        asm.raw("00")
        asm.jump_if("e", slow)
        asm.mov(RAX, R9)
        asm.shift(SHR, RAX, 12)
        asm.load_word(RAX, RAX)
        asm.mov(slot("walk_page"), RDI)  # of the entry, whose page's flag is asked for yet
        asm.log("user_log", context.USER_LOG)
        asm.mov(RDI, slot("walk_page"))
        asm.label(f"allowed-{place}")
    if write:
        asm.test(RBX, PTE_RW)
        asm.jump_if("z", slow)
        _mark(asm, PTE_D, slow)
        asm.alu_number(OR, RCX, PTE_D)
    _to_host(asm, slow)
    asm.mov(slot("walk_page"), RDI)
    asm.mov(RAX, R9)
    asm.shift(SHR, RAX, 12)
    asm.load_word(RAX, RAX)
    if write:
        _note_writer(asm, user)
        asm.jump_if("nz", slow)
        _allow_reads(asm, user)
    else:  # a page that is dirty already may be written as well, unless writes must be seen
        _allow_reads(asm, user)
        asm.test(RCX, PTE_D)
        asm.jump_if("z", f"read-only-{place}")
        asm.test(RBX, PTE_RW)
        asm.jump_if("z", f"read-only-{place}")
        _note_writer(asm, user)
        asm.jump_if("nz", f"read-only-{place}")
        asm.mov(Mem(RSP, context.TLB_WRITE[user], RAX, 8), R8)
        asm.jump(f"log-{place}")
        asm.label(f"read-only-{place}")
        asm.invalid(R8)
    asm.mov(Mem(RSP, context.TLB_WRITE[user], RAX, 8), R8)
    asm.label(f"log-{place}")
    if user:
        asm.alu_number(ADD, RAX, 3 * context.ENTRIES, wide=False)
    asm.op(0x85, RCX, slot("global_mask"))
    asm.jump_if("nz", f"global-{place}")
    asm.log("local_log", context.LOCAL_LOG)
    asm.jump(f"filled-{place}")
    asm.label(f"global-{place}")
    asm.log("global_log", context.GLOBAL_LOG)
    asm.label(f"filled-{place}")
    asm.restore(*SAVED)
    asm.restore_flags()
    asm.jump_to(slot("return"))


def _allow_reads(asm: Routines, user: int) -> None:
    """The TLB's entry RAX is for the page of R9, at R8. R8 = its tag; RDI is lost."""
    asm.mov(RDI, R9)
    asm.alu_number(AND, RDI, -0x1000)
    asm.alu(SUB, R8, RDI)
    asm.mov(Mem(RSP, context.TLB_ADDEND[user], RAX, 8), R8)
    asm.set(R8, context.TAG_BIAS)
    asm.alu(SUB, R8, RDI)
    asm.mov(Mem(RSP, context.TLB_READ[user], RAX, 8), R8)


def _note_writer(asm: Routines, user: int) -> None:
    """Remember of the page which TLB entry, RAX, can write it (plus 1; ~0: several can).

    Flags: not zero if its writes must be seen. Who wants to see them sets the page's flag and then looks for
    this note; one of the two is seen, as XCHG is a fence. RDX, RSI and RDI are lost.
    """
    done = asm.fresh("noted")
    asm.mov(RSI, slot("walk_page"))
    asm.shift(SHL, RSI, 2)
    asm.alu(ADD, RSI, slot("page_writers"))
    asm.mov(RDI, Mem(RSI), wide=False)
    asm.lea(RDX, Mem(RAX, 3 * context.ENTRIES * user + 1))
    asm.alu(OR, RDI, RDI, wide=False)
    asm.jump_if("z", done)
    asm.alu(CMP, RDI, RDX, wide=False)
    asm.jump_if("e", done)
    asm.set(RDX, -1)
    asm.label(done)
    asm.op(0x87, RDX, Mem(RSI), wide=False)  # xchg
    asm.mov(RSI, slot("page_flags"))
    asm.mov(RDI, slot("walk_page"))
    asm.load_byte(RSI, Mem(RSI, 0, RDI))
    asm.alu(OR, RSI, RSI, wide=False)


def page_checks(asm: Routines) -> None:
    """A page check that failed: whether the page is mapped to where its code comes from all the same.

    Before the check, whose call comes back here, lie the page's address and its id (codepage.py).
    """
    asm.entries["page_check"] = asm.here
    asm.pop_to(slot("return"))
    asm.save_flags()
    asm.save(*SAVED)
    asm.mov(RAX, slot("return"))
    asm.mov(R9, Mem(RAX, -CHECK_SIZE - HEAD_SIZE))
    asm.mov(RAX, Mem(RAX, -CHECK_SIZE - HEAD_SIZE + 8), wide=False)
    asm.mov(slot("walk_page"), RAX)
    asm.op(0x83, 7, slot("walk_in_code"))
    asm.raw("00")
    asm.jump_if("e", "check-slow")
    asm.alu_number(CMP, RAX, IDS)
    asm.jump_if("ae", "check-slow")
    _walk_any(asm, "check", "check-slow", fetch=True)
    asm.test_byte(slot("mode"), 1)
    asm.jump_if("nz", "check-user")
    asm.test(RBX, PTE_US)
    asm.jump_if("nz", "check-slow")
    asm.jump("check-allowed")
    asm.label("check-user")
    asm.test(RBX, PTE_US)
    asm.jump_if("z", "check-slow")
    asm.label("check-allowed")
    asm.mov(RAX, slot("walk_page"))
    asm.mov(RSI, slot("code_gpas"))
    asm.alu_number(OR, RDX, 1)
    asm.alu(CMP, RDX, Mem(RSI, 0, RAX, 8))
    asm.jump_if("ne", "check-slow")
    asm.mov(RDX, RAX)
    asm.mov(RAX, R9)
    asm.shift(SHR, RAX, 12)
    asm.load_word(RAX, RAX)
    asm.mov(Mem(RSP, context.PAGE_CHECKS, RAX, 4), RDX, wide=False)
    asm.op(0x85, RCX, slot("global_mask"))
    asm.jump_if("nz", "check-done")
    asm.log("check_log", context.CHECK_LOG)
    asm.label("check-done")
    asm.restore(*SAVED)
    asm.restore_flags()
    asm.jump_to(slot("return"))
    asm.label("check-slow")
    asm.restore(*SAVED)
    asm.restore_flags()
    asm.jump("then-page-check")


def slow_lookup(asm: Routines, user: int, write: int, size: int) -> None:
    """A lookup for hosts without BMI2. Behind its call is one of ``addend``, to which a miss comes back."""
    place = f"{user}{write}-{size}"
    asm.entries[f"lookup_{user}{write}_{size}"] = asm.here
    asm.pop_to(slot("return"))
    asm.save_flags()
    asm.mov(RCX, R9)
    asm.shift(SHR, RCX, 12)
    asm.load_word(RCX, RCX)
    asm.save("rax")
    asm.mov(RAX, Mem(RSP, (context.TLB_WRITE if write else context.TLB_READ)[user], RCX, 8))
    asm.alu(ADD, RAX, R9)
    asm.alu_number(ADD, RAX, size - 1)
    asm.shift(SHR, RAX, 16)
    asm.restore("rax")
    asm.jump_if("nz", f"lookup-miss-{place}")
    asm.mov(RCX, Mem(RSP, context.TLB_ADDEND[user], RCX, 8))
    asm.alu_number(ADD, slot("return"), 7)  # the length of the call
    asm.restore_flags()
    asm.jump_to(slot("return"))
    asm.label(f"lookup-miss-{place}")
    asm.restore_flags()
    asm.push_from(slot("return"))
    asm.jump(f"miss-{place}")


def addend(asm: Routines, user: int) -> None:
    """RCX = what to add to R9, whose page has an entry."""
    asm.entries[f"addend_{user}"] = asm.here
    asm.pop_to(slot("return"))
    asm.save_flags()
    asm.mov(RCX, R9)
    asm.shift(SHR, RCX, 12)
    asm.load_word(RCX, RCX)
    asm.mov(RCX, Mem(RSP, context.TLB_ADDEND[user], RCX, 8))
    asm.restore_flags()
    asm.jump_to(slot("return"))
