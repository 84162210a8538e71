"""IRET in every mode (Intel SDM vol. 2, IRET/IRETD/IRETQ, "Operation").

From real and virtual-8086 mode, in protected mode to the same level, an outer ring or virtual-8086 mode, and
in IA-32e mode to any; with NT to another task. With what is here RET between segments returns, too.
"""

from __future__ import annotations

from pykvm.x86.exceptions import GP, NP, SS, Fault
from pykvm.x86.execute.descriptors import accessed, null_stack, read_descriptor
from pykvm.x86.execute.stack import FREE_FLAGS
from pykvm.x86.execute.tasks import RETURN, switch_task
from pykvm.x86.execute.virtual import return_in_task
from pykvm.x86.paging import canonical
from pykvm.x86.registers import (
    CR4_VME,
    RFLAGS_AC,
    RFLAGS_ID,
    RFLAGS_IF,
    RFLAGS_IOPL,
    RFLAGS_NT,
    RFLAGS_RF,
    RFLAGS_VIF,
    RFLAGS_VIP,
    RFLAGS_VM,
)
from pykvm.x86.segments import TYPE_CODE, TYPE_CONFORMING, TYPE_WRITABLE, real_segment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.x86.execute.cpu import Cpu
    from pykvm.x86.execute.linear import Linear
    from pykvm.x86.execute.step import Step
    from pykvm.x86.segments import Segment

_WIDE = RFLAGS_RF | RFLAGS_AC | RFLAGS_ID  # those above bit 15 that an IRET of 32 or 64 bits sets too


class Stack:
    """The running stack, popped item by item; the register moves when all is well."""

    def __init__(self, step: Step) -> None:
        self.cpu, self.memory, self.width = step.cpu, step.memory, step.size
        wide = 0xFFFF_FFFF if self.cpu.sregs["ss"]["db"] else 0xFFFF
        self.mask = 0xFFFF_FFFF_FFFF_FFFF if self.cpu.bits == 64 else wide
        self.pointer = self.cpu.regs["rsp"]

    def pop(self) -> int:
        value = int.from_bytes(self.memory.read("ss", self.pointer & self.mask, self.width), "little")
        self.pointer = self.pointer & ~self.mask | self.pointer + self.width & self.mask
        return value

    def skip(self, size: int) -> None:
        self.pointer = self.pointer & ~self.mask | self.pointer + size & self.mask


def iret(step: Step) -> None:
    cpu = step.cpu
    cpu.nmi_masked = False
    stack = Stack(step)
    if not cpu.protected:
        _real(step, stack, FREE_FLAGS | RFLAGS_IF | RFLAGS_IOPL)
    elif cpu.v86:
        if cpu.iopl < 3:
            if not cpu.sregs["cr4"] & CR4_VME or step.size != 2:
                raise Fault(GP, 0)
            ip, selector, flags = stack.pop(), stack.pop(), stack.pop()
            return_in_task(step, ip, selector, flags, stack.pointer, FREE_FLAGS)
            return
        _real(step, stack, FREE_FLAGS | RFLAGS_IF)
    elif cpu.regs["rflags"] & RFLAGS_NT:
        if cpu.long:
            raise Fault(GP, 0)
        tr = cpu.sregs["tr"]
        switch_task(cpu, step.memory, step.memory.read_system(tr["base"], 2), RETURN)
    else:
        _protected(step, stack)


def _real(step: Step, stack: Stack, mask: int) -> None:
    """Real mode, and virtual-8086 mode with IOPL 3."""
    cpu = step.cpu
    ip, selector, flags = stack.pop(), stack.pop() & 0xFFFF, stack.pop()
    if ip > cpu.sregs["cs"]["limit"]:
        raise Fault(GP, 0)
    cpu.regs["rip"] = ip
    cpu.regs["rsp"] = stack.pointer
    cpu.set_segment("cs", cpu.sregs["cs"] | {"selector": selector, "base": selector << 4})
    cpu.set_flags(flags, mask | (_WIDE if step.size > 2 else 0))


