"""Who gives the terminal back when pykvm can't: after a SIGKILL, a crash, the out-of-memory killer.

While the terminal is raw, a shell waits at the other end of a pipe. A line from us sends it home;
the end of the pipe without one means that we are dead. It lives in a session of its own, so that
no key, hang-up or signal to our process group reaches it. It costs a millisecond, and only where a
person sits at a terminal.
"""

from __future__ import annotations

import os

# Whoever has the terminal by then (a shell that noticed our death, an editor) has set it to their
# liking. Only raw mode leaves output as it is, so only with -opost is it still as we left it.
# Descriptor 2 is the terminal.
SCRIPT = 'read -r _ && exit; case $(stty -a <&2) in *-opost*) stty "$0" <&2 ;; esac'


class Guard:
    """Sets terminal ``fd`` to ``settings`` (in the form of ``stty -g``) unless dismissed."""

    def __init__(self, fd: int, settings: str) -> None:
        reader, self._writer = os.pipe()
        try:
            self._pid = os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", SCRIPT, settings],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, reader, 0),
                    (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_DUP2, fd, 2),
                ],
                setsid=True,
                setsigmask=(),
            )
        except OSError:  # no shell, no process left: then there is no guard
            self._pid = 0
        finally:
            os.close(reader)

    def dismiss(self) -> None:
        """The terminal is as it was: the guard goes."""
        try:
            os.write(self._writer, b"\n")
        except OSError:  # it was killed
            pass
        self.fire()

    def fire(self) -> None:
        """Have the guard do its work now, and wait for its end."""
        os.close(self._writer)
        if self._pid:
            try:
                os.waitpid(self._pid, 0)
            except ChildProcessError:  # someone waits for every child
                pass
