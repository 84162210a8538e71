"""Linux with the interrupt controllers in each place, where KVM runs ring 0 on the hardware."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.fast_kvm, pytest.mark.images("linux")]

BOOT = [sys.executable, "-m", "pykvm", "boot"]
LONG = 240  # seconds; the lab is slow


@pytest.mark.parametrize(("place", "halts"), [("kernel", False), ("split", False), ("user", True)])
def test_linux_runs_wherever_the_interrupt_controllers_are(tmp_path, place, halts):
    report = tmp_path / "r.json"
    done = subprocess.run(
        [*BOOT, "linux", "--set", "backend=kvm", "--set", f"interrupts={place}", "--report", str(report)],
        input="sleep 1; grep -E 'timer|ttyS0|LOC' /proc/interrupts; exit\n",
        capture_output=True,
        text=True,
        timeout=LONG,
    )
    assert done.returncode == 0, done.stderr
    serial = re.search(r"4: +([0-9]+) +IO-APIC +4-edge +ttyS0", done.stdout)
    assert serial, done.stdout
    assert int(serial[1]) > 0
    assert "Local timer interrupts" in done.stdout
    told = json.loads(report.read_text())
    assert told["outcome"] == "poweroff"
    assert ("hlt" in told["exits"]) == halts
