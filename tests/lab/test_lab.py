"""The lab's script, as a person or CI meets it: exit statuses, output, time limit, interruption."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

LAB = Path(__file__).with_name("lab")


def lab(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LAB, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL, **options
    )


def test_a_command_gives_its_output_its_files_and_its_status(tmp_path):
    here = tmp_path / "a folder with spaces"
    results = tmp_path / "results"
    here.mkdir()
    results.mkdir()
    command = 'echo "$PWD" "$1"; echo kept >/out/file; echo gone >here; exit 7'
    run = lab("-o", results, "--", "bash", "-c", command, "bash", "it's one  argument", cwd=here)
    assert (run.returncode, run.stdout) == (7, f"{here} it's one  argument\n")
    assert (results / "file").read_text() == "kept\n"
    assert list(here.iterdir()) == []  # the host's files stay as they are


def test_a_command_that_takes_too_long_is_ended():
    run = lab("-t", "1", "sleep", "infinity")
    assert run.returncode == 124
    assert run.stderr == "lab: 1 s passed before the command ended\n"


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_lab_and_its_machine(number, status):
    # --default-signal: where the tests run in the background of a script, SIGINT is ignored, and that stays.
    command = ["env", "--default-signal", LAB, "bash", "-c", "echo up; sleep infinity"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"up\n"
    process.send_signal(number)
    assert process.wait() == status
    assert process.stdout.read() == b""  # QEMU, which held the other end, is gone


def test_a_machine_that_dies_is_told_from_a_command_that_fails():
    process = subprocess.Popen(
        [LAB, "bash", "-c", "echo up; echo c >/proc/sysrq-trigger"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    output, error = process.communicate()
    assert b"Kernel panic - not syncing: sysrq triggered crash" in output
    assert process.returncode == 125
    assert b"lab: the machine ended before the command did" in error


def test_no_command_is_a_usage_error():
    assert lab().returncode == 64


def test_a_host_without_qemu_is_told_how_to_get_it(tmp_path):
    for tool in ("bash", "dirname", "realpath"):
        (tmp_path / tool).symlink_to(f"/usr/bin/{tool}")
    run = lab("true", env={"PATH": str(tmp_path), "HOME": str(tmp_path)})
    assert run.returncode == 69
    assert run.stderr == "lab: the host lacks qemu-system-x86_64; run tests/setup\n"
