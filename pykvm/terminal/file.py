"""A console whose output goes to a file (``to: PATH``). It has no input."""

from __future__ import annotations

import os

from pykvm.errors import InputError
from pykvm.terminal.console import Console

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.terminal.faces import Loop


class FileConsole(Console):
    """Starts the file at ``path`` anew, as a shell's ``>`` does."""

    def __init__(self, loop: Loop, path: str) -> None:
        super().__init__(loop)
        self.path = self.where = path

    def start(self) -> None:
        # O_NONBLOCK: opening a FIFO that nobody reads fails (ENXIO) and doesn't wait.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            self.output.connect(os.open(self.path, flags, 0o666))
        except OSError as error:
            raise InputError(
                f"cannot write the console's output here: {error.strerror}",
                where=self.path,
                remedy="choose a path that you may write",
            ) from error
