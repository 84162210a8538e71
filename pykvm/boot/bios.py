"""pykvm's BIOS, for what calls one: it goes to the end of the first MiB, and is told what is booted.

The CPU starts in the BIOS, which sets up vectors, data area, interrupt controllers and timer, and goes on to
where the CPU would have started without it, with the same registers and flags. Its source is
firmware/bios.asm; ``pykvm/shipped/firmware`` is the data's place in a wheel, in a checkout a link.
"""

from __future__ import annotations

import os
from struct import Struct

from pykvm.boot import params
from pykvm.boot.places import Range, size_text
from pykvm.errors import InternalError
from pykvm.frozen import frozen
from pykvm.memory.layout import HIGH_RAM, PAGE
from pykvm.x86.registers import RFLAGS_FIXED
from pykvm.x86.segments import real_segment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.boot.image import Image
    from pykvm.boot.places import Places
    from pykvm.x86.entry import State

PATH = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "shipped/firmware/bios.bin")
BIOS = Range(name="the BIOS", gpa=0xFE000, size=0x2000)
SEGMENT = 0xF000
HANDOFF_AT = 4

# `handoff` of firmware/bios.asm: IP, CS and flags of what is booted; the image's address, sectors, number,
# heads, sectors in a track, type of diskette, cylinders; how many ranges follow; KiB of memory from 1 MiB on.
HANDOFF = Struct("<HHH2xIIBBBBHHI")
MAP_ENTRY = Struct("<QQI")
MAP_MOST = 8

SECTOR = 512
FIRST_DISKETTE, FIRST_DISK = 0x00, 0x80
# Diskettes are known by their size: bytes, then cylinders, heads, sectors in a track, type (INT 13h/08h, BL).
DISKETTES = {
    368_640: (40, 2, 9, 1),
    737_280: (80, 2, 9, 3),
    1_228_800: (80, 2, 15, 2),
    1_474_560: (80, 2, 18, 4),
    2_949_120: (80, 2, 36, 6),
}
# Fixed disks: as many cylinders as it takes; more heads where those would not do (the "BIOS translation").
TRACK = 63
FEW_HEADS, MANY_HEADS = 16, 255
MOST_CYLINDERS = 1024


@frozen
class Disk:
    """What INT 13h reads: the image at ``gpa``, in ``sectors`` of 512 bytes (0: there is none)."""

    gpa: int = 0
    sectors: int = 0
    number: int = FIRST_DISK
    cylinders: int = 1
    heads: int = FEW_HEADS
    track: int = TRACK
    kind: int = 0


def fits(places: Places) -> bool:
    """Whether the machine has memory up to 1 MiB, where a BIOS is."""
    return places.memory.low_end >= HIGH_RAM


def disk(places: Places, image: Image) -> Disk:
    """Put ``image`` at the end of memory below 4 GiB, for INT 13h. Raises InputError."""
    sectors = -(-image.size // SECTOR)
    gpa = places.memory.low_end - sectors * SECTOR & -PAGE
    if gpa < HIGH_RAM:
        raise image.error(
            f"is a disk image of {size_text(image.size)}, which the BIOS keeps in memory above 1 MiB",
            f"set memory to {size_text(image.size + HIGH_RAM + PAGE)} or more",
        )
    places.take(Range(name="the disk image", gpa=gpa, size=places.memory.low_end - gpa), image.name)
    places.fill(gpa, image.size, image, 0)
    if image.size in DISKETTES:
        cylinders, heads, track, kind = DISKETTES[image.size]
        return Disk(
            gpa=gpa,
            sectors=sectors,
            number=FIRST_DISKETTE,
            cylinders=cylinders,
            heads=heads,
            track=track,
            kind=kind,
        )
    heads = FEW_HEADS if sectors <= MOST_CYLINDERS * FEW_HEADS * TRACK else MANY_HEADS
    cylinders = min(max(-(-sectors // (heads * TRACK)), 1), MOST_CYLINDERS)
    return Disk(gpa=gpa, sectors=sectors, cylinders=cylinders, heads=heads)


def start(places: Places, state: State, what: Disk, where: str) -> None:
    """Put the BIOS into memory, and let the real-mode ``state`` begin in it."""
    if places.find(BIOS.size, align=1, floor=BIOS.gpa, ceiling=BIOS.end) is not None:
        places.take(BIOS, where)  # else it lies in the range that the tables have already
    with open(PATH, "rb") as file:
        code = bytearray(file.read())
    if len(code) != BIOS.size:
        raise InternalError(f"{len(code)} bytes, not {BIOS.size}", where=PATH)
    ranges = _ranges(places, what)
    end = what.gpa or places.memory.low_end
    HANDOFF.pack_into(
        code,
        HANDOFF_AT,
        state["regs"]["rip"],
        state["sregs"]["cs"]["selector"],
        state["regs"]["rflags"],
        what.gpa,
        what.sectors,
        what.number,
        what.heads,
        what.track,
        what.kind,
        what.cylinders,
        len(ranges),
        end - HIGH_RAM >> 10,
    )
    for index, (begin, stop, kind) in enumerate(ranges):
        at = HANDOFF_AT + HANDOFF.size + index * MAP_ENTRY.size
        MAP_ENTRY.pack_into(code, at, begin, stop - begin, kind)
    places.memory.write(BIOS.gpa, code)
    state["sregs"]["cs"] = {**state["sregs"]["cs"], **_base(SEGMENT)}
    state["regs"]["rip"] = BIOS.gpa - (SEGMENT << 4)
    state["regs"]["rflags"] = RFLAGS_FIXED


def _base(selector: int) -> dict[str, int]:
    segment = real_segment(selector)
    return {"selector": selector, "base": segment["base"]}


def _ranges(places: Places, what: Disk) -> list[tuple[int, int, int]]:
    """The map of memory, in which the image isn't the guest's."""
    found = []
    for begin, end, kind in params.e820(places.memory):
        if what.gpa and begin <= what.gpa < end:
            found += [(begin, what.gpa, kind)] if begin < what.gpa else []
            found.append((what.gpa, end, params.E820_RESERVED))
        else:
            found.append((begin, end, kind))
    return found[:MAP_MOST]
