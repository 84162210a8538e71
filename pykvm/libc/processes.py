"""Programs that run as long as we wait for them, and are ended when we don't any more."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from ctypes import c_int, c_ulong

from pykvm.libc.calls import LIBC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from subprocess import Popen
    from typing import Any

_prctl = LIBC.prctl
_prctl.argtypes = (c_int, c_ulong, c_ulong, c_ulong, c_ulong)
_prctl.restype = c_int
PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that a process gets when the thread that started it ends, kept through execve."""

ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


@contextmanager
def running(command: list[str], *, session: bool = False, **options: Any) -> Iterator[Popen[Any]]:
    """``command`` as subprocess.Popen starts it, waited for in the end, and ended by what is raised before.

    ``session``: it leads one, and its own programs are ended with it. The signals of ENDING, whose handlers
    may raise, are held back until it is certain that somebody knows the process: else it would run on alone.
    Other threads must hold them back as well: one that doesn't gets the signal, and the handler runs at once.
    It gets SIGTERM too where we are killed without a chance to say so.
    Raises FileNotFoundError where there is no such program.
    """
    import subprocess

    ourselves = os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)

    def begin() -> None:
        _prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != ourselves:  # killed since the fork
            os.kill(os.getpid(), signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    try:
        process = subprocess.Popen(
            command,
            start_new_session=session,
            preexec_fn=begin,
            **options,
        )
        with process:
            try:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                yield process
            except BaseException:
                if session:
                    os.killpg(process.pid, signal.SIGTERM)
                else:
                    process.terminate()
                raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
