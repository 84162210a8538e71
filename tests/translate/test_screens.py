"""The guest's screen at a terminal, by translation."""

from __future__ import annotations

from screens import Screens


class TestScreens(Screens):
    backend = "translate"
