"""Boots that are killed at any moment, two at once: nothing of them is left. By hand: tests/fuzz/soak."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).parents[1] / "fuzz" / "soak"


def test_killed_boots_leave_nothing():
    command = [sys.executable, SOAK, "--boots", "6", "--at-once", "2", "--kill", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "6 boots of hello, seed 1, 2 at once: 0 faults\n"
