"""A vCPU of KVM's that interrupt controllers of pykvm's own have something to tell, from any thread."""

from __future__ import annotations

import threading

from pykvm.machine.kvmcpu import KvmCpu

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.devices.bus import MemoryBus, PortBus
    from pykvm.kvm.vcpu import Vcpu
    from pykvm.machine.verdict import Cause
    from pykvm.memory import GuestMemory


class KickedCpu(KvmCpu):
    """``kick`` brings the vCPU out of the guest from another thread; whoever gives it a thread sets it."""

    def __init__(
        self, vcpu: Vcpu, ports: PortBus, mmio: MemoryBus, memory: GuestMemory, lock: threading.Lock
    ) -> None:
        super().__init__(vcpu, ports, mmio, memory, lock)
        self.kick: Callable[[], None] = self.wake
        self._thread = 0  # the identity of the vCPU's own, once it runs

    def run(self) -> Cause | None:
        self._thread = threading.get_ident()
        return super().run()

    def _bring_out(self) -> None:
        """Have the vCPU look. Its own thread does so anyway, before the next entry."""
        if threading.get_ident() != self._thread:
            self.kick()
