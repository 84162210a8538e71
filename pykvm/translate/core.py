"""A translated CPU's state, and what it is made of: everything but its thread.

Here are the steps that are the same whoever asks for them: one instruction interpreted, an exception or an
interrupt delivered, a change of mode noticed.
"""

from __future__ import annotations

import ctypes
import signal
import threading
from collections import deque

from pykvm.translate import context
from pykvm.translate.bounce import Bounce, operand
from pykvm.translate.breakpoints import ENABLED, STEP, Breakpoints, WatchedPorts
from pykvm.translate.codepage import KERNEL_64, M64, PAGE, USER, USER_64, WIDE
from pykvm.translate.context import SLOT
from pykvm.translate.crossings import Crossings
from pykvm.translate.delivery import Delivery
from pykvm.translate.finder import Finder, jump_key, jump_kind
from pykvm.translate.memory import ContextMemory
from pykvm.translate.mmu import Mmu, TranslatedLinear
from pykvm.translate.modes import INTERPRET_ONLY, present_mode
from pykvm.translate.msrs import IA32_APIC_BASE, Msrs
from pykvm.translate.physical import LockedPorts, Physical
from pykvm.translate.state import ContextCpu
from pykvm.x86 import cpuid, entry
from pykvm.x86.exceptions import DB, DE, FAULTS, GP, MF, UD, XM, Fault
from pykvm.x86.execute.cpu import DEBUG_AT_RESET
from pykvm.x86.execute.fetch import step
from pykvm.x86.execute.interrupts import EXTERNAL, deliver, raise_exception
from pykvm.x86.paging import FETCH
from pykvm.x86.registers import CR4_OSXMMEXCPT, CR4_TSD, EFER_SCE, GPRS, RFLAGS_RF, RFLAGS_TF, RFLAGS_VM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pykvm.devices.bus import MemoryBus, PortBus
    from pykvm.devices.lapic import LocalApic
    from pykvm.memory import GuestMemory
    from pykvm.translate.keptbytes import KeptBytes
    from pykvm.translate.shared import Shared

ITERATIONS = 4096  # of a repeated string instruction, in one call of the interpreter
BOUNCE_CODE = 256  # bytes of code for one instruction
MXCSR_AT_RESET = 0x1F80
APIC_ENABLED = 1 << 11  # IA32_APIC_BASE: without it CPUID shows no APIC (Intel SDM vol. 3 §10.4.3)
APIC_FEATURE = 1 << 9
REMEMBERED = 16  # exceptions, for the post-mortem

W_ATTENTION = SLOT["attention"] // 8
W_RESUME = SLOT["resume"] // 8
W_REASON = SLOT["reason"] // 8
W_RIP = SLOT["rip"] // 8
W_MODE = SLOT["mode"] // 8
W_SIGNAL_VECTOR = SLOT["signal_vector"] // 8
W_FAST_SYSTEM = SLOT["fast_system"] // 8
W_ACCESS_FLAG = SLOT["access_flag"] // 8
W_JUMP_KEY = SLOT["jump_key"] // 8
W_CS = SLOT["cs"] // 8
W_SYSTEM_FLAGS = SLOT["system_flags"] // 8
W_TSC_OFFSET = SLOT["tsc_offset"] // 8


class Crash(Exception):
    """The guest's end by itself: a triple fault."""


