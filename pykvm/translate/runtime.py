"""The routines that emitted code calls, in machine code: the way in and out, and what is too long to inline.

All are entered with RSP at the context (context.py), by a call through one of its slots, and first take the
return address off the stack into ``return`` (or ``block_return``, where a routine has lookups of its own),
so that RSP is the context again. They keep the guest's registers and flags.

An address of a routine is absolute, in the context: emitted blocks hold none, and can be kept on disk.
"""

from __future__ import annotations

from pykvm.translate import context
from pykvm.translate.codepage import CHECK_SIZE, HEAD_SIZE, IDS
from pykvm.translate.context import REGISTER_SLOT, SLOT
from pykvm.translate.encode import (
    ADD,
    AND,
    CMP,
    OR,
    R8,
    R9,
    R10,
    R11,
    RAX,
    RBP,
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
    Code,
    Mem,
)  # fmt: skip
from pykvm.translate.lookup import Lookup
from pykvm.x86.paging import PTE_A, PTE_D, PTE_P, PTE_PS, PTE_RW, PTE_US
from pykvm.x86.registers import RFLAGS_AC, RFLAGS_DF, RFLAGS_FIXED, RFLAGS_IF, RFLAGS_NT, RFLAGS_TF

ARITHMETIC = 0xCD5  # CF PF AF ZF SF DF OF: those that live in the host's flags
SYSTEM = 0x207000  # IOPL NT ID and what else lives in the context's system_flags
FLUSH_LOCAL, FLUSH_ALL = 1, 2  # arguments of EVENT

_SAVED = {"rax": RAX, "rdx": RDX, "rbx": RBX, "rsi": RSI, "rdi": RDI, "r8": R8}
_CALLEE_SAVED = (RBX, RBP, 12, 13, 14, 15)


def slot(name: str) -> Mem:
    return Mem(RSP, SLOT[name])


