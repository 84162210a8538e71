"""Linux on parts of the board that it passes over where it may: the MP tables, the PIC, the HPET."""

from __future__ import annotations

import json
import re

import pytest
from booting import boot, initrd

pytestmark = [pytest.mark.any_backend, pytest.mark.images("linux", "debian", "debian:linux-image-6.12")]

# Without ACPI there is no power-off.
SCRIPT = """#!/bin/sh
echo there are $(grep -c ^processor /proc/cpuinfo)
cat /proc/interrupts
cat /sys/devices/system/clocksource/clocksource0/current_clocksource
dmesg | grep MPTABLE
reboot -f
"""


# The interrupts with which the serial port works, by the words that keep Linux from others.
@pytest.mark.parametrize(
    ("words", "cpus", "chip"),
    [
        ("acpi=off", 2, r"IO-APIC +4-edge"),
        ("acpi=off noapic", 2, "XT-PIC"),
        ("acpi=off nolapic", 1, "XT-PIC"),
    ],
)
def test_without_acpi_debian_finds_cpus_and_wires_by_the_mp_tables(tmp_path, words, cpus, chip):
    extra = initrd(tmp_path / "extra.cpio", run_sh=SCRIPT)
    settings = ("cpus=2", "kernel.image=debian:linux-image-6.12", f"kernel.initrd.1={extra}")
    given = [word for each in settings for word in ("--set", each)]
    report = tmp_path / "r.json"
    done = boot("debian", *given, "--append", f"quiet {words}", "--report", report)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(report.read_text())["outcome"] == "reset"
    assert "MPTABLE: OEM ID: PYKVM" in done.stdout
    assert f"there are {cpus}\n" in done.stdout
    serial = re.search(rf"4:((?: +\d+)+) +{chip} +ttyS0", done.stdout)
    assert serial, done.stdout
    assert sum(map(int, serial[1].split())) > 0


def test_linux_tells_the_time_by_the_hpet_where_it_is_told_to(tmp_path):
    extra = initrd(tmp_path / "extra.cpio", run_sh=SCRIPT)
    settings = ("hpet=true", f"kernel.initrd.1={extra}")
    given = [word for each in settings for word in ("--set", each)]
    done = boot("linux", *given, "--append", "quiet clocksource=hpet")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nhpet\n" in done.stdout
    assert re.search(r" 0: +[1-9]\d* +IO-APIC +2-edge +timer", done.stdout), done.stdout
