"""How far a long piece of work is: one line on a terminal that is drawn again and again.

A pipe gets no such line. It gets the notes (what was decided, what it costs), and only where the work
is what the user asked for; work that a boot does on its way is silent there.
"""

from __future__ import annotations

import sys
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

BAR_WIDTH = 24
#: Seconds between two drawings, and from a step's start to the first guess at how long it will take.
REDRAW = 0.1
FIRST_GUESS = 2.0
CLEAR_LINE = "\r\x1b[K"


class Progress:
    """Steps and notes on ``stream`` (default: standard error).

    ``notes_in_pipes``: whether a stream that is no terminal gets the notes.
    """

    def __init__(self, stream: TextIO | None = None, *, notes_in_pipes: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._draws = self._stream.isatty()
        self._notes = self._draws or notes_in_pipes
        self._step = ""
        self._started = 0.0
        self._drawn = 0.0

    def note(self, text: str) -> None:
        """A line that stays."""
        if self._notes:
            self._stream.write(f"{CLEAR_LINE if self._draws else ''}{text}\n")
            self._stream.flush()

    def step(self, name: str) -> None:
        """A new step begins, and with it a new count."""
        self._step = name
        self._started = monotonic()
        self._draw(self._started, name)

    def at(self, done: float, total: float) -> None:
        """``done`` of ``total`` of the step's work is done; the unit doesn't matter."""
        now = monotonic()
        if self._draws and now - self._drawn >= REDRAW:
            part = min(max(done / total, 0.0), 1.0) if total > 0 else 0.0
            full = int(part * BAR_WIDTH)
            bar = "#" * full + "-" * (BAR_WIDTH - full)
            self._draw(now, f"{self._step}  [{bar}] {part:4.0%}{self._left(now, part)}")

    def end(self) -> None:
        """The work is over, or has failed: leave the terminal an empty line."""
        if self._draws:
            self._stream.write(CLEAR_LINE)
            self._stream.flush()

    def _left(self, now: float, part: float) -> str:
        spent = now - self._started
        if spent < FIRST_GUESS or part <= 0.01:
            return ""
        seconds = round(spent * (1 - part) / part)
        return f"  {seconds // 60}:{seconds % 60:02} left"

    def _draw(self, now: float, line: str) -> None:
        if self._draws:
            self._drawn = now
            self._stream.write(CLEAR_LINE + line)
            self._stream.flush()


def size_of(size: float) -> str:
    """A size in bytes as people read it."""
    return f"{size / 1e6:.1f} MB" if size < 10_000_000 else f"{size / 1e6:.0f} MB"
