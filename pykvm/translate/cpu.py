"""The translated vCPU: the loop around emitted code, and its face to the machine.

``run`` looks at what waits, finds the block at RIP, and enters it; emitted code runs until it needs Python
(exits.py says for what).
"""

from __future__ import annotations

import threading

from pykvm.translate.codepage import PAGE
from pykvm.translate.context import REASONS, SLOT
from pykvm.translate.core import Core, Crash
from pykvm.translate.exits import Exits
from pykvm.translate.modes import INTERPRET_ONLY
from pykvm.translate.shared import Shared
from pykvm.translate.store import Store
from pykvm.x86 import entry
from pykvm.x86.exceptions import Fault
from pykvm.x86.paging import FETCH
from pykvm.x86.registers import MP_STATE_HALTED, MP_STATE_RUNNABLE, MP_STATE_UNINITIALIZED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from pykvm.devices.bus import MemoryBus, PortBus
    from pykvm.devices.lapic import LocalApic
    from pykvm.memory import GuestMemory
    from pykvm.translate.lateedge import LateEdges

NMI = 2
STEPS = 256  # interpreted in a row before a look at what waits
STEPS_OF_SEVERAL = 32  # the same where other CPUs may wait for the lock
RESET_VECTOR = (0xF000, 0xFFFF_0000, 0xFFF0)

W_ATTENTION = SLOT["attention"] // 8
W_PENDING = SLOT["pending"] // 8
W_IF = SLOT["interrupt_flag"] // 8
W_RESUME = SLOT["resume"] // 8
W_REASON = SLOT["reason"] // 8
W_RIP = SLOT["rip"] // 8
W_MODE = SLOT["mode"] // 8
W_LATE = SLOT["late"] // 8


