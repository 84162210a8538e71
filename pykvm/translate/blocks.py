"""Blocks of translated code, the guest pages that they come from, their links and their end.

A block is a run of instructions up to a jump, within one page. Blocks belong to a code page: a mode, a
guest-virtual page and the guest-physical page that was mapped there. The same bytes mapped elsewhere, or
run in another mode, are another code page.

A block begins with a page check: it compares the id of its code page with the one that was seen last at
this virtual page. Jumps within a page skip it; all others pass it, as the page tables may have changed.
Direct jumps are patched to their target when they are first taken.

A page of RAM with code is flagged, so that the TLB allows no write to it: writes come to Python, which ends
the blocks that they hit. The first bytes of such a block become a call to ``stale``; when its source is
translated again, a jump to the new block.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from struct import pack

from pykvm.translate import emit, emit_system, emit_vector
from pykvm.translate.context import HOST_REGISTER, PAGE_CHECKS, SCRATCH, SLOT
from pykvm.translate.decode import ADDRESS, LOCK, OPERAND, Undecoded, decode
from pykvm.translate.emit import HOST_ADDRESS, STACK_TOP, Emitter, NotTranslated, Parts
from pykvm.translate.encode import call_slot, load_slot, move_number, register_register, store_number, store_slot
from pykvm.translate.lookup import CHECK_ATTENTION, Lookup
from pykvm.translate.memory import executable
from pykvm.translate.operands import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.translate.emit import Action

M64 = (1 << 64) - 1
PAGE = 0x1000
LONGEST = 48  # instructions in a block
CODE_SIZE = 64 << 20

# A mode is what code depends on beyond its bytes.
USER, WIDE, FPU, TIME = 1, 2, 4, 8
KERNEL_64, USER_64 = WIDE | FPU | TIME, USER | WIDE | FPU | TIME

CHECK_SIZE = 20
GRANULE = 64

ACTIONS: list[Action | None] = list(emit.ACTIONS)
for _table in (emit_vector.ACTIONS, emit_system.ACTIONS):
    for _opcode, _action in _table.items():
        ACTIONS[_opcode] = _action


class Block:
    """Translated code at host address ``body``, of ``length`` bytes at ``offset`` of ``page``.

    ``hosts`` and ``guests`` say where each instruction starts, there from ``body`` and here from ``offset``.
    """

    __slots__ = ("body", "dead", "end", "guests", "hosts", "length", "offset", "page")

    def __init__(self, page: CodePage, offset: int, body: int) -> None:
        self.page = page
        self.offset = offset
        self.body = body
        self.end = body
        self.length = 0
        self.hosts = array("H")
        self.guests = array("H")
        self.dead = False

    @property
    def entry(self) -> int:
        return self.body - CHECK_SIZE

    def rip(self, host: int) -> int:
        """The instruction that emitted code before ``host``, a return address, belongs to."""
        at = bisect_right(self.hosts, host - self.body - 1) - 1
        return self.page.gva + self.offset + (self.guests[at] if at >= 0 else 0) & M64


class CodePage:
    """A page of guest code: where it is mapped, where it lies, and its blocks by their offset."""

    __slots__ = ("blocks", "dead", "gpa", "gva", "id", "mode", "spilling")

    def __init__(self, number: int, mode: int, gva: int, gpa: int) -> None:
        self.id = number
        self.mode = mode
        self.gva = gva
        self.gpa = gpa
        self.blocks: dict[int, Block] = {}
        self.dead: dict[int, list[Block]] = {}
        self.spilling: set[Block] = set()
        """Blocks of the page before whose only instruction ends in this one."""


class Form:
    """What is remembered for one mode."""

    def __init__(self, lookup: Lookup, mode: int) -> None:
        self.emitter = Emitter(lookup, mode & USER, bool(mode & WIDE))
        self.emitter.may_read_time = bool(mode & TIME) and lookup.bmi2
        self.memory: dict[bytes, bytes] = {}
        self.fpu = bool(mode & FPU)


class Link:
    """A direct jump that isn't patched yet: where its distance lies, from which page, and where it goes."""

    __slots__ = ("page", "patch", "target")

    def __init__(self, patch: int, target: int, page: CodePage) -> None:
        self.patch = patch
        self.target = target
        self.page = page


