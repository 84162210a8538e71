"""From a machine's first instruction to the verdict: signals, deadlines, restarts, what is printed."""

from __future__ import annotations

import os
import signal
import time
from errno import ECONNRESET, EPIPE
from functools import partial

from pykvm.errors import HostError
from pykvm.libc.signals import only_interrupt
from pykvm.machine import verdict
from pykvm.machine.panic import PanicWatch
from pykvm.machine.vcpu import KICK
from pykvm.terminal.console import say
from pykvm.terminal.tap import Watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from pykvm.machine.face import Cpu
    from pykvm.machine.machine import Machine
    from pykvm.machine.verdict import Cause
    from pykvm.terminal.console import Console

SECOND = 1_000_000_000
HOUR = 3600 * SECOND
HINT_AFTER = 10 * SECOND
LOOK_EVERY = SECOND
PANIC_SILENCE = SECOND // 2
"""After its panic line a kernel goes on to print registers and a stack: the end waits for silence."""

READER_GONE = (EPIPE, ECONNRESET)

DRAIN_SECONDS = 5.0
"""How long the end of a guest that was stopped waits for a reader who takes none of its last words."""

NOTED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGTSTP,
    signal.SIGCONT,
)


class Session:
    """Runs ``machine`` to its end. ``linux``: its kernel is Linux, whose panic line is known.

    ``rebuild`` builds the machine anew where it is to start again (``on: {reset: restart}``).
    """

    def __init__(
        self,
        machine: Machine,
        *,
        timeout_ns: int | None,
        linux: bool,
        rebuild: Callable[[], None] = lambda: None,
    ) -> None:
        self.machine = machine
        self.expected_ns: int | None = None
        self.panic: str | None = None
        self.held = False
        """Whether it stood still at its end (``on: {panic: pause}``)."""
        self._linux = linux
        self._rebuild = rebuild
        self._suspicion: str | None = None  # what a panic may have said
        self._panic_watches: list[PanicWatch] = []
        self._started = 0  # when this run did
        self._quick_runs = 0
        self._loop: Cause | None = None  # the verdict on a guest that starts again and again
        self._timeout = timeout_ns
        self._expect = machine.config.expect
        self._signals: list[int] = []
        self._last_output = 0
        self._hinted = False
        self._next_look = 0
        self._exits_seen: list[int] = []
        self._all_seem_halted = False
        self._unprinted: Cause | None = None  # why not all came out that the guest printed
        machine.on_panic = self._on_panic_device
        for console in machine.consoles.values():
            if self._expect is not None:
                text = self._expect.output.encode()
                console.tap.listeners.append(Watch(text, self._on_expected))
            console.tap.listeners.append(self._on_output)
            if console.output.on_lost is None:  # a socket's console knows what to do
                console.output.on_lost = partial(self._on_lost, console)

    def run(self) -> Cause:
        """Let the machine run to its end, and say how it ended. Main thread only."""
        before = {number: signal.signal(number, self._on_signal) for number in NOTED}
        before[KICK] = signal.getsignal(KICK)
        only_interrupt(KICK)  # a kick has done its work when it has interrupted the system call
        wakeup = signal.set_wakeup_fd(self.machine.event.writer, warn_on_full_buffer=False)
        try:
            for console in self.machine.consoles.values():
                console.start()
            self._begin()
            self.machine.wait(self._deadline)
            while self._starts_again():
                self.machine.clear()
                self._rebuild()
                self._begin()
                self.machine.wait(self._deadline)
            self.machine.stop()
            self._drain()
        finally:
            signal.set_wakeup_fd(wakeup)
            self.machine.stop()  # before the kick's handler goes: its signal would end the process
            for number, handler in before.items():
                signal.signal(number, handler)
        return self._judge()

    def _begin(self) -> None:
        """Let the machine run, as far as it's known a new one."""
        while self._panic_watches:
            self._panic_watches.pop().close()
        self.panic = self._suspicion = None
        self._exits_seen, self._all_seem_halted = [], False
        for console in self.machine.consoles.values():
            self._panic_watches.append(
                PanicWatch(
                    console.tap,
                    linux=self._linux,
                    panicked=self._on_panic,
                    suspected=self._on_suspicion,
                    ended=self._on_panic_end,
                )
            )
        self._started = time.monotonic_ns()
        self.machine.start()
        self.machine.resume()

    def _starts_again(self) -> bool:
        """Do what the machine file wants at this end, and say whether that is a restart."""
        on, cause = self.machine.config.on, self._own_end()
        if cause is None or (on.reset, on.panic) == ("exit", "exit"):
            return False
        self.machine.hold()
        with self.machine.lock:
            for console in self.machine.consoles.values():
                console.output.flush()  # its last words may tell of a panic
        cause = self._own_end() or cause
        panicked = cause.crash is not None and cause.crash["kind"] == "panic"
        wanted = on.panic if panicked else on.reset if cause.outcome == "reset" else "exit"
        if wanted == "pause":
            self.held = True
            self._say(f"{cause.sentence}; the machine stands still: Ctrl-A x or a signal ends it")
            self.machine.wait_outside(self._deadline)
        if wanted != "restart":
            return False
        quick = time.monotonic_ns() - self._started < verdict.QUICK_NS
        self._quick_runs = self._quick_runs + 1 if quick else 0
        if self._quick_runs > verdict.RESTARTS:
            self._loop = verdict.looping(cause)
            return False
        self._say(f"{cause.sentence}; it starts again")
        return True

    def _own_end(self) -> Cause | None:
        """The guest's own end, as the verdict sees it; None where something from outside ended it."""
        cause = self.machine.cause
        return self._truth(cause) if cause is not None and verdict.is_guests(cause) else None

    def _truth(self, cause: Cause) -> Cause:
        """``cause``, or the panic that went before it."""
        panic = self.panic or (self._suspicion if cause.outcome == "reset" else None)
        return _panic_cause(panic) if panic is not None and cause.status == verdict.SUCCESS else cause

    def _judge(self) -> Cause:
        """The verdict tells the truth: 0 only where nothing contradicts success."""
        cause = self.machine.cause
        assert cause is not None
        cause = self._loop or self._truth(cause)
        if self._unprinted is not None and cause.status == verdict.SUCCESS:
            return self._unprinted
        if self._expect is not None and self.expected_ns is None and cause.status == verdict.SUCCESS:
            return verdict.unexpected(self._expect.output, cause.sentence)
        return cause

    def _drain(self) -> None:
        """Bring out what the guest printed last.

        A guest that ended by itself has its output read to the end, however slow the reader is, as
        any program's in a pipe. A signal of these moments ends the wait; Ctrl-Z only stops it.
        """
        machine = self.machine
        seconds = None if self._own_end() is not None and not self.held else DRAIN_SECONDS
        interrupted: Cause | None = None
        machine.event.clear()
        while True:
            while self._signals:
                number = self._signals.pop(0)
                if number in (signal.SIGTSTP, signal.SIGCONT):
                    self._take_signal(number)
                else:
                    interrupted, seconds = verdict.signal(number, signal.Signals(number).name), 0
            if machine.drain(seconds):
                return
            if interrupted is not None or not machine.event.clear():
                self._unprinted = self._unprinted or interrupted
                return

    def _on_lost(self, console: Console, error: OSError) -> None:
        """A console's descriptor takes no more: without a reader we end as a program in a pipe does."""
        if error.errno in READER_GONE:
            cause = verdict.signal(signal.SIGPIPE, "SIGPIPE")
        else:
            cause = verdict.fault(
                HostError(
                    f"cannot write what the guest prints: {error.strerror}",
                    where=console.where,
                    remedy="see that there is room and that it can be written",
                )
            )
        self._unprinted = self._unprinted or cause
        self.machine.post(cause)

    def _deadline(self) -> int | None:
        """Do what is due; milliseconds until something is next."""
        while self._signals:
            self._take_signal(self._signals.pop(0))
        now = time.monotonic_ns()
        started = self.machine.first_run_ns or now
        due = [now + HOUR if self.held else self._look(now)]
        if self._timeout is not None:
            due.append(started + self._timeout)
            if now >= due[-1]:
                self.machine.post(verdict.timeout(self._timeout / SECOND))
        if self._expect is not None and self.expected_ns is None:
            due.append(started + self._expect.within_ns)
            if now >= due[-1]:
                seconds = self._expect.within_ns / SECOND
                self.machine.post(verdict.unexpected(self._expect.output, f"not within {seconds:g}s"))
        if self.panic is not None and not self.held:
            due.append(self._last_output + PANIC_SILENCE)
            if now >= due[-1]:
                self.machine.post(_panic_cause(self.panic))
        if not self._hinted:
            due.append(started + HINT_AFTER)
            if now >= due[-1]:
                self._hint()
        return max(0, min(due) - now) // 1_000_000 + 1

    def _look(self, now: int) -> int:
        """Once a second, after a second without an exit, look whether all CPUs have halted for ever."""
        if now >= self._next_look:
            self._next_look = now + LOOK_EVERY
            if any(thread.is_lost for thread in self.machine.cpus):
                self.machine.failed(MemoryError())
                return now
            exits = [sum(thread.cpu.exits) for thread in self.machine.cpus]
            if exits == self._exits_seen:
                halted: set[int] = set()
                for thread in self.machine.cpus:
                    thread.call(partial(self._look_at, halted))
            self._exits_seen = exits
        if self._all_seem_halted:
            self._all_seem_halted = False
            self._look_at_all()
        return self._next_look

    def _look_at(self, halted: set[int], cpu: Cpu) -> None:
        if cpu.halted_for_ever():
            halted.add(cpu.index)
            if len(halted) == len(self.machine.cpus):
                self._all_seem_halted = True
                self.machine.nudge()

    def _look_at_all(self) -> None:
        """Each was found halted, but may have been woken by another since: look at all at rest."""
        machine = self.machine
        machine.pause()
        if all(thread.cpu.halted_for_ever() for thread in machine.cpus):
            cause = verdict.crash(
                "halted",
                "the guest has stopped for ever: all its CPUs are halted with interrupts off",
                "a kernel does so after a fatal error; its last words, if any, say which",
            )
            machine.post(cause if self.panic is None else _panic_cause(self.panic))
        else:
            machine.resume()

    def _hint(self) -> None:
        self._hinted = True
        consoles = self.machine.consoles.values()
        if any(console.tap.first_output_ns for console in consoles) or not os.isatty(2):
            return
        self._say("no output for 10 s; is console=ttyS0 on the kernel's command line?")

    def _say(self, text: str) -> None:
        """One line on standard error: by a console, as one of them may have the terminal in raw mode."""
        console = next(iter(self.machine.consoles.values()), None)
        if console is not None:
            console.say(text)
        else:
            say(f"pykvm: {text}\n")

    def _on_output(self, data: bytes) -> None:
        self._last_output = time.monotonic_ns()

    def _on_panic(self, text: str) -> None:
        self.panic = text
        self._last_output = time.monotonic_ns()
        self.machine.event.set()

    def _on_panic_end(self) -> None:
        if self.panic is not None:
            self.machine.post(_panic_cause(self.panic))

    def _on_suspicion(self, text: str) -> None:
        self._suspicion = text

    def _on_panic_device(self) -> None:
        if self.panic is None:
            self.panic = "reported by the pvpanic device"
            self._last_output = time.monotonic_ns()
            self.machine.event.set()

    def _on_expected(self, text: bytes) -> None:
        if self.expected_ns is None:
            self.expected_ns = time.monotonic_ns()
            self.machine.post(verdict.expected(text.decode()))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Only note it: the main thread may hold a lock here. ``wait`` wakes and looks at the notes.

        SIGTSTP goes before all others: of those that came at once Python calls us by their numbers, so in
        which order they came nobody knows, and a SIGCONT or an end before a stop would be in vain.
        """
        self._signals.insert(0 if number == signal.SIGTSTP else len(self._signals), number)

    def _take_signal(self, number: int) -> None:
        if number == signal.SIGTSTP:  # leave the terminal as a shell wants it, with the guest at rest
            self.machine.pause()
            with self.machine.lock:
                for console in self.machine.consoles.values():
                    console.suspend()
            # Who has sent something meanwhile doesn't send it again: we would stay stopped for ever.
            if not self._signals:
                os.kill(os.getpid(), signal.SIGSTOP)
        elif number == signal.SIGCONT:
            for console in self.machine.consoles.values():
                console.resume()
            self.machine.resume()
        else:
            self.machine.post(verdict.signal(number, signal.Signals(number).name))


def _panic_cause(panic: str) -> Cause:
    return verdict.crash("panic", f"the guest's kernel panicked: {panic}", line=panic)
