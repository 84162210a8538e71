"""Kernels by other protocols than Linux's own, started as a user does it, on whatever back end the host has.

The kernels of ``guests/tests/boot-*`` print what they are handed; here is what needs a whole kernel.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from booting import boot

from pykvm.boot import bzimage
from pykvm.boot.image import Image
from pykvm.config import load
from pykvm.guests.kernels import resolve

GUESTS = Path(__file__).parents[2] / "guests"

pytestmark = pytest.mark.any_backend


@pytest.fixture
def linux(tmp_path):
    """The shipped Linux as vmlinux.gz, and its initramfs."""
    config = load(str(GUESTS / "linux" / "machine.yaml"))
    kernel = resolve(config.kernel)
    with Image.open(kernel.image) as image:
        vmlinux = bytes(bzimage.unpack(image, config.memory.size))
    path = tmp_path / "vmlinux.gz"
    path.write_bytes(gzip.compress(vmlinux, compresslevel=1))
    return path, kernel.initrd[0]


@pytest.mark.images("linux")
def test_linux_boots_by_pvh_from_a_file_that_is_compressed_as_a_whole(linux):
    kernel, initrd = linux
    words = ("--set", "kernel.format=pvh", "--set", "memory=256M", "--append", "quiet")
    done = boot("--kernel", kernel, "--initrd", initrd, *words, typed="echo typed: $((2+3))\npoweroff\n")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "typed: 5" in done.stdout
