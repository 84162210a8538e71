"""First boots, which fill the cache, as a user starts them: two at once, and on a disk without room."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from apt_archive import Archive, only_source
from boot_doubles import MIB, elf

pytestmark = pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs Debian's apt")

LONG = 120
BOOT = [sys.executable, "-m", "pykvm", "boot", "machine.yaml"]
CODE = bytes.fromhex("b007 e6f4")  # mov al, 7; out 0xf4, al
RECIPE = """
kind = "initramfs"
package = "busybox-static"
directories = ["bin"]
[from_package]
"bin/busybox" = "bin/busybox"
[files]
[links]
[devices]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose initrd is made of a package of 1 MB when it is booted for the first time."""
    archive: Archive = only_source(tmp_path, monkeypatch)
    archive.add("busybox-static", "1", {"bin/busybox": os.urandom(1_000_000)})
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe/recipe.toml").write_text(RECIPE)
    (tmp_path / "kernel").write_bytes(elf([(MIB, CODE, len(CODE), MIB)], MIB))
    (tmp_path / "machine.yaml").write_text(
        "memory: 16M\nbackend: translate\nkernel: {image: kernel, initrd: 'recipe:recipe'}\n"
    )
    monkeypatch.setenv("PYKVM_CACHE", str(tmp_path / "kept"))
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    return tmp_path


def test_two_first_boots_at_once_both_boot(folder: Path) -> None:
    boots = [subprocess.Popen(BOOT, cwd=folder, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [boot.communicate(timeout=LONG)[1] for boot in boots]
    assert [boot.returncode for boot in boots] == [7, 7], told
    assert os.listdir(folder / "kept/work") == []
    assert subprocess.run(BOOT, cwd=folder, timeout=LONG).returncode == 7


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize(
    ("small", "words"),
    [
        ("size=256k", "are needed on this disk"),  # which is known before anything is fetched
        ("size=1M,nr_inodes=2", "no space left on device"),  # not even for a lock
    ],
)
def test_a_first_boot_on_a_full_disk_is_told_and_heals_when_there_is_room(
    folder: Path, small: str, words: str
) -> None:
    (folder / "kept").mkdir()
    boot = " ".join(BOOT)
    script = f"""
        mount -t tmpfs -o {small} none kept
        {boot}; echo "status $?"
        test -d kept/work && find kept/data kept/work -type f
        mount -o remount,size=1G,nr_inodes=1000 kept
        {boot}; echo "status $?"
        {boot}; echo "status $?"
    """
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], cwd=folder, capture_output=True, text=True, timeout=LONG
    )
    told = done.stderr.splitlines()[0]
    assert words in told
    assert told.endswith("; make room, or set PYKVM_CACHE to a folder on another disk")
    assert done.stdout.splitlines() == ["status 69", "status 7", "status 7"], done
