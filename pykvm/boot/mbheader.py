"""Where a Multiboot header is, of either version: a magic number, and 32-bit words that add up to 0."""

from __future__ import annotations

from struct import unpack_from

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.boot.image import Image

FOUR_GIB = 1 << 32


def find_header(image: Image, magic: int, *, words: int, alignment: int, search: int) -> int | str:
    """Where the header of ``words`` words is in the first ``search`` bytes, or why there is none."""
    start = image.read(0, search)
    pattern = magic.to_bytes(4, "little")
    wrong = ""
    at = start.find(pattern)
    while at >= 0:
        if at % alignment:
            wrong = wrong or f"{magic:#x} at {at:#x} is not {alignment}-byte aligned"
        elif at + 4 * words > len(start):
            wrong = wrong or f"the header at {at:#x} is cut off"
        else:
            total = sum(unpack_from(f"<{words}I", start, at)) % FOUR_GIB
            if total == 0:
                return at
            wrong = wrong or f"the header at {at:#x} adds up to {total:#x}, not 0"
        at = start.find(pattern, at + 1)
    return wrong or f"no {magic:#x} in the first {search} bytes"
