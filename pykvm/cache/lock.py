"""Locks between processes: a file each, held through POSIX record locks.

The kernel drops such a lock with its process, however that ends, so no lock is ever stale. It belongs
to the whole process: it doesn't keep two threads apart, and closing any descriptor of the file drops
it. So a process has one ``FileLock`` for a path at a time; ``held`` has the paths. The file may be removed
by who holds the lock: who then gets a lock on the removed one takes another.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


held: set[str] = set()
"""Paths whose locks this process has: to open and close such a file would drop the lock."""


class FileLock:
    """``with FileLock(path, waiting):`` holds the lock; ``waiting(pid)`` is called before it waits.

    ``pid`` is the number of the process that holds the lock, as text, or empty where it isn't known.
    ``waited`` tells afterwards whether another process had it. Raises OSError where the file can't be made.
    """

    def __init__(self, path: str, waiting: Callable[[str], None] | None = None) -> None:
        self._path = path
        self._waiting = waiting
        self._fd = -1
        self.waited = False

    def acquire(self, wait: bool = True) -> bool:
        """Take the lock. Where another process has it: wait for it, or give up (False)."""
        while True:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                if not self._lock(fd, wait):
                    return False
                if not self._is_there(fd):
                    continue
                os.ftruncate(fd, 0)
                os.pwrite(fd, b"%d" % os.getpid(), 0)
                self._fd, fd = fd, -1
                held.add(self._path)
                return True
            finally:
                if fd >= 0:
                    os.close(fd)

    def release(self, *, remove: bool = False) -> None:
        """Let go of the lock; ``remove``: of its file too."""
        try:
            if remove:
                os.unlink(self._path)
        finally:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = -1
            held.discard(self._path)

    def _is_there(self, fd: int) -> bool:
        """Whether the file has its name still."""
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self._path))
        except FileNotFoundError:
            return False

    def _lock(self, fd: int, wait: bool) -> bool:
        try:
            os.lockf(fd, os.F_TLOCK, 0)
        except BlockingIOError:
            if not wait:
                return False
            self.waited = True
            if self._waiting is not None:
                self._waiting(os.pread(fd, 20, 0).decode("ascii", "replace"))
            os.lockf(fd, os.F_LOCK, 0)
        return True

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
