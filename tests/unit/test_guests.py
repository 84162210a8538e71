"""The guests of our own carry their built image: made anew from the source it is the same."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pykvm.config import load
from pykvm.guests import find, names

GUESTS = Path(__file__).parents[2] / "guests"
BIOS = GUESTS.parent / "firmware" / "bios.asm"
OURS = [*sorted(GUESTS.glob("*/*.asm")), BIOS]


def test_there_are_guests_of_our_own():
    assert {path.stem for path in OURS} >= {"hello", "ticks"}


@pytest.mark.parametrize("source", OURS, ids=lambda path: path.stem)
def test_an_image_is_what_its_source_makes(source, tmp_path):
    made = tmp_path / "made.bin"
    subprocess.run(["nasm", "-f", "bin", "-i", f"{source.parent}/", "-o", made, source], check=True)
    assert made.read_bytes() == source.with_suffix(".bin").read_bytes()


@pytest.mark.parametrize("name", names())
def test_a_shipped_guest_has_a_readme_and_a_valid_machine_file(name):
    folder = Path(find(name))
    assert (folder / "README.md").read_text().startswith(f"# {name}")
    assert load(str(folder / "machine.yaml")).name == name
