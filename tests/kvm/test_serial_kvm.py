"""The serial port under a guest that prints without end, a reader that is slow, gone, or never comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "pykvm", "boot"]
LONG = 300  # seconds; the lab is slow
PIECE = 3000
LINE = bytes(range(33, 127)) + b"\r\n"
COUNT = 2100
TEXT = LINE * COUNT  # 200 KB: several times what a pipe and we together hold

# All segments begin where the code does; LINE is at 0x100 of it.
LINE_AT = 0x100
OFF = "ba0406 b80034 ef f4"  # S5 to PM1_CNT, and halt
# For each of COUNT lines and each byte: wait for LSR.THRE, write THR.
POLLING = f"""
    31ff                    ; xor di, di
    be0001 b9{len(LINE):02x}00    ; mov si, LINE; mov cx, len
    bafd03                  ; mov dx, LSR
    ec a820 74fb            ; in al, dx; test al, 20h; jz
    ac baf803 ee            ; lodsb; mov dx, THR; out dx, al
    e2f1                    ; loop
    47 81ff{COUNT & 255:02x}{COUNT >> 8:02x} 72e4   ; inc di; cmp di, COUNT; jb
    {OFF}
"""


def code(listing: str) -> bytes:
    return bytes.fromhex("".join(line.partition(";")[0] for line in listing.splitlines()))


@pytest.fixture
def machine(tmp_path):
    """Makes a machine file for real-mode code."""

    def make(listing: str, more: str = "") -> Path:
        (tmp_path / "code.bin").write_bytes(code(listing).ljust(LINE_AT, b"\xf4") + LINE)
        file = tmp_path / "machine.yaml"
        file.write_text(
            "memory: 1M\npit: none\n"
            f"kernel: {{image: code.bin, format: flat, entry: real, load: 0x1000}}\n{more}"
        )
        return file

    return make


def start(file: Path, *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, str(file), *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def read_slowly(child: subprocess.Popen[bytes]) -> bytes:
    """Less than a pipe holds at a time, and always after the guest has had to wait."""
    assert child.stdout is not None
    read = bytearray()
    while piece := os.read(child.stdout.fileno(), PIECE):
        read += piece
        time.sleep(0.002)
    return bytes(read)


def test_a_slow_reader_gets_every_byte_of_a_guest_that_polls(machine):
    child = start(machine(POLLING))
    assert read_slowly(child) == TEXT
    assert (child.wait(LONG), child.stderr.read()) == (0, b"")


def test_a_reader_that_begins_after_the_guest_has_ended_gets_every_byte(machine, tmp_path):
    report = tmp_path / "r.json"
    few = POLLING.replace(f"81ff{COUNT & 255:02x}{COUNT >> 8:02x}", "81ff2003")  # 800 lines: 75 KB
    child = start(machine(few), "--report", str(report))
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(7)  # longer than a guest that was stopped is given
    assert read_slowly(child) == LINE * 800
    assert child.wait(LONG) == 0


def test_a_reader_who_has_enough_ends_the_machine_without_a_word(machine):
    child = start(machine(POLLING))
    assert os.read(child.stdout.fileno(), 1) == TEXT[:1]
    child.stdout.close()
    assert (child.wait(LONG), child.stderr.read()) == (128 + signal.SIGPIPE, b"")


def test_ctrl_c_ends_the_wait_for_a_reader(machine):
    few = POLLING.replace(f"81ff{COUNT & 255:02x}{COUNT >> 8:02x}", "81ff2003")
    child = start(machine(few))
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(5)
    child.send_signal(signal.SIGINT)
    assert child.wait(LONG) == 128 + signal.SIGINT


@pytest.mark.parametrize("to", ["terminal", "/dev/full"])
def test_a_full_disk_is_the_hosts_fault_and_named(machine, to):
    file = machine(POLLING, f"devices: [{{serial: {{port: com1, to: {to}}}}}]\n")
    with open("/dev/full", "w") as full:
        done = subprocess.run([*COMMAND, str(file)], stdout=full, stderr=subprocess.PIPE, timeout=LONG)
    assert done.returncode == 69
    name = "standard output" if to == "terminal" else to
    assert (
        f"pykvm: {name}: cannot write what the guest prints: No space left on device" in done.stderr.decode()
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_it_boots_without_some_of_its_standard_files(machine, closed):
    file = machine(f"b041 baf803 ee {OFF}")
    done = subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND, str(file)], timeout=LONG)
    assert done.returncode == 0
