"""What a device is given in a test: a line that remembers, a clock that a test moves."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable


class Line:
    """An interrupt line that keeps its level and counts its rising edges."""

    def __init__(self) -> None:
        self.level = False
        self.edges = 0

    def set(self, level: bool) -> None:
        self.edges += level and not self.level
        self.level = bool(level)


class Timer:
    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        self.action = None


class Clock:
    """Time that stands still until ``advance`` moves it; timers fire in order on the way."""

    def __init__(self, wall: int = 0) -> None:
        self.time = 0
        self.start = wall
        self._queue: list[tuple[int, int, Timer]] = []
        self._order = itertools.count()

    def now(self) -> int:
        return self.time

    def wall(self) -> int:
        return self.start + self.time

    def call_at(self, when: int, action: Callable[[], None]) -> Timer:
        timer = Timer(action)
        heapq.heappush(self._queue, (when, next(self._order), timer))
        return timer

    def advance(self, ns: int) -> None:
        end = self.time + ns
        while self._queue and self._queue[0][0] <= end:
            when, _, timer = heapq.heappop(self._queue)
            self.time = max(self.time, when)
            if timer.action is not None:
                action, timer.action = timer.action, None
                action()
        self.time = end
