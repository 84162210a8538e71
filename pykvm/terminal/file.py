"""A console whose output goes to a file (``to: PATH``). It has no input."""

from __future__ import annotations

import os
from errno import EACCES, EISDIR, ENOENT

from pykvm.errors import InputError
from pykvm.terminal.console import Console
from pykvm.terminal.descriptor import file_of_ours

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.terminal.faces import Loop


class FileConsole(Console):
    """Starts the file at ``path`` anew, as a shell's ``>`` does, but for one that we have open already."""

    def __init__(self, loop: Loop, path: str) -> None:
        super().__init__(loop)
        self.path = self.where = path

    def start(self) -> None:
        # O_NONBLOCK: opening a FIFO that nobody reads fails (ENXIO) and doesn't wait.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            ours = file_of_ours(self.path)
            self.output.connect(os.open(self.path, flags, 0o666) if ours is None else os.dup(ours))
        except OSError as error:
            raise _unwritable(self.path, error.errno or 0) from error


def require_writable(path: str) -> None:
    """Raise InputError where a file at ``path`` could not be written, and do nothing there."""
    folder = os.path.dirname(path) or "."
    if os.path.isdir(path):
        raise _unwritable(path, EISDIR)
    if not os.path.isdir(folder):
        raise _unwritable(path, ENOENT)
    if not os.access(path if os.path.exists(path) else folder, os.W_OK):
        raise _unwritable(path, EACCES)


def _unwritable(path: str, number: int) -> InputError:
    return InputError(
        f"cannot write the console's output here: {os.strerror(number)}",
        where=path,
        remedy="choose a path that you may write",
    )
