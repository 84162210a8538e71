"""The translated vCPU: the loop around emitted code, what it returns for, and its face to the machine.

``run`` looks at what waits, finds the block at RIP, and enters it; emitted code runs until it needs Python.
Each reason has a method here, which does what is needed and says where in emitted code to go on: 0 means
that RIP says where, after a look at what waits.
"""

from __future__ import annotations

import ctypes
import signal
import threading

from pykvm.errors import InternalError
from pykvm.libc.calls import anonymous
from pykvm.translate import context, features, signals
from pykvm.translate.blocks import Blocks
from pykvm.translate.bounce import FSW_ES, Bounce, operand
from pykvm.translate.breakpoints import ENABLED, STEP, Breakpoints, WatchedPorts
from pykvm.translate.codepage import FPU, KERNEL_64, PAGE, TIME, USER, USER_64, WIDE, Block, CodePage
from pykvm.translate.context import REASONS, SLOT
from pykvm.translate.decode import decode
from pykvm.translate.delivery import Delivery
from pykvm.translate.lookup import Lookup, jump_index
from pykvm.translate.mmu import Mmu, TranslatedLinear
from pykvm.translate.msrs import Msrs
from pykvm.translate.physical import Physical
from pykvm.translate.runtime import Runtime
from pykvm.translate.state import ContextCpu
from pykvm.translate.store import Store
from pykvm.x86 import cpuid, entry
from pykvm.x86.exceptions import DB, DE, FAULTS, GP, MF, UD, XM, Fault
from pykvm.x86.execute.cpu import DEBUG_AT_RESET
from pykvm.x86.execute.fetch import step
from pykvm.x86.execute.interrupts import EXTERNAL, deliver, raise_exception
from pykvm.x86.paging import FETCH, WRITE, canonical
from pykvm.x86.registers import (
    CR0_EM,
    CR0_PE,
    CR0_PG,
    CR0_TS,
    CR4_OSFXSR,
    CR4_OSXMMEXCPT,
    CR4_TSD,
    EFER_SCE,
    GPRS,
    RFLAGS_IOPL,
    RFLAGS_TF,
    RFLAGS_VM,
    SEGMENTS,
)
from pykvm.x86.segments import TSS_IO_MAP_BASE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from pykvm.devices.bus import MemoryBus, PortBus
    from pykvm.devices.lapic import LocalApic
    from pykvm.memory import GuestMemory

M64 = (1 << 64) - 1
NMI = 2
INTERPRET_ONLY = M64  # the mode in which nothing is translated
ITERATIONS = 4096  # of a repeated string instruction, in one call of the interpreter
STEPS = 256  # interpreted in a row before a look at what waits
RESET_VECTOR = (0xF000, 0xFFFF_0000, 0xFFF0)
RUNNABLE, HALTED = 0, 3  # KVM_MP_STATE_*, whose numbers a saved state uses

W_ATTENTION = SLOT["attention"] // 8
W_PENDING = SLOT["pending"] // 8
W_IF = SLOT["interrupt_flag"] // 8
W_RESUME = SLOT["resume"] // 8
W_RETURN = SLOT["return"] // 8
W_REASON = SLOT["reason"] // 8
W_ARGUMENT = SLOT["argument"] // 8
W_SIZE = SLOT["size"] // 8
W_RIP = SLOT["rip"] // 8
W_SCRATCH = SLOT["scratch"] // 8
W_MODE = SLOT["mode"] // 8
W_SIGNAL = SLOT["signal"] // 8
W_SIGNAL_RIP = SLOT["signal_rip"] // 8
W_SIGNAL_VECTOR = SLOT["signal_vector"] // 8
W_BLOCK_RETURN = SLOT["block_return"] // 8
W_TSC_OFFSET = SLOT["tsc_offset"] // 8
W_FAST_SYSTEM = SLOT["fast_system"] // 8
W_RAX = SLOT["rax"] // 8
W_RDX = SLOT["rdx"] // 8
W_RSP = SLOT["rsp"] // 8
W_RCX = SLOT["rcx"] // 8
W_ACCESS_FLAG = SLOT["access_flag"] // 8
W_CS = SLOT["cs"] // 8
W_SYSTEM_FLAGS = SLOT["system_flags"] // 8
W_ELEMENT = SLOT["element"] // 8


class Crash(Exception):
    """The guest's end by itself: a triple fault."""


