"""What the verbs print on standard output."""

from __future__ import annotations

import os
import sys

from pykvm.errors import HostError


def show(text: str) -> None:
    """Print ``text`` and a line's end, now. Raises HostError, or BrokenPipeError where the reader is gone.

    What the terminal's encoding hasn't (in a file's name, for one) is shown as its code.
    """
    if sys.stdout is None:  # we were started without
        return
    encoding = sys.stdout.encoding or "ascii"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:
        drop()
        raise
    except OSError as error:
        drop()
        raise HostError(
            f"cannot be written to: {error.strerror}",
            where="standard output",
            remedy="see that there is room and that it can be written",
        ) from None


def drop() -> None:
    """Send what waits for standard output nowhere, so that the flush at exit doesn't fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
