"""Interrupt controllers in two places (`interrupts: split`): local APICs in KVM, PIC pair and IOAPIC here::

    devices ─ input(n) ─┬► PIC pair ─ INTR ─► KVM_INTERRUPT ──────┐
                        └► IOAPIC ─ messages ─► KVM_SIGNAL_MSI ───┴► local APICs ─► CPU n
                             ▲ KVM_EXIT_IOAPIC_EOI ────────────────────────┘

A level-triggered input has to hear of its EOI. KVM tells it of the vectors that it finds in the routes of
the IOAPIC's inputs, so each such input has its message there, masked or not: what is being served when
an input is masked is still ended.

INTR goes to LINT0 of the bootstrap CPU only, where it is open after a reset. It is acknowledged when KVM says
that the guest can take it: the interrupt flag is set and LINT0 lets it through
(``ready_for_interrupt_injection``). Where it can't, KVM is asked to leave the guest as soon as it can
(``request_interrupt_window``). A vector that KVM was given and a kick then kept from the guest stays with
that vCPU: KVM has no call that reads it.

Source: Documentation/virt/kvm/api.rst, KVM_CAP_SPLIT_IRQCHIP, KVM_INTERRUPT, KVM_SIGNAL_MSI.
"""

from __future__ import annotations

import threading

from pykvm.devices.apicbus import as_msi
from pykvm.devices.ioapic import PINS
from pykvm.errors import HostError
from pykvm.kvm import abi
from pykvm.kvm.run import EOI_VECTOR, IMMEDIATE_EXIT, READY_FOR_INTERRUPT_INJECTION, REQUEST_INTERRUPT_WINDOW
from pykvm.machine.controllers import Chips
from pykvm.machine.kickedcpu import KickedCpu
from pykvm.machine.kvmcpu import KvmCpu

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pykvm.devices.bus import MemoryBus, PortBus
    from pykvm.devices.device import Device
    from pykvm.kvm.vcpu import Vcpu
    from pykvm.kvm.vm import Vm
    from pykvm.machine.verdict import Cause
    from pykvm.memory import GuestMemory


class SplitControllers:
    """PIC pair and IOAPIC, attached to the buses and entered in ``devices``, before ``vm`` has vCPUs.

    Raises HostError where the host's KVM can't do without them.
    """

    def __init__(self, vm: Vm, ports: PortBus, mmio: MemoryBus, devices: dict[str, Device]) -> None:
        if not vm.capability("KVM_CAP_SPLIT_IRQCHIP"):
            raise HostError(
                "this host's KVM has the interrupt controllers all in the kernel, or none",
                where="interrupts",
                remedy="write kernel or user, or leave it out",
            )
        vm.split_irqchip(PINS)
        self.intr = False  # the PIC pair's output
        self.bootstrap: SplitInterruptCpu | None = None
        self._vm = vm
        self._routes: dict[int, tuple[int, int]] = {}  # of the level-triggered inputs: address, data
        self._chips = Chips(ports, mmio, devices, self._deliver, self)
        self._chips.ioapic.on_entry = self._follow
        self.input = self._chips.input
        self.acknowledge = self._chips.pic.acknowledge
        self.eoi = self._chips.ioapic.eoi

    def set(self, level: bool) -> None:
        """INTR of the PIC pair goes to LINT0 of the bootstrap CPU."""
        self.intr = level
        if level and self.bootstrap is not None:
            self.bootstrap.look()

    def _deliver(self, destination: int, logical: bool, mode: int, vector: int, level: bool) -> bool:
        return self._vm.signal_msi(*as_msi(destination, logical, mode, vector, level))

    def _follow(self, pin: int) -> None:
        """Let KVM know of the entry of ``pin``, if that has changed what it is to tell us."""
        message = self._chips.ioapic.level(pin)
        route = None if message is None else as_msi(*message)
        if route == self._routes.get(pin):  # a guest masks and unmasks often, and KVM takes its time
            return
        if route is None:
            del self._routes[pin]
        else:
            self._routes[pin] = route
        self._vm.set_msi_routes([(gsi, *route) for gsi, route in self._routes.items()])


class SplitInterruptCpu(KickedCpu):
    """A vCPU whose local APIC is in KVM. ``connect`` brings the controllers that are not."""

    def __init__(
        self, vcpu: Vcpu, ports: PortBus, mmio: MemoryBus, memory: GuestMemory, lock: threading.Lock
    ) -> None:
        super().__init__(vcpu, ports, mmio, memory, lock)
        self._attention = False  # INTR is high, or the window is still asked for

    def connect(self, controllers: SplitControllers) -> None:
        """Before the first run; the first CPU takes the PIC pair's interrupts."""
        self._controllers = controllers
        if self.index == 0:
            controllers.bootstrap = self
            self._enter = self._enter_with_interrupts

    def look(self) -> None:
        """INTR has come, on any thread, under the device lock."""
        self._attention = True
        self._bring_out()

    def _enter_with_interrupts(self) -> int:
        """``Vcpu.enter``, behind what is to be done for the PIC pair."""
        # On the way to a kick the PIC pair keeps what it has, to be saved with it.
        if self._attention and not self._page.u8[IMMEDIATE_EXIT]:
            self._see_to()
        return self._vcpu.enter()

    def _see_to(self) -> None:
        u8 = self._page.u8
        with self._lock:
            if self._controllers.intr and u8[READY_FOR_INTERRUPT_INJECTION]:
                self._vcpu.interrupt(self._controllers.acknowledge())
                u8[READY_FOR_INTERRUPT_INJECTION] = 0  # one at a time: KVM sets it anew
            self._attention = self._controllers.intr
        u8[REQUEST_INTERRUPT_WINDOW] = self._attention

    # Exits

    def _ioapic_eoi(self) -> None:
        with self._lock:
            self._controllers.eoi(self._page.u8[EOI_VECTOR])

    def _internal_error(self) -> Cause | None:
        cause = super()._internal_error()
        # What was finished for KVM may have changed the interrupt flag.
        self._page.u8[READY_FOR_INTERRUPT_INJECTION] = 0
        return cause

    # State

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        self._page.u8[READY_FOR_INTERRUPT_INJECTION] = 0


SplitInterruptCpu.handlers = {
    **KvmCpu.handlers,
    abi.KVM_EXIT_IOAPIC_EOI: SplitInterruptCpu._ioapic_eoi,
    abi.KVM_EXIT_INTERNAL_ERROR: SplitInterruptCpu._internal_error,
}
