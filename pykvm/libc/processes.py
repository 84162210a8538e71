"""Programs that run as long as we wait for them, and are ended when we don't any more."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from subprocess import Popen
    from typing import Any

ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


@contextmanager
def running(command: list[str], *, session: bool = False, **options: Any) -> Iterator[Popen[Any]]:
    """``command`` as subprocess.Popen starts it, waited for in the end, and ended by what is raised before.

    ``session``: it leads one, and its own programs are ended with it. The signals of ENDING, whose handlers
    may raise, are held back until it is certain that somebody knows the process: else it would run on alone.
    Raises FileNotFoundError where there is no such program.
    """
    import subprocess

    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        process = subprocess.Popen(
            command,
            start_new_session=session,
            preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, before),
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
