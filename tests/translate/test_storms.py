"""Signals at every moment of a start without KVM."""

from __future__ import annotations

from storms import Storms


class TestStorms(Storms):
    backend = "translate"
