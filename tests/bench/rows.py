"""What was measured, how it is judged, and the table of it."""

from __future__ import annotations

from dataclasses import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: How a measured pair is judged.
RATIO = "ratio"  # pykvm's time by the peer's: at most
SPEED = "speed"  # the peer's time by pykvm's: at least
MOST = "most"  # pykvm's own number: at most


@dataclass
class Row:
    """One floor and what was measured for it: numbers of both sides."""

    name: str
    judged: str
    limit: float
    unit: str
    about: str
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    @property
    def value(self) -> float | None:
        """What is held against the limit; None where a side has no number."""
        if not self.ours or (self.judged != MOST and not self.theirs):
            return None
        if self.judged == MOST:
            return min(self.ours)
        ours, theirs = min(self.ours), min(self.theirs)
        return ours / theirs if self.judged == RATIO else theirs / ours

    @property
    def holds(self) -> bool:
        value = self.value
        if value is None:
            return False
        return value >= self.limit if self.judged == SPEED else value <= self.limit

    def told(self) -> dict[str, object]:
        """As plain data."""
        return {**vars(self), "value": self.value, "holds": self.holds}


def table(rows: Sequence[Row], peer: str) -> str:
    """The rows as text: minima, and behind them by how much the largest is above."""
    width = max([14, *(len(row.name) + 2 for row in rows)])
    of_peer = max(20, len(peer) + 2)
    lines = [f"{'piece':<{width}}{'pykvm':>20}{peer:>{of_peer}}{'value':>9}  {'floor':<10}      what"]
    for row in rows:
        ours, theirs = _side(row.ours, row.unit), _side(row.theirs, row.unit)
        value = "none" if row.value is None else f"{row.value:.2f}"
        sign = "≥" if row.judged == SPEED else "≤"
        mark = "holds" if row.holds else "MISSED"
        numbers = f"{row.name:<{width}}{ours:>20}{theirs:>{of_peer}}{value:>9}"
        lines.append(f"{numbers}  {sign} {row.limit:<5g} {mark:<6}  {row.about}")
    return "\n".join(lines)


def _side(numbers: Sequence[float], unit: str) -> str:
    if not numbers:
        return "none"
    least = min(numbers)
    spread = f" +{(max(numbers) / least - 1) * 100:.0f} %" if least else ""
    return f"{least:.3f} {unit}{spread}"
