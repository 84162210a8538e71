"""The stack: PUSH and POP in all forms, PUSHA, POPA, ENTER, LEAVE, PUSHF, POPF (Intel SDM vol. 2).

A segment register is pushed zero-extended to operand size.
"""

from __future__ import annotations

from pykvm.x86.exceptions import GP, Fault
from pykvm.x86.execute.descriptors import load_segment
from pykvm.x86.execute.step import MASKS
from pykvm.x86.registers import (
    CR4_VME,
    RFLAGS_AC,
    RFLAGS_AF,
    RFLAGS_CF,
    RFLAGS_DF,
    RFLAGS_ID,
    RFLAGS_IF,
    RFLAGS_IOPL,
    RFLAGS_NT,
    RFLAGS_OF,
    RFLAGS_PF,
    RFLAGS_RF,
    RFLAGS_SF,
    RFLAGS_TF,
    RFLAGS_VIF,
    RFLAGS_VIP,
    RFLAGS_VM,
    RFLAGS_ZF,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.x86.execute.cpu import Cpu
    from pykvm.x86.execute.step import Step
    from pykvm.x86.execute.table import Action, Rows

RSP, RBP = 4, 5

_STATUS = RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF | RFLAGS_OF
FREE_FLAGS = _STATUS | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT
"""Flags that POPF and IRET set at any privilege: status flags, and TF, DF, NT."""


def pointer_mask(cpu: Cpu) -> int:
    """The part of RSP that is the stack pointer: the stack's address size (SDM vol. 1 §6.2.3)."""
    if cpu.bits == 64:
        return MASKS[8]
    return MASKS[4] if cpu.sregs["ss"]["db"] else MASKS[2]


def operand_size(step: Step) -> int:
    """The size of what is pushed and popped: in 64-bit mode 8 bytes, or 2 with a 66 prefix."""
    if step.instruction.bits == 64 and step.size == 4:
        return 8
    return step.size


def moved(cpu: Cpu, pointer: int, by: int) -> int:
    """A value of RSP after the stack pointer in it was moved."""
    mask = pointer_mask(cpu)
    return pointer & (MASKS[4] ^ MASKS[2] if mask == MASKS[2] else 0) | pointer + by & mask


def push_all(step: Step, values: tuple[int, ...], size: int) -> None:
    """Push values in their order, or none where one can't be."""
    cpu = step.cpu
    mask, pointer = pointer_mask(cpu), cpu.regs["rsp"]
    data = [(value & MASKS[size]).to_bytes(size, "little") for value in values]
    if len(data) > 1:
        for count in range(1, len(data) + 1):
            step.memory.check_write("ss", pointer - count * size & mask, size)
    for item in data:
        pointer = moved(cpu, pointer, -size)
        step.memory.write("ss", pointer & mask, item)
    cpu.regs["rsp"] = pointer


def push(step: Step, value: int, size: int = 0) -> None:
    push_all(step, (value,), size or operand_size(step))


def check_push(step: Step, size: int) -> None:
    """Raise what pushing an item of ``size`` bytes would."""
    pointer = step.cpu.regs["rsp"] - size & pointer_mask(step.cpu)
    step.memory.check_write("ss", pointer, size)


def top(step: Step, size: int, at: int = 0) -> int:
    """The item at ``at`` bytes above the stack pointer."""
    cpu = step.cpu
    offset = cpu.regs["rsp"] + at & pointer_mask(cpu)
    return int.from_bytes(step.memory.read("ss", offset, size), "little")


def drop(step: Step, size: int) -> None:
    step.cpu.regs["rsp"] = moved(step.cpu, step.cpu.regs["rsp"], size)


def push_register(step: Step) -> None:
    size = operand_size(step)
    push(step, step.cpu.reg(step.opcode_register(), size), size)


def pop_register(step: Step) -> None:
    size = operand_size(step)
    value = top(step, size)
    drop(step, size)
    step.cpu.set_reg(step.opcode_register(), size, value)


def push_immediate(step: Step) -> None:
    size = operand_size(step)
    push(step, step.immediate(size), size)


def push_operand(step: Step) -> None:
    size = operand_size(step)
    push(step, step.load(size), size)


def pop_operand(step: Step) -> None:
    """The address of a memory operand is computed with RSP already moved."""
    size, regs = operand_size(step), step.cpu.regs
    value, before = top(step, size), regs["rsp"]
    drop(step, size)
    try:
        step.store(value, size)
    except Fault:
        regs["rsp"] = before
        raise


def _push_segment(name: str) -> Action:
    return lambda step: push(step, step.cpu.sregs[name]["selector"])


def _pop_segment(name: str) -> Action:
    def action(step: Step) -> None:
        size = operand_size(step)
        load_segment(step.cpu, step.memory, name, top(step, 2))
        drop(step, size)
        step.cpu.interrupt_shadow = name == "ss"

    return action


def pusha(step: Step) -> None:
    push_all(step, tuple(step.cpu.reg(number, step.size) for number in range(8)), step.size)


def popa(step: Step) -> None:
    """(E)SP's own item is skipped."""
    size = step.size
    values = [top(step, size, size * at) for at in range(8)]
    for number, value in zip(range(7, -1, -1), values, strict=True):
        if number != RSP:
            step.cpu.set_reg(number, size, value)
    drop(step, 8 * size)


def enter(step: Step) -> None:
    """Frames are copied one by one: what is pushed may be a frame pointer to be copied next."""
    cpu, memory, size = step.cpu, step.memory, operand_size(step)
    mask, pointer = pointer_mask(cpu), cpu.regs["rsp"]
    level = step.instruction.selector & 31
    frame = pointer - size & mask
    value = cpu.reg(RBP, size)
    for number in range(level + 1):
        if number:
            place = cpu.regs["rbp"] - number * size & mask
            last = number == level
            value = frame if last else int.from_bytes(memory.read("ss", place, size), "little")
        pointer = moved(cpu, pointer, -size)
        memory.write("ss", pointer & mask, (value & MASKS[size]).to_bytes(size, "little"))
    pointer = moved(cpu, pointer, -step.instruction.immediate)
    memory.check_write("ss", pointer & mask, size)  # the new stack must be there
    cpu.set_reg(RBP, size, frame)
    cpu.regs["rsp"] = pointer


def leave(step: Step) -> None:
    cpu, size = step.cpu, operand_size(step)
    mask = pointer_mask(cpu)
    frame = cpu.regs["rbp"] & mask
    value = int.from_bytes(step.memory.read("ss", frame, size), "little")
    cpu.regs["rsp"] = moved(cpu, cpu.regs["rsp"] & ~mask | frame, size)
    cpu.set_reg(RBP, size, value)


# Flags


def pushf(step: Step) -> None:
    cpu = step.cpu
    flags = cpu.regs["rflags"] & ~(RFLAGS_VM | RFLAGS_RF)
    if cpu.v86 and cpu.iopl < 3:
        if not cpu.sregs["cr4"] & CR4_VME or step.size != 2:
            raise Fault(GP, 0)
        flags = virtual_flags(flags)
    push(step, flags)


def virtual_flags(flags: int) -> int:
    """What CR4.VME shows of the flags: VIF in IF's place, and IOPL 3."""
    return flags & ~RFLAGS_IF | (RFLAGS_IF if flags & RFLAGS_VIF else 0) | RFLAGS_IOPL


def popf(step: Step) -> None:
    cpu, size = step.cpu, operand_size(step)
    mask = FREE_FLAGS
    if size > 2:
        mask |= RFLAGS_AC | RFLAGS_ID
    if cpu.v86 and cpu.iopl < 3:
        if not cpu.sregs["cr4"] & CR4_VME or size != 2:
            raise Fault(GP, 0)
        flags = top(step, size)
        if flags & RFLAGS_TF or (flags & RFLAGS_IF and cpu.regs["rflags"] & RFLAGS_VIP):
            raise Fault(GP, 0)
        mask |= RFLAGS_VIF
        flags = flags & ~RFLAGS_VIF | (RFLAGS_VIF if flags & RFLAGS_IF else 0)
    else:
        flags = top(step, size)
        if cpu.cpl == 0:
            mask |= RFLAGS_IOPL
        if cpu.cpl <= cpu.iopl:
            mask |= RFLAGS_IF
    drop(step, size)
    cpu.set_flags(flags, mask)


INSTRUCTIONS: Rows = (
    ("50+r", "push", push_register, ""),
    ("58+r", "pop", pop_register, ""),
    ("68 id", "push", push_immediate, ""),
    ("6A ib", "push", push_immediate, ""),
    ("FF /6", "push", push_operand, ""),
    ("8F /0", "pop", pop_operand, ""),
    ("06", "push", _push_segment("es"), ""),
    ("0E", "push", _push_segment("cs"), ""),
    ("16", "push", _push_segment("ss"), ""),
    ("1E", "push", _push_segment("ds"), ""),
    ("0F A0", "push", _push_segment("fs"), ""),
    ("0F A8", "push", _push_segment("gs"), ""),
    ("07", "pop", _pop_segment("es"), ""),
    ("17", "pop", _pop_segment("ss"), ""),
    ("1F", "pop", _pop_segment("ds"), ""),
    ("0F A1", "pop", _pop_segment("fs"), ""),
    ("0F A9", "pop", _pop_segment("gs"), ""),
    ("60", "pusha", pusha, ""),
    ("61", "popa", popa, ""),
    ("C8 iw ib", "enter", enter, ""),
    ("C9", "leave", leave, ""),
    ("9C", "pushf", pushf, ""),
    ("9D", "popf", popf, ""),
)
