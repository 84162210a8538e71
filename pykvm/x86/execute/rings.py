"""Stacks of inner rings: where the TSS says they are, and frames that interrupts and call gates put there.

By the Intel SDM vol. 3 §5.8.5, §6.12.1 and §6.14.2.
"""

from __future__ import annotations

from pykvm.x86.exceptions import SS, TS, Fault
from pykvm.x86.execute.descriptors import accessed, read_descriptor
from pykvm.x86.execute.linear import within_limit
from pykvm.x86.segments import TSS16_AVAILABLE, TSS16_BUSY, TSS_STACKS, TYPE_CODE, TYPE_WRITABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.x86.execute.cpu import Cpu
    from pykvm.x86.execute.linear import Linear
    from pykvm.x86.segments import Segment


def tss64(cpu: Cpu, memory: Linear, offset: int, ext: int) -> int:
    """The stack pointer at ``offset`` in a 64-bit TSS."""
    tr = cpu.sregs["tr"]
    if offset + 7 > tr["limit"]:
        raise Fault(TS, (tr["selector"] & 0xFFFC) + ext)
    return memory.read_system(tr["base"] + offset, 8)


def inner_pointer_64(cpu: Cpu, memory: Linear, cpl: int, ext: int) -> int:
    """RSP that the 64-bit TSS holds for ``cpl``."""
    first, step, _ = TSS_STACKS[64]
    return tss64(cpu, memory, first + step * cpl, ext)


def inner_stack(cpu: Cpu, memory: Linear, cpl: int, ext: int) -> tuple[Segment, int]:
    """SS and the stack pointer that the TSS holds for ``cpl``."""
    tr = cpu.sregs["tr"]
    first, step, width = TSS_STACKS[16 if tr["type"] in (TSS16_AVAILABLE, TSS16_BUSY) else 32]
    offset = first + step * cpl
    if offset + width + 1 > tr["limit"]:
        raise Fault(TS, (tr["selector"] & 0xFFFC) + ext)
    sp = memory.read_system(tr["base"] + offset, width)
    selector = memory.read_system(tr["base"] + offset + width, 2)
    bad = Fault(TS, (selector & 0xFFFC) + ext)
    found = read_descriptor(cpu, memory, selector)
    if found is None or selector & 3 != cpl:
        raise bad
    place, segment = found
    writable_data = segment["s"] and segment["type"] & (TYPE_CODE | TYPE_WRITABLE) == TYPE_WRITABLE
    if segment["dpl"] != cpl or not writable_data:
        raise bad
    if not segment["present"]:
        raise Fault(SS, (selector & 0xFFFC) + ext)
    return accessed(memory, place, segment), sp


def need_room(stack: Segment, sp: int, size: int, error: int) -> None:
    """#SS(``error``) where ``size`` bytes can't be pushed."""
    if not within_limit(stack, sp - size & (0xFFFF_FFFF if stack["db"] else 0xFFFF), size):
        raise Fault(SS, error)


def write_frame(
    memory: Linear, stack: Segment, sp: int, width: int, frame: list[int], cpl: int, error: int
) -> int:
    """Push ``frame`` to a stack outside of IA-32e mode with the rights of ``cpl``; gives the new pointer.

    ``error`` is the code of the #SS where it has no room."""
    mask = 0xFFFF_FFFF if stack["db"] else 0xFFFF
    need_room(stack, sp, width * len(frame), error)
    for value in frame:
        sp = sp & ~mask | sp - width & mask
        data = (value & (1 << 8 * width) - 1).to_bytes(width, "little")
        memory.write_linear(stack["base"] + (sp & mask) & 0xFFFF_FFFF, data, user=cpl == 3)
    return sp & 0xFFFF_FFFF


def write_frame_64(memory: Linear, rsp: int, frame: list[int], cpl: int) -> int:
    """Push ``frame`` to a stack of IA-32e mode."""
    for value in frame:
        rsp = rsp - 8 & 0xFFFF_FFFF_FFFF_FFFF
        memory.write_linear(rsp, value.to_bytes(8, "little"), user=cpl == 3)
    return rsp
