"""Who gets which part of the machine's memory before it starts. Nothing overlaps, nothing lies beyond RAM."""

from __future__ import annotations

from bisect import bisect_left

from pykvm.errors import InputError
from pykvm.frozen import frozen
from pykvm.memory.layout import FOUR_GIB, PCI_HOLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.boot.image import Image
    from pykvm.memory import GuestMemory

MIB = 1 << 20


@frozen
class Range:
    """``size`` bytes at guest-physical ``gpa``."""

    name: str
    gpa: int
    size: int

    @property
    def end(self) -> int:
        return self.gpa + self.size


class Places:
    """The ranges of ``memory`` that are given away, by their addresses."""

    def __init__(self, memory: GuestMemory) -> None:
        self.memory = memory
        self._starts: list[int] = []
        self.taken: list[Range] = []

    def take(self, what: Range, where: str) -> Range:
        """Give ``what`` its place.

        Raises InputError, about the image or key ``where``, if no memory is there or another has it.
        """
        self.check_memory(what, where)
        if what.size == 0:
            return what
        at = bisect_left(self._starts, what.gpa)
        for other in self.taken[max(at - 1, 0) : at + 1]:
            if what.gpa < other.end and other.gpa < what.end:
                raise InputError(
                    f"{what.name} at {what.gpa:#x}–{what.end - 1:#x} and {other.name} at "
                    f"{other.gpa:#x}–{other.end - 1:#x} overlap",
                    where=where,
                    remedy="link the kernel to lie elsewhere, or load it there",
                )
        self._starts.insert(at, what.gpa)
        self.taken.insert(at, what)
        return what

    def find(self, size: int, *, align: int, floor: int, ceiling: int = PCI_HOLE) -> int | None:
        """The lowest multiple of ``align`` at which ``size`` bytes are free, from ``floor`` to ``ceiling``.

        Only RAM below 4 GiB is looked at; None where nothing fits.
        """
        ceiling = min(ceiling, self.memory.low_end)
        gpa = -(-floor // align) * align
        for other in self.taken:
            if gpa + size <= other.gpa:
                break
            if other.end > gpa:
                gpa = -(-other.end // align) * align
        return gpa if gpa + size <= ceiling else None

    def fill(self, gpa: int, size: int, image: Image, offset: int) -> None:
        """Read ``size`` bytes at ``offset`` of ``image`` straight into the memory at ``gpa``."""
        for view in self.memory.views(gpa, size):
            image.read_into(offset, view)
            offset += len(view)

    def check_memory(self, what: Range, where: str) -> None:
        """Raise InputError, with how much memory would do, unless ``what`` lies in RAM."""
        memory = self.memory
        if what.end <= memory.low_end or FOUR_GIB <= what.gpa <= what.end <= memory.high_end:
            return
        if what.end <= PCI_HOLE:
            least = what.end
        elif what.gpa >= FOUR_GIB:
            least = what.end - FOUR_GIB + PCI_HOLE
        else:
            raise InputError(
                f"{what.name} at {what.gpa:#x}–{what.end - 1:#x} lies where a PC has its devices",
                where=where,
                remedy=f"RAM is below {PCI_HOLE:#x} and from {FOUR_GIB:#x} on",
            )
        raise InputError(
            f"{what.name} needs memory at {what.gpa:#x}–{what.end - 1:#x}, "
            f"and the machine has {size_text(memory.ram_size)}",
            where=where,
            remedy=f"set memory to {size_text(least)} or more",
        )


def size_text(size: int) -> str:
    """A size as the machine file has it, rounded up to whole KiB or MiB."""
    return f"{-(-size // MIB)}M" if size >= MIB else f"{-(-size // 1024)}K"
