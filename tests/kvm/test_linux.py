"""Linux boots: unmodified Debian kernels and the shipped guests, as a user sees them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from booting import COMMAND, Terminal, boot, initrd

pytestmark = [pytest.mark.any_backend, pytest.mark.images("linux", "debian")]


def test_linux_gives_a_shell_in_a_terminal_and_poweroff_ends_it():
    terminal = Terminal(*COMMAND, "boot", "linux", "--append", "quiet")
    terminal.expect(r"/root # ")
    terminal.type("echo six times seven is $((6*7)); tty\n")
    terminal.expect(r"\r\nsix times seven is 42\r\n/dev/ttyS0\r\n")
    terminal.expect(r"/root # ")
    # Ctrl-C goes to the guest, whose shell has job control. What is typed before the program has the
    # terminal is the shell's, so wait for its output.
    terminal.type("(echo begun; exec sleep 1000)\n")
    terminal.expect(r"\r\nbegun\r\n")
    terminal.type("\x03")
    terminal.expect(r"/root # ")
    terminal.type("poweroff\n")
    assert terminal.status() == 0


def test_exit_from_the_shell_powers_off_and_piped_input_is_typed():
    done = boot("linux", "--append", "quiet", typed="echo typed: $((2+3))\nexit\n")
    assert done.returncode == 0, done.stderr
    assert "typed: 5" in done.stdout


def test_linux_boots_without_a_complaint_about_the_board():
    done = boot("linux", "--set", "expect.output=/root # ")
    assert done.returncode == 0, done.stderr
    log = done.stdout
    assert "ACPI: RSDP" in log
    assert not re.search(r"ACPI (BIOS )?(Error|Warning)|Firmware Bug|BIOS bug", log), log


def test_debian_runs_a_script_with_its_unmodified_kernel(tmp_path):
    script = '#!/bin/sh\necho "kernel: $(uname -r)"\necho "script ran"\npoweroff\n'
    report = tmp_path / "r.json"
    extra = initrd(tmp_path / "extra.cpio", run_sh=script)
    done = boot(
        "debian",
        "--set",
        f"kernel.initrd.1={extra}",
        "--set",
        "kernel.cmdline=console=ttyS0 quiet",
        "--report",
        report,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "script ran" in done.stdout
    assert re.search(r"kernel: 6\.12\.\d+.*-cloud-amd64", done.stdout)
    told = json.loads(report.read_text())
    assert told["outcome"] == "poweroff"
    assert told["seconds"]["first_run"] < told["seconds"]["first_output"] < told["seconds"]["total"]
    outs = {"kvm": "io", "translate": "port-out"}[told["host"]["backend"]]
    assert told["exits"][outs] > len(done.stdout)
    complaints = r"ACPI (BIOS )?(Error|Warning)|Firmware Bug|BIOS bug"
    assert not re.search(complaints, done.stdout), done.stdout


def test_a_panicking_init_is_125_with_the_consoles_tail(tmp_path):
    bad = initrd(tmp_path / "bad.cpio", init="#!/no/such/shell\n")
    report = tmp_path / "r.json"
    done = boot("linux", "--initrd", bad, "--report", report)
    assert done.returncode == 125, done.stdout + done.stderr
    verdict = next(line for line in done.stderr.splitlines() if line.startswith("pykvm: the guest's kernel"))
    assert "Kernel panic - not syncing" in verdict
    told = json.loads(report.read_text())
    assert told["outcome"] == "crash"
    assert told["crash"]["kind"] == "panic"
    assert "Kernel panic - not syncing" in told["console_tail"]


def test_a_panic_that_reboots_is_no_success(tmp_path):
    bad = initrd(tmp_path / "bad.cpio", init="#!/no/such/shell\n")
    done = boot("linux", "--initrd", bad, "--append", "panic=-1")
    assert done.returncode == 125, done.stdout + done.stderr


@pytest.mark.images("debian:linux-image-6.1-cloud", "debian:linux-image-6.12")
@pytest.mark.parametrize("package", ["linux-image-6.1-cloud", "linux-image-6.12"])
def test_a_machine_file_of_ones_own_with_a_debian_kernel(tmp_path, package):
    guest = Path(__file__).parents[2] / "guests" / "linux"
    machine = tmp_path / "machine.yaml"
    machine.write_text(
        "name: own\n"
        "memory: 1G\n"
        f"kernel: {{image: 'debian:{package}', initrd: 'recipe:{guest}/initramfs', "
        "cmdline: console=ttyS0 quiet}\n"
        "expect: {output: '/root # ', within: 200s}\n"
    )
    done = boot(machine)
    assert done.returncode == 0, done.stdout + done.stderr
