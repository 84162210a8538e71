"""A guest's text screen on a terminal, in a pipe, and as text; keys that go to its keyboard."""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable

import pytest
from doubles_loop import Guest, Loop

from pykvm.devices.vga import Picture
from pykvm.terminal.display import Display
from pykvm.terminal.screen import GLYPHS, Screen, attribute, text
from pykvm.terminal.standard import Terminal
from pykvm.terminal.transcript import Transcript


def picture(
    *rows: str, height: int = 25, attribute: int = 7, cursor: tuple[int, int] | None = None
) -> Picture:
    cells = bytearray(bytes((32, 7)) * 80 * 25)
    for number, row in enumerate(rows):
        for column, char in enumerate(row.encode("cp437")):
            at = 2 * (80 * number + column)
            cells[at : at + 2] = char, 7
    return Picture(columns=80, rows=25, cells=bytes(cells), cursor=cursor, blink=True)


# What is drawn


def test_no_byte_of_a_guest_is_a_control_character() -> None:
    assert len(GLYPHS) == 256
    assert GLYPHS.isprintable()
    assert GLYPHS[128:255] == bytes(range(128, 255)).decode("cp437")


def test_a_picture_is_text_without_blanks_at_its_ends() -> None:
    assert text(picture("Hello  ", "", "╔═╗"))[:4] == ["Hello", "", "╔═╗", ""]


def test_only_what_changed_is_drawn() -> None:
    screen = Screen()
    assert screen.draw(picture("one", "two"), 80, 25).count(b";1H") == 2
    drawn = screen.draw(picture("one", "TWO", cursor=(1, 3)), 80, 25)
    assert b"one" not in drawn
    assert b"\x1b[2;1H\x1b[mTWO\x1b[m\x1b[K" in drawn
    assert drawn.endswith(b"\x1b[2;4H\x1b[?25h")


@pytest.mark.parametrize(
    ("value", "sequence"),
    [(0x07, "\x1b[m"), (0x1F, "\x1b[0;97;44m"), (0x4E, "\x1b[0;93;41m"), (0x87, "\x1b[0;37;40;5m")],
)
def test_colours_are_those_of_a_vga(value: int, sequence: str) -> None:
    assert attribute(value, blink=True) == sequence


def test_without_blink_there_are_16_backgrounds() -> None:
    assert attribute(0x87, blink=False) == "\x1b[0;37;100m"


def test_a_small_terminal_shows_the_rows_at_the_cursor() -> None:
    rows = [f"row{number}" for number in range(25)]
    drawn = Screen().draw(picture(*rows, cursor=(24, 5)), 4, 10)
    assert b"row" in drawn
    assert b"row2" in drawn
    assert b"\x1b[10;4H" in drawn
    assert b"\x1b[11;" not in drawn


# Lines


def test_what_scrolls_off_is_told_once_and_in_order() -> None:
    transcript = Transcript()
    lines = [f"line {number}" for number in range(100)]
    for end in range(1, 101, 3):
        transcript.look(lines[max(0, end - 25) : end])
    assert transcript.take_gone() == lines[:75]
    assert transcript.take_rest() == lines[75:]


def test_a_line_that_is_written_on_is_one_line() -> None:
    transcript = Transcript()
    assert transcript.look(["boot", "log"]) == "\nboot\nlog"
    assert transcript.look(["boot", "login:"]) == "in:"
    assert transcript.look(["boot", "login:", "ok"]) == "\nok"


def test_a_counter_in_place_leaves_no_lines() -> None:
    transcript = Transcript()
    for count in range(50):
        transcript.look(["memory test", f"{count} %", "press F1"])
    assert transcript.take_gone() == []


def test_a_page_that_gives_way_to_another_is_kept() -> None:
    transcript = Transcript()
    transcript.look(["a menu", "with lines"])
    transcript.look(["quite", "another"])
    assert transcript.take_gone() == ["a menu", "with lines"]


# The terminal in a pipe


class Machine:
    """A display beside a serial port, or alone, on two pipes; ``shown`` is what the guest has drawn."""

    def __init__(self, loop: Loop, *, serial: bool) -> None:
        self.loop = loop
        self.shown = picture()
        self.codes: list[bytes] = []
        stdin, self.keys = os.pipe()
        self.out, stdout = os.pipe()
        self.descriptors = [stdin, stdout, self.out, self.keys]
        self.terminal = Terminal(
            loop, on_stop=lambda: None, on_hangup=lambda: None, stdin=stdin, stdout=stdout
        )
        self.display = Display(loop, self.terminal, owned=not serial)
        if serial:
            self.guest = Guest(loop, self.terminal)
        self.display.fit(lambda: self.shown, self.press)
        with loop.lock:
            if serial:
                self.terminal.start()
            self.display.start()

    def press(self, codes: bytes) -> bool:
        self.codes.append(codes)
        return True

    def draw(self, *rows: str) -> None:
        with self.loop.lock:
            self.shown = picture(*rows)
        self.loop.until(lambda: self.display.rows == list(rows))

    def end(self) -> str:
        self.loop.stop()
        self.terminal.drain(1)
        assert self.display.drain(1)
        self.display.close()
        self.terminal.close()
        os.close(self.descriptors[1])
        with open(self.out, encoding="utf-8", closefd=False) as file:
            return file.read()

    def close(self) -> None:
        for fd in (self.descriptors[0], self.out, self.keys):
            os.close(fd)


