"""The picture of a text screen as text, and as what a terminal is sent to show it (ECMA-48)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Picture(Protocol):
        """Characters of code page 437 and attributes of a VGA, two bytes each, row by row."""

        @property
        def columns(self) -> int: ...
        @property
        def rows(self) -> int: ...
        @property
        def cells(self) -> bytes: ...
        @property
        def cursor(self) -> tuple[int, int] | None: ...
        @property
        def blink(self) -> bool: ...


# IBM's code page 437 as a screen shows it: no byte is a control character; 0 and 255 are blank.
GLYPHS = (
    " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼"
    + "".join(map(chr, range(32, 127)))
    + "⌂ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧"
    + "╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■ "
)

COLOURS = (0, 4, 2, 6, 1, 5, 3, 7)
"""A VGA counts blue as 1 and red as 4, ECMA-48 the other way round."""
DEFAULT = 0x07
BLANK = (b" \x07", b"\0\x07", b"\0\0")


def text(picture: Picture) -> list[str]:
    """The rows, without the blanks at their ends."""
    whole = picture.cells[::2].decode("latin-1").translate(GLYPHS)
    width = picture.columns
    return [whole[at : at + width].rstrip() for at in range(0, len(whole), width)]


def until_last(rows: list[str]) -> list[str]:
    """``rows`` without the blank ones at the end."""
    count = len(rows)
    while count and not rows[count - 1]:
        count -= 1
    return rows[:count]


def attribute(value: int, blink: bool) -> str:
    """The sequence that makes a terminal write as a VGA does by attribute ``value``."""
    if value == DEFAULT:
        return "\x1b[m"
    front, back = value & 0x0F, value >> 4 & (0x07 if blink else 0x0F)
    parts = ["0", str((90 if front & 8 else 30) + COLOURS[front & 7])]
    parts.append(str((100 if back & 8 else 40) + COLOURS[back & 7]))
    if blink and value & 0x80:
        parts.append("5")
    return f"\x1b[{';'.join(parts)}m"


class Screen:
    """What a terminal of a given size shows of the pictures, drawn by what changed.

    A terminal of fewer rows shows those around the cursor; one of more has ``foot`` on its last.
    """

    def __init__(self, foot: str = "") -> None:
        self._foot = foot
        self._shown: Picture | None = None
        self._size = (0, 0)
        self._top = 0

    def forget(self) -> None:
        """Draw all of the next picture: the terminal has shown something else."""
        self._shown = None

    def shows(self, picture: Picture, columns: int, rows: int) -> bool:
        """Whether a terminal of that size shows ``picture`` already."""
        return self._shown == picture and self._size == (columns, rows)

    def draw(self, picture: Picture, columns: int, rows: int) -> bytes:
        """What to send to a terminal of that size."""
        top = 0
        if picture.cursor is not None:
            top = max(0, min(picture.cursor[0] + 1, picture.rows) - rows)
        shown = self._shown
        out = ["\x1b[?25l"]
        same = shown is not None and (shown.columns, shown.rows) == (picture.columns, picture.rows)
        if not same or (columns, rows) != self._size or top != self._top:
            out.append("\x1b[m\x1b[H\x1b[2J")
            if rows > picture.rows + 1 and columns > len(self._foot):
                out.append(f"\x1b[{rows};1H\x1b[2m{self._foot}\x1b[m")
            shown = None
        self._shown, self._size, self._top = picture, (columns, rows), top
        pitch = 2 * picture.columns
        for row in range(top, min(picture.rows, top + rows)):
            cells = picture.cells[row * pitch : (row + 1) * pitch]
            old = None if shown is None else shown.cells[row * pitch : (row + 1) * pitch]
            if cells != old and not (old is None and cells in (blank * picture.columns for blank in BLANK)):
                out.append(f"\x1b[{row - top + 1};1H{_line(cells[: 2 * columns], picture.blink)}")
        if picture.cursor is not None and picture.cursor[0] - top < rows:
            row, column = picture.cursor
            out.append(f"\x1b[{row - top + 1};{min(column, columns - 1) + 1}H\x1b[?25h")
        return "".join(out).encode()

    def leave(self) -> bytes:
        """What puts the terminal's cursor below the picture, for others to write there."""
        if self._shown is None:
            return b""
        last = len(until_last(text(self._shown))) - self._top
        self._shown = None
        return f"\x1b[m\x1b[?25h\x1b[{max(1, min(last, self._size[1]))};1H\r\n\x1b[J".encode()


def _line(cells: bytes, blink: bool) -> str:
    """One row from its start, up to its end or to where it is blank to the end."""
    characters, attributes = cells[::2].decode("latin-1").translate(GLYPHS), cells[1::2]
    end = len(characters)
    while end and characters[end - 1] == " " and attributes[end - 1] in (0, DEFAULT):
        end -= 1
    out: list[str] = []
    at = 0
    while at < end:
        run = at + 1
        while run < end and attributes[run] == attributes[at]:
            run += 1
        out += attribute(attributes[at], blink), characters[at:run]
        at = run
    out.append("\x1b[m" if end == len(characters) else "\x1b[m\x1b[K")
    return "".join(out)
