"""A vCPU's thread, and how the others get a word in: kick, pause, calls, stop.

A kick is ``wake`` (KVM: ``immediate_exit = 1``) and then a signal to the thread, whose handler does
nothing: one of the two ends KVM_RUN, wherever the thread is just then. The vCPU takes the wake back
before it looks at what is wanted of it; the other order would lose kicks.
"""

from __future__ import annotations

import signal
import threading

from pykvm.frozen import replace
from pykvm.libc.reserve import reserve
from pykvm.machine import verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.machine.face import Cpu
    from pykvm.machine.verdict import Cause

KICK = signal.SIGRTMIN

RUN, PAUSE, STOP = "run", "pause", "stop"


class Gate:
    """Where vCPUs wait while the machine is paused: what is wanted, and who has arrived.

    Nothing is wanted after STOP: who still says PAUSE then comes too late.
    """

    def __init__(self) -> None:
        self.wanted = PAUSE
        self.waiting = 0
        self.changed = threading.Condition()

    def want(self, wanted: str) -> None:
        with self.changed:
            if self.wanted != STOP:
                self.wanted = wanted
            self.changed.notify_all()


class VcpuThread:
    """Runs one vCPU until it is told to stop or the guest ends; ``ended`` gets the cause."""

    def __init__(self, cpu: Cpu, gate: Gate, ended: Callable[[Cause], None]) -> None:
        self.cpu = cpu
        self._gate = gate
        self._ended = ended
        self._calls: list[Callable[[Cpu], None]] = []
        # Held while a signal is sent: a thread that has ended must not be sent one (pthread_kill(3)).
        self._sending = threading.Lock()
        self._ready = False
        self._thread = threading.Thread(target=self._main, name=f"vcpu{cpu.index}", daemon=True)

    def start(self) -> None:
        """Start the thread; it waits at the gate until the machine runs."""
        self._thread.start()

    def kick(self) -> None:
        """Bring the vCPU out of the guest, to look at the gate and its calls. From any thread."""
        self.cpu.wake()
        with self._sending:
            if self._ready and self._thread.ident is not None:
                signal.pthread_kill(self._thread.ident, KICK)

    @property
    def is_lost(self) -> bool:
        """Whether the thread ended and couldn't say so, as only where not a byte of memory is left."""
        return self._ready and not self._thread.is_alive()

    def call(self, action: Callable[[Cpu], None]) -> None:
        """Have ``action`` called with the settled vCPU, on its own thread. From any thread."""
        self._calls.append(action)
        self.kick()

    def join(self) -> None:
        """Wait for the thread's end. The machine kicks until then: a signal may come too early."""
        while self._thread.is_alive():
            self.kick()
            self._thread.join(0.05)

    def _main(self) -> None:
        self._ready = True
        try:
            cause = self._run()
        except BaseException as error:  # the thread's last word: the machine must hear of it
            reserve.clear()
            cause = verdict.fault(error)
        if cause is not None:
            if cause.crash is not None:  # the post-mortem is to look at this one
                cause = replace(cause, crash={**cause.crash, "cpu": self.cpu.index})
            self._ended(cause)
        with self._sending:
            self._ready = False
        with self._gate.changed:  # it is where it can do no more, and so need not be waited for
            self._gate.waiting += 1
            self._gate.changed.notify_all()

    def _run(self) -> Cause | None:
        cpu, gate = self.cpu, self._gate
        while True:
            if gate.wanted != RUN and self._wait() == STOP:
                return None
            cause = cpu.run()
            if cause is not None:
                return cause
            while self._calls:
                cpu.settle()
                self._calls.pop(0)(cpu)

    def _wait(self) -> str:
        gate = self._gate
        self.cpu.settle()
        with gate.changed:
            gate.waiting += 1
            gate.changed.notify_all()
            while gate.wanted == PAUSE:
                gate.changed.wait()
            gate.waiting -= 1
            return gate.wanted