class Runtime:
    """Assembles the routines at ``origin``; ``code`` is their bytes, ``entries`` what the slots hold."""

    def __init__(self, origin: int, kernel_mode: int, user_mode: int, lookup: Lookup, limit: int) -> None:
        self.asm = Code(origin)
        self.entries: dict[str, int] = {}
        self._kernel_mode, self._user_mode = kernel_mode, user_mode
        self._lookup = lookup
        self._names = 0
        asm = self.asm
        self._leave()
        for number, reason in enumerate(context.REASONS):
            self._exit(reason, number)
        for name, reason in (
            *(("chain", "chain"), ("jump_miss", "jump"), ("leave_for_attention", "attention")),
            *(("stale", "stale"), ("interpret", "interpret"), ("sti", "sti")),
            *(("do_port_out", "port-out"), ("do_port_in", "port-in"), ("do_bounce", "bounce")),
        ):
            self.entries[name] = asm.address(f"exit-{reason}")
        self.entries["leave_for_attention_at"] = asm.here
        asm.pop_to(slot("return"))
        asm.label("attention-at-rip")
        asm.set(slot("reason"), context.ATTENTION)
        asm.set(slot("return"), 0)  # ``rip`` says where
        asm.jump("leave")
        for user in (0, 1):
            self._addend(user)
            for write in (0, 1):
                self._walker(user, write)
                for size in context.MISS_SIZES:
                    self._slow_lookup(user, write, size)
        self._page_checks()
        self._flags()
        self._tlb()
        self._strings()
        self._system()
        self.enter = self._enter()
        self.signal_handler = self._signal_handler(origin, limit)
        self.code = asm.finish()

    # The way in and out

    def _enter(self) -> int:
        """``enter(context)``: a C function that runs emitted code at ``resume`` until it leaves."""
        asm = self.asm
        start = asm.label("enter")
        for reg in _CALLEE_SAVED:
            asm.push(reg)
        asm.mov(Mem(RDI, SLOT["host_sp"]), RSP)
        asm.mov(RSP, RDI)
        asm.op(b"\x0f\xae", 1, slot("fpu"))  # fxrstor64
        asm.push_from(slot("flags"))
        asm.raw("9d")  # popfq
        for number, host in enumerate(context.HOST_REGISTER):
            if host is not None:
                asm.mov(host, Mem(RSP, REGISTER_SLOT[number]))
        asm.mov(R9, slot("scratch"))
        asm.jump_to(slot("resume"))
        return start

    def _leave(self) -> None:
        asm = self.asm
        asm.label("leave")
        for number, host in enumerate(context.HOST_REGISTER):
            if host is not None:
                asm.mov(Mem(RSP, REGISTER_SLOT[number]), host)
        asm.mov(slot("scratch"), R9)
        asm.raw("9c")  # pushfq
        asm.pop_to(slot("flags"))
        asm.raw("fc")  # cld
        asm.op(b"\x0f\xae", 0, slot("fpu"))  # fxsave64
        asm.op(b"\x0f\xae", 2, slot("host_mxcsr"), wide=False)  # ldmxcsr
        asm.raw("dbe3")  # fninit
        asm.mov(RSP, slot("host_sp"))
        for reg in reversed(_CALLEE_SAVED):
            asm.pop(reg)
        asm.ret()

    def _exit(self, name: str, reason: int) -> None:
        """Leave for ``reason``; ``then-`` is the same with ``return`` set already."""
        asm = self.asm
        asm.label(f"exit-{name}")
        asm.pop_to(slot("return"))
        asm.label(f"then-{name}")
        asm.set(slot("reason"), reason)
        asm.jump("leave")

    def _event(self, argument: int) -> None:
        self.asm.set(slot("argument"), argument)
        self.asm.jump("then-event")

    # Pieces

    def _fresh(self, name: str) -> str:
        self._names += 1
        return f"{name}.{self._names}"

    def _save(self, *names: str) -> None:
        for name in names:
            self.asm.mov(slot(f"save_{name}"), _SAVED[name])

    def _restore(self, *names: str) -> None:
        for name in names:
            self.asm.mov(_SAVED[name], slot(f"save_{name}"))

    def _save_flags(self) -> None:
        self.asm.raw("9c")
        self.asm.pop_to(slot("saved_flags"))

    def _restore_flags(self) -> None:
        self.asm.push_from(slot("saved_flags"))
        self.asm.raw("9d")

    def _to_host(self, slow: str) -> None:
        """RDX, a guest-physical address, to R8, the host's, and RDI, the page's number among RAM's."""
        asm = self.asm
        high, done = self._fresh("high"), self._fresh("host")
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

    def _mark(self, bit: int, slow: str) -> None:
        """Set a bit of the page-table entry at R8, in RAM's page RDI, unless RCX, its value, has it."""
        asm = self.asm
        done = self._fresh("marked")
        asm.test(RCX, bit)
        asm.jump_if("nz", done)
        asm.mov(RSI, slot("page_flags"))
        asm.op(0x80, 7, Mem(RSI, 0, RDI), wide=False)  # cmp byte, 0
        asm.raw("00")
        asm.jump_if("ne", slow)
        asm.raw("f0")
        asm.op(0x80, 1, Mem(R8), wide=False)  # lock or byte, bit
        asm.raw(bytes((bit,)))
        asm.label(done)

    # A miss of the TLB: the page walk (Intel SDM vol. 3 §4.5), for what is common

    def _walker(self, user: int, write: int) -> None:
        asm = self.asm
        place = f"{user}{write}"
        slow = f"walk-slow-{place}"
        for size in context.MISS_SIZES:
            self.entries[f"miss_{place}_{size}"] = asm.label(f"miss-{place}-{size}")
            asm.pop_to(slot("return"))
            asm.set(slot("size"), size - 1)
            if size != context.MISS_SIZES[-1]:
                asm.jump(f"walk-{place}")
        asm.label(f"walk-{place}")
        self._save_flags()
        self._save(*_SAVED)
        asm.op(0x83, 7, slot("walk_in_code"))
        asm.raw("00")
        asm.jump_if("e", slow)
        asm.mov(RAX, R9)  # an access across pages is Python's
        asm.alu(ADD, RAX, slot("size"))
        asm.alu(XOR, RAX, R9)
        asm.shift(SHR, RAX, 12)
        asm.jump_if("nz", slow)
        asm.mov(RAX, R9)  # canonical: bits 47 to 63 are all the same
        asm.shift(SAR, RAX, 47)
        asm.alu_number(ADD, RAX, 1)
        asm.alu_number(CMP, RAX, 1)
        asm.jump_if("a", slow)
        self._walk(place, slow)
        self._fill(user, write, slow)
        asm.label(slow)
        self._restore(*_SAVED)
        self._restore_flags()
        asm.set(slot("argument"), user | write << 1)
        asm.jump("then-miss")

    def _walk(self, place: str, slow: str, fetch: bool = False) -> None:
        """Find the leaf entry for R9: to RCX, its place to R8, all entries' AND to RBX, the page to RDX."""
        asm = self.asm
        asm.mov(RDX, slot("cr3"))
        asm.set(RBX, -1)
        for shift in (39, 30, 21, 12):
            asm.mov(RAX, R9)
            asm.shift(SHR, RAX, shift)
            asm.alu_number(AND, RAX, 511, wide=False)
            self._to_host(slow)
            asm.lea(R8, Mem(R8, 0, RAX, 8))
            asm.mov(RCX, Mem(R8))
            asm.test(RCX, PTE_P)
            asm.jump_if("z", slow)
            asm.op(0x85, RCX, slot("reserved_bits"))  # test
            asm.jump_if("nz", slow)
            if fetch:
                asm.alu(OR, RCX, RCX)
                asm.jump_if("s", slow)  # XD
            self._mark(PTE_A, slow)
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

    def _page_checks(self) -> None:
        """A page check that failed: whether the page is mapped to where its code comes from all the same.

        Before the check, whose call comes back here, lie the page's address and its id (codepage.py).
        """
        asm = self.asm
        self.entries["page_check"] = asm.here
        asm.pop_to(slot("return"))
        self._save_flags()
        self._save(*_SAVED)
        asm.mov(RAX, slot("return"))
        asm.mov(R9, Mem(RAX, -CHECK_SIZE - HEAD_SIZE))
        asm.mov(RAX, Mem(RAX, -CHECK_SIZE - HEAD_SIZE + 8), wide=False)
        asm.mov(slot("walk_page"), RAX)
        asm.op(0x83, 7, slot("walk_in_code"))
        asm.raw("00")
        asm.jump_if("e", "check-slow")
        asm.alu_number(CMP, RAX, IDS)
        asm.jump_if("ae", "check-slow")
        self._walk("check", "check-slow", fetch=True)
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
        self._log("check_log", context.CHECK_LOG)
        asm.label("check-done")
        self._restore(*_SAVED)
        self._restore_flags()
        asm.jump_to(slot("return"))
        asm.label("check-slow")
        self._restore(*_SAVED)
        self._restore_flags()
        asm.jump("then-page-check")

    def _fill(self, user: int, write: int, slow: str) -> None:
        """RCX is the leaf entry, at R8; RBX all entries' AND; RDX the page: into the TLB, and back."""
        asm = self.asm
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
            self._log("user_log", context.USER_LOG)
            asm.label(f"allowed-{place}")
        if write:
            asm.test(RBX, PTE_RW)
            asm.jump_if("z", slow)
            self._mark(PTE_D, slow)
            asm.alu_number(OR, RCX, PTE_D)
        self._to_host(slow)
        asm.mov(RSI, slot("page_flags"))
        asm.load_byte(RSI, Mem(RSI, 0, RDI))
        asm.mov(slot("walk_page"), RDI)
        if write:
            asm.alu(OR, RSI, RSI, wide=False)
            asm.jump_if("nz", slow)
        asm.mov(RAX, R9)
        asm.shift(SHR, RAX, 12)
        asm.load_word(RAX, RAX)
        asm.mov(RDI, R9)
        asm.alu_number(AND, RDI, -0x1000)
        asm.alu(SUB, R8, RDI)
        asm.mov(Mem(RSP, context.TLB_ADDEND[user], RAX, 8), R8)
        asm.set(R8, context.TAG_BIAS)
        asm.alu(SUB, R8, RDI)
        asm.mov(Mem(RSP, context.TLB_READ[user], RAX, 8), R8)
        if not write:  # a page that is dirty already may be written as well, unless writes must be seen
            asm.alu(OR, RSI, RSI, wide=False)
            asm.jump_if("nz", f"read-only-{place}")
            asm.test(RCX, PTE_D)
            asm.jump_if("z", f"read-only-{place}")
            asm.test(RBX, PTE_RW)
            asm.jump_if("nz", f"both-{place}")
            asm.label(f"read-only-{place}")
            self._invalid(R8)
            asm.mov(Mem(RSP, context.TLB_WRITE[user], RAX, 8), R8)
            if user:
                asm.alu_number(ADD, RAX, 3 * context.ENTRIES, wide=False)
            asm.jump(f"log-{place}")
            asm.label(f"both-{place}")
        asm.mov(Mem(RSP, context.TLB_WRITE[user], RAX, 8), R8)
        if user:
            asm.alu_number(ADD, RAX, 3 * context.ENTRIES, wide=False)
        self._note_writer()
        asm.label(f"log-{place}")
        asm.op(0x85, RCX, slot("global_mask"))
        asm.jump_if("nz", f"global-{place}")
        self._log("local_log", context.LOCAL_LOG)
        asm.jump(f"filled-{place}")
        asm.label(f"global-{place}")
        self._log("global_log", context.GLOBAL_LOG)
        asm.label(f"filled-{place}")
        self._restore(*_SAVED)
        self._restore_flags()
        asm.jump_to(slot("return"))

    def _slow_lookup(self, user: int, write: int, size: int) -> None:
        """A lookup for hosts without BMI2. Behind its call is one of ``addend``, to which a miss comes back."""
        asm = self.asm
        place = f"{user}{write}-{size}"
        self.entries[f"lookup_{user}{write}_{size}"] = asm.here
        asm.pop_to(slot("return"))
        self._save_flags()
        asm.mov(RCX, R9)
        asm.shift(SHR, RCX, 12)
        asm.load_word(RCX, RCX)
        self._save("rax")
        asm.mov(RAX, Mem(RSP, (context.TLB_WRITE if write else context.TLB_READ)[user], RCX, 8))
        asm.alu(ADD, RAX, R9)
        asm.alu_number(ADD, RAX, size - 1)
        asm.shift(SHR, RAX, 16)
        self._restore("rax")
        asm.jump_if("nz", f"lookup-miss-{place}")
        asm.mov(RCX, Mem(RSP, context.TLB_ADDEND[user], RCX, 8))
        asm.alu_number(ADD, slot("return"), 7)  # the length of the call
        self._restore_flags()
        asm.jump_to(slot("return"))
        asm.label(f"lookup-miss-{place}")
        self._restore_flags()
        asm.push_from(slot("return"))
        asm.jump(f"miss-{place}")

    def _addend(self, user: int) -> None:
        """RCX = what to add to R9, whose page has an entry."""
        asm = self.asm
        self.entries[f"addend_{user}"] = asm.here
        asm.pop_to(slot("return"))
        self._save_flags()
        asm.mov(RCX, R9)
        asm.shift(SHR, RCX, 12)
        asm.load_word(RCX, RCX)
        asm.mov(RCX, Mem(RSP, context.TLB_ADDEND[user], RCX, 8))
        self._restore_flags()
        asm.jump_to(slot("return"))

    def _invalid(self, reg: int) -> None:
        """``reg`` = a tag that no access through the entry RAX can match."""
        asm = self.asm
        asm.mov(reg, RAX, wide=False)
        asm.alu_number(XOR, reg, 0x8000, wide=False)
        asm.shift(SHL, reg, 12)
        asm.op(0xF7, 3, reg)  # neg

    def _note_writer(self) -> None:
        """Remember of the page which TLB entry, RAX, can write it (plus 1; ~0: several can)."""
        asm = self.asm
        several, done = self._fresh("several"), self._fresh("noted")
        asm.mov(RSI, slot("walk_page"))
        asm.shift(SHL, RSI, 2)
        asm.alu(ADD, RSI, slot("page_writers"))
        asm.mov(RDI, Mem(RSI), wide=False)
        asm.lea(R8, Mem(RAX, 1))
        asm.alu(OR, RDI, RDI, wide=False)
        asm.jump_if("z", done)
        asm.alu(CMP, RDI, R8, wide=False)
        asm.jump_if("e", done)
        asm.label(several)
        asm.set(R8, -1)
        asm.label(done)
        asm.mov(Mem(RSI), R8, wide=False)

    def _log(self, count: str, log: int) -> None:
        """Append EAX to a log; a full one stays full, and then everything is dropped."""
        asm = self.asm
        full = self._fresh("full")
        asm.mov(RDI, slot(count))
        asm.alu_number(CMP, RDI, context.LOG_ENTRIES)
        asm.jump_if("ae", full)
        asm.mov(Mem(RSP, log, RDI, 4), RAX, wide=False)
        asm.alu_number(ADD, RDI, 1)
        asm.mov(slot(count), RDI)
        asm.label(full)

    # Flags

    def _image(self) -> None:
        """R9 = RFLAGS as the guest sees them, of which the host's are saved. RCX is lost."""
        asm = self.asm
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

    def _take_image(self) -> None:
        """R9, an image of RFLAGS, to the context and to ``saved_flags``. RCX and host flags are lost."""
        asm = self.asm
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
        keep = self._fresh("keep")
        asm.jump_if("nz", keep)
        asm.call("drop-user")
        asm.label(keep)

    def _flags(self) -> None:
        asm = self.asm
        # pushf: the image in ``temporary``, for the block to store
        self.entries["do_pushf"] = asm.here
        asm.pop_to(slot("block_return"))
        self._save_flags()
        self._image()
        asm.mov(slot("temporary"), R9)
        self._restore_flags()
        asm.jump_to(slot("block_return"))
        # popf in ring 0: the image in R9; ``temporary`` says whether an interrupt can be taken now
        self.entries["do_popf"] = asm.here
        asm.pop_to(slot("block_return"))
        self._save_flags()
        asm.test(R9, RFLAGS_TF)
        asm.jump_if("nz", "popf-slow")
        self._take_image()
        self._find_pending()
        self._restore_flags()
        asm.jump_to(slot("block_return"))
        asm.label("popf-slow")
        self._restore_flags()
        asm.jump("then-interpret")
        # clac: user pages are hidden from ring 0 again
        self.entries["do_clac"] = asm.here
        asm.pop_to(slot("block_return"))
        self._save_flags()
        asm.set(slot("access_flag"), 0)
        asm.call("drop-user")
        self._restore_flags()
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
        self._invalid(RBX)
        asm.mov(Mem(RSP, 8 + context.TLB_READ[0], RAX, 8), RBX)
        asm.mov(Mem(RSP, 8 + context.TLB_WRITE[0], RAX, 8), RBX)
        asm.alu_number(SUB, RCX, 1)
        asm.jump_if("nz", "drop-user-next")
        asm.mov(Mem(RSP, 8 + SLOT["user_log"]), RCX)
        asm.mov(RAX, Mem(RSP, 8 + SLOT["save_rax"]))
        asm.mov(RBX, Mem(RSP, 8 + SLOT["save_rbx"]))
        asm.label("drop-user-none")
        asm.ret()

    def _find_pending(self) -> None:
        """``temporary`` = not 0 if interrupts are on and one waits. RCX is lost."""
        asm = self.asm
        done = self._fresh("pending")
        asm.mov(RCX, slot("interrupt_flag"))
        asm.alu(OR, RCX, RCX)
        asm.jump_if("z", done)
        asm.mov(RCX, slot("pending"))
        asm.label(done)
        asm.mov(slot("temporary"), RCX)

    # The TLB

    def _tlb(self) -> None:
        asm = self.asm
        self.entries["do_cr3_write"] = asm.here  # R9: the new value; ``rip`` is set
        asm.pop_to(slot("block_return"))
        self._save_flags()
        asm.op(0x83, 7, slot("walk_in_code"))
        asm.raw("00")
        asm.jump_if("e", "popf-slow")
        asm.op(0x85, R9, slot("reserved_bits"))
        asm.jump_if("nz", "popf-slow")
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
        self._save("rax", "rbx")
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
        self._restore("rax", "rbx")
        self._restore_flags()
        asm.jump_to(slot("block_return"))
        asm.label("flush-all")
        self._restore_flags()
        self._event(FLUSH_LOCAL)

        self.entries["do_invlpg"] = asm.here  # R9: the address
        asm.pop_to(slot("block_return"))
        self._save_flags()
        self._save("rax", "rbx")
        asm.mov(RAX, R9)
        asm.shift(SHR, RAX, 21)
        asm.load_word(RAX, RAX)
        asm.op(0x80, 7, Mem(RSP, context.LARGE, RAX), wide=False)
        asm.raw("00")
        asm.jump_if("ne", "invlpg-large")
        asm.mov(RAX, R9)
        asm.shift(SHR, RAX, 12)
        asm.load_word(RAX, RAX)
        self._invalid(RBX)
        for start in (*context.TLB_READ, *context.TLB_WRITE):
            asm.mov(Mem(RSP, start, RAX, 8), RBX)
        asm.alu(XOR, RBX, RBX, wide=False)
        asm.mov(Mem(RSP, context.PAGE_CHECKS, RAX, 4), RBX, wide=False)
        self._restore("rax", "rbx")
        self._restore_flags()
        asm.jump_to(slot("block_return"))
        asm.label("invlpg-large")
        self._restore("rax", "rbx")
        self._restore_flags()
        self._event(FLUSH_ALL)

    # REP MOVS and REP STOS, forwards: a page's rest at a time

    def _strings(self) -> None:
        for user in (0, 1):
            self._rep("movs", user)
            self._rep("stos", user)

    def _rep(self, name: str, user: int) -> None:
        """``element`` is the size's logarithm, ``rip`` the instruction."""
        asm = self.asm
        moves = name == "movs"
        place = f"{name}-{user}"
        self.entries[f"do_rep_{name}_{user}"] = asm.here
        asm.pop_to(slot("block_return"))
        self._save_flags()
        asm.op(0xF7, 0, slot("saved_flags"), wide=False)
        asm.raw(RFLAGS_DF.to_bytes(4, "little"))
        asm.jump_if("nz", "popf-slow")
        self._restore_flags()
        asm.label(f"{place}-again")
        asm.mov(RCX, R10)
        asm.raw("e305")  # jrcxz: more than an 8-bit jump needs lies ahead
        asm.jump(f"{place}-more")
        asm.jump_to(slot("block_return"))
        asm.label(f"{place}-more")
        asm.mov(R9, RDI)
        asm.raw(self._lookup.code(user, 1, 1))
        asm.mov(slot("temporary"), RCX)
        if moves:
            asm.mov(R9, RSI)
            asm.raw(self._lookup.code(user, 0, 1))
            asm.mov(slot("temporary2"), RCX)
        self._save_flags()
        self._save("rax", "rdx")
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
        asm.raw("48d3e8")  # shr rax, cl
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
            self._restore("rax")  # the value to store
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
        self._restore("rax", "rdx")
        self._restore_flags()
        asm.mov(RCX, slot("attention"))
        asm.raw("e305")
        asm.jump("attention-at-rip")
        asm.jump(f"{place}-again")
        asm.label(f"{place}-edge")  # an element across two pages
        self._restore("rax", "rdx")
        self._restore_flags()
        asm.jump("then-interpret")

    # SYSCALL, SYSRET, IRET in 64-bit mode with the selectors that STAR tells

    def _jump(self, user: int) -> None:
        """Go on in guest code at R9."""
        self.asm.raw(self._lookup.jump(user))

    def _switch(self, user: int) -> None:
        asm = self.asm
        kind = "user" if user else "kernel"
        for name in ("cs", "ss"):
            asm.mov(RCX, slot(f"{kind}_{name}"))
            asm.mov(slot(name), RCX)
        asm.set(slot("mode"), self._user_mode if user else self._kernel_mode)

    def _take_pending(self, user: int) -> None:
        """Enter guest code at R9, or Python if an interrupt can be taken there."""
        asm = self.asm
        self._find_pending()
        self._restore_flags()
        asm.mov(RCX, slot("temporary"))
        asm.raw("e305")  # jrcxz, over the jump
        asm.jump("take-interrupt")
        self._jump(user)

    def _system(self) -> None:
        asm = self.asm
        asm.label("take-interrupt")
        asm.mov(slot("rip"), R9)
        asm.jump("then-sti")

        self.entries["do_syscall"] = asm.here  # R9: the next instruction; ``rip``: this one
        asm.pop_to(slot("block_return"))
        self._save_flags()
        asm.op(0x83, 7, slot("fast_system"))
        asm.raw("00")
        asm.jump_if("e", "popf-slow")
        asm.mov(R10, R9)
        self._image()
        asm.mov(slot("r11"), R9)
        asm.mov(RCX, slot("syscall_mask"))
        asm.op(0xF7, 2, RCX)  # not
        asm.alu(AND, R9, RCX)
        asm.alu_number(OR, R9, RFLAGS_FIXED, wide=False)
        self._take_image()
        self._switch(0)
        asm.mov(R9, slot("lstar"))
        self._restore_flags()
        self._jump(0)

        self.entries["do_sysret"] = asm.here
        asm.pop_to(slot("block_return"))
        self._save_flags()
        asm.op(0x83, 7, slot("fast_system"))
        asm.raw("00")
        asm.jump_if("e", "popf-slow")
        asm.mov(RCX, R10)
        asm.shift(SHR, RCX, 47)
        asm.jump_if("nz", "popf-slow")
        asm.mov(R9, slot("r11"))
        asm.test(R9, RFLAGS_TF | RFLAGS_AC)
        asm.jump_if("nz", "popf-slow")
        self._take_image()
        self._switch(1)
        asm.mov(R9, R10)
        self._take_pending(1)

        self.entries["do_iret"] = asm.here
        asm.pop_to(slot("block_return"))
        self._save_flags()
        asm.op(0x83, 7, slot("fast_iret"))
        asm.raw("00")
        asm.jump_if("e", "popf-slow")
        asm.mov(RCX, R11)  # the frame of 40 bytes must lie in a page that the TLB has
        asm.shift(SHR, RCX, 12)
        asm.load_word(RCX, RCX)
        asm.mov(R9, Mem(RSP, context.TLB_READ[0], RCX, 8))
        asm.alu(ADD, R9, R11)
        asm.alu_number(ADD, R9, 39)
        asm.shift(SHR, R9, 16)
        asm.jump_if("nz", "popf-slow")
        asm.mov(R9, Mem(RSP, context.TLB_ADDEND[0], RCX, 8))
        asm.alu(ADD, R9, R11)
        asm.mov(RCX, Mem(R9, 16))
        asm.test(RCX, RFLAGS_TF | RFLAGS_NT | 1 << 17)
        asm.jump_if("nz", "popf-slow")
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
        asm.jump_if("ne", "popf-slow")
        asm.op(0x83, 7, slot("fast_system"))
        asm.raw("00")
        asm.jump_if("e", "popf-slow")
        asm.label("iret-kernel")
        asm.mov(RCX, slot("temporary"))
        asm.mov(slot("ss"), RCX)
        asm.mov(R11, Mem(R9, 24))
        asm.mov(RCX, Mem(R9))
        asm.mov(slot("temporary2"), RCX)
        asm.mov(R9, Mem(R9, 16))
        self._take_image()
        asm.mov(R9, slot("temporary2"))
        self._take_pending(0)
        asm.label("iret-user")
        asm.alu(CMP, RCX, slot("user_cs"))
        asm.jump_if("ne", "popf-slow")
        asm.op(0x83, 7, slot("fast_system"))
        asm.raw("00")
        asm.jump_if("e", "popf-slow")
        asm.mov(RCX, Mem(R9, 32))
        asm.alu(CMP, RCX, slot("user_ss"))
        asm.jump_if("ne", "popf-slow")
        asm.op(0xF7, 0, Mem(R9, 16), wide=False)
        asm.raw(RFLAGS_AC.to_bytes(4, "little"))
        asm.jump_if("nz", "popf-slow")
        asm.mov(R11, Mem(R9, 24))
        asm.mov(RCX, Mem(R9))
        asm.mov(slot("temporary2"), RCX)
        asm.mov(R9, Mem(R9, 16))
        self._take_image()
        self._switch(1)
        asm.mov(R9, slot("temporary2"))
        self._take_pending(1)

    # Signals

    def _signal_handler(self, origin: int, limit: int) -> int:
        """A handler of SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGTRAP, for ``sigaction`` with SA_SIGINFO.

        Where emitted code (``origin`` to ``limit``) raised it, that is left for SIGNAL; elsewhere the
        handler returns with the signal's default action, so that it comes again and ends the process.
        The places in ucontext_t are those of <sys/ucontext.h>: gregs at 40, RSP the 15th,
        RIP the 16th, the exception's vector the 20th.
        """
        asm = self.asm
        asm.label("signal-exit")
        asm.jump("then-signal")
        start = asm.label("signal-handler")
        rsp, rip = Mem(RDX, 40 + 8 * 15), Mem(RDX, 40 + 8 * 16)
        asm.mov(RCX, rip)
        asm.set(RAX, origin)
        asm.alu(CMP, RCX, RAX)
        asm.jump_if("b", "signal-foreign")
        asm.set(RAX, limit)
        asm.alu(CMP, RCX, RAX)
        asm.jump_if("ae", "signal-foreign")
        asm.mov(RAX, rsp)
        asm.mov(Mem(RAX, SLOT["signal"]), RDI)
        asm.mov(Mem(RAX, SLOT["signal_rip"]), RCX)
        asm.mov(RDI, Mem(RDX, 40 + 8 * 20))
        asm.mov(Mem(RAX, SLOT["signal_vector"]), RDI)
        asm.mov(Mem(RAX, SLOT["return"]), RCX)
        asm.set(RCX, asm.address("signal-exit"))
        asm.mov(rip, RCX)
        asm.ret()
        asm.label("signal-foreign")  # rt_sigaction(signal, {SIG_DFL}, 0, 8)
        for _ in range(4):
            asm.raw("6a00")  # push 0
        asm.mov(RSI, RSP)
        asm.alu(XOR, RDX, RDX, wide=False)
        asm.set(R10, 8)
        asm.set(RAX, 13)
        asm.raw("0f05")
        asm.alu_number(ADD, RSP, 32)
        asm.ret()
        return start