class TranslatedCpu:
    """A vCPU that needs no KVM. It is the ``Core`` of its local APIC, which ``connect`` brings.

    ``cause`` makes the machine's cause of a crash from its kind and two sentences.
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
    ) -> None:
        self.index = index
        self.exits = [0] * len(REASONS)
        self.tsc_hz = tsc_hz
        self._cause = cause
        self._ports = ports
        self._lock = lock
        self._thread = 0
        self._wake = False
        self._nmi = self._init_asked = False
        self._sipi: int | None = None
        self._asleep = False
        self._news = threading.Event()
        self._apic: LocalApic | None = None
        self._entries = {(e["function"], e["index"] if e["flags"] & 1 else -1): e for e in entries}

        self._mapping = anonymous(context.STACK_SIZE + context.CONTEXT_SIZE + 4096)
        start = context.STACK_SIZE + context.ALIGNMENT
        self._context = self._mapping.address + start
        raw = self._mapping.view[start : start + context.CONTEXT_SIZE]
        self._raw = raw
        self._words = words = raw.cast("Q")
        self._halves = raw.cast("I")
        fpu = raw[SLOT["fpu"] : SLOT["fpu"] + 512]

        self._physical = Physical(memory, mmio, self._written, lock)
        lookup = Lookup(bmi2="bmi2" in features.host_features())
        self.blocks = Blocks(lookup, self._source, self._second, self._protect)
        runtime = Runtime(self.blocks.base, lookup, self.blocks.base + self.blocks.mapping.size)
        self._runtime_end = self.blocks.base + len(runtime.code)
        self.blocks.reserve(runtime.code)
        bounce_at = self.blocks.reserve(bytes(256))
        for name, address in runtime.entries.items():
            words[SLOT[name] // 8] = address
        self._enter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(runtime.enter)
        self._argument = ctypes.c_void_p(self._context)

        state = entry.real(0, stack=0)
        self.cpu = ContextCpu(
            words,
            state["sregs"],
            self._flush,
            fpu,
            msrs=Msrs(words, self.tsc, self._set_tsc, self._follow_syscall),
            features=cpuid.names(entries),
            physical_bits=cpuid.physical_bits(entries),
            ports=WatchedPorts(_Ports(ports, lock)),
            cpuid=self._cpuid,
            tsc=self.tsc,
            debug=list(DEBUG_AT_RESET),
        )
        self.mmu = Mmu(self.cpu, memory, self._physical, words, self._halves, raw)
        self.linear = TranslatedLinear(self.cpu, self._physical, self.mmu)
        self._breakpoints = Breakpoints(self.cpu)
        words[SLOT["page_flags"] // 8] = self._pin(self.mmu.flags)
        words[SLOT["page_writers"] // 8] = self._pin(self.mmu.writers)
        words[SLOT["code_gpas"] // 8] = self._pin(self.blocks.gpas)
        self._delivery = Delivery(self.cpu, self.mmu, words, self._physical.low_words)
        self._bounce = Bounce(self.blocks, bounce_at, raw, self._enter_at)
        self._halves[SLOT["host_mxcsr"] >> 2] = 0x1F80
        words[SLOT["mask_31"] // 8], words[SLOT["mask_63"] // 8] = 31, 63
        fpu[:] = bytes(self.cpu.area.initial(self.cpu.components).data[:512])
        self._last_modes = [KERNEL_64, USER_64]
        self._store: Store | None = None
        self._special = 0
        self._clear_jumps()
        self._handlers = (
            *(self._on_miss, self._on_interpret, self._on_chain, self._on_jump, self._on_attention),
            *(self._on_page_check, self._on_stale, self._on_sti, self._on_signal, self._on_port_out),
            *(self._on_port_in, self._on_event, self._on_bounce),
        )
        self._signals = signals.Handlers(runtime.signal_handler)
        self.load(state)

    def _pin(self, data: Any) -> int:
        pinned = (ctypes.c_char * (len(data) * getattr(data, "itemsize", 1))).from_buffer(data)
        self._pins = [*getattr(self, "_pins", ()), pinned]
        return ctypes.addressof(pinned)

    def connect(self, apic: LocalApic) -> None:
        """Take ``apic`` for this CPU's own, before the first run."""
        self._apic = apic
        self.cpu.apic = self._physical.apic = apic
        self.cpu.lock = self._lock
        msrs: Any = self.cpu.msrs
        msrs.apic, msrs.lock = apic, self._lock

    # Time

    def tsc(self) -> int:
        """The guest's time-stamp counter."""
        return _rdtsc() + self._words[W_TSC_OFFSET] & M64

    def _set_tsc(self, value: int) -> None:
        self._words[W_TSC_OFFSET] = value - _rdtsc() & M64
        if self._apic is not None:
            with self._lock:
                self._apic.tsc_moved()

    def _cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        found = self._entries.get((leaf, subleaf)) or self._entries.get((leaf, -1))
        if found is None:
            return 0, 0, 0, 0
        ecx = found["ecx"]
        return found["eax"], found["ebx"], ecx, found["edx"]

    # What the APIC says, on any thread, under the device lock

    def changed(self) -> None:
        apic = self._apic
        assert apic is not None
        if apic.has_interrupt():
            self._words[W_PENDING] = 1
            self._tell()
        else:
            self._words[W_PENDING] = 0

    def nmi(self) -> None:
        self._nmi = True
        self._tell()

    def init(self) -> None:
        self._init_asked, self._sipi = True, None
        self._tell()

    def start(self, vector: int) -> None:
        self._sipi = vector
        self._tell()

    def _tell(self) -> None:
        self._words[W_ATTENTION] = 1
        self._news.set()

    def wake(self) -> None:
        self._wake = True
        self._tell()

    # The loop

    def run(self) -> Any:
        """Run the guest until ``wake`` (None) or its end (a cause)."""
        words, handlers, exits = self._words, self._handlers, self.exits
        enter, argument = self._enter, self._argument
        if self._store is None:
            self._begin()
        try:
            while True:
                if self._service():
                    return None
                target = self._locate_or_step()
                while target:
                    words[W_RESUME] = target
                    enter(argument)
                    reason = words[W_REASON]
                    exits[reason] += 1
                    target = handlers[reason]()
        except Crash as crash:
            return self._cause(
                "triple-fault",
                f"the guest crashed: triple fault, begun by {crash}",
                "often there is no valid IDT, or its stack isn't mapped",
            )

    def _begin(self) -> None:
        """Before the first instruction: what earlier boots of this guest have translated."""
        regs, sregs = self.cpu.regs, self.cpu.sregs
        rip = regs["rip"]
        first = rip + sregs["cs"]["base"]
        try:
            gpa = self.linear.translate(first, FETCH, False, mark=False) & -PAGE
            page = self._physical.read(gpa, PAGE) if self.mmu.number(gpa) >= 0 else b""
        except Fault:
            page = b""
        self._store = Store(self._words[W_MODE], rip, page, self.blocks.lookup.bmi2)
        self._store.load(self.blocks, self._remember)

    def _service(self) -> bool:
        """What waits; whether ``run`` is to return. RIP is in the context."""
        words, cpu, apic = self._words, self.cpu, self._apic
        while True:
            words[W_ATTENTION] = 0
            if self._wake:
                self._wake = False
                return True
            if self._init_asked or self._sipi is not None:
                self._restart()
            if self._nmi and not cpu.nmi_masked:
                self._nmi = False
                cpu.halted = False
                self._interrupt(NMI)
                cpu.nmi_masked = True
                self._follow_syscall()
            elif words[W_PENDING] and words[W_IF] and not cpu.interrupt_shadow and apic is not None:
                with self._lock:
                    vector = apic.acknowledge() if apic.has_interrupt() else -1
                    words[W_PENDING] = int(apic.has_interrupt())
                if vector >= 0:
                    cpu.halted = False
                    self._interrupt(vector)
            if not cpu.halted and not (apic is not None and apic.waiting):
                return False
            self._asleep = True
            self._news.clear()
            if not words[W_ATTENTION]:
                self._news.wait()
            self._asleep = False

    def _interrupt(self, vector: int) -> None:
        cpu = self.cpu
        if self._delivery.deliver(vector, None, None, resume=False):
            return
        cpu.refresh()
        try:
            deliver(cpu, self.linear, vector, None, EXTERNAL)
        except Fault as fault:
            self._raise(fault)
        self._commit()

    def _raise(self, fault: Fault) -> None:
        """Give the guest an exception; RIP is in the context."""
        cpu = self.cpu
        if self._delivery.deliver(fault.vector, fault.error, fault.cr2, resume=fault.vector in FAULTS):
            return
        cpu.refresh()
        if not raise_exception(cpu, self.linear, fault):
            raise Crash(str(fault))
        self._commit()

    def _commit(self) -> None:
        cpu = self.cpu
        if cpu.changed:
            if "xsave" in cpu.changed:
                cpu.commit_fpu()
            cpu.changed.clear()
            cpu.commit()
            self._follow_mode()

    def _locate_or_step(self) -> int:
        """The emitted code at RIP; 0 after instructions were interpreted and something waits."""
        words = self._words
        for _ in range(STEPS):
            if words[W_MODE] != INTERPRET_ONLY and not self.cpu.interrupt_shadow:
                found = self._locate(words[W_RIP])
                if found is not None:
                    return found.entry
                if words[W_MODE] == INTERPRET_ONLY or words[W_ATTENTION]:
                    return 0
            self._step()
            if words[W_ATTENTION] or self.cpu.halted or (words[W_PENDING] and words[W_IF]):
                return 0
        return 0

    def _step(self) -> None:
        """Interpret one instruction."""
        cpu = self.cpu
        cpu.refresh()
        debug = cpu.debug
        assert debug is not None
        watch = self._breakpoints if debug[7] & ENABLED else None
        if watch is not None:
            if hit := watch.on_code():
                debug[6] |= hit
                self._raise(Fault(DB))
                return
            watch.hits = 0
        if self.linear.breakpoints is not watch:
            self._watch(watch)
        outcome = step(cpu, self.linear)
        if outcome is None:
            if self._native():
                return
            self._raise(Fault(UD))
            return
        if cpu.changed:
            self._commit()
        elif self._special_flags() != self._special:
            self._follow_mode()
        if self._nmi and not cpu.nmi_masked:
            self._words[W_ATTENTION] = 1  # it waited for this IRET
        if outcome.fault is not None:
            self._raise(outcome.fault)
        elif outcome.single_step or (watch is not None and watch.hits):
            debug[6] |= (STEP if outcome.single_step else 0) | (watch.hits if watch is not None else 0)
            self._raise(Fault(DB))

    def _watch(self, breakpoints: Breakpoints | None) -> None:
        """Note what instructions access, or no longer; repeated string instructions then go one by one."""
        self.linear.breakpoints = breakpoints
        ports: Any = self.cpu.ports
        ports.breakpoints = breakpoints
        self.cpu.iterations = 1 if breakpoints is not None else ITERATIONS

    def _native(self) -> bool:
        """An x87 or SSE instruction that the interpreter doesn't know, done through the bounce buffer."""
        rip = self._words[W_RIP]
        cpu = self.cpu
        try:
            code = self._fetch(rip)
            place = operand(code, cpu, self.linear)
            return self._bounce.carry_out(self, code, self._mode_for_bounce(), None, place)
        except Fault as fault:
            self._words[W_RIP] = rip
            cpu.refresh()
            self._raise(fault)
            return True

    def _mode_for_bounce(self) -> int:
        mode = self._words[W_MODE]
        return (
            WIDE
            if mode == INTERPRET_ONLY and self.cpu.bits == 64
            else mode & WIDE
            if mode != INTERPRET_ONLY
            else 0
        )

    def _fetch(self, rip: int) -> bytes:
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

    def _enter_at(self, target: int) -> int:
        """Run emitted code at ``target``; the reason for which it left."""
        self._words[W_RESUME] = target
        self._enter(self._argument)
        return self._words[W_REASON]

    # Code

    def _source(self, gpa: int) -> memoryview:
        return self._physical._memory.view(gpa, PAGE)

    def _second(self, page: CodePage) -> CodePage | None:
        try:
            return self._code_page(page.gva + PAGE & (M64 if page.mode & WIDE else 0xFFFF_FFFF))
        except Fault:
            return None

    def _protect(self, gpa: int, protected: bool) -> None:
        self.mmu.protect(gpa, protected)

    def _written(self, gpa: int, size: int) -> None:
        number = self.mmu.number(gpa)
        if self.mmu.flags[number]:
            self.blocks.written(gpa, size)

    def _code_page(self, rip: int) -> CodePage | None:
        """The code page of ``rip`` in the present mode; None where no RAM is. Raises the fetch's fault."""
        words = self._words
        mode = words[W_MODE]
        at = rip >> 12 & 0xFFFF
        number = self._halves[(context.PAGE_CHECKS >> 2) + at]
        gva = rip & -PAGE
        if number:
            page = self.blocks.by_id[number]
            if page is not None and page.gva == gva and page.mode == mode:
                return page
        if not canonical(rip, 0):
            raise Fault(GP, 0)
        found = self.mmu.find(rip, FETCH, bool(mode & USER))
        if self.mmu.number(found.gpa) < 0:
            return None
        page = self.blocks.page(mode, gva, found.gpa & -PAGE)
        self._halves[(context.PAGE_CHECKS >> 2) + at] = page.id
        if not found.is_global:
            self.mmu.log_check(at)
        if found.large:
            self._raw[context.LARGE + (rip >> 21 & 0xFFFF)] = 1
        return page

    def _locate(self, rip: int) -> Block | None:
        """The block at ``rip``; None where RIP is elsewhere now, or must be interpreted."""
        blocks = self.blocks
        if blocks.full:
            self._forget_code()
        try:
            page = self._code_page(rip)
        except Fault as fault:
            self._words[W_RIP] = rip
            self._raise(fault)
            return None if self._words[W_MODE] == INTERPRET_ONLY else self._locate_again()
        if page is None:
            self._words[W_RIP] = rip
            return None
        return blocks.block(page, rip & PAGE - 1)

    def _locate_again(self) -> Block | None:
        """After an exception was delivered: the handler's first block, or None if that faults in turn."""
        try:
            page = self._code_page(self._words[W_RIP])
        except Fault as fault:
            self._raise(fault)
            return None
        return None if page is None else self.blocks.block(page, self._words[W_RIP] & PAGE - 1)

    def _forget_code(self) -> None:
        self.blocks.reset()
        self._clear_jumps()
        self.mmu.forget()

    def _clear_jumps(self, which: Sequence[int] = (0, 1)) -> None:
        for user in which:
            start = context.JUMP_TAG[user]
            self._raw[start : start + context.TABLE] = bytes(context.TABLE)
            self._words[start >> 3] = 1

    def _go(self) -> int:
        """Go on at RIP, if nothing waits."""
        words = self._words
        if words[W_ATTENTION] or self.cpu.halted or (words[W_PENDING] and words[W_IF]):
            return 0
        if words[W_MODE] == INTERPRET_ONLY or self.cpu.interrupt_shadow:
            return 0
        found = self._locate(words[W_RIP])
        return 0 if found is None else found.entry

    def _rip_of(self, host: int) -> int:
        """The instruction to which a return address in emitted code belongs."""
        if host < self._runtime_end:
            return self._words[W_RIP]
        block = self.blocks.block_at(host)
        if block is None:
            raise InternalError(f"emitted code left from an unknown place, {host:#x}", where="translate")
        return block.rip(host)

    # Modes

    def _flush(self, gva: int | None) -> None:
        if gva is None:
            self.mmu.follow()
            self.mmu.forget()
            self._follow_mode()
        else:
            self.mmu.forget_page(gva)

    def _follow_mode(self) -> None:
        """Segments or control registers have changed: in which mode code runs now."""
        mode = self._present_mode()
        self._words[W_MODE] = mode
        self._special = self._special_flags()
        if mode != INTERPRET_ONLY and self._last_modes[mode & USER] != mode:
            self._last_modes[mode & USER] = mode
            self._clear_jumps((mode & USER,))
        self._follow_syscall()

    def _special_flags(self) -> int:
        """The flags that decide about the mode: TF, VM, and AC in ring 3."""
        words = self._words
        flags = words[W_SYSTEM_FLAGS] & (RFLAGS_TF | RFLAGS_VM)
        return flags | words[W_ACCESS_FLAG] if words[W_CS] & 3 == 3 else flags

    def _present_mode(self) -> int:
        cpu = self.cpu
        sregs, flags = cpu.sregs, cpu.regs["rflags"]
        cr0, cr4 = sregs["cr0"], sregs["cr4"]
        if not cr0 & CR0_PE or flags & (RFLAGS_TF | RFLAGS_VM):
            return INTERPRET_ONLY
        assert cpu.debug is not None
        if cpu.debug[7] & ENABLED:
            return INTERPRET_ONLY
        bits, cpl = cpu.bits, cpu.cpl
        if bits == 16 or cpl in (1, 2) or (cpl == 3 and flags & 1 << 18 and cr0 & 1 << 18):
            return INTERPRET_ONLY
        if bits == 32:
            for name in ("cs", "ss", "ds", "es"):
                segment = sregs[name]
                if (
                    segment["base"]
                    or segment["limit"] != 0xFFFF_FFFF
                    or segment["unusable"]
                    or segment["type"] & 12 == 4
                ):
                    return INTERPRET_ONLY
                if name != "cs" and segment["type"] & 10 != 2:
                    return INTERPRET_ONLY
            if not sregs["ss"]["db"]:
                return INTERPRET_ONLY
        mode = (USER if cpl == 3 else 0) | (WIDE if bits == 64 else 0)
        if not cr0 & (CR0_EM | CR0_TS) and cr4 & CR4_OSFXSR:
            mode |= FPU
        if cpl == 0 or not cr4 & CR4_TSD:
            mode |= TIME
        return mode

    def _follow_syscall(self) -> None:
        """Whether SYSCALL, SYSRET and IRET may take the short way, and with which selectors."""
        words, cpu = self._words, self.cpu
        sregs = cpu.sregs
        star = words[SLOT["star"] // 8]
        kernel, user = star >> 32 & 0xFFFC, (star >> 48) + 16 | 3
        words[SLOT["kernel_cs"] // 8], words[SLOT["kernel_ss"] // 8] = kernel, kernel + 8
        words[SLOT["user_cs"] // 8], words[SLOT["user_ss"] // 8] = user, user - 8
        fast = words[W_MODE] in (KERNEL_64, USER_64) and not cpu.nmi_masked and not sregs["cr4"] & CR4_TSD
        words[SLOT["fast_iret"] // 8] = int(not cpu.nmi_masked)
        words[W_FAST_SYSTEM] = int(fast and bool(sregs["efer"] & EFER_SCE and kernel))

    def _restart(self) -> None:
        """INIT or SIPI."""
        with self._lock:
            sipi = self._sipi
            self._init_asked, self._sipi = False, None
        selector, base, ip = RESET_VECTOR if sipi is None else (sipi << 8, sipi << 12, 0)
        state = entry.real(0, stack=0)
        state["sregs"]["cs"].update(selector=selector, base=base)
        state["sregs"]["idt"] = {"base": 0, "limit": 0xFFFF}
        state["regs"]["rip"] = ip
        self.load(state)

    # What emitted code returns for

    def _on_miss(self) -> int:
        words = self._words
        at, gva, argument = words[W_RETURN], words[W_SCRATCH], words[W_ARGUMENT]
        user, write = argument & 1, argument >> 1
        size = words[W_SIZE] + 1
        rip = self._rip_of(at)
        if words[W_MODE] & WIDE and not canonical(gva, self.cpu.sregs["cr4"]):
            words[W_RIP] = rip
            self.cpu.refresh()
            if not self._through_bounce(rip, gva):  # both know whether this is #GP or #SS
                self._step()
            return self._go()
        try:
            if (gva & PAGE - 1) + size <= PAGE and self.mmu.fill(gva, user, write):
                return at
            if write and (gva & PAGE - 1) + size <= PAGE and self._write_beside_code(at, gva, user, size):
                return at
        except Fault as fault:
            words[W_RIP] = rip
            if (size < 16 or not gva & 15) and not self._raw[SLOT["fpu"] + 2] & FSW_ES:
                self._raise(fault)
                return self._go()
        words[W_RIP] = rip  # what else the instruction raises may come before the page fault
        self.cpu.refresh()
        if not self._through_bounce(rip, gva):
            self._step()
        return self._go()

    def _write_beside_code(self, at: int, gva: int, user: int, size: int) -> bool:
        """Let one write to a page with code through, unless it hits the block that writes."""
        words = self._words
        gpa = self.mmu.find(gva, WRITE, bool(user)).gpa
        if self.mmu.number(gpa) < 0:
            return False
        if at < self._runtime_end:  # REP MOVS and REP STOS, which go on to the page's end
            size = min(words[W_RCX] << words[W_ELEMENT], PAGE - (gva & PAGE - 1))
            at = words[W_BLOCK_RETURN]
        self.blocks.written(gpa, size)
        block = self.blocks.block_at(at)
        if block is None or block.dead:
            return False
        self.mmu.fill(gva, user, 0)
        return True

    def _through_bounce(self, rip: int, gva: int) -> bool:
        try:
            return self._bounce.carry_out(self, self._fetch(rip), self._mode_for_bounce(), gva)
        except Fault as fault:
            self._words[W_RIP] = rip
            self._raise(fault)
            return True

    def _on_interpret(self) -> int:
        self._step()
        return self._go()

    def _on_chain(self) -> int:
        words, blocks = self._words, self.blocks
        stub = words[W_RETURN]
        block = blocks.block_at(stub)
        if block is None:
            raise InternalError("a jump of no block", where="translate")
        place, target = block.jump_of(stub)
        words[W_RIP] = target
        generation = blocks.generation
        found = self._locate(target)
        if found is None:
            return 0
        if generation == blocks.generation and words[W_RIP] == target:
            blocks.patch(block, place, found.body if found.page is block.page else found.entry)
        return found.entry

    def _on_jump(self) -> int:
        words = self._words
        rip = words[W_SCRATCH]
        words[W_RIP] = rip
        if words[W_MODE] & WIDE and not canonical(rip, self.cpu.sregs["cr4"]):
            self._take_back_jump()
            self._raise(Fault(GP, 0))
            return self._go()
        if words[W_ATTENTION]:
            return 0
        found = self._locate(rip)
        if found is None or words[W_RIP] != rip:
            return 0 if found is None else found.entry
        self._remember(rip, found)
        return found.entry

    def _take_back_jump(self) -> None:
        """RIP and RSP as they were before a jump, call or return to an address that isn't canonical."""
        words = self._words
        if words[W_RETURN] < self._runtime_end:
            return
        words[W_RIP] = self._rip_of(words[W_RETURN])
        code = self._fetch(words[W_RIP])
        length, opcode, _, _, modrm, _ = decode(code, 0, True)
        if opcode == 0xFF and code[modrm] >> 3 & 7 == 2:
            words[W_RSP] += 8
        elif opcode == 0xC3:
            words[W_RSP] -= 8
        elif opcode == 0xC2:
            words[W_RSP] -= 8 + int.from_bytes(code[length - 2 : length], "little")

    def _remember(self, rip: int, block: Block) -> None:
        """Put ``block`` into the jump cache."""
        user, at = block.page.mode & USER, jump_index(rip)
        self._words[(context.JUMP_TAG[user] >> 3) + at] = -rip & M64
        self._words[(context.JUMP_HOST[user] >> 3) + at] = block.entry

    def _is_remembered(self, block: Block) -> bool:
        tag = (context.JUMP_TAG[block.page.mode & USER] >> 3) + jump_index(block.start & M64)
        return self._words[tag] == -block.start & M64

    def _on_attention(self) -> int:
        at = self._words[W_RETURN]
        if at:
            self._words[W_RIP] = self._rip_of(at)
        return 0

    def _on_page_check(self) -> int:
        words = self._words
        at = words[W_RETURN]
        block = self.blocks.block_at(at + 1)
        if block is None:
            raise InternalError("a page check of no block", where="translate")
        rip = block.start & M64
        words[W_RIP] = rip
        if at != block.body:  # of the page in which the instruction ends
            return self._check_second(block, at)
        generation = self.blocks.generation
        found = self._locate(rip)
        if found is None:
            return 0
        if generation == self.blocks.generation and words[W_RIP] == rip:
            tag = (context.JUMP_TAG[found.page.mode & USER] >> 3) + jump_index(rip)
            if words[tag] == -rip & M64:
                self._remember(rip, found)
        return found.entry

    def _check_second(self, block: Block, at: int) -> int:
        try:
            second = self._code_page(block.page.gva + PAGE & (M64 if block.page.mode & WIDE else 0xFFFF_FFFF))
        except Fault as fault:
            self._raise(fault)
            return self._go()
        if second is not None and second is block.spill:
            return at
        self.blocks.kill(block)
        return self._go()

    def _on_stale(self) -> int:
        block = self.blocks.block_at(self._words[W_RETURN])
        if block is None:
            raise InternalError("the end of no block", where="translate")
        words = self._words
        rip = words[W_RIP] = block.start & M64
        generation = self.blocks.generation
        found = self._locate(rip)
        if found is None:
            return 0
        if generation == self.blocks.generation and words[W_RIP] == rip and found.page is block.page:
            self.blocks.forward(block, found)
        return found.entry

    def _on_sti(self) -> int:
        """Interrupts are on, and one waits: it is taken after the next instruction."""
        self._step()
        return 0

    def _on_signal(self) -> int:
        words = self._words
        number, host = words[W_SIGNAL], words[W_SIGNAL_RIP]
        block = self.blocks.block_at(host + 1) if host >= self._runtime_end else None
        if block is None:
            raise InternalError(
                f"signal {number} in emitted code at {host - self.blocks.base:#x}: {self.registers_text()}",
                where="translate",
            )
        rip = block.rip(host + 1)
        words[W_RIP] = rip
        self.cpu.refresh()
        fault = self._fault_of(number)
        if fault is None:
            raise InternalError(
                f"signal {number} in emitted code for {rip:#x}: {self.registers_text()}", where="translate"
            )
        self._raise(fault)
        return self._go()

    def _fault_of(self, number: int) -> Fault | None:
        """The guest's exception for a signal of emitted code; None where it is our own fault."""
        vector = self._words[W_SIGNAL_VECTOR]
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

    def _may_use(self, port: int, size: int) -> bool:
        """Whether code of ring 3 may use a port, as far as is quickly known (Intel SDM vol. 1 §19.5)."""
        if self._words[W_SYSTEM_FLAGS] & RFLAGS_IOPL == RFLAGS_IOPL:
            return True
        task = self.cpu.sregs["tr"]
        try:
            start = self.linear.read_system(task["base"] + TSS_IO_MAP_BASE, 2) + (port >> 3)
            if start + 1 > task["limit"]:
                return False
            bits = self.linear.read_system(task["base"] + start, 2)
        except Fault:
            return False
        return not bits >> (port & 7) & (1 << size) - 1

    def _port_by_interpreter(self, argument: int) -> int:
        words = self._words
        words[W_RIP] = words[W_RIP] - (argument >> 12 & 15) & M64
        self._step()
        return self._go()

    def _on_port_out(self) -> int:
        words = self._words
        argument = words[W_ARGUMENT]
        size = argument & 7
        port = argument >> 16 if argument & 0x100 else words[W_RDX] & 0xFFFF
        if argument & 0x200 and not self._may_use(port, size):
            return self._port_by_interpreter(argument)
        value = words[W_RAX] & (0xFF, 0xFFFF, 0, 0xFFFF_FFFF)[size - 1]
        writer = self._ports.writes.get(size << 16 | port)
        with self._lock:
            if writer is not None:
                writer[0](writer[1], size, value)
            else:
                self._ports.write(port, size, value)
        return 0 if words[W_ATTENTION] else words[W_RETURN]

    def _on_port_in(self) -> int:
        words = self._words
        argument = words[W_ARGUMENT]
        size = argument & 7
        port = argument >> 16 if argument & 0x100 else words[W_RDX] & 0xFFFF
        if argument & 0x200 and not self._may_use(port, size):
            return self._port_by_interpreter(argument)
        reader = self._ports.reads.get(size << 16 | port)
        with self._lock:
            value = reader[0](reader[1], size) if reader is not None else self._ports.read(port, size)
        if size == 4:
            words[W_RAX] = value & 0xFFFF_FFFF
        else:
            mask = (1 << 8 * size) - 1
            words[W_RAX] = words[W_RAX] & ~mask | value & mask
        return 0 if words[W_ATTENTION] else words[W_RETURN]

    def _on_event(self) -> int:
        """A log of the TLB was full, or a large page was dropped: everything goes."""
        self.mmu.forget()
        return self._words[W_BLOCK_RETURN]

    def _on_bounce(self) -> int:
        raise InternalError("the bounce buffer's code was entered by a guest", where="translate")

    # The face

    def settle(self) -> None:
        """Nothing is half done between two runs."""

    def state(self) -> dict[str, Any]:
        cpu = self.cpu
        cpu.refresh()
        assert cpu.debug is not None
        return {
            "regs": dict(cpu.regs),
            "sregs": {
                name: dict(value) if isinstance(value, dict) else value for name, value in cpu.sregs.items()
            },
            "xsave": cpu._xsave(),
            "msrs": {number: cpu.msrs[number] for number in cpu.msrs},
            "tsc": self.tsc(),
            "debug": list(cpu.debug),
            "mp_state": HALTED if cpu.halted else RUNNABLE,
            "nmi_masked": cpu.nmi_masked,
            "interrupt_shadow": cpu.interrupt_shadow,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take what ``state`` has."""
        cpu = self.cpu
        if "sregs" in state:
            for name, value in state["sregs"].items():
                cpu.sregs[name] = dict(value) if isinstance(value, dict) else value
            cpu.commit()
        if "regs" in state:
            cpu.regs.update(state["regs"])
        if "xsave" in state:
            self._raw[SLOT["fpu"] : SLOT["fpu"] + 512] = state["xsave"][:512]
        for number, value in state.get("msrs", {}).items():
            cpu.msrs[number] = value
        if "tsc" in state:
            self._set_tsc(state["tsc"])
        if "debug" in state:
            cpu.debug = list(state["debug"])
        cpu.halted = state.get("mp_state", RUNNABLE) == HALTED
        cpu.nmi_masked = state.get("nmi_masked", False)
        cpu.interrupt_shadow = state.get("interrupt_shadow", False)
        self._flush(None)

    def halted_for_ever(self) -> bool:
        return self.cpu.halted and not self._words[W_IF] and not self._nmi

    def exit_names(self) -> dict[int, str]:
        return dict(enumerate(REASONS))

    def close(self) -> None:
        if self._mapping.address:
            self._signals.close()
            if self._store is not None:
                self._store.save(self.blocks, self._is_remembered)
            self.blocks.close()
            self._words.release()
            self._halves.release()
            self._raw.release()


class _Ports:
    """The port bus, for the interpreter: under the device lock."""

    def __init__(self, bus: PortBus, lock: threading.Lock) -> None:
        self._bus = bus
        self._lock = lock

    def read(self, port: int, size: int) -> int:
        with self._lock:
            return self._bus.read(port, size)

    def write(self, port: int, size: int, value: int) -> None:
        with self._lock:
            self._bus.write(port, size, value)


def _make_rdtsc() -> Callable[[], int]:
    from pykvm.translate.memory import executable

    code = executable(4096)
    body = bytes.fromhex("0f31 48c1e220 4809d0 c3")
    code.view[: len(body)] = body
    function = ctypes.PYFUNCTYPE(ctypes.c_uint64)(code.address)
    function.keep = code  # type: ignore[attr-defined]
    return function


_rdtsc = _make_rdtsc()

__all__ = ["CR0_PG", "SEGMENTS", "TranslatedCpu"]
