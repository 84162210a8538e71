"""Where the initial RAM disk goes: as high as the kernel allows, out of everybody's way."""

from __future__ import annotations

from pykvm.boot.header import XLF_CAN_BE_LOADED_ABOVE_4G
from pykvm.boot.places import Range, size_text
from pykvm.errors import InputError
from pykvm.memory.layout import FOUR_GIB, HIGH_RAM, PAGE, PCI_HOLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pykvm.boot.image import Image
    from pykvm.boot.kernel import Kernel
    from pykvm.boot.places import Places

ALIGNMENT = 4
"""Linux looks for the next cpio archive at multiples of 4 bytes, and skips zeros before it
(Documentation/driver-api/early-userspace/buffer-format.rst)."""


def load(places: Places, kernel: Kernel, images: Sequence[Image]) -> Range | None:
    """Put ``images``, one behind the other, into memory; None if there are none. Raises InputError."""
    if not images or kernel.header is None:
        return None
    for image in images:
        if image.size == 0:
            raise image.error("is empty", "leave it out of kernel.initrd")
    last = images[-1]
    total = sum(_padded(image) for image in images[:-1]) + last.size
    place = Range(name="the initrd", gpa=_place(places, kernel, total, last.name), size=total)
    places.take(place, last.name)
    gpa = place.gpa
    for image in images:
        places.fill(gpa, image.size, image, 0)
        gpa += _padded(image)
    return place


def joined(images: Sequence[Image]) -> bytes:
    """``images`` as one, each part aligned as ``load`` does it."""
    return b"".join(image.read(0, image.size).ljust(_padded(image), b"\0") for image in images)


def _padded(image: Image) -> int:
    return -(-image.size // ALIGNMENT) * ALIGNMENT


def _place(places: Places, kernel: Kernel, total: int, where: str) -> int:
    """The address for ``total`` bytes: below 4 GiB where they fit, else above if the kernel can."""
    assert kernel.header is not None
    memory = places.memory
    limit = min(kernel.header["initrd_addr_max"] + 1, PCI_HOLE)
    floor = max((place.end for place in places.taken if place.gpa < limit), default=0)
    floor = max(-(-floor // PAGE) * PAGE, HIGH_RAM)
    gpa = (min(limit, memory.low_end) - total) & -PAGE
    if gpa >= floor:
        return gpa
    if kernel.mode == "long" and kernel.header["xloadflags"] & XLF_CAN_BE_LOADED_ABOVE_4G:
        gpa = (memory.high_end - total) & -PAGE
        if gpa >= FOUR_GIB:
            return gpa
    least = -(-(floor + total) // PAGE) * PAGE
    if least > limit:
        raise InputError(
            f"an initrd of {size_text(total)} doesn't fit between {floor:#x}, where the kernel ends, and "
            f"{limit:#x}, the highest that the kernel takes",
            where=where,
            remedy="make it smaller",
        )
    raise InputError(
        f"an initrd of {size_text(total)} doesn't fit beside the kernel, which ends at {floor:#x}, "
        f"into {size_text(memory.ram_size)}",
        where=where,
        remedy=f"set memory to {size_text(least)} or more",
    )
