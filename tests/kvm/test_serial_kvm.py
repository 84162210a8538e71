"""The serial port under a guest that prints without end, a reader that is slow, gone, or never comes."""

from __future__ import annotations

import contextlib
import ctypes
import json
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
# Each byte is an exit, and that takes half a millisecond in the lab: so the pipes are small, and the texts
# little longer than what they and we (64 KiB) together hold.
PIPE = 4096
F_SETPIPE_SZ = 1031  # <linux/fcntl.h>
COUNT = 800
TEXT = LINE * COUNT  # 75 KB

# All segments begin where the code does; LINE is at 0x100 of it.
LINE_AT = 0x100
FIFO = 16  # bytes that a 16550A takes at once
OFF = "ba0406 b80034 ef f4"  # S5 to PM1_CNT, and halt
# For each of COUNT lines and each FIFO of it: wait for LSR.THRE, fill the FIFO. Whoever wants to know that it
# had to wait gives it a com2, to which it then writes.
POLLING = f"""
    bafa03 b001 ee          ; mov dx, FCR; mov al, 1; out dx, al
    31ff                    ; xor di, di
    be0001 bb{len(LINE) // FIFO:02x}00   ; mov si, LINE; mov bx, FIFOs in a line
    bafd03                  ; mov dx, LSR
    ec a820 7506            ; in al, dx; test al, 20h; jnz
    baf802 ee ebf2          ; mov dx, 2f8h; out dx, al; jmp
    b9{FIFO:02x}00 baf803 f36e    ; mov cx, 16; mov dx, THR; rep outsb
    4b 75e7                 ; dec bx; jnz
    47 81ff{COUNT & 255:02x}{COUNT >> 8:02x} 72da   ; inc di; cmp di, COUNT; jb
    {OFF}
"""
FEW = 150  # lines, 14 KB: more than the pipe holds, and less than pipe and we together
# FEW lines byte by byte, LSR before each, as Linux's console does it. The last one is 1.
BYTES = f"""
    31ff                    ; xor di, di
    be0001 b9{len(LINE):02x}00          ; mov si, LINE; mov cx, its length
    bafd03                  ; mov dx, LSR
    ec a820 74fb            ; in al, dx; test al, 20h; jz
    baf803 ac ee e2f1       ; mov dx, THR; lodsb; out dx, al; loop
    47 81ff{FEW & 255:02x}{FEW >> 8:02x} 72e4   ; inc di; cmp di, FEW; jb
    b001 ee                 ; mov al, 1; out dx, al
"""
POLLING_FEW = POLLING.replace(f"81ff{COUNT & 255:02x}{COUNT >> 8:02x}", f"81ff{FEW & 255:02x}{FEW >> 8:02x}")
SPIN = "fa ebfe"  # cli; jmp $
TRIPLE_FAULT = "0f011e0002 0f0b"  # lidt [0x200], which is zero; ud2
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
            "memory: 1M\npit: none\nbackend: kvm\n"
            f"kernel: {{image: code.bin, format: flat, entry: real, load: 0x1000}}\n{more}"
        )
        return file

    return make


def start(file: Path, *options: str) -> subprocess.Popen[bytes]:
    reader, writer = os.pipe()
    assert ctypes.CDLL(None).fcntl(writer, F_SETPIPE_SZ, PIPE) == PIPE
    child = subprocess.Popen(
        [*COMMAND, str(file), *options], stdin=subprocess.DEVNULL, stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    child.stdout = os.fdopen(reader, "rb", buffering=0)
    return child


def read_slowly(child: subprocess.Popen[bytes]) -> bytes:
    """Less than the pipe holds at a time."""
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


def test_a_slow_reader_gets_every_byte_of_a_guest_that_polls(machine, tmp_path):
    waited = tmp_path / "waited"
    waited.touch()
    child = start(
        machine(
            POLLING,
            "devices: [{serial: {port: com1, to: terminal}}, "
            f"{{serial: {{port: com2, to: {waited}}}}}]\n",
        )
    )
    while not waited.stat().st_size:  # all is full
        assert child.poll() is None
        time.sleep(0.02)
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


def test_a_guest_that_prints_on_and_on_leaves_kvm_once_a_byte(machine, tmp_path):
    """And for nothing else than to read LSR: HOSTS.md has what an exit costs."""
    report = tmp_path / "r.json"
    done = subprocess.run(
        [*COMMAND, str(machine(BYTES + OFF)), "--report", str(report)], capture_output=True, timeout=LONG
    )
    assert (done.returncode, done.stdout) == (0, LINE * FEW + b"\1")
    assert json.loads(report.read_text())["exits"]["io"] < 1.4 * FEW * len(LINE)


def test_the_last_byte_is_seen_though_the_guest_never_leaves_kvm_again(machine):
    file = machine(BYTES + SPIN, f'expect: {{output: "\\x01", within: {LONG}s}}\n')
    done = subprocess.run([*COMMAND, str(file)], capture_output=True, timeout=LONG)
    assert (done.returncode, done.stdout) == (0, LINE * FEW + b"\1"), done.stderr


def test_the_last_byte_is_seen_of_a_guest_that_crashes(machine):
    done = subprocess.run([*COMMAND, str(machine(BYTES + TRIPLE_FAULT))], capture_output=True, timeout=LONG)
    assert (done.returncode, done.stdout) == (125, LINE * FEW + b"\1"), done.stderr
