"""The benchmark's kernels do what they say, under pykvm and in the C loop."""

from __future__ import annotations

import json
import subprocess

import monitors
import pytest

ROUNDS = 50
EXITS = {"OUT": ("io", 0), "IN": ("io", 0), "HOLE_WRITE": ("mmio", 0), "MMIO_WRITE": ("mmio", 1)}
EXITS |= {"MMIO_READ": ("mmio", 1)}
AROUND = 4  # to the serial port thrice, and to debug-exit


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return monitors.Bench(tmp_path_factory.mktemp("bench"))


@pytest.mark.parametrize("work", EXITS)
def test_a_kernel_makes_as_many_exits_as_are_divided_by(bench, work, tmp_path):
    kind, user = EXITS[work]
    settings = ("interrupts=user",) if user else ()
    report = tmp_path / "report.json"
    words = [*monitors.pykvm(bench.kernel(work, ROUNDS), "kvm", *settings), "--report", str(report)]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=240)
    assert (done.returncode, done.stdout) == (0, b"be")
    exits = json.loads(report.read_text())["exits"]
    assert exits == ({"io": ROUNDS + AROUND} if kind == "io" else {"io": AROUND, "mmio": ROUNDS})


@pytest.mark.parametrize("work", EXITS)
def test_the_loop_in_c_runs_the_same_kernel(bench, work):
    words = [bench.folder / "kvmloop", bench.kernel(work, ROUNDS), *(("user",) if EXITS[work][1] else ())]
    done = subprocess.run(words, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"be")


def test_bytes_to_the_serial_port_are_all_printed(bench):
    words = monitors.pykvm(bench.kernel("FIFO", ROUNDS), "kvm")
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=240)
    assert done.stdout == b"b" + b"x" * monitors.FIFO_DEPTH * ROUNDS + b"e"


def test_two_cpus_answer_each_other_without_an_exit(bench, tmp_path):
    kernel, report = bench.kernel("IPI", ROUNDS), tmp_path / "report.json"
    words = [*monitors.pykvm(kernel, "kvm", "cpus=2"), "--report", str(report)]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=240)
    assert (done.returncode, done.stdout) == (0, b"be")
    assert json.loads(report.read_text())["exits"] == {"io": AROUND}
    done = subprocess.run([bench.folder / "kvmloop", kernel, "two"], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"be")


def test_the_screen_scrolls_when_it_is_full(bench, tmp_path):
    rows, report = 26, tmp_path / "report.json"
    words = [*monitors.pykvm(bench.kernel("VGA", 80 * rows), "kvm"), "--report", str(report)]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=240)
    assert done.returncode == 0
    drawn = "".join(chr((count & 0x3F) + 0x20) for count in range(80 * rows, 0, -1))
    lines = [drawn[at : at + 80].rstrip() for at in range(0, len(drawn), 80)]
    screen = json.loads(report.read_text())["screen"]
    assert screen.splitlines() == lines[2:]  # scrolled twice; the last row is empty