@pytest.mark.parametrize("serial", [True, False])
def test_the_screen_of_a_guest_with_a_silent_port_comes_out(serial: bool) -> None:
    with Loop() as loop:
        machine = Machine(loop, serial=serial)
        before = machine.terminal.input.port
        machine.draw("Hello", "World")
        if serial:  # what is typed before is the port's
            loop.until(lambda: machine.terminal.input.port is not before)
        os.write(machine.keys, b"a")
        loop.until(lambda: machine.codes == [b"\x1c\xf0\x1c"])
        assert machine.end() == "Hello\nWorld\n"
        assert machine.display.tap.tail() == "Hello\nWorld\n"
        machine.close()


def test_a_port_that_spoke_keeps_the_terminal() -> None:
    with Loop() as loop:
        machine = Machine(loop, serial=True)
        machine.guest.print(b"serial\n")
        loop.until(lambda: machine.terminal.tap.first_output_ns)
        machine.draw("drawn")
        assert machine.end() == "serial\n"
        assert machine.display.rows == ["drawn"]
        machine.close()


def test_a_port_that_speaks_later_gets_the_terminal_back() -> None:
    with Loop() as loop:
        machine = Machine(loop, serial=True)
        machine.draw("drawn")
        loop.until(lambda: machine.terminal.input.port is not machine.guest)
        machine.guest.print(b"serial\n")
        loop.until(lambda: machine.terminal.input.port is machine.guest)
        assert machine.end() == "serial\n"
        machine.close()


def test_without_a_terminal_the_text_is_there_all_the_same() -> None:
    with Loop() as loop:
        display = Display(loop, None, owned=False)
        display.fit(lambda: picture("panic"), lambda codes: True)
        display.start()
        loop.until(lambda: display.rows == ["panic"])
        loop.stop()
        assert display.drain(1)
        assert display.tap.tail() == "panic\n"
        display.close()


# How often it is looked at


class Ticks:
    """An I/O loop of a made-up time: ``run`` lets some of it pass."""

    def __init__(self) -> None:
        self.now = 0
        self.timers: list[tuple[int, int, Callable[[], None]]] = []

    def post(self, action: Callable[[], None]) -> None:
        action()

    def later(self, delay: int, action: Callable[[], None]) -> None:
        heapq.heappush(self.timers, (self.now + delay, len(self.timers), action))

    def run(self, seconds: float) -> None:
        end = self.now + int(seconds * 1e9)
        while self.timers and self.timers[0][0] <= end:
            self.now, _, action = heapq.heappop(self.timers)
            action()
        self.now = end


class Watched:
    """A display without a terminal, whose screen counts the looks at it."""

    def __init__(self) -> None:
        self.ticks = Ticks()
        self.looks = 0
        self.shown = picture()
        self.display = Display(self.ticks, None, owned=False)
        self.keys = self.display.fit(self.look, lambda codes: True)
        self.display.start()

    def look(self) -> Picture:
        self.looks += 1
        return self.shown

    def during(self, seconds: float) -> int:
        before = self.looks
        self.ticks.run(seconds)
        return self.looks - before


def test_a_screen_that_nobody_draws_on_is_hardly_looked_at() -> None:
    screen = Watched()
    screen.during(5)
    assert screen.during(10) <= 10


def test_a_picture_that_stays_is_looked_at_less_and_one_that_changes_thirty_times_a_second() -> None:
    screen = Watched()
    screen.during(5)
    screen.shown = picture("drawn")
    screen.during(1.1)
    assert screen.display.rows == ["drawn"]
    screen.during(5)
    assert 35 <= screen.during(10) <= 40
    before = screen.looks
    for count in range(1000):
        screen.shown = picture(f"{count}")
        screen.during(0.001)
    assert 22 <= screen.looks - before <= 31


@pytest.mark.parametrize("drawn", [True, False])
def test_a_key_has_the_screen_looked_at_soon_and_again(drawn: bool) -> None:
    screen = Watched()
    if drawn:
        screen.shown = picture("$")
    screen.during(10)
    for count in range(3):
        screen.keys.receive(b"a")
        screen.shown = picture("$ a" + count * "b")
        screen.during(0.034)
        assert screen.display.rows == ["$ a" + count * "b"]


def test_keys_typed_all_the_time_make_no_more_looks() -> None:
    screen = Watched()
    screen.during(10)
    for _ in range(1000):
        screen.keys.receive(b"a")
        screen.during(0.001)
    assert screen.looks <= 50
