"""Cases made by chance, each from a seed of its own, run in a process that is watched.

A target is a function that makes a case from ``random.Random`` and runs it; whatever it raises is a finding.
Case N of seed S is ``Random(f"{target}:{S}:{N}")``, so that a finding needs no more than these three to come
again. The process that runs them may take MEMORY more than it has after its imports; one that doesn't come
to its next case within SECONDS is ended, and a signal that kills it is a finding too.
"""

from __future__ import annotations

import os
import random
import resource
import select
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).parent
PATHS = [str(HERE), str(HERE.parent / "unit"), str(HERE.parent / "translate")]

MEMORY = 1 << 30
SECONDS = 60  # on a machine that does other things too; a case takes milliseconds

Target = Callable[[random.Random], None]


def targets() -> dict[str, Target]:
    """All of them, by name."""
    import fuzz_cpus
    import fuzz_devices
    import fuzz_files
    import fuzz_images

    found: dict[str, Target] = {}
    for module in (fuzz_devices, fuzz_images, fuzz_files, fuzz_cpus):
        found |= module.TARGETS
    return found


class Finding:
    """What went wrong with one case, and how to see it again."""

    def __init__(self, target: str, seed: str, number: int, text: str) -> None:
        self.target = target
        self.seed = seed
        self.number = number
        self.text = text

    def __str__(self) -> str:
        return f"tests/fuzz/run --only {self.target} --seed {self.seed} --case {self.number}\n{self.text}"


def run_case(target: Target, name: str, seed: str, number: int) -> None:
    target(random.Random(f"{name}:{seed}:{number}"))


def campaign(name: str, seed: str, *, cases: int = 0, seconds: float = 0.0) -> tuple[int, list[Finding]]:
    """Run ``cases`` of a target, or what fits into ``seconds``: how many that were, and what was found."""
    started = time.monotonic()
    first, found = 0, []
    while first < cases or (not cases and time.monotonic() - started < seconds):
        left = max(seconds - (time.monotonic() - started), 0.0)
        number, text = _watched(name, seed, first, cases, left)
        first = number + 1
        if text:
            found.append(Finding(name, seed, number, text))
        elif not cases:
            break
    return first, found


def _watched(name: str, seed: str, first: int, cases: int, seconds: float) -> tuple[int, str]:
    """Run cases from ``first`` on in a process: the last one that was begun, and what it raised."""
    command = [sys.executable, str(HERE / "campaign.py"), name, seed, str(first), str(cases), str(seconds)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), *PATHS])}
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert worker.stdout is not None and worker.stderr is not None
    number, told = first - 1, b""
    poll = select.poll()
    poll.register(worker.stdout, select.POLLIN)
    while True:
        if not poll.poll(SECONDS * 1000):
            worker.kill()
            worker.communicate()
            return max(number, first), f"no end after {SECONDS} s"
        data = os.read(worker.stdout.fileno(), 1 << 16)
        if not data:
            break
        told += data
        *lines, told = told.split(b"\n")
        for line in lines:
            number = int(line)
    error = worker.communicate()[1].decode(errors="replace")
    number = max(number, first)
    if worker.returncode < 0:
        return number, f"killed by signal {-worker.returncode}\n{error}"
    return (number, error or "the worker failed") if worker.returncode else (number, "")


def _work(name: str, seed: str, first: int, cases: int, seconds: float) -> int:
    """The watched process: tells each case's number before it begins; ends at the first finding."""
    target = targets()[name]
    with suppress(Exception):  # it comes again with a number
        run_case(target, name, "warm", 0)  # what is imported late, and made once
    limit = _address_space() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    end = time.monotonic() + seconds
    number = first
    while number < cases if cases else time.monotonic() < end:
        os.write(1, b"%d\n" % number)
        try:
            run_case(target, name, seed, number)
        except BaseException:
            traceback.print_exc()
            return 1
        number += 1
    return 0


def _address_space() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    _, name, seed, first, cases, seconds = sys.argv
    sys.exit(_work(name, seed, int(first), int(cases), float(seconds)))
