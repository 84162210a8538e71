"""HLT, CLI, STI, CPUID, RDMSR, WRMSR, RDTSC, RDPMC, MONITOR, MWAIT, UD0 to UD2 (Intel SDM vol. 2)."""

from __future__ import annotations

from pykvm.x86.exceptions import GP, UD, Fault
from pykvm.x86.execute.cpu import Unsupported
from pykvm.x86.execute.integers import RAX, RBX, RCX, RDX
from pykvm.x86.msr import (
    IA32_CSTAR,
    IA32_EFER,
    IA32_FS_BASE,
    IA32_GS_BASE,
    IA32_KERNEL_GS_BASE,
    IA32_LSTAR,
    IA32_SYSENTER_EIP,
    IA32_SYSENTER_ESP,
    IA32_TSC,
)
from pykvm.x86.paging import canonical
from pykvm.x86.registers import (
    CR0_PG,
    CR4_PVI,
    CR4_TSD,
    CR4_VME,
    EFER_FFXSR,
    EFER_LMA,
    EFER_LME,
    EFER_LMSLE,
    EFER_NXE,
    EFER_SCE,
    EFER_SVME,
    EFER_TCE,
    RFLAGS_IF,
    RFLAGS_VIF,
    RFLAGS_VIP,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.x86.execute.cpu import Cpu
    from pykvm.x86.execute.step import Step
    from pykvm.x86.execute.table import Rows

# The feature that brings a bit of EFER; LMA may be written and is not changed by it.
_EFER_FEATURES = {
    EFER_SCE: "syscall",
    EFER_LME: "lm",
    EFER_LMA: "lm",
    EFER_NXE: "nx",
    EFER_SVME: "svm",
    EFER_LMSLE: "lmsle",
    EFER_FFXSR: "fxsr_opt",
    EFER_TCE: "tce",
}
_BASES = {IA32_FS_BASE: "fs", IA32_GS_BASE: "gs"}
_CANONICAL = frozenset(
    (
        *(IA32_FS_BASE, IA32_GS_BASE, IA32_KERNEL_GS_BASE, IA32_LSTAR, IA32_CSTAR),
        *(IA32_SYSENTER_ESP, IA32_SYSENTER_EIP),
    )
)
"""MSRs that hold an address: #GP for one that is not canonical (SDM vol. 2, WRMSR)."""


def hlt(step: Step) -> None:
    step.need_cpl0()
    step.cpu.halted = True


def _virtual(cpu: Cpu) -> bool:
    """Whether CLI and STI are about VIF (SDM vol. 3 §21.3 and §21.4); #GP(0) where about neither."""
    if not cpu.protected or cpu.cpl <= cpu.iopl:
        return False
    if cpu.cpl == 3 and cpu.sregs["cr4"] & (CR4_VME if cpu.v86 else CR4_PVI):
        return True
    raise Fault(GP, 0)


def cli(step: Step) -> None:
    step.cpu.set_flags(0, RFLAGS_VIF if _virtual(step.cpu) else RFLAGS_IF)


def sti(step: Step) -> None:
    """Interrupts wait for one more instruction where they were off."""
    cpu = step.cpu
    if _virtual(cpu):
        if cpu.regs["rflags"] & RFLAGS_VIP:
            raise Fault(GP, 0)
        cpu.set_flags(RFLAGS_VIF, RFLAGS_VIF)
    else:
        cpu.interrupt_shadow = not cpu.regs["rflags"] & RFLAGS_IF
        cpu.set_flags(RFLAGS_IF, RFLAGS_IF)


def cpuid(step: Step) -> None:
    cpu = step.cpu
    if cpu.cpuid is None:
        raise Unsupported
    for number, value in zip((RAX, RBX, RCX, RDX), cpu.cpuid(cpu.reg(RAX, 4), cpu.reg(RCX, 4)), strict=True):
        cpu.set_reg(number, 4, value)


# Time


def time_stamp(cpu: Cpu) -> int:
    return cpu.msr(IA32_TSC) if cpu.tsc is None else cpu.tsc()


def rdtsc(step: Step) -> None:
    cpu = step.cpu
    if cpu.cpl != 0 and cpu.sregs["cr4"] & CR4_TSD:
        raise Fault(GP, 0)
    _set_edx_eax(cpu, time_stamp(cpu))


def rdpmc(step: Step) -> None:
    """There are no counters, so that any number is one too high."""
    raise Fault(GP, 0)


def _set_edx_eax(cpu: Cpu, value: int) -> None:
    cpu.set_reg(RAX, 4, value)
    cpu.set_reg(RDX, 4, value >> 32)


# Model-specific registers


def rdmsr(step: Step) -> None:
    step.need_cpl0()
    cpu = step.cpu
    number = cpu.reg(RCX, 4)
    if number == IA32_EFER:
        value = cpu.sregs["efer"]
    elif number in _BASES:
        value = cpu.sregs[_BASES[number]]["base"]
    else:
        try:
            value = cpu.msrs[number]
        except KeyError:
            raise Fault(GP, 0) from None
    _set_edx_eax(cpu, value)


def wrmsr(step: Step) -> None:
    step.need_cpl0()
    cpu = step.cpu
    number, value = cpu.reg(RCX, 4), cpu.reg(RDX, 4) << 32 | cpu.reg(RAX, 4)
    if number in _CANONICAL and not canonical(value, cpu.sregs["cr4"]):
        raise Fault(GP, 0)
    if number == IA32_EFER:
        _set_efer(cpu, value)
    elif number in _BASES:
        name = _BASES[number]
        cpu.set_segment(name, cpu.sregs[name] | {"base": value})
    else:
        try:
            cpu.msrs[number] = value
        except KeyError:
            raise Fault(GP, 0) from None


def _set_efer(cpu: Cpu, value: int) -> None:
    old = cpu.sregs["efer"]
    offered = sum(bit for bit, feature in _EFER_FEATURES.items() if cpu.has(feature))
    if value & ~offered:
        raise Fault(GP, 0)
    if (value ^ old) & EFER_LME and cpu.sregs["cr0"] & CR0_PG:
        raise Fault(GP, 0)
    value = value & ~EFER_LMA | old & EFER_LMA
    cpu.sregs["efer"] = value
    cpu.changed.add("sregs")
    if value != old:
        cpu.flush(None)


# Waiting for a store, and what is undefined for ever


def _need_monitor(step: Step) -> None:
    if step.cpu.cpl != 0:
        raise Fault(UD)
    if step.cpu.reg(RCX, 4):
        raise Fault(GP, 0)


def monitor(step: Step) -> None:
    """The address must be readable."""
    _need_monitor(step)
    segment = step.instruction.segment or "ds"
    step.memory.read(segment, step.cpu.reg(RAX, step.instruction.address_size), 1)


def mwait(step: Step) -> None:
    """It may end for any reason, and does at once."""
    if step.cpu.cpl != 0:
        raise Fault(UD)


def undefined(step: Step) -> None:
    raise Fault(UD)


INSTRUCTIONS: Rows = (
    ("F4", "hlt", hlt, ""),
    ("FA", "cli", cli, ""),
    ("FB", "sti", sti, ""),
    ("0F A2", "cpuid", cpuid, ""),
    ("0F 30", "wrmsr", wrmsr, ""),
    ("0F 32", "rdmsr", rdmsr, ""),
    ("0F 31", "rdtsc", rdtsc, ""),
    ("0F 33", "rdpmc", rdpmc, ""),
    ("0F 01 C8", "monitor", monitor, "monitor"),
    ("0F 01 C9", "mwait", mwait, "monitor"),
    ("0F 0B", "ud2", undefined, ""),
    ("0F B9 /r", "ud1", undefined, ""),
    ("0F FF /r", "ud0", undefined, ""),
)
