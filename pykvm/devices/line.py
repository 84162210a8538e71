"""The near end of an interrupt line: an input of a chip."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Input:
    """Input ``number`` of a chip, as the ``Line`` of whatever drives it."""

    __slots__ = ("_chip", "_number")

    def __init__(self, chip: Callable[[int, bool], None], number: int) -> None:
        self._chip = chip
        self._number = number

    def set(self, level: bool) -> None:
        self._chip(self._number, level)
