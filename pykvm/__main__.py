"""``python -m pykvm``, and the command ``pykvm``."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what `signal` wraps in enums, whose import takes longer
import os
import sys

# Until the command line has its own way with SIGINT, Ctrl-C just ends the process: Python's way is a
# traceback out of whatever is being imported.
if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

from pykvm.cli.ending import die_of_signals
from pykvm.cli.main import main

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def run() -> NoReturn:
    """The command, as a process of its own, to its end.

    Python's own end takes every object apart first: 8 ms for what the kernel does anyway. All that matters
    is closed by then, and a status is 0 only where all was printed.
    """
    status = main()
    die_of_signals()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):  # after an error, which was told or whose reader is gone
            continue
    os._exit(status)


if __name__ == "__main__":
    run()
