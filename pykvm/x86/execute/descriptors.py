"""Descriptor tables at work: reading descriptors, loading segment registers, and the instructions about them.

LAR, LSL, VERR, VERW, LTR, LLDT, MOV to and from segment registers, SGDT, SIDT, STR, SLDT and SMSW, each by
its name in the Intel SDM vol. 2.
"""

from __future__ import annotations

from pykvm.x86.exceptions import GP, NP, SS, UD, Fault
from pykvm.x86.paging import canonical
from pykvm.x86.registers import CR4_UMIP, RFLAGS_ZF, SEGMENTS
from pykvm.x86.segments import (
    CALL_GATE16,
    CALL_GATE32,
    LDT,
    SELECTOR_TI,
    TASK_GATE,
    TSS16_AVAILABLE,
    TSS16_BUSY,
    TSS32_AVAILABLE,
    TSS32_BUSY,
    TYPE_ACCESSED,
    TYPE_CODE,
    TYPE_CONFORMING,
    TYPE_READABLE,
    TYPE_WRITABLE,
    decode_segment,
    null_segment,
    real_segment,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.x86.execute.cpu import Cpu
    from pykvm.x86.execute.linear import Linear
    from pykvm.x86.execute.step import Step
    from pykvm.x86.segments import Segment

_TSS_BUSY = 2  # the type bit by which a busy TSS differs from an available one
_FLAT = {"base": 0, "limit": 0xFFFF_FFFF, "type": 3, "present": 1, "s": 1, "db": 1, "g": 1, "l": 0, "avl": 0}


def find_descriptor(cpu: Cpu, selector: int, size: int = 8) -> int | None:
    """The linear address of the descriptor of ``selector``; None for the null selector and where its
    ``size`` bytes don't lie within the GDT or LDT."""
    if not selector & 0xFFFC:
        return None
    table = cpu.sregs["ldt"] if selector & SELECTOR_TI else cpu.sregs["gdt"]
    if selector & SELECTOR_TI and table["unusable"]:
        return None
    offset = selector & 0xFFF8
    if offset + size - 1 > table["limit"]:
        return None
    base: int = table["base"]
    return base + offset


def read_descriptor(cpu: Cpu, memory: Linear, selector: int) -> tuple[int, Segment] | None:
    """Where the descriptor of ``selector`` is and what it says; None as with ``find_descriptor``.

    In IA-32e mode a system descriptor has 16 bytes; the second half is read where the table has it.
    """
    place = find_descriptor(cpu, selector)
    if place is None:
        return None
    segment = decode_segment(selector, memory.read_system(place, 8))
    if cpu.long and not segment["s"] and find_descriptor(cpu, selector, 16) is not None:
        segment["base"] |= memory.read_system(place + 8, 4) << 32
    return place, segment


def accessed(memory: Linear, place: int, segment: Segment) -> Segment:
    """The segment as it is loaded: its accessed bit is set, in the table too."""
    if segment["type"] & TYPE_ACCESSED:
        return segment
    kind = memory.read_system(place + 5, 1)
    memory.write_system(place + 5, 1, kind | TYPE_ACCESSED)
    return segment | {"type": segment["type"] | TYPE_ACCESSED}


def null_stack(selector: int, cpl: int) -> Segment:
    """SS with a null selector, as 64-bit mode allows: KVM wants the CPL in its DPL, and a flat segment."""
    return {**_FLAT, "selector": selector, "dpl": cpl, "unusable": 0}


def load_segment(cpu: Cpu, memory: Linear, name: str, selector: int) -> None:
    """MOV to DS, ES, FS, GS or SS: SDM vol. 2, MOV, "Loading a segment register under special conditions"."""
    if not cpu.protected or cpu.v86:
        _load_real(cpu, name, selector)
    elif not selector & 0xFFFC:
        _load_null(cpu, name, selector)
    else:
        found = read_descriptor(cpu, memory, selector)
        if found is None:
            raise Fault(GP, selector & 0xFFFC)
        place, segment = found
        check = _stack_allowed if name == "ss" else _data_allowed
        if not segment["s"] or not check(segment, selector & 3, cpu.cpl):
            raise Fault(GP, selector & 0xFFFC)
        if not segment["present"]:
            raise Fault(SS if name == "ss" else NP, selector & 0xFFFC)
        cpu.set_segment(name, accessed(memory, place, segment))


def _load_real(cpu: Cpu, name: str, selector: int) -> None:
    """In real mode the limit and rights of the register stay, but where it held a null selector; in
    virtual-8086 mode they are fixed."""
    if cpu.v86:
        cpu.set_segment(name, real_segment(selector, dpl=3))
    elif cpu.sregs[name]["unusable"]:
        cpu.set_segment(name, real_segment(selector))
    else:
        cpu.set_segment(name, cpu.sregs[name] | {"selector": selector, "base": selector << 4})


def _load_null(cpu: Cpu, name: str, selector: int) -> None:
    if name != "ss":
        cpu.set_segment(name, null_segment(selector))
    elif cpu.bits == 64 and cpu.cpl != 3 and selector == cpu.cpl:
        cpu.set_segment(name, null_stack(selector, cpu.cpl))
    else:
        raise Fault(GP, 0)


def _stack_allowed(segment: Segment, rpl: int, cpl: int) -> bool:
    writable_data = segment["type"] & (TYPE_CODE | TYPE_WRITABLE) == TYPE_WRITABLE
    return writable_data and rpl == cpl and segment["dpl"] == cpl


def _data_allowed(segment: Segment, rpl: int, cpl: int) -> bool:
    kind = segment["type"]
    if kind & TYPE_CODE and not kind & TYPE_READABLE:
        return False
    conforming = kind & TYPE_CODE and kind & TYPE_CONFORMING
    return bool(conforming) or (rpl <= segment["dpl"] and cpl <= segment["dpl"])


def mov_to_segment(step: Step) -> None:
    number = step.instruction.reg & 7
    if number > 5 or SEGMENTS[number] == "cs":
        raise Fault(UD)
    load_segment(step.cpu, step.memory, SEGMENTS[number], step.load(2))
    step.cpu.interrupt_shadow = SEGMENTS[number] == "ss"


def mov_from_segment(step: Step) -> None:
    number = step.instruction.reg & 7
    if number > 5:
        raise Fault(UD)
    _store_word(step, step.cpu.sregs[SEGMENTS[number]]["selector"])


def _store_word(step: Step, value: int) -> None:
    """16 bits to memory, or a register of operand size, zero-extended."""
    step.store(value, 2 if step.instruction.is_memory else step.size)


def _need_selectors(step: Step) -> None:
    """Those about selectors are unknown to real and virtual-8086 mode."""
    if not step.cpu.protected or step.cpu.v86:
        raise Fault(UD)


# What LAR and LSL tell of system descriptors (SDM vol. 2, tables 3-53 and 3-67), in legacy and IA-32e mode.
_LAR_TYPES = (
    {TSS16_AVAILABLE, LDT, TSS16_BUSY, CALL_GATE16, TASK_GATE, TSS32_AVAILABLE, TSS32_BUSY, CALL_GATE32},
    {LDT, TSS32_AVAILABLE, TSS32_BUSY, CALL_GATE32},
)
_LSL_TYPES = (
    {TSS16_AVAILABLE, LDT, TSS16_BUSY, TSS32_AVAILABLE, TSS32_BUSY},
    {LDT, TSS32_AVAILABLE, TSS32_BUSY},
)


def _visible(step: Step, types: tuple[set[int], set[int]]) -> tuple[int, Segment] | None:
    """The descriptor that the r/m operand selects, where ``types``, CPL and RPL let it be seen.

    ``types`` are the system descriptors that may be, in legacy and in IA-32e mode.
    """
    _need_selectors(step)
    cpu, selector = step.cpu, step.load(2)
    found = read_descriptor(cpu, step.memory, selector)
    if found is not None:
        segment = found[1]
        if not segment["s"] and segment["type"] not in types[cpu.long]:
            return None
        conforming = segment["s"] and segment["type"] & TYPE_CODE and segment["type"] & TYPE_CONFORMING
        if not conforming and max(cpu.cpl, selector & 3) > segment["dpl"]:
            return None
    return found


def lar(step: Step) -> None:
    found = _visible(step, _LAR_TYPES)
    if found is not None:
        rights = step.memory.read_system(found[0] + 4, 4) & 0x00F0_FF00
        step.set_reg(rights)
    step.cpu.set_flags(0 if found is None else RFLAGS_ZF, RFLAGS_ZF)


def lsl(step: Step) -> None:
    found = _visible(step, _LSL_TYPES)
    if found is not None:
        step.set_reg(found[1]["limit"])
    step.cpu.set_flags(0 if found is None else RFLAGS_ZF, RFLAGS_ZF)


def _verify(step: Step, *, write: bool) -> None:
    found = _visible(step, (set(), set()))
    allowed = False
    if found is not None:
        kind = found[1]["type"]
        if kind & TYPE_CODE:
            allowed = not write and bool(kind & TYPE_READABLE)
        else:
            allowed = not write or bool(kind & TYPE_WRITABLE)
    step.cpu.set_flags(RFLAGS_ZF if allowed else 0, RFLAGS_ZF)


def verr(step: Step) -> None:
    _verify(step, write=False)


def verw(step: Step) -> None:
    _verify(step, write=True)


def _system_segment(step: Step, selector: int, types: tuple[int, ...]) -> tuple[int, Segment]:
    """The descriptor in the GDT that LTR and LLDT load."""
    cpu, memory = step.cpu, step.memory
    size = 16 if cpu.long else 8
    found = None if selector & SELECTOR_TI else read_descriptor(cpu, memory, selector)
    if found is None or find_descriptor(cpu, selector, size) is None:
        raise Fault(GP, selector & 0xFFFC)
    place, segment = found
    if segment["s"] or segment["type"] not in types:
        raise Fault(GP, selector & 0xFFFC)
    if not segment["present"]:
        raise Fault(NP, selector & 0xFFFC)
    if cpu.long and not canonical(segment["base"], cpu.sregs["cr4"]):
        raise Fault(GP, selector & 0xFFFC)
    return place, segment


def ltr(step: Step) -> None:
    _need_selectors(step)
    step.need_cpl0()
    selector = step.load(2)
    if not selector & 0xFFFC:
        raise Fault(GP, 0)
    types = (TSS32_AVAILABLE,) if step.cpu.long else (TSS16_AVAILABLE, TSS32_AVAILABLE)
    place, segment = _system_segment(step, selector, types)
    busy = segment["type"] | _TSS_BUSY
    step.memory.write_system(place + 5, 1, step.memory.read_system(place + 5, 1) & 0xF0 | busy)
    step.cpu.set_segment("tr", segment | {"type": busy})


def lldt(step: Step) -> None:
    _need_selectors(step)
    step.need_cpl0()
    selector = step.load(2)
    if selector & 0xFFFC:
        step.cpu.set_segment("ldt", _system_segment(step, selector, (LDT,))[1])
    else:
        step.cpu.set_segment("ldt", null_segment(selector) | {"type": LDT})


def _need_umip_rights(step: Step) -> None:
    if step.cpu.cpl > 0 and step.cpu.sregs["cr4"] & CR4_UMIP:
        raise Fault(GP, 0)


def sldt(step: Step) -> None:
    _need_selectors(step)
    _need_umip_rights(step)
    _store_word(step, step.cpu.sregs["ldt"]["selector"])


def str_(step: Step) -> None:
    _need_selectors(step)
    _need_umip_rights(step)
    _store_word(step, step.cpu.sregs["tr"]["selector"])


def smsw(step: Step) -> None:
    _need_umip_rights(step)
    _store_word(step, step.cpu.sregs["cr0"])


def _store_table(step: Step, name: str) -> None:
    """The limit (2 bytes) and the base (4 bytes, 8 in 64-bit mode), in one piece."""
    _need_umip_rights(step)
    table = step.cpu.sregs[name]
    size = 8 if step.cpu.bits == 64 else 4
    step.store_memory(table["limit"] | table["base"] << 16, 2 + size)


def sgdt(step: Step) -> None:
    _store_table(step, "gdt")


def sidt(step: Step) -> None:
    _store_table(step, "idt")


INSTRUCTIONS = (
    ("8E /r", "mov", mov_to_segment, ""),
    ("8C /r", "mov", mov_from_segment, ""),
    ("0F 02 /r", "lar", lar, ""),
    ("0F 03 /r", "lsl", lsl, ""),
    ("0F 00 /0", "sldt", sldt, ""),
    ("0F 00 /1", "str", str_, ""),
    ("0F 00 /2", "lldt", lldt, ""),
    ("0F 00 /3", "ltr", ltr, ""),
    ("0F 00 /4", "verr", verr, ""),
    ("0F 00 /5", "verw", verw, ""),
    ("0F 01 /0 m", "sgdt", sgdt, ""),
    ("0F 01 /1 m", "sidt", sidt, ""),
    ("0F 01 /4", "smsw", smsw, ""),
)
