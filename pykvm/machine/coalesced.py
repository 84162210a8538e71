"""Writes to a serial port that KVM keeps for a while, so that a byte costs one exit (of LSR) and not two.

Whoever prints byte by byte, as Linux does on its console, reads LSR and writes THR. KVM can put what is
written to a port into a ring (ring.py) and let the guest run on. What that would take from a guest is
that its byte is seen at once: nothing tells that there is something in the ring. So

- what KVM kept is delivered before anything else that a vCPU does outside the guest, in order;
- a port's writes are kept only while its guest prints without pause, and while somebody looks every few
  milliseconds (``Output``), who ends it as soon as the guest is silent;
- and never while the transmitter's interrupt is enabled: that comes by the write.

An exit is dearer than all that: of 17 µs for a byte (a loop in C, the host of HOSTS.md A) 11 are left.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.devices.bus import PortBus, Writer
    from pykvm.kvm.ring import Ring
    from pykvm.kvm.run import RunPage
    from pykvm.kvm.vm import Vm
    from pykvm.translate.keptbytes import KeptBytes


class CoalescedWrites:
    """Of one VM. All is called under the device lock."""

    def __init__(self, vm: Vm, ports: PortBus) -> None:
        self.writers: dict[int, tuple[Writer, int]] = {}
        """Who takes what is written, by the ports that KVM keeps writes of: without one the ring is empty."""
        self.page: RunPage | None = None
        """Of the first vCPU, once there is one."""
        self._vm = vm
        self._ports = ports
        self._ring: Ring | None = None

    status = None  # whoever asks for a serial port's status leaves KVM
    most = 0
    """Bytes that may be in the ring unseen: a guest that asks for room has left KVM to ask."""

    def deliver(self) -> None:
        """Carry out what is in the ring."""
        if self._ring is not None:
            self._ring.deliver(self.writers)

    def begin(self, port: int) -> None:
        """Have KVM keep what is written to ``port``, where it can."""
        if self._ring is None:
            number = self._vm.capability("KVM_CAP_COALESCED_MMIO")
            if self.page is None or not number or not self._vm.capability("KVM_CAP_COALESCED_PIO"):
                return
            from pykvm.kvm.ring import Ring  # late: few guests print so much

            self._ring = Ring(self.page, number)
        self.writers[port] = self._ports.writer(port, 1)  # first: a vCPU that leaves the guest is to look
        self._vm.coalesce(port)

    def stop(self, port: int) -> None:
        """No more; here the same as the end."""
        self.end(port)

    def end(self, port: int) -> None:
        """No more; and none is left in the ring."""
        self._vm.coalesce(port, on=False)
        self.deliver()
        del self.writers[port]


class Stream:
    """What is written to one port; ``Output`` says when it is much."""

    def __init__(self, writes: CoalescedWrites | KeptBytes, port: int) -> None:
        self.most = writes.most
        self._writes = writes
        self._port = port
        self._is_urgent = False

    @property
    def is_kept(self) -> bool:
        """Whether something may wait that ``deliver`` brings."""
        return self._port in self._writes.writers

    def keep(self) -> None:
        """Let KVM keep it from now on, unless it is urgent."""
        if not (self.is_kept or self._is_urgent):
            self._writes.begin(self._port)

    def deliver(self) -> None:
        """Bring what was kept."""
        self._writes.deliver()

    def stop(self) -> None:
        """Keep no more; what was kept is still to be brought."""
        if self.is_kept:
            self._writes.stop(self._port)

    def end(self) -> None:
        """Keep no more, and bring what was kept."""
        if self.is_kept:
            self._writes.end(self._port)

    def status(self, status: int) -> None:
        """What the serial port tells (devices/serial.py)."""
        if self._writes.status is not None:
            self._writes.status(self._port, status)

    def urgent(self, on: bool) -> None:
        """Whether something follows at once from what is written."""
        self._is_urgent = on
        if on:
            self.end()
