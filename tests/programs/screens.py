"""The guest's screen at a person's terminal, which is tmux here: the tests for any back end.

A test file makes a class of ``Screens`` and says the back end. The guest is screen.asm.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("screen.asm")
COMMAND = f"{sys.executable} -m pykvm boot ."
LONG = 120

FOOT = "Ctrl-A x stops the machine, Ctrl-A h lists the keys"
BANNER = "a kernel's screen"
SERIAL = "pykvm: this is the serial port; Ctrl-A v shows the screen"


class Pane:
    """A shell in a tmux of its own. ``rows`` is what a person sees of it."""

    def __init__(self, folder: Path) -> None:
        self._tmux = ["tmux", "-u", "-f", "/dev/null", "-S", str(folder / "tmux")]
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "HISTFILE": ""}
        environment.pop("TMUX", None)
        start = ["new-session", "-d", "-x", "90", "-y", "30", "-c", str(folder), "bash --norc --noprofile"]
        subprocess.run([*self._tmux, *start], check=True, env=environment)

    def tell(self, *words: str) -> str:
        return subprocess.run([*self._tmux, *words], check=True, capture_output=True, text=True).stdout

    def keys(self, *keys: str) -> None:
        self.tell("send-keys", *keys)

    def rows(self, *more: str) -> list[str]:
        return self.tell("capture-pane", "-p", *more).split("\n")

    def cursor(self) -> tuple[int, int]:
        row, column = self.tell("display-message", "-p", "#{cursor_y} #{cursor_x}").split()
        return int(row), int(column)

    def until(self, condition: Callable[[list[str]], object]) -> None:
        end = time.monotonic() + LONG
        while not condition(self.rows()):
            assert time.monotonic() < end, "\n".join(self.rows())
            time.sleep(0.05)

    def shows(self, *first: str) -> None:
        """Wait until these are the first rows."""
        self.until(lambda rows: tuple(rows[: len(first)]) == first)

    def sees(self, line: str) -> None:
        """Wait until a row is ``line``."""
        self.until(lambda rows: line in rows)

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], capture_output=True)


class Screens:
    backend: str

    @pytest.fixture
    def pane(self, tmp_path: Path) -> Iterator[Pane]:
        """A terminal in which the guest has just drawn its screen."""
        subprocess.run(["nasm", "-f", "bin", "-o", tmp_path / "screen.bin", SOURCE], check=True)
        (tmp_path / "machine.yaml").write_text(
            f"memory: 1M\nbackend: {self.backend}\n"
            "kernel: {image: screen.bin, format: flat, entry: real, load: 0x1000}\n"
        )
        pane = Pane(tmp_path)
        try:
            pane.keys("PS1='shell> '; clear", "Enter")
            pane.shows("shell>", "")
            pane.keys(f"clear; {COMMAND}; echo status $?", "Enter")
            pane.shows(BANNER, "")
            yield pane
        finally:
            pane.close()

    def test_what_is_typed_is_drawn_where_the_guests_cursor_is(self, pane):
        assert pane.cursor() == (1, 0)
        assert pane.rows()[29] == FOOT  # the terminal has 30 rows, the picture 25
        pane.keys("hello", "Enter", "w")
        pane.shows(BANNER, "hello", "w")
        pane.until(lambda rows: pane.cursor() == (2, 1))
        pane.keys("F2")
        pane.shows(BANNER, "hello", "yellow on red ╔═╗")
        assert "\x1b[93m\x1b[41myellow on red" in "\n".join(pane.rows("-e"))
        pane.keys("Escape")
        pane.shows(BANNER, "hello", "yellow on red ╔═╗", "status 0", "shell>", "")
        assert FOOT not in pane.rows()
        pane.keys("echo $((6 * 7))", "Enter")  # the terminal is the shell's again
        pane.sees("42")

    def test_the_keys_are_listed_below_the_picture_which_comes_back(self, pane):
        pane.keys("C-a", "h")
        pane.shows(BANNER, "Ctrl-A x       stop the machine")
        pane.keys("a")
        pane.shows(BANNER, "a", "", "")
        pane.sees(FOOT)
        pane.keys("C-a", "?")  # no key of ours: it lists them too, and the picture comes back by itself
        pane.shows(BANNER, "a", "Ctrl-A x       stop the machine")
        pane.shows(BANNER, "a", "", "")

    def test_a_port_that_speaks_takes_the_terminal_and_a_key_gives_it_back(self, pane):
        pane.keys("F1")
        pane.shows(BANNER, "com1 speaks", "")
        pane.keys("aaa", "C-a", "s")  # which are com1's, so that they aren't drawn, not even later
        pane.shows(BANNER, "com1 speaks", BANNER, "")
        pane.keys("C-a", "v")
        pane.shows(BANNER, "", "", "")
        pane.keys("b")
        pane.shows(BANNER, "b", "")
        # What com1 says meanwhile waits until it has the terminal again: the picture stays whole.
        pane.keys("F1", "c")
        pane.shows(BANNER, "bc", "")
        assert "com1 speaks" not in pane.rows()
        pane.keys("C-a", "v")
        pane.shows(BANNER, "bc", "com1 speaks", SERIAL, "")
        pane.keys("C-a", "x")
        pane.sees("status 130")

    def test_a_stop_leaves_the_picture_whole_and_going_on_draws_it_anew(self, pane):
        pane.keys("h", "F2")
        picture = (BANNER, "h", "yellow on red ╔═╗")
        pane.shows(*picture)
        pane.tell("run-shell", "kill -TSTP $(ps -o pid= --ppid #{pane_pid})")
        pane.until(lambda rows: any("Stopped" in row for row in rows))
        pane.sees("shell>")
        assert tuple(pane.rows()[:3]) == picture
        pane.keys("fg", "Enter")
        pane.shows(*picture, "", "")
        pane.sees(FOOT)
        pane.tell("resize-window", "-x", "100", "-y", "40")
        pane.until(lambda rows: (*rows[:3], rows[39]) == (*picture, FOOT))
        pane.keys("i", "Escape")
        pane.shows(BANNER, "hi", picture[2])
        pane.sees("shell>")
