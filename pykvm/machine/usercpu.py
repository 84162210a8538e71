"""A vCPU of KVM's whose interrupt controllers are pykvm's own (`interrupts: user`).

KVM then knows of no interrupt but the one that it is given: before each entry the local APIC is asked,
and has its vector queued (KVM_INTERRUPT) where the guest can take it just then; where it can't, KVM is
asked to leave the guest as soon as it can (``request_interrupt_window``). HLT leaves the guest too, and
the thread sleeps until its APIC or somebody else has something for it.

IA32_APIC_BASE and CR8 stay in KVM, which tells of them in the run page after each exit. KVM leaves the
guest when it lowers CR8 (KVM_EXIT_SET_TPR), so that what waited for that can come. CPUID offers neither
x2APIC mode nor the TSC deadline, whose MSRs KVM answers without a word to us.

Source: Documentation/virt/kvm/api.rst, KVM_INTERRUPT and "The kvm_run structure".
"""

from __future__ import annotations

import threading
from errno import EINTR

from pykvm.devices.physical import ApicFirst
from pykvm.kvm import abi
from pykvm.kvm.run import (
    APIC_BASE,
    CR8,
    IF_FLAG,
    IMMEDIATE_EXIT,
    READY_FOR_INTERRUPT_INJECTION,
    REQUEST_INTERRUPT_WINDOW,
)
from pykvm.machine.accesses import Accesses
from pykvm.machine.kickedcpu import KickedCpu
from pykvm.machine.kvmcpu import KvmCpu
from pykvm.x86 import entry
from pykvm.x86.registers import MP_STATE_HALTED, MP_STATE_RUNNABLE, MP_STATE_UNINITIALIZED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pykvm.devices.bus import MemoryBus, PortBus
    from pykvm.devices.lapic import LocalApic
    from pykvm.kvm.vcpu import Vcpu
    from pykvm.machine.verdict import Cause
    from pykvm.memory import GuestMemory

IA32_APIC_BASE = 0x1B
NO_EVENTS = {
    "flags": abi.CONSTANTS["KVM_VCPUEVENT_VALID_NMI_PENDING"] | abi.CONSTANTS["KVM_VCPUEVENT_VALID_SHADOW"]
}

# Where a CPU begins after INIT and after SIPI: selector and base of CS, IP (SDM vol. 3 §9.1.4, §8.4.4)
RESET_VECTOR = (0xF000, 0xFFFF_0000, 0xFFF0)


