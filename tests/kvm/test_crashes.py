"""A crash under KVM is explained by what the registers and tables show afterwards."""

from __future__ import annotations

import crashes
import pytest


@pytest.mark.parametrize("name", crashes.BUGS)
def test_the_post_mortem_names_the_bug(name, tmp_path):
    ended = crashes.boot(name, "kvm", tmp_path)
    if ended.crash.get("reset_by_host"):  # AMD's VMCB is undefined after a shutdown: KVM resets the vCPU
        assert ended.status == 125
        assert "that what led to it is lost" in ended.said
        assert "--set backend=translate" in ended.said
        assert f"is how it was {ended.crash['moment']}" in ended.said
        assert ended.crash["registers"]
        return
    crashes.check(name, ended)
    assert ended.crash["fault"]["source"] == "tried"


def test_a_loop_without_an_end_is_told_at_the_timeout(tmp_path):
    crashes.check_spin(crashes.boot(crashes.SPINS, "kvm", tmp_path, "500ms"))
