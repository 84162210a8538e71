"""Multiboot's address fields, which say where a kernel in any form goes, ELF or not.

Source: Multiboot 0.6.96 §3.1.3, Multiboot 2.0 §3.1.5. All addresses are physical. The header lies at
``header_addr`` once it is loaded, so that what goes to ``load_addr`` begins as far before the header in the
file as in memory.
"""

from __future__ import annotations

from pykvm.boot.places import Range
from pykvm.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.boot.image import Image
    from pykvm.boot.places import Places


@frozen
class Addresses:
    """The fields; ``load_end_addr`` 0 means the file's end, ``bss_end_addr`` 0 no .bss."""

    header_addr: int
    load_addr: int
    load_end_addr: int
    bss_end_addr: int


@frozen
class Loadable:
    """``size`` bytes at ``offset`` of the file go to ``gpa``, and ``memory`` bytes of memory are theirs."""

    offset: int
    size: int
    gpa: int
    memory: int


def read(image: Image, header_at: int, fields: Addresses) -> Loadable:
    """What ``fields`` of the header at ``header_at`` of the file say, checked. Raises InputError."""
    load = fields.load_addr
    if load < 0:
        raise _wrong(image, "header_addr", fields.header_addr, f"below its place in the file, {header_at:#x}")
    if load > fields.header_addr:
        raise _wrong(image, "load_addr", load, f"above header_addr {fields.header_addr:#x}")
    offset = header_at - (fields.header_addr - load)
    if offset < 0:
        raise _wrong(
            image, "load_addr", load, f"{-offset:#x} bytes before the file, whose header is at {header_at:#x}"
        )
    end = fields.load_end_addr or load + image.size - offset
    if end <= load:
        raise _wrong(image, "load_end_addr", end, f"not above load_addr {load:#x}")
    size = end - load
    if offset + size > image.size:
        raise _wrong(
            image,
            "load_end_addr",
            end,
            f"{offset + size - image.size:#x} bytes beyond the file, which ends at {image.size:#x}",
        )
    if fields.bss_end_addr and fields.bss_end_addr < end:
        raise _wrong(image, "bss_end_addr", fields.bss_end_addr, f"below the loaded part's end {end:#x}")
    return Loadable(offset=offset, size=size, gpa=load, memory=(fields.bss_end_addr or end) - load)


def load(places: Places, image: Image, what: Loadable, shift: int = 0) -> None:
    """Put ``what`` into memory, ``shift`` bytes above its place. Raises InputError."""
    places.take(Range(name="the kernel", gpa=what.gpa + shift, size=what.memory), image.name)
    places.fill(what.gpa + shift, what.size, image, what.offset)


def _wrong(image: Image, field: str, value: int, why: str) -> Exception:
    return image.error(
        f"its Multiboot header is wrong: {field} {value:#x} is {why}", "correct the header's address fields"
    )
