"""The I/O thread: one epoll over terminals, doorbells and the machine's clock.

Everything that it calls, it calls under the device lock: a device never sees two callers at once,
and none of its callbacks may wait for a file.
"""

from __future__ import annotations

import heapq
import os
import select
import threading
import time
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Action = Callable[[], None]


class IoLoop:
    """File descriptors to watch, and calls from other threads.

    ``failed`` is called with an exception that a callback let through: a fault of pykvm.
    """

    def __init__(self, lock: threading.Lock, failed: Callable[[BaseException], None]) -> None:
        self._lock = lock
        self._failed = failed
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._callbacks: dict[int, tuple[Action | None, Action | None]] = {}
        self._posted: deque[Action] = deque()
        self._later: list[tuple[float, int, Action]] = []
        self._running = False
        self._thread: threading.Thread | None = None
        self.add(self._wake, self._take_posted)

    def add(self, fd: int, on_readable: Action | None = None, on_writable: Action | None = None) -> None:
        """Watch ``fd`` for what there is a callback for. Raises PermissionError for regular files."""
        self._epoll.register(fd, _events(on_readable is not None, on_writable is not None))
        self._callbacks[fd] = on_readable, on_writable

    def change(self, fd: int, readable: bool, writable: bool) -> None:
        """Watch ``fd`` for these from now on; both False leaves it out without forgetting it."""
        self._epoll.modify(fd, _events(readable, writable))

    def remove(self, fd: int) -> None:
        """Forget ``fd``; before it is closed."""
        del self._callbacks[fd]
        self._epoll.unregister(fd)

    def post(self, action: Action) -> None:
        """Call ``action`` on the I/O thread soon. From any thread."""
        self._posted.append(action)
        os.eventfd_write(self._wake, 1)

    def later(self, delay: int, action: Action) -> None:
        """Call ``action`` once, some ``delay`` nanoseconds of the host's time from now.

        For the I/O thread only, and good to a millisecond; devices have the machine's clock.
        """
        when = time.monotonic() + delay / 1e9
        heapq.heappush(self._later, (when, id(action), action))

    def start(self) -> None:
        """Start the thread."""
        self._running = True
        thread = threading.Thread(target=self._run, name="io", daemon=True)
        thread.start()  # which the host may refuse: then there is none to be ended
        self._thread = thread

    def stop(self) -> None:
        """End the thread, with all calls made that were posted before."""
        if self._thread is not None:
            self.post(self._end)
            self._thread.join()
            self._thread = None

    def close(self) -> None:
        """Stop, and give the loop's own descriptors back."""
        self.stop()
        self._epoll.close()
        os.close(self._wake)

    def _end(self) -> None:
        self._running = False

    def _take_posted(self) -> None:
        # The event first: what is posted from here on brings a new one. And no list put in the place
        # of this one, which a thread may have in hand to append to.
        os.eventfd_read(self._wake)
        for _ in range(len(self._posted)):
            self._posted.popleft()()

    def _run(self) -> None:
        try:
            while self._running:
                wait = max(0.0, self._later[0][0] - time.monotonic()) if self._later else None
                ready = self._epoll.poll(wait)
                with self._lock:
                    for fd, events in ready:
                        self._dispatch(fd, events)
                    while self._later and self._later[0][0] <= time.monotonic():
                        heapq.heappop(self._later)[2]()
        except BaseException as error:  # the thread's last word: the machine must hear of it
            self._failed(error)

    def _dispatch(self, fd: int, events: int) -> None:
        # A callback before this one may have removed the descriptor.
        on_readable, on_writable = self._callbacks.get(fd, (None, None))
        gone = events & (select.EPOLLHUP | select.EPOLLERR)
        if on_readable is not None and (events & select.EPOLLIN or gone):
            on_readable()
        if on_writable is not None and (events & select.EPOLLOUT or gone) and fd in self._callbacks:
            on_writable()


def _events(readable: bool, writable: bool) -> int:
    return readable * select.EPOLLIN | writable * select.EPOLLOUT
