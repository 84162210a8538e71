"""The VGA as kernels and BIOSes drive it in text mode."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from doubles import Clock

from pykvm.devices.bus import PortBus
from pykvm.devices.vga import PLACES, PORT, Picture, Vga
from pykvm.memory import GuestMemory

TEXT = 0xB8000


class Board:
    def __init__(self, memory: GuestMemory) -> None:
        self.clock = Clock()
        self.memory = memory
        self.vga = Vga(self.clock, memory)
        self.bus = PortBus()
        for first, count in PLACES:
            self.bus.attach(self.vga, first, count, offset=first - PORT)

    def crtc(self, index: int, value: int) -> None:
        """As most kernels do: index and data by one `out dx, ax`."""
        self.bus.write(0x3D4, 2, index | value << 8)

    def indexed(self, port: int, index: int) -> int:
        self.bus.write(port, 1, index)
        return self.bus.read(port + 1, 1)

    def picture(self) -> Picture:
        picture = self.vga.picture()
        assert picture is not None
        return picture


@pytest.fixture
def board() -> Iterator[Board]:
    memory = GuestMemory.pc(1 << 20)
    yield Board(memory)
    memory.close()


def test_it_starts_with_25_rows_of_80(board: Board) -> None:
    board.memory.write(TEXT + 160, b"H\x07i\x1f")
    picture = board.picture()
    assert (picture.columns, picture.rows, picture.blink) == (80, 25, True)
    assert len(picture.cells) == 4000
    assert picture.cells[160:164] == b"H\x07i\x1f"
    assert picture.cursor == (0, 0)


def test_a_kernel_moves_the_cursor_and_finds_it_again(board: Board) -> None:
    place = 5 * 80 + 17
    board.crtc(0x0F, place & 0xFF)
    board.crtc(0x0E, place >> 8)
    assert board.picture().cursor == (5, 17)
    assert board.indexed(0x3D4, 0x0E) << 8 | board.indexed(0x3D4, 0x0F) == place
    board.crtc(0x0A, 0x20)  # bit 5: cursor off
    assert board.picture().cursor is None


def test_a_kernel_scrolls_by_the_start_address(board: Board) -> None:
    board.memory.write(TEXT + 160 * 30, b"X\x07")
    board.crtc(0x0C, 30 * 80 >> 8)
    board.crtc(0x0D, 30 * 80 & 0xFF)
    board.crtc(0x0E, 31 * 80 >> 8)
    board.crtc(0x0F, 31 * 80 & 0xFF)
    picture = board.picture()
    assert picture.cells[:2] == b"X\x07"
    assert picture.cursor == (1, 0)


def test_the_window_wraps(board: Board) -> None:
    board.memory.write(TEXT, b"A\x07")
    start = 0x4000 - 80
    board.crtc(0x0C, start >> 8)
    board.crtc(0x0D, start & 0xFF)
    assert board.picture().cells[160:162] == b"A\x07"


def test_characters_of_8_lines_make_50_rows(board: Board) -> None:
    board.crtc(0x09, 0x47)
    assert (board.picture().columns, board.picture().rows) == (80, 50)


def test_a_row_may_be_longer_than_what_is_shown(board: Board) -> None:
    board.crtc(0x13, 64)  # 128 characters
    board.memory.write(TEXT + 256, b"Z\x07")
    assert board.picture().cells[160:162] == b"Z\x07"


def test_graphics_has_no_picture(board: Board) -> None:
    board.bus.write(0x3CE, 2, 0x0506)  # graphics mode, memory at 0xA0000
    assert board.vga.picture() is None


def test_registers_0_to_7_are_protected(board: Board) -> None:
    """CRT controller, vertical retrace end, bit 7: protect registers 0 to 7."""
    board.crtc(0x01, 10)
    assert board.indexed(0x3D4, 0x01) == 79
    board.crtc(0x11, 0x0E)
    board.crtc(0x01, 39)
    assert board.picture().columns == 40


def test_attribute_writes_go_by_turns_and_the_status_starts_anew(board: Board) -> None:
    board.bus.read(0x3DA, 1)
    board.bus.write(0x3C0, 1, 0x10)
    board.bus.write(0x3C0, 1, 0x04)  # blink off: 16 backgrounds
    board.bus.write(0x3C0, 1, 0x20)
    assert board.bus.read(0x3C0, 1) == 0x20
    assert not board.picture().blink
    board.bus.read(0x3DA, 1)
    board.bus.write(0x3C0, 1, 0x30)
    assert board.bus.read(0x3C1, 1) == 0x04


def test_the_palette_is_written_and_read(board: Board) -> None:
    board.bus.write(0x3C7, 1, 2)
    assert [board.bus.read(0x3C9, 1) for _ in range(3)] == [0, 42, 0]  # green
    board.bus.write(0x3C8, 1, 255)
    for value in (1, 2, 0xFF, 4):
        board.bus.write(0x3C9, 1, value)
    board.bus.write(0x3C7, 1, 255)
    assert [board.bus.read(0x3C9, 1) for _ in range(4)] == [1, 2, 0x3F, 4]  # wraps to colour 0


def test_retrace_comes_and_goes_70_times_a_second(board: Board) -> None:
    edges, before = 0, 0
    for _ in range(100_000):
        board.clock.advance(10_000)
        now = board.bus.read(0x3DA, 1) & 0x08
        edges += now and not before and 1
        before = now
    assert edges in (70, 71)


def test_the_beam_returns_within_every_line(board: Board) -> None:
    seen = set()
    for _ in range(40):
        board.clock.advance(1_000)
        seen.add(board.bus.read(0x3DA, 1) & 0x01)
    assert seen == {0, 1}


def test_there_is_no_monochrome_crtc(board: Board) -> None:
    assert board.bus.read(0x3B5, 1) == 0xFF


def test_no_register_value_breaks_the_picture(board: Board) -> None:
    board.crtc(0x11, 0)
    for index in range(32):
        for value in (0x00, 0x01, 0x7F, 0x80, 0xFF):
            board.crtc(index, value)
            picture = board.vga.picture()
            if picture is not None:
                assert len(picture.cells) == 2 * picture.columns * picture.rows
    for port in range(0x3C0, 0x3E0):
        for value in (0xFF, 0x00, 0x1F):
            board.bus.write(port, 1, value)
            board.bus.read(port, 1)
    board.vga.picture()


def test_its_state_is_saved(board: Board) -> None:
    board.crtc(0x0F, 99)
    board.bus.write(0x3C8, 1, 7)
    state = board.vga.save()
    other = Board(board.memory)
    other.vga.load(state)
    assert other.vga.save() == state
    assert other.picture().cursor == (1, 19)
