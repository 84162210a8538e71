"""Runs code on the real processor: all registers, flags, x87 and XMM in, the same and the fault out.

The state is a page at STATE. A stub loads all of it, RSP too, and jumps to the code. What ends the code is
always a signal, mostly that of END: its handler takes vector, error code and CR2 from the signal's frame
(Linux, struct sigcontext) and returns into the stub, which stores all registers. The jump is a far one, so
that the code may be of 32 bits as well, which has DS and ES.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, byref, c_int, c_long, c_size_t, c_ulong, c_void_p
from signal import SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGTRAP
from struct import pack

from places import (
    CODE,
    CODE_PAGES,
    DATA,
    DATA_END,
    DATA_PAGES,
    END,
    GS_BASE,
    PAGE,
    READ_ONLY,
    RESERVED,
    RESERVED_END,
    SIGNAL_STACK,
    SIGNAL_STACK_SIZE,
    STATE,
    STUB,
)  # fmt: skip

from pykvm.translate.encode import RAX, RBP, RBX, RCX, RDX, RSP, Code, Mem

FLAGS, ENTRY, HOST_SP, ACTIVE = (STATE + at for at in (128, 136, 144, 152))
VECTOR, ERROR, CR2, RIP = (STATE + at for at in (160, 168, 176, 184))
FX, OWN_FX = STATE + 256, STATE + 1024

ARCH_SET_GS = 0x1001
SYS_ARCH_PRCTL = 158
SA_SIGINFO, SA_ONSTACK, SA_NODEFER = 4, 0x0800_0000, 0x4000_0000
MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS, MAP_NORESERVE, MAP_FIXED_NOREPLACE = 2, 0x10, 0x20, 0x4000, 0x10_0000
NONE, READ, WRITE, EXECUTE = 0, 1, 2, 4
GREG_ERROR, GREG_VECTOR, GREG_CR2, GREG_RIP, GREG_CS = (40 + 8 * number for number in (19, 20, 22, 16, 18))
USER32_CS, USER_DS, USER_CS = 0x23, 0x2B, 0x33
"""Linux's selectors (arch/x86/include/asm/segment.h)."""
CALLEE_SAVED = (RBX, RBP, 12, 13, 14, 15)

_LIBC = ctypes.CDLL(None, use_errno=True)
_mmap = _LIBC.mmap
_mmap.argtypes, _mmap.restype = (c_void_p, c_size_t, c_int, c_int, c_int, c_long), c_void_p


class _Action(Structure):
    _fields_ = (("handler", c_void_p), ("mask", c_ulong * 16), ("flags", c_int), ("restorer", c_void_p))


class _Stack(Structure):
    _fields_ = (("sp", c_void_p), ("flags", c_int), ("size", c_size_t))


_LIBC.sigaction.argtypes = (c_int, POINTER(_Action), POINTER(_Action))


def _map(address: int, size: int, protection: int, *, new: bool = False) -> None:
    flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (MAP_FIXED_NOREPLACE if new else MAP_FIXED)
    if _mmap(address, size, protection, flags, -1, 0) != address:
        raise OSError(ctypes.get_errno(), f"no memory at {address:#x}")


def _view(address: int, size: int) -> memoryview:
    return memoryview((ctypes.c_ubyte * size).from_address(address)).cast("B")


