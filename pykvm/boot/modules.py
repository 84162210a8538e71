"""Boot modules: files that a kernel by Multiboot or PVH is given beside itself, each on pages of its own."""

from __future__ import annotations

from pykvm.boot.places import Range, size_text
from pykvm.frozen import frozen
from pykvm.memory.layout import HIGH_RAM, PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pykvm.boot.image import Image
    from pykvm.boot.places import Places


@frozen
class Module:
    """``size`` bytes at ``gpa``; ``text`` is what the kernel is told of them: the file's base name."""

    gpa: int
    size: int
    text: bytes


def load(places: Places, images: Sequence[Image]) -> list[Module]:
    """Put each of ``images`` into memory, above 1 MiB and below 4 GiB. Raises InputError."""
    return [_load(places, image, number) for number, image in enumerate(images)]


def _load(places: Places, image: Image, number: int) -> Module:
    if image.size == 0:
        raise image.error("is empty", "leave it out of kernel.initrd")
    gpa = places.find(image.size, align=PAGE, floor=HIGH_RAM)
    if gpa is None:
        raise image.error(
            f"a module of {size_text(image.size)} doesn't fit beside the kernel into "
            f"{size_text(places.memory.ram_size)}, all of it below 4 GiB",
            "set memory to more, or make it smaller",
        )
    places.take(Range(name=f"module {number}", gpa=gpa, size=image.size), image.name)
    places.fill(gpa, image.size, image, 0)
    name = image.name.rstrip("/").rpartition("/")[2]
    return Module(gpa=gpa, size=image.size, text=name.encode("utf-8", "surrogateescape"))
