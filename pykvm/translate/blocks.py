"""Blocks of translated code, the guest pages that they come from, their links and their end.

A block is a run of instructions up to a jump, within one page. Blocks belong to a code page: a mode, a
guest-virtual page and the guest-physical page that was mapped there. The same bytes mapped elsewhere, or
run in another mode, are another code page.

A block begins with a page check: it compares the id of its code page with the one that was seen last at
this virtual page. Jumps within a page skip it; all others pass it, as the page tables may have changed.
Direct jumps first lead to a stub at the block's end, which asks Python, and are then patched.

A page of RAM with code is flagged, so that no TLB allows a write to it: writes come to Python, which ends
the blocks that they hit. The first bytes of such a block become a call to ``stale``; when its source is
translated again, a jump to the new block.

Where many writes come and hit no block, the page most often serves for data by now, as the kernel's code for
its start does later. It is let go: writes to it aren't seen, but its source was copied, and who comes to it
by the page check has the blocks ended whose bytes are others now.

Other CPUs may run a block while it is changed. So a page is flagged before its bytes are read; a jump's
distance lies in 8 aligned bytes, as does a block's beginning, and is changed by one store; whatever else is
changed where code runs is changed while all stand still (shared.py).
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from struct import pack

from pykvm.translate.codepage import (
    BASE,
    FPU,
    HEAD_SIZE,
    IDS,
    PAGE,
    REAL,
    SEGMENTED,
    SHORT,
    STACK_32,
    TIME,
    USER,
    WIDE,
    Block,
    CodePage,
)
from pykvm.translate.context import SLOT
from pykvm.translate.emit import Emitter
from pykvm.translate.emit_segmented import SegmentedEmitter
from pykvm.translate.encode import call_slot
from pykvm.translate.memory import executable
from pykvm.translate.translator import page_check, translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.translate.finder import Finder
    from pykvm.translate.lookup import Lookup
    from pykvm.translate.saved import Saved

CODE_SIZE = 64 << 20
MOST_BLOCKS = 100_000
"""A guest can make blocks of one byte each, whose objects then take more memory than their code."""
GRANULE = 64
MOST_COPIES = 4096
"""Code pages that are let go at a time; of more the blocks are ended."""

JUMP = 0xE9  # JMP rel32, whose distance follows
STALE = call_slot(SLOT["stale"])


class Form:
    """What is remembered for one mode: instructions' bytes and what was made of them."""

    def __init__(self, lookup: Lookup, mode: int) -> None:
        self.emitter: Emitter
        if mode & SEGMENTED:
            short, deep = bool(mode & SHORT), bool(mode & STACK_32)
            real = bool(mode & REAL)
            self.emitter = SegmentedEmitter(lookup, mode & USER, short=short, deep=deep, real=real)
        else:
            self.emitter = Emitter(lookup, mode & USER, bool(mode & WIDE))
        self.emitter.may_read_time = bool(mode & TIME) and lookup.bmi2
        self.memory: dict[bytes, bytes] = {}
        self.fpu = self.emitter.fpu = bool(mode & FPU)


