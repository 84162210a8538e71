"""Translations kept on disk, so that a second boot of the same guest starts with them.

Emitted code holds no host address, so a file is the code as it lay, and tables that say what it is. Source
bytes are not in it: a block counts only where the guest's memory has bytes with the same hash at the time
when its page is first executed, and is ended where not.

Layout, all numbers little-endian::

    0   16  MAGIC                    16  32  what made it (the translator's own sources, and BMI2)
    48  4   CRC-32 of what follows   52  4   how many pages   56  4  blocks   60  4  instructions
    64  4   jumps                    68  4   bytes of code    72  4  the highest page id   76  4  0
    80  16  the key of the hashes
    96      PAGES, BLOCKS, instructions' places (host, then guest), jumps' places, targets; code
"""

from __future__ import annotations

import os
import zlib
from array import array
from bisect import bisect_right
from hashlib import blake2b
from struct import Struct

from pykvm.translate.codepage import M64, PAGE, Block, CodePage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.translate.blocks import Blocks
    from pykvm.translate.finder import Finder

MAGIC = b"pykvm translated"
HEADER = Struct("<16s32s8I16s")
KEY_SIZE = 16
CANDIDATE_BLOCKS = 64  # that are looked at to find out which of several pages one is
COVERED = 52  # the checksum is of all from here on
LARGEST = 48 << 20  # bytes of code; more is not kept
WORTH = 500  # instructions: fewer new ones are not worth a file

# Columns: array type and name.
PAGE_COLUMNS = (("I", "id"), ("Q", "mode"), ("Q", "gva"))
BLOCK_COLUMNS = (
    ("I", "page"), ("I", "body"), ("I", "end"), ("H", "offset"), ("H", "length"), ("Q", "hash"),
    ("I", "spill"), ("I", "marks"), ("I", "jumps"), ("H", "remembered"),
)  # fmt: skip


class Sources:
    """Hashes of blocks' source bytes, by a key that is the file's own.

    A guest that could choose bytes with the hash of others would have its code taken for another guest's;
    so the key is random, and no guest sees it.
    """

    def __init__(self, key: bytes) -> None:
        self.key = key
        self._keyed = blake2b(digest_size=8, key=key)

    def hash(self, source: bytes | memoryview) -> int:
        keyed = self._keyed.copy()
        keyed.update(source)
        return int.from_bytes(keyed.digest(), "little")


class Damaged(Exception):
    """Not a file of translations that can be used."""


class KeptPage:
    """A page of the file: its blocks are those with numbers ``first`` to ``last - 1``."""

    __slots__ = ("first", "given_up", "gva", "id", "last", "mode", "taken")

    def __init__(self, number: int, mode: int, gva: int, first: int, last: int) -> None:
        self.id = number
        self.mode = mode
        self.gva = gva
        self.first = first
        self.last = last
        self.taken: CodePage | None = None
        self.given_up = False  # jumps to it lead elsewhere


