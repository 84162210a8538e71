"""What a user is told when something is wrong: one sentence, its status, and never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "pykvm"]
HELLO = Path(__file__).parents[2] / "guests" / "hello"
LONG = 120


def pykvm(*arguments: str | Path, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*before, *COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LONG,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) <= 1, done.stderr
    return done


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("boot", "nosuch"), 65, "no such file, and no shipped guest"),
        (("boot", "helo"), 65, "did you mean the guest hello?"),
        (("bot",), 64, "did you mean boot?"),
        (("boot", "hello", "--nosuch"), 64, "unrecognized arguments"),
        (("boot", "hello", "--set", "memory=512MB"), 64, "'512MB' is not a size"),
        (("boot", "hello", "--set", "cpus=65"), 64, "cpus"),
        (("boot", "hello", "--timeout", "soon"), 64, "soon"),
        (("boot", "/"), 65, "without machine.yaml"),
        (("check", "hello", "--set", "kernel.image=/nonexistent"), 65, "/nonexistent: cannot be read"),
        (("check", "--kernel", "/etc/passwd"), 65, "/etc/passwd"),
        (("check", "--kernel", "/dev/null"), 65, "is not a regular file"),
    ],
)
def test_a_wrong_word_is_answered_by_a_sentence(arguments, status, words):
    done = pykvm(*arguments)
    assert done.returncode == status, done.stderr
    assert words in done.stderr
    assert done.stderr.startswith("pykvm: ")


def test_an_unwritable_report_is_told_before_the_boot(tmp_path):
    done = pykvm("boot", "hello", "--report", tmp_path / "no" / "r.json")
    assert done.returncode == 69
    assert "the report can't be written" in done.stderr
    assert done.stdout == ""  # hello was not let run


def test_a_report_is_written_when_the_boot_fails(tmp_path):
    report = tmp_path / "r.json"
    assert pykvm("boot", "hello", "--set", "kernel.image=/none", "--report", report).returncode == 65
    told = json.loads(report.read_text())
    assert (told["outcome"], told["status"]) == ("error", 65)
    assert "/none" in told["sentence"]


@pytest.fixture
def somebody() -> tuple[str, ...]:
    """What runs a command as another user, who may do nothing."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    words = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    if subprocess.run([*words, sys.executable, "-c", ""], capture_output=True).returncode:
        pytest.skip("this Python can't be run by another user")
    return words


def test_no_permission_names_the_owner_and_the_remedy(somebody):
    node = os.stat("/dev/kvm")
    if node.st_mode & 0o006:
        pytest.skip("this /dev/kvm is open to everybody")
    done = pykvm("boot", HELLO, before=somebody)
    assert done.returncode == 69
    assert "/dev/kvm: you may not open it" in done.stderr
    assert "root" in done.stderr


def test_files_that_may_not_be_read_are_named(somebody):
    with tempfile.TemporaryDirectory() as folder:  # tmp_path lies where only root gets in
        os.chmod(folder, 0o755)
        secret, machine = Path(folder, "secret"), Path(folder, "machine.yaml")
        machine.write_text("kernel: {image: secret, initrd: secret}\n")
        secret.write_bytes(b"\xf4")
        secret.chmod(0)
        done = pykvm("boot", machine, before=somebody)
        assert done.returncode == 65
        assert done.stderr == (
            f"pykvm: {secret}: cannot be read: Permission denied; check the path and its permissions\n"
        )
        machine.chmod(0)
        done = pykvm("boot", machine, before=somebody)
        assert done.returncode == 65
        assert done.stderr == (
            f"pykvm: {machine}: cannot be read: Permission denied; check the path and its permissions\n"
        )


@pytest.mark.parametrize("threads", [1, 2])
def test_a_limit_on_processes_is_the_hosts_and_told(somebody, threads):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        Path(folder, "code.bin").write_bytes(b"\xeb\xfe")
        machine = Path(folder, "machine.yaml")
        machine.write_text(
            "memory: 1M\nbackend: translate\n"
            "kernel: {image: code.bin, format: flat, entry: real, load: 0x1000}\n"
        )
        done = pykvm("boot", machine, "--timeout", "10s", before=("prlimit", f"--nproc={threads}", *somebody))
        assert done.returncode == 69
        assert done.stderr == (
            "pykvm: the host lets no more threads start; raise the limits that `ulimit -u` and "
            "`ulimit -v` show, or the container's on processes\n"
        )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize(
    ("mounting", "words"),
    [
        ("mount --bind /dev/null /dev/kvm", "it is not KVM"),
        ("mount -t tmpfs none /dev", "there is no KVM on this host"),
    ],
)
def test_a_missing_or_wrong_dev_kvm_is_told(mounting, words):
    if "tmpfs" in mounting:
        mounting += " && mknod -m 666 /dev/null c 1 3"
    script = f"{mounting} && exec {' '.join(COMMAND)} boot {HELLO}"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 69, done.stderr
    assert words in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize("where", ["/dev/null", "missing"])
def test_a_machine_that_leaves_the_choice_runs_without_kvm(tmp_path, where):
    (tmp_path / "code.bin").write_bytes(bytes.fromhex("b007 e6f4"))  # mov al, 7; out 0xf4, al
    (tmp_path / "machine.yaml").write_text(
        "memory: 1M\nkernel: {image: code.bin, format: flat, entry: real, load: 0x1000}\n"
    )
    mounting = "mount --bind /dev/null /dev/kvm"
    if where == "missing":
        mounting = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3"
    report = tmp_path / "r.json"
    script = f"{mounting} && exec {' '.join(COMMAND)} boot {tmp_path} --report {report}"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 7, done.stderr
    host = json.loads(report.read_text())["host"]
    assert host["backend"] == "translate"
    assert host["why"].startswith("/dev/kvm: ")


def test_info_tells_in_words_and_in_json():
    words = pykvm("info")
    assert words.returncode == 0
    assert "guests run here" in words.stdout.lower()
    told = json.loads(pykvm("info", "--json").stdout)
    assert told["kvm"]["ring0"]["kind"] in ("hardware", "interpreted")
    fast = told["kvm"]["ring0"]["kind"] == "hardware"
    assert told["backend"] == ("kvm" if fast or told["translation"] else "translate")
    assert (fast or not told["translation"]) == ("All guests run here" in words.stdout)
    assert told["kvm"]["capabilities"]["KVM_CAP_IMMEDIATE_EXIT"]
    assert {"fpu", "msr", "pae"} <= set(told["kvm"]["cpuid"]["features"])
