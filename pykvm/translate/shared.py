"""What the translated CPUs of a machine share, and how one has the others stand still.

Each CPU has a thread and a context. The translated code, and the flags of RAM's pages that hold it, are
there once. Who is in Python holds ``lock``; emitted code runs without it, side by side. What Python changes
under the feet of emitted code is of three kinds:

=================================================  =====================================================
a jump that is linked, a block that took another's  one store of 8 bytes, which others see or don't
place; an accessed or dirty bit                    (blocks.py, encode.py)
a block that has ended, a page whose writes must   ``stop``: the others are told by their attention flags
be seen from now on, LOCK in the interpreter       to leave emitted code, and can't enter it again while
                                                   the lock is held. They may go on where they left
all code, thrown away                              once all are ``at_rest``: none has an address in emitted
                                                   code at which to go on
=================================================  =====================================================

Order of locks: this one, then the device lock. Who tells a CPU of an interrupt needs neither.
"""

from __future__ import annotations

import ctypes
import threading

from pykvm.translate import features, signals
from pykvm.translate.blocks import Blocks
from pykvm.translate.codepage import PAGE
from pykvm.translate.context import SLOT
from pykvm.translate.lookup import Lookup
from pykvm.translate.memory import Rdtsc
from pykvm.translate.runtime import Runtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.memory import GuestMemory
    from pykvm.translate.core import Core

FOUR_GIB = 1 << 32
W_ATTENTION = SLOT["attention"] // 8
W_RETURN = SLOT["return"] // 8
W_BLOCK_RETURN = SLOT["block_return"] // 8


class Shared:
    """For ``cpus`` CPUs on ``memory``; each enters itself in ``cores``."""

    def __init__(self, memory: GuestMemory, cpus: int = 1) -> None:
        self.memory = memory
        self.alone = cpus == 1
        """Whether there is one CPU only, for which nobody has to stand still."""
        self.lock = threading.Lock()
        self.cores: list[Core] = []
        low = memory.regions[0]
        high = memory.region_at(FOUR_GIB)
        self.low_end, self.high_end = low.end, high.end if high is not None else FOUR_GIB
        self.low_hva, self.high_hva = low.hva, high.hva if high is not None else 0
        self.low_pages = low.size >> 12
        self.flags = bytearray(self.low_pages + (self.high_end - FOUR_GIB >> 12))
        """Of each page of RAM, whether its writes must be seen."""
        lookup = Lookup(bmi2="bmi2" in features.host_features())
        self.blocks = Blocks(lookup, self._source, self._protect, self.stop)
        runtime = Runtime(self.blocks.base, lookup, self.blocks.base + self.blocks.mapping.size)
        self.entries = runtime.entries
        self.runtime_end = self.blocks.base + len(runtime.code)
        self.blocks.reserve(runtime.code)
        self.enter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(runtime.enter)
        self.tsc = Rdtsc()
        self._signals = signals.Handlers(runtime.signal_handler)
        self._fence = threading.Lock()
        self._next = threading.Lock()  # held by the first of those who wait for ``lock``
        self._rest = threading.Condition(self.lock)
        self._full = False

    def close(self) -> None:
        self._signals.close()
        self.blocks.close()
        self.tsc.close()

    # RAM

    def number(self, gpa: int) -> int:
        """A page of RAM's number, -1 where no RAM is."""
        if gpa < self.low_end:
            return gpa >> 12
        if FOUR_GIB <= gpa < self.high_end:
            return self.low_pages + (gpa - FOUR_GIB >> 12)
        return -1

    def host(self, gpa: int) -> int:
        """The host's address of RAM."""
        return self.low_hva + gpa if gpa < FOUR_GIB else self.high_hva + gpa - FOUR_GIB

    def guest(self, host: int) -> int:
        """The guest's address of what lies in RAM at the host's address ``host``."""
        low = host - self.low_hva
        return low if 0 <= low < self.low_end else host - self.high_hva + FOUR_GIB

    def _source(self, gpa: int) -> memoryview:
        return self.memory.view(gpa, PAGE)

    def _protect(self, gpa: int, protected: bool) -> None:
        """From now on writes to the page at ``gpa`` are seen, or no longer."""
        number = self.number(gpa)
        if number < 0 or self.flags[number] == protected:
            return
        self.flags[number] = int(protected)
        if not protected:
            return
        if not self.alone:
            # The runtime's walker notes itself as a page's writer before it looks at the flag (walks.py): if
            # it saw none, its note is seen here. That needs a fence between flag and note on both sides.
            with self._fence:
                pass
        writers = [core for core in self.cores if core.mmu.writers[number]]
        if any(core.running.locked() for core in writers):
            self.stop()
        for core in writers:
            core.mmu.forget_writers(number, self.host(gpa))

    def let_go(self, gpa: int, core: Core) -> None:
        """Let the page at ``gpa`` be written unseen, until somebody executes there (blocks.py).

        ``core``, which asks, runs no code there; where another CPU may, all stays as it is.
        """
        self.stop()
        if any(self._is_in(gpa, other) for other in self.cores if other is not core):
            return
        for page in self.blocks.let_go(gpa):
            for each in self.cores:
                each.finder.forget_check(page)

    def _is_in(self, gpa: int, core: Core) -> bool:
        """Whether ``core``, which is in Python, may go on in emitted code of the page at ``gpa``."""
        for place in (W_RETURN, W_BLOCK_RETURN):
            block = None if core.at_rest else self.blocks.block_at(core.words[place])
            if block is not None and (
                block.page.gpa == gpa or (block.spill is not None and block.spill.gpa == gpa)
            ):
                return True
        return False

    # The lock

    def wait_for_lock(self) -> None:
        with self._next:
            self.lock.acquire()

    def give_way(self) -> None:
        """Let those who wait for the lock have it: who interprets for long never leaves it otherwise."""
        if not self.alone:
            self.lock.release()
            self.wait_for_lock()

    # Standing still

    def stop(self) -> None:
        """Have all CPUs out of emitted code, which they can't enter while the caller holds the lock."""
        if self.alone:
            return
        running = [core for core in self.cores if core.running.locked()]
        for core in running:
            core.words[W_ATTENTION] = 1
        for core in running:
            with core.running:
                pass

    def make_room(self) -> None:
        """Throw all code away, now or as soon as every CPU is at rest."""
        if self.alone:
            self._forget_code()
        else:
            self._full = True
            for core in self.cores:
                core.words[W_ATTENTION] = 1

    def rest(self, core: Core) -> None:
        """``core`` has no address in emitted code at which to go on. Wait, if code is to be thrown away."""
        core.at_rest = True
        while self._full:
            if all(other.at_rest for other in self.cores):
                self._forget_code()
                self._full = False
                self._rest.notify_all()
            else:
                self._rest.wait()

    def leave(self, core: Core) -> None:
        """``core`` runs no guest code for now: nobody is to wait for it."""
        core.at_rest = True
        if self._full:
            self._rest.notify_all()

    def _forget_code(self) -> None:
        self.blocks.reset()
        for core in self.cores:
            core.finder.clear_jumps()
            core.crossings.forget()
            core.mmu.forget()