class Saved:
    """What was read from a file: ``load`` checks it, ``place`` puts its code at the front of ``blocks``."""

    def __init__(self, data: bytes, made_by: bytes) -> None:
        try:
            magic, maker, crc, pages, blocks, marks, jumps, size, self.top_id, _, key = HEADER.unpack_from(
                data
            )
        except Exception as error:
            raise Damaged("too short") from error
        if magic != MAGIC or maker != made_by:
            raise Damaged("made by another version")
        if zlib.crc32(memoryview(data)[COVERED:]) != crc:
            raise Damaged("its checksum is wrong")
        self.sources = Sources(key)
        at = HEADER.size
        columns = []
        for kinds, count in (
            ([kind for kind, _ in PAGE_COLUMNS], pages),
            ([kind for kind, _ in BLOCK_COLUMNS], blocks),
            (["H", "H"], marks),
            (["H", "Q"], jumps),
        ):
            for kind in kinds:
                column = array(kind)
                column.frombytes(data[at : at + count * column.itemsize])
                at += count * column.itemsize
                columns.append(column)
        self.code = memoryview(data)[at : at + size]
        ids, modes, gvas = columns[:3]
        self._block = dict(zip((name for _, name in BLOCK_COLUMNS), columns[3:13], strict=True))
        self._hosts, self._guests, self._places, self._targets = columns[13:]
        self._bodies = self._block["body"].tolist()
        self._made: dict[int, Block] = {}
        self._pages: dict[tuple[int, int], list[KeptPage]] = {}
        self._by_id: dict[int, KeptPage] = {}
        self.end = 0
        self.pages: list[KeptPage] = []
        owner = self._block["page"]
        order: dict[int, list[int]] = {}
        for number, page in enumerate(owner):
            order.setdefault(page, []).append(number)
        self._of_page = order
        for number in range(pages):
            kept = KeptPage(ids[number], modes[number], gvas[number], number, number + 1)
            self._pages.setdefault((kept.mode, kept.gva), []).append(kept)
            self._by_id[kept.id] = kept
            self.pages.append(kept)

    def place(self, blocks: Blocks) -> None:
        """Put the code where it lay before: nothing was translated yet.

        Raises Damaged where it would leave no room for what is to come.
        """
        at = blocks.first
        if at + len(self.code) > blocks.mapping.size // 2:
            raise Damaged("too large")
        blocks.view[at : at + len(self.code)] = self.code
        self._origin = blocks.base + at
        blocks.used = at + len(self.code) + 63 & ~63
        blocks.by_id += [None] * (self.top_id + 1 - len(blocks.by_id))
        self.end = blocks.used
        del self.code  # a copy of it lies in place
        blocks.saved = self

    # Pages that come to be executed

    def take(self, mode: int, gva: int, source: memoryview) -> KeptPage | None:
        """The page of the file that this one is, if any; it is then nobody else's."""
        free = [kept for kept in self._pages.get((mode, gva), ()) if not kept.taken and not kept.given_up]
        if len(free) == 1:  # of a kernel that patches itself many blocks may differ
            numbers = self._of_page.get(free[0].first, ())
            return free[0] if any(self._is_good(number, source) for number in numbers) else None
        best, most = None, 0
        for kept in free:
            numbers = self._of_page.get(kept.first, ())
            good = sum(self._is_good(number, source) for number in numbers[:CANDIDATE_BLOCKS])
            if good > most:
                best, most = kept, good
        return best

    def give_up(self, page: CodePage) -> bool:
        """Whether ``page`` is of the file and nobody's; then it stays so."""
        kept = self._by_id.get(page.id)
        if kept is None or kept.taken is not None:
            return False
        kept.given_up = True
        return True

    def _is_good(self, number: int, source: memoryview) -> bool:
        block = self._block
        offset = block["offset"][number]
        length = block["length"][number]
        if offset + length > PAGE:
            return False
        return self.sources.hash(source[offset : offset + length]) == block["hash"][number]

    def fill(self, kept: KeptPage, page: CodePage, blocks: Blocks, finder: Finder) -> None:
        """Give ``page`` those of its blocks whose source is what it was, and end the others.

        Those that were in the jump cache ``finder`` remembers there.
        """
        kept.taken = page
        source = blocks.source(page.gpa)
        columns = self._block
        offsets, lengths, hashes, spills = (
            columns["offset"],
            columns["length"],
            columns["hash"],
            columns["spill"],
        )
        remembered = columns["remembered"]
        hash_of = self.sources.hash
        for number in self._of_page.get(kept.first, ()):
            offset, length = offsets[number], lengths[number]
            block = self._make(number, page)
            blocks.begin_anew(block)  # an earlier boot had another page here, and this lead there
            if not spills[number]:
                good = length and hash_of(source[offset : offset + length]) == hashes[number]
            else:
                good = self._fits_second(block, number, source, blocks, finder)
            if good and offset not in page.blocks:
                page.blocks[offset] = block
                if remembered[number]:
                    finder.remember(block.start & M64, block)
                blocks.has_code(page, offset, offset + length)
                if block.spill is not None:
                    block.spill.spilling.add(block)
                    blocks.has_code(block.spill, 0, 15)
            else:
                blocks.kill(block)

    def _fits_second(
        self, block: Block, number: int, source: memoryview, blocks: Blocks, finder: Finder
    ) -> bool:
        second = finder.second(block.page)
        if second is None or second.id != self._block["spill"][number]:
            return False
        blocks.watch(second)
        first = PAGE - block.offset
        code = bytes(source[block.offset :]) + bytes(blocks.source(second.gpa)[: block.length - first])
        if self.sources.hash(code) != self._block["hash"][number]:
            return False
        block.spill = second
        return True

    def _make(self, number: int, page: CodePage) -> Block:
        block = self._made.get(number)
        if block is None:
            columns = self._block
            block = Block(page, columns["offset"][number], self._origin + self._bodies[number])
            block.end = self._origin + columns["end"][number]
            block.length = columns["length"][number]
            marks, jumps = columns["marks"], columns["jumps"]
            last = number + 1 < len(marks)
            first, after = marks[number], marks[number + 1] if last else len(self._hosts)
            block.hosts, block.guests = self._hosts[first:after], self._guests[first:after]
            if page.gpa >= 0:
                self._made[number] = block
            first, after = jumps[number], jumps[number + 1] if last else len(self._places)
            block.places, block.targets = self._places[first:after], self._targets[first:after]
        return block

    def block_at(self, host: int, blocks: Blocks) -> Block | None:
        """The block in whose code ``host``, a return address, lies."""
        number = bisect_right(self._bodies, host - 1 - self._origin) - 1
        if number < 0 or host > self._origin + self._block["end"][number]:
            return None
        block = self._made.get(number)
        if block is None:
            kept = self.pages[self._block["page"][number]]
            # Of a page that nobody has taken: for its address only, and not to be remembered.
            page = kept.taken or CodePage(kept.id, kept.mode, kept.gva, -PAGE)
            block = self._make(number, page)
        return block

    def rows(self, blocks: Blocks) -> list[tuple[Block, int]]:
        """All blocks, with the hash of their source, in the order of their places, for the next file."""
        found = []
        hashes = self._block["hash"]
        for number, body in enumerate(self._bodies):
            block = self._made.get(number) or self.block_at(self._origin + body + 1, blocks)
            assert block is not None
            found.append((block, 0 if block.dead else hashes[number]))
        return found


