"""Signals at every moment of a start that KVM runs."""

from __future__ import annotations

from storms import Storms


class TestStorms(Storms):
    backend = "kvm"
