"""``python -m pykvm``, and the command ``pykvm``."""

import _signal  # type: ignore[import-not-found]  # what `signal` wraps in enums, whose import takes longer
import sys

# Until the command line has its own way with SIGINT, Ctrl-C just ends the process: Python's way is a
# traceback out of whatever is being imported.
if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

from pykvm.cli.ending import die_of_signals
from pykvm.cli.main import main


def run() -> int:
    """The command, as a process of its own; the exit status."""
    status = main()
    die_of_signals()
    return status


if __name__ == "__main__":
    sys.exit(run())
