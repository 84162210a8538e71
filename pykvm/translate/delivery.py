"""Exceptions and interrupts of 64-bit code, delivered without the interpreter where nothing is unusual.

The interpreter (x86/execute/interrupts.py) does it by the whole of the manual's pseudo-code. This does the
case that an operating system meets thousands of times a second: a present interrupt or trap gate without
IST, to ring 0 in 64-bit mode, with its stack in a page that the TLB can write. It looks at all that decides
about that each time, as the guest may change it at any time; where anything is else it has done nothing.

Source: Intel SDM vol. 3 §6.14.
"""

from __future__ import annotations

from pykvm.translate import context
from pykvm.translate.codepage import KERNEL_64, USER, USER_64
from pykvm.translate.context import REGISTER_SLOT, SLOT
from pykvm.translate.routines import ARITHMETIC
from pykvm.x86.exceptions import Fault
from pykvm.x86.registers import RFLAGS_FIXED, RFLAGS_NT, RFLAGS_RF, RFLAGS_TF, RFLAGS_VM
from pykvm.x86.segments import INTERRUPT_GATE32, TRAP_GATE32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.translate.mmu import Mmu
    from pykvm.translate.state import ContextCpu

M64 = (1 << 64) - 1
PAGE = 0x1000
TSS_RSP0 = 4
CODE_64 = 0x0020_9800_0000_0000  # of a descriptor: L, present, DPL 0, code; D must be 0
CODE_64_MASK = 0x0060_F800_0000_0000

MODE, RIP, FLAGS, SYSTEM_FLAGS = (SLOT[name] // 8 for name in ("mode", "rip", "flags", "system_flags"))
INTERRUPT_FLAG, ACCESS_FLAG, CS, SS = (
    SLOT[name] // 8 for name in ("interrupt_flag", "access_flag", "cs", "ss")
)
RSP = REGISTER_SLOT[4] // 8
CR2 = SLOT["cr2"] // 8


class Delivery:
    """Delivers to the CPU whose context ``words`` is."""

    def __init__(self, cpu: ContextCpu, mmu: Mmu, words: memoryview, memory: memoryview) -> None:
        self._cpu = cpu
        self._mmu = mmu
        self._words = words
        self._memory = memory

    def deliver(self, vector: int, error: int | None, cr2: int | None, *, resume: bool) -> bool:
        """Enter the handler of ``vector``; False where the interpreter must. ``resume``: a fault's RF."""
        words, memory = self._words, self._memory
        mode = words[MODE]
        if mode not in (KERNEL_64, USER_64):
            return False
        sregs = self._cpu.sregs
        idt = sregs["idt"]
        if 16 * vector + 15 > idt["limit"]:
            return False
        place = self._word(idt["base"] + 16 * vector)
        if place < 0:
            return False
        low = memory[place]
        kind = low >> 40 & 0xFF  # present, DPL, 0, type
        if kind & 0x9F not in (0x80 | INTERRUPT_GATE32, 0x80 | TRAP_GATE32) or low >> 32 & 7:
            return False
        selector = low >> 16 & 0xFFFF
        if selector & 7 or selector + 7 > sregs["gdt"]["limit"] or not selector:
            return False
        descriptor = self._word(sregs["gdt"]["base"] + selector)
        if descriptor < 0 or memory[descriptor] & CODE_64_MASK != CODE_64 or not memory[descriptor] >> 40 & 1:
            return False
        target = low & 0xFFFF | low >> 32 & 0xFFFF_0000 | (memory[place + 1] & 0xFFFF_FFFF) << 32
        if target >> 47 not in (0, 0x1FFFF):
            return False
        rsp = words[RSP]
        if mode & USER:
            if sregs["tr"]["limit"] < TSS_RSP0 + 7 or sregs["tr"]["base"] & 7:
                return False
            at = self._word(sregs["tr"]["base"])
            if at < 0:
                return False
            stack = memory[at] >> 32 | (memory[at + 1] & 0xFFFF_FFFF) << 32
        else:
            stack = rsp
        top = stack & ~15
        bottom = top - (40 if error is None else 48) & M64
        frame = self._writable(bottom, top)
        if frame < 0:
            return False
        flags = (
            words[FLAGS] & ARITHMETIC
            | words[SYSTEM_FLAGS]
            | words[INTERRUPT_FLAG] << 9
            | words[ACCESS_FLAG] << 18
            | RFLAGS_FIXED
        )
        if error is not None:
            memory[frame] = error
            frame += 1
        memory[frame] = words[RIP]
        memory[frame + 1] = words[CS]
        memory[frame + 2] = flags | RFLAGS_RF if resume else flags
        memory[frame + 3] = rsp
        memory[frame + 4] = words[SS]
        words[RSP] = bottom
        words[RIP] = target
        words[CS] = selector
        if mode & USER:
            words[SS] = 0
            words[MODE] = KERNEL_64
        if kind & 0xF == INTERRUPT_GATE32:
            words[INTERRUPT_FLAG] = 0
        words[SYSTEM_FLAGS] &= ~(RFLAGS_TF | RFLAGS_NT | RFLAGS_RF | RFLAGS_VM)
        if cr2 is not None:
            sregs["cr2"] = cr2
            words[CR2] = cr2
        return True

    def read_word(self, gva: int) -> int:
        """What ring 0 reads in the aligned word at ``gva``; -1 where that isn't to be had so."""
        at = self._word(gva)
        return self._memory[at] if at >= 0 else -1

    def _word(self, gva: int) -> int:
        """The number among RAM's words of a table's word, -1 where it isn't to be had so."""
        if gva & 7:
            return -1
        at = gva >> 12 & 0xFFFF
        tag = context.TAG_BIAS - (gva & -PAGE) & M64
        if self._words[(context.TLB_READ[0] >> 3) + at] != tag:
            try:
                if not self._mmu.fill(gva, 0, 0):
                    return -1
            except Fault:
                return -1
        return self._ram(gva, at)

    def _writable(self, bottom: int, top: int) -> int:
        """The number among RAM's words of the stack from ``bottom`` on, if the TLB can write it."""
        if bottom & -PAGE != (top - 1) & -PAGE:
            return -1
        at = bottom >> 12 & 0xFFFF
        if self._words[(context.TLB_WRITE[0] >> 3) + at] != context.TAG_BIAS - (bottom & -PAGE) & M64:
            return -1
        return self._ram(bottom, at)

    def _ram(self, gva: int, at: int) -> int:
        """The number of the word at ``gva``, which entry ``at`` of the TLB maps."""
        gpa = (self._words[(context.TLB_ADDEND[0] >> 3) + at] + gva & M64) - self._mmu.low_hva
        return gpa >> 3 if 0 <= gpa < self._mmu.low_end else -1
