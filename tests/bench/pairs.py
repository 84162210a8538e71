"""What tests/bench/translate measures: the pieces, their floors, and the runs in turn."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import guest_programs as guests
from guest_programs import Failure
from rows import MOST, RATIO, SPEED, Row
from watched import Watched

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SIDES = ("translate", "tcg")
LONG = 600.0  # seconds for one guest


@dataclass(frozen=True)
class Piece:
    """Something to measure. ``kind`` says how, ``limits`` are its floors: (what, judged by, limit, unit)."""

    name: str
    kind: str
    limits: tuple[tuple[str, str, float, str], ...]
    about: str


def _work(name: str, judged: str, limit: float, about: str, kind: str = "work") -> Piece:
    return Piece(name, kind, ((name, judged, limit, "s"),), about)


PIECES = (
    Piece(
        "linux",
        "prompt",
        (("linux, cold", RATIO, 3.0, "s"), ("linux, hot", RATIO, 1.5, "s")),
        "the guest linux, from nothing to its prompt",
    ),
    Piece(
        "debian",
        "off",
        (("debian, cold", RATIO, 4.0, "s"), ("debian, hot", RATIO, 2.0, "s")),
        "Debian's 6.12 cloud kernel, from nothing to init and off",
    ),
    Piece(
        "debian-4",
        "off-4",
        (("debian-4, cold", RATIO, 4.0, "s"), ("debian-4, hot", RATIO, 3.0, "s")),
        "the same with four CPUs, a thread each on both sides",
    ),
    _work("sha256", SPEED, 1.5, "SHA-256 of 6 MiB"),
    _work("qsort", SPEED, 1.5, "qsort of 300 000 numbers, by a comparator"),
    _work("list", SPEED, 1.5, "a walk of 5 million nodes"),
    _work("copy", SPEED, 1.5, "30 MiB, byte by byte"),
    _work("sse", SPEED, 0.7, "packed single precision, matrices"),
    _work("doubles", SPEED, 0.7, "scalar double precision, bodies"),
    _work("x87", SPEED, 0.7, "extended precision, Mandelbrot"),
    _work("getpid", RATIO, 3.0, "10^5 system calls"),
    _work("faults", RATIO, 3.0, "10^4 pages touched"),
    _work("forks", RATIO, 3.0, "10^3 forks and exits"),
    _work("ports", RATIO, 2.0, "10^5 writes to port 0x80", kind="ports"),
    Piece(
        "memory", "idle", (("memory", MOST, 200.0, "MiB"),), "resident beyond the guest's RAM, at the prompt"
    ),
    Piece("idle", "idle", (("idle", MOST, 0.1, "s"),), "CPU time of an idle guest in 10 s"),
)


class Bench:
    """Runs pieces ``times`` times, pykvm and TCG in turn. What went wrong is in ``failures``."""

    def __init__(self, folder: Path, times: int, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._times = times
        self._say = say
        self._results: dict[str, set[str]] = defaultdict(set)
        self._programs = guests.compiled(folder, Path(__file__).parent)
        self.failures: list[str] = []

    def run(self, pieces: Sequence[Piece]) -> list[Row]:
        """Measure; a row for each floor of each piece. Pieces of one kind share their guests."""
        rows = {what: Row(what, *limit, piece.about) for piece in pieces for what, *limit in piece.limits}
        kinds = {piece.kind: [each for each in pieces if each.kind == piece.kind] for piece in pieces}
        measures = {
            "prompt": self._prompt,
            "off": partial(self._off, "debian", 1),
            "off-4": partial(self._off, "debian-4", 4),
            "work": self._work,
            "ports": self._ports,
            "idle": self._idle,
        }
        for turn in range(self._times):
            for kind, group in kinds.items():
                for side in SIDES:
                    self._say(f"{turn + 1}/{self._times} {kind}, {side}")
                    try:
                        found = measures[kind](side, [piece.name for piece in group])
                    except Failure as error:
                        self.failures.append(f"{kind}, {side}: {error}")
                        continue
                    for name, number in found.items():
                        if name in rows:
                            (rows[name].ours if side == SIDES[0] else rows[name].theirs).append(number)
        for name, results in self._results.items():
            if len(results) > 1:
                self.failures.append(f"{name}: the two sides compute {' and '.join(sorted(results))}")
        return list(rows.values())

    def _prompt(self, side: str, names: list[str]) -> dict[str, float]:
        words = guests.command(side, guests.kernel("linux"), guests.shell_initramfs(), memory=256)

        def until_prompt(cache: str) -> float:
            with Watched(words, cache) as guest:
                return guest.until(b"/root # ", LONG)

        return self._cold_and_hot("linux", side, until_prompt)

    def _off(self, name: str, cpus: int, side: str, names: list[str]) -> dict[str, float]:
        initrd = guests.initramfs(self._folder / "off.cpio", guests.init({}), {})
        words = guests.command(side, guests.kernel("debian"), initrd, memory=512, cpus=cpus)

        def until_off(cache: str) -> float:
            with Watched(words, cache) as guest:
                return guest.until_end(LONG)

        return self._cold_and_hot(name, side, until_off)

    def _cold_and_hot(self, name: str, side: str, measure: Callable[[str], float]) -> dict[str, float]:
        """pykvm with an empty cache, and again with what that left; TCG keeps nothing, so it runs once."""
        cache = self._cache(f"{name}-{len(os.listdir(self._folder))}")
        cold = measure(cache)
        return {f"{name}, cold": cold, f"{name}, hot": cold if side == "tcg" else measure(cache)}

    def _cache(self, name: str) -> str:
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        return str(folder)

    def _work(self, side: str, names: list[str]) -> dict[str, float]:
        return self._in_guest(side, "linux", names)

    def _ports(self, side: str, names: list[str]) -> dict[str, float]:
        """By Debian's kernel: the guest linux has no ioperm."""
        return self._in_guest(side, "debian", names)

    def _in_guest(self, side: str, kernel: str, names: list[str]) -> dict[str, float]:
        commands = {name: f"/programs/speed {name}" for name in names}
        initrd = guests.initramfs(self._folder / "work.cpio", guests.init(commands), self._programs)
        with Watched(guests.command(side, guests.kernel(kernel), initrd), self._cache("work")) as guest:
            guest.until_end(LONG)
            console = guest.seen.decode(errors="replace")
        found = {}
        for name, ran in guests.parsed(console).items():
            told = re.search(rf"^{name}: (\d+) ns, result (\w+)$", ran.output, re.MULTILINE)
            if not told:
                self.failures.append(f"{name}, {side}: no result, status {ran.status}: {ran.output[-300:]}")
                continue
            found[name] = int(told[1]) / 1e9
            self._results[name].add(told[2])
        if not found:
            raise Failure(f"no result; the console's end:\n{console[-1000:]}")
        return found

    def _idle(self, side: str, names: list[str]) -> dict[str, float]:
        words = guests.command(side, guests.kernel("linux"), guests.shell_initramfs(), memory=256)
        with Watched(words, self._cache("idle")) as guest:
            guest.until(b"/root # ", LONG)
            return {"memory": guest.beyond(256 << 20) / (1 << 20), "idle": guest.cpu_seconds_in(10.0)}