class UserInterruptCpu(KickedCpu):
    """It is the ``Core`` of its local APIC, which ``connect`` brings."""

    def __init__(
        self, vcpu: Vcpu, ports: PortBus, mmio: MemoryBus, memory: GuestMemory, lock: threading.Lock
    ) -> None:
        super().__init__(vcpu, ports, mmio, memory, lock)
        self._enter = self._enter_with_interrupts
        self._base: int | None = None  # IA32_APIC_BASE, as the APIC knows it
        self._cr8 = 0  # the same, as it was put into the run page
        self._attention = True  # there is something to see to before the next entry
        self._halted = False
        self._asleep = False
        self._news = threading.Event()
        # What was said by other threads and is to be done by the vCPU's own
        self._nmi = False
        self._init = False
        self._sipi: int | None = None

    def connect(self, apic: LocalApic) -> None:
        """Take ``apic`` for this CPU's own, before the first run."""
        self._apic = apic
        self._base = apic.read_msr(IA32_APIC_BASE)
        self._vcpu.set_sregs({"apic_base": self._base})
        self._mmio = ApicFirst(apic, self._mmio)
        self._accesses = Accesses(self._page, self._ports, self._mmio)

    # What the APIC says, on any thread, under the device lock

    def changed(self) -> None:
        self._attention = True
        if self._apic.has_interrupt():
            self._tell()

    def nmi(self) -> None:
        self._nmi = True
        self._tell()

    def init(self) -> None:
        self._init, self._sipi = True, None
        self._tell()

    def start(self, vector: int) -> None:
        self._sipi = vector
        self._tell()

    def _tell(self) -> None:
        """Have the vCPU look. Its own thread does so anyway, before the next entry and when it wakes."""
        self._attention = True
        if self._asleep:
            self._news.set()
        else:
            self._bring_out()

    # Into the guest and out again

    def _enter_with_interrupts(self) -> int:
        """KVM_RUN, as ``Vcpu.run``; where nothing has changed since the last it is that and two looks."""
        if self._attention and not self._see_to():
            return EINTR
        vcpu = self._vcpu
        left = vcpu.enter() and vcpu.left()
        u64 = self._page.u64
        if u64[CR8] != self._cr8 or u64[APIC_BASE] != self._base:
            self._follow()
        return left

    def _see_to(self) -> bool:
        """Sleep, or make the interrupt that is due known to KVM; False where a kick ended the sleep."""
        apic, u8 = self._apic, self._page.u8
        self._attention = False  # before looking: what comes after sets it again
        if (self._halted or apic.waiting) and not self._sleep():
            self._attention = True
            return False
        if self._nmi or self._init or self._sipi is not None:
            self._do_as_told()
        window = 0
        if apic.has_interrupt():
            if u8[READY_FOR_INTERRUPT_INJECTION]:
                self._inject()
            if apic.has_interrupt():
                window = 1
                self._attention = True
        u8[REQUEST_INTERRUPT_WINDOW] = window
        self._page.u64[CR8] = self._cr8 = apic.cr8
        if self._halted or apic.waiting:
            self._attention = True
        return True

    def _inject(self) -> None:
        with self._lock:
            if not self._apic.has_interrupt():  # it went away just now
                return
            vector = self._apic.acknowledge()
        self._vcpu.interrupt(vector)
        self._page.u8[READY_FOR_INTERRUPT_INJECTION] = 0  # one at a time: KVM sets it anew

    def _follow(self) -> None:
        """The guest has written CR8 or IA32_APIC_BASE, which KVM has checked."""
        u64 = self._page.u64
        with self._lock:
            if u64[APIC_BASE] != self._base:
                self._base = base = u64[APIC_BASE]
                self._apic.write_msr(IA32_APIC_BASE, base)
                self._accesses.memory.clear()
                self._attention = True
            if u64[CR8] != self._cr8:
                self._apic.cr8 = u64[CR8] & 0xF
                self._cr8 = u64[CR8]

    def _sleep(self) -> bool:
        """Wait until the CPU, halted or not yet started, has a reason to run; False where a kick came."""
        u8 = self._page.u8
        self._asleep = True
        try:
            while True:
                self._news.clear()  # before looking: what comes after sets it again
                if self._wakes():
                    self._halted = False
                    return True
                if u8[IMMEDIATE_EXIT]:
                    return False
                self._news.wait()
        finally:
            self._asleep = False

    def _wakes(self) -> bool:
        if self._init or self._sipi is not None:
            return True
        if self._apic.waiting:
            return False
        return self._nmi or (self._apic.has_interrupt() and bool(self._page.u8[IF_FLAG]))

    def _do_as_told(self) -> None:
        """NMI, INIT and SIPI, on the vCPU's own thread."""
        with self._lock:
            nmi, init, sipi = self._nmi, self._init, self._sipi
            self._nmi, self._init, self._sipi = False, False, None
        self._halted = False
        if init or sipi is not None:
            self.settle()
            where = RESET_VECTOR if sipi is None else (sipi << 8, sipi << 12, 0)
            super().load(_started(*where))
            self._vcpu.set_events(NO_EVENTS)
            # The run page tells of the CPU as it was; a kick may have come while we settled.
            self._page.u8[READY_FOR_INTERRUPT_INJECTION] = 0
            self._page.u8[IMMEDIATE_EXIT] = 1
        elif nmi:
            self._vcpu.nmi()

    def wake(self) -> None:
        super().wake()
        self._news.set()

    def settle(self) -> None:
        self._page.u64[CR8] = self._apic.cr8
        super().settle()

    # Exits

    def _hlt(self) -> None:
        self._halted = self._attention = True

    def _internal_error(self) -> Cause | None:
        cause = super()._internal_error()
        # What was finished for KVM may have changed the interrupt flag.
        self._page.u8[READY_FOR_INTERRUPT_INJECTION] = 0
        return cause

    # State

    def state(self) -> dict[str, Any]:
        if self._nmi or self._init or self._sipi is not None:
            self._do_as_told()  # so that it is in KVM's part of the state
        return {**super().state(), "mp_state": self._activity}

    @property
    def _activity(self) -> int:
        if self._apic.waiting:
            return MP_STATE_UNINITIALIZED
        return MP_STATE_HALTED if self._halted else MP_STATE_RUNNABLE

    def load(self, state: dict[str, Any]) -> None:
        parts = dict(state)
        self._halted = parts.pop("mp_state", MP_STATE_RUNNABLE) == MP_STATE_HALTED
        if "sregs" in parts:
            self._base = parts["sregs"].get("apic_base", self._base)
        super().load(parts)
        self._attention = True
        self._accesses.memory.clear()  # its APIC may be elsewhere
        self._page.u8[READY_FOR_INTERRUPT_INJECTION] = 0

    def halted_for_ever(self) -> bool:
        stands = self._apic.waiting or (self._halted and not self._page.u8[IF_FLAG])
        return stands and not self._wakes()


def _started(selector: int, base: int, ip: int) -> dict[str, Any]:
    """Real mode as INIT leaves it, at ``base + ip`` (SDM vol. 3 table 9-1); the APIC's base stays."""
    state = entry.real(0, stack=0)
    sregs = state["sregs"]
    del sregs["apic_base"]
    sregs["cs"].update(selector=selector, base=base)
    sregs["idt"] = {"base": 0, "limit": 0xFFFF}
    state["regs"]["rip"] = ip
    return state


UserInterruptCpu.handlers = {
    **KvmCpu.handlers,
    abi.KVM_EXIT_HLT: UserInterruptCpu._hlt,
    abi.KVM_EXIT_SET_TPR: KvmCpu._again,
    abi.KVM_EXIT_INTERNAL_ERROR: UserInterruptCpu._internal_error,
}
