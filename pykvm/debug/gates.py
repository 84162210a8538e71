"""Why the handler of an exception couldn't be entered: the IDT, the gate, its code segment, the stack.

The checks are those of the Intel SDM vol. 2, INT n, "Operation", in their order; here they are looked at once
more, to say in words which of them failed.
"""

from __future__ import annotations

from pykvm.debug.reason import Reason
from pykvm.x86.exceptions import GP, NP, PF, SS, TS, Fault, name
from pykvm.x86.segments import (
    INTERRUPT_GATE16,
    INTERRUPT_GATE32,
    SELECTOR_TI,
    TASK_GATE,
    TRAP_GATE16,
    TRAP_GATE32,
    TYPE_CODE,
    decode_gate,
    decode_segment,
    type_text,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.debug.subject import Subject

_LEGACY_GATES = (INTERRUPT_GATE16, TRAP_GATE16, TASK_GATE, INTERRUPT_GATE32, TRAP_GATE32)
_LONG_GATES = (INTERRUPT_GATE32, TRAP_GATE32)


def why_not_delivered(subject: Subject, vector: int, second: Fault) -> Reason:
    """Why the delivery of ``vector`` raised ``second``."""
    if not subject.cpu.protected:
        return _real(subject, vector, second)
    fault = gate_fault(subject, vector)
    if fault is not None:
        return fault
    rsp = subject.cpu.regs["rsp"]
    where = "" if second.cr2 is None else f" at {second.cr2:#x}"
    if second.vector in (SS, PF) and (second.cr2 is None or not _in_tables(subject, second.cr2)):
        return Reason(
            key="handler-stack",
            text=f"its frame can't be pushed, rsp is {rsp:#x}: {name(second.vector)}{where}",
        )
    if second.vector in (PF, TS):
        return Reason(
            key="tables", text=f"a page of the GDT, IDT or TSS can't be used: {name(second.vector)}{where}"
        )
    return Reason(key="idt", text=f"its delivery raised {second}")


def gate_fault(subject: Subject, vector: int) -> Reason | None:
    """What is wrong with the gate of ``vector`` and the segment that it names; None where nothing is."""
    long = subject.cpu.long
    idt = subject.cpu.sregs["idt"]
    size = 16 if long else 8
    if size * (vector + 1) - 1 > idt["limit"]:
        if idt["limit"] < size - 1:
            return Reason(key="no-idt", text=f"there is no IDT (its limit is {idt['limit']:#x})")
        return Reason(
            key="idt",
            text=f"the IDT ends before gate {vector} (limit {idt['limit']:#x}, base {idt['base']:#x})",
        )
    place = idt["base"] + size * vector
    data = subject.peek(place, size)
    if len(data) < size:
        return Reason(key="tables", text=f"gate {vector} of the IDT, at {place:#x}, isn't mapped")
    gate = decode_gate(int.from_bytes(data[:8], "little"), int.from_bytes(data[8:], "little"))
    if not any(data):
        return Reason(key="idt", text=f"gate {vector} of the IDT, at {place:#x}, is empty (all zeros)")
    if gate["type"] not in (_LONG_GATES if long else _LEGACY_GATES):
        return Reason(
            key="idt",
            text=f"gate {vector} of the IDT, at {place:#x}, is of type {gate['type']:#x}: no interrupt gate",
        )
    if not gate["present"]:
        return Reason(key="idt", text=f"gate {vector} of the IDT, at {place:#x}, is not present")
    if gate["type"] == TASK_GATE:
        return None
    wrong = selector_fault(subject, gate["selector"], code=True)
    if wrong:
        return Reason(
            key="handler-code",
            text=f"gate {vector} of the IDT names code selector {gate['selector']:#x}: {wrong}",
        )
    return None


def selector_fault(subject: Subject, selector: int, *, code: bool = False) -> str:
    """What is wrong with ``selector``, in words; empty where it names a segment (``code``: of code)."""
    sregs = subject.cpu.sregs
    if not selector & 0xFFFC:
        return "it is null"
    in_ldt = bool(selector & SELECTOR_TI)
    table, title = (sregs["ldt"], "LDT") if in_ldt else (sregs["gdt"], "GDT")
    if in_ldt and table["unusable"]:
        return "it names the LDT, and there is none"
    if (selector & 0xFFF8) + 7 > table["limit"]:
        return f"it is beyond the {title}'s limit, {table['limit']:#x}"
    place = table["base"] + (selector & 0xFFF8)
    low = subject.word(place, 8)
    if low is None:
        return f"its descriptor at {place:#x} isn't mapped"
    if not low:
        return f"its descriptor at {place:#x} is empty (all zeros)"
    segment = decode_segment(selector, low)
    if not segment["present"]:
        return f"its segment isn't present (descriptor {low:#018x})"
    if code and not (segment["s"] and segment["type"] & TYPE_CODE):
        return f"it is {type_text(segment)}, not code"
    if code and subject.cpu.long and segment["l"] and segment["db"]:
        return f"its descriptor has both L and D set ({low:#018x})"
    if code and subject.cpu.long and not segment["l"]:
        return f"it is {type_text(segment)}, and long mode's handlers are 64-bit code"
    return ""


def error_code_fault(subject: Subject, fault: Fault) -> Reason:
    """What the error code of #TS, #NP, #SS or #GP tells: a gate or a selector (SDM vol. 3 §6.13)."""
    error = fault.error or 0
    if error & 2:
        vector = error >> 3
        came = f"interrupt {vector:#x} came" if error & 1 else f"INT {vector:#x} was executed"
        found = gate_fault(subject, vector)
        return Reason(key="gate", text=f"{came}; {found.text if found else f'its gate raised {fault}'}")
    selector = error & 0xFFFC
    wrong = selector_fault(subject, selector) or f"{_described(subject, selector)} isn't allowed here"
    return Reason(key="selector", text=f"selector {selector:#x}: {wrong}")


def _described(subject: Subject, selector: int) -> str:
    table = subject.cpu.sregs["ldt" if selector & SELECTOR_TI else "gdt"]
    low = subject.word(table["base"] + (selector & 0xFFF8), 8) or 0
    segment = decode_segment(selector, low)
    return f"a segment of {type_text(segment)}, DPL {segment['dpl']},"


def _real(subject: Subject, vector: int, second: Fault) -> Reason:
    idt = subject.cpu.sregs["idt"]
    if 4 * vector + 3 > idt["limit"]:
        text = f"the vector table of real mode ends before vector {vector} (limit {idt['limit']:#x})"
        return Reason(key="no-idt" if idt["limit"] < 3 else "idt", text=text)
    if second.vector in (SS, GP, NP):
        return Reason(key="handler-stack", text=f"its frame can't be pushed: {second}")
    return Reason(key="idt", text=f"its delivery raised {second}")


def _in_tables(subject: Subject, gva: int) -> bool:
    for name_ in ("idt", "gdt", "ldt", "tr"):
        table = subject.cpu.sregs[name_]
        if table["base"] <= gva <= table["base"] + table["limit"]:
            return True
    return False
