"""Virtual-8086 mode with CR4.VME: INT n and IRET that stay in the task (Intel SDM vol. 3 §21.3)."""

from __future__ import annotations

from pykvm.x86.exceptions import GP, Fault
from pykvm.x86.execute import stack
from pykvm.x86.registers import RFLAGS_FIXED, RFLAGS_IF, RFLAGS_TF, RFLAGS_VIF, RFLAGS_VIP
from pykvm.x86.segments import TSS_IO_MAP_BASE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.x86.execute.step import Step


def redirected(step: Step, vector: int) -> bool:
    """Whether the TSS's interrupt redirection bitmap, in front of the I/O bitmap, keeps INT n in the task."""
    tr = step.cpu.sregs["tr"]
    if tr["limit"] < TSS_IO_MAP_BASE + 1:
        raise Fault(GP, 0)
    place = step.memory.read_system(tr["base"] + TSS_IO_MAP_BASE, 2) - 32 + vector // 8
    if not 0 <= place <= tr["limit"]:
        raise Fault(GP, 0)
    return not step.memory.read_system(tr["base"] + place, 1) >> vector % 8 & 1


def interrupt_in_task(step: Step, vector: int) -> None:
    """Through the table at linear address 0, as in real mode."""
    cpu, regs = step.cpu, step.cpu.regs
    entry = int.from_bytes(step.memory.read_linear(4 * vector, 4, user=True), "little")
    flags = regs["rflags"] if cpu.iopl == 3 else stack.virtual_flags(regs["rflags"])
    stack.push_all(step, (flags, cpu.sregs["cs"]["selector"], regs["rip"]), 2)
    selector = entry >> 16
    cpu.set_segment("cs", cpu.sregs["cs"] | {"selector": selector, "base": selector << 4})
    regs["rip"] = entry & 0xFFFF
    cpu.set_flags(0, RFLAGS_TF | (RFLAGS_IF if cpu.iopl == 3 else RFLAGS_VIF))


def return_in_task(step: Step, ip: int, selector: int, flags: int, pointer: int, free: int) -> None:
    """IRET with IOPL below 3: IF of the popped flags goes to VIF."""
    cpu = step.cpu
    if flags & RFLAGS_TF or (flags & RFLAGS_IF and cpu.regs["rflags"] & RFLAGS_VIP):
        raise Fault(GP, 0)
    virtual = RFLAGS_VIF if flags & RFLAGS_IF else 0
    cpu.set_flags(flags & free | virtual | RFLAGS_FIXED, free | RFLAGS_VIF)
    cpu.regs["rip"], cpu.regs["rsp"] = ip, pointer
    cpu.set_segment("cs", cpu.sregs["cs"] | {"selector": selector, "base": selector << 4})
