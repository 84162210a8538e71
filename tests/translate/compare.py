"""An instruction in a guest and on the real processor: what differs."""

from __future__ import annotations

import ctypes
from random import Random

import forms
import native
import own_forms
from forms import Case
from guest import Guest
from native import Native
from places import CODE, CODE_PAGES, END, END_32, PAGE

from pykvm.translate.context import SLOT
from pykvm.translate.operands import INTEGER, VECTOR
from pykvm.x86.exceptions import GP, PF
from pykvm.x86.registers import GPRS

FLAGS_SEEN = 0xCD5
CF, PFLAG, AF, ZF, SF, OF = 1, 4, 0x10, 0x40, 0x80, 0x800
ALL = CF | PFLAG | AF | ZF | SF | OF
FX_SEEN = (slice(0, 5), slice(24, 28), *(slice(at, at + 10) for at in range(32, 160, 16)), slice(160, 416))
"""Not the last instruction's address and operand, which aren't the guest's."""

KINDS = (
    *((f"integer-{opcode:03x}", "integer", opcode) for opcode in INTEGER),
    *((f"vector-{opcode:03x}", "vector", opcode) for opcode in VECTOR),
    *((f"x87-{opcode:02x}", "x87", opcode) for opcode in range(0xD8, 0xE0)),
    *((name, name, 0) for name in own_forms.FORMS),
)


def make(kind: str, opcode: int, seed: str) -> Case:
    rng = Random(seed)
    if kind == "integer":
        return forms.integer(rng, opcode)
    if kind == "vector":
        return forms.vector(rng, opcode)
    if kind == "x87":
        return forms.x87(rng, opcode)
    return own_forms.FORMS[kind](rng)


def undefined(case: Case) -> int:
    """The flags that the manual leaves undefined, for what the interpreter has done."""
    code = case.code
    at = 0
    while code[at] & 0xF0 == 0x40 or code[at] in b"\x66\x67\xf0\xf2\xf3\x64\x65\x2e\x36\x3e\x26":
        at += 1
        if at == len(code):
            return 0  # 32-bit code's INC and DEC
    opcode = code[at] if code[at] != 0x0F else 0x100 | code[at + 1]
    following = code[at + 1 :] if opcode < 0x100 else code[at + 2 :]
    digit = following[0] >> 3 & 7 if following else 0
    if opcode in (0xF6, 0xF7):
        return (AF, AF, 0, 0, ALL & ~(CF | OF), ALL & ~(CF | OF), ALL, ALL)[digit]
    if opcode in (0x69, 0x6B, 0x1AF):
        return SF | ZF | AF | PFLAG
    if opcode in (0x1A3, 0x1AB, 0x1B3, 0x1BB, 0x1BA):
        return OF | SF | AF | PFLAG
    if opcode in (0x1BC, 0x1BD):
        return CF | OF | SF | AF | PFLAG
    if opcode in (0xC0, 0xC1, 0xD0, 0xD1, 0xD2, 0xD3):
        return OF if digit < 4 else AF | OF | CF
    if opcode in (0x1A4, 0x1A5, 0x1AC, 0x1AD):
        return AF | OF | CF
    if opcode in (0xD4, 0xD5):
        return AF | OF | CF
    if opcode in (0x27, 0x2F):
        return OF
    if opcode in (0x37, 0x3F):
        return OF | SF | ZF | PFLAG
    logic = opcode < 0x40 and opcode & 7 < 6 and opcode >> 3 in (1, 4, 6)
    group1 = opcode in (0x80, 0x81, 0x82, 0x83) and digit in (1, 4, 6)
    return AF if logic or group1 or opcode in (0x84, 0x85, 0xA8, 0xA9) else 0


