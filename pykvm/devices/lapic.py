"""The local APIC: what a CPU is interrupted with, and by whom.

Interrupts arrive from the bus (`apicbus`: IOAPIC, MSIs, other CPUs) or from within by way of an LVT (the
timer, the two LINT pins, errors), and queue by priority (`lapicvectors`). LINT0 is where the PIC pair's
INTR goes in: with delivery mode ExtINT the CPU asks the PIC for the vector. By the ICR a CPU interrupts,
resets and starts others.

The CPU reaches its APIC through a page of memory or, in x2APIC mode, through MSRs (`lapicregisters`),
and hears of it by ``Core``. All calls are made under the device lock, but for ``has_interrupt``, which
anybody may ask at any time.

Source: Intel SDM vol. 3A chapter 10.
"""

from __future__ import annotations

from pykvm.devices import lapicregisters as reg
from pykvm.devices.apicbus import EXTINT, FIRST_VECTOR, FIXED, INIT, LOWEST_PRIORITY, NMI, STARTUP, wide
from pykvm.devices.lapicidentity import Identity
from pykvm.devices.lapictimer import ApicTimer
from pykvm.devices.lapicvectors import Vectors
from pykvm.devices.line import Input

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from pykvm.devices.apicbus import ApicBus
    from pykvm.devices.device import Clock, State

    class Core(Protocol):
        """The CPU, as its APIC sees it."""

        def changed(self) -> None:
            """``has_interrupt`` or ``cr8`` may have a new answer."""
            ...

        def nmi(self) -> None:
            """A non-maskable interrupt."""
            ...

        def init(self) -> None:
            """INIT: reset the registers, then start or, where ``apic.waiting``, wait for ``start``."""
            ...

        def start(self, vector: int) -> None:
            """SIPI: start in real mode at ``vector << 12``."""
            ...


LINT0, LINT1 = 0, 1
EXTINT_LVT = EXTINT << reg.MODE_SHIFT


