"""Kernels of four CPUs, in assembly: what the others do, and what the first does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

LONG = 120
LIBRARY = Path(__file__).parents[2] / "guests" / "tests" / "lib"
# Starts the CPUs 1 to 3 at 0x30000, where `others` was copied to, and goes on.
START = """
%include "pc.inc"
APIC    equ 0xfee00000
main:   mov     esi, others
        mov     edi, 0x30000
        mov     ecx, 64
        rep     movsb
        mov     dword [APIC + 0xf0], 0x1ff
        mov     dword [APIC + 0x300], 0xc4500
        mov     dword [APIC + 0x300], 0xc4630
        jmp     first
        bits    16
others: lock inc word [cs:0x100]
"""
ALL_UP = """
        bits    32
first:  cmp     word [0x30100], 3
        jne     first
"""


def boot(
    folder: Path, keys: str, others: str, first: str, *more: str, all_up: bool = True
) -> tuple[int, str, dict]:
    """Boot such a kernel with ``keys`` in its machine file: the process's status, its words, the report."""
    (folder / "k.asm").write_text(START + others + (ALL_UP if all_up else "") + first)
    subprocess.run(
        ["nasm", "-f", "bin", "-I", f"{LIBRARY}/", "-o", folder / "k.bin", folder / "k.asm"], check=True
    )
    (folder / "machine.yaml").write_text(
        f"cpus: 4\nmemory: 16M\n{keys}\n"
        "kernel: {image: k.bin, format: flat, entry: protected, load: 0xa000}\n"
    )
    report = folder / "report.json"
    done = subprocess.run(
        [sys.executable, "-m", "pykvm", "boot", folder, "--report", report, *more],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LONG,
    )
    return done.returncode, done.stderr, json.loads(report.read_text())
