"""What emitted code returns to Python for, a method each.

A method does what is needed and says where in emitted code to go on: 0 means that RIP says where, after a
look at what waits.
"""

from __future__ import annotations

from pykvm.devices.bus import PORTS
from pykvm.errors import InternalError
from pykvm.memory.layout import FOUR_GIB
from pykvm.translate import context
from pykvm.translate.bounce import FSW_ES
from pykvm.translate.codepage import KERNEL_64, M64, PAGE, SEGMENTED, WIDE
from pykvm.translate.context import SLOT
from pykvm.translate.decode import decode
from pykvm.translate.deviceaccess import DeviceAccesses
from pykvm.translate.ports import KEPT
from pykvm.x86.exceptions import GP, Fault
from pykvm.x86.paging import WRITE, canonical

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.devices.bus import PortBus
    from pykvm.translate.codepage import Block
    from pykvm.translate.core import Core

W_ATTENTION = SLOT["attention"] // 8
W_RETURN = SLOT["return"] // 8
W_ARGUMENT = SLOT["argument"] // 8
W_SIZE = SLOT["size"] // 8
W_RIP = SLOT["rip"] // 8
W_SCRATCH = SLOT["scratch"] // 8
W_MODE = SLOT["mode"] // 8
W_SIGNAL = SLOT["signal"] // 8
W_SIGNAL_RIP = SLOT["signal_rip"] // 8
W_BLOCK_RETURN = SLOT["block_return"] // 8
W_RAX = SLOT["rax"] // 8
W_RSP = SLOT["rsp"] // 8
W_RCX = SLOT["rcx"] // 8
W_ELEMENT = SLOT["element"] // 8
W_PORT = SLOT["port"] // 8
W_LATE = SLOT["late"] // 8
RET = 0xC3
BESIDE = 2  # writes to a page with code that hit none, after which it is let go
MASKS = {size: (1 << 8 * size) - 1 for size in (1, 2, 4)}


