"""What translated code is made of: blocks, and the guest's pages that they come from."""

from __future__ import annotations

from array import array
from bisect import bisect_right

from pykvm.translate.context import SLOT
from pykvm.translate.encode import call_slot

M64 = (1 << 64) - 1
PAGE = 0x1000
CHECK_SIZE = 20
"""Of the page check, with which a block begins at its entry; then comes its body."""
HEAD_SIZE = 12
"""Of what lies before a page check, for the runtime: the page's address and its id."""
IDS = 1 << 16
"""Code pages with a smaller id are known to the runtime."""
STUB = call_slot(SLOT["chain"])
STUB_SIZE = len(STUB)

# A mode is what code depends on beyond its bytes.
USER, WIDE, FPU, TIME = 1, 2, 4, 8
SEGMENTED, CODE_16, STACK_32, SHORT, REAL = 16, 32, 64, 128, 256
"""Segments aren't flat: bases and limits are looked at (emit_segmented.py), and CS's base lies above BASE.
CODE_16: operands and addresses have 16 bits. STACK_32: the stack pointer has 32. SHORT: CS ends at 64 KiB.
REAL: real mode, in which emitted code loads segment registers."""
BASE = 9
KERNEL_64, USER_64 = WIDE | FPU | TIME, USER | WIDE | FPU | TIME


_NONE = array("Q")


class Block:
    """Translated code at host address ``body``, of ``length`` bytes at ``offset`` of ``page``.

    ``hosts`` and ``guests`` say where each instruction starts, there from ``body`` and here from ``offset``.
    ``places`` and ``targets`` are its direct jumps: where the distance lies, from ``body``, and to where it
    goes. Their stubs lie, in the same order, before ``end``. ``spill`` is the page in which its only
    instruction ends.
    """

    __slots__ = (
        *("body", "dead", "end", "guests", "hosts", "length", "offset", "page", "places", "spill", "targets"),
    )

    def __init__(self, page: CodePage, offset: int, body: int) -> None:
        self.page = page
        self.offset = offset
        self.body = body
        self.end = body
        self.length = 0
        self.hosts = self.guests = _NONE
        self.places = self.targets = _NONE
        self.spill: CodePage | None = None
        self.dead = False

    @property
    def entry(self) -> int:
        return self.body - CHECK_SIZE

    @property
    def start(self) -> int:
        """Its first instruction's address."""
        start = self.page.gva + self.offset - self.page.base
        return start & 0xFFFF_FFFF if self.page.base else start

    def rip(self, host: int) -> int:
        """The instruction that emitted code before ``host``, a return address, belongs to."""
        at = bisect_right(self.hosts, host - self.body - 1) - 1
        return self.start + (self.guests[at] if at >= 0 else 0) & M64

    def jump_of(self, stub: int) -> tuple[int, int]:
        """The jump whose stub returns to ``stub``."""
        at = len(self.places) - 1 - (self.end - stub) // STUB_SIZE
        return self.places[at], self.targets[at]


class CodePage:
    """A page of guest code: where it is mapped, where it lies, and its blocks by their offset."""

    __slots__ = ("base", "blocks", "copy", "dead", "gpa", "gva", "id", "mode", "spilling")

    def __init__(self, number: int, mode: int, gva: int, gpa: int) -> None:
        self.id = number
        self.mode = mode
        self.base = mode >> BASE
        """CS's: what is to be added to RIP for an address."""
        self.gva = gva
        self.gpa = gpa
        self.blocks: dict[int, Block] = {}
        self.dead: dict[int, list[Block]] = {}
        self.spilling: set[Block] = set()
        """Blocks of the page before whose only instruction ends in this one."""
        self.copy: bytes | None = None
        """Of a page that was let go, the bytes that its blocks were made of."""
