"""Hostile guests under KVM: they are ended, stopped and told of as any other."""

from __future__ import annotations

from hostile import Hostile


class TestHostile(Hostile):
    backend = "kvm"
