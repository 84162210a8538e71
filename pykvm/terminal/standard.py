"""The console on pykvm's own standard input and output (``to: terminal``)."""

from __future__ import annotations

import os
import sys

from pykvm.terminal.console import Console, say
from pykvm.terminal.descriptor import in_foreground, own
from pykvm.terminal.keyboard import Keyboard
from pykvm.terminal.keys import GREETING, HELP, HELP_LINES, STOP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pykvm.terminal.faces import Action, Loop
    from pykvm.terminal.mode import RawMode


def standard_input() -> int | None:
    """Descriptor 0, or None when pykvm was started without: then 0 is some other file by now."""
    return None if sys.stdin is None else 0


def standard_output() -> int | None:
    """Descriptor 1, or None when pykvm was started without."""
    return None if sys.stdout is None else 1


class Terminal(Console):
    """Standard input and output, each of which may be a terminal, a pipe, a file, or closed.

    Only where both are terminals is it a screen with a keyboard, and raw. With the output in a
    pipe or a file, raw mode would take away echo and Ctrl-C from someone who sees nothing of the
    guest, and a pager at the other end of the pipe wants the terminal for itself.

    ``on_stop`` is called for Ctrl-A x, ``on_hangup`` when the process that started pykvm is dead
    while the terminal is raw: nobody waits for us then who would put it right, and the person at
    the terminal may have lost sight of us.
    """

    where = "standard output"

    def __init__(
        self,
        loop: Loop,
        *,
        on_stop: Action,
        on_hangup: Action,
        stdin: int | None = 0,
        stdout: int | None = 1,
    ) -> None:
        super().__init__(loop)
        self._loop = loop
        self._stdin = stdin
        self._stdout = stdout
        self.interactive = all(fd is not None and os.isatty(fd) for fd in (stdin, stdout))
        """Whether it is a screen with a keyboard."""
        self.make_way: Callable[[], bytes] = lambda: b""
        """What brings the cursor to where words of pykvm's don't spoil a picture. From any thread."""
        self._on_hangup = on_hangup
        self.commands: dict[str, Callable[[], None]] = {STOP: on_stop, HELP: self._help}
        self._mode: RawMode | None = None
        self._terminal: int | None = None  # for its mode and process group
        self._started_by = os.getppid()
        self._parent: int | None = None
        self._greeted = False
        if stdin is not None and os.isatty(stdin):
            self.input = Keyboard(loop, self._command, self._may_read)

    @property
    def raw(self) -> bool:
        """Whether it is one that we have now."""
        return self._mode is not None and self._mode.active

    def start(self) -> None:
        if self._stdout is not None:
            self.output.connect(*own(self._stdout, os.O_WRONLY))
        if self._stdin is None:
            return
        if isinstance(self.input, Keyboard):
            self._terminal = own(self._stdin, os.O_RDWR)[0]
            if self.interactive:
                from pykvm.terminal.mode import RawMode  # late: termios is for terminals only

                self._mode = RawMode(self._terminal)
                self._take_terminal()
        self.input.connect(own(self._stdin, os.O_RDONLY)[0])

    def suspend(self) -> None:
        if self._mode is not None:
            self.output.show(self.make_way())
            self._mode.leave()

    def resume(self) -> None:
        self._loop.post(self._look_again)

    def drain(self, seconds: float | None, wake: int | None = None) -> bool:
        if super().drain(0):
            return True
        if self._mode is not None:
            self._mode.leave()  # so that Ctrl-C is a signal again, for who won't wait
        return super().drain(seconds, wake)

    def close(self) -> None:
        if self._parent is not None:
            self._loop.remove(self._parent)
            os.close(self._parent)
            self._parent = None
        super().close()
        if self._terminal is not None:
            if self._mode is not None:
                self._mode.leave(forget_input=True)
            os.close(self._terminal)
            self._terminal = self._mode = None

    def say(self, text: str) -> None:
        self.print(f"pykvm: {text}\n")

    def print(self, text: str) -> None:
        """Write to standard error: on a raw terminal in lines of their own, each with its return."""
        if self._mode is not None and self._mode.active:
            way = self.make_way().decode() if sys.stderr is not None and sys.stderr.isatty() else ""
            if not way and not self.tap.at_line_start:
                text = "\n" + text
            text = way + text.replace("\n", "\r\n")
        say(text)

    def _command(self, name: str) -> None:
        self.commands.get(name, self._help)()

    def _help(self) -> None:
        self.output.flush()  # what the guest printed before comes before
        self.print("".join(f"{line}\n" for line in HELP_LINES))

    def _take_terminal(self) -> None:
        """Go raw, now or when we are in the foreground.

        Nothing tells a running process that its shell moved it there. So we look when something
        happens anyway: at a SIGCONT, when the guest prints, when someone types.
        """
        assert self._mode is not None
        listeners = self.tap.listeners
        if self._printed in listeners:
            listeners.remove(self._printed)
        if not self._mode.enter():
            listeners.append(self._printed)
        elif not self._greeted:
            self._greeted = True
            self._watch_parent()
            self.say(GREETING)

    def _printed(self, _: bytes) -> None:
        if self._terminal is not None and in_foreground(self._terminal):
            self._look_again()

    def _look_again(self) -> None:
        if self._mode is not None:
            self._take_terminal()
        self.input.resume()

    def _may_read(self) -> bool:
        if self._terminal is None or not in_foreground(self._terminal):
            return False
        if self._mode is not None and not self._mode.active:
            self._take_terminal()
        return True

    def _watch_parent(self) -> None:
        try:
            self._parent = os.pidfd_open(self._started_by)
        except OSError:  # a kernel before 5.3, or the parent is gone, or in another container
            pass
        else:
            self._loop.add(self._parent, on_readable=self._parent_ended)
        if os.getppid() != self._started_by:  # it ended before we looked, and its number may be another's
            self._loop.post(self._on_hangup)

    def _parent_ended(self) -> None:
        if self._parent is not None:
            self._loop.remove(self._parent)
            os.close(self._parent)
            self._parent = None
            self._on_hangup()
