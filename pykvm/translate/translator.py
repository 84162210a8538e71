"""From a block's bytes to its code."""

from __future__ import annotations

from array import array
from struct import pack

from pykvm.translate import (
    control_segmented,
    emit_chase,
    emit_integer,
    emit_segmented,
    emit_system,
    emit_vector,
)
from pykvm.translate.codepage import (
    CHECK_SIZE,
    CODE_16,
    HEAD_SIZE,
    M64,
    PAGE,
    SEGMENTED,
    SHORT,
    STUB,
    STUB_SIZE,
    WIDE,
    Block,
)
from pykvm.translate.context import PAGE_CHECKS, SLOT
from pykvm.translate.control import JUMPS
from pykvm.translate.decode import FS, GS, Undecoded, decode, decode_segmented
from pykvm.translate.emit import NotTranslated, Parts
from pykvm.translate.emit_system import leave_if_pending
from pykvm.translate.encode import call_slot, store_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.translate.blocks import Blocks
    from pykvm.translate.codepage import CodePage
    from pykvm.translate.emit import Action
    from pykvm.translate.finder import Finder

LONGEST = 48  # instructions in a block
LONGEST_INSTRUCTION = 15
LENGTHS = (3, 4, 2, 5, 7, 8, 1, 6)  # of instructions, the frequent ones first

_JUMP = b"\xe9\0\0\0\0"
STI = b"\xfb"
LEAVE_SIZE = len(leave_if_pending(0, "sti"))
_NOTHING = tuple(
    bytes.fromhex(code)
    for code in ("", "90", "6690", "0f1f00", "0f1f4000", "0f1f440000", "660f1f440000", "0f1f8000000000")
)
"""NOPs of 0 to 7 bytes (Intel SDM vol. 2B, NOP)."""
_BEFORE_ONE = (0, 0, 0, 0, 0, 3, 2, 1)
_BEFORE_TWO = (3, 2, 1, 0, 0, 6, 5, 4)
"""Bytes before an instruction with a distance, or with two of which the second lies 5 bytes behind the first,
by the place modulo 8 that the first would have without: so that none lies across 8 aligned bytes."""

ACTIONS: list[Action | None] = list(emit_integer.ACTIONS)
for _table in (emit_vector.ACTIONS, emit_system.ACTIONS):
    for _opcode, _action in _table.items():
        ACTIONS[_opcode] = _action
ACTIONS[0x8B] = emit_chase.load
PLACED = frozenset(
    (0x9D, 0x1AE, *range(0xE4, 0xE8), *range(0xEC, 0xF0), *range(0xA4, 0xA8), *range(0xAA, 0xB0))
)
"""Opcodes whose code says where the instruction is, and so isn't remembered."""


def page_check(page: CodePage) -> bytes:
    """Whether ``page`` is still what is mapped there: HEAD_SIZE bytes of numbers, CHECK_SIZE of code."""
    slot = PAGE_CHECKS + 4 * (page.gva >> 12 & 0xFFFF)
    return (
        pack("<QI", page.gva, page.id) +
        b"\x8b\x8c\x24" + pack("<i", slot)  # mov ecx, [rsp + ...]
        + b"\x8d\x89" + pack("<i", -page.id)  # lea ecx, [rcx - id]
        + b"\x67\xe3\x04" + call_slot(SLOT["page_check"])  # jecxz
    )  # fmt: skip


def _leave(rip: int) -> bytes:
    """The interpreter does the instruction at ``rip``."""
    return store_number(SLOT["rip"], rip) + call_slot(SLOT["interpret"])


