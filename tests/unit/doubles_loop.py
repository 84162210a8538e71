"""An I/O thread for tests: what consoles and back ends ask of the machine's own, over a real epoll."""

from __future__ import annotations

import heapq
import itertools
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

from pykvm.terminal.console import Console

Action = Callable[[], None]


class Loop:
    """``with Loop() as loop``: runs on a thread of its own. ``loop.lock`` is the device lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.wakes = 0
        self.failures: list[BaseException] = []
        self._epoll = select.epoll()
        self._event = os.eventfd(0, os.EFD_NONBLOCK)
        self._actions: dict[int, tuple[Action | None, Action | None]] = {}
        self._posted: deque[Action] = deque()
        self.timers: list[tuple[int, int, Action]] = []
        self._order = itertools.count()
        self._running = True
        self._thread = threading.Thread(target=self._run)
        self._epoll.register(self._event, select.EPOLLIN)

    def __enter__(self) -> Loop:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._epoll.close()
        os.close(self._event)
        assert not self.failures

    def stop(self) -> None:
        """Join the thread; what is registered may still be removed."""
        if self._thread.is_alive():
            self.post(lambda: setattr(self, "_running", False))
            self._thread.join()

    def add(self, fd: int, on_readable: Action | None = None, on_writable: Action | None = None) -> None:
        self._epoll.register(
            fd, (select.EPOLLIN if on_readable else 0) | (select.EPOLLOUT if on_writable else 0)
        )
        self._actions[fd] = on_readable, on_writable

    def remove(self, fd: int) -> None:
        del self._actions[fd]
        self._epoll.unregister(fd)

    def post(self, action: Action) -> None:
        self._posted.append(action)
        os.eventfd_write(self._event, 1)

    def later(self, delay: int, action: Action) -> None:
        heapq.heappush(self.timers, (time.monotonic_ns() + delay, next(self._order), action))

    def call(self, function: Callable[[], object]) -> object:
        """Run ``function`` on the I/O thread and return its result."""
        result: list[object] = []
        done = threading.Event()

        def action() -> None:
            try:
                result.append(function())
            finally:
                done.set()

        self.post(action)
        assert done.wait(10)
        return result[0]

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until ``condition``, looked at under the device lock, holds."""
        end = time.monotonic() + 20
        while True:
            with self.lock:
                if condition():
                    return
            assert time.monotonic() < end, "waited 20 s for a condition"
            time.sleep(0.001)

    def _run(self) -> None:
        while self._running:
            timeout = max(0, self.timers[0][0] - time.monotonic_ns()) / 1e9 if self.timers else None
            events = self._epoll.poll(timeout)
            self.wakes += 1
            with self.lock:
                try:
                    self._serve(events)
                except BaseException as failure:
                    self.failures.append(failure)
                    self._running = False

    def _serve(self, events: list[tuple[int, int]]) -> None:
        for fd, happened in events:
            if fd == self._event:
                os.eventfd_read(fd)
            broken = happened & (select.EPOLLHUP | select.EPOLLERR)
            readable, writable = self._actions.get(fd, (None, None))
            if readable and (happened & select.EPOLLIN or broken):
                readable()
            readable, writable = self._actions.get(fd, (None, None))
            if writable and (happened & select.EPOLLOUT or broken):
                writable()
        for _ in range(len(self._posted)):
            self._posted.popleft()()
        while self.timers and self.timers[0][0] <= time.monotonic_ns():
            heapq.heappop(self.timers)[2]()


class Guest:
    """A guest's port: prints what a test says, takes input into a FIFO that a test reads."""

    def __init__(self, loop: Loop, console: Console, capacity: int = 16) -> None:
        self.loop = loop
        self.console = console
        self.put = console.output.put
        self.on_rx_room: Action | None = None
        self.capacity = capacity
        self.fifo = bytearray()
        self.breaks = 0
        self._unprinted = bytearray()
        console.attach(self)

    def receive(self, data: bytes) -> int:
        taken = min(len(data), self.capacity - len(self.fifo))
        self.fifo += data[:taken]
        return taken

    def break_in(self) -> None:
        self.breaks += 1

    def room(self) -> None:
        while self._unprinted and self.put(self._unprinted[0]):
            del self._unprinted[0]

    def print(self, data: bytes) -> None:
        """As a vCPU would that waits for THRE."""
        with self.loop.lock:
            self._unprinted += data
            self.room()
        self.loop.until(lambda: not self._unprinted)

    def try_to_print(self, data: bytes) -> int:
        """Print until a byte is refused; how many were taken."""
        with self.loop.lock:
            for count, byte in enumerate(data):
                if not self.put(byte):
                    return count
        return len(data)

    def read(self, count: int) -> bytes:
        """Read exactly ``count`` bytes of input, as they come."""
        data = bytearray()

        def take() -> bool:
            while self.fifo and len(data) < count:
                data.append(self.fifo.pop(0))
                if self.on_rx_room is not None:
                    self.on_rx_room()
            return len(data) == count

        self.loop.until(take)
        return bytes(data)
