"""Near jumps, calls and returns, conditional jumps and loops (Intel SDM vol. 2, each by its name).

In 64-bit mode near branches have 64-bit operands whatever the prefixes say.
"""

from __future__ import annotations

from pykvm.x86.exceptions import GP, Fault
from pykvm.x86.execute import stack
from pykvm.x86.execute.flags import holds
from pykvm.x86.execute.integers import RCX
from pykvm.x86.execute.step import MASKS
from pykvm.x86.paging import canonical
from pykvm.x86.registers import RFLAGS_ZF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.x86.execute.step import Step
    from pykvm.x86.execute.table import Action, Rows


def _size(step: Step) -> int:
    return 8 if step.instruction.bits == 64 else step.size


def _checked(step: Step, target: int) -> int:
    """The target of a near branch, cut to operand size: #GP(0) outside of CS or not canonical."""
    target &= MASKS[_size(step)]
    sregs = step.cpu.sregs
    if step.instruction.bits == 64:
        if not canonical(target, sregs["cr4"]):
            raise Fault(GP, 0)
    elif target > sregs["cs"]["limit"]:
        raise Fault(GP, 0)
    return target


def _relative(step: Step) -> int:
    regs = step.cpu.regs
    return _checked(step, regs["rip"] + step.immediate(8))


def jump(step: Step) -> None:
    step.cpu.regs["rip"] = _relative(step)


def jump_if(step: Step) -> None:
    if holds(step.instruction.opcode & 15, step.cpu.regs["rflags"]):
        step.cpu.regs["rip"] = _relative(step)


def jump_indirect(step: Step) -> None:
    step.cpu.regs["rip"] = _checked(step, step.load(_size(step)))


def _call(step: Step, target: int) -> None:
    """In 64-bit mode what the stack raises comes before the target's #GP, else behind it (SDM, CALL)."""
    size = _size(step)
    if step.instruction.bits == 64:
        stack.check_push(step, size)
    target = _checked(step, target)
    stack.push(step, step.cpu.regs["rip"], size)
    step.cpu.regs["rip"] = target


def call(step: Step) -> None:
    _call(step, step.cpu.regs["rip"] + step.immediate(8))


def call_indirect(step: Step) -> None:
    _call(step, step.load(_size(step)))


def ret(step: Step) -> None:
    size = _size(step)
    target = _checked(step, stack.top(step, size))
    stack.drop(step, size + step.instruction.immediate)
    step.cpu.regs["rip"] = target


def _loop(zero_flag: int | None) -> Action:
    """LOOP, and with ``zero_flag`` what ZF must be for LOOPE and LOOPNE. The count has address size."""

    def action(step: Step) -> None:
        cpu, size = step.cpu, step.instruction.address_size
        count = cpu.reg(RCX, size) - 1 & MASKS[size]
        taken = count != 0 and (zero_flag is None or cpu.regs["rflags"] & RFLAGS_ZF == zero_flag)
        target = _relative(step) if taken else cpu.regs["rip"]
        cpu.set_reg(RCX, size, count)
        cpu.regs["rip"] = target

    return action


def jcxz(step: Step) -> None:
    if step.cpu.reg(RCX, step.instruction.address_size) == 0:
        step.cpu.regs["rip"] = _relative(step)


INSTRUCTIONS: Rows = (
    ("70+cc cb", "j", jump_if, ""),
    ("0F 80+cc cd", "j", jump_if, ""),
    ("EB cb", "jmp", jump, ""),
    ("E9 cd", "jmp", jump, ""),
    ("FF /4", "jmp", jump_indirect, ""),
    ("E8 cd", "call", call, ""),
    ("FF /2", "call", call_indirect, ""),
    ("C2 iw", "ret", ret, ""),
    ("C3", "ret", ret, ""),
    ("E0 cb", "loopne", _loop(0), ""),
    ("E1 cb", "loope", _loop(RFLAGS_ZF), ""),
    ("E2 cb", "loop", _loop(None), ""),
    ("E3 cb", "jcxz", jcxz, ""),
)