class Exits:
    """``handlers`` are the methods in the order of context.REASONS."""

    def __init__(self, core: Core, ports: PortBus) -> None:
        self.core = core
        self.finder = core.finder
        self._ports = ports
        self._put_off = False
        self._accesses = DeviceAccesses(core)
        self._beside: dict[int, int] = {}
        """Of pages with code, how many writes to them have hit none since the last was let go."""
        self.handlers = (
            *(self._on_miss, self._on_interpret, self._on_chain, self._on_jump, self._on_attention),
            *(self._on_page_check, self._on_stale, self._on_sti, self._on_signal, self._on_port_out),
            *(self._on_port_in, self._on_event, self._on_bounce, self._on_edge, self._on_limit),
        )
        ports.on_change.append(self.find_latches)
        self.find_latches()

    def close(self) -> None:
        self._ports.on_change.remove(self.find_latches)

    def _on_miss(self) -> int:
        words = self.core.words
        at, gva, argument = words[W_RETURN], words[W_SCRATCH], words[W_ARGUMENT]
        user, write = argument & 1, argument >> 1
        size = words[W_SIZE] + 1
        rip = self.finder.rip_of(at)
        # Nothing is done yet: what waits may come first, but once only, or this would never be done.
        self._put_off = bool(words[W_ATTENTION]) and not self._put_off and not self.finder.follows_sti(at)
        if self._put_off:
            words[W_RIP] = rip
            return 0
        if words[W_MODE] & WIDE and not canonical(gva, self.core.cpu.sregs["cr4"]):
            words[W_RIP] = rip
            self.core.cpu.refresh()
            self._in_python(at, rip, gva)  # which knows whether this is #GP or #SS
            return self.finder.go()
        in_block = at >= self.core.runtime_end
        element = size if in_block else 1 << words[W_ELEMENT]
        if not words[W_MODE] & WIDE and gva + element > FOUR_GIB:
            words[W_RIP] = rip
            self.core.step()  # which knows the limit of the segment
            return self.finder.go()
        segmented = words[W_MODE] & SEGMENTED
        access = None if segmented else self._accesses.find(at)
        try:
            if access is not None and (target := self._accesses.carry_out(access, gva, user)) >= 0:
                return target
            if (gva & PAGE - 1) + size <= PAGE:
                if self.core.mmu.fill(gva, user, write):
                    return at if in_block else self.core.crossings.again(at)
                if write and self._write_beside_code(at, gva, user, size):
                    return at
            elif in_block and not segmented and (code := self.core.crossings.code(at)):
                return code
        except Fault as fault:
            words[W_RIP] = rip
            crosses = not in_block and self.core.crossings.holds(words[W_BLOCK_RETURN])
            first = (size < 16 or not gva & 15) and not self.core.raw[SLOT["fpu"] + 2] & FSW_ES
            if first and not crosses:
                self.core.raise_fault(fault)
                return self.finder.go()
        words[W_RIP] = rip  # what else the instruction raises may come before the page fault
        if segmented:
            self.core.step()
            return self.finder.go()
        self.core.cpu.refresh()
        self._accesses.note(at, gva)
        self._in_python(at, rip, gva)
        return self.finder.go()

    def _write_beside_code(self, at: int, gva: int, user: int, size: int) -> bool:
        """Let a write to a page with code through, unless it hits the block that writes.

        After some of them that hit no code the page is let go, unless it has the code that writes.
        """
        words, shared = self.core.words, self.core.shared
        gpa = self.core.mmu.find(gva, WRITE, bool(user)).gpa
        if shared.number(gpa) < 0:
            return False
        if at < self.core.runtime_end:  # REP MOVS and REP STOS, which go on to the page's end
            size = min(words[W_RCX] << words[W_ELEMENT], PAGE - (gva & PAGE - 1))
            at = words[W_BLOCK_RETURN]
        block = self.core.blocks.block_at(at)
        if block is None:  # a crossing: the byte is not written yet
            return False
        self.core.blocks.written(gpa, size)
        if block.dead:
            return False
        page = gpa & -PAGE
        count = self._beside[page] = self._beside.get(page, 0) + 1
        if count >= BESIDE and shared.flags[shared.number(gpa)]:
            del self._beside[page]
            if page not in (block.page.gpa, block.spill.gpa if block.spill is not None else -1):
                shared.let_go(page, self.core)
        self.core.mmu.fill(gva, user, 0)
        self.core.keep_lock()
        return True

    def _in_python(self, at: int, rip: int, gva: int) -> None:
        """Carry out the instruction that missed at ``at``: through the bounce buffer, or interpreted."""
        core = self.core
        try:
            if at < core.runtime_end or not core.bounce.carry_out(
                core, core.fetch(rip), core.bounce_mode(), gva
            ):
                core.step()
        except Fault as fault:
            core.words[W_RIP] = rip
            core.raise_fault(fault)

    def _on_interpret(self) -> int:
        self.core.step()
        return self.finder.go()

    def _on_edge(self) -> int:
        """One element; emitted code does those behind it."""
        cpu = self.core.cpu
        before, cpu.iterations = cpu.iterations, 1
        self.core.step()
        cpu.iterations = before
        return self.finder.go()

    def _on_limit(self) -> int:
        """Nothing is done yet; the interpreter knows what a segment allows."""
        self.core.words[W_RIP] = self.finder.rip_of(self.core.words[W_RETURN])
        self.core.step()
        return self.finder.go()

    def _on_chain(self) -> int:
        words, blocks = self.core.words, self.core.blocks
        stub = words[W_RETURN]
        block = blocks.block_at(stub)
        if block is None:
            raise InternalError("a jump of no block", where="translate")
        place, target = block.jump_of(stub)
        words[W_RIP] = target
        if words[W_ATTENTION]:  # code that runs straight on comes by nothing else that looks
            return 0
        generation = blocks.generation
        found = self.finder.locate(target)
        if found is None:
            return 0
        if generation == blocks.generation and words[W_RIP] == target and not block.dead:
            blocks.patch(block, place, found.body if found.page is block.page else found.entry)
        return found.entry

    def _on_jump(self) -> int:
        words = self.core.words
        rip = words[W_SCRATCH]
        if words[W_MODE] & SEGMENTED:
            rip &= 0xFFFF_FFFF  # above it is the mode
        words[W_RIP] = rip
        if words[W_MODE] & WIDE and not canonical(rip, self.core.cpu.sregs["cr4"]):
            self._take_back_jump()
            self.core.raise_fault(Fault(GP, 0))
            return self.finder.go()
        if words[W_ATTENTION]:
            return 0
        found = self.finder.locate(rip)
        if found is None or words[W_RIP] != rip:
            return 0 if found is None else found.entry
        self.finder.remember(rip, found)
        return found.entry

    def _take_back_jump(self) -> None:
        """RIP and RSP as they were before a jump, call or return to an address that isn't canonical."""
        words = self.core.words
        if words[W_RETURN] < self.core.runtime_end:
            return
        words[W_RIP] = self.finder.rip_of(words[W_RETURN])
        code = self.core.fetch(words[W_RIP])
        length, opcode, _, _, modrm, _ = decode(code, 0, True)
        if opcode == 0xFF and code[modrm] >> 3 & 7 == 2:
            words[W_RSP] += 8
        elif opcode == 0xC3:
            words[W_RSP] -= 8
        elif opcode == 0xC2:
            words[W_RSP] -= 8 + int.from_bytes(code[length - 2 : length], "little")

    def _on_attention(self) -> int:
        at = self.core.words[W_RETURN]
        if at:
            self.core.words[W_RIP] = self.finder.rip_of(at)
        return 0

    def _on_page_check(self) -> int:
        words = self.core.words
        at = words[W_RETURN]
        block = self.core.blocks.block_at(at + 1)
        if block is None:
            raise InternalError("a page check of no block", where="translate")
        rip = block.start & M64
        words[W_RIP] = rip
        if at != block.body:  # of the page in which the instruction ends
            return self._check_second(block, at)
        generation = self.core.blocks.generation
        found = self.finder.locate(rip)
        if found is None:
            return 0
        if generation == self.core.blocks.generation and words[W_RIP] == rip:
            if self.finder.is_remembered(found):
                self.finder.remember(rip, found)
            if found.page is not block.page:
                self.core.blocks.replace(block, found)
        return found.entry

    def _check_second(self, block: Block, at: int) -> int:
        try:
            second = self.finder.behind(block.page)
        except Fault as fault:
            self.core.raise_fault(fault)
            return self.finder.go()
        if second is not None and second is block.spill and not block.dead:
            return at
        self.core.blocks.kill(block)
        return self.finder.go()

    def _on_stale(self) -> int:
        block = self.core.blocks.block_at(self.core.words[W_RETURN])
        if block is None:
            raise InternalError("the end of no block", where="translate")
        words = self.core.words
        rip = words[W_RIP] = block.start & M64
        generation = self.core.blocks.generation
        found = self.finder.locate(rip)
        if found is None:
            return 0
        if generation != self.core.blocks.generation or words[W_RIP] != rip:
            return found.entry
        if found.page is block.page and found is not block:
            self.core.blocks.forward(block, found)
        return found.entry

    def _on_sti(self) -> int:
        """Interrupts are on, and one waits: it is taken after the next instruction, most often a RET."""
        if not self._return():
            self.core.step()
        return 0

    def _return(self) -> bool:
        """Carry out the instruction at RIP if it is the RET of 64-bit code; whether it was."""
        words, core = self.core.words, self.core
        rip = words[W_RIP]
        block = core.blocks.block_at(words[W_RETURN])
        if block is None or block.dead or block.page.mode != KERNEL_64 or rip & -PAGE != block.page.gva:
            return False
        if core.blocks.source(block.page.gpa)[rip & PAGE - 1] != RET:
            return False
        target = core.delivery.read_word(words[W_RSP])
        if target >> 47 not in (0, 0x1FFFF):  # it isn't canonical, or the word isn't to be had
            return False
        words[W_RSP] = words[W_RSP] + 8 & M64
        words[W_RIP] = target
        return True

    def _on_signal(self) -> int:
        words = self.core.words
        number, host = words[W_SIGNAL], words[W_SIGNAL_RIP]
        if not self.core.crossings.holds(host + 1):  # whose code has said RIP
            block = self.core.blocks.block_at(host + 1) if host >= self.core.runtime_end else None
            if block is None:
                raise self._own_fault(number, f"at {host - self.core.blocks.base:#x}")
            words[W_RIP] = block.rip(host + 1)
        rip = words[W_RIP]
        self.core.cpu.refresh()
        fault = self.core.fault_of(number)
        if fault is None:
            raise InternalError(
                f"signal {number} in emitted code for {rip:#x}: {self.core.registers_text()}",
                where="translate",
            )
        self.core.raise_fault(fault)
        return self.finder.go()

    def _own_fault(self, number: int, place: str) -> InternalError:
        text = f"signal {number} in emitted code {place}: {self.core.registers_text()}"
        return InternalError(text, where="translate")

    def take_late(self) -> None:
        """Give the writes that emitted code has kept back to their devices."""
        words = self.core.words
        late, words[W_LATE] = words[W_LATE], 0
        size = late >> 16 & 7
        with self.core.lock:
            if size:
                write, place = self._ports.writer(late & 0xFFFF, size)
                write(place, size, late >> 32 & MASKS[size])
            if late & KEPT and self.core.kept is not None:
                self.core.kept.deliver()

    def find_latches(self) -> None:
        """Tell emitted code which ports only the last write counts of."""
        raw = self.core.raw
        raw[context.LATCHES : context.LATCHES + PORTS] = bytes(PORTS)
        for number in self._ports.latches:
            raw[context.LATCHES + (number & 0xFFFF)] |= number >> 16

    def _on_port_out(self) -> int:
        words = self.core.words
        number = words[W_PORT]
        size = number >> 16
        write, place = self._ports.writer(number & 0xFFFF, size)
        lock = self.core.lock
        lock.acquire()  # by hand, as in machine/kvmcpu.py: faster than a with statement
        try:
            write(place, size, words[W_RAX] & MASKS[size])
        finally:
            lock.release()
        return 0 if words[W_ATTENTION] else words[W_BLOCK_RETURN]

    def _on_port_in(self) -> int:
        words = self.core.words
        number = words[W_PORT]
        size = number >> 16
        read, place = self._ports.reader(number & 0xFFFF, size)
        lock = self.core.lock
        lock.acquire()
        try:
            value = read(place, size)
        finally:
            lock.release()
        mask = MASKS[size]
        if size == 4:
            words[W_RAX] = value & mask
        else:
            words[W_RAX] = words[W_RAX] & ~mask | value & mask
        return 0 if words[W_ATTENTION] else words[W_BLOCK_RETURN]

    def _on_event(self) -> int:
        """A log of the TLB was full, or a large page was dropped: everything goes."""
        self.core.mmu.forget()
        return self.core.words[W_BLOCK_RETURN]

    def _on_bounce(self) -> int:
        raise InternalError("the bounce buffer's code was entered by a guest", where="translate")
