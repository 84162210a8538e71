"""Input that a person types: Ctrl-A is ours, and it is heard even when the guest hears nothing."""

from __future__ import annotations

from pykvm.terminal.input import Input
from pykvm.terminal.keys import BREAK, Keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.terminal.faces import Loop

HELD_MAX = 256 * 1024
"""Bytes typed or pasted that a guest which doesn't listen is still given later."""


class Keyboard(Input):
    """Reads on when the guest takes no more: else Ctrl-A x would wait in line behind the text.

    ``on_command`` is called with the name of a command (see keys.py), ``may_read`` before each
    read: a process in the background that reads its terminal is stopped.
    """

    def __init__(self, loop: Loop, on_command: Callable[[str], None], may_read: Callable[[], bool]) -> None:
        super().__init__(loop)
        self._keys = Keys()
        self._on_command = on_command
        self._may_read = may_read

    def _readable(self) -> None:
        if self._may_read():
            super()._readable()
        else:
            self.pause()

    def take(self, data: bytes) -> None:
        for event in self._keys.feed(data):
            if isinstance(event, bytes):
                self.feed(event)
            elif event == BREAK:
                if self._port is not None:
                    self._port.break_in()
            else:
                self._on_command(event)

    def hold(self, data: bytes) -> None:
        self._held += data[: HELD_MAX - len(self._held)]
