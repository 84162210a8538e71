"""pykvm as a user runs it: in a pipe or at a terminal, with this host's /dev/kvm or without one."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from pathlib import Path

from pykvm.boot.cpio import Archive

COMMAND = (sys.executable, "-m", "pykvm")
LONG = 240  # seconds; the lab is slow
WITHOUT_KVM = ("unshare", "-m", "sh", "-c", 'mount --bind /dev/null /dev/kvm && exec "$@"', "sh")
"""Runs the command that follows on a host that has no KVM; for root, and where there is a /dev/kvm."""


def boot(
    *arguments: str | Path, before: tuple[str, ...] = (), typed: str | None = None, **options
) -> subprocess.CompletedProcess[str]:
    """``pykvm boot``, by ``before``; ``typed`` is piped into it."""
    return subprocess.run(
        [*before, *COMMAND, "boot", *map(str, arguments)],
        stdin=subprocess.DEVNULL if typed is None else None,
        input=typed,
        capture_output=True,
        text=True,
        timeout=LONG,
        **options,
    )


def initrd(path: Path, **files: str) -> Path:
    """An initrd with executable files; Linux lays it over those before it."""
    with open(path, "wb") as out:
        archive = Archive(out)
        for name, text in files.items():
            archive.file(name.replace("_", "."), text.encode(), 0o755)
        archive.close()
    return path


class Terminal:
    """A program on a pty, driven as by a person: wait for a text, type."""

    def __init__(self, *command: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvp(command[0], command)
        self.before = termios.tcgetattr(self.fd)
        self.seen = ""

    def expect(self, pattern: str) -> None:
        end = time.monotonic() + LONG
        while not re.search(pattern, self.seen):
            assert time.monotonic() < end, f"no {pattern!r} in:\n{self.seen}"
            if select.select([self.fd], [], [], 1)[0]:
                try:
                    self.seen += os.read(self.fd, 4096).decode("utf-8", "replace")
                except OSError:  # the other side is gone
                    assert re.search(pattern, self.seen), f"ended without {pattern!r}:\n{self.seen}"

    def type(self, text: str) -> None:
        self.seen = ""
        os.write(self.fd, text.encode())

    @property
    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.fd)[3] & termios.ICANON

    def status(self) -> int:
        """How it ended; the terminal must be as it was."""
        status = self.wait()
        assert termios.tcgetattr(self.fd) == self.before
        os.close(self.fd)
        return status

    def wait(self) -> int:
        """How it ended."""
        while True:  # what is printed must be read, or the end waits for us
            try:
                if not (data := os.read(self.fd, 4096)):
                    break
            except OSError:
                break
            self.seen += data.decode("utf-8", "replace")
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
