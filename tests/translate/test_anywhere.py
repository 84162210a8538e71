"""Linux on any host: with this one's KVM, whatever it can, and without one, as a user sees it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess

import pytest
from booting import COMMAND, WITHOUT_KVM, Terminal, boot, initrd

PROMPT = r"/root # "
TICKS_A_SECOND = 100  # CONFIG_HZ of the guest
HERE: tuple[str, ...] = ()
CAN_HIDE = os.geteuid() == 0 and os.path.exists("/dev/kvm")


@pytest.fixture(params=["here", "without KVM"])
def before(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """What to put before the command: nothing, or what hides /dev/kvm."""
    if request.param == "here" or not os.path.exists("/dev/kvm"):
        return HERE
    if not CAN_HIDE:
        pytest.skip("only root can hide /dev/kvm")
    return WITHOUT_KVM


@pytest.fixture
def without_kvm() -> tuple[str, ...]:
    if not os.path.exists("/dev/kvm"):
        return HERE
    if not CAN_HIDE:
        pytest.skip("only root can hide /dev/kvm")
    return WITHOUT_KVM


def test_a_terminal_has_a_shell_with_job_control_and_gets_back_what_it_was(before):
    terminal = Terminal(*before, *COMMAND, "boot", "linux", "--append", "quiet")
    terminal.expect(PROMPT)
    assert terminal.is_raw
    terminal.type("echo six times seven is $((6*7))\n")
    terminal.expect(r"\r\nsix times seven is 42\r\n")
    terminal.expect(PROMPT)
    terminal.type("(echo begun; exec sleep 1000)\n")
    terminal.expect(r"\r\nbegun\r\n")
    terminal.type("\x03")
    terminal.expect(PROMPT)
    terminal.type("poweroff\n")
    assert terminal.status() == 0


def test_debian_runs_a_script_and_the_report_tells_by_what(without_kvm, tmp_path):
    extra = initrd(tmp_path / "extra.cpio", run_sh="#!/bin/sh\necho it ran on $(uname -r)\npoweroff\n")
    report = tmp_path / "r.json"
    done = boot(
        "debian", "--set", f"kernel.initrd.1={extra}", "--append", "quiet", "--report", report,
        before=without_kvm,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"it ran on \d+\.\d+.*-cloud-amd64", done.stdout)
    told = json.loads(report.read_text())
    assert (told["outcome"], told["status"]) == ("poweroff", 0)
    assert told["host"]["backend"] == "translate"
    assert "/dev/kvm" in told["host"]["why"]
    assert told["exits"]["port-out"] > len(done.stdout)
    assert told["exits"].keys() >= {"chain", "miss", "interpret"}


def test_the_report_tells_why_this_host_translates(tmp_path):
    report = tmp_path / "r.json"
    done = boot("linux", "--report", report, typed="exit\n")
    assert done.returncode == 0, done.stderr
    host = json.loads(report.read_text())["host"]
    info = json.loads(subprocess.run([*COMMAND, "info", "--json"], capture_output=True, check=True).stdout)
    assert host["backend"] == info["backend"]
    assert host["why"].split(", at ")[0] == info["why"].split(", at ")[0]
    if host["backend"] == "translate" and host["ring0"] == "interpreted":
        assert "interprets a guest's kernel" in host["why"]


def test_a_panic_is_125_and_shows_the_last_lines(without_kvm, tmp_path):
    bad = initrd(tmp_path / "bad.cpio", init="#!/no/such/shell\n")
    report = tmp_path / "r.json"
    done = boot("linux", "--initrd", bad, "--report", report, before=without_kvm)
    assert done.returncode == 125, done.stdout + done.stderr
    assert "the last lines on com1" in done.stderr
    assert "the guest's kernel panicked: Kernel panic - not syncing" in done.stderr
    told = json.loads(report.read_text())
    assert told["crash"]["kind"] == "panic"
    shown = [told["crash"]["symbol"], *told["crash"]["stack"]]  # Linux's names, from its memory
    assert any("panic+0x" in line for line in shown), shown
    assert "Kernel panic - not syncing" in told["console_tail"]


def test_timeout_is_124(without_kvm):
    done = boot("linux", "--timeout", "1s", before=without_kvm)
    assert done.returncode == 124, done.stderr
    assert "--timeout 1s" in done.stderr


def test_ctrl_a_x_is_130_and_the_terminal_is_as_it_was(before):
    terminal = Terminal(*before, *COMMAND, "boot", "linux", "--append", "quiet")
    terminal.expect(PROMPT)
    terminal.type("\x01x")
    assert terminal.status() == 130


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_128_and_its_number_and_the_terminal_is_as_it_was(without_kvm, number):
    terminal = Terminal(*without_kvm, *COMMAND, "boot", "linux", "--append", "quiet")
    terminal.expect(PROMPT)
    os.kill(terminal.pid, number)
    assert terminal.status() == 128 + number


def test_a_killed_boot_leaves_nothing_that_breaks_the_next(without_kvm):
    killed = Terminal(*without_kvm, *COMMAND, "boot", "linux", "--append", "quiet")
    killed.expect(PROMPT)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    done = boot("linux", "--append", "quiet", before=without_kvm, typed="echo typed: $((2+3))\nexit\n")
    assert done.returncode == 0, done.stderr
    assert "typed: 5" in done.stdout


def test_an_idle_linux_is_hardly_woken(without_kvm):
    """In two seconds without work fewer timer interrupts than a second's ticks: most ticks were left out."""
    ask = "grep LOC: /proc/interrupts"
    done = boot("linux", "--append", "quiet", before=without_kvm, typed=f"{ask}; sleep 2; {ask}; exit\n")
    assert done.returncode == 0, done.stderr
    first, second = map(int, re.findall(r"LOC: +(\d+)", done.stdout))
    assert second - first < TICKS_A_SECOND


def test_info_names_the_back_end(without_kvm):
    done = subprocess.run([*without_kvm, *COMMAND, "info"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^back end +translation: /dev/kvm: ", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^guests +All guests run here\.", done.stdout, re.MULTILINE), done.stdout
