"""Flat binaries: bytes that go to an address as they are. Only ``kernel.format: flat`` makes a file one.

``kernel.load`` is where the file goes: by default 0x7c00 in real mode (where a BIOS puts a boot sector),
else 0x100000. ``kernel.start`` is where it starts, by default at its first byte. The mode is
``kernel.entry``, by default long. Registers and memory are as pykvm/x86/entry.py and
pykvm/boot/lowmem.py say; general registers are 0.
"""

from __future__ import annotations

from pykvm.boot.kernel import Kernel
from pykvm.boot.places import Range
from pykvm.errors import InputError
from pykvm.memory.layout import FOUR_GIB, HIGH_RAM
from pykvm.x86.entry import REAL_MODE_END

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.boot.image import Image
    from pykvm.boot.places import Places
    from pykvm.config.model import KernelConfig

BOOT_SECTOR = 0x7C00


def load(places: Places, image: Image, kernel: KernelConfig) -> Kernel:
    """Put ``image`` into memory. Raises InputError."""
    mode = "long" if kernel.entry == "auto" else kernel.entry
    load = kernel.load
    if load is None:
        load = BOOT_SECTOR if mode == "real" else HIGH_RAM
    start = load if kernel.start is None else kernel.start
    if image.size == 0:
        raise image.error("is empty")
    place = Range(name="the flat binary", gpa=load, size=image.size)
    if not place.gpa <= start < place.end:
        raise InputError(
            f"{start:#x} is outside the file, which is loaded at {place.gpa:#x}–{place.end - 1:#x}",
            where="kernel.start",
        )
    reach = REAL_MODE_END if mode == "real" else FOUR_GIB
    if start >= reach:
        what = f"{start:#x} is beyond the reach of {mode} mode"
        raise InputError(what, where="kernel.start", remedy=f"load it below {reach:#x}")
    places.take(place, image.name)
    places.fill(place.gpa, place.size, image, 0)
    return Kernel(format="flat", mode=mode, address=start, header=None)
