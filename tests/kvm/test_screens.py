"""The guest's screen at a terminal, under KVM."""

from __future__ import annotations

from screens import Screens


class TestScreens(Screens):
    backend = "kvm"
