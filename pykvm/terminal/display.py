"""The console that is a screen and a keyboard: the guest draws, the terminal shows it, keys go back.

There is one terminal, and a serial port may have it. The screen takes it when the guest has drawn while the
port was silent, and gives it back when the port speaks; Ctrl-A v changes between them at any time.
"""

from __future__ import annotations

import os

from pykvm.terminal import screen
from pykvm.terminal.console import Console
from pykvm.terminal.keys import GREETING, SCREEN, VIEW
from pykvm.terminal.transcript import Transcript
from pykvm.terminal.typed import TypedKeys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.terminal.faces import Loop, Port
    from pykvm.terminal.screen import Picture
    from pykvm.terminal.standard import Terminal

QUICK, SLOW, IDLE = 33_000_000, 264_000_000, 1_000_000_000
"""Nanoseconds from look to look: of a picture that changes, one that doesn't, and none so far."""

READING = 5_000_000_000
"""Nanoseconds that words of pykvm's stay where the picture was; a key brings it back before."""


class Display(Console):
    """``terminal`` is None where nobody is to see it: its text is in the tap and the report all the same.

    ``owned``: no serial port has the terminal; it is opened when the guest first draws. Guests write the
    screen's memory without an exit, so it is looked at now and then, the less often the longer nothing
    changes.
    """

    where = "the screen"

    def __init__(self, loop: Loop, terminal: Terminal | None, *, owned: bool) -> None:
        super().__init__(loop)
        self.rows: list[str] = []
        """The text that was last seen; [] where the guest has drawn nothing."""
        self._loop = loop
        self._terminal = terminal
        self._owned = owned
        self._started = not owned  # the terminal
        self._taken = False
        self._drawn = False
        self._chosen = False  # by Ctrl-A v
        self._covered = False  # by words of pykvm's
        self._soiled = False  # by what others wrote, which is not to be lost: the picture is drawn below it
        self._pause = QUICK
        self._turn = 0  # of the next look; those of earlier turns are called off
        self._serial: Port | None = None  # which had the terminal before
        self._aside = b""  # typed for who hasn't the terminal, and not taken yet
        self._seen: Picture | None = None
        self._picture: Callable[[], Picture | None] = lambda: None
        self._screen = screen.Screen(GREETING)
        self._transcript = Transcript()
        self._keys = TypedKeys(lambda codes: True)
        if terminal is not None:
            terminal.commands[SCREEN] = self._tell
            terminal.commands[VIEW] = self._change
            terminal.make_way = self._make_way
            terminal.tap.listeners.append(self._serial_speaks)
            if owned:
                terminal.output.on_lost = self._lost

    def fit(self, picture: Callable[[], Picture | None], press: Callable[[bytes], bool]) -> TypedKeys:
        """Serve a new board: ``picture`` is what its screen shows, ``press`` its keyboard's.

        The keyboard calls ``room`` of what is returned.
        """
        if self._taken and self._terminal is not None and self._terminal.input.port is not self._keys:
            self._serial = self._terminal.input.port  # the new board's
        self._release()
        self._picture = picture
        self._drawn = self._chosen = False
        self._seen = None

        def pressed(codes: bytes) -> bool:
            self._uncover()
            self._hurry()
            return press(codes)

        self._keys = TypedKeys(pressed)
        return self._keys

    def start(self) -> None:
        self._loop.post(lambda: self._look(self._turn))

    def suspend(self) -> None:
        if self._owned and self._started and self._terminal is not None:
            self._terminal.suspend()

    def resume(self) -> None:
        if self._owned and self._started and self._terminal is not None:
            self._terminal.resume()
        self._screen.forget()
        self._covered, self._soiled = False, True

    def drain(self, seconds: float | None, wake: int | None = None) -> bool:
        self._see(last=True)
        if not self.tap.at_line_start:
            self.tap.feed(b"\n")
        if not self._taken or self._terminal is None:
            return True
        if not self._terminal.interactive:
            self._print(self._transcript.take_rest())
        self._release()
        return self._terminal.drain(seconds, wake)

    def close(self) -> None:
        super().close()
        if self._owned and self._terminal is not None:
            self._terminal.close()

    def say(self, text: str) -> None:
        if self._owned and self._started and self._terminal is not None:
            self._terminal.say(text)
        else:
            super().say(text)

    # Looking

    def _look(self, turn: int) -> None:
        if turn == self._turn:
            if self._see():
                self._pause = QUICK
            self._plan()
            self._pause = min(2 * self._pause, SLOW if self._drawn else IDLE)

    def _plan(self) -> None:
        """Look again after the pause, and not when was planned before."""
        turn = self._turn = self._turn + 1
        self._loop.later(self._pause, lambda: self._look(turn))

    def _hurry(self) -> None:
        """Something was typed: what that shows is not to wait."""
        if self._pause > QUICK:
            self._pause = QUICK
            self._loop.post(self._plan)

    def _see(self, last: bool = False) -> bool:
        """Look at the picture, show what is new, and say if there was any. ``last``: no more will be."""
        picture = self._picture()
        if picture is None or not (self._drawn or _has_text(picture)):
            return False
        if self._taken and self._terminal is not None and self._terminal.output.waits:
            return False  # the reader is slow; it gets a later picture
        new = picture != self._seen
        if new:
            # One look of grace: a guest that draws may be about to print as well.
            silent = self._terminal is not None and self._terminal.tap.first_output_ns is None
            if silent and not self._taken and (self._drawn or last) and not self._chosen:
                self._take()
            self._seen = picture if self._drawn else None
            self._drawn = True
            self.rows = screen.until_last(screen.text(picture))
            written = self._transcript.look(self.rows)
            if written:
                self.tap.feed(written.removeprefix("\n" * self.tap.at_line_start).encode())
        self._show(picture)
        return new

    def _show(self, picture: Picture) -> None:
        if not self._taken or self._terminal is None:
            self._bound()
        elif not self._terminal.interactive:
            self._print(self._transcript.take_gone())
        elif self._terminal.raw and not self._covered:
            size = os.get_terminal_size(1)
            columns, lines = size.columns or 80, size.lines or 25
            if self._soiled:
                self._soiled = False
                self._terminal.output.show(b"\r\n" * lines)  # what is there scrolls off
            if not self._screen.shows(picture, columns, lines):
                self._terminal.output.show(self._screen.draw(picture, columns, lines))

    def _bound(self) -> None:
        """What nobody prints is not kept for ever."""
        del self._transcript.gone[:-1000]

    def _print(self, lines: list[str]) -> None:
        if lines and self._terminal is not None:
            self._terminal.output.show("".join(f"{line}\n" for line in lines).encode())

    # The terminal

    def _take(self) -> None:
        assert self._terminal is not None
        if not self._started:
            self._started = True
            self._terminal.start()
        self._taken = True
        self._serial = self._terminal.input.port
        self._aside = self._terminal.input.turn(self._keys, self._aside)
        self._screen.forget()
        self._soiled = True

    def _release(self) -> None:
        if self._taken and self._terminal is not None:
            self._terminal.output.show(self._screen.leave())
            self._taken = self._covered = False
            self._terminal.output.let_go()
            if self._serial is not None:
                self._aside = self._terminal.input.turn(self._serial, self._aside)

    def _make_way(self) -> bytes:
        """Leave the picture for words of pykvm's. From any thread."""
        if not self._taken or self._terminal is None or not self._terminal.raw:
            return b""
        if not self._covered:
            self._covered = self._soiled = True
            self._loop.post(lambda: self._loop.later(READING, self._uncover))
        return self._screen.leave()

    def _uncover(self) -> None:
        if self._covered:
            self._covered = False
            self._see()

    def _serial_speaks(self, _: bytes) -> None:
        if self._taken and not self._chosen:
            self._release()

    def _change(self) -> None:
        assert self._terminal is not None
        self._chosen = True
        if self._taken and not self._owned:
            self._release()
            self._terminal.say("this is the serial port; Ctrl-A v shows the screen")
            return
        if not self._taken:
            self._take()
            if self._terminal.raw:
                self._terminal.output.hold()  # until the serial port has the terminal again
        self._covered = False
        self._see()
        self._hurry()
        if not self._drawn:
            self._terminal.say("the guest has drawn nothing on its screen so far; Ctrl-A v goes back")

    def _tell(self) -> None:
        assert self._terminal is not None
        self._see()
        if self._taken and self._terminal.interactive:
            self._screen.forget()
            self._covered = False
            self._see()
        elif self.rows:
            self._terminal.print("".join(f"{row}\n" for row in self.rows))
        else:
            self._terminal.say("the guest has drawn nothing on its screen")

    def _lost(self, error: OSError) -> None:
        if self.output.on_lost is not None:
            self.output.on_lost(error)


def _has_text(picture: Picture) -> bool:
    return bool(picture.cells[::2].strip(b"\0 \xff"))