class Blocks:
    """All translated code. ``second`` finds the code page behind a page, ``source`` a page's bytes."""

    def __init__(
        self,
        lookup: Lookup,
        source: Callable[[int], memoryview],
        second: Callable[[CodePage], CodePage | None],
        flag: Callable[[int, bool], None],
        size: int = CODE_SIZE,
    ) -> None:
        self.mapping = executable(size)
        self.base = self.mapping.address
        self.lookup = lookup
        self._view = self.mapping.view
        self._source = source
        self._second = second
        self._flag = flag
        self._start = 0
        self.used = 0
        self.generation = 0
        self.pages: dict[tuple[int, int, int], CodePage] = {}
        self.by_id: list[CodePage | None] = [None]
        self.at_gpa: dict[int, list[CodePage]] = {}
        self._granules: dict[int, int] = {}
        """Of each page with code, a bit for each GRANULE bytes that blocks may come from."""
        self.links: dict[int, Link] = {}
        self.stale: dict[int, Block] = {}
        self._starts: list[int] = []
        self._blocks: list[Block] = []
        self._forms: dict[int, Form] = {}
        self.translated = 0  # instructions

    def reserve(self, code: bytes) -> int:
        """Put the runtime in front; what comes after it is thrown away when memory is full."""
        at = self.used
        self._view[at : at + len(code)] = code
        self.used = self._start = at + len(code) + 63 & ~63
        return self.base + at

    @property
    def full(self) -> bool:
        return self.used > self.mapping.size - 0x10000

    def reset(self) -> None:
        """Throw all blocks away. The caller clears page checks and jump caches."""
        for gpa in self.at_gpa:
            self._flag(gpa, False)
        self.pages.clear()
        self.by_id = [None] * len(self.by_id)  # ids are not used again
        self.at_gpa.clear()
        self._granules.clear()
        self.links.clear()
        self.stale.clear()
        self._starts.clear()
        self._blocks.clear()
        self.used = self._start
        self.generation += 1

    def close(self) -> None:
        self.mapping.close()

    # Pages

    def page(self, mode: int, gva: int, gpa: int) -> CodePage:
        """The code page of ``gva`` in ``mode``, mapped to ``gpa``; both are a page's first byte."""
        key = (mode, gva, gpa)
        page = self.pages.get(key)
        if page is None:
            page = self.pages[key] = CodePage(len(self.by_id), mode, gva, gpa)
            self.by_id.append(page)
        return page

    def _has_code(self, page: CodePage, first: int, last: int) -> None:
        """Bytes ``first`` to ``last`` of the page have become a block's source."""
        pages = self.at_gpa.get(page.gpa)
        if pages is None:
            pages = self.at_gpa[page.gpa] = []
            self._granules[page.gpa] = 0
            self._flag(page.gpa, True)
        first, last = first // GRANULE, min(last, PAGE - 1) // GRANULE
        self._granules[page.gpa] |= (2 << last) - (1 << first)
        if page not in pages:
            pages.append(page)

    def written(self, gpa: int, size: int) -> bool:
        """End the blocks whose source lies in these bytes of one page; whether there were any."""
        pages = self.at_gpa.get(gpa & -PAGE)
        if not pages:
            return False
        first = gpa & PAGE - 1
        last = first + size
        if size <= GRANULE and not self._granules[gpa & -PAGE] >> first // GRANULE & 3:
            return False
        hit = False
        left = False
        for page in pages:
            for offset, block in list(page.blocks.items()):
                if offset < last and first < offset + block.length:
                    self._kill(block)
                    hit = True
            for block in list(page.spilling):
                if first < block.offset + block.length - PAGE:
                    self._kill(block)
                    page.spilling.discard(block)
                    hit = True
            left = left or bool(page.blocks) or bool(page.spilling)
        if not left:
            del self.at_gpa[gpa & -PAGE]
            del self._granules[gpa & -PAGE]
            self._flag(gpa & -PAGE, False)
        return hit

    def forget(self, gpa: int) -> None:
        """End all blocks of a page of RAM, so that it can be written freely."""
        self.written(gpa & -PAGE, PAGE)

    def _kill(self, block: Block) -> None:
        if block.dead:
            return
        block.dead = True
        block.page.blocks.pop(block.offset, None)
        block.page.dead.setdefault(block.offset, []).append(block)
        at = block.body - self.base
        self._view[at : at + 4] = call_slot(SLOT["stale"])
        self.stale[block.body + 4] = block

    # From host to guest

    def block_at(self, host: int) -> Block | None:
        """The block in whose code ``host``, a return address, lies."""
        at = bisect_right(self._starts, host - 1) - 1
        if at < 0:
            return None
        block = self._blocks[at]
        return block if host <= block.end else None

    # Translation

    def block(self, page: CodePage, offset: int) -> Block:
        """The block at ``offset`` of ``page``, translated now if need be."""
        block = page.blocks.get(offset)
        if block is None:
            block = self._translate(page, offset)
            for old in page.dead.pop(offset, ()):
                at = old.body - self.base
                self._view[at : at + 5] = b"\xe9" + pack("<i", block.body - old.body - 5)
                self.stale.pop(old.body + 4, None)
        return block

    def form(self, mode: int) -> Form:
        form = self._forms.get(mode)
        if form is None:
            form = self._forms[mode] = Form(self.lookup, mode)
        return form

    def _check(self, page: CodePage) -> bytes:
        """Whether ``page`` is still what is mapped there: 20 bytes, CHECK_SIZE."""
        slot = PAGE_CHECKS + 4 * (page.gva >> 12 & 0xFFFF)
        return (
            b"\x8b\x8c\x24" + pack("<i", slot)  # mov ecx, [rsp + ...]
            + b"\x8d\x89" + pack("<i", -page.id)  # lea ecx, [rcx - id]
            + b"\x67\xe3\x04" + call_slot(SLOT["page_check"])  # jecxz
        )  # fmt: skip

    def _translate(self, page: CodePage, offset: int) -> Block:
        form = self.form(page.mode)
        emitter, memory, wide = form.emitter, form.memory, bool(page.mode & WIDE)
        gva = page.gva
        code = bytes(self._source(page.gpa)[offset : offset + 1024])
        end_of_page = PAGE - offset
        mask = M64 if wide else 0xFFFF_FFFF
        host = self.base + self.used
        block = Block(page, offset, host + CHECK_SIZE)
        parts = [self._check(page)]
        size = 0
        jumps: list[tuple[int, int]] = []
        add = parts.append
        hosts, guests = block.hosts, block.guests
        at = count = 0
        known = page.blocks
        spill: CodePage | None = None
        while True:
            rip = gva + offset + at
            hosts.append(size)
            guests.append(at)
            try:
                length, opcode, prefixes, rex, modrm, immediate = decode(code, at, wide)
            except Undecoded:
                piece = self._leave(rip & mask)
                add(piece)
                size += len(piece)
                at += 1
                break
            except IndexError:  # it goes on in the next page
                if at:  # in a block of its own
                    add(b"\xe9\0\0\0\0")
                    size += 5
                    jumps.append((size - 4, rip & mask))
                    break
                if spill is None:
                    spill = self._second(page)
                    if spill is not None:
                        code += bytes(self._source(spill.gpa)[:15])
                        piece = self._check(spill)
                        add(piece)
                        size += len(piece)
                        continue
                piece = self._leave(rip & mask)
                add(piece)
                size += len(piece)
                at += 1
                break
            count += 1
            jump = JUMPS.get(opcode)
            if jump is not None:
                p = Parts(code[at : at + length], opcode, prefixes, rex, modrm - at, immediate - at, rip + length)
                try:
                    piece, targets, ends = jump(self, emitter, p, mask)
                except NotTranslated:
                    piece, targets, ends = self._leave(rip & mask), (), True
                for place, target in targets:
                    jumps.append((size + place, target))
                add(piece)
                size += len(piece)
                at += length
                if ends:
                    break
            else:
                key = code[at : at + length]
                piece_or_none = memory.get(key)
                if piece_or_none is None:
                    action = ACTIONS[opcode]
                    try:
                        if action is None or (not form.fpu and opcode in emit_vector.ACTIONS):
                            raise NotTranslated
                        p = Parts(key, opcode, prefixes, rex, modrm - at, immediate - at, rip + length)
                        piece = action(emitter, p)
                        if opcode not in PLACED and not (modrm < immediate and p.rip_relative):
                            memory[key] = piece
                    except NotTranslated:
                        piece = self._leave(rip & mask)
                        add(piece)
                        size += len(piece)
                        at += length
                        break
                else:
                    piece = piece_or_none
                add(piece)
                size += len(piece)
                at += length
            if count >= LONGEST or at >= end_of_page or offset + at in known or spill is not None:
                add(b"\xe9\0\0\0\0")
                size += 5
                jumps.append((size - 4, gva + offset + at & mask))
                break
        block.length = at
        self.translated += count
        self._finish(block, parts, size, jumps, spill)
        return block

    def _finish(
        self, block: Block, parts: list[bytes], size: int, jumps: list[tuple[int, int]], spill: CodePage | None
    ) -> None:
        page, body = block.page, block.body
        page.blocks[block.offset] = block
        fixes = []
        for place, target in jumps:
            inside = target & -PAGE == page.gva
            known = page.blocks.get(target & PAGE - 1) if inside else None
            if known is not None:
                fixes.append((place, known.body - (body + place + 4)))
            else:
                fixes.append((place, size - (place + 4)))
                piece = call_slot(SLOT["chain"])
                parts.append(piece)
                size += len(piece)
                self.links[body + size] = Link(body + place, target, page)
        code = bytearray().join(parts)
        for place, distance in fixes:
            code[CHECK_SIZE + place : CHECK_SIZE + place + 4] = pack("<i", distance)
        start = body - CHECK_SIZE - self.base
        self._view[start : start + len(code)] = code
        block.end = body + size
        self.used = start + len(code) + 15 & ~15
        self._starts.append(body)
        self._blocks.append(block)
        self._has_code(page, block.offset, block.offset + block.length)
        if spill is not None:
            spill.spilling.add(block)
            self._has_code(spill, 0, 15)

    def _leave(self, rip: int) -> bytes:
        """The interpreter does the instruction at ``rip``."""
        return store_number(SLOT["rip"], rip) + call_slot(SLOT["interpret"])

    def patch(self, link: Link, target: int) -> None:
        """Let a direct jump go to ``target`` from now on."""
        at = link.patch - self.base
        self._view[at : at + 4] = pack("<i", target - link.patch - 4)