def image(blocks: Blocks, made_by: bytes, is_remembered: Callable[[Block], bool]) -> bytes | None:
    """The file's content; None where there is too much."""
    size = blocks.used - blocks.first
    if size > LARGEST:
        return None
    rows = blocks.saved.rows(blocks) if blocks.saved is not None else []
    sources = blocks.saved.sources if blocks.saved is not None else Sources(os.urandom(KEY_SIZE))
    rows += [(block, _hash(block, blocks, sources)) for block in blocks.all]
    pages: dict[int, tuple[int, CodePage]] = {}
    page_columns = [array(kind) for kind, _ in PAGE_COLUMNS]
    columns = [array(kind) for kind, _ in BLOCK_COLUMNS]
    hosts, guests, places, targets = array("H"), array("H"), array("H"), array("Q")
    origin = blocks.base + blocks.first
    for block, source_hash in rows:
        page = block.page
        known = pages.get(page.id)
        if known is None:
            known = pages[page.id] = len(pages), page
            for column, value in zip(page_columns, (page.id, page.mode, page.gva), strict=True):
                column.append(value)
        spill = block.spill.id if block.spill is not None else 0
        values = (
            known[0], block.body - origin, block.end - origin, block.offset,
            0 if block.dead else block.length, source_hash, spill, len(hosts), len(places),
            int(is_remembered(block)),
        )  # fmt: skip
        for column, value in zip(columns, values, strict=True):
            column.append(value)
        hosts += block.hosts
        guests += block.guests
        if block.places:
            places += block.places
            targets += block.targets
    tables = (*page_columns, *columns, hosts, guests, places, targets)
    body = b"".join([*(column.tobytes() for column in tables), blocks.view[blocks.first : blocks.used]])
    counts = (len(pages), len(rows), len(hosts), len(places), size, len(blocks.by_id) - 1, 0, sources.key)
    rest = HEADER.pack(MAGIC, made_by, 0, *counts)[COVERED:]
    return HEADER.pack(MAGIC, made_by, zlib.crc32(body, zlib.crc32(rest)), *counts) + body


def _hash(block: Block, blocks: Blocks, sources: Sources) -> int:
    """Of a block's source, which is as it was when it was translated, or the block would have ended."""
    if block.dead or block.page.gpa < 0:
        return 0
    source = block.page.copy or blocks.source(block.page.gpa)
    code = bytes(source[block.offset : block.offset + block.length])
    if block.spill is not None:
        source = block.spill.copy or blocks.source(block.spill.gpa)
        code += bytes(source[: block.offset + block.length - PAGE])
    return sources.hash(code)
