"""From pictures of a text screen to lines: what was written, and what has gone over the upper edge."""

from __future__ import annotations

from pykvm.terminal.screen import until_last


class Transcript:
    """Compares each picture's rows with those before.

    What is written and gone between two looks is not seen.
    """

    def __init__(self) -> None:
        self.gone: list[str] = []
        """Lines that have left the screen and nobody took yet."""
        self._rows: list[str] = []

    def look(self, rows: list[str]) -> str:
        """The text that is new in ``rows``, as a printer would have it: a line end before each new line.

        A row that is written on goes on where it was; one that is written over is a new line.
        """
        before, now = self._rows, until_last(rows)
        self._rows = now
        moved = _scrolled(before, now)
        if moved is None:  # another page
            self.gone += before
            before = []
        else:
            self.gone += before[:moved]
            before = before[moved:]
        new = []
        for index, row in enumerate(now):
            old = before[index] if index < len(before) else None
            if old is None:
                new.append("\n" + row)
            elif row != old:
                goes_on = index == len(before) - 1 and row.startswith(old)
                new.append(row[len(old) :] if goes_on else "\n" + row)
        return "".join(new)

    def take_gone(self) -> list[str]:
        """Lines that have left since the last call."""
        gone, self.gone = self.gone, []
        return gone

    def take_rest(self) -> list[str]:
        """All lines that were not taken: those gone and those on the screen."""
        rest = self.take_gone() + self._rows
        self._rows = []
        return rest


def _scrolled(before: list[str], now: list[str]) -> int | None:
    """By how many rows ``before`` moved up to become ``now``; None where little of it is left.

    Rows may have been written over in place, the last may have been written on.
    """
    if not before:
        return 0
    for moved in range(len(before)):
        kept = before[moved:]
        last = kept.pop()
        if now[: len(kept)] == kept and len(now) > len(kept) and now[len(kept)].startswith(last) and last:
            return moved
    same = sum(old == new for old, new in zip(before, now, strict=False))
    return 0 if 2 * same >= len(before) else None
