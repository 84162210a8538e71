"""What is typed at a terminal, as a guest reads it from the keyboard controller."""

from __future__ import annotations

import pytest
from doubles import Line

from pykvm.devices.i8042 import I8042
from pykvm.terminal.typed import CHARACTERS, TypedKeys, first_key


class Board:
    """A keyboard that types; ``read`` is the guest's handler of IRQ 1."""

    def __init__(self) -> None:
        self.line = Line()
        self.controller = I8042(self.line, lambda: None)
        self.typed = TypedKeys(self.controller.key)
        self.controller.on_room = self.typed.room

    def read(self) -> bytes:
        got = bytearray()
        while self.controller.read(4, 1) & 1:
            assert self.line.level
            got.append(self.controller.read(0, 1))
        return bytes(got)

    def type(self, text: bytes) -> str:
        assert self.typed.receive(text) == len(text)
        return self.read().hex(" ")


# Codes of set 1, as the tables of IBM's PS/2 reference have them.
@pytest.mark.parametrize(
    ("typed", "codes"),
    [
        (b"a", "1e 9e"),
        (b"A", "2a 1e 9e aa"),
        (b"1", "02 82"),
        (b"!", "2a 02 82 aa"),
        (b"/", "35 b5"),
        (b"\\", "2b ab"),
        (b"'", "28 a8"),
        (b"~", "2a 29 a9 aa"),
        (b" ", "39 b9"),
        (b"\r", "1c 9c"),
        (b"\n", "1c 9c"),
        (b"\t", "0f 8f"),
        (b"\x7f", "0e 8e"),
        (b"\x1b", "01 81"),
        (b"\x03", "1d 2e ae 9d"),
        (b"\x00", "1d 39 b9 9d"),
        (b"\x1bx", "38 2d ad b8"),
        (b"\x1b[A", "e0 48 e0 c8"),
        (b"\x1bOB", "e0 50 e0 d0"),
        (b"\x1b[C", "e0 4d e0 cd"),
        (b"\x1b[D", "e0 4b e0 cb"),
        (b"\x1b[H", "e0 47 e0 c7"),
        (b"\x1b[4~", "e0 4f e0 cf"),
        (b"\x1b[2~", "e0 52 e0 d2"),
        (b"\x1b[3~", "e0 53 e0 d3"),
        (b"\x1b[5~", "e0 49 e0 c9"),
        (b"\x1b[6~", "e0 51 e0 d1"),
        (b"\x1bOP", "3b bb"),
        (b"\x1b[[E", "3f bf"),
        (b"\x1b[18~", "41 c1"),
        (b"\x1b[21~", "44 c4"),
        (b"\x1b[23~", "57 d7"),
        (b"\x1b[24~", "58 d8"),
        (b"\x1b[1;5C", "1d e0 4d e0 cd 9d"),
        (b"\x1b[3;3~", "38 e0 53 e0 d3 b8"),
        (b"\x1b[Z", "2a 0f 8f aa"),
        ("ä€".encode(), ""),
        (b"\x1b[200~", ""),
    ],
)
def test_a_key_is_pressed_and_let_go(typed: bytes, codes: str) -> None:
    assert Board().type(typed) == codes


def test_every_letter_of_ascii_has_its_key() -> None:
    assert set(range(128)) <= set(CHARACTERS)


def test_set_2_comes_through_where_a_guest_turns_translation_off() -> None:
    board = Board()
    board.controller.write(4, 1, 0x60)
    board.controller.write(0, 1, 0x01)
    assert board.type(b"\x1b[A") == "e0 75 e0 f0 75"


def test_what_the_keyboard_has_no_room_for_is_typed_later_and_whole() -> None:
    board = Board()
    text = b"Hello, World"
    rooms: list[None] = []
    board.typed.on_rx_room = lambda: rooms.append(None)
    took = board.typed.receive(text)
    assert 0 < took < len(text)
    codes = bytearray()
    while took < len(text) or board.controller.read(4, 1) & 1:
        codes += board.read()
        if took < len(text):
            assert rooms, "nobody was told that there is room"
            rooms.clear()
            took += board.typed.receive(text[took:])
    assert bytes(codes) == b"".join(bytes.fromhex(Board().type(bytes((byte,)))) for byte in text)


@pytest.mark.parametrize(
    "text", [b"\x1b[", b"\x1b[[", b"\x1b[1;", b"\x1b[" + b"1" * 40, b"\x1b[99;99~", b"\x1b[[~"]
)
def test_a_broken_sequence_is_taken_and_harms_nobody(text: bytes) -> None:
    board = Board()
    left = text
    while left:
        took = board.typed.receive(left)
        assert took or board.read()
        left = left[took:]


def test_a_key_fits_into_the_keyboard() -> None:
    for modifier in range(2, 9):
        assert len(first_key(b"\x1b[6;%d~" % modifier)[0]) <= 16