class LocalApic:
    """The APIC of the CPU ``core``, with its id, on ``bus``.

    ``intack`` is the PIC pair's acknowledge; ``tsc`` reads the guest's TSC, which runs at ``tsc_hz``.
    ``bootstrap`` is true of the CPU that starts first, ``x2apic`` where CPUID offers that mode;
    ``physical_bits`` is the width of physical addresses that CPUID tells.

    ``waiting`` says that the CPU waits for a SIPI.
    """

    def __init__(
        self,
        apic_id: int,
        core: Core,
        bus: ApicBus,
        clock: Clock,
        tsc: Callable[[], int],
        tsc_hz: int,
        intack: Callable[[], int],
        *,
        bootstrap: bool,
        x2apic: bool = True,
        physical_bits: int = 36,
    ) -> None:
        self.before: Callable[[], None] = lambda: None
        """Called before a register is read."""
        self._identity = Identity(apic_id, bootstrap=bootstrap, x2apic=x2apic, physical_bits=physical_bits)
        self.matches = self._identity.matches
        self._core = core
        self._bus = bus
        self._intack = intack
        self._vectors = Vectors()
        self._timer = ApicTimer(clock, tsc, tsc_hz, lambda: self.signal(reg.LVT_TIMER))
        self.tsc_moved = self._timer.tsc_moved
        self.lint0, self.lint1 = Input(self._set_pin, LINT0), Input(self._set_pin, LINT1)
        self._pins = [False, False]
        self._ready = False
        # What a register does when it is written, and how it is read where it isn't kept
        self._effects: dict[int, Callable[[int], None]] = {
            reg.TPR: self._set_tpr,
            reg.EOI: self._end,
            reg.LDR: self._set_ldr,
            reg.DFR: self._set_dfr,
            reg.SVR: self._enable_or_disable,
            reg.ESR: self._show_errors,
            reg.ICR_LOW: self._send,
            reg.LVT_TIMER: self._configure_timer,
            reg.LVT_LINT0: self._configure_lint0,
            reg.INITIAL_COUNT: self._timer.set_initial,
            reg.DIVIDE: self._timer.set_divide,
            reg.SELF_IPI: self._send_to_self,
        }
        self._computed: dict[int, Callable[[], int]] = {
            reg.ID: lambda: self._identity.register,
            reg.VERSION: lambda: reg.RESET[reg.VERSION],
            reg.TPR: lambda: self._vectors.tpr,
            reg.APR: lambda: self._vectors.apr,
            reg.PPR: lambda: self._vectors.ppr,
            reg.EOI: lambda: 0,
            reg.LDR: lambda: self._identity.ldr,
            reg.DFR: lambda: self._identity.dfr,
            reg.LVT_LINT0: lambda: self._kept[reg.LVT_LINT0] | self._lint0_remote_irr * reg.LVT_REMOTE_IRR,
            reg.INITIAL_COUNT: lambda: self._timer.initial,
            reg.CURRENT_COUNT: self._timer.current,
            reg.DIVIDE: lambda: self._timer.divide,
        }
        self.reset()

    def reset(self) -> None:
        """Power-up: the bootstrap CPU runs, the others wait for a SIPI."""
        self._identity.reset()
        self._init()

    def _init(self) -> None:
        """INIT: as after power-up, but that base, id and mode stay (§10.4.7.3, §10.12.5.1)."""
        self.waiting = not self._identity.is_bootstrap
        self._clear()

    def _clear(self) -> None:
        self._identity.clear()
        self._kept = {offset: reg.RESET[offset] for offset in reg.KEPT}
        if self._identity.is_bootstrap:
            # Firmware leaves the bootstrap CPU in virtual wire mode (MultiProcessor Specification
            # §3.6.2.2), and kernels that never look at an APIC rely on it.
            self._kept[reg.LVT_LINT0] = EXTINT_LVT
        self._external = False  # an ExtINT message came, and was not acknowledged yet
        self._lint0_remote_irr = False
        self._errors = 0  # since the last write to ESR
        self._vectors.clear()
        self._timer.reset()
        self._follow()

    # What the CPU asks

    def has_interrupt(self) -> bool:
        """Whether there is an interrupt to take as soon as RFLAGS.IF lets it."""
        return self._ready

    def acknowledge(self) -> int:
        """The CPU takes an interrupt: its vector, the spurious one if there is none any more (§10.9)."""
        if self._intr:
            self._external = False
            vector = self._intack()
        elif self._vectors.asks:
            vector = self._vectors.take()
        else:
            return self._kept[reg.SVR] & reg.VECTOR
        self._follow()
        return vector

    @property
    def cr8(self) -> int:
        """The CPU's CR8: the class of TPR (§10.8.6)."""
        return self._vectors.tpr >> 4

    @cr8.setter
    def cr8(self, value: int) -> None:
        self._set_tpr(value << 4)

    def _follow(self) -> None:
        ready = self._intr or self._vectors.asks
        if ready != self._ready:
            self._ready = ready
            self._core.changed()

    @property
    def _intr(self) -> bool:
        """The PIC has something, and this CPU is the one to ask for it."""
        return self._external or (self._pins[LINT0] and self._passes_intr)

    # What the bus asks

    @property
    def enabled(self) -> bool:
        """By software: without, no fixed interrupt is taken (§10.4.7.2)."""
        return bool(self._kept[reg.SVR] & reg.SVR_ENABLE)

    @property
    def arbitration_priority(self) -> int:
        return self._vectors.apr

    def accept(self, mode: int, vector: int, level: bool) -> bool:
        """Take a message; False where this APIC refuses it."""
        if mode in (FIXED, LOWEST_PRIORITY):
            if not self.enabled:
                return False
            if vector < FIRST_VECTOR:
                self._error(reg.ESR_RECEIVE_ILLEGAL_VECTOR)
                return False
            self._vectors.add(vector, level)
            self._follow()
        elif mode == EXTINT:
            self._external = True
            self._follow()
        elif mode == NMI:
            self._core.nmi()
        elif mode == INIT:
            self._init()
            self._core.init()
        elif mode == STARTUP and self.waiting:
            self.waiting = False
            self._core.start(vector)
        return True  # an SMI is taken and forgotten: there is no system management mode

    # Interrupts from within

    def signal(self, lvt: int) -> None:
        """The source of the LVT register at offset ``lvt`` has an interrupt (§10.5.1)."""
        entry = self._kept[lvt]
        if entry & reg.LVT_MASK:
            return
        if lvt == reg.LVT_PERF:  # each of its interrupts sets the mask (§10.5.1)
            self._kept[lvt] |= reg.LVT_MASK
        self.accept((entry & reg.MODE) >> reg.MODE_SHIFT, entry & reg.VECTOR, False)

    def _set_pin(self, pin: int, level: bool) -> None:
        rises = level and not self._pins[pin]
        self._pins[pin] = level
        if pin == LINT0 and (self._passes_intr or self._lint0_is_level):
            self._serve_lint0()
            self._follow()
        elif rises and self._identity.is_on:
            self.signal(reg.LVT_LINT0 + 16 * pin)
        elif rises:  # without an APIC the pins are the CPU's INTR and NMI (§10.4.3)
            self._core.nmi()

    @property
    def _passes_intr(self) -> bool:
        lint0 = self._kept[reg.LVT_LINT0] & (reg.MODE | reg.LVT_MASK)
        return lint0 == EXTINT_LVT or not self._identity.is_on

    @property
    def _lint0_is_level(self) -> bool:
        lint0 = self._kept[reg.LVT_LINT0] & (reg.MODE | reg.LVT_MASK | reg.LVT_LEVEL)
        return lint0 == reg.LVT_LEVEL  # and fixed, which is 0

    def _serve_lint0(self) -> None:
        """A level on LINT0 is an interrupt, and one more after each EOI for as long as it stays."""
        if self._lint0_is_level and self._pins[LINT0] and not self._lint0_remote_irr:
            self._lint0_remote_irr = self.accept(FIXED, self._kept[reg.LVT_LINT0] & reg.VECTOR, True)

    # What registers do when they are written

    def _set_tpr(self, value: int) -> None:
        self._vectors.tpr = value
        self._follow()
        self._core.changed()

    def _set_ldr(self, value: int) -> None:
        self._identity.ldr = value

    def _set_dfr(self, value: int) -> None:
        self._identity.dfr = value

    def _end(self, value: int) -> None:
        """EOI (§10.8.5). Whoever sent a level hears of it, and may send it again."""
        vector = self._vectors.end()
        if vector is not None and self._vectors.by_level(vector):
            if not self._kept[reg.SVR] & reg.SVR_SUPPRESS_EOI_BROADCAST:
                self._bus.eoi(vector)
            if self._kept[reg.LVT_LINT0] & reg.VECTOR == vector:
                self._lint0_remote_irr = False
                self._serve_lint0()
        self._follow()

    def _enable_or_disable(self, svr: int) -> None:
        """SVR. While it says disabled, the mask bits of all LVTs are set (§10.4.7.2)."""
        if not svr & reg.SVR_ENABLE:
            for lvt in reg.LVTS:
                self._write(lvt, self._kept[lvt])

    def _configure_lint0(self, value: int) -> None:
        self._lint0_remote_irr = self._lint0_remote_irr and self._lint0_is_level
        self._serve_lint0()
        self._follow()

    def _configure_timer(self, value: int) -> None:
        lvt = self._kept[reg.LVT_TIMER]  # masked where the APIC is disabled, whatever was written
        self._timer.configure(lvt >> reg.LVT_TIMER_MODE_SHIFT & 3, not lvt & reg.LVT_MASK)

    def _error(self, bit: int) -> None:
        """One interrupt tells of all errors until the next write to ESR (§10.5.3)."""
        first = not self._errors
        self._errors |= bit
        if first:
            self.signal(reg.LVT_ERROR)

    def _show_errors(self, value: int) -> None:
        self._kept[reg.ESR], self._errors = self._errors, 0

    def _send(self, low: int) -> None:
        """ICR: an interrupt for other CPUs (§10.6.1)."""
        mode, vector = (low & reg.MODE) >> reg.MODE_SHIFT, low & reg.VECTOR
        if mode in (FIXED, LOWEST_PRIORITY) and vector < FIRST_VECTOR:
            self._error(reg.ESR_SEND_ILLEGAL_VECTOR)
            return
        high = self._kept[reg.ICR_HIGH]
        self._bus.ipi(self, low, high if self._identity.is_x2apic else wide(high >> 24))

    def _send_to_self(self, vector: int) -> None:
        self._send(reg.TO_SELF << reg.ICR_SHORTHAND_SHIFT | vector)

    # The registers

    def _read(self, offset: int) -> int:
        self.before()
        if reg.ISR <= offset < reg.ESR:
            return self._vectors.row(offset - reg.ISR >> 4)
        computed = self._computed.get(offset)
        return self._kept[offset] if computed is None else computed()

    def _write(self, offset: int, value: int) -> None:
        if offset in self._kept:
            if offset in reg.LVTS and not self.enabled:
                value |= reg.LVT_MASK
            self._kept[offset] = value
        effect = self._effects.get(offset)
        if effect is not None:
            effect(value)

    @property
    def page(self) -> int | None:
        """The guest-physical address at which this CPU sees the registers, None where it doesn't."""
        return self._identity.page

    def read(self, offset: int, size: int) -> int:
        """Read the page: each 16 bytes begin with a register (§10.4.1)."""
        register = offset & ~0xF
        if register not in reg.IN_PAGE:
            self._error(reg.ESR_ILLEGAL_REGISTER)
            return 0
        return self._read(register) >> 8 * (offset & 0xF)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write the page: 32 bits where a register begins (§10.4.1); what is written otherwise is lost."""
        if size != 4 or offset & 0xF:
            return
        if offset not in reg.IN_PAGE:
            self._error(reg.ESR_ILLEGAL_REGISTER)
        elif offset in reg.PAGE_WRITES:
            writable = reg.WRITABLE[offset]
            self._write(offset, value & writable | reg.RESET[offset] & ~writable)

    def read_msr(self, number: int) -> int | None:
        """IA32_APIC_BASE, IA32_TSC_DEADLINE or 0x800 to 0x8FF; None is #GP."""
        if number == reg.IA32_APIC_BASE:
            return self._identity.base
        if number == reg.IA32_TSC_DEADLINE:
            return self._timer.deadline
        offset = number - reg.X2APIC_MSR << 4
        if not self._identity.is_x2apic or offset not in reg.MSR_READS:
            return None
        if offset == reg.ICR_LOW:
            return self._kept[reg.ICR_HIGH] << reg.ICR_HIGH_SHIFT | self._kept[reg.ICR_LOW]
        return self._read(offset)

    def write_msr(self, number: int, value: int) -> bool:
        """The same, written; False is #GP."""
        if number == reg.IA32_APIC_BASE:
            return self._set_base(value)
        if number == reg.IA32_TSC_DEADLINE:
            self._timer.set_deadline(value)
            return True
        offset = number - reg.X2APIC_MSR << 4
        if not self._identity.is_x2apic or offset not in reg.MSR_WRITES:
            return False
        low = value & 0xFFFF_FFFF if offset == reg.ICR_LOW else value
        if low & ~(reg.WRITABLE[offset] | reg.READ_ONLY_BITS.get(offset, 0)):
            return False
        if offset == reg.ICR_LOW:
            self._kept[reg.ICR_HIGH] = value >> reg.ICR_HIGH_SHIFT
        self._write(offset, low & reg.WRITABLE[offset])
        return True

    def _set_base(self, value: int) -> bool:
        was_on = self._identity.is_on
        if not self._identity.set_base(value):
            return False
        if was_on and not self._identity.is_on:
            self._clear()  # turned on again it is as after power-up (§10.4.3)
        self._follow()
        return True

    # State

    def save(self) -> State:
        return {
            "version": 1,
            "identity": self._identity.save(),
            "waiting": self.waiting,
            "registers": {reg.NAMES[offset]: value for offset, value in self._kept.items()},
            "vectors": self._vectors.save(),
            "timer": self._timer.save(),
            "pins": list(self._pins),
            "external": self._external,
            "lint0_remote_irr": self._lint0_remote_irr,
            "errors": self._errors,
        }

    def load(self, state: State) -> None:
        self._identity.load(state["identity"])
        self.waiting = state["waiting"]
        self._kept = {offset: state["registers"][reg.NAMES[offset]] for offset in reg.KEPT}
        self._vectors.load(state["vectors"])
        self._pins = list(state["pins"])
        self._external = state["external"]
        self._lint0_remote_irr = state["lint0_remote_irr"]
        self._errors = state["errors"]
        self._timer.load(state["timer"])
        self._follow()
        self._core.changed()
