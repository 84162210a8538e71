"""What pykvm itself puts into the guest's first MiB before the guest runs.

Linux reads all of it in its first instructions and then takes the memory for itself: to the guest it
is RAM. It lies high, so that programs of one's own find room below, at 0x7c00 as elsewhere. Only what
the mode of entry needs is there: real mode needs but a stack.

==================== ============= ===================================================================
address              what          for
==================== ============= ===================================================================
0x0040e – 0x00414    BIOS data     Multiboot and boot sectors: what a PC's BIOS would have left there
0x80000 – 0x8ffff    command line  Linux; for Multiboot and PVH all that they hand over
0x90000 – 0x90fff    boot_params   Linux and every ELF
0x91000 – 0x910a7    GDT and TSS   protected and long mode
0x92000 – 0x97fff    page tables   long mode: the first 4 GiB, mapped 1:1
0x98000 – 0x9bfff    stack         real, protected and long mode
0xfe000 – 0xfffff    BIOS          boot sectors, 16-bit entries; has vectors and data below 0x500
==================== ============= ===================================================================
"""

from __future__ import annotations

from pykvm.boot.places import Range
from pykvm.memory.layout import EBDA, VGA
from pykvm.x86 import entry
from pykvm.x86.segments import real_segment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.boot.kernel import Kernel
    from pykvm.boot.places import Places

COMMAND_LINE = Range(name="the command line", gpa=0x80000, size=0x10000)
INFORMATION = Range(name="the boot information", gpa=0x80000, size=0x10000)
BOOT_PARAMS = Range(name="boot_params", gpa=0x90000, size=0x1000)
GDT = Range(name="the GDT", gpa=0x91000, size=entry.TSS_OFFSET + entry.TSS_SIZE)
PAGE_TABLES = Range(name="the page tables", gpa=0x92000, size=entry.PAGE_TABLES_SIZE)
STACK = Range(name="the stack", gpa=0x98000, size=0x4000)


# What kernels for a PC look at to find out how far low memory goes: the word at 0x40e is the segment of the
# extended BIOS data area, the one at 0x413 the KiB of memory below it (Ralf Brown's memory list, 0040:000e
# and 0040:0013). The area's first byte is its own size in KiB.
BIOS_DATA = Range(name="the BIOS data area", gpa=0x40E, size=7)
EBDA_SEGMENT_AT = 0x40E
LOW_MEMORY_AT = 0x413


def bios_data(places: Places, where: str) -> None:
    """Leave what a BIOS would, for kernels that expect one, unless the kernel itself lies there."""
    memory = places.memory
    if memory.low_end < VGA:
        return
    area = Range(name="the extended BIOS data area", gpa=EBDA, size=VGA - EBDA)
    for place in (BIOS_DATA, area):
        if places.find(place.size, align=1, floor=place.gpa, ceiling=place.end) is None:
            return
    for place in (BIOS_DATA, area):
        places.take(place, where)
    memory.put_u16(EBDA_SEGMENT_AT, EBDA >> 4)
    memory.put_u16(LOW_MEMORY_AT, EBDA >> 10)
    memory.put_u8(EBDA, area.size >> 10)


def enter(places: Places, kernel: Kernel, where: str, regs: dict[str, int]) -> entry.State:
    """The state that enters ``kernel`` with ``regs``; what its mode needs in memory is put there.

    ``where`` is the image that errors are about.
    """
    mode, start = kernel.mode, kernel.address
    if mode == "real" and kernel.data is not None:  # whose stack lies in its own memory
        state = entry.real(start, stack=0, segment=kernel.segment)
        state["sregs"].update({name: real_segment(kernel.data) for name in ("ds", "es", "fs", "gs", "ss")})
        return _with(regs, state)
    # A machine of less than 640 KiB has its stack at the end of what it has.
    top = min(STACK.end, places.memory.low_end)
    stack = Range(name=STACK.name, gpa=max(top - STACK.size, 0), size=min(STACK.size, top))
    places.take(stack, where)
    if mode == "real":
        return _with(regs, entry.real(start, stack=top, segment=kernel.segment))
    places.take(GDT, where)
    if mode == "long":
        places.take(PAGE_TABLES, where)
        places.memory.write(PAGE_TABLES.gpa, entry.identity_map(PAGE_TABLES.gpa))
        state = entry.long(start, stack=top, gdt=GDT.gpa, page_tables=PAGE_TABLES.gpa)
    else:
        state = entry.protected(start, stack=top, gdt=GDT.gpa, task=kernel.task)
    places.memory.write(GDT.gpa, entry.descriptors(state))
    return _with(regs, state)


def _with(regs: dict[str, int], state: entry.State) -> entry.State:
    state["regs"].update(regs)
    return state
