"""From the machine file's ``to:`` to a console."""

from __future__ import annotations

import os

from pykvm.terminal.console import Console

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykvm.terminal.faces import Action, Loop


def is_file(to: str) -> bool:
    """Whether ``to`` is the path of a file, or of what stands for one."""
    return to not in ("none", "terminal", "pty") and not to.startswith("unix:")


def require_writable(to: str, folder: str) -> None:
    """Raise InputError where ``to`` is a file that can't be written: before a guest is fetched and built."""
    if is_file(to):
        from pykvm.terminal import file

        file.require_writable(os.path.join(folder, to))


def make_console(
    to: str, name: str, loop: Loop, *, folder: str, on_stop: Action, on_hangup: Action
) -> Console:
    """The console for ``to: terminal | none | pty | unix:PATH | PATH``; opens nothing yet.

    ``name`` is the port's (``com1``), ``folder`` what paths are relative to. ``on_stop`` and
    ``on_hangup`` are as in ``Terminal``.
    """
    # Each kind is imported late: a machine has one or two of them.
    if to == "none":
        return Console(loop)
    if to == "terminal":
        from pykvm.terminal.standard import Terminal, standard_input, standard_output

        return Terminal(
            loop,
            on_stop=on_stop,
            on_hangup=on_hangup,
            stdin=standard_input(),
            stdout=standard_output(),
        )
    if to == "pty":
        from pykvm.terminal.pty import PtyConsole

        return PtyConsole(loop, name)
    scheme, _, path = to.partition(":")
    if scheme == "unix":
        from pykvm.terminal.unix import UnixConsole

        return UnixConsole(loop, os.path.join(folder, path))
    from pykvm.terminal.file import FileConsole

    return FileConsole(loop, os.path.join(folder, to))
