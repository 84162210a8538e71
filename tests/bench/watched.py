"""A monitor under watch: when its guest says something, what memory and CPU time its process takes."""

from __future__ import annotations

import os
import select
import subprocess
import time

from guest_programs import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

PROCESS_CLOCK = 2  # CPUCLOCK_SCHED of a whole process (linux/posix-timers.h)
SETTLE = 3.0  # seconds after the prompt until a guest counts as idle


class Watched:
    """The process that ``words`` start, with pykvm's cache in the folder ``cache``; ended at the end.

    Without the PYTHON… variables of whoever measures: they change what Python's start costs. ``inherits`` are
    open files that it gets.
    """

    def __init__(self, words: list[str], cache: str, *, inherits: Sequence[int] = ()) -> None:
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        self._start = time.monotonic()
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,  # open, and silent
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**variables, "PYKVM_CACHE": cache},
            pass_fds=inherits,
        )
        assert self._process.stdout is not None and self._process.stdin is not None
        self._out = self._process.stdout
        self.seen = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()  # as a user would: what a boot leaves for the next one is written
        try:
            self._process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._start

    def until(self, text: bytes, seconds: float) -> float:
        """Seconds from the start until the guest prints ``text``."""
        while text not in self.seen:
            if not self._read(seconds):
                raise Failure(f"ended without {text!r}:\n{self._tail()}")
        return self.seconds()

    def until_end(self, seconds: float, status: int = 0) -> float:
        """Seconds from the start until the process ends, which must be with ``status``."""
        while self._read(seconds):
            pass
        ended = self._process.wait()
        if ended != status:
            raise Failure(f"status {ended}, not {status}:\n{self._tail()}")
        return self.seconds()

    def _read(self, seconds: float) -> bool:
        left = self._start + seconds - time.monotonic()
        if left <= 0 or not select.select([self._out], [], [], left)[0]:
            raise Failure(f"not done in {seconds:.0f} s:\n{self._tail()}")
        got = os.read(self._out.fileno(), 1 << 16)
        self.seen += got
        return bool(got)

    def _tail(self) -> str:
        return self.seen[-1500:].decode(errors="replace")

    def cpu_seconds_in(self, seconds: float) -> float:
        """CPU time of all its threads while nothing is asked of the guest."""
        time.sleep(SETTLE)
        before = self.cpu_seconds()
        time.sleep(seconds)
        return self.cpu_seconds() - before

    def cpu_seconds(self) -> float:
        """CPU time of all its threads so far, by its CPU clock (clock_getcpuclockid(3))."""
        return time.clock_gettime(~self._process.pid << 3 | PROCESS_CLOCK)

    def beyond(self, guest: int) -> int:
        """Resident bytes less the guest's RAM, which is the one mapping of ``guest`` bytes."""
        return self._without_guest(guest, "Rss:")

    def own(self, guest: int) -> int:
        """The same, with each page divided by the number of processes that share it."""
        return self._without_guest(guest, "Pss:")

    def _without_guest(self, guest: int, what: str) -> int:
        total, size = 0, 0
        of_guest = []
        with open(f"/proc/{self._process.pid}/smaps") as file:
            for line in file:
                if line.startswith("Size:"):
                    size = int(line.split()[1]) << 10
                elif line.startswith(what):
                    resident = int(line.split()[1]) << 10
                    total += resident
                    if size == guest:
                        of_guest.append(resident)
        if len(of_guest) != 1:
            raise Failure(f"{len(of_guest)} mappings have the guest's {guest} bytes, not one")
        return total - of_guest[0]
