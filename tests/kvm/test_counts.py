"""What a start and a boot cost in counts, which no load of the machine changes.

A test here that turns red tells of a cost that was not there before: take it out again, or raise the bound
and say in the commit why it is worth that.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from booting import COMMAND, LONG, boot

ROOT = str(Path(__file__).parents[2])

# Counted in November 2026, and one tenth more.
KVM_CALLS_BEFORE_RUN = 36
SYSTEM_CALLS = 2800  # of `hello`, less those of a Python that does nothing
MODULES = 120  # of pykvm, for `hello`
LINUX_EXITS = 19_000  # of them 14 500 for as many bytes to the console
LINUX_PORT_OUTS = 11_800

DEAR = {"capstone", "dataclasses", "fractions", "json", "pathlib", "shutil", "subprocess", "typing", "yaml"}
"""Their import costs milliseconds; no machine needs them before it starts, yaml only at its first boot."""
OTHERS = (
    "pykvm.boot.multiboot",
    "pykvm.boot.bzimage",
    "pykvm.debug",
    "pykvm.devices.lapic",
    "pykvm.translate",
)
"""Of the loaders, controllers and back ends, those that `hello` does without."""


def traced(path: Path, *words: str) -> list[str]:
    """The system calls of a command and its threads, a line each."""
    command = ["strace", "-f", "-qq", "-o", str(path), *words]
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=LONG)
    return path.read_text(errors="replace").splitlines()


def test_hello_asks_little_of_the_host(tmp_path):
    report = tmp_path / "report.json"
    boot("hello")  # what is kept of the host's probes is kept now
    bare = traced(tmp_path / "bare", sys.executable, "-c", "pass")
    calls = traced(tmp_path / "hello", *COMMAND, "boot", "hello", "--report", str(report))
    assert len(calls) - len(bare) <= SYSTEM_CALLS
    of_kvm = [match[1] for line in calls if (match := re.search(r" ioctl\(\d+, (KVM_\w+)", line))]
    assert of_kvm.index("KVM_RUN") <= KVM_CALLS_BEFORE_RUN
    # One for each exit, a few for kicks and the end.
    exits = sum(json.loads(report.read_text())["exits"].values())
    assert exits <= of_kvm.count("KVM_RUN") <= exits + 10


@pytest.mark.any_backend
@pytest.mark.images("linux")
def test_linux_gets_to_its_prompt_with_few_exits(tmp_path):
    report = tmp_path / "report.json"
    done = boot("linux", "--set", 'expect={output: "# ", within: 200s}', "--report", report)
    assert done.returncode == 0, done.stderr
    exits = json.loads(report.read_text())["exits"]
    if "port-out" in exits:  # translated: its other numbers depend on what was translated before
        assert exits["port-out"] <= LINUX_PORT_OUTS
    else:
        assert sum(exits.values()) <= LINUX_EXITS


def test_hello_imports_only_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYKVM_CACHE", str(tmp_path))
    boot("hello")  # its machine file is kept now
    code = "from pykvm.cli.main import main; import sys; main(['boot', 'hello']); print(*sys.modules)"
    run = subprocess.run(
        # Without what an editable installation loads by itself.
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {[ROOT, *sys.path]!r}; {code}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=LONG,
    )
    greeting, modules = run.stdout.splitlines()
    loaded = set(modules.split())
    assert greeting == "Hello from inside the virtual machine."
    assert len([name for name in loaded if name.startswith("pykvm")]) <= MODULES
    assert loaded & DEAR == set()
    assert not any(name.startswith(OTHERS) for name in loaded)