# Jumps: (code, (place of a 32-bit distance, target)..., whether the block ends)

_Jump = tuple[bytes, tuple[tuple[int, int], ...], bool]


def _target(p: Parts, size: int, mask: int) -> tuple[int, bool]:
    distance = p.signed(size)
    return p.after + distance & mask, distance < 0


def _conditional(blocks: Blocks, e: Emitter, p: Parts, mask: int) -> _Jump:
    if p.prefixes & (LOCK | OPERAND):
        raise NotTranslated
    target, back = _target(p, 1 if p.opcode < 0x100 else 4, mask)
    head = CHECK_ATTENTION if back else b""
    code = head + bytes((0x0F, 0x80 | p.opcode & 15)) + b"\0\0\0\0"
    if back:
        code += b"\xe9\0\0\0\0"
        return code, ((len(code) - 9, target), (len(code) - 4, p.after & mask)), True
    return code, ((len(code) - 4, target),), False


def _jump(blocks: Blocks, e: Emitter, p: Parts, mask: int) -> _Jump:
    if p.prefixes & (LOCK | OPERAND):
        raise NotTranslated
    target, back = _target(p, 1 if p.opcode == 0xEB else 4, mask)
    code = (CHECK_ATTENTION if back else b"") + b"\xe9\0\0\0\0"
    return code, ((len(code) - 4, target),), True