class Blocks:
    """All translated code.

    ``source`` gives a page's bytes by its guest-physical address, ``flag`` has writes to a page seen, or no
    longer, ``stop`` has all CPUs stand still. The ``finder`` of some methods is that of the CPU that asks.
    """

    def __init__(
        self,
        lookup: Lookup,
        source: Callable[[int], memoryview],
        flag: Callable[[int, bool], None],
        stop: Callable[[], None],
        size: int = CODE_SIZE,
    ) -> None:
        self.mapping = executable(size)
        self.base = self.mapping.address
        self.lookup = lookup
        self.source = source
        self.view = self.mapping.view
        self._words = self.view.cast("Q")
        self._flag = flag
        self._stop = stop
        self.first = 0
        """Where blocks begin, behind the runtime."""
        self.used = 0
        self.generation = 0
        self.pages: dict[tuple[int, int, int], CodePage] = {}
        self.by_id: list[CodePage | None] = [None]
        self.gpas = array("Q", bytes(8 * IDS))
        """Of each code page, by its id, where it lies, and 1; 0: there is none."""
        self.at_gpa: dict[int, list[CodePage]] = {}
        self._granules: dict[int, int] = {}
        """Of each page with code, a bit for each GRANULE bytes that blocks may come from."""
        self._starts: list[int] = []
        self.all: list[Block] = []
        self._copies = 0
        self._forms: dict[int, Form] = {}
        self.saved: Saved | None = None
        self.translated = 0  # instructions

    def reserve(self, code: bytes) -> int:
        """Put the runtime in front; what comes after it is thrown away when memory is full."""
        at = self.used
        self.view[at : at + len(code)] = code
        self.used = self.first = at + len(code) + 63 & ~63
        return self.base + at

    @property
    def full(self) -> bool:
        return self.used > self.mapping.size - 0x10000 or len(self.all) >= MOST_BLOCKS

    def reset(self) -> None:
        """Throw all blocks away. The caller clears page checks and jump caches."""
        for gpa in self.at_gpa:
            self._flag(gpa, False)
        self.pages.clear()
        for number in range(min(len(self.by_id), IDS)):
            self.gpas[number] = 0
        self.by_id = [None]
        self.at_gpa.clear()
        self._granules.clear()
        self._starts.clear()
        self.all.clear()
        self._copies = 0
        self.saved = None
        self.used = self.first
        self.generation += 1

    def close(self) -> None:
        self._words.release()
        self.mapping.close()

    # Pages

    def page(self, mode: int, gva: int, gpa: int, finder: Finder) -> CodePage:
        """The code page of ``gva`` in ``mode``, mapped to ``gpa``; both are a page's first byte."""
        key = (mode, gva, gpa)
        page = self.pages.get(key)
        if page is None:
            number = len(self.by_id)
            kept = self.saved.take(mode, gva, self.source(gpa)) if self.saved is not None else None
            if kept is None:
                self.by_id.append(None)
            else:
                number = kept.id
            page = self.pages[key] = CodePage(number, mode, gva, gpa)
            self.by_id[number] = page
            if kept is not None and self.saved is not None:
                self.watch(page)
                self.saved.fill(kept, page, self, finder)
            if number < len(self.gpas):  # last: by this the runtime lets CPUs run what was kept
                self.gpas[number] = gpa | 1
        elif page.copy is not None:
            self._take_back(page)
        return page

    def watch(self, page: CodePage) -> None:
        """Have writes to the page seen, before its bytes are read."""
        if page.gpa not in self.at_gpa:
            self.at_gpa[page.gpa] = []
            self._granules[page.gpa] = 0
            self._flag(page.gpa, True)

    def has_code(self, page: CodePage, first: int, last: int) -> None:
        """Bytes ``first`` to ``last`` of the page, which is watched, have become a block's source."""
        pages = self.at_gpa[page.gpa]
        first, last = first // GRANULE, min(last, PAGE - 1) // GRANULE
        self._granules[page.gpa] |= (2 << last) - (1 << first)
        if page not in pages:
            pages.append(page)

    def written(self, gpa: int, size: int) -> None:
        """End the blocks whose source lies in these bytes of one page."""
        start = gpa & -PAGE
        pages = self.at_gpa.get(start)
        if pages is None:
            return
        first = gpa - start
        last = first + size
        if size <= GRANULE and pages and not self._granules[start] >> first // GRANULE & 3:
            return
        left = False
        for page in pages:
            for offset, block in list(page.blocks.items()):
                if offset < last and first < offset + block.length:
                    self.kill(block)
            for block in list(page.spilling):
                if first < block.offset + block.length - PAGE:
                    self.kill(block)
                    page.spilling.discard(block)
            left = left or bool(page.blocks) or bool(page.spilling)
        if not left:
            del self.at_gpa[start]
            del self._granules[start]
            self._flag(start, False)

    def let_go(self, gpa: int) -> list[CodePage]:
        """See writes to the page at ``gpa`` no longer. Returns its code pages, whose checks must now fail.

        The caller sees to it that no CPU runs their code or is to go on in it.
        """
        pages = self.at_gpa[gpa]
        if self._copies + len(pages) > MOST_COPIES:
            self.written(gpa, PAGE)
            return []
        self._copies += len(pages)
        copy = bytes(self.source(gpa))
        for page in pages:
            page.copy = copy
            if page.id < len(self.gpas):
                self.gpas[page.id] = 0
        del self.at_gpa[gpa]
        del self._granules[gpa]
        self._flag(gpa, False)
        return pages

    def _take_back(self, page: CodePage) -> None:
        """See writes to ``page`` again, and end the blocks whose source has changed since it was let go."""
        copy, page.copy = page.copy, None
        assert copy is not None
        self._copies -= 1
        self.watch(page)
        source = self.source(page.gpa)
        for block in list(page.blocks.values()):
            first, last = block.offset, block.offset + block.length
            if source[first:last] == copy[first:last]:
                self.has_code(page, first, last)
            else:
                self.kill(block)
        for block in list(page.spilling):
            last = block.offset + block.length - PAGE
            if not block.dead and source[:last] == copy[:last]:
                self.has_code(page, 0, last)
            else:
                self.kill(block)
                page.spilling.discard(block)
        if page.id < len(self.gpas):
            self.gpas[page.id] = page.gpa | 1

    def kill(self, block: Block) -> None:
        """Its source has changed: whoever comes to it must ask."""
        if block.dead:
            return
        self._stop()
        block.dead = True
        if block.page.blocks.get(block.offset) is block:
            del block.page.blocks[block.offset]
        block.page.dead.setdefault(block.offset, []).append(block)
        at = block.body - self.base
        self.view[at : at + len(STALE)] = STALE

    # From host to guest

    def block_at(self, host: int) -> Block | None:
        """The block in whose code ``host``, a return address, lies."""
        saved = self.saved
        if saved is not None and host - self.base <= saved.end:
            return saved.block_at(host, self)
        at = bisect_right(self._starts, host - 1) - 1
        if at < 0:
            return None
        block = self.all[at]
        return block if host <= block.end else None

    # From guest to host

    def block(self, page: CodePage, offset: int, finder: Finder) -> Block:
        """The block at ``offset`` of ``page``, translated now if need be."""
        block = page.blocks.get(offset)
        if block is None:
            block = translate(self, page, offset, finder)
            for old in page.dead.pop(offset, ()):
                self.forward(old, block)
        return block

    def forward(self, old: Block, new: Block) -> None:
        """Let a block that has ended go on in the one that took its place."""
        self._store(old.body, JUMP | (new.body - old.body - 5 & 0xFFFF_FFFF) << 8, 5)

    def replace(self, old: Block, new: Block) -> None:
        """Where ``old`` was kept of an earlier boot, and its page isn't this boot's, go to ``new``."""
        if self.saved is not None and self.saved.give_up(old.page):
            self._stop()
            at = old.entry - self.base
            self.view[at : at + 5] = pack("<Bi", JUMP, new.entry - old.entry - 5)

    def begin_anew(self, block: Block) -> None:
        """Let ``block``, whose page is this boot's after all, begin with its page check again."""
        at = block.entry - self.base
        if self.view[at] == JUMP:
            self._stop()
            self.view[at : at + 5] = page_check(block.page)[HEAD_SIZE : HEAD_SIZE + 5]

    def form(self, mode: int) -> Form:
        mode &= (1 << BASE) - 1
        form = self._forms.get(mode)
        if form is None:
            form = self._forms[mode] = Form(self.lookup, mode)
        return form

    def add(self, block: Block, code: bytearray) -> None:
        """Put a translated block's code, from its page check's numbers on, where it belongs."""
        page = block.page
        at = block.entry - HEAD_SIZE - self.base
        self.view[at : at + len(code)] = code
        self.used = at + len(code) + 15 & ~15
        self._starts.append(block.body)
        self.all.append(block)
        page.blocks[block.offset] = block
        self.has_code(page, block.offset, block.offset + block.length)
        if block.spill is not None:
            block.spill.spilling.add(block)
            self.has_code(block.spill, 0, 15)

    def patch(self, block: Block, place: int, target: int) -> None:
        """Let a direct jump of ``block`` go to ``target`` from now on."""
        at = block.body + place
        self._store(at, target - at - 4 & 0xFFFF_FFFF, 4)

    def _store(self, at: int, value: int, size: int) -> None:
        """Change ``size`` bytes at host address ``at``, within 8 aligned ones, at once."""
        word, shift = at - self.base >> 3, 8 * (at & 7)
        mask = (1 << 8 * size) - 1 << shift
        self._words[word] = self._words[word] & ~mask | value << shift
