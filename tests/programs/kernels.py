"""The test kernels of guests/tests: what they print, what is expected, and who is known to differ in what.

A kernel prints one line of facts, ` name=value` each; `expected` beside its source holds the line that the
manuals ask for. QEMU's translator runs the same image, by its Multiboot header.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "guests" / "tests"
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/machine.yaml"))
LONG = 300  # seconds; a busy host is slow: `interrupted` takes 45 of CPU where KVM interprets
CPUS = {"smp": 4}
"""How many CPUs a kernel's machine has, where that is not one."""
DISKS = ("boot-bios",)
"""Those that QEMU boots as a disk, by its own BIOS."""
INTERRUPTED = (
    *("deadline", "halt", "ioapic", "keyboard", "lapic", "nmi", "pic", "pit", "rtc", "shadow", "smp"),
)
"""Those about interrupts, which should come the same from controllers in each place."""
STATUS = {"triple": 125}
"""How `pykvm boot` ends, where that is not 0."""


def assembled(name: str, to: Path) -> bytes:
    """The image that the source makes."""
    source = FOLDER / name / f"{name}.asm"
    subprocess.run(["nasm", "-f", "bin", "-I", f"{FOLDER / 'lib'}/", "-o", to, source], check=True)
    return to.read_bytes()


def expected(name: str) -> str:
    return (FOLDER / name / "expected").read_text()


def facts(line: str) -> dict[str, str]:
    """The facts of a kernel's line by name."""
    head, *words = line.split()
    pairs = [word.split("=", 1) for word in words]
    found = dict(pairs)
    assert len(found) == len(pairs), f"{head} has a name twice: {line}"
    return found


def differences(name: str, line: str) -> dict[str, tuple[str | None, str | None]]:
    """Facts that are not as expected: what was expected, what came; an end too early is "(end)"."""
    wanted, came = facts(expected(name)), facts(line or f"{name}:")
    found = {key: (value, came.get(key)) for key, value in wanted.items() if came.get(key) != value}
    return found | {key: (None, value) for key, value in came.items() if key not in wanted}


def boot(name: str, *more: str) -> tuple[int, str, str]:
    """Status, console and standard error of `pykvm boot`."""
    command = [sys.executable, "-m", "pykvm", "boot", str(FOLDER / name), "--timeout", f"{LONG}s", *more]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=2 * LONG)
    return done.returncode, done.stdout, done.stderr


def tcg(name: str) -> str:
    """What the kernel prints under QEMU without KVM."""
    command = [
        "qemu-system-x86_64",
        "-accel",
        "tcg",
        "-cpu",
        "max,vendor=GenuineIntel",
        "-M",
        "pc",
        "-m",
        "16",
    ]
    command += [
        "-smp",
        str(CPUS.get(name, 1)),
        "-display",
        "none",
        "-nodefaults",
        "-vga",
        "std",
        "-no-reboot",
        "-serial",
        "stdio",
    ]
    command += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
    image = str(FOLDER / name / f"{name}.bin")
    if name in DISKS:
        command += ["-drive", f"format=raw,if=ide,snapshot=on,file={image}"]
    else:
        command += ["-kernel", image]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=2 * LONG)
    assert done.returncode in (0, 1), done.stderr  # a reset; debug-exit with 0
    return done.stdout
