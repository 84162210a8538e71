"""Listening in on a console: its last lines, when it first spoke, and texts that are waited for."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Listener = Callable[[bytes], None]

KEPT = 8 * 1024
"""Bytes of output that a tap can still tell."""

LINE_MAX = 1024
"""Where a line ends that has no end: the guest decides how long its lines are, not how much we keep."""


class Tap:
    """Gets all output of a console in batches, and keeps the last ``KEPT`` bytes of it."""

    def __init__(self) -> None:
        self.first_output_ns: int | None = None
        """``time.monotonic_ns()`` at the first output, None before."""
        self.listeners: list[Listener] = []
        self._kept = bytearray()

    def feed(self, data: bytes) -> None:
        if self.first_output_ns is None:
            self.first_output_ns = time.monotonic_ns()
        kept = self._kept
        kept += data
        if len(kept) > 2 * KEPT:  # trimmed now and then, not at every batch
            del kept[:-KEPT]
        for listener in tuple(self.listeners):
            listener(data)

    @property
    def at_line_start(self) -> bool:
        return not self._kept or self._kept.endswith(b"\n")

    def tail(self, lines: int = 40) -> str:
        """The last ``lines`` lines as text that is safe to print and to keep in a report.

        Escape sequences and control characters are left out: what a terminal would have obeyed
        while the guest ran must not steer the terminal of whoever reads the report.
        """
        import re  # late: only for a report or after a failure

        text = self._kept[-KEPT:].decode("utf-8", "replace")
        text = re.sub(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(\x07|\x1b\\)?|[ -/]*[0-~])", "", text)
        text = re.sub(r"\r+\n", "\n", text)
        text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", text)
        return "\n".join(text.split("\n")[-lines - text.endswith("\n") :])


class Watch:
    """A listener that waits for a text, also where it arrives in pieces, and then acts once.

    ``action`` gets the text, or with ``lines`` so many whole lines from the text on: a kernel's panic
    says why only after the words by which it is known.
    """

    def __init__(self, text: bytes, action: Listener, *, lines: int = 0) -> None:
        self.text = text
        self.done = False
        self._action = action
        self._lines = lines
        self._window = b""
        self._found = False

    def __call__(self, data: bytes) -> None:
        if self.done:
            return
        window = self._window + data
        if not self._found:
            at = window.find(self.text)
            if at < 0:
                self._window = window[max(0, len(window) - len(self.text) + 1) :]
                return
            self._found = True
            window = window[at:]
        self._window = window
        if not self._lines:
            self._act(self.text)
            return
        came = window.lstrip(b"\n").split(b"\n", self._lines)  # the text may begin with the end of a line
        if len(came) > self._lines or len(window) > LINE_MAX * self._lines:
            self._act(b"\n".join(line[:LINE_MAX].rstrip(b"\r") for line in came[: self._lines]))

    def _act(self, text: bytes) -> None:
        self.done = True
        self._window = b""
        self._action(text)
