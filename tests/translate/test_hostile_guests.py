"""Hostile guests by translation: they are ended, stopped and told of as any other."""

from __future__ import annotations

import pytest
from hostile import FOLDER, NAMES, Hostile, assembled

from pykvm.cli.boot import Boot
from pykvm.config import load
from pykvm.translate import blocks


class TestHostile(Hostile):
    backend = "translate"


@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_what_its_source_makes(name, tmp_path):
    assert assembled(name, tmp_path / "made.bin") == (FOLDER / f"{name}.bin").read_bytes()


def test_every_hostile_guest_has_its_line_of_documentation():
    table = (FOLDER / "README.md").read_text()
    assert [name for name in NAMES if f"| {name} |" not in table] == []


@pytest.mark.parametrize("name", ["rets", "aliases", "churn"])
def test_translations_are_thrown_away_before_they_are_too_many(name, monkeypatch, tmp_path):
    monkeypatch.setenv("PYKVM_CACHE", str(tmp_path))
    monkeypatch.setattr(blocks, "MOST_BLOCKS", 500)
    machine = load(str(FOLDER / f"{name}.yaml"), ["backend=translate", "devices.0.serial.to=none"])
    boot = Boot()
    try:
        assert boot.run(machine, 3 * 10**9).status == 124
        made = boot._machine.cpus[0].cpu.core.blocks
        assert made.generation >= 2
        assert len(made.all) <= 500
        assert len(made.by_id) <= 501
        assert len(made.pages) <= 500
    finally:
        boot.close()