class Native:
    """This host's processor. One at a time, made after the translated CPU, whose handlers come second."""

    def __init__(self) -> None:
        _map(RESERVED, RESERVED_END - RESERVED, NONE, new=True)
        _map(DATA, DATA_END - DATA, READ | WRITE)
        _map(CODE, CODE_PAGES * PAGE, READ | WRITE | EXECUTE)
        for address in (STATE, SIGNAL_STACK):
            _map(address, SIGNAL_STACK_SIZE, READ | WRITE)
        _map(STUB, PAGE, READ | WRITE | EXECUTE)
        self.data = _view(DATA, DATA_PAGES * PAGE)
        self.code = _view(CODE, CODE_PAGES * PAGE)
        self.code[:] = bytes((END,)) * len(self.code)
        ctypes.memset(DATA, 0, DATA_END - DATA)  # so that all pages are present
        self.fx = _view(FX, 512)
        self.words = _view(STATE, PAGE).cast("Q")
        self._before: list[tuple[int, _Action]] = []
        self._take_signals()
        _LIBC.mprotect(c_void_p(READ_ONLY), c_size_t(PAGE), READ)
        if _LIBC.syscall(SYS_ARCH_PRCTL, ARCH_SET_GS, c_ulong(GS_BASE)):
            raise OSError(ctypes.get_errno(), "arch_prctl")
        self._enter = ctypes.CFUNCTYPE(None)(STUB)

    def close(self) -> None:
        for number, action in self._before:
            _LIBC.sigaction(number, byref(action), None)
        for view in (self.data, self.code, self.fx, self.words):
            view.release()
        _LIBC.sigaltstack(byref(_Stack(None, 2, 0)), None)  # SS_DISABLE
        _LIBC.munmap(c_void_p(RESERVED), c_size_t(RESERVED_END - RESERVED))

    def _take_signals(self) -> None:
        if _LIBC.sigaltstack(byref(_Stack(SIGNAL_STACK, 0, SIGNAL_STACK_SIZE)), None):
            raise OSError(ctypes.get_errno(), "sigaltstack")
        before = _Action()
        _LIBC.sigaction(SIGSEGV, None, byref(before))
        asm = self._stub(before.handler or 0)
        for number in (SIGILL, SIGSEGV, SIGFPE, SIGBUS, SIGTRAP):
            action, before = _Action(), _Action()
            action.handler = asm.address("handler")
            action.flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER
            if _LIBC.sigaction(number, byref(action), byref(before)):
                raise OSError(ctypes.get_errno(), "sigaction")
            self._before.append((number, before))

    def _stub(self, next_handler: int) -> Code:
        """Put the stub at STUB."""
        asm = Code(STUB)
        for reg in CALLEE_SAVED:
            asm.push(reg)
        asm.mov(Mem(-1, HOST_SP), RSP)
        asm.op(b"\x0f\xae", 0, Mem(-1, OWN_FX))  # fxsave64
        asm.op(b"\x0f\xae", 1, Mem(-1, FX))  # fxrstor64
        asm.set(RAX, USER_DS)
        asm.raw("8ed8 8ec0")  # mov ds, eax; mov es, eax
        asm.set(Mem(-1, ACTIVE), 1)
        asm.push_from(Mem(-1, FLAGS))
        asm.raw("9d")
        for number in range(16):
            asm.mov(number, Mem(-1, STATE + 8 * number))
        asm.op(0xFF, 5, Mem(-1, ENTRY), wide=False)  # jmp far
        asm.label("leave")
        for number in range(16):
            asm.mov(Mem(-1, STATE + 8 * number), number)
        asm.mov(RSP, Mem(-1, HOST_SP))
        asm.raw("9c")
        asm.pop_to(Mem(-1, FLAGS))
        asm.raw("fc")  # cld
        asm.set(Mem(-1, ACTIVE), 0)
        asm.op(b"\x0f\xae", 0, Mem(-1, FX))
        asm.op(b"\x0f\xae", 1, Mem(-1, OWN_FX))
        for reg in reversed(CALLEE_SAVED):
            asm.pop(reg)
        asm.ret()
        asm.label("handler")  # (signal, siginfo, ucontext)
        asm.op(0x83, 7, Mem(-1, ACTIVE))
        asm.raw("00")
        asm.jump_if("e", "foreign")
        for greg, place in ((GREG_VECTOR, VECTOR), (GREG_ERROR, ERROR), (GREG_CR2, CR2), (GREG_RIP, RIP)):
            asm.mov(RCX, Mem(RDX, greg))
            asm.mov(Mem(-1, place), RCX)
        asm.set(RCX, asm.address("leave"))
        asm.mov(Mem(RDX, GREG_RIP), RCX)
        asm.raw(b"\x66\xc7\x82" + pack("<iH", GREG_CS, USER_CS))  # mov word [rdx + ...], USER_CS
        asm.ret()
        asm.label("foreign")
        asm.set(RAX, next_handler)
        asm.raw("ffe0")  # jmp rax
        code = asm.finish()
        ctypes.memmove(STUB, code, len(code))
        return asm

    def run(self, start: int, *, wide: bool = True) -> None:
        """From ``start`` to a fault, as 64-bit code, or as 32-bit code."""
        self.words[(ENTRY - STATE) >> 3] = start | (USER_CS if wide else USER32_CS) << 32
        self._enter()

    def word(self, place: int) -> int:
        return self.words[place - STATE >> 3]

    def set_word(self, place: int, value: int) -> None:
        self.words[place - STATE >> 3] = value
