"""The hostile guests of guests/hostile: what none of them may do to pykvm, on any back end.

A test file makes a class of ``Hostile`` and says the back end.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from booting import Terminal

FOLDER = Path(__file__).parents[2] / "guests" / "hostile"
NAMES = sorted(path.stem for path in FOLDER.glob("*.asm"))
COMMAND = [sys.executable, "-m", "pykvm", "boot"]
LONG = 240  # seconds; the lab is slow

ENDS = {
    "bios": (0, b"go\ndone\n", ""),
    "nowhere": (125, b"go\n", "pykvm: the guest crashed: triple fault"),
    "ports": (0, b"go\ndone\n", ""),
    "registers": (0, b"go\ndone\n", ""),
    "rom": (0, b"go\ndone\n", ""),
    "strings": (0, b"go\ndone\n", ""),
    "triple": (125, b"go\n", "pykvm: the guest crashed: triple fault"),
}
"""The guests that end: the status, what is printed, and how standard error begins where it isn't 0."""
ENDLESS = sorted(set(NAMES) - ENDS.keys())
GUEST_MIB = 16
MOST_MIB = 100
"""That pykvm may take beside the guest's memory, and does so even with all modules of a post-mortem."""


def assembled(name: str, to: Path) -> bytes:
    source = FOLDER / f"{name}.asm"
    subprocess.run(["nasm", "-f", "bin", "-I", f"{FOLDER}/", "-o", to, source], check=True)
    return to.read_bytes()


def peak_at_end(running: subprocess.Popen[bytes], number: int | None = None) -> int:
    """Wait for the end, after signal ``number``; the most memory that it was seen with, in MiB.

    wait4's ru_maxrss counts what it was before exec as well, a copy of the tests' own process.
    """
    peak = 0
    end = select.poll()
    watched = os.pidfd_open(running.pid)
    end.register(watched, select.POLLIN)
    while not end.poll(20 if peak else 0):
        for line in Path(f"/proc/{running.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                peak = int(line.split()[1]) >> 10
        if number is not None:
            running.send_signal(number)
            number = None
    os.close(watched)
    running.wait()
    return peak


class Hostile:
    backend: str

    def command(self, name: str, *more: str) -> list[str]:
        return [*COMMAND, str(FOLDER / f"{name}.yaml"), "--set", f"backend={self.backend}", *more]

    @pytest.mark.parametrize("name", ENDS)
    def test_one_that_ends_has_its_verdict(self, name):
        status, printed, begins = ENDS[name]
        done = subprocess.run(
            self.command(name, "--timeout", f"{LONG}s"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=2 * LONG,
        )
        said = done.stderr.decode()
        assert "Traceback" not in said, said
        assert (done.returncode, done.stdout) == (status, printed), said
        assert begins in said
        assert bool(begins) == bool(said), said

    @pytest.mark.parametrize("name", ENDLESS)
    def test_one_without_an_end_obeys_the_timeout_and_takes_no_more_memory(self, name):
        with tempfile.TemporaryFile() as errors:
            running = subprocess.Popen(
                self.command(name, "--timeout", "2s"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
            peak = peak_at_end(running)
            errors.seek(0)
            said = errors.read().decode()
        assert "Traceback" not in said, said
        assert running.returncode == 124, said
        assert "pykvm: the guest was still running after --timeout 2s" in said, said
        assert "pykvm: what happened: at the end of its time rip was" in said, said
        assert 0 < peak < GUEST_MIB + MOST_MIB

    @pytest.mark.parametrize("name", ENDLESS)
    def test_one_without_an_end_is_stopped_by_a_key(self, name):
        terminal = Terminal(*self.command(name))
        terminal.expect("go")
        terminal.type("\x01x")
        assert terminal.status() == 130
        assert "Traceback" not in terminal.seen

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_flood_that_nobody_reads_is_ended_by_a_signal(self, number):
        with self._flooded() as running:
            peak = peak_at_end(running, number)
        assert running.returncode == 128 + number
        assert 0 < peak < GUEST_MIB + MOST_MIB

    def test_a_flood_that_nobody_reads_obeys_the_timeout(self):
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:  # nothing of what the guest prints goes in
                os.write(writer, bytes(select.PIPE_BUF))
        os.set_blocking(writer, True)
        command = self.command("flood", "--timeout", "2s")
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=writer, stderr=subprocess.PIPE, timeout=LONG
        )
        os.close(writer)
        os.close(reader)
        assert done.returncode == 124, done.stderr

    def test_a_flood_whose_reader_leaves_ends_as_a_program_in_a_pipe(self):
        with self._flooded() as running:
            running.stdout.close()
            assert running.wait(LONG) == 128 + signal.SIGPIPE

    @contextlib.contextmanager
    def _flooded(self) -> Iterator[subprocess.Popen[bytes]]:
        """``flood``, with a pipe that is full; its end is closed when the test has done with it."""
        reader, writer = os.pipe()
        with os.fdopen(reader, "rb", buffering=0) as pipe:
            try:
                running = subprocess.Popen(
                    self.command("flood"),
                    stdin=subprocess.DEVNULL,
                    stdout=writer,
                    stderr=subprocess.DEVNULL,
                )
                _wait_until_full(writer)
            finally:
                os.close(writer)
            running.stdout = pipe
            try:
                yield running
            finally:
                running.kill()
                running.wait()

    def test_a_terminal_that_nobody_reads_still_hears_ctrl_a_x(self):
        terminal = Terminal(*self.command("flood"))
        terminal.expect("go")
        far = os.open(os.readlink(f"/proc/{terminal.pid}/fd/0"), os.O_RDWR | os.O_NOCTTY)
        _wait_until_full(far)
        os.close(far)
        os.write(terminal.fd, b"\x01x")
        assert terminal.status() == 130

    def test_a_stopped_terminal_still_hears_ctrl_a_x(self):
        terminal = Terminal(*self.command("flood"))
        terminal.expect("go")
        far = os.open(os.readlink(f"/proc/{terminal.pid}/fd/0"), os.O_RDWR | os.O_NOCTTY)
        termios.tcflow(far, termios.TCOOFF)
        os.write(terminal.fd, b"\x01x")
        status = os.waitstatus_to_exitcode(os.waitpid(terminal.pid, 0)[1])
        restored = termios.tcgetattr(terminal.fd) == terminal.before
        os.close(far)
        os.close(terminal.fd)
        assert (status, restored) == (130, True)


def _wait_until_full(descriptor: int) -> None:
    """Until nothing more can be written there."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    end = time.monotonic() + LONG
    while poll.poll(0):
        assert time.monotonic() < end, "it doesn't fill"
        time.sleep(0.01)
