"""Tests that run in the lab are counted here: one boot, with every way in which a test can end."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent.parent
INSIDE = """
import socket

import pytest

def test_passes():
    print("not shown")

@pytest.mark.parametrize("power", [1, 9000])
def test_fails(power):
    print("the power is", power)
    assert power < 9000

@pytest.fixture
def broken():
    raise RuntimeError("broken fixture")

def test_has_no_fixture(broken):
    pass

def test_is_skipped():
    pytest.skip("not on a Tuesday")

def test_ends_the_machine():
    assert socket.gethostname() == "lab"  # and never this one
    with open("/proc/sysrq-trigger", "w") as trigger:
        trigger.write("c")

def test_comes_too_late():
    pass
"""


def test_every_end_of_a_test_in_the_lab_is_that_of_its_twin(tmp_path):
    shutil.copytree(TESTS / "lab", tmp_path / "tests" / "lab", ignore=shutil.ignore_patterns("test_*"))
    shutil.copy(TESTS / "conftest.py", tmp_path / "tests")
    (tmp_path / "tests" / "lab" / "inside" / "test_things.py").write_text(INSIDE)
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = tests/lab\n")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-rs", "--lab", "tests/lab/inside"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "CI"},  # which makes pytest wordy
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    ends = dict(re.findall(r"^tests/lab/inside/test_things.py::(\S+\]) (\w+)", run.stdout, re.MULTILINE))
    assert ends == {
        "test_passes[lab]": "PASSED",
        "test_fails[1-lab]": "PASSED",
        "test_fails[9000-lab]": "FAILED",
        "test_has_no_fixture[lab]": "ERROR",
        "test_is_skipped[lab]": "SKIPPED",
        "test_ends_the_machine[lab]": "FAILED",
        "test_comes_too_late[lab]": "FAILED",
    }
    assert "the power is 9000" in run.stdout
    assert "RuntimeError: broken fixture" in run.stdout
    assert "not on a Tuesday" in run.stdout
    assert run.stdout.count("The lab ended (status 125) before this test had") >= 2
    assert run.stdout.count("Kernel panic - not syncing: sysrq triggered crash") == 1, run.stdout
    assert "3 failed, 2 passed, 1 skipped, 7 deselected, 1 error" in run.stdout.splitlines()[-1]
