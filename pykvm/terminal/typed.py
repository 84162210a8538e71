"""What is typed at a terminal as the keys of a PC's keyboard, with the layout of the United States.

A terminal sends characters and escape sequences (ECMA-48, xterm's ctlseqs "PC-Style Function Keys"), a
keyboard codes of keys. The codes are those of scan code set 2 (IBM's PS/2 Hardware Interface Technical
Reference, "Keyboard Scan Codes").
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.terminal.faces import Action

ESCAPE = 0x1B
EXTENDED = 0xE0
BREAK = 0xF0

SHIFT, CONTROL, ALT = 0x12, 0x14, 0x11

# The characters of the keys, with and without shift, and the code of each key.
PLAIN = "`1234567890-=qwertyuiop[]\\asdfghjkl;'zxcvbnm,./ "
SHIFTED = '~!@#$%^&*()_+QWERTYUIOP{}|ASDFGHJKL:"ZXCVBNM<>? '
CODES = bytes.fromhex(
    "0e 16 1e 26 25 2e 36 3d 3e 46 45 4e 55  15 1d 24 2d 2c 35 3c 43 44 4d 54 5b 5d"
    "1c 1b 23 2b 34 33 3b 42 4b 4c 52  1a 22 21 2a 32 31 3a 41 49 4a  29"
)
# Bytes that are a key of their own, though they are control characters.
NAMED = {0x08: 0x66, 0x09: 0x0D, 0x0A: 0x5A, 0x0D: 0x5A, ESCAPE: 0x76, 0x7F: 0x66}
# Control characters whose key is not the one with 0x60 added.
CONTROLLED = {0x00: " ", 0x1C: "\\", 0x1D: "]", 0x1E: "6", 0x1F: "-"}

FUNCTION = (0x05, 0x06, 0x04, 0x0C, 0x03, 0x0B, 0x83, 0x0A, 0x01, 0x09, 0x78, 0x07)  # F1 to F12
UP, DOWN, RIGHT, LEFT = 0xE075, 0xE072, 0xE074, 0xE06B
HOME, END, INSERT, DELETE, PAGE_UP, PAGE_DOWN = 0xE06C, 0xE069, 0xE070, 0xE071, 0xE07D, 0xE07A

# The last byte of ESC [ and of ESC O
FINALS = dict(zip(b"ABCDFHPQRS", (UP, DOWN, RIGHT, LEFT, END, HOME, *FUNCTION[:4]), strict=True))
# The number before the last byte ~
NUMBERS = {
    1: HOME,
    2: INSERT,
    3: DELETE,
    4: END,
    5: PAGE_UP,
    6: PAGE_DOWN,
    7: HOME,
    8: END,
    **dict(zip((11, 12, 13, 14, 15, 17, 18, 19, 20, 21, 23, 24), FUNCTION, strict=True)),
}
LONGEST = 16
"""Bytes of the longest escape sequence that is looked at."""


def _press(key: int, held: tuple[int, ...] = ()) -> bytes:
    """``key`` down and up, while those of ``held`` are down."""
    prefix = (EXTENDED,) if key > 0xFF else ()
    code = key & 0xFF
    ups = (code for other in reversed(held) for code in (BREAK, other))
    return bytes((*held, *prefix, code, *prefix, BREAK, code, *ups))


def _characters() -> dict[int, tuple[int, tuple[int, ...]]]:
    """By byte: the key and the keys held."""
    found: dict[int, tuple[int, tuple[int, ...]]] = {}
    code_of = dict(zip(PLAIN, CODES, strict=True))
    for byte in range(1, 27):
        found[byte] = code_of[chr(byte + 0x60)], (CONTROL,)
    found |= {byte: (code_of[key], (CONTROL,)) for byte, key in CONTROLLED.items()}
    found |= {ord(char): (code, (SHIFT,)) for char, code in zip(SHIFTED, CODES, strict=True)}
    found |= {ord(char): (code, ()) for char, code in code_of.items()}
    return found | {byte: (code, ()) for byte, code in NAMED.items()}


CHARACTERS = _characters()


def first_key(data: bytes) -> tuple[bytes, int]:
    """The codes of the key that ``data`` begins with, and how many bytes say it.

    No codes for what no key of this keyboard stands for, such as the bytes of other letters. An escape
    that begins no sequence is the key of that name: a terminal sends a sequence in one piece.
    """
    byte = data[0]
    if byte != ESCAPE or len(data) == 1:
        return (_press(*CHARACTERS[byte]) if byte in CHARACTERS else b""), 1
    if data[1] in b"[O" and len(data) > 2:
        return _sequence(data)
    if data[1] in CHARACTERS and data[1] != ESCAPE:
        key, held = CHARACTERS[data[1]]
        return _press(key, (ALT, *held)), 2
    return _press(*CHARACTERS[ESCAPE]), 1


def _sequence(data: bytes) -> tuple[bytes, int]:
    if data[1:3] == b"[[":  # F1 to F5 of Linux's console
        number = data[3] - ord("A") if len(data) > 3 else -1
        return (_press(FUNCTION[number]) if 0 <= number < 5 else b""), 4
    for end in range(2, min(len(data), LONGEST)):
        if data[end] not in b"0123456789;":
            break
    else:
        return b"", end + 1
    numbers = [int(text or b"1") for text in data[2:end].split(b";")]
    final = data[end]
    if final == ord("Z"):
        return _press(NAMED[0x09], (SHIFT,)), end + 1
    key = NUMBERS.get(numbers[0]) if final == ord("~") else FINALS.get(final)
    if key is None:
        return b"", end + 1
    modifiers = numbers[1] - 1 if len(numbers) > 1 else 0
    held = tuple(
        code for bit, code in ((4, CONTROL), (2, ALT), (1, SHIFT)) if modifiers & bit and modifiers < 8
    )
    return _press(key, held), end + 1


class TypedKeys:
    """The port of a console's input that leads to a keyboard.

    ``press`` takes the codes of a key, or refuses them: call ``room`` when it takes some again.
    """

    def __init__(self, press: Callable[[bytes], bool]) -> None:
        self.on_rx_room: Action | None = None
        self._press = press

    def receive(self, data: bytes) -> int:
        """Press the keys that ``data`` says, and tell how many of its bytes that were."""
        start = 0
        while start < len(data):
            codes, length = first_key(data[start : start + LONGEST])
            if codes and not self._press(codes):
                break
            start = min(start + length, len(data))
        return start

    def break_in(self) -> None:
        """A keyboard has no break."""

    def room(self) -> None:
        """The keyboard takes keys again."""
        if self.on_rx_room is not None:
            self.on_rx_room()
