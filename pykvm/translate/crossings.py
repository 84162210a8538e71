"""Accesses across two pages, in emitted code.

A lookup finds one page. An instruction whose operand of up to 16 bytes lies in two leaves by its miss. It is
then emitted once more, by itself, with another way to its operand: the bytes are brought to a buffer one by
one, each by a lookup of its own, and what was written is carried back. From then on a miss at the same place
in a block goes there straight, without Python. Each CPU has such code of its own, so that nobody else runs
it when it is replaced.

All lookups come before the instruction, one after the other without Python; those of what is carried back
are the same again, and can't miss. In the buffer the operand lies as it does in its page, modulo 16, for the
instructions that ask for alignment.
"""

from __future__ import annotations

from pykvm.translate import context
from pykvm.translate.bounce import XCHG
from pykvm.translate.codepage import M64, USER, WIDE
from pykvm.translate.context import CROSSING_PLACES, CROSSING_SIZES, SCRATCH, SLOT
from pykvm.translate.decode import LOCK, Undecoded, decode
from pykvm.translate.emit import NotingEmitter, NotTranslated, Parts
from pykvm.translate.emit_integer import ACTIONS as INTEGER_ACTIONS
from pykvm.translate.emit_vector import ACTIONS as VECTOR_ACTIONS
from pykvm.translate.encode import AND, CMP, R9, RAX, RCX, RSP, SHR, Mem, call_slot, move_number, store_number
from pykvm.translate.operands import WRITE
from pykvm.translate.routines import SAVED, slot
from pykvm.x86.exceptions import Fault
from pykvm.x86.paging import canonical

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.translate.core import Core
    from pykvm.translate.lookup import Lookup
    from pykvm.translate.routines import Routines

W_BLOCK_RETURN = SLOT["block_return"] // 8
ROOM = 256
"""Bytes for one instruction."""
SITES, CODES = context.CROSSINGS, context.CROSSINGS + 8 * CROSSING_PLACES


def find(asm: Routines, slow: str) -> None:
    """In a miss of an access across two pages: go to the code for it, if there is any."""
    asm.mov(RAX, R9)  # where 32 bits of address end Python is asked
    asm.shift(SHR, RAX, 12)
    asm.alu_number(CMP, RAX, 0xFFFFF)
    asm.jump_if("e", slow)
    asm.mov(RAX, slot("return"))
    asm.mov(RCX, RAX)
    asm.alu_number(AND, RCX, CROSSING_PLACES - 1, wide=False)
    asm.alu(CMP, RAX, Mem(RSP, SITES, RCX, 8))
    asm.jump_if("ne", slow)
    asm.mov(RCX, Mem(RSP, CODES, RCX, 8))
    asm.mov(slot("crossing"), RCX)
    asm.restore(*SAVED)
    asm.restore_flags()
    asm.jump_to(slot("crossing"))


def routines(asm: Routines, user: int) -> None:
    for size in CROSSING_SIZES:
        for write in (0, 1):
            _bring(asm, user, write, size)
        _carry_back(asm, user, size)


def _bring(asm: Routines, user: int, write: int, size: int) -> None:
    """The operand at R9 to the buffer; R9 = where it lies there, RCX = 0. Flags are kept."""
    name = f"bring_{user}{write}_{size}"
    asm.entries[name] = asm.here
    asm.pop_to(slot("block_return"))
    asm.mov(slot("crossing_at"), R9)
    asm.lea(R9, Mem(R9, size))
    asm.mov(slot("crossing_end"), R9)
    asm.label(name)
    asm.mov(R9, slot("crossing_at"))
    asm.raw(asm.lookup.code(user, write, 1))
    asm.lea(RCX, Mem(R9, 0, RCX))
    asm.load_byte(RCX, Mem(RCX))
    _place(asm, R9)
    asm.mov_byte(Mem(RSP, SLOT["bounce"], R9), RCX)
    _next(asm, name)
    asm.mov(R9, slot("crossing_end"))
    asm.lea(R9, Mem(R9, -size))
    _place(asm, R9)
    asm.lea(R9, Mem(RSP, SLOT["bounce"], R9))
    asm.set(RCX, 0)
    asm.jump_to(slot("block_return"))


