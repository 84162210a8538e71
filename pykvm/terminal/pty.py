"""A console on a pseudo terminal of its own, for screen, minicom or another program (``to: pty``)."""

from __future__ import annotations

import os
import termios

from pykvm.errors import HostError
from pykvm.terminal.console import Console
from pykvm.terminal.mode import raw

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.terminal.faces import Loop


class PtyConsole(Console):
    """``name`` is what the console is called where its place is told.

    The far end is kept open: without, each read fails with EIO whenever nobody else has it open,
    and only by trying again and again could one know when somebody has. The price is that nobody
    knows whether someone reads, so what doesn't fit the buffers is dropped.
    """

    def __init__(self, loop: Loop, name: str) -> None:
        super().__init__(loop, lossy=True)
        self.path = ""
        self._name = self.where = name
        self._far: int | None = None

    def start(self) -> None:
        try:
            near, self._far = os.openpty()
        except OSError as error:
            raise HostError(
                f"no pseudo terminal: {error.strerror}",
                where=self._name,
                remedy="see that /dev/pts is mounted, or write `to: unix:PATH`",
            ) from error
        os.set_blocking(near, False)
        termios.tcsetattr(self._far, termios.TCSANOW, raw(termios.tcgetattr(self._far)))
        self.path = os.ttyname(self._far)
        self.output.connect(near)
        self.input.connect(os.dup(near))
        self.say(f"{self._name} is {self.path}")

    def close(self) -> None:
        super().close()
        if self._far is not None:
            os.close(self._far)
            self._far = None
