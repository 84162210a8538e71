"""Where code is: from a guest's RIP to its block, and from an address in emitted code back."""

from __future__ import annotations

from bisect import bisect_left

from pykvm.errors import InternalError
from pykvm.translate import context
from pykvm.translate.codepage import BASE, M64, PAGE, SEGMENTED, SHORT, USER, WIDE
from pykvm.translate.context import SLOT
from pykvm.translate.lookup import jump_index
from pykvm.translate.modes import INTERPRET_ONLY
from pykvm.x86.exceptions import GP, Fault
from pykvm.x86.paging import FETCH, canonical

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pykvm.translate.codepage import Block, CodePage
    from pykvm.translate.core import Core

STI = 0xFB

W_ATTENTION = SLOT["attention"] // 8
W_PENDING = SLOT["pending"] // 8
W_IF = SLOT["interrupt_flag"] // 8
W_RIP = SLOT["rip"] // 8
W_MODE = SLOT["mode"] // 8


def jump_tag(rip: int, mode: int) -> int:
    """The jump cache's tag of ``rip`` in ``mode``, of which those of segments tell theirs from others'."""
    return -(rip | jump_key(mode)) & M64


def jump_key(mode: int) -> int:
    """What the tags of ``mode`` have above RIP."""
    return mode << 32 & M64 if mode & SEGMENTED and mode != INTERPRET_ONLY else 0


def jump_kind(mode: int) -> int:
    """Modes of one kind tell their tags apart, so that they can be in the jump cache side by side."""
    return SEGMENTED if mode & SEGMENTED and mode < 1 << 32 else mode


class Finder:
    """The blocks, page checks and jump cache of ``core``."""

    def __init__(self, core: Core) -> None:
        self.core = core

    def second(self, page: CodePage) -> CodePage | None:
        try:
            return self.behind(page)
        except Fault:
            return None

    def behind(self, page: CodePage) -> CodePage | None:
        """The page after ``page``, in the present mode. Raises the fetch's fault."""
        return self.code_page(page.gva + PAGE - page.base & (M64 if page.mode & WIDE else 0xFFFF_FFFF))

    def written(self, gpa: int, size: int) -> None:
        shared = self.core.shared
        if shared.flags[shared.number(gpa)]:
            shared.blocks.written(gpa, size)

    def forget_check(self, page: CodePage) -> None:
        """The next to come to ``page`` asks Python."""
        at = (context.PAGE_CHECKS >> 2) + (page.gva >> 12 & 0xFFFF)
        if self.core.halves[at] == page.id:
            self.core.halves[at] = 0

    def code_page(self, rip: int) -> CodePage | None:
        """The code page of ``rip`` in the present mode; None where no RAM is. Raises the fetch's fault."""
        words = self.core.words
        mode = words[W_MODE]
        if mode & SEGMENTED:
            if mode & SHORT and rip > 0xFFFF:
                return None  # beyond its segment
            rip = rip + (mode >> BASE) & 0xFFFF_FFFF
        at = rip >> 12 & 0xFFFF
        number = self.core.halves[(context.PAGE_CHECKS >> 2) + at]
        gva = rip & -PAGE
        if number:
            page = self.core.blocks.by_id[number]
            if page is not None and page.gva == gva and page.mode == mode:
                return page
        if not canonical(rip, 0):
            raise Fault(GP, 0)
        found = self.core.mmu.find(rip, FETCH, bool(mode & USER))
        if self.core.shared.number(found.gpa) < 0:
            return None
        page = self.core.blocks.page(mode, gva, found.gpa & -PAGE, self)
        self.core.halves[(context.PAGE_CHECKS >> 2) + at] = page.id
        if not found.is_global:
            self.core.mmu.log_check(at)
        if found.large:
            self.core.mmu.note_large(rip)
        return page

    def locate(self, rip: int) -> Block | None:
        """The block at ``rip``; None where RIP is elsewhere now, or must be interpreted."""
        blocks = self.core.blocks
        if blocks.full:
            self.core.shared.make_room()
            if not self.core.shared.alone:
                self.core.words[W_RIP] = rip
                return None
        try:
            page = self.code_page(rip)
        except Fault as fault:
            self.core.words[W_RIP] = rip
            self.core.raise_fault(fault)
            return None if self.core.words[W_MODE] == INTERPRET_ONLY else self._locate_again()
        if page is None:
            self.core.words[W_RIP] = rip
            return None
        return blocks.block(page, rip + page.base & PAGE - 1, self)

    def _locate_again(self) -> Block | None:
        """After an exception was delivered: the handler's first block, or None if that faults in turn."""
        try:
            page = self.code_page(self.core.words[W_RIP])
        except Fault as fault:
            self.core.raise_fault(fault)
            return None
        if page is None:
            return None
        return self.core.blocks.block(page, self.core.words[W_RIP] + page.base & PAGE - 1, self)

    def clear_jumps(self, which: Sequence[int] = (0, 1)) -> None:
        for user in which:
            start = context.JUMP_TAG[user]
            self.core.raw[start : start + context.TABLE] = bytes(context.TABLE)
            self.core.words[start >> 3] = 1

    def remember(self, rip: int, block: Block) -> None:
        """Put ``block`` into the jump cache."""
        user, at = block.page.mode & USER, jump_index(rip)
        self.core.words[(context.JUMP_TAG[user] >> 3) + at] = jump_tag(rip, block.page.mode)
        self.core.words[(context.JUMP_HOST[user] >> 3) + at] = block.entry

    def is_remembered(self, block: Block) -> bool:
        rip, mode = block.start & M64, block.page.mode
        return self.core.words[(context.JUMP_TAG[mode & USER] >> 3) + jump_index(rip)] == jump_tag(rip, mode)

    def rip_of(self, host: int) -> int:
        """The instruction to which a return address in emitted code belongs."""
        if host < self.core.runtime_end:
            return self.core.words[W_RIP]
        block = self.core.blocks.block_at(host)
        if block is None:
            raise InternalError(f"emitted code left from an unknown place, {host:#x}", where="translate")
        return block.rip(host)

    def follows_sti(self, host: int) -> bool:
        """Whether that instruction comes right after an STI, so that interrupts aren't taken before it."""
        block = self.core.blocks.block_at(host) if host >= self.core.runtime_end else None
        if block is None:
            return False
        offset = (block.rip(host) - block.start) & M64
        before = bisect_left(block.guests, offset) - 1
        if before < 0 or block.guests[before] != offset - 1:
            return False
        return self.core.blocks.source(block.page.gpa)[block.offset + offset - 1] == STI

    def go(self) -> int:
        """Go on at RIP, if nothing waits."""
        words = self.core.words
        if words[W_ATTENTION] or self.core.cpu.halted or (words[W_PENDING] and words[W_IF]):
            return 0
        if words[W_MODE] == INTERPRET_ONLY or self.core.cpu.interrupt_shadow:
            return 0
        found = self.locate(words[W_RIP])
        return 0 if found is None else found.entry