class Pair:
    """A guest and this processor, both with code of 64 bits, or of 32.

    ``interpreted``: the guest's instruction is not translated, as under single steps.
    """

    def __init__(self, guest: Guest, processor: Native, *, interpreted: bool = False) -> None:
        self.guest = guest
        self._interpreted = interpreted
        self.processor = processor
        self._end = bytes((END if guest.wide else END_32,))
        self._put(CODE, self._end * (CODE_PAGES * PAGE))
        self._last = (CODE, 0)
        self.vector = 0
        self.interpreted = 0

    def differences(self, case: Case) -> list[str]:
        """What differs after the case's instruction; nothing should."""
        guest, host = self.guest, self.processor
        start, length = self._last
        self._put(start, self._end * length)
        self._last = (case.start, len(case.code))
        guest.put(case.start, case.code)
        natively = _without_fs(case.code)
        ctypes.memmove(case.start, natively, len(natively))
        guest.data = case.data
        host.data[:] = case.data
        guest.regs = case.regs
        for number, value in enumerate(case.regs):
            host.words[number] = value
        guest.flags = case.flags
        host.set_word(native.FLAGS, case.flags)
        guest.fx = case.fx
        host.fx[:] = case.fx
        host.run(case.start, wide=guest.wide)
        fault = guest.interpret(case.start) if self._interpreted else None
        fault = fault or guest.run(guest.rip if self._interpreted else case.start)
        return self._compare(case, fault)

    def _put(self, at: int, code: bytes) -> None:
        self.guest.put(at, code)
        ctypes.memmove(at, code, len(code))

    def _compare(self, case: Case, fault: object) -> list[str]:
        guest, host = self.guest, self.processor
        found = []
        vector, error, cr2 = fault.vector, fault.error, fault.cr2  # type: ignore[attr-defined]
        self.vector = vector
        rip = host.word(native.RIP)
        if guest.rip != rip or vector != host.word(native.VECTOR):
            found.append(
                f"vector {vector} at {guest.rip:#x}, natively {host.word(native.VECTOR)} at {rip:#x}"
            )
        elif vector == PF:
            natively = host.word(native.ERROR)
            large = case.code.find(b"\x0f\xae") >= 0 or guest.cpu.core.words[SLOT["size"] // 8] > 16
            natively &= ~(4 if guest.cpl != 3 else 0)
            if cr2 >> 47:  # the host kernel's half, which here may be mapped and in the guest is not
                natively &= ~1
            if not large and (
                error != natively or cr2 != host.word(native.CR2)
            ):  # which end faults is the CPU's
                found.append(f"#PF {error:#x} {cr2:#x}, natively {natively:#x} {host.word(native.CR2):#x}")
        for name, mine, his in zip(GPRS, guest.regs, host.words[:16], strict=True):
            if mine != his:
                found.append(f"{name} {mine:#x}, natively {his:#x}")
        seen = FLAGS_SEEN
        if guest.cpu.steps > 1 or self._interpreted:
            self.interpreted += 1
            seen &= ~undefined(case)
        flags, natively = guest.flags & seen, host.word(native.FLAGS) & seen
        if flags != natively:
            found.append(f"flags {flags:#x}, natively {natively:#x}")
        mine, his = guest.fx, bytes(host.fx)
        # Whether MASKMOVQ that faults has gone from x87 to MMX already differs by processor.
        unsure = guest.rip == case.start and b"\x0f\xf7" in case.code
        for part in () if unsure else FX_SEEN:
            if mine[part] != his[part]:
                found.append(f"x87 and SSE at {part.start}: {mine[part].hex()}, natively {his[part].hex()}")
        data, natively_data = guest.data, bytes(host.data)
        pushed = vector == GP and b"\xff" in case.code  # CALL has stored where it is to come back to
        if data != natively_data and not pushed:
            at = next(at for at in range(len(data)) if data[at] != natively_data[at])
            found.append(
                f"memory at {at:#x}: {data[at : at + 16].hex()}, natively {natively_data[at : at + 16].hex()}"
            )
        return found


def _without_fs(code: bytes) -> bytes:
    """The same with GS for FS, which natively is the process's own."""
    return b"\x65" + code[1:] if code[:1] == b"\x64" else code
