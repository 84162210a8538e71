"""Hosts that can't run translated code, and those that lack what makes it quick."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import kernels
import pytest
from booting import COMMAND, WITHOUT_KVM

from pykvm.cli.boot import Boot
from pykvm.config import load
from pykvm.machine.verdict import Cause
from pykvm.translate import features, usable

GUESTS = Path(__file__).parents[2] / "guests"
LONG = 120
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1  # prctl(2), since Linux 6.3
NO_EXECUTABLE = """
import errno, sys
from pykvm.translate import memory
def executable(size):
    raise OSError(errno.EACCES, "Permission denied")
memory.executable = executable
"""
OTHER_PROCESSOR = """
import platform, sys
platform.machine = lambda: "aarch64"
"""
RUN = """
from pykvm.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
REFUSALS = {
    NO_EXECUTABLE: "the host gives no memory that can be executed (Permission denied)",
    OTHER_PROCESSOR: "the host's processor is aarch64, and translation makes code for x86-64 only",
}
HOSTS = pytest.mark.parametrize("host", REFUSALS, ids=["no executable memory", "another processor"])


def run(*command: str | Path, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*before, *map(str, command)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LONG,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture
def without_kvm() -> tuple[str, ...]:
    if not os.path.exists("/dev/kvm"):
        return ()
    if os.geteuid() != 0:
        pytest.skip("only root can hide /dev/kvm")
    return WITHOUT_KVM


def is_one_sentence(text: str) -> bool:
    return text.startswith("pykvm: ") and len(text.splitlines()) == 1


@HOSTS
def test_a_machine_that_asks_for_translation_is_told_why_not(host):
    done = run(sys.executable, "-c", host + RUN, "boot", GUESTS / "hello", "--set", "backend=translate")
    assert done.returncode == 69, done.stderr
    assert is_one_sentence(done.stderr)
    assert "backend: translate: this host can't run translated code: " in done.stderr
    assert REFUSALS[host] in done.stderr
    assert "run it by KVM" in done.stderr


@HOSTS
@pytest.mark.parametrize("guest", ["linux", "small"])
def test_without_kvm_either_nothing_runs_and_both_reasons_are_told(host, guest, without_kvm, tmp_path):
    name = guest
    if guest == "small":
        (tmp_path / "code.bin").write_bytes(bytes.fromhex("b007 e6f4"))
        (tmp_path / "machine.yaml").write_text(
            "memory: 1M\nkernel: {image: code.bin, format: flat, entry: real, load: 0x1000}\n"
        )
        name = str(tmp_path)
    done = run(sys.executable, "-c", host + RUN, "boot", name, before=without_kvm)
    assert done.returncode == 69, done.stderr
    assert is_one_sentence(done.stderr)
    assert "/dev/kvm: " in done.stderr
    assert f"translation is impossible here: {REFUSALS[host]}" in done.stderr


@HOSTS
def test_info_tells_the_reason(host, without_kvm):
    done = run(sys.executable, "-c", host + RUN, "info", before=without_kvm)
    assert done.returncode == 69
    assert "none can run here" in done.stdout
    assert REFUSALS[host] in " ".join(done.stdout.split())


def test_usable_asks_for_the_processor_before_it_loads_anything(monkeypatch):
    assert usable() is None
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert "riscv64" in (usable() or "")


def mdwe(*command: str | Path) -> tuple[str, ...]:
    """The command, where no memory becomes executable that wasn't: it stays so over fork and exec."""
    script = (
        "import ctypes, os, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        f"status = libc.prctl({PR_SET_MDWE}, {PR_MDWE_REFUSE_EXEC_GAIN}, 0, 0, 0)\n"
        "sys.exit(ctypes.get_errno()) if status else os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    return (sys.executable, "-c", script, *map(str, command))


@pytest.fixture
def kernel_has_mdwe() -> None:
    if (why := run(*mdwe(sys.executable, "-c", "")).returncode) != 0:
        pytest.skip(f"this kernel has no PR_SET_MDWE: {os.strerror(why)}")


def test_a_process_that_may_not_make_code_is_told_so(kernel_has_mdwe, without_kvm):
    done = run(*mdwe(*COMMAND, "boot", GUESTS / "hello", "--set", "backend=translate"))
    assert done.returncode == 69, done.stderr
    assert is_one_sentence(done.stderr)
    assert "the host gives no memory that can be executed (Permission denied)" in done.stderr
    done = run(*mdwe(*COMMAND, "boot", "linux"), before=without_kvm)
    assert done.returncode == 69, done.stderr
    assert is_one_sentence(done.stderr)


# A processor without BMI2


def by_translation(folder: Path, out: Path) -> tuple[Cause, str]:
    """A machine's end and what it printed, booted in this process."""
    config = load(
        str(folder / "machine.yaml"),
        ["backend=translate", f"devices.0.serial.to={out}"],
    )
    boot = Boot()
    try:
        cause = boot.run(config, None)
    finally:
        boot.close()
    return cause, out.read_text()


def without_bmi2() -> Any:
    """Makes this a host whose processor lacks it; a mock that knows whether it was asked."""
    return mock.patch.object(features, "host_features", return_value=features.host_features() - {"bmi2"})


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("name", ["hello", "ticks"])
def test_small_guests_print_the_same_without_bmi2(name, tmp_path):
    with without_bmi2() as asked:
        cause, printed = by_translation(GUESTS / name, tmp_path / "out")
    assert (cause.outcome, cause.status) == ("poweroff", 0)
    begins = {
        "hello": "Hello from inside the virtual machine.",
        "ticks": "." * 20 + "\n20 ticks at 100 Hz: 0x",
    }
    assert printed.replace("\r", "").startswith(begins[name])
    assert asked.called


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    "name", ["paging64", "exceptions64", "rings", "selfmod", "crossing", "sse", "segments"]
)
def test_kernels_print_the_same_without_bmi2(name, tmp_path):
    expected, printed = by_translation(kernels.FOLDER / name, tmp_path / "with")
    assert expected.status == 0
    assert printed.startswith(f"{name}: ")
    with without_bmi2() as asked:
        assert by_translation(kernels.FOLDER / name, tmp_path / "without") == (expected, printed)
    assert asked.called
