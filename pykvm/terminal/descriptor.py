"""Reading and writing what others gave us, without waiting and without changing it for them."""

from __future__ import annotations

import os
import stat

PIPE_BUF = 4096
"""Bytes that fit a pipe or a socket which poll calls writable."""


def own(fd: int, flags: int) -> tuple[int, bool]:
    """A new descriptor, ours to close, for what ``fd`` is open on, and whether it never waits.

    ``flags`` is os.O_RDONLY, os.O_WRONLY or os.O_RDWR.

    O_NONBLOCK belongs to the open file, not to the descriptor: set on standard output it would
    stay set in the shell that started us, and in everything else that writes there. So the file is
    opened once more, with flags of its own: a controlling terminal as /dev/tty, where permission
    is no question (after ``su`` the terminal belongs to another), everything else by its link in
    /proc. A socket can't be opened again, and a pipe of another user's may not: these are shared,
    and their user must ask poll before each access, and write no more than PIPE_BUF. A file on a
    disk is shared too, for the sake of its position, but never waits.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
        return os.dup(fd), True
    flags |= os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    for path in ("/dev/tty", f"/proc/self/fd/{fd}"):
        if path == "/dev/tty" and not _is_controlling_terminal(fd):
            continue
        try:
            return os.open(path, flags), True
        except OSError:
            continue
    return os.dup(fd), False


def file_of_ours(path: str) -> int | None:
    """The number behind a path such as /dev/stdout or /dev/fd/3, where that is open on a regular file.

    Such a file may hold what others have written by the same descriptor: one writes on behind that, and
    neither replaces it nor begins it anew.
    """
    if not os.path.isfile(path):
        return None
    while os.path.islink(path):
        folder, name = os.path.split(path)
        if os.path.realpath(folder) == f"/proc/{os.getpid()}/fd":
            return int(name)
        path = os.path.join(folder, os.readlink(path))
    return None


def _is_controlling_terminal(fd: int) -> bool:
    try:
        os.tcgetpgrp(fd)
    except OSError:
        return False
    return True


def in_foreground(fd: int) -> bool:
    """Whether terminal ``fd`` would not stop us for using it: we have it, or it isn't ours to lose."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return True