def _call(blocks: Blocks, e: Emitter, p: Parts, mask: int) -> _Jump:
    if p.prefixes & (LOCK | OPERAND):
        raise NotTranslated
    target, back = _target(p, 4, mask)
    code = (CHECK_ATTENTION if back else b"") + e.push_value(p.after & mask) + b"\xe9\0\0\0\0"
    return code, ((len(code) - 4, target),), True


def _return(blocks: Blocks, e: Emitter, p: Parts, mask: int) -> _Jump:
    if p.prefixes & (LOCK | OPERAND):
        raise NotTranslated
    more = int.from_bytes(p.code[p.immediate : p.immediate + 2], "little") if p.opcode == 0xC2 else 0
    if e.wide:
        code = STACK_TOP + e.access(8, READ) + b"\x4e\x8b\x0c\x09\x4d\x8d\x9b" + pack("<i", 8 + more)
    else:
        code = STACK_TOP + e.access(4, READ) + b"\x46\x8b\x0c\x09\x45\x8d\x9b" + pack("<i", 4 + more)
    return code + e.jump(), (), True


def _group5(blocks: Blocks, e: Emitter, p: Parts, mask: int) -> _Jump:
    """FF /2 and /4, the indirect call and jump; the others are no jumps or far ones."""
    digit = p.digit
    if digit in (0, 1, 6):
        return e.group5(p), (), False
    if digit not in (2, 4) or p.prefixes & (LOCK | OPERAND):
        raise NotTranslated
    if p.value >= 0xC0:
        host = HOST_REGISTER[p.rm]
        code = e.push_value(p.after & mask) if digit == 2 else b""
        if digit == 2 and p.rm == 4:
            raise NotTranslated
        if host is None:
            code += load_slot(SCRATCH, SLOT[f"r{p.rm}"])
        else:
            code += register_register(0x8B, e.rexable, SCRATCH, host)
    else:
        code = e.address(p) + e.access(8 if e.wide else 4, READ) + (b"\x4e" if e.wide else b"\x46") + b"\x8b\x0c\x09"
        if digit == 2:
            code += store_slot(SCRATCH, SLOT["temporary"]) + e.push_value(p.after & mask)
            code += load_slot(SCRATCH, SLOT["temporary"])
    return code + e.jump(), (), True