def _carry_back(asm: Routines, user: int, size: int) -> None:
    """What the buffer has for where ``_bring`` was asked last."""
    name = f"carry_back_{user}_{size}"
    asm.entries[name] = asm.here
    asm.pop_to(slot("block_return"))
    asm.mov(R9, slot("crossing_end"))
    asm.lea(R9, Mem(R9, -size))
    asm.mov(slot("crossing_at"), R9)
    asm.label(name)
    asm.mov(R9, slot("crossing_at"))
    asm.raw(asm.lookup.code(user, 1, 1))
    asm.lea(RCX, Mem(R9, 0, RCX))
    _place(asm, R9)
    asm.load_byte(R9, Mem(RSP, SLOT["bounce"], R9))
    asm.mov_byte(Mem(RCX), R9)
    _next(asm, name)
    asm.jump_to(slot("block_return"))


def _place(asm: Routines, reg: int) -> None:
    """``reg``, an address, to its place in the buffer, where what lies around a page's end is together."""
    asm.lea(reg, Mem(reg, 16))
    asm.load_byte(reg, reg)


def _next(asm: Routines, loop: str) -> None:
    """On to the next byte, up to the last."""
    asm.mov(R9, slot("crossing_at"))
    asm.lea(R9, Mem(R9, 1))
    asm.mov(slot("crossing_at"), R9)
    asm.mov(RCX, slot("crossing_end"))
    asm.op(0xF7, 2, R9)  # not
    asm.lea(RCX, Mem(RCX, 1, R9))
    asm.raw("e305")  # jrcxz
    asm.jump(loop)


class _CrossingEmitter(NotingEmitter):
    """Has the operand brought to the buffer."""

    def __init__(self, lookup: Lookup, user: int, wide: bool) -> None:
        super().__init__(lookup, user, wide)
        self.may_hold = False

    def reach(self, size: int, access: int) -> bytes:
        if size not in CROSSING_SIZES:
            raise NotTranslated
        return call_slot(SLOT[f"bring_{self.user}{access >> 1}_{size}"])


def emitted(lookup: Lookup, code: bytes, rip: int, user: int, wide: bool) -> bytes | None:
    """The instruction ``code`` at ``rip``, with its operand in two pages; None where Python does it."""
    try:
        length, opcode, prefixes, rex, modrm, immediate = decode(code, 0, wide)
    except (Undecoded, IndexError):
        return None
    after = rip + length
    if prefixes & LOCK or opcode in XCHG or not (canonical(after, 0) if wide else after <= 0xFFFF_FFFF):
        return None
    action = VECTOR_ACTIONS.get(opcode) or INTEGER_ACTIONS[opcode]
    emitter = _CrossingEmitter(lookup, user, wide)
    parts = Parts(code[:length], opcode, prefixes, rex, modrm, immediate, after)
    try:
        made = b"" if action is None else action(emitter, parts)
    except NotTranslated:
        return None
    if emitter.count != 1:
        return None
    back = call_slot(SLOT[f"carry_back_{user}_{emitter.size}"]) if emitter.used & WRITE else b""
    return store_number(SLOT["rip"], rip) + made + back + move_number(SCRATCH, after) + emitter.jump()


class Crossings:
    """The code of one CPU for instructions whose operand lay in two pages."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._first = core.blocks.reserve(bytes(CROSSING_PLACES * ROOM))
        self._end = self._first + CROSSING_PLACES * ROOM
        for place in range(CROSSING_PLACES):
            core.words[(CODES >> 3) + place] = self._first + place * ROOM

    def holds(self, host: int) -> bool:
        """Whether ``host``, a return address, lies in this code."""
        return self._first < host <= self._end

    def code(self, at: int) -> int:
        """The code for the instruction that left a block at ``at``, made now; 0: Python is to do it."""
        core = self._core
        block = core.blocks.block_at(at)
        if block is None or block.dead or core.finder.follows_sti(at):
            return 0
        rip = block.rip(at)
        try:
            code = core.fetch(rip)
        except Fault:
            return 0
        mode = block.page.mode
        made = emitted(core.blocks.lookup, code, rip, mode & USER, bool(mode & WIDE))
        if made is None or len(made) > ROOM:
            return 0
        place = at & CROSSING_PLACES - 1
        start = self._first + place * ROOM
        first = start - core.blocks.base
        core.blocks.view[first : first + len(made)] = made
        core.words[(SITES >> 3) + place] = at & M64
        return start

    def again(self, at: int) -> int:
        """Where to go on after a miss in a routine at ``at``.

        Of code for a crossing at its beginning: while Python was asked another CPU may have had a page taken
        from the TLB that was in it, and what is carried back mustn't miss.
        """
        code = self._core.words[W_BLOCK_RETURN]
        return code - 1 - (code - 1 - self._first) % ROOM if self.holds(code) else at

    def forget(self) -> None:
        """All blocks were thrown away."""
        for place in range(CROSSING_PLACES):
            self._core.words[(SITES >> 3) + place] = 0
