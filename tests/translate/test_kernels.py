"""Test kernels over the CPU and the PC: by translation they print what the manuals say, as QEMU does."""

from __future__ import annotations

import shutil

import kernels
import pytest
from kernel_gaps import TCG, TCG_BY_CHANCE, TCG_CANNOT


@pytest.mark.parametrize("name", kernels.NAMES)
def test_an_image_is_what_its_source_makes(name, tmp_path):
    image = kernels.FOLDER / name / f"{name}.bin"
    assert kernels.assembled(name, tmp_path / "made.bin") == image.read_bytes()


@pytest.mark.parametrize("name", kernels.NAMES)
def test_a_kernel_prints_what_the_manuals_say(name):
    status, printed, said = kernels.boot(name, "--set", "backend=translate")
    assert kernels.differences(name, printed) == {}, said
    assert status == kernels.STATUS.get(name, 0), said


@pytest.mark.parametrize("name", [name for name in kernels.NAMES if name not in TCG_CANNOT])
def test_qemu_says_the_same_but_for_what_it_is_known_to_lack(name):
    if not shutil.which("qemu-system-x86_64"):
        pytest.skip("qemu-system-x86_64 is not installed")
    found = kernels.differences(name, kernels.tcg(name))
    by_chance = TCG_BY_CHANCE.get(name, {}).keys()
    assert found.keys() - by_chance == TCG.get(name, {}).keys(), found


def test_each_difference_is_told():
    line = kernels.expected("segments")
    assert kernels.differences("segments", line) == {}
    assert kernels.differences("segments", line.replace("lsl=ffffffff", "lsl=0") + " more=1") == {
        "lsl": ("ffffffff", "0"),
        "more": (None, "1"),
    }
    assert kernels.differences("segments", "").keys() == kernels.facts(line).keys()
