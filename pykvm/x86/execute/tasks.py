"""Task switches: by jumps and calls, interrupts through task gates, and IRET with NT (Intel SDM vol. 3 §7.3).

Faults before the point of no return leave the old task as it was; those after it belong to the new one.
"""

from __future__ import annotations

from pykvm.frozen import frozen
from pykvm.x86.exceptions import DB, GP, NP, SS, TS, Fault
from pykvm.x86.execute.descriptors import accessed, find_descriptor, read_descriptor
from pykvm.x86.registers import CR0_PG, CR0_TS, GPRS, RFLAGS_FIXED, RFLAGS_NT, RFLAGS_VM
from pykvm.x86.segments import (
    LDT,
    SELECTOR_TI,
    TSS16_AVAILABLE,
    TSS16_BUSY,
    TSS32_AVAILABLE,
    TSS32_BUSY,
    TYPE_CODE,
    TYPE_CONFORMING,
    TYPE_READABLE,
    TYPE_WRITABLE,
    null_segment,
    real_segment,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.x86.execute.cpu import Cpu
    from pykvm.x86.execute.linear import Linear
    from pykvm.x86.segments import Segment

JUMP = 0
CALL = 1
"""CALL and interrupts: the new task is nested, and NT leads back from it."""
RETURN = 2

_BUSY = 2  # the type bit by which a busy TSS differs from an available one
_DR6_BT = 1 << 15


@frozen
class _Layout:
    """Where a TSS has what (SDM vol. 3 figures 7-2 and 7-10): from the instruction pointer, the flags and the
    general registers to the selectors one follows the other, ``width`` bytes each."""

    width: int
    first: int
    segments: tuple[str, ...]
    ldt: int
    limit: int


_LAYOUTS = {
    16: _Layout(width=2, first=0x0E, segments=("es", "cs", "ss", "ds"), ldt=0x2A, limit=0x2B),
    32: _Layout(width=4, first=0x20, segments=("es", "cs", "ss", "ds", "fs", "gs"), ldt=0x60, limit=0x67),
}
_CR3_AT = 0x1C
_TRAP_AT = 0x64


def _layout(tss: Segment) -> _Layout:
    return _LAYOUTS[16 if tss["type"] in (TSS16_AVAILABLE, TSS16_BUSY) else 32]


def switch_task(
    cpu: Cpu, memory: Linear, selector: int, how: int, *, ext: int = 0, error: int | None = None
) -> None:
    """Go on with the task of the TSS ``selector``; ``error`` is pushed there where it is not None."""
    place, new = _new_tss(cpu, memory, selector, how, ext)
    old, layout = cpu.sregs["tr"], _layout(new)
    if old["limit"] < _layout(old).limit:
        raise Fault(TS, (old["selector"] & 0xFFFC) + ext)
    image = memory.read_system(new["base"], layout.limit + 1).to_bytes(layout.limit + 1, "little")
    _save(cpu, memory, old, how)
    if how == CALL:
        memory.write_system(new["base"], 2, old["selector"])
    else:
        _set_busy(memory, find_descriptor(cpu, old["selector"]), False)
    if how != RETURN:
        _set_busy(memory, place, True)
    try:
        _commit(cpu, new | {"type": new["type"] | _BUSY}, layout, image, how)
        _load_segments(cpu, memory, layout, image)
        _begin(cpu, memory, layout, image, error)
    except Fault as fault:
        fault.keeps = True
        raise


def _new_tss(cpu: Cpu, memory: Linear, selector: int, how: int, ext: int) -> tuple[int, Segment]:
    code = (selector & 0xFFFC) + ext
    bad = Fault(TS if how == RETURN else GP, code)
    found = None if selector & SELECTOR_TI else read_descriptor(cpu, memory, selector)
    if found is None:
        raise bad
    new = found[1]
    wanted = (TSS16_BUSY, TSS32_BUSY) if how == RETURN else (TSS16_AVAILABLE, TSS32_AVAILABLE)
    if new["s"] or new["type"] not in wanted:
        raise bad
    if not new["present"]:
        raise Fault(NP, code)
    if new["limit"] < _layout(new).limit:
        raise Fault(TS, code)
    return found


def _save(cpu: Cpu, memory: Linear, old: Segment, how: int) -> None:
    """The running task's state to its TSS, in one piece that faults as a whole."""
    layout, regs = _layout(old), cpu.regs
    flags = regs["rflags"] & ~RFLAGS_NT if how == RETURN else regs["rflags"]
    values = [regs["rip"], flags, *(regs[name] for name in GPRS[:8])]
    values += [cpu.sregs[name]["selector"] for name in layout.segments]
    mask = (1 << 8 * layout.width) - 1
    data = b"".join((value & mask).to_bytes(layout.width, "little") for value in values)
    memory.write_system(old["base"] + layout.first, len(data), int.from_bytes(data, "little"))


def _set_busy(memory: Linear, place: int | None, busy: bool) -> None:
    if place is not None:
        kind = memory.read_system(place + 5, 1)
        memory.write_system(place + 5, 1, kind | _BUSY if busy else kind & ~_BUSY)


def _values(layout: _Layout, image: bytes) -> list[int]:
    """IP, flags, the eight general registers and the selectors."""
    count = 10 + len(layout.segments)
    places = [layout.first + layout.width * number for number in range(count)]
    return [int.from_bytes(image[place : place + layout.width], "little") for place in places]


def _commit(cpu: Cpu, tss: Segment, layout: _Layout, image: bytes, how: int) -> None:
    """The point of no return: TR, CR0.TS, CR3, the flags and general registers are the new task's."""
    values, sregs = _values(layout, image), cpu.sregs
    cpu.set_segment("tr", tss)
    sregs["cr0"] |= CR0_TS
    if layout.width == 4 and sregs["cr0"] & CR0_PG:
        sregs["cr3"] = int.from_bytes(image[_CR3_AT : _CR3_AT + 4], "little")
        cpu.flush_non_global()
    cpu.regs["rip"] = values[0]
    cpu.regs["rflags"] = values[1] | RFLAGS_FIXED | (RFLAGS_NT if how == CALL else 0)
    cpu.regs.update(zip(GPRS[:8], values[2:10], strict=True))


def _load_segments(cpu: Cpu, memory: Linear, layout: _Layout, image: bytes) -> None:
    selectors = dict.fromkeys(("fs", "gs"), 0)
    selectors |= zip(layout.segments, (value & 0xFFFF for value in _values(layout, image)[10:]), strict=True)
    v86 = bool(cpu.regs["rflags"] & RFLAGS_VM)
    cpl = 3 if v86 else selectors["cs"] & 3
    for name, selector in selectors.items():
        cpu.set_segment(name, real_segment(selector, dpl=3) if v86 else null_segment(selector) | {"dpl": cpl})
    _load_ldt(cpu, memory, int.from_bytes(image[layout.ldt : layout.ldt + 2], "little"))
    if not v86:
        for name in ("cs", "ss", "ds", "es", "fs", "gs"):
            _load_segment(cpu, memory, name, selectors[name], cpl)


def _load_ldt(cpu: Cpu, memory: Linear, selector: int) -> None:
    cpu.set_segment("ldt", null_segment(selector) | {"type": LDT})
    if selector & 0xFFFC:
        found = None if selector & SELECTOR_TI else read_descriptor(cpu, memory, selector)
        if found is None or found[1]["s"] or found[1]["type"] != LDT or not found[1]["present"]:
            raise Fault(TS, selector & 0xFFFC)
        cpu.set_segment("ldt", found[1])


def _load_segment(cpu: Cpu, memory: Linear, name: str, selector: int, cpl: int) -> None:
    """What is wrong with a selector in a TSS is #TS; what is not present #NP, or #SS for SS."""
    code = selector & 0xFFFC
    if not code and name not in ("cs", "ss"):
        cpu.set_segment(name, null_segment(selector))
        return
    found = read_descriptor(cpu, memory, selector)
    if found is None or not found[1]["s"] or not _fits(name, found[1], selector & 3, cpl):
        raise Fault(TS, code)
    if not found[1]["present"]:
        raise Fault(SS if name == "ss" else NP, code)
    cpu.set_segment(name, accessed(memory, *found))


def _fits(name: str, segment: Segment, rpl: int, cpl: int) -> bool:
    kind, dpl = segment["type"], segment["dpl"]
    code, conforming = bool(kind & TYPE_CODE), kind & TYPE_CODE and kind & TYPE_CONFORMING
    if name == "cs":
        return code and (dpl <= rpl if conforming else dpl == rpl)
    if name == "ss":
        return not code and bool(kind & TYPE_WRITABLE) and dpl == rpl == cpl
    readable = not code or bool(kind & TYPE_READABLE)
    return readable and (bool(conforming) or dpl >= max(rpl, cpl))


def _begin(cpu: Cpu, memory: Linear, layout: _Layout, image: bytes, error: int | None) -> None:
    """Push the error code, and see that the new task can go on, or is to be trapped at its begin."""
    if error is not None:
        mask = 0xFFFF_FFFF if cpu.sregs["ss"]["db"] else 0xFFFF
        rsp = cpu.regs["rsp"]
        rsp = rsp & ~mask | rsp - layout.width & mask
        memory.write("ss", rsp & mask, error.to_bytes(layout.width, "little"))
        cpu.regs["rsp"] = rsp
    if cpu.regs["rip"] > cpu.sregs["cs"]["limit"]:
        raise Fault(GP, 0)
    if layout.width == 4 and image[_TRAP_AT] & 1:
        if cpu.debug is not None:
            cpu.debug[6] |= _DR6_BT
            cpu.changed.add("debug")
        raise Fault(DB)
