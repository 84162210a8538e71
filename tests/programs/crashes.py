"""Guests with one planted bug each (tests/crashes): what their post-mortem must name.

A guest's bug is at its label ``bug``: the listing of the assembler tells the address.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parents[1] / "crashes"
NAMES = sorted(path.stem for path in FOLDER.glob("*.asm"))
LONG = 120


class Bug(NamedTuple):
    """``exception`` and ``error`` are those that began it, ``reason`` and ``unable`` the keys of why it came
    and why no handler was entered, ``words`` what the sentence says."""

    exception: int
    error: int | None
    reason: str
    unable: str
    words: str


BUGS = {
    "bad-selector": Bug(13, 0x58, "selector", "no-idt", "selector 0x58: it is beyond the GDT's limit, 0x2f"),
    "call-null": Bug(14, 0, "null-call", "no-idt", "control went through a null pointer to 0x0"),
    "divide": Bug(0, None, "divide", "idt", "div ecx: the divisor is 0"),
    "iret-frame": Bug(
        13, 0x7770, "frame", "no-idt", "iretq found this frame on the stack: rip 0x100012, cs 0x7770"
    ),
    "no-idt": Bug(6, None, "ud2", "no-idt", "#UD invalid opcode"),
    "reserved-bit": Bug(14, 9, "reserved", "no-idt", "0x802083, with a reserved bit set (bit 13)"),
    "stack-hole": Bug(14, 2, "stack", "handler-stack", "the stack at 0x100001ff8 isn't mapped: its PDPTE"),
    "wild-jump": Bug(14, 0, "wild-jump", "no-idt", "control went to 0xffffffff81000000, which isn't mapped"),
    "wrong-cr3": Bug(14, 0, "cr3", "no-idt", "CR3 0x400000 maps neither the code"),
}
SPINS = "spin"


class Ended(NamedTuple):
    status: int
    said: str
    crash: dict[str, Any]
    bug: int


def pykvm(folder: Path, backend: str, *more: str) -> subprocess.CompletedProcess[str]:
    """``pykvm boot`` of the machine in ``folder``."""
    command = [sys.executable, "-m", "pykvm", "boot", str(folder), "--set", f"backend={backend}", *more]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=2 * LONG)


def boot(name: str, backend: str, folder: Path, timeout: str = f"{LONG}s") -> Ended:
    """The end of the guest ``name``, made and run in ``folder``."""
    (folder / "start.inc").write_text((FOLDER / "start.inc").read_text())
    source = (FOLDER / f"{name}.asm").read_text()
    marked = folder / f"{name}.asm"
    # A file of its own for the address of the bug: nasm's binary format has no symbols.
    marked.write_text(f"{source}\n[map symbols {folder}/map]\n")
    command = ["nasm", "-f", "bin", "-I", f"{folder}/", "-o", folder / "kernel.bin", marked]
    subprocess.run(command, check=True)
    found = re.search(r"^\s*([0-9A-F]+)\s+(?:[0-9A-F]+\s+)?bug$", (folder / "map").read_text(), re.MULTILINE)
    assert found is not None
    (folder / "machine.yaml").write_text(
        "memory: 16M\nkernel: {image: kernel.bin, format: flat, entry: long}\n"
    )
    report = folder / "report.json"
    done = pykvm(folder, backend, "--timeout", timeout, "--report", str(report))
    told = json.loads(report.read_text())
    return Ended(done.returncode, done.stderr, told["crash"], int(found[1], 16))


def check(name: str, ended: Ended) -> None:
    """That the post-mortem names the bug, in words and in the report."""
    bug, (status, said, crash, place) = BUGS[name], ended
    assert status == 125, said
    lines = said.splitlines()
    assert lines[0].startswith("pykvm: the guest crashed: triple fault"), said
    assert lines[1].startswith("pykvm: what happened: "), said
    assert bug.words in lines[1], said
    assert f"at rip {place:#x}:" in lines[1], said
    assert lines[-1] == f"pykvm: in short: {lines[0].removeprefix('pykvm: ')} (status 125)"
    fault = crash["fault"]
    assert (fault["vector"], fault["error"], fault["rip"]) == (bug.exception, bug.error, place), said
    assert fault["reason"] == bug.reason
    assert crash["chain"][0]["undelivered_reason"] == bug.unable
    assert crash["chain"][-1]["vector"] == 8
    assert crash["triple"] is True
    assert crash["rip"] == place
    assert "can't be told" not in said
    assert "Traceback" not in said


def check_spin(ended: Ended) -> None:
    """That the post-mortem finds the circle and that nothing can end it."""
    status, said, crash, place = ended
    assert status == 124, said
    assert said.startswith("pykvm: the guest was still running after --timeout 0.5s"), said
    circle = f"it runs in a circle of 2 instructions, rip {place:#x} to {place + 2:#x}"
    assert f"{circle}, which changes no register, with interrupts off" in said.splitlines()[1], said
    assert crash["kind"] == "timeout"
    assert place <= crash["rip"] <= place + 2