class TranslatedCpu:
    """A vCPU that needs no KVM. It is the ``Core`` of its local APIC, which ``connect`` brings.

    ``shared`` is what it has in common with the machine's other CPUs; without, it is the only one. ``cause``
    makes the machine's cause of a crash from its kind and two sentences.
    """

    def __init__(
        self,
        index: int,
        memory: GuestMemory,
        ports: PortBus,
        mmio: MemoryBus,
        lock: threading.Lock,
        entries: Sequence[dict[str, int]],
        *,
        tsc_hz: int,
        cause: Callable[..., Any],
        shared: Shared | None = None,
    ) -> None:
        self.index = index
        self._own_shared = None if shared is not None else Shared(memory)
        self.exits = [0] * len(REASONS)
        self.tsc_hz = tsc_hz
        self._shared = shared or self._own_shared or Shared(memory)
        self.core = Core(memory, ports, mmio, lock, entries, self._shared)
        self._exits = Exits(self.core, ports)
        self._cause = cause
        self._steps = STEPS if self._shared.alone else STEPS_OF_SEVERAL
        self._wake = False
        self._init_asked = False
        self._sipi: int | None = None
        self._news = threading.Event()
        self._store: Store | None = None
        self._closed = False
        self.thread = 0  # the identity of the one that runs the guest
        self.late: LateEdges | None = None
        self.load(entry.real(0, stack=0))

    def connect(self, apic: LocalApic) -> None:
        """Take ``apic`` for this CPU's own, before the first run."""
        self.core.connect(apic)

    def tsc(self) -> int:
        """The guest's time-stamp counter."""
        return self.core.tsc()

    def changed(self) -> None:
        apic = self.core.apic
        assert apic is not None
        words = self.core.words
        if not apic.has_interrupt():
            words[W_PENDING] = int(self.late is not None and bool(self.late.waiting))
            return
        words[W_PENDING] = 1
        if threading.get_ident() != self.thread:
            self._tell()
        elif words[W_IF]:
            words[W_ATTENTION] = 1
        # Without IF there is nothing to be told: whatever sets it looks at ``pending``, and this thread is
        # the one that would. From another thread that can't be known.

    def nmi(self) -> None:
        self.core.nmi_waits = True
        self._tell()

    def init(self) -> None:
        self._init_asked, self._sipi = True, None
        self._tell()

    def start(self, vector: int) -> None:
        self._sipi = vector
        self._tell()

    def _tell(self) -> None:
        self.core.words[W_ATTENTION] = 1
        self._news.set()

    def wake(self) -> None:
        self._wake = True
        self._tell()

    def run(self) -> Any:
        """Run the guest until ``wake`` (None) or its end (a cause)."""
        words, handlers, exits = self.core.words, self._exits.handlers, self.exits
        enter, argument = self.core.enter, self.core.argument
        self.thread = threading.get_ident()
        shared = self._shared
        shared.lock.acquire()
        try:
            if self._store is None and self.index == 0:
                self._begin()
            while True:
                if self._service():
                    return None
                target = self._locate_or_step()
                if not target:
                    shared.give_way()
                while target:
                    words[W_RESUME] = target
                    enter(argument)
                    if words[W_LATE]:
                        self._exits.take_late()
                    reason = words[W_REASON]
                    exits[reason] += 1
                    target = handlers[reason]()
        except Crash as crash:
            return self._cause(
                "triple-fault",
                f"the guest crashed: triple fault, begun by {crash}",
                "often there is no valid IDT, or its stack isn't mapped",
            )
        finally:
            shared.leave(self.core)
            shared.lock.release()

    def _begin(self) -> None:
        """Before the first instruction: what earlier boots of this guest have translated."""
        regs, sregs = self.core.cpu.regs, self.core.cpu.sregs
        rip = regs["rip"]
        first = rip + sregs["cs"]["base"]
        try:
            gpa = self.core.linear.translate(first, FETCH, False, mark=False) & -PAGE
            page = self.core.physical.read(gpa, PAGE) if self._shared.number(gpa) >= 0 else b""
        except Fault:
            page = b""
        self._store = Store(self.core.words[W_MODE], rip, page, self.core.blocks.lookup.bmi2)
        self._store.load(self.core.blocks)

    def _service(self) -> bool:
        """What waits; whether ``run`` is to return. RIP is in the context."""
        words, cpu, apic = self.core.words, self.core.cpu, self.core.apic
        self._shared.rest(self.core)
        while True:
            words[W_ATTENTION] = 0
            if self._wake:
                self._wake = False
                return True
            if self._init_asked or self._sipi is not None:
                self._restart()
            if self.core.nmi_waits and not cpu.nmi_masked:
                self.core.nmi_waits = False
                cpu.halted = False
                self.core.interrupt(NMI)
                cpu.nmi_masked = True
                self.core.follow_syscall()
            elif words[W_PENDING] and words[W_IF] and not cpu.interrupt_shadow and apic is not None:
                with self.core.lock:
                    if self.late is not None:
                        self.late.settle()
                    vector = apic.acknowledge() if apic.has_interrupt() else -1
                    words[W_PENDING] = int(apic.has_interrupt())
                if vector >= 0:
                    cpu.halted = False
                    self.core.interrupt(vector)
            if not cpu.halted and not (apic is not None and apic.waiting):
                self.core.at_rest = False
                return False
            self._news.clear()
            if not words[W_ATTENTION]:
                self._sleep()

    def _sleep(self) -> None:
        lock = self._shared.lock
        self._shared.leave(self.core)
        lock.release()
        self._news.wait()
        lock.acquire()

    def _locate_or_step(self) -> int:
        """The emitted code at RIP; 0 after instructions were interpreted and something waits."""
        words = self.core.words
        for _ in range(self._steps):
            if words[W_MODE] != INTERPRET_ONLY and not self.core.cpu.interrupt_shadow:
                found = self.core.finder.locate(words[W_RIP])
                if found is not None:
                    return found.entry
                if words[W_MODE] == INTERPRET_ONLY or words[W_ATTENTION]:
                    return 0
            self.core.step()
            if words[W_ATTENTION] or self.core.cpu.halted or (words[W_PENDING] and words[W_IF]):
                return 0
        return 0

    def _restart(self) -> None:
        """INIT or SIPI."""
        with self.core.lock:
            sipi = self._sipi
            self._init_asked, self._sipi = False, None
        selector, base, ip = RESET_VECTOR if sipi is None else (sipi << 8, sipi << 12, 0)
        state = entry.real(0, stack=0)
        state["sregs"]["cs"].update(selector=selector, base=base)
        state["sregs"]["idt"] = {"base": 0, "limit": 0xFFFF}
        state["regs"]["rip"] = ip
        self.load(state)

    def settle(self) -> None:
        """Nothing is half done between two runs."""

    def state(self) -> dict[str, Any]:
        cpu = self.core.cpu
        cpu.refresh()
        assert cpu.debug is not None
        return {
            "regs": dict(cpu.regs),
            "sregs": {
                name: dict(value) if isinstance(value, dict) else value for name, value in cpu.sregs.items()
            },
            "xsave": cpu._xsave(),
            "msrs": {number: cpu.msrs[number] for number in cpu.msrs},
            "tsc": self.core.tsc(),
            "debug": list(cpu.debug),
            "mp_state": self._activity,
            "nmi_masked": cpu.nmi_masked,
            "interrupt_shadow": cpu.interrupt_shadow,
        }

    @property
    def _activity(self) -> int:
        apic = self.core.apic
        if apic is not None and apic.waiting:
            return MP_STATE_UNINITIALIZED
        return MP_STATE_HALTED if self.core.cpu.halted else MP_STATE_RUNNABLE

    def load(self, state: dict[str, Any]) -> None:
        """Take what ``state`` has."""
        cpu = self.core.cpu
        if "sregs" in state:
            for name, value in state["sregs"].items():
                cpu.sregs[name] = dict(value) if isinstance(value, dict) else value
            cpu.commit()
        if "regs" in state:
            cpu.regs.update(state["regs"])
        if "xsave" in state:
            self.core.raw[SLOT["fpu"] : SLOT["fpu"] + 512] = state["xsave"][:512]
        for number, value in state.get("msrs", {}).items():
            cpu.msrs[number] = value
        if "tsc" in state:
            self.core.set_tsc(state["tsc"])
        if "debug" in state:
            cpu.debug = list(state["debug"])
        cpu.halted = state.get("mp_state", MP_STATE_RUNNABLE) == MP_STATE_HALTED
        cpu.nmi_masked = state.get("nmi_masked", False)
        cpu.interrupt_shadow = state.get("interrupt_shadow", False)
        self.core.flush(None)

    def halted_for_ever(self) -> bool:
        core = self.core
        if self._init_asked or self._sipi is not None:
            return False
        if core.apic is not None and core.apic.waiting:
            return True
        return core.cpu.halted and not core.words[W_IF] and not core.nmi_waits

    def raised(self) -> list[tuple[int, int | None, int | None, int]]:
        return list(self.core.raised)

    def earlier(self) -> None:
        """Nothing is lost here."""

    def exit_names(self) -> dict[int, str]:
        return dict(enumerate(REASONS))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            if self._store is not None:
                self._store.save(self.core.blocks, self.core.finder.is_remembered)
            self._exits.close()
            self.core.close()
            if self._own_shared is not None:
                self._own_shared.close()
