"""Linux with the interrupt controllers that are pykvm's own, where KVM runs ring 0 on the hardware."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.fast_kvm, pytest.mark.images("linux")]

BOOT = [sys.executable, "-m", "pykvm", "boot"]
LONG = 240  # seconds; the lab is slow


def test_linux_runs_on_controllers_of_pykvms_own(tmp_path):
    report = tmp_path / "r.json"
    done = subprocess.run(
        [*BOOT, "linux", "--set", "backend=kvm", "--set", "interrupts=user", "--report", str(report)],
        input="sleep 1; grep -E 'timer|LOC' /proc/interrupts; exit\n",
        capture_output=True,
        text=True,
        timeout=LONG,
    )
    assert done.returncode == 0, done.stderr
    assert "IO-APIC" in done.stdout
    assert "Local timer interrupts" in done.stdout
    told = json.loads(report.read_text())
    assert told["outcome"] == "poweroff"
    assert told["exits"]["hlt"] > 0
