"""`on: {reset: …, panic: …}` under KVM."""

from __future__ import annotations

from endings import Endings


class TestEndings(Endings):
    backend = "kvm"
