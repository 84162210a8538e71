"""Signals at every moment of a start, at a real terminal: the tests for any back end.

A test file makes a class of ``Storms`` and says the back end.
"""

from __future__ import annotations

import contextlib
import os
import pty
import random
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import pykvm

PACKAGE = str(Path(pykvm.__file__).parent) + os.sep
LONG = 120  # seconds; the lab is slow
ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)

# mov al, "@"; mov dx, 0x3f8; out dx, al; 1: pause; jmp 1b
GUEST = b"@"  # which is not in what pykvm itself says
SPINS = bytes.fromhex("b040 baf803 ee f390 ebfc")


class AtTerminal:
    """A pykvm that leads a session at a terminal of its own, and what it printed there."""

    def __init__(self, machine: Path, *before: str) -> None:
        self._fd, slave = pty.openpty()
        self._slave = slave
        self._before = termios.tcgetattr(slave)
        self.text = b""

        def lead() -> None:
            os.close(os.open(os.ttyname(0), os.O_RDWR))  # a session's first becomes its terminal
            for number in ENDING:  # a script's background jobs have SIGINT ignored
                signal.signal(number, signal.SIG_DFL)

        self.process = subprocess.Popen(
            [*before, sys.executable, "-m", "pykvm", "boot", str(machine)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lead,
            env={**os.environ, "PYTHONFAULTHANDLER": "1"},
        )

    def expect(self, text: bytes) -> None:
        while text not in self.text:
            self.text += os.read(self._fd, 4096)

    @property
    def as_before(self) -> bool:
        """Whether the terminal is set as it was before."""
        return termios.tcgetattr(self._slave) == self._before

    def _stacks(self) -> str:
        """Where each thread of a pykvm that should have ended is, and what the terminal shows."""
        state = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        self.process.send_signal(signal.SIGABRT)  # which Python's faulthandler answers
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()
        self.process.wait()
        os.set_blocking(self._fd, False)
        with contextlib.suppress(OSError):
            self.text += os.read(self._fd, 1 << 16)
        return f"state {state}\n{self.text.decode(errors='replace')}"

    def end(self) -> int:
        """Wait for the end; the status. Nobody may be left at the terminal, which is as it was."""
        try:
            status = self.process.wait(LONG)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it goes on: {self._stacks()}")
        # After a sudden death somebody else sees to that, a moment later.
        until(lambda: self.as_before, "the terminal is as it was")
        os.close(self._slave)
        try:
            while piece := os.read(self._fd, 4096):
                self.text += piece
        except OSError:  # EIO: the last one who had the terminal open is gone
            os.close(self._fd)
        return status


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, f"waited {LONG} s until {what}"
        time.sleep(0.005)


class Storms:
    backend: str

    @pytest.fixture
    def machine(self, tmp_path: Path) -> Path:
        """A guest that prints GUEST and spins: only a signal ends it."""
        (tmp_path / "code.bin").write_bytes(SPINS)
        file = tmp_path / "machine.yaml"
        file.write_text(
            f"memory: 1M\nbackend: {self.backend}\n"
            "kernel: {image: code.bin, format: flat, entry: real, load: 0x1000}\n"
        )
        return file

    def test_whenever_signals_come_the_status_is_theirs_and_the_terminal_as_before(
        self, machine: Path
    ) -> None:
        began = time.monotonic()
        first = AtTerminal(machine)
        first.expect(GUEST)
        span = (time.monotonic() - began) * 1.2
        first.process.terminate()
        assert first.end() == 128 + signal.SIGTERM

        rng = random.Random(10)
        for run in range(20):
            numbers = [rng.choice(ENDING) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
            if rng.random() < 0.3:
                numbers = [signal.SIGTSTP, signal.SIGCONT, *numbers]
            begun = AtTerminal(machine)
            for number in numbers:
                time.sleep(rng.random() * span / len(numbers))
                begun.process.send_signal(number)
            status = begun.end()
            story = f"run {run}, {[n.name for n in numbers]}: {status}, {begun.text.decode()}"
            if b"KeyboardInterrupt" in begun.text:  # from Python itself, which was not yet at our first line
                assert PACKAGE.encode() not in begun.text, story
                continue
            # Before pykvm's first line, and by a second of its kind, a signal ends it as it does any process.
            mine = {code for n in numbers if n in ENDING for code in (128 + n, -n)}
            assert status in mine, story
            assert b"Traceback" not in begun.text and b"fault of pykvm" not in begun.text, story

    def test_a_stop_that_is_continued_at_once_stops_nothing(self, machine: Path) -> None:
        rng = random.Random(10)
        running = AtTerminal(machine)
        running.expect(GUEST)
        for _ in range(100):
            running.process.send_signal(signal.SIGTSTP)
            time.sleep(rng.random() * 0.005)
            running.process.send_signal(signal.SIGCONT)
            time.sleep(rng.random() * 0.005)
        running.process.terminate()
        assert running.end() == 128 + signal.SIGTERM

    def test_the_terminal_is_the_shells_while_it_is_stopped(self, machine: Path) -> None:
        running = AtTerminal(machine)
        running.expect(GUEST)
        assert not running.as_before
        running.process.send_signal(signal.SIGTSTP)
        os.waitid(os.P_PID, running.process.pid, os.WSTOPPED | os.WNOWAIT)
        assert running.as_before
        running.process.send_signal(signal.SIGCONT)
        until(lambda: not running.as_before, "the terminal is raw again")
        running.process.send_signal(signal.SIGQUIT)
        assert running.end() == 128 + signal.SIGQUIT

    def test_a_sudden_death_leaves_the_terminal_as_it_was(self, machine: Path) -> None:
        running = AtTerminal(machine)
        running.expect(GUEST)
        assert not running.as_before
        running.process.kill()
        assert running.end() == -signal.SIGKILL

    def test_the_sudden_death_of_the_parent_ends_it(self, machine: Path, tmp_path: Path) -> None:
        # The session's first, who would take all with him, outlives the parent.
        script = f'(echo $BASHPID >{tmp_path}/parent; "$@"; :); exec 0<&- 1<&- 2<&-; exec sleep {LONG}'
        running = AtTerminal(machine, "bash", "-c", script, "bash")
        running.expect(GUEST)
        assert not running.as_before
        os.kill(int((tmp_path / "parent").read_text()), signal.SIGKILL)
        until(lambda: running.as_before, "the terminal is as it was")
        running.process.kill()
        assert running.end() == -signal.SIGKILL  # and nobody is left at the terminal