def translate(blocks: Blocks, page: CodePage, offset: int, finder: Finder) -> Block:
    """Translate the block at ``offset`` of ``page`` and add it to ``blocks``."""
    blocks.watch(page)
    form = blocks.form(page.mode)
    emitter, memory, wide = form.emitter, form.memory, bool(page.mode & WIDE)
    segmented = page.mode & SEGMENTED
    second_width = bool(page.mode & CODE_16) if segmented else wide
    take_apart = decode_segmented if segmented else decode
    actions, jump_actions = (
        (emit_segmented.ACTIONS, control_segmented.JUMPS) if segmented else (ACTIONS, JUMPS)
    )
    code = bytes(blocks.source(page.gpa)[offset : offset + LONGEST * LONGEST_INSTRUCTION])
    mask = M64 if wide else 0xFFFF_FFFF
    gva, known = (page.gva - page.base + offset & mask) - offset, page.blocks  # the page as RIP has it
    top = 0xFFFF if page.mode & SHORT else mask
    limit = top + 1 - (gva + offset) if page.mode & SHORT else 2 * PAGE  # bytes to the segment's end
    room = min(PAGE - offset, limit)
    block = Block(page, offset, blocks.base + blocks.used + HEAD_SIZE + CHECK_SIZE)
    parts = [page_check(page)]
    jumps: list[tuple[int, int]] = []
    hosts: list[int] = []
    guests: list[int] = []
    add = parts.append
    size = at = count = 0
    ends = False
    shadow = False  # STI went before: interrupts aren't taken yet
    while not ends:
        plain = True
        hosts.append(size)
        guests.append(at)
        # No instruction's bytes are the beginning of another's: a known one is found by trying lengths.
        piece = None
        for length in LENGTHS:
            key = code[at : at + length]
            piece = memory.get(key)
            if piece is not None and at + len(key) <= limit:
                at += len(key)
                break
        else:
            rip = gva + offset + at
            try:
                length, opcode, prefixes, rex, modrm, immediate = take_apart(code, at, second_width)
                if at + length > limit:
                    raise Undecoded  # #GP
            except Undecoded:
                piece, length, ends = _leave(rip & mask), 1, True
            except IndexError:  # it goes on in the next page
                if at:  # in a block of its own
                    break
                if block.spill is None and (second := finder.second(page)) is not None:
                    blocks.watch(second)
                    block.spill = second
                    code += bytes(blocks.source(second.gpa)[:LONGEST_INSTRUCTION])
                    piece = b"\xeb" + bytes((HEAD_SIZE,)) + page_check(second)
                    add(piece)
                    size += len(piece)
                    continue
                piece, length, ends = _leave(rip & mask), 1, True
            else:
                key = code[at : at + length]
                p = Parts(key, opcode, prefixes, rex, modrm - at, immediate - at, rip + length)
                jump = jump_actions.get(opcode)
                try:
                    if jump is not None:
                        plain = False
                        piece, targets, ends = jump(emitter, p, mask)
                        if targets:
                            start = size + LEAVE_SIZE if shadow else size
                            before = _BEFORE_ONE if len(targets) == 1 else _BEFORE_TWO
                            distance = before[start + targets[0][0] & 7]
                            piece = _NOTHING[distance] + piece
                            jumps += [(start + distance + place, target) for place, target in targets]
                    else:
                        action = actions[opcode]
                        if action is None or (
                            not form.fpu and opcode in emit_vector.ACTIONS and opcode != 0x1AE
                        ):
                            raise NotTranslated
                        piece = action(emitter, p)
                        # Where FS or GS isn't open, 32-bit code leaves, and says where.
                        placed = opcode in PLACED or (not wide and prefixes & (FS | GS))
                        if not placed and not (modrm < immediate and p.rip_relative):
                            memory[key] = piece
                except NotTranslated:
                    piece, ends = _leave(rip & mask), True
            at += length
        # What waits at an STI is taken behind the next instruction: in code where that runs straight on,
        # else by Python, which does that instruction.
        if shadow and plain and not ends:
            piece += leave_if_pending(gva + offset + at & mask, "leave_for_attention_at")
        elif shadow:
            piece = leave_if_pending(gva + offset + guests[-1] & mask, "sti") + piece
        shadow = key == STI
        count += 1
        add(piece)
        size += len(piece)
        if not ends and (count >= LONGEST or at >= room or offset + at in known or block.spill is not None):
            break
    if not ends:
        if shadow:
            piece = leave_if_pending(gva + offset + at & mask, "sti")
            add(piece)
            size += len(piece)
        after = gva + offset + at & mask
        if gva <= after <= top:
            piece = _NOTHING[_BEFORE_ONE[size + 1 & 7]] + _JUMP
            jumps.append((size + len(piece) - 4, after))
        else:  # past the end of all addresses is back, where something may wait
            piece = store_number(SLOT["rip"], after) + call_slot(SLOT["leave_for_attention_at"])
        add(piece)
        size += len(piece)
    block.length = at
    blocks.translated += count
    block.hosts, block.guests = array("H", hosts), array("H", guests)
    known[offset] = block
    _finish(blocks, block, jumps, parts, size)
    return block


def _finish(
    blocks: Blocks, block: Block, jumps: list[tuple[int, int]], parts: list[bytes], size: int
) -> None:
    """Let direct jumps go to their target where it is known, else to their stubs."""
    page, body = block.page, block.body
    first = block.start - block.offset
    distances = []
    if jumps:
        block.places = array("H", [place for place, _ in jumps])
        block.targets = array("Q", [target for _, target in jumps])
    for place, target in jumps:
        known = page.blocks.get(target - first) if first <= target < first + PAGE else None
        distances.append((place, (size if known is None else known.body - body) - place - 4))
        parts.append(STUB)
        size += STUB_SIZE
    code = bytearray().join(parts)
    for place, distance in distances:
        at = HEAD_SIZE + CHECK_SIZE + place
        code[at : at + 4] = pack("<i", distance)
    block.end = body + size
    blocks.add(block, code)
