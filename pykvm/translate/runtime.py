"""The routines that emitted code calls, in machine code: the way in and out, and what is too long to inline.

All are entered with RSP at the context (context.py), by a call through one of its slots, and first take the
return address off the stack into ``return`` (or ``block_return``, where a routine has lookups of its own),
so that RSP is the context again. They keep the guest's registers and flags.

An address of a routine is absolute, in the context: emitted blocks hold none, and can be kept on disk.
"""

from __future__ import annotations

from pykvm.translate import context, copies, crossings, flushes, ports, transitions, walks
from pykvm.translate.context import REGISTER_SLOT, SLOT
from pykvm.translate.encode import ADD, CMP, R9, R10, RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP, XOR, Mem
from pykvm.translate.routines import Routines, slot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.translate.lookup import Lookup

_CALLEE_SAVED = (RBX, RBP, 12, 13, 14, 15)


class Runtime:
    """The routines, made for host address ``origin``; emitted code lies between that and ``limit``.

    ``code`` are their bytes, ``entries`` what the context's slots hold. ``enter`` and ``signal_handler`` are
    addresses of functions that C can call.
    """

    def __init__(self, origin: int, lookup: Lookup, limit: int) -> None:
        asm = Routines(origin, lookup)
        _leave(asm)
        for number, reason in enumerate(context.REASONS):
            _exit(asm, reason, number)
        _exits(asm)
        for user in (0, 1):
            walks.addend(asm, user)
            crossings.routines(asm, user)
            for write in (0, 1):
                walks.walker(asm, user, write)
                for size in context.MISS_SIZES:
                    walks.slow_lookup(asm, user, write, size)
        walks.page_checks(asm)
        transitions.flags(asm)
        transitions.pause(asm)
        flushes.access_flag(asm)
        flushes.tlb(asm)
        for user in (0, 1):
            copies.rep(asm, "movs", user)
            copies.rep(asm, "stos", user)
            ports.access(asm, "out", user)
            ports.access(asm, "in", user)
        transitions.system(asm)
        self.enter = _enter(asm)
        self.signal_handler = _signal_handler(asm, origin, limit)
        self.entries = asm.entries
        self.code = asm.finish()


def _exits(asm: Routines) -> None:
    """What leads from a slot straight to Python."""
    for name, reason in (
        *(("chain", "chain"), ("jump_miss", "jump"), ("leave_for_attention", "attention")),
        *(("stale", "stale"), ("interpret", "interpret"), ("sti", "sti"), ("beyond", "limit")),
        ("do_bounce", "bounce"),
    ):
        asm.entries[name] = asm.address(f"exit-{reason}")
    asm.entries["leave_for_attention_at"] = asm.here
    asm.pop_to(slot("return"))
    asm.label("attention-at-rip")
    asm.set(slot("reason"), context.ATTENTION)
    asm.set(slot("return"), 0)  # ``rip`` says where
    asm.jump("leave")
    asm.label("interpret-again")  # a routine gives up, with nothing changed but flags
    asm.restore_flags()
    asm.jump("then-interpret")


def _enter(asm: Routines) -> int:
    """``enter(context)``: a C function that runs emitted code at ``resume`` until it leaves."""
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


def _leave(asm: Routines) -> None:
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


def _exit(asm: Routines, name: str, reason: int) -> None:
    """Leave for ``reason``; ``then-`` is the same with ``return`` set already."""
    asm.label(f"exit-{name}")
    asm.pop_to(slot("return"))
    asm.label(f"then-{name}")
    asm.set(slot("reason"), reason)
    asm.jump("leave")


def _signal_handler(asm: Routines, origin: int, limit: int) -> int:
    """A handler of SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGTRAP, for ``sigaction`` with SA_SIGINFO.

    Where emitted code (``origin`` to ``limit``) raised it, that is left for SIGNAL; elsewhere the
    handler returns with the signal's default action, so that it comes again and ends the process.
    The places in ucontext_t are those of <sys/ucontext.h>: gregs at 40, RSP the 15th,
    RIP the 16th, the exception's vector the 20th.
    """
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
