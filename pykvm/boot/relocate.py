"""Where a kernel that can be moved goes: Multiboot2's relocatable header tag (2.0 §3.1.13)."""

from __future__ import annotations

from pykvm.frozen import frozen
from pykvm.memory.layout import HIGH_RAM, PCI_HOLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.boot.image import Image
    from pykvm.boot.places import Places

NONE, LOWEST, HIGHEST = range(3)  # preference
PREFERENCES = (NONE, LOWEST, HIGHEST)


@frozen
class Relocation:
    """The tag's fields: the kernel may lie from ``least`` to ``most``, its last byte, at multiples of
    ``align``."""

    least: int
    most: int
    align: int
    preference: int


@frozen
class Shift:
    """The kernel begins at ``base``, ``by`` bytes above the address that it was linked for."""

    base: int
    by: int


def choose(places: Places, image: Image, wanted: Relocation | None, first: int, end: int) -> Shift:
    """The place of a kernel that is linked for ``first`` to ``end``. Raises InputError where none fits.

    Without a preference it stays where it was linked for, if that is allowed and above 1 MiB.
    """
    if wanted is None:
        return Shift(base=first, by=0)
    size = end - first
    align = max(wanted.align, 1)
    floor, ceiling = max(wanted.least, HIGH_RAM), min(wanted.most + 1, PCI_HOLE)
    base: int | None
    if wanted.preference == HIGHEST:
        base = (min(ceiling, places.memory.low_end) - size) // align * align
        # Nothing of the machine's lies above 1 MiB yet, so that only the floor can be in the way.
        base = base if base >= floor else None
    else:
        stays = wanted.preference == NONE and first % align == 0 and floor <= first
        base = first if stays and end <= min(ceiling, places.memory.low_end) else None
        if base is None:
            base = places.find(size, align=align, floor=floor, ceiling=ceiling)
    if base is None:
        raise image.error(
            f"a kernel of {size:#x} bytes doesn't fit from min_addr {wanted.least:#x} to max_addr "
            f"{wanted.most:#x} at multiples of {align:#x}, above 1 MiB and below {places.memory.low_end:#x}",
            "correct the relocatable header tag (type 10), or set memory to more",
        )
    return Shift(base=base, by=base - first)
