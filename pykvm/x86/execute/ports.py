"""IN and OUT, and who may use them: IOPL and the TSS's permission bitmap (Intel SDM vol. 1 §19.5)."""

from __future__ import annotations

from pykvm.x86.exceptions import GP, Fault
from pykvm.x86.execute.cpu import Unsupported
from pykvm.x86.execute.integers import RAX, RDX
from pykvm.x86.execute.step import MASKS
from pykvm.x86.segments import TSS32_AVAILABLE, TSS32_BUSY, TSS_IO_MAP_BASE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.x86.execute.cpu import Ports
    from pykvm.x86.execute.step import Step
    from pykvm.x86.execute.table import Action, Rows


def permitted(step: Step, port: int, size: int) -> Ports:
    """The I/O address space, or #GP(0) where the running code may not reach ``size`` ports from ``port``."""
    cpu = step.cpu
    if cpu.protected and (cpu.v86 or cpu.cpl > cpu.iopl):
        tr = cpu.sregs["tr"]
        if tr["type"] not in (TSS32_AVAILABLE, TSS32_BUSY) or tr["limit"] < TSS_IO_MAP_BASE + 1:
            raise Fault(GP, 0)
        first = step.memory.read_system(tr["base"] + TSS_IO_MAP_BASE, 2) + port // 8
        if first + 1 > tr["limit"]:
            raise Fault(GP, 0)
        denied = step.memory.read_system(tr["base"] + first, 2) >> port % 8
        if denied & (1 << size) - 1:
            raise Fault(GP, 0)
    if cpu.ports is None:
        raise Unsupported
    return cpu.ports


def _width(step: Step, size: int) -> int:
    return size or min(step.size, 4)


def _in(size: int, *, immediate: bool) -> Action:
    def action(step: Step) -> None:
        cpu, width = step.cpu, _width(step, size)
        port = step.instruction.immediate if immediate else cpu.reg(RDX, 2)
        value = permitted(step, port, width).read(port, width)
        if width == 1:
            cpu.set_byte(RAX, 0, value)
        else:
            cpu.set_reg(RAX, width, value)

    return action


def _out(size: int, *, immediate: bool) -> Action:
    def action(step: Step) -> None:
        cpu, width = step.cpu, _width(step, size)
        port = step.instruction.immediate if immediate else cpu.reg(RDX, 2)
        permitted(step, port, width).write(port, width, cpu.regs["rax"] & MASKS[width])

    return action


INSTRUCTIONS: Rows = (
    ("E4 ib", "in", _in(1, immediate=True), ""),
    ("E5 ib", "in", _in(0, immediate=True), ""),
    ("EC", "in", _in(1, immediate=False), ""),
    ("ED", "in", _in(0, immediate=False), ""),
    ("E6 ib", "out", _out(1, immediate=True), ""),
    ("E7 ib", "out", _out(0, immediate=True), ""),
    ("EE", "out", _out(1, immediate=False), ""),
    ("EF", "out", _out(0, immediate=False), ""),
)
