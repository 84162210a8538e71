"""Loads and stores that reach a device, each taken apart once.

A driver's access to a register (the EOI of each interrupt above all) comes from the same few places in
emitted code again and again. The first time the bounce buffer does it, and the place is noted: then only
the address is walked, as page tables may have changed, and emitted code goes on behind the instruction.

Only MOV between a register, or a number, and memory is known here.
"""

from __future__ import annotations

from bisect import bisect_right

from pykvm.translate.codepage import M64, PAGE, WIDE
from pykvm.translate.context import REGISTER_SLOT, SLOT
from pykvm.translate.decode import LOCK, OPERAND, REPEAT, Undecoded, decode
from pykvm.x86.exceptions import Fault
from pykvm.x86.paging import READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.translate.codepage import Block
    from pykvm.translate.core import Core

# MOV as Intel SDM vol. 2 has it: opcode, writes memory, has a number, size in bytes (0: by prefixes)
FORMS = {
    0x88: (True, False, 1),
    0x89: (True, False, 0),
    0x8A: (False, False, 1),
    0x8B: (False, False, 0),
    0xC6: (True, True, 1),
    0xC7: (True, True, 0),
}
MOST = 4096  # places; a guest that makes more has them forgotten

W_ATTENTION = SLOT["attention"] // 8
W_PENDING = SLOT["pending"] // 8
W_IF = SLOT["interrupt_flag"] // 8
W_RIP = SLOT["rip"] // 8


class Access:
    """What the instruction at a place does, and where emitted code goes on after it (0: RIP says where).

    ``register`` is a number among the context's words, -1 where ``number`` is what is written.
    """

    __slots__ = ("after", "block", "mask", "number", "register", "resume", "size", "write")

    def __init__(
        self, block: Block, write: bool, size: int, register: int, number: int, after: int, resume: int
    ) -> None:
        self.block = block
        self.write = write
        self.size = size
        self.mask = (1 << 8 * size) - 1
        self.register = register
        self.number = number
        self.after = after
        self.resume = resume


class DeviceAccesses:
    """The places in the blocks of ``core``, by the address to which their lookup returns."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._known: dict[int, Access] = {}
        self._generation = 0

    def find(self, at: int) -> Access | None:
        known = self._known.get(at)
        return known if known is not None and self._generation == self._core.blocks.generation else None

    def carry_out(self, access: Access, gva: int, user: int) -> int:
        """Where to go on, -1 if no device is there, with nothing done. Raises Fault."""
        core = self._core
        words, size = core.words, access.size
        if (gva & PAGE - 1) + size > PAGE:
            return -1
        gpa = core.mmu.find(gva, WRITE if access.write else READ, bool(user)).gpa
        if not core.physical.is_device(gpa):
            return -1
        if access.write:
            register = access.register
            value = words[register] & access.mask if register >= 0 else access.number
            core.physical.write_device(gpa, size, value)
        else:
            value = core.physical.read_device(gpa, size)
            # Of a register 4 bytes clear the rest, fewer leave it (Intel SDM vol. 1 §3.4.1.1)
            kept = words[access.register] & ~access.mask if size < 4 else 0
            words[access.register] = kept | value
        waits = words[W_ATTENTION] or (words[W_PENDING] and words[W_IF])
        if access.resume and not waits and not access.block.dead:
            return access.resume
        words[W_RIP] = access.after
        return core.finder.go()

    def note(self, at: int, gva: int) -> None:
        """Emitted code left at ``at`` for something that isn't RAM at ``gva``."""
        core = self._core
        if self._generation != core.blocks.generation or len(self._known) >= MOST:
            self._known.clear()
            self._generation = core.blocks.generation
        block = core.blocks.block_at(at) if at >= core.runtime_end else None
        if block is None or block.dead or block.spill is not None:
            return
        try:
            if core.physical.is_device(core.linear.translate(gva, READ, False, mark=False)):
                access = _access(block, core.blocks.source(block.page.gpa), at)
                if access is not None:
                    self._known[at] = access
        except Fault:
            return


def _access(block: Block, source: memoryview, at: int) -> Access | None:
    index = bisect_right(block.hosts, at - block.body - 1) - 1
    offset = block.offset + block.guests[index]
    wide = bool(block.page.mode & WIDE)
    code = bytes(source[offset : offset + 15])
    try:
        length, opcode, prefixes, rex, modrm, immediate = decode(code, 0, wide)
    except (Undecoded, IndexError):
        return None
    form = FORMS.get(opcode)
    if form is None or prefixes & (LOCK | REPEAT):
        return None
    write, has_number, size = form
    size = size or (8 if rex & 8 else 2 if prefixes & OPERAND else 4)
    register, number = -1, 0
    if has_number:
        if code[modrm] & 0x38:
            return None  # /0 is MOV alone
        number = int.from_bytes(code[immediate:length], "little", signed=True) & (1 << 8 * size) - 1
    else:
        which = code[modrm] >> 3 & 7 | (rex & 4) << 1
        if size == 1 and not rex and which >= 4:
            return None  # AH, CH, DH, BH
        register = REGISTER_SLOT[which] // 8
    after = block.page.gva + offset + length & (M64 if wide else 0xFFFF_FFFF)
    last = index + 1 >= len(block.hosts)
    return Access(
        block, write, size, register, number, after, 0 if last else block.body + block.hosts[index + 1]
    )
