"""Raw mode of a terminal: every key goes to the guest, every byte of the guest to the screen."""

from __future__ import annotations

import termios
from _thread import allocate_lock

from pykvm.terminal.descriptor import in_foreground
from pykvm.terminal.guard import Guard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Attributes = list[Any]

IFLAG, OFLAG, CFLAG, LFLAG, ISPEED, OSPEED, CC = range(7)  # what tcgetattr's list holds


def raw(attributes: Attributes) -> Attributes:
    """``attributes`` as cfmakeraw makes them (termios(3), "Raw mode")."""
    changed = [*attributes[:CC], list(attributes[CC])]
    changed[IFLAG] &= ~(
        termios.IGNBRK
        | termios.BRKINT
        | termios.PARMRK
        | termios.ISTRIP
        | termios.INLCR
        | termios.IGNCR
        | termios.ICRNL
        | termios.IXON
    )
    changed[OFLAG] &= ~termios.OPOST
    changed[CFLAG] = changed[CFLAG] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    changed[LFLAG] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    changed[CC][termios.VMIN] = 1
    changed[CC][termios.VTIME] = 0
    return changed


def stty_settings(attributes: Attributes) -> str:
    """``attributes`` as ``stty -g`` prints them: four flag words and the characters, in hex."""
    characters = (c if isinstance(c, int) else ord(c) for c in attributes[CC])
    return ":".join(f"{number:x}" for number in (*attributes[:ISPEED], *characters))


class RawMode:
    """Takes and gives back the terminal ``fd``. Every call is safe from every thread.

    Not from a signal handler, though: that could interrupt the thread which is changing the mode.
    """

    def __init__(self, fd: int) -> None:
        self.active = False
        self._fd = fd
        self._lock = allocate_lock()
        self._saved: Attributes = []
        self._guard: Guard | None = None

    def enter(self) -> bool:
        """Make the terminal raw, also where someone else changed it since.

        False when we are in the background, where a change of mode would stop us, or when the
        terminal is gone.
        """
        with self._lock:
            if not in_foreground(self._fd):
                self._leave()
                return False
            try:
                if not self.active:
                    self._saved = termios.tcgetattr(self._fd)
                    self._guard = Guard(self._fd, stty_settings(self._saved))
                    self.active = True
                # Not TCSADRAIN: output that nobody reads would hold us here.
                termios.tcsetattr(self._fd, termios.TCSANOW, raw(self._saved))
            except termios.error:
                self._leave()
            return self.active

    def leave(self, *, forget_input: bool = False) -> None:
        """Give the terminal back as it was, if need be without what was typed for the guest."""
        with self._lock:
            self._leave(forget_input)

    def _leave(self, forget_input: bool = False) -> None:
        guard, self._guard = self._guard, None
        if guard is None:
            return
        self.active = False
        if in_foreground(self._fd):
            try:
                if forget_input:
                    termios.tcflush(self._fd, termios.TCIFLUSH)
                termios.tcsetattr(self._fd, termios.TCSANOW, self._saved)
                guard.dismiss()
                return
            except termios.error:  # hung up
                pass
        # In the background only the guard, which is in another session, may change the mode; it
        # does where whoever is in the foreground hasn't.
        guard.fire()
