"""What becomes of a machine whose guest resets or panics (`on:`): the tests for any back end.

A test file makes a class of ``Endings`` and says the back end; ``folder`` is where the machine lies.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from booting import Terminal

COMMAND = [sys.executable, "-m", "pykvm", "boot"]
LONG = 120

BOOTED = "ba f803 b0 42 ee b0 0a ee"  # mov dx, 0x3f8; out dx, "B\n"
RESET = "b0 fe e6 64 f4"  # by the keyboard controller
PANIC = "b0 01 ba 0505 ee ebfe"  # by the pvpanic device, and a loop
# Reset at first, power off once port 0x80's byte in memory says so: memory is what it was at the start, so
# it never does.
MARKS = "a0 0020 3c 01 74 0a b0 01 a2 0020 b0 fe e6 64 f4 90 ba 0406 b8 0034 ef f4"
# Power off on a key: 1: in LSR; test DR; jz 1b; in RBR; cmp "r"; je 2f; off; 2: reset
ASKS = "ba fd03 ec a801 74f8 ba f803 ec 3c72 7408 ba 0406 b8 0034 ef f4 b0 fe e6 64 f4"
PRINTS = {
    "Xen's dom0": (
        "(XEN) Hardware Dom0 crashed: rebooting machine in 5 seconds.\n",
        "Hardware Dom0 crashed: rebooting machine in 5 seconds.",
    ),
    "Xen": ("(XEN) Panic on CPU 0:\n(XEN) no dom0\n(XEN) ****\n", "Panic on CPU 0: no dom0"),
    "a BSD": ("booting\npanic: init died\n", "panic: init died"),
    "Mach": ("booting\npanic kern/x.c:81: boot: none\n", "panic kern/x.c:81: boot: none"),
    "Mach by com1": ("booting\r\n\rpanic kern/x.c:81: boot: none\r\n", "panic kern/x.c:81: boot: none"),
}


class Endings:
    backend: str

    @pytest.fixture
    def machine(self, tmp_path: Path) -> Any:
        """Makes a machine of some code and lines of its file."""

        def make(code: str, more: str = "", text: str = "") -> list[str]:
            program = bytes.fromhex(code)
            if text:  # print it first: mov si, text; 1: lodsb; test al, al; jz 2f; out dx, al; jmp 1b; 2:
                start = bytes.fromhex("be 00 10 ba f803 ac 84c0 7403 ee ebf8")
                program = (start + program).ljust(0x100, b"\0") + text.encode() + b"\0"
                program = program.replace(b"\xbe\x00\x10", b"\xbe\x00\x01", 1)
            (tmp_path / "code.bin").write_bytes(program)
            file = tmp_path / "machine.yaml"
            file.write_text(
                f"memory: 1M\nbackend: {self.backend}\n"
                f"kernel: {{image: code.bin, format: flat, entry: real, load: 0x1000}}\n{more}\n"
            )
            return [*COMMAND, str(file), "--report", str(tmp_path / "report.json"), "--timeout", f"{LONG}s"]

        return make

    def boot(self, command: list[str], *more: str) -> tuple[Any, str, str]:
        """The report, standard output and error."""
        done = subprocess.run(
            [*command, *more],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2 * LONG,
        )
        assert "Traceback" not in done.stderr, done.stderr
        told = json.loads(Path(command[command.index("--report") + 1]).read_text())
        assert told["status"] == done.returncode
        return told, done.stdout, done.stderr

    def start(self, command: list[str]) -> Any:
        """Run it, with pipes to its three descriptors."""
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def test_a_restart_begins_with_memory_as_it_was_loaded_and_the_same_consoles(self, machine):
        command = machine(BOOTED + MARKS, "on: {reset: restart}")
        told, printed, said = self.boot(command)
        assert printed == "B\n" * 6  # a mark that survived would have ended it at the second
        assert (told["outcome"], told["status"], told["restarts"]) == ("crash", 125, 5)
        assert said.count("pykvm: the guest reset; it starts again\n") == 5
        assert "pykvm: the guest reset 6 times in a row, each time within 10 s\n" in said
        assert told["crash"]["kind"] == "restart-loop"

    def test_the_console_leads_to_the_machine_after_the_restart(self, machine, tmp_path):
        running = self.start(machine(BOOTED + ASKS, "on: {reset: restart}"))
        for key in b"rrq":  # what the chip held at the reset is lost: one at a time
            assert running.stdout.readline() == b"B\n"
            running.stdin.write(bytes((key,)))
            running.stdin.flush()
        printed, said = running.communicate(timeout=LONG)
        told = json.loads((tmp_path / "report.json").read_text())
        assert (printed, running.returncode) == (b"", 0)
        assert (told["outcome"], told["status"], told["restarts"]) == ("poweroff", 0, 2)
        assert said.count(b"it starts again") == 2

    def test_the_report_counts_the_exits_of_all_runs(self, machine):
        told, _, _ = self.boot(machine(BOOTED + RESET, "on: {reset: restart}"))
        once, _, _ = self.boot(machine(BOOTED + RESET))
        assert {name: count * 6 for name, count in once["exits"].items()} == told["exits"]
        assert once["restarts"] == 0

    def test_a_panic_restarts_too_and_its_loop_is_a_panic(self, machine):
        told, printed, said = self.boot(machine(BOOTED + PANIC, "on: {panic: restart}"))
        assert printed == "B\n" * 6
        assert (told["status"], told["restarts"], told["crash"]["kind"]) == (125, 5, "panic")
        assert "reported by the pvpanic device 6 times in a row" in said

    def test_a_panic_is_no_reset_and_a_reset_no_panic(self, machine):
        told, _, _ = self.boot(machine(BOOTED + PANIC, "on: {reset: restart}"))
        assert (told["status"], told["restarts"]) == (125, 0)
        told, _, _ = self.boot(machine(BOOTED + RESET, "on: {panic: restart}"))
        assert (told["status"], told["restarts"]) == (0, 0)

    def test_a_kernel_that_is_gone_at_the_restart_is_65(self, machine, tmp_path):
        command = machine(BOOTED + ASKS, "on: {reset: restart}")
        running = self.start(command)
        assert running.stdout.readline() == b"B\n"
        (tmp_path / "code.bin").unlink()
        _, said = running.communicate(b"r", timeout=LONG)
        assert running.returncode == 65
        assert b"code.bin: cannot be read: No such file" in said
        assert b"Traceback" not in said

    @pytest.mark.parametrize(
        ("event", "code", "status", "words"),
        [
            ("reset", RESET, 0, "the guest reset"),
            ("panic", PANIC, 125, "the guest's kernel panicked: reported by the pvpanic device"),
        ],
    )
    def test_a_paused_machine_stands_until_a_signal_and_can_be_looked_at(
        self, machine, tmp_path, event, code, status, words
    ):
        command = machine(BOOTED + code, f"on: {{{event}: pause}}")
        running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert running.stderr is not None
        line = running.stderr.readline()
        while "pykvm:" not in line:
            line = running.stderr.readline()
        assert line == f"pykvm: {words}; the machine stands still: Ctrl-A x or a signal ends it\n"
        before = _cpu_seconds(running.pid)
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(1.5)
        assert _cpu_seconds(running.pid) - before < 0.5  # the loop after the panic runs no more
        running.send_signal(signal.SIGTERM)
        _, said = running.communicate(timeout=LONG)
        assert running.returncode == status
        assert f"pykvm: {words}\npykvm: what happened: " in said
        told = json.loads((tmp_path / "report.json").read_text())
        assert (told["crash"]["kind"], told["status"], told["restarts"]) == (event, status, 0)
        assert told["crash"]["instructions"]

    def test_a_paused_machine_at_a_terminal_hears_the_keys(self, machine):
        terminal = Terminal(*machine(BOOTED + PANIC, "on: {panic: pause}"))
        terminal.expect(r"the machine stands still: Ctrl-A x or a signal ends it\r\n")
        terminal.type("\x01h")
        terminal.expect("Ctrl-A x +")
        terminal.type("\x01x")
        assert terminal.status() == 125
        assert "what happened: the kernel ended itself" in terminal.seen

    def test_a_machine_at_a_terminal_keeps_it_over_a_restart(self, machine):
        terminal = Terminal(*machine(BOOTED + ASKS, "on: {reset: restart}"))
        terminal.expect("B\r?\n")
        terminal.type("r")
        terminal.expect(r"pykvm: the guest reset; it starts again\r\n(.|\n)*B\r?\n")
        assert terminal.is_raw
        terminal.type("\x01x")
        assert terminal.status() == 130

    def test_a_pause_ends_at_the_timeout_with_the_guests_own_verdict(self, machine):
        started = time.monotonic()
        told, _, said = self.boot(machine(BOOTED + RESET, "on: {reset: pause}"), "--timeout", "1s")
        assert time.monotonic() - started >= 1
        assert (told["outcome"], told["status"]) == ("reset", 0)
        assert "the machine stands still" in said

    def test_a_machine_that_has_restarted_ends_at_a_signal(self, machine):
        # Each run lasts as long as a key is waited for: none comes.
        running = self.start(machine(BOOTED + ASKS, "on: {reset: restart}"))
        assert running.stdout.readline() == b"B\n"
        running.stdin.write(b"r")
        running.stdin.flush()
        assert running.stdout.readline() == b"B\n"
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=LONG)
        assert running.returncode == 128 + signal.SIGTERM

    @pytest.mark.parametrize("kernel", PRINTS)
    def test_what_other_kernels_print_before_they_reset_is_a_panic(self, machine, kernel):
        text, words = PRINTS[kernel]
        told, printed, said = self.boot(machine(RESET, text=text))
        assert printed.split() == text.split()
        assert (told["status"], told["crash"]["kind"]) == (125, "panic")
        assert f"pykvm: the guest's kernel panicked: {words}\n" in said

    def test_a_word_of_panic_before_a_power_off_is_no_panic(self, machine):
        told, _, _ = self.boot(machine("ba 0406 b8 0034 ef f4", text="booting\npanic: only a word\n"))
        assert (told["outcome"], told["status"]) == ("poweroff", 0)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
