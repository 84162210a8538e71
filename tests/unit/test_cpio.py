"""The initramfs writer, read back by GNU cpio and by rule."""

from __future__ import annotations

import io
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from pykvm.boot.cpio import Archive
from pykvm.errors import InputError


def archive() -> bytes:
    out = io.BytesIO()
    cpio = Archive(out)
    cpio.directory("dev")
    cpio.character_device("dev/console", 5, 1)
    cpio.block_device("dev/vda", 254, 0, 0o660)
    cpio.directory("bin", 0o711)
    cpio.file("bin/odd", b"12345", 0o755)
    cpio.file("bin/none", b"")
    cpio.link("bin/sh", "odd")
    cpio.close()
    return out.getvalue()


def entries(data: bytes) -> dict[str, tuple[list[int], bytes]]:
    """What a reader that follows buffer-format.rst finds: name → (the 13 numbers, content)."""
    found = {}
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        numbers = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name_size, size = numbers[11], numbers[6]
        name = data[at + 110 : at + 110 + name_size]
        assert name.endswith(b"\0")
        at += -(-(110 + name_size) // 4) * 4
        content = data[at : at + size]
        at += -(-size // 4) * 4
        if name == b"TRAILER!!!\0":
            assert not any(data[at:])
            return found
        found[name[:-1].decode()] = (numbers, content)


def test_each_entry_says_what_it_is() -> None:
    found = entries(archive())
    assert {name: (stat.filemode(numbers[1]), content) for name, (numbers, content) in found.items()} == {
        "dev": ("drwxr-xr-x", b""),
        "dev/console": ("crw-------", b""),
        "dev/vda": ("brw-rw----", b""),
        "bin": ("drwx--x--x", b""),
        "bin/odd": ("-rwxr-xr-x", b"12345"),
        "bin/none": ("-rw-r--r--", b""),
        "bin/sh": ("lrwxrwxrwx", b"odd"),
    }
    assert found["dev/console"][0][9:11] == [5, 1]
    assert found["dev/vda"][0][9:11] == [254, 0]


def test_no_two_files_share_an_inode() -> None:
    # Linux takes files with one inode number and more than one link for the same file.
    inodes = [numbers[0] for numbers, _ in entries(archive()).values()]
    assert len(set(inodes)) == len(inodes)


def test_everything_belongs_to_root_and_has_no_time() -> None:
    assert all(numbers[2:4] == [0, 0] and numbers[5] == 0 for numbers, _ in entries(archive()).values())


def test_the_archive_is_padded_so_that_another_can_follow() -> None:
    assert len(archive()) % 512 == 0


@pytest.mark.skipif(shutil.which("cpio") is None, reason="needs GNU cpio")
def test_gnu_cpio_unpacks_it(tmp_path: Path) -> None:
    only_files = io.BytesIO()
    cpio = Archive(only_files)
    cpio.directory("bin")
    cpio.file("bin/tool", b"#!/bin/sh\n", 0o755)
    cpio.link("bin/sh", "tool")
    cpio.close()
    subprocess.run(["cpio", "-i", "--quiet"], input=only_files.getvalue(), cwd=tmp_path, check=True)
    assert (tmp_path / "bin/sh").read_text() == "#!/bin/sh\n"
    assert (tmp_path / "bin/tool").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("path", ["", "/bin/sh", "a\0b", "TRAILER!!!"])
def test_a_name_that_would_break_the_archive_is_refused(path: str) -> None:
    with pytest.raises(InputError):
        Archive(io.BytesIO()).file(path, b"")