def _protected(step: Step, stack: Stack) -> None:
    cpu, memory = step.cpu, step.memory
    old_cpl = cpu.cpl
    rip, selector, flags = stack.pop(), stack.pop() & 0xFFFF, stack.pop()
    if flags & RFLAGS_VM and old_cpl == 0 and step.size == 4 and not cpu.long:
        _to_v86(cpu, stack, rip, selector, flags)
        return
    place, code = return_code(cpu, memory, selector)
    cpl = selector & 3
    to_64 = bool(cpu.long and code["l"])
    if cpl > old_cpl or cpu.bits == 64:
        rsp, ss_selector = stack.pop(), stack.pop() & 0xFFFF
        ss = return_stack(cpu, memory, ss_selector, cpl, to_64)
    else:
        rsp, ss = stack.pointer, cpu.sregs["ss"]
    if not canonical(rip, cpu.sregs["cr4"]) if to_64 else rip > code["limit"]:
        raise Fault(GP, 0)

    mask = FREE_FLAGS | (_WIDE if step.size > 2 else 0)
    if old_cpl <= cpu.iopl:
        mask |= RFLAGS_IF
    if old_cpl == 0:
        mask |= RFLAGS_IOPL | (RFLAGS_VIF | RFLAGS_VIP if step.size > 2 else 0)
    cpu.set_flags(flags, mask)
    cpu.regs["rip"] = rip
    if ss is cpu.sregs["ss"] or to_64 or ss["db"]:
        cpu.regs["rsp"] = rsp
    else:
        cpu.set_reg(4, 2, rsp)  # a 16-bit stack: the upper half stays
    cpu.set_segment("ss", ss)
    cpu.set_segment("cs", accessed(memory, place, code))
    if cpl > old_cpl:
        drop_inner_segments(cpu, cpl)


def return_code(cpu: Cpu, memory: Linear, selector: int) -> tuple[int, Segment]:
    bad = Fault(GP, selector & 0xFFFC)
    found = read_descriptor(cpu, memory, selector)
    rpl = selector & 3
    if found is None or rpl < cpu.cpl:
        raise bad
    segment = found[1]
    if not segment["s"] or not segment["type"] & TYPE_CODE:
        raise bad
    if cpu.long and segment["l"] and segment["db"]:
        raise bad
    conforming = segment["type"] & TYPE_CONFORMING
    if segment["dpl"] > rpl if conforming else segment["dpl"] != rpl:
        raise bad
    if not segment["present"]:
        raise Fault(NP, selector & 0xFFFC)
    return found


def return_stack(cpu: Cpu, memory: Linear, selector: int, cpl: int, to_64: bool) -> Segment:
    bad = Fault(GP, selector & 0xFFFC)
    if not selector & 0xFFFC and to_64 and cpl != 3 and selector & 3 == cpl:
        return null_stack(selector, cpl)
    found = read_descriptor(cpu, memory, selector)
    if found is None or selector & 3 != cpl:
        raise bad
    place, segment = found
    writable_data = segment["s"] and segment["type"] & (TYPE_CODE | TYPE_WRITABLE) == TYPE_WRITABLE
    if not writable_data or segment["dpl"] != cpl:
        raise bad
    if not segment["present"]:
        raise Fault(SS, selector & 0xFFFC)
    return accessed(memory, place, segment)


def drop_inner_segments(cpu: Cpu, cpl: int) -> None:
    """Data segments that the outer ring may not use become null."""
    for name in ("es", "fs", "gs", "ds"):
        segment = cpu.sregs[name]
        conforming = segment["type"] & TYPE_CODE and segment["type"] & TYPE_CONFORMING
        if not segment["unusable"] and not conforming and segment["dpl"] < cpl:
            cpu.set_segment(name, segment | {"selector": 0, "present": 0, "unusable": 1})


def _to_v86(cpu: Cpu, stack: Stack, ip: int, selector: int, flags: int) -> None:
    if ip > 0xFFFF:
        raise Fault(GP, 0)
    sp = stack.pop()
    selectors = [stack.pop() & 0xFFFF for _ in range(5)]
    for name, value in zip(("ss", "es", "ds", "fs", "gs"), selectors, strict=True):
        cpu.set_segment(name, real_segment(value, dpl=3))
    cpu.set_segment("cs", real_segment(selector, dpl=3))
    cpu.regs["rip"] = ip
    cpu.regs["rsp"] = sp
    everything = RFLAGS_IF | RFLAGS_IOPL | RFLAGS_VM | RFLAGS_VIF | RFLAGS_VIP
    cpu.set_flags(flags, FREE_FLAGS | _WIDE | everything)


INSTRUCTIONS = (("CF", "iret", iret, ""),)
