"""How an interrupt or exception enters its handler, in every mode (Intel SDM vol. 2, INT n, "Operation").

Through the vector table of real mode, and through 16-, 32- and 64-bit interrupt and trap gates, with changes
of privilege, stacks from the TSS and IST, and through task gates.
"""

from __future__ import annotations

from pykvm.x86.exceptions import BP, DB, DF, DOUBLE, FAULTS, GP, NP, OF, SS, TRIPLE, Fault, together
from pykvm.x86.execute.descriptors import accessed, null_stack, read_descriptor
from pykvm.x86.execute.rings import (
    inner_pointer_64,
    inner_stack,
    need_room,
    tss64,
    write_frame,
    write_frame_64,
)
from pykvm.x86.execute.tasks import CALL, switch_task
from pykvm.x86.execute.virtual import interrupt_in_task, redirected
from pykvm.x86.paging import canonical
from pykvm.x86.registers import (
    CR4_VME,
    RFLAGS_AC,
    RFLAGS_IF,
    RFLAGS_NT,
    RFLAGS_OF,
    RFLAGS_RF,
    RFLAGS_TF,
    RFLAGS_VM,
)
from pykvm.x86.segments import (
    INTERRUPT_GATE16,
    INTERRUPT_GATE32,
    TASK_GATE,
    TRAP_GATE16,
    TRAP_GATE32,
    TSS64_IST1,
    TYPE_CODE,
    TYPE_CONFORMING,
    decode_gate,
    null_segment,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.x86.execute.cpu import Cpu
    from pykvm.x86.execute.linear import Linear
    from pykvm.x86.execute.step import Step
    from pykvm.x86.segments import Gate, Segment

EXCEPTION = 0
"""Raised by an instruction; RIP is at the instruction where it is a fault."""
SOFTWARE = 1
"""INT n, INT3, INTO: the gate's DPL must allow it."""
EXTERNAL = 2
"""From a device."""

_GATES = {INTERRUPT_GATE16: 16, TRAP_GATE16: 16, INTERRUPT_GATE32: 32, TRAP_GATE32: 32}
_IN_IDT = 2  # the error code's bit for "the selector is a vector"


def raise_exception(cpu: Cpu, memory: Linear, fault: Fault) -> bool:
    """Deliver ``fault``, or the double fault that it becomes; False where that is a triple fault."""
    while True:
        if fault.cr2 is not None:
            cpu.sregs["cr2"] = fault.cr2
            cpu.changed.add("sregs")
        try:
            deliver(cpu, memory, fault.vector, fault.error)
        except Fault as second:
            kind = together(fault.vector, second.vector)
            if kind == TRIPLE:
                return False
            fault = Fault(DF, 0) if kind == DOUBLE else second
        else:
            return True


def deliver(cpu: Cpu, memory: Linear, vector: int, error: int | None = None, source: int = EXCEPTION) -> None:
    """Enter the handler of ``vector``; ``error`` is pushed where it is not None and the mode pushes any.

    The return address is ``cpu.regs["rip"]``. Raises the Fault of a delivery that fails; then
    registers are as they were, but after a task switch.
    """
    saved = cpu.save()
    try:
        if not cpu.protected:
            _through_vector_table(cpu, memory, vector)
        else:
            _through_gate(cpu, memory, vector, error, source)
    except Fault as fault:
        if not fault.keeps:
            cpu.restore(saved)
        raise


def _through_vector_table(cpu: Cpu, memory: Linear, vector: int) -> None:
    regs, sregs = cpu.regs, cpu.sregs
    if 4 * vector + 3 > sregs["idt"]["limit"]:
        raise Fault(GP, 0)
    entry = memory.read_system(sregs["idt"]["base"] + 4 * vector, 4)
    offset, selector = entry & 0xFFFF, entry >> 16
    sp = regs["rsp"]
    for value in (regs["rflags"], sregs["cs"]["selector"], regs["rip"]):
        sp = sp & ~0xFFFF | sp - 2 & 0xFFFF
        memory.write("ss", sp & 0xFFFF, (value & 0xFFFF).to_bytes(2, "little"))
    if offset > sregs["cs"]["limit"]:
        raise Fault(GP, 0)
    regs["rsp"] = sp
    cpu.set_segment("cs", sregs["cs"] | {"selector": selector, "base": selector << 4})
    regs["rip"] = offset
    cpu.set_flags(0, RFLAGS_IF | RFLAGS_TF | RFLAGS_AC)


def _through_gate(cpu: Cpu, memory: Linear, vector: int, error: int | None, source: int) -> None:
    ext = 0 if source == SOFTWARE else 1
    gate = _gate(cpu, memory, vector, source == SOFTWARE, ext)
    if gate["type"] == TASK_GATE:
        switch_task(cpu, memory, gate["selector"], CALL, ext=ext, error=error)
        return
    place, code = _code_segment(cpu, memory, gate["selector"], ext)
    conforming = bool(code["type"] & TYPE_CONFORMING)
    inner = not conforming and code["dpl"] < cpu.cpl
    if cpu.v86 and not (inner and code["dpl"] == 0):
        raise Fault(GP, (gate["selector"] & 0xFFFC) + ext)
    cpl = code["dpl"] if inner else cpu.cpl
    flags = cpu.regs["rflags"]
    if source == EXCEPTION and vector in FAULTS:
        flags |= RFLAGS_RF
    tail = [flags, cpu.sregs["cs"]["selector"], cpu.regs["rip"], *([] if error is None else [error])]
    if cpu.long:
        _enter_64(cpu, memory, gate, tail, inner, cpl, ext)
    else:
        _enter_legacy(cpu, memory, gate, code, tail, inner, cpl, ext)
    cpu.set_segment("cs", accessed(memory, place, code) | {"selector": gate["selector"] & 0xFFFC | cpl})
    cpu.regs["rip"] = gate["offset"]
    interrupts_off = RFLAGS_IF if gate["type"] in (INTERRUPT_GATE16, INTERRUPT_GATE32) else 0
    cpu.set_flags(0, RFLAGS_TF | RFLAGS_NT | RFLAGS_RF | RFLAGS_VM | interrupts_off)


def _gate(cpu: Cpu, memory: Linear, vector: int, software: bool, ext: int) -> Gate:
    """The vector's gate: its type, DPL and presence are checked, a 16-bit gate's offset is cut."""
    idt = cpu.sregs["idt"]
    size = 16 if cpu.long else 8
    bad = Fault(GP, 8 * vector + _IN_IDT + ext)
    if size * vector + size - 1 > idt["limit"]:
        raise bad
    place = idt["base"] + size * vector
    gate = decode_gate(memory.read_system(place, 8), memory.read_system(place + 8, 8) if cpu.long else 0)
    kind = gate["type"]
    width = _GATES.get(kind)
    if (width is None and (kind != TASK_GATE or cpu.long)) or (width == 16 and cpu.long):
        raise bad
    if software and gate["dpl"] < cpu.cpl:
        raise Fault(GP, 8 * vector + _IN_IDT)
    if not gate["present"]:
        raise Fault(NP, 8 * vector + _IN_IDT + ext)
    if width == 16:
        gate["offset"] &= 0xFFFF
    return gate


def _code_segment(cpu: Cpu, memory: Linear, selector: int, ext: int) -> tuple[int, Segment]:
    bad = Fault(GP, (selector & 0xFFFC) + ext)
    found = read_descriptor(cpu, memory, selector)
    if found is None:
        raise bad  # of the null selector this is EXT alone
    segment = found[1]
    if not segment["s"] or not segment["type"] & TYPE_CODE or segment["dpl"] > cpu.cpl:
        raise bad
    if not segment["present"]:
        raise Fault(NP, (selector & 0xFFFC) + ext)
    if cpu.long and (not segment["l"] or segment["db"]):
        raise bad
    return found


def _enter_64(cpu: Cpu, memory: Linear, gate: Gate, tail: list[int], inner: bool, cpl: int, ext: int) -> None:
    cr4 = cpu.sregs["cr4"]
    rsp = cpu.regs["rsp"]
    if gate["ist"]:
        rsp = tss64(cpu, memory, TSS64_IST1 + 8 * (gate["ist"] - 1), ext)
    elif inner:
        rsp = inner_pointer_64(cpu, memory, cpl, ext)
    frame = [cpu.sregs["ss"]["selector"], cpu.regs["rsp"], *tail]
    top = rsp & ~15
    if not canonical(rsp, cr4) or not canonical(top - 8 * len(frame) & 0xFFFF_FFFF_FFFF_FFFF, cr4):
        raise Fault(SS, ext)
    if not canonical(gate["offset"], cr4):
        raise Fault(GP, ext)
    cpu.regs["rsp"] = write_frame_64(memory, top, frame, cpl)
    if inner:
        cpu.set_segment("ss", null_stack(cpl, cpl))


def _enter_legacy(
    cpu: Cpu,
    memory: Linear,
    gate: Gate,
    code: Segment,
    tail: list[int],
    inner: bool,
    cpl: int,
    ext: int,
) -> None:
    regs, sregs = cpu.regs, cpu.sregs
    width = _GATES[gate["type"]] // 8
    frame = tail
    stack, sp, error = sregs["ss"], regs["rsp"], ext
    if inner:
        stack, sp = inner_stack(cpu, memory, cpl, ext)
        error = (stack["selector"] & 0xFFFC) + ext
        frame = [sregs["ss"]["selector"], regs["rsp"], *tail]
    from_v86 = cpu.v86
    if from_v86:
        frame = [*(sregs[name]["selector"] for name in ("gs", "fs", "ds", "es")), *frame]
    need_room(stack, sp, width * len(frame), error)
    if gate["offset"] > code["limit"]:
        raise Fault(GP, ext)
    regs["rsp"] = write_frame(memory, stack, sp, width, frame, cpl, error)
    if inner:
        cpu.set_segment("ss", stack)
    if from_v86:
        for name in ("gs", "fs", "ds", "es"):
            cpu.set_segment(name, null_segment())


def int_n(step: Step) -> None:
    cpu, vector = step.cpu, step.instruction.immediate
    if cpu.v86:
        if cpu.sregs["cr4"] & CR4_VME and redirected(step, vector):
            interrupt_in_task(step, vector)
            return
        if cpu.iopl < 3:
            raise Fault(GP, 0)
    deliver(cpu, step.memory, vector, source=SOFTWARE)


def int3(step: Step) -> None:
    deliver(step.cpu, step.memory, BP, source=SOFTWARE)


def int1(step: Step) -> None:
    """#DB as a trap, whatever the gate's DPL."""
    deliver(step.cpu, step.memory, DB)


def into(step: Step) -> None:
    if step.cpu.regs["rflags"] & RFLAGS_OF:
        deliver(step.cpu, step.memory, OF, source=SOFTWARE)


INSTRUCTIONS = (
    ("CC", "int3", int3, ""),
    ("CD ib", "int", int_n, ""),
    ("CE", "into", into, ""),
    ("F1", "int1", int1, ""),
)
