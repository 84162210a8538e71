"""A built machine and its life: built → running ⇄ paused → stopped, and by ``clear`` to be built again.

Only the main thread changes the state. All others post a cause; the first cause is the verdict.
"""

from __future__ import annotations

import os
import select
import threading
import time

from pykvm.libc.reserve import reserve
from pykvm.machine import verdict
from pykvm.machine.clock import MachineClock
from pykvm.machine.io import IoLoop
from pykvm.machine.vcpu import PAUSE, RUN, STOP, Gate, VcpuThread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol, TypeVar

    from pykvm.config.model import MachineConfig
    from pykvm.devices.device import Device
    from pykvm.machine.face import Cpu
    from pykvm.machine.verdict import Cause
    from pykvm.terminal.console import Console
    from pykvm.terminal.display import Display

    class Closer(Protocol):
        def close(self) -> object: ...

    T = TypeVar("T", bound=Closer)


class Event:
    """A pipe that wakes the main thread. ``writer`` serves ``signal.set_wakeup_fd`` as well."""

    def __init__(self) -> None:
        self.fd, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def set(self) -> None:
        try:
            os.write(self.writer, b"\0")
        except BlockingIOError:  # full: it is set, and how
            return

    def clear(self) -> bool:
        """Unset it; False where it was not set."""
        try:
            return bool(os.read(self.fd, 4096))
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self.fd)
        os.close(self.writer)


class Machine:
    """The parts, and what is done with all of them at once.

    ``own`` each part that must be closed as soon as it is open: ``close`` goes through them
    backwards, whatever happened. What lies outside and outlives a reset of the machine, as the screen
    of a PC does, is for ``keep``.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.lock = threading.Lock()
        """The device lock: whoever calls into a device holds it."""
        self.cpus: list[VcpuThread] = []
        self.devices: dict[str, Device] = {}
        self.consoles: dict[str, Console] = {}
        self.display: Display | None = None
        """The one of the consoles that is the screen and the keyboard."""
        self.cpuid_asked: list[dict[str, int]] = []
        self.cpuid_seen: list[dict[str, int]] = []
        """What KVM was asked to show as CPUID, and what the guest sees: KVM may put back what was off."""
        self.first_run_ns: int | None = None
        """``time.monotonic_ns`` of the first entry into the guest."""
        self.on_panic: Callable[[], None] = lambda: None
        """What to do when the guest tells of a panic by the pvpanic device; under the device lock."""
        self.restarts = 0
        """How often it was taken apart by ``clear`` to be built again."""
        self._exits: dict[str, int] = {}  # of the CPUs before the last restart
        self._kept: list[Closer] = []
        self._owned: list[Closer] = []
        self._causes: list[Cause] = []
        self._gate = Gate()
        self.event = self.keep(Event())
        self.loop = self.keep(IoLoop(self.lock, self.failed))
        self.clock = self.own(MachineClock(self.loop))

    def own(self, part: T) -> T:
        """Close ``part`` when the machine is closed."""
        self._owned.append(part)
        return part

    def keep(self, part: T) -> T:
        """Close ``part`` when the machine is closed, after all others, and not before."""
        self._kept.append(part)
        return part

    def add_cpu(self, cpu: Cpu) -> VcpuThread:
        """Give ``cpu`` a thread."""
        thread = VcpuThread(self.own(cpu), self._gate, self.post)
        self.cpus.append(thread)
        return thread

    def post(self, cause: Cause) -> None:
        """End the machine with ``cause``, unless it has one already. From any thread.

        No vCPU enters the guest again after this; those inside are fetched by the main thread.
        """
        self._causes.append(cause)
        for thread in self.cpus:
            thread.cpu.wake()
        self._gate.want(PAUSE)
        self.event.set()

    def failed(self, error: BaseException) -> None:
        """End the machine by a fault of a thread."""
        reserve.clear()
        self.post(verdict.fault(error))

    @property
    def cause(self) -> Cause | None:
        """Why the machine ended, once it has."""
        return self._causes[0] if self._causes else None

    def start(self) -> None:
        """Start all threads, with the machine paused. ``resume`` lets it run."""
        self.loop.start()
        for thread in self.cpus:
            thread.start()

    def resume(self) -> None:
        """Let time and the guest run."""
        if self.first_run_ns is None:
            self.first_run_ns = time.monotonic_ns()
        if not self._causes:
            with self.lock:
                self.clock.start()
            self._gate.want(RUN)

    def pause(self) -> None:
        """Bring all vCPUs to the gate and let time stand still. Returns when they are there."""
        if not self._causes:
            self.hold()

    def hold(self) -> None:
        """``pause``, also for a machine that has its cause: it stays as the cause left it."""
        self._gate.want(PAUSE)
        gate = self._gate
        with gate.changed:
            while gate.waiting < len(self.cpus) and gate.wanted == PAUSE:
                for thread in self.cpus:
                    thread.kick()
                gate.changed.wait(0.05)
        with self.lock:
            self.clock.stop()

    def wait(self, deadline: Callable[[], int | None]) -> Cause:
        """Wait for the end. ``deadline`` is called each time before the machine is waited for.

        It does what is due, and returns how many milliseconds it can wait (None: for ever).
        """
        self._wait(lambda: bool(self._causes), deadline)
        return self._causes[0]

    def wait_outside(self, deadline: Callable[[], int | None]) -> None:
        """Wait until it ends by a cause that is not the guest's own; which was the first remains."""
        self._wait(lambda: any(not verdict.is_guests(cause) for cause in self._causes), deadline)

    def _wait(self, over: Callable[[], bool], deadline: Callable[[], int | None]) -> None:
        poll = select.poll()
        poll.register(self.event.fd, select.POLLIN)
        while not over():
            if poll.poll(deadline()):
                self.event.clear()

    def nudge(self) -> None:
        """Let ``wait`` call its ``deadline`` again. From any thread, and from a signal handler."""
        self.event.set()

    def stop(self) -> None:
        """End all threads."""
        self._gate.want(STOP)
        for thread in self.cpus:
            thread.join()
        self.loop.stop()

    def drain(self, seconds: float | None) -> bool:
        """Bring out what the guest printed last, once the machine has stopped; whether that is all.

        A console waits up to ``seconds`` (None: for ever) for a reader that takes nothing, and none
        waits while ``event`` is set.
        """
        done = [console.drain(seconds, self.event.fd) for console in self.consoles.values()]
        return all(done)

    def exits(self) -> dict[str, int]:
        """How often the guest was left, by the reason's name, over all restarts."""
        told = dict(self._exits)
        for thread in self.cpus:
            names = thread.cpu.exit_names()
            for number, count in enumerate(thread.cpu.exits):
                if count:
                    name = names.get(number, str(number))
                    told[name] = told.get(name, 0) + count
        return told

    def clear(self) -> None:
        """Take it apart, but for what is kept, to be built again. A cause from outside remains."""
        self.stop()
        self._exits = self.exits()
        self._take_apart()
        self.cpus.clear()
        self.devices.clear()
        self._causes = [cause for cause in self._causes if not verdict.is_guests(cause)]
        self._gate = Gate()
        self.clock = self.own(MachineClock(self.loop))
        self.restarts += 1

    def close(self) -> None:
        """Stop, and give everything back to the host. Twice is once."""
        self.stop()
        self._take_apart()
        self._close(self._kept)

    def _take_apart(self) -> None:
        for console in self.consoles.values():
            console.detach()  # which outlives its port, and may still have something to write
        self._close(self._owned)

    def _close(self, parts: list[Closer]) -> None:
        while parts:
            parts.pop().close()
