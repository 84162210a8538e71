"""A crash is explained: each planted bug by the fault that began it, its place and what is behind it."""

from __future__ import annotations

import crashes
import pytest


def test_every_guest_has_its_bug_told():
    assert sorted([*crashes.BUGS, crashes.SPINS]) == crashes.NAMES


@pytest.mark.parametrize("name", crashes.BUGS)
def test_the_post_mortem_names_the_bug(name, tmp_path):
    ended = crashes.boot(name, "translate", tmp_path)
    crashes.check(name, ended)
    assert ended.crash["fault"]["source"] == "recorded"


def test_a_loop_without_an_end_is_told_at_the_timeout(tmp_path):
    crashes.check_spin(crashes.boot(crashes.SPINS, "translate", tmp_path, "500ms"))
