"""The machine's time, and what is to be done at its hours."""

from __future__ import annotations

import heapq
import time

from pykvm.libc.timerfd import TimerFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.machine.io import IoLoop

    Action = Callable[[], None]


SWEEP_AT = 64  # so many timers may wait before the cancelled ones are looked for


class Timer:
    """A call that is to be made once; ``cancel`` it at any time before."""

    __slots__ = ("action",)

    def __init__(self, action: Action) -> None:
        self.action: Action | None = action

    def cancel(self) -> None:
        self.action = None


class MachineClock:
    """Nanoseconds since the machine first ran; they stand still while it is paused.

    All methods are for callers that hold the device lock; timers are called by the I/O thread.
    """

    def __init__(self, loop: IoLoop) -> None:
        self._loop = loop
        self._offset = 0  # time.monotonic_ns less the machine's time, while it runs
        self._stopped_at: int | None = 0
        self._timers: list[tuple[int, int, Timer]] = []
        self._order = 0
        self._sweep_at = SWEEP_AT
        self._alarm = TimerFd()
        loop.add(self._alarm.fd, self._expired)

    def now(self) -> int:
        """The machine's time."""
        if self._stopped_at is not None:
            return self._stopped_at
        return time.monotonic_ns() - self._offset

    def wall(self) -> int:
        """The host's time of day, in nanoseconds since 1970."""
        return time.time_ns()

    def call_at(self, when: int, action: Action) -> Timer:
        """Call ``action`` once, as soon as ``now()`` has reached ``when``."""
        # A guest can set its timers anew without end, each to an hour that never comes.
        if len(self._timers) >= self._sweep_at:
            self._timers[:] = [entry for entry in self._timers if entry[2].action is not None]
            heapq.heapify(self._timers)
            self._sweep_at = max(SWEEP_AT, 2 * len(self._timers))
        timer = Timer(action)
        self._order += 1
        heapq.heappush(self._timers, (when, self._order, timer))
        if self._timers[0][2] is timer:
            self._set_alarm()
        return timer

    def start(self) -> None:
        """Let time run."""
        if self._stopped_at is not None:
            self._offset = time.monotonic_ns() - self._stopped_at
            self._stopped_at = None
            self._set_alarm()

    def stop(self) -> None:
        """Let time stand still."""
        if self._stopped_at is None:
            self._stopped_at = self.now()

    def close(self) -> None:
        """Give the timer's descriptor back."""
        self._loop.remove(self._alarm.fd)
        self._alarm.close()

    def _set_alarm(self) -> None:
        if self._timers and self._stopped_at is None:
            self._alarm.set(self._timers[0][0] + self._offset)

    def _expired(self) -> None:
        self._alarm.drain()
        now = self.now()
        while self._timers and (self._timers[0][0] <= now or self._timers[0][2].action is None):
            timer = heapq.heappop(self._timers)[2]
            if timer.action is not None:
                action, timer.action = timer.action, None
                action()
        self._set_alarm()
