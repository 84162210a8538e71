"""The serial port under a guest that prints without end, a reader that is slow, gone, or never comes."""

from __future__ import annotations

import contextlib
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
FIFO = 16  # bytes that a 16550A takes at once
OFF = "ba0406 b80034 ef f4"  # S5 to PM1_CNT, and halt
# For each of COUNT lines and each FIFO of it: wait for LSR.THRE, fill the FIFO. With a loop over bytes the
# lab, where an exit takes half a millisecond, would be at it for minutes.
POLLING = f"""
    bafa03 b001 ee          ; mov dx, FCR; mov al, 1; out dx, al
    31ff                    ; xor di, di
    be0001 bb{len(LINE) // FIFO:02x}00   ; mov si, LINE; mov bx, FIFOs in a line
    bafd03                  ; mov dx, LSR
    ec a820 74fb            ; in al, dx; test al, 20h; jz
    b9{FIFO:02x}00 baf803 f36e    ; mov cx, 16; mov dx, THR; rep outsb
    4b 75ed                 ; dec bx; jnz
    47 81ff{COUNT & 255:02x}{COUNT >> 8:02x} 72e0   ; inc di; cmp di, COUNT; jb
    {OFF}
"""
FEW = 800  # lines, 75 KB: more than a pipe holds, and less than a pipe and we together
POLLING_FEW = POLLING.replace(f"81ff{COUNT & 255:02x}{COUNT >> 8:02x}", f"81ff{FEW & 255:02x}{FEW >> 8:02x}")
POLL, FOR_EVER = "7", "0xffffffff"  # the system call's number, and its third argument


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


def wait_until_it_waits_for_a_reader(child: subprocess.Popen[bytes]) -> None:
    """Until its threads are gone, and so the guest, and the last one is in poll(2) without a time limit."""
    process = Path(f"/proc/{child.pid}")
    end = time.monotonic() + LONG
    names, call = [], []
    while names.count(names[0] if names else "") != 1 or call[::3][:2] != [POLL, FOR_EVER]:
        assert child.poll() is None and time.monotonic() < end, f"status {child.returncode}, {call}"
        time.sleep(0.02)
        with contextlib.suppress(OSError):  # a thread, or all, ended meanwhile
            # The process's first, then Python's threads of the same name; KVM's own worker has another one.
            tasks = sorted(os.listdir(process / "task"), key=int)
            names = [(process / "task" / task / "comm").read_text() for task in tasks]
            call = (process / "syscall").read_text().split()


def test_a_slow_reader_gets_every_byte_of_a_guest_that_polls(machine):
    child = start(machine(POLLING))
    assert read_slowly(child) == TEXT
    assert (child.wait(LONG), child.stderr.read()) == (0, b"")


def test_a_reader_that_begins_after_the_guest_has_ended_gets_every_byte(machine, tmp_path):
    report = tmp_path / "r.json"
    child = start(machine(POLLING_FEW), "--report", str(report))
    wait_until_it_waits_for_a_reader(child)
    assert not report.exists()
    assert read_slowly(child) == LINE * FEW
    assert child.wait(LONG) == 0
    assert report.exists()


def test_a_reader_who_has_enough_ends_the_machine_without_a_word(machine):
    child = start(machine(POLLING))
    assert os.read(child.stdout.fileno(), 1) == TEXT[:1]
    child.stdout.close()
    assert (child.wait(LONG), child.stderr.read()) == (128 + signal.SIGPIPE, b"")


def test_ctrl_c_ends_the_wait_for_a_reader(machine):
    child = start(machine(POLLING_FEW))
    wait_until_it_waits_for_a_reader(child)
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
