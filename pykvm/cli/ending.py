"""Signals outside of a machine's run: they end pykvm as an exception does, so that all is cleaned up first.

While a machine runs, ``machine.session`` has handlers of its own. Before (a guest is fetched or built) and
after that, without this, a signal would kill the process between two lines: with a half-drawn line on the
terminal, work left in the cache, and no report.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sys import UnraisableHookArgs
    from types import FrameType

ENDING = ("SIGHUP", "SIGQUIT", "SIGTERM")


class Signalled(BaseException):
    """Signal ``number`` came. Like KeyboardInterrupt no Exception, so that nobody takes it for an error."""

    def __init__(self, number: int, name: str) -> None:
        super().__init__(number, name)
        self.number = number
        self.name = name


def raise_on_signals() -> None:
    """Raise ``Signalled`` in the main thread when one of ENDING comes, KeyboardInterrupt at SIGINT.

    One that was ignored when we were started (``nohup``) stays so, and one that somebody handles is his.
    """
    import signal  # late: it imports enum, which the verbs need anyway, but not all that main does

    for name in ENDING:
        number = signal.Signals[name]
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _end)
    if signal.getsignal(signal.SIGINT) in (signal.SIG_DFL, signal.default_int_handler):
        signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = _swallowed


def die_of_signals() -> None:
    """Take back ``raise_on_signals``: nothing is left to clean up, and nobody to catch an exception."""
    import signal

    for name in ENDING:
        number = signal.Signals[name]
        if signal.getsignal(number) is _end:
            signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is _interrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> None:
    import signal

    if not _is_put_off(number, frame):
        signal.signal(number, signal.SIG_DFL)  # who sends it once more means it
        raise Signalled(number, signal.Signals(number).name)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if not _is_put_off(number, frame):
        raise KeyboardInterrupt


def _is_put_off(number: int, frame: FrameType | None) -> bool:
    """Send the signal later where it comes inside ``_swallowed``: from there nothing can be raised either."""
    while frame is not None:
        if frame.f_code is _swallowed.__code__:
            _send_soon(number)
            return True
        frame = frame.f_back
    return False


def _swallowed(unraisable: UnraisableHookArgs) -> None:
    """What to do with an exception that Python can't raise: if it is a signal's, that is sent once more.

    So it is with one that comes inside a destructor or the callback of a weak reference, of which an import
    has one for each module: without this nobody would hear of it, and pykvm would run on.
    """
    import signal

    error = unraisable.exc_value
    if isinstance(error, Signalled):
        number = error.number
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _end)
    elif isinstance(error, KeyboardInterrupt):
        number = signal.SIGINT
    else:
        sys.__unraisablehook__(unraisable)
        return
    _send_soon(number)


def _send_soon(number: int) -> None:
    """Send this process the signal, from another thread and in a moment: not from inside ``_swallowed``."""
    from _thread import start_new_thread

    start_new_thread(_send_again, (number,))


def _send_again(number: int) -> None:
    import os
    import time

    time.sleep(0.001)  # the main thread may take longer to be out of there: then ``_is_put_off``
    os.kill(os.getpid(), number)