def _loop(blocks: Blocks, e: Emitter, p: Parts, mask: int) -> _Jump:
    """LOOP and JRCXZ; LOOPE and LOOPNE are the interpreter's."""
    if p.prefixes & (LOCK | OPERAND) or p.opcode < 0xE2:
        raise NotTranslated
    target, _ = _target(p, 1, mask)
    narrow = not e.wide or p.prefixes & ADDRESS
    code = CHECK_ATTENTION
    if p.opcode == 0xE2:
        code += b"\x45\x8d\x52\xff" if narrow else b"\x4d\x8d\x52\xff"  # lea r10, [r10 - 1]
    code += b"\x44\x89\xd1" if narrow else b"\x4c\x89\xd1"  # mov rcx, r10
    code += b"\xe3\x05\xe9\0\0\0\0\xe9\0\0\0\0"  # jrcxz: over the first jump
    zero, other = (p.after & mask, target) if p.opcode == 0xE2 else (target, p.after & mask)
    return code, ((len(code) - 9, other), (len(code) - 4, zero)), True


def _routine(name: str) -> Callable[[Blocks, Emitter, Parts, int], _Jump]:
    def emit_routine(blocks: Blocks, e: Emitter, p: Parts, mask: int) -> _Jump:
        if not e.wide or p.prefixes & (LOCK | OPERAND):
            raise NotTranslated
        if name == "syscall":
            if not e.user:
                raise NotTranslated
            code = store_number(SLOT["rip"], p.after - len(p.code) & M64) + move_number(SCRATCH, p.after & M64)
        else:
            if e.user or not p.rex & 8:
                raise NotTranslated
            code = store_number(SLOT["rip"], p.after - len(p.code) & M64)
        return code + call_slot(SLOT[f"do_{name}"]), (), True

    return emit_routine


def _move_control(blocks: Blocks, e: Emitter, p: Parts, mask: int) -> _Jump:
    """MOV CR3, r64: code goes on by way of a page check."""
    if e.user or not e.wide or p.digit != 3 or p.rex & 4 or p.prefixes:
        raise NotTranslated
    host = HOST_REGISTER[p.rm]
    code = store_number(SLOT["rip"], p.after - len(p.code) & M64)
    code += load_slot(SCRATCH, SLOT[f"r{p.rm}"]) if host is None else register_register(0x8B, 8, SCRATCH, host)
    code += call_slot(SLOT["do_cr3_write"])
    return _go_on(e, code, p)


def _invalidate(blocks: Blocks, e: Emitter, p: Parts, mask: int) -> _Jump:
    """INVLPG; the rest of 0F 01 is emit_system's."""
    if p.digit == 7 and p.value < 0xC0 and not e.user and e.wide and not p.prefixes & LOCK:
        code = e.address(p) + store_number(SLOT["rip"], p.after - len(p.code) & M64)
        return _go_on(e, code + call_slot(SLOT["do_invlpg"]), p)
    return emit_system.group_0f01(e, p), (), False


def _go_on(e: Emitter, code: bytes, p: Parts) -> _Jump:
    """To the next instruction, but through the jump cache, and so by a page check."""
    return code + move_number(SCRATCH, p.after & M64) + e.jump(), (), True


JUMPS: dict[int, Callable[[Blocks, Emitter, Parts, int], _Jump]] = {
    **dict.fromkeys(range(0x70, 0x80), _conditional),
    **dict.fromkeys(range(0x180, 0x190), _conditional),
    **{0xEB: _jump, 0xE9: _jump, 0xE8: _call, 0xC3: _return, 0xC2: _return, 0xFF: _group5},
    **{0xE2: _loop, 0xE3: _loop},
    **{0x105: _routine("syscall"), 0x107: _routine("sysret"), 0xCF: _routine("iret")},
    **{0x122: _move_control, 0x101: _invalidate},
}
PLACED = frozenset((0xFB, 0x9D, *range(0xE4, 0xE8), *range(0xEC, 0xF0), *range(0xA4, 0xA8), *range(0xAA, 0xB0)))
"""Opcodes whose code says where the instruction is, and so isn't remembered."""
