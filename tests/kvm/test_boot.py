"""Machines booted as a user does it: what they print, how they end, what the report says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pykvm.cli.boot import Boot
from pykvm.config import load

COMMAND = [sys.executable, "-m", "pykvm"]
GUESTS = Path(__file__).parents[2] / "guests"
LONG = 120  # seconds; the lab is slow
REPORT_KEYS = {"outcome", "status", "debug_exit", "seconds", "exits", "rss_bytes", "host", "console_tail"}


def pykvm(*arguments: str | Path, **options) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LONG,
        **options,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture
def flat(tmp_path):
    """Makes a machine file for a few bytes of code."""

    def make(code: str, more: str = "", entry: str = "real") -> Path:
        (tmp_path / "code.bin").write_bytes(bytes.fromhex(code))
        machine = tmp_path / "machine.yaml"
        machine.write_text(
            "memory: 1M\nbackend: kvm\npit: none\n"
            f"kernel: {{image: code.bin, format: flat, entry: {entry}, load: 0x1000}}\n{more}"
        )
        return machine

    return make


def test_hello_prints_and_powers_off_from_any_folder(tmp_path):
    report = tmp_path / "r.json"
    done = pykvm("boot", "hello", "--report", report, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "Hello from inside the virtual machine.\n",
        "",
    )
    told = json.loads(report.read_text())
    assert told.keys() >= REPORT_KEYS
    assert (told["outcome"], told["status"], told["debug_exit"]) == ("poweroff", 0, None)
    assert told["exits"].keys() == {"io"}
    # Its 41 writes, of which KVM keeps some where it is slow (machine/coalesced.py).
    assert 1 < told["exits"]["io"] <= 41
    assert told["console_tail"] == "Hello from inside the virtual machine.\n"
    times = told["seconds"]
    assert 0 < times["first_run"] < times["first_output"] < times["total"]
    assert times["expected_output"] is None


def test_a_folder_is_a_machine(tmp_path):
    done = pykvm("boot", GUESTS / "hello", cwd=tmp_path)
    assert (done.returncode, done.stdout[:5]) == (0, "Hello")


def test_many_boots_leave_nothing_behind(capfd):
    """In one process: no descriptor, no thread, the same end each time."""
    config = load(str(GUESTS / "hello" / "machine.yaml"), ["devices.0.serial.to=none"])
    before = None
    for _ in range(200):
        boot = Boot()
        try:
            cause = boot.run(config, None)
        finally:
            boot.close()
        assert (cause.outcome, cause.status) == ("poweroff", 0)
        now = len(os.listdir("/proc/self/fd")), threading.active_count()
        before = before or now
        assert now == before


@pytest.mark.parametrize("chips", ["pit=kernel", "pit=user", "interrupts=user"])
def test_ticks_counts_twenty(chips):
    done = pykvm("boot", "ticks", "--set", chips)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("." * 20 + "\n20 ticks at 100 Hz: 0x")


@pytest.mark.parametrize(
    ("value", "status"), [(0, 0), (1, 1), (62, 62), (63, 63), (64, 63), (65, 1), (0x80, 63), (0xFF, 63)]
)
def test_debug_exit_becomes_the_status(flat, tmp_path, value, status):
    report = tmp_path / "r.json"
    done = pykvm("boot", flat(f"b0{value:02x} e6f4 f4"), "--report", report)
    assert done.returncode == status
    told = json.loads(report.read_text())
    assert (told["outcome"], told["debug_exit"], told["status"]) == ("debug-exit", value, status)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("the reset register", "ba f90c b0 06 ee f4"),
        ("the keyboard controller", "b0 fe e6 64 f4"),
        ("port 0x92", "b0 01 e6 92 f4"),
    ],
)
def test_a_reset_ends_the_machine(flat, tmp_path, name, code):
    report = tmp_path / "r.json"
    assert pykvm("boot", flat(code), "--report", report).returncode == 0
    assert json.loads(report.read_text())["outcome"] == "reset"


@pytest.mark.parametrize(
    ("kind", "entry", "code", "words"),
    [
        ("halted", "real", "fa f4", "halted with interrupts off"),
        ("triple-fault", "long", "0f0b", "triple fault"),  # ud2, and there is no IDT
    ],
)
def test_a_crash_is_125_and_says_what_happened(flat, tmp_path, kind, entry, code, words):
    report = tmp_path / "r.json"
    done = pykvm("boot", flat(code, entry=entry), "--report", report, "--timeout", "60s")
    assert done.returncode == 125, done.stderr
    assert words in done.stderr
    assert json.loads(report.read_text())["crash"]["kind"] == kind


def test_timeout_is_124(flat):
    done = pykvm("boot", flat("ebfe"), "--timeout", "500ms")
    assert done.returncode == 124
    assert "--timeout 0.5s" in done.stderr


PRINTS_OK = "ba f803 b0 4f ee b0 4b ee ba 0406 b8 0034 ef f4"  # "OK", then off


@pytest.mark.parametrize(
    ("code", "expected", "status", "words"),
    [
        (PRINTS_OK, "OK", 0, ""),
        (PRINTS_OK, "KO", 126, "'KO' was not printed: the guest powered off"),
        ("ebfe", "OK", 126, "'OK' was not printed: not within 0.5s"),
    ],
)
def test_expect_makes_a_boot_a_test(flat, code, expected, status, words):
    done = pykvm("boot", flat(code, f"expect: {{output: {expected}, within: 500ms}}\n"))
    assert done.returncode == status, done.stderr
    assert words in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signals_end_it_with_128_and_their_number(flat, number):
    machine = flat("ba f803 b0 52 ee ebfe")  # "R", then for ever
    running = subprocess.Popen(
        [*COMMAND, "boot", str(machine)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert running.stdout is not None
    assert running.stdout.read(1) == b"R"
    running.send_signal(number)
    _, errors = running.communicate(timeout=LONG)
    assert running.returncode == 128 + number
    assert b"Traceback" not in errors


def test_what_is_piped_in_reaches_a_guest_that_polls(flat):
    # 1: in LSR; test DR; jz 1b; in RBR; out THR; cmp '.'; jne 1b; off
    code = "ba fd03 ec a801 74f8 baf803 ec ee 3c2e 75ef ba0406 b80034 ef f4"
    done = subprocess.run(
        [*COMMAND, "boot", str(flat(code))],
        input="typed early.",
        capture_output=True,
        text=True,
        timeout=LONG,
    )
    assert (done.returncode, done.stdout) == (0, "typed early.")