class Core:
    """``memory``, ``ports`` and ``mmio`` are the machine's, ``entries`` what CPUID tells.

    ``running`` is locked while the CPU is in emitted code without the lock of ``shared``. ``at_rest``: it has
    no address in emitted code at which to go on.
    """

    def __init__(
        self,
        memory: GuestMemory,
        ports: PortBus,
        mmio: MemoryBus,
        lock: threading.Lock,
        entries: Sequence[dict[str, int]],
        shared: Shared,
    ) -> None:
        self.lock = lock
        self.shared = shared
        self.running = threading.Lock()
        self.at_rest = True
        self._keeps_lock = False
        self.apic: LocalApic | None = None
        self.kept: KeptBytes | None = None
        self.nmi_waits = False
        self._entries = {(e["function"], e["index"] if e["flags"] & 1 else -1): e for e in entries}
        self._rdtsc = shared.tsc
        self._context = ContextMemory()
        self.raw, self.words, self.halves = self._context.raw, self._context.words, self._context.halves
        words, fpu = self.words, self._context.fpu

        self.finder = Finder(self)
        self.physical = Physical(memory, mmio, self.finder.written, lock)
        self.blocks, self.runtime_end = shared.blocks, shared.runtime_end
        for name, address in shared.entries.items():
            words[SLOT[name] // 8] = address
        self._enter = shared.enter
        self.enter = self._enter if shared.alone else self._enter_beside_others
        self.argument = ctypes.c_void_p(self._context.address)

        self.cpu = ContextCpu(
            words,
            entry.real(0, stack=0)["sregs"],
            self.flush,
            fpu,
            msrs=Msrs(words, self.tsc, self.set_tsc, self.follow_syscall),
            features=cpuid.names(entries),
            physical_bits=cpuid.physical_bits(entries),
            ports=WatchedPorts(LockedPorts(ports, lock)),
            cpuid=self._cpuid,
            tsc=self.tsc,
            debug=list(DEBUG_AT_RESET),
        )
        self.mmu = Mmu(self.cpu, shared, self.physical, words, self.halves, self.raw)
        self.linear = TranslatedLinear(self.cpu, self.physical, self.mmu, shared)
        self.breakpoints = Breakpoints(self.cpu)
        self.delivery = Delivery(self.cpu, self.mmu, words, self.physical.low_words)
        self.bounce = Bounce(self.blocks, self.blocks.reserve(bytes(BOUNCE_CODE)), self.raw, self.enter_at)
        self.crossings = Crossings(self)
        words[SLOT["page_flags"] // 8] = self._context.pin(shared.flags)
        words[SLOT["page_writers"] // 8] = self.mmu.writers_at
        words[SLOT["code_gpas"] // 8] = self._context.pin(self.blocks.gpas)
        words[SLOT["mask_31"] // 8], words[SLOT["mask_63"] // 8] = 31, 63
        self.halves[SLOT["host_mxcsr"] >> 2] = MXCSR_AT_RESET
        fpu[:] = bytes(self.cpu.area.initial(self.cpu.components).data[:512])
        self._last_modes = [KERNEL_64, USER_64]
        self._special = 0
        # The last exceptions that the guest was given: vector, error code, CR2, RIP
        self.raised: deque[tuple[int, int | None, int | None, int]] = deque(maxlen=REMEMBERED)
        self.finder.clear_jumps()
        words[SLOT["pauses"] // 8] = context.NEVER if shared.alone else context.PAUSES
        shared.cores.append(self)

    def connect(self, apic: LocalApic) -> None:
        """Take ``apic`` for this CPU's own."""
        self.apic = self.cpu.apic = apic
        self.physical.connect(apic)
        self.cpu.lock = self.lock
        msrs: Any = self.cpu.msrs
        msrs.apic, msrs.lock = apic, self.lock

    def close(self) -> None:
        self.shared.cores.remove(self)
        self.mmu.close()
        self._context.close()

    def tsc(self) -> int:
        """The guest's time-stamp counter."""
        return self._rdtsc() + self.words[W_TSC_OFFSET] & M64

    def set_tsc(self, value: int) -> None:
        self.words[W_TSC_OFFSET] = value - self._rdtsc() & M64
        if self.apic is not None:
            with self.lock:
                self.apic.tsc_moved()

    def _cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        found = self._entries.get((leaf, subleaf)) or self._entries.get((leaf, -1))
        if found is None:
            return 0, 0, 0, 0
        edx = found["edx"]
        if leaf == 1 and self.apic is not None:
            base = self.apic.read_msr(IA32_APIC_BASE) or 0
            if not base & APIC_ENABLED:
                edx &= ~APIC_FEATURE
        return found["eax"], found["ebx"], found["ecx"], edx

    def interrupt(self, vector: int) -> None:
        cpu = self.cpu
        if self.delivery.deliver(vector, None, None, resume=False):
            return
        cpu.refresh()
        try:
            deliver(cpu, self.linear, vector, None, EXTERNAL)
        except Fault as fault:
            self.raise_fault(fault)
        self.commit()

    def raise_fault(self, fault: Fault) -> None:
        """Give the guest an exception; RIP is in the context."""
        cpu = self.cpu
        self.raised.append((fault.vector, fault.error, fault.cr2, self.words[W_RIP]))
        if self.delivery.deliver(fault.vector, fault.error, fault.cr2, resume=fault.vector in FAULTS):
            return
        cpu.refresh()
        if not raise_exception(cpu, self.linear, fault):
            raise Crash(str(fault))
        self.commit()

    def commit(self) -> None:
        cpu = self.cpu
        if cpu.changed:
            if "xsave" in cpu.changed:
                cpu.commit_fpu()
            cpu.changed.clear()
            cpu.commit()
            self.follow_mode()

    def step(self) -> None:
        """Interpret one instruction."""
        cpu = self.cpu
        cpu.refresh()
        debug = cpu.debug
        assert debug is not None
        watch = self.breakpoints if debug[7] & ENABLED else None
        if watch is not None:
            if hit := watch.on_code():
                debug[6] |= hit
                self.raise_fault(Fault(DB))
                return
            watch.hits = 0
        if self.linear.breakpoints is not watch:
            self._watch(watch)
        stepping = cpu.regs["rflags"] & RFLAGS_TF
        outcome = step(cpu, self.linear)
        if outcome is None:
            if self._native():
                self._trap(bool(stepping), watch)
            return
        if cpu.changed:
            self.commit()
        elif self._special_flags() != self._special:
            self.follow_mode()
        if self.nmi_waits and not cpu.nmi_masked:
            self.words[W_ATTENTION] = 1  # it waited for this IRET
        if outcome.fault is not None:
            self.raise_fault(outcome.fault)
        elif outcome.single_step or watch is not None:
            self._trap(outcome.single_step, watch)

    def _trap(self, stepping: bool, watch: Breakpoints | None) -> None:
        """#DB behind an instruction: by TF, and by what it accessed."""
        debug = self.cpu.debug
        assert debug is not None
        cause = (STEP if stepping else 0) | (watch.hits if watch is not None else 0)
        if cause:
            debug[6] |= cause
            self.raise_fault(Fault(DB))

    def _watch(self, breakpoints: Breakpoints | None) -> None:
        """Note what instructions access, or no longer; repeated string instructions then go one by one."""
        self.linear.breakpoints = breakpoints
        ports: Any = self.cpu.ports
        ports.breakpoints = breakpoints
        self.cpu.iterations = 1 if breakpoints is not None else ITERATIONS

    def _native(self) -> bool:
        """An x87 or SSE instruction that the interpreter doesn't know, done through the bounce buffer.

        Whether it was done; if not the guest has been given its fault.
        """
        rip = self.words[W_RIP]
        cpu = self.cpu
        try:
            code = self.fetch(rip)
            place = operand(code, cpu, self.linear)
            if not self.bounce.carry_out(self, code, self.bounce_mode(), None, place):
                raise Fault(UD)
        except Fault as fault:
            self.words[W_RIP] = rip
            cpu.refresh()
            self.raise_fault(fault)
            return False
        cpu.refresh()
        cpu.set_flags(0, RFLAGS_RF)
        cpu.interrupt_shadow = False
        return True

    def bounce_mode(self) -> int:
        mode = self.words[W_MODE]
        return (
            WIDE
            if mode == INTERPRET_ONLY and self.cpu.bits == 64
            else mode & WIDE
            if mode != INTERPRET_ONLY
            else 0
        )

    def fetch(self, rip: int) -> bytes:
        user = self.cpu.cpl == 3
        base = 0 if self.cpu.bits == 64 else self.cpu.sregs["cs"]["base"]
        start = rip + base
        first = min(15, PAGE - start % PAGE)
        code = self.linear.load(self.linear.translate(start, FETCH, user), first)
        if first < 15:
            try:
                code += self.linear.load(self.linear.translate(start + first, FETCH, user), 15 - first)
            except Fault:
                pass
        return code

    def enter_at(self, target: int) -> int:
        """Run the runtime's or the bounce buffer's code at ``target``; the reason for which it left."""
        self.words[W_RESUME] = target
        self._enter(self.argument)
        return self.words[W_REASON]

    def _enter_beside_others(self, argument: ctypes.c_void_p) -> None:
        if self._keeps_lock:
            self._keeps_lock = False
            self._enter(argument)
            return
        running, lock = self.running, self.shared.lock
        running.acquire()
        lock.release()
        self._enter(argument)
        running.release()
        if not lock.acquire(False):
            self.shared.wait_for_lock()

    def keep_lock(self) -> None:
        """Until emitted code is left the next time, which is soon, no other CPU translates anything."""
        if not self.shared.alone:
            self._keeps_lock = True
            self.words[W_ATTENTION] = 1

    def flush(self, gva: int | None) -> None:
        if gva is None:
            self.mmu.follow()
            self.mmu.forget()
            self.follow_mode()
        else:
            self.mmu.forget_page(gva)

    def follow_mode(self) -> None:
        """Segments or control registers have changed: in which mode code runs now."""
        mode = present_mode(self.cpu)
        self.words[W_MODE] = mode
        self.words[W_JUMP_KEY] = jump_key(mode)
        self._special = self._special_flags()
        kind = jump_kind(mode)
        if mode != INTERPRET_ONLY and self._last_modes[mode & USER] != kind:
            self._last_modes[mode & USER] = kind
            self.finder.clear_jumps((mode & USER,))
        self.follow_syscall()

    def _special_flags(self) -> int:
        """The flags that decide about the mode: TF, VM, and AC in ring 3."""
        words = self.words
        flags = words[W_SYSTEM_FLAGS] & (RFLAGS_TF | RFLAGS_VM)
        return flags | words[W_ACCESS_FLAG] if words[W_CS] & 3 == 3 else flags

    def follow_syscall(self) -> None:
        """Whether SYSCALL, SYSRET and IRET may take the short way, and with which selectors."""
        words, cpu = self.words, self.cpu
        sregs = cpu.sregs
        star = words[SLOT["star"] // 8]
        kernel, user = star >> 32 & 0xFFFC, (star >> 48) + 16 | 3
        words[SLOT["kernel_cs"] // 8], words[SLOT["kernel_ss"] // 8] = kernel, kernel + 8
        words[SLOT["user_cs"] // 8], words[SLOT["user_ss"] // 8] = user, user - 8
        fast = words[W_MODE] in (KERNEL_64, USER_64) and not cpu.nmi_masked and not sregs["cr4"] & CR4_TSD
        words[SLOT["fast_iret"] // 8] = int(not cpu.nmi_masked)
        words[W_FAST_SYSTEM] = int(fast and bool(sregs["efer"] & EFER_SCE and kernel))

    def fault_of(self, number: int) -> Fault | None:
        """The guest's exception for a signal of emitted code; None where it is our own fault."""
        vector = self.words[W_SIGNAL_VECTOR]
        if number == signal.SIGILL:
            return Fault(UD)
        if number == signal.SIGFPE and vector == XM and not self.cpu.sregs["cr4"] & CR4_OSXMMEXCPT:
            return Fault(UD)
        if number == signal.SIGFPE and vector in (DE, MF, XM):
            return Fault(vector)
        return Fault(GP, 0) if number == signal.SIGSEGV and vector == GP else None

    def registers_text(self) -> str:
        """All general registers, for a message about a fault of our own."""
        regs = self.cpu.regs
        return " ".join(f"{name}={regs[name]:#x}" for name in (*GPRS, "rip", "rflags"))
