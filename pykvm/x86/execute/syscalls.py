"""SYSCALL, SYSRET, SYSENTER and SYSEXIT (Intel SDM vol. 2 and AMD APM vol. 3, by name).

Each goes wherever one of the two manuals lets it: SYSCALL in legacy and compatibility mode as AMD's CPUs do,
SYSENTER in IA-32e mode as Intel's.
"""

from __future__ import annotations

from pykvm.x86.exceptions import GP, UD, Fault
from pykvm.x86.execute.integers import RCX, RDX
from pykvm.x86.execute.step import MASKS
from pykvm.x86.msr import (
    IA32_CSTAR,
    IA32_FMASK,
    IA32_LSTAR,
    IA32_STAR,
    IA32_SYSENTER_CS,
    IA32_SYSENTER_EIP,
    IA32_SYSENTER_ESP,
)
from pykvm.x86.paging import canonical
from pykvm.x86.registers import EFER_SCE, RFLAGS_FIXED, RFLAGS_IF, RFLAGS_RF, RFLAGS_VM
from pykvm.x86.segments import null_segment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.x86.execute.cpu import Cpu
    from pykvm.x86.execute.step import Step
    from pykvm.x86.execute.table import Rows

_SYSRET_FLAGS = 0x3C_7FD7


def _set_flat(cpu: Cpu, selector: int, stack: int, cpl: int, bits: int) -> None:
    """CS and SS as these instructions set them: flat, whatever the descriptor tables hold."""
    flat = null_segment() | {"limit": 0xFFFF_FFFF, "present": 1, "s": 1, "g": 1, "unusable": 0, "dpl": cpl}
    wide = bits == 64
    code = {"selector": selector & 0xFFFC | cpl, "type": 11, "l": int(wide), "db": int(not wide)}
    cpu.set_segment("cs", flat | code)
    cpu.set_segment("ss", flat | {"selector": stack & 0xFFFC | cpl, "type": 3, "db": 1})


def _need_sce(cpu: Cpu) -> None:
    if not cpu.sregs["efer"] & EFER_SCE or not cpu.protected or cpu.v86:
        raise Fault(UD)


def syscall(step: Step) -> None:
    cpu, regs = step.cpu, step.cpu.regs
    _need_sce(cpu)
    star = cpu.msr(IA32_STAR)
    flags, selector = regs["rflags"], star >> 32 & 0xFFFF
    if cpu.long:
        target = cpu.msr(IA32_LSTAR if cpu.bits == 64 else IA32_CSTAR)
        regs["r11"] = flags & ~RFLAGS_RF
        flags &= ~cpu.msr(IA32_FMASK)
        _set_return(cpu, 8)
    else:
        target = star & MASKS[4]
        flags &= ~(RFLAGS_VM | RFLAGS_IF)
        _set_return(cpu, 4)
    regs["rip"] = target
    regs["rflags"] = flags & ~RFLAGS_RF | RFLAGS_FIXED
    _set_flat(cpu, selector, selector + 8, 0, 64 if cpu.long else 32)


def _set_return(cpu: Cpu, size: int) -> None:
    cpu.set_reg(RCX, size, cpu.regs["rip"])


def sysret(step: Step) -> None:
    cpu, regs = step.cpu, step.cpu.regs
    _need_sce(cpu)
    step.need_cpl0()
    selector = cpu.msr(IA32_STAR) >> 48
    to_64 = step.instruction.bits == 64 and step.size == 8
    target = cpu.reg(RCX, 8 if to_64 else 4)
    if to_64 and not canonical(target, cpu.sregs["cr4"]):
        raise Fault(GP, 0)
    if cpu.long:
        regs["rflags"] = regs["r11"] & _SYSRET_FLAGS | RFLAGS_FIXED
    else:
        regs["rflags"] |= RFLAGS_IF
    regs["rip"] = target
    _set_flat(cpu, selector + (16 if to_64 else 0), selector + 8, 3, 64 if to_64 else 32)


def _sysenter_selector(cpu: Cpu) -> int:
    selector = cpu.msr(IA32_SYSENTER_CS) & 0xFFFF
    if not cpu.protected or not selector & 0xFFFC:
        raise Fault(GP, 0)
    return selector


def sysenter(step: Step) -> None:
    cpu, regs = step.cpu, step.cpu.regs
    selector = _sysenter_selector(cpu)
    mask = MASKS[8] if cpu.long else MASKS[4]
    regs["rsp"] = cpu.msr(IA32_SYSENTER_ESP) & mask
    regs["rip"] = cpu.msr(IA32_SYSENTER_EIP) & mask
    regs["rflags"] &= ~(RFLAGS_VM | RFLAGS_IF | RFLAGS_RF)
    _set_flat(cpu, selector, (selector & 0xFFFC) + 8, 0, 64 if cpu.long else 32)


def sysexit(step: Step) -> None:
    cpu = step.cpu
    selector = _sysenter_selector(cpu)
    step.need_cpl0()
    to_64 = step.instruction.bits == 64 and step.size == 8
    rip, rsp = cpu.reg(RDX, 8 if to_64 else 4), cpu.reg(RCX, 8 if to_64 else 4)
    cr4 = cpu.sregs["cr4"]
    if to_64 and not (canonical(rip, cr4) and canonical(rsp, cr4)):
        raise Fault(GP, 0)
    cpu.regs["rip"], cpu.regs["rsp"] = rip, rsp
    first = (selector & 0xFFFC) + (32 if to_64 else 16)
    _set_flat(cpu, first, first + 8, 3, 64 if to_64 else 32)


INSTRUCTIONS: Rows = (
    ("0F 05", "syscall", syscall, "syscall"),
    ("0F 07", "sysret", sysret, "syscall"),
    ("0F 34", "sysenter", sysenter, "sep"),
    ("0F 35", "sysexit", sysexit, "sep"),
)
