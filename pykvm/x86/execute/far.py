"""JMP, CALL and RET between segments: direct, through call gates, to tasks (Intel SDM vol. 2, by name).

Every check comes before the first change. In 64-bit mode a far pointer's offset has 64 bits with REX.W.
"""

from __future__ import annotations

from pykvm.x86.exceptions import GP, NP, SS, Fault
from pykvm.x86.execute import stack
from pykvm.x86.execute.descriptors import accessed, find_descriptor, null_stack, read_descriptor
from pykvm.x86.execute.iret import Stack, drop_inner_segments, return_code, return_stack
from pykvm.x86.execute.rings import inner_pointer_64, inner_stack, write_frame, write_frame_64
from pykvm.x86.execute.step import MASKS
from pykvm.x86.execute.tasks import CALL, JUMP, switch_task
from pykvm.x86.paging import canonical
from pykvm.x86.segments import (
    CALL_GATE16,
    CALL_GATE32,
    TASK_GATE,
    TSS16_AVAILABLE,
    TSS32_AVAILABLE,
    TYPE_CODE,
    TYPE_CONFORMING,
    decode_gate,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.x86.execute.cpu import Cpu
    from pykvm.x86.execute.step import Step
    from pykvm.x86.execute.table import Action, Rows
    from pykvm.x86.segments import Gate, Segment

_GATE_WIDTHS = {CALL_GATE16: 2, CALL_GATE32: 4}
_TSS_TYPES = (TSS16_AVAILABLE, TSS32_AVAILABLE)


def _direct(how: int) -> Action:
    """9A and EA: the pointer stands in the instruction."""
    return lambda step: _transfer(step, step.instruction.selector, step.instruction.immediate, how)


def _indirect(how: int) -> Action:
    """FF /3 and /5: the pointer is in memory, the selector behind the offset."""

    def action(step: Step) -> None:
        pointer = step.load_memory(step.size + 2)
        _transfer(step, pointer >> 8 * step.size, pointer & MASKS[step.size], how)

    return action


def _transfer(step: Step, selector: int, offset: int, how: int) -> None:
    cpu = step.cpu
    if not cpu.protected or cpu.v86:
        _real(step, selector, offset, how)
        return
    if not selector & 0xFFFC:
        raise Fault(GP, 0)
    found = read_descriptor(cpu, step.memory, selector)
    if found is None:
        raise Fault(GP, selector & 0xFFFC)
    place, segment = found
    kind = segment["type"]
    if segment["s"]:
        _to_segment(step, selector, place, segment, offset, how)
    elif kind == CALL_GATE32 or (kind == CALL_GATE16 and not cpu.long):
        _through_gate(step, selector, place, segment, how)
    elif not cpu.long and (kind == TASK_GATE or kind in _TSS_TYPES):
        _to_task(step, selector, place, segment, how)
    else:
        raise Fault(GP, selector & 0xFFFC)


def _real(step: Step, selector: int, offset: int, how: int) -> None:
    cpu = step.cpu
    if offset > cpu.sregs["cs"]["limit"]:
        raise Fault(GP, 0)
    if how == CALL:
        stack.push_all(step, (cpu.sregs["cs"]["selector"], cpu.regs["rip"]), step.size)
    cpu.set_segment("cs", cpu.sregs["cs"] | {"selector": selector, "base": selector << 4})
    cpu.regs["rip"] = offset


def _check_offset(cpu: Cpu, code: Segment, offset: int) -> None:
    if cpu.long and code["l"]:
        if not canonical(offset, cpu.sregs["cr4"]):
            raise Fault(GP, 0)
    elif offset > code["limit"]:
        raise Fault(GP, 0)


def _to_segment(step: Step, selector: int, place: int, code: Segment, offset: int, how: int) -> None:
    cpu, bad = step.cpu, Fault(GP, selector & 0xFFFC)
    kind, cpl = code["type"], cpu.cpl
    if not kind & TYPE_CODE:
        raise bad
    if kind & TYPE_CONFORMING:
        if code["dpl"] > cpl:
            raise bad
    elif selector & 3 > cpl or code["dpl"] != cpl:
        raise bad
    if cpu.long and code["l"] and code["db"]:
        raise bad
    if not code["present"]:
        raise Fault(NP, selector & 0xFFFC)
    _check_offset(cpu, code, offset)
    _go(step, selector, accessed(step.memory, place, code), offset, how, step.size)


def _go(step: Step, selector: int, code: Segment, offset: int, how: int, width: int) -> None:
    """To a segment of the same privilege; a call pushes with ``width``, the last that can fail."""
    cpu = step.cpu
    cpl = cpu.cpl
    if how == CALL:
        stack.push_all(step, (cpu.sregs["cs"]["selector"], cpu.regs["rip"]), width)
    cpu.set_segment("cs", code | {"selector": selector & 0xFFFC | cpl})
    cpu.regs["rip"] = offset


def _through_gate(step: Step, selector: int, place: int, segment: Segment, how: int) -> None:
    cpu, memory = step.cpu, step.memory
    bad = Fault(GP, selector & 0xFFFC)
    high = 0
    if cpu.long:
        if find_descriptor(cpu, selector, 16) is None:
            raise bad
        high = memory.read_system(place + 8, 8)
        if high >> 40 & 0x1F:
            raise bad
    gate = decode_gate(memory.read_system(place, 8), high)
    _check_rights(cpu, selector, segment)
    code_place, code = _gate_code(step, gate, how)
    offset = gate["offset"] if cpu.long or gate["type"] == CALL_GATE32 else gate["offset"] & 0xFFFF
    width = 8 if cpu.long else _GATE_WIDTHS[gate["type"]]
    _check_offset(cpu, code, offset)
    code = accessed(memory, code_place, code)
    if how == CALL and not code["type"] & TYPE_CONFORMING and code["dpl"] < cpu.cpl:
        _call_inner(step, gate, code, offset, width)
    else:
        _go(step, gate["selector"], code, offset, how, width)


def _check_rights(cpu: Cpu, selector: int, gate: Segment) -> None:
    """Of a gate or TSS: the DPL must allow both CPL and RPL, and it must be present."""
    if gate["dpl"] < max(cpu.cpl, selector & 3):
        raise Fault(GP, selector & 0xFFFC)
    if not gate["present"]:
        raise Fault(NP, selector & 0xFFFC)


def _gate_code(step: Step, gate: Gate, how: int) -> tuple[int, Segment]:
    """The code segment that a call gate leads to."""
    cpu, selector = step.cpu, gate["selector"]
    bad = Fault(GP, selector & 0xFFFC)
    found = read_descriptor(cpu, step.memory, selector)
    if found is None:
        raise bad
    code = found[1]
    if not code["s"] or not code["type"] & TYPE_CODE or code["dpl"] > cpu.cpl:
        raise bad
    if how == JUMP and not code["type"] & TYPE_CONFORMING and code["dpl"] != cpu.cpl:
        raise bad
    if cpu.long and (not code["l"] or code["db"]):
        raise bad
    if not code["present"]:
        raise Fault(NP, selector & 0xFFFC)
    return found


def _call_inner(step: Step, gate: Gate, code: Segment, offset: int, width: int) -> None:
    """To a more privileged ring, on its stack; parameters are copied there (SDM vol. 3 §5.8.5)."""
    cpu, memory = step.cpu, step.memory
    regs, sregs, cpl = cpu.regs, cpu.sregs, code["dpl"]
    outer = [sregs["ss"]["selector"], regs["rsp"]]
    back = [sregs["cs"]["selector"], regs["rip"]]
    if cpu.long:
        rsp = inner_pointer_64(cpu, memory, cpl, 0)
        cr4 = sregs["cr4"]
        if not canonical(rsp, cr4) or not canonical(rsp - 32 & MASKS[8], cr4):
            raise Fault(SS, 0)
        rsp, inner = write_frame_64(memory, rsp, [*outer, *back], cpl), null_stack(cpl, cpl)
    else:
        inner, sp = inner_stack(cpu, memory, cpl, 0)
        parameters = [stack.top(step, width, width * number) for number in range(gate["params"])]
        frame = [*outer, *reversed(parameters), *back]
        rsp = write_frame(memory, inner, sp, width, frame, cpl, inner["selector"] & 0xFFFC)
    regs["rsp"] = rsp
    cpu.set_segment("ss", inner)
    cpu.set_segment("cs", code | {"selector": gate["selector"] & 0xFFFC | cpl})
    regs["rip"] = offset


def _to_task(step: Step, selector: int, place: int, segment: Segment, how: int) -> None:
    _check_rights(step.cpu, selector, segment)
    if segment["type"] == TASK_GATE:
        selector = decode_gate(step.memory.read_system(place, 8))["selector"]
    switch_task(step.cpu, step.memory, selector, how)


# Returns


def ret_far(step: Step) -> None:
    """The immediate counts bytes of parameters that leave both stacks."""
    cpu, memory, extra = step.cpu, step.memory, step.instruction.immediate
    frame = Stack(step)
    rip, selector = frame.pop(), frame.pop() & 0xFFFF
    frame.skip(extra)
    if not cpu.protected or cpu.v86:
        if rip > cpu.sregs["cs"]["limit"]:
            raise Fault(GP, 0)
        cpu.regs["rip"], cpu.regs["rsp"] = rip, frame.pointer
        cpu.set_segment("cs", cpu.sregs["cs"] | {"selector": selector, "base": selector << 4})
        return
    place, code = return_code(cpu, memory, selector)
    old_cpl, cpl = cpu.cpl, selector & 3
    to_64 = bool(cpu.long and code["l"])
    if cpl > old_cpl:
        rsp, ss_selector = frame.pop(), frame.pop() & 0xFFFF
        ss = return_stack(cpu, memory, ss_selector, cpl, to_64)
    _check_offset(cpu, code, rip)
    code = accessed(memory, place, code)
    if cpl == old_cpl:
        cpu.regs["rsp"] = frame.pointer
    else:
        if to_64:
            cpu.regs["rsp"] = rsp + extra & MASKS[8]
        else:
            cpu.set_reg(stack.RSP, 4 if ss["db"] else 2, rsp + extra)
        cpu.set_segment("ss", ss)
    cpu.regs["rip"] = rip
    cpu.set_segment("cs", code)
    if cpl > old_cpl:
        drop_inner_segments(cpu, cpl)


INSTRUCTIONS: Rows = (
    ("EA cp", "jmp", _direct(JUMP), ""),
    ("9A cp", "call", _direct(CALL), ""),
    ("FF /5 m", "jmp", _indirect(JUMP), ""),
    ("FF /3 m", "call", _indirect(CALL), ""),
    ("CA iw", "retf", ret_far, ""),
    ("CB", "retf", ret_far, ""),
)
