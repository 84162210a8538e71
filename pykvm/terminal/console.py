"""A console: one end of a serial line, of which the guest has the other."""

from __future__ import annotations

import sys

from pykvm.terminal.input import Input
from pykvm.terminal.output import Output
from pykvm.terminal.tap import Tap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.terminal.faces import Loop, Port


class Console:
    """The console that leads nowhere (``to: none``), and what all consoles share.

    The port gets ``output`` as its sink and is then attached::

        console = Console(loop)
        console.attach(Serial(irq, console.output))

    Life: ``start`` (main thread, before the guest runs), ``suspend`` and ``resume`` around a stop
    of the process, and in the end, with the loop at rest, ``drain`` and ``close``.
    """

    where = "the console"
    """What it leads to, for a message."""

    def __init__(self, loop: Loop, *, lossy: bool = False) -> None:
        self.tap = Tap()
        self.output = Output(loop, self.tap, lossy=lossy)
        self.input = Input(loop)

    def attach(self, port: Port) -> None:
        self.output.on_room = port.room
        self.input.attach(port)

    def detach(self) -> None:
        """The port is taken away: nobody is told of room from now on, and nothing is kept back."""
        self.output.on_room = self.output.stream = None

    def start(self) -> None:
        """Open what the console leads to. Raises PykvmError where that can't be."""

    def suspend(self) -> None:
        """The process is about to stop (SIGTSTP): leave everything as a shell wants it."""

    def resume(self) -> None:
        """The process runs again (SIGCONT)."""

    def drain(self, seconds: float | None, wake: int | None = None) -> bool:
        """Bring out what the guest printed last; see ``Output.drain``."""
        return self.output.drain(seconds, wake)

    def close(self) -> None:
        """Let go of everything. May be called twice."""
        self.input.disconnect()
        self.output.disconnect()

    def say(self, text: str) -> None:
        """One line from pykvm itself, on standard error. From any thread."""
        say(f"pykvm: {text}\n")


def say(text: str) -> None:
    """Write ``text`` to standard error, if there is one and somebody reads it."""
    if sys.stderr is not None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except OSError:
            pass
