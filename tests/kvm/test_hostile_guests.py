"""Hostile guests under KVM: they are ended, stopped and told of as any other."""

from __future__ import annotations

import pytest
from hostile import Hostile


class TestHostile(Hostile):
    backend = "kvm"

    # By translation it is all of them. Here the guest runs in the kernel, and the lab takes its time.
    @pytest.mark.parametrize("name", ["endless", "flood", "storm"])
    def test_one_without_an_end_obeys_the_timeout_and_takes_no_more_memory(self, name):
        super().test_one_without_an_end_obeys_the_timeout_and_takes_no_more_memory(name)
