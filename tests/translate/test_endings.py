"""`on: {reset: …, panic: …}` by translation."""

from __future__ import annotations

from endings import Endings


class TestEndings(Endings):
    backend = "translate"
