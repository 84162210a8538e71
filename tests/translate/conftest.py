"""Fixtures of the tests about translations that are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from kept import Booted, boot, file_of, program

from pykvm.translate.saved import HEADER, WORTH


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("PYKVM_CACHE", str(folder))
    return folder


@pytest.fixture
def first(cache: Path) -> Booted:
    """A boot that finds nothing, translates all, and keeps it."""
    booted = boot(program())
    assert booted.translated >= WORTH
    assert file_of(cache).stat().st_size > HEADER.size
    return booted
