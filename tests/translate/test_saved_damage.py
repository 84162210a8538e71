"""Files of translations that are damaged, foreign or can't be written: each guest boots all the same."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from guest import Guest
from kept import RECORD, Booted, boot, cache_in, file_of, program, records, rot

from pykvm.cache import Cache
from pykvm.translate import store
from pykvm.translate.saved import BLOCK_COLUMNS, HEADER, PAGE_COLUMNS, WORTH

ROOT = os.geteuid() == 0


HEADER_FIELDS = {
    "magic": 0, "version": 16, "checksum": 48, "pages": 52, "blocks": 56, "instructions": 60, "jumps": 64,
    "size": 68, "top id": 72, "0": 76, "key": 80,
}  # fmt: skip


def regions(data: bytes) -> dict[str, range]:
    """Where what lies, by saved.py's layout."""
    pages, blocks, marks, jumps, size = HEADER.unpack_from(data)[3:8]
    sizes = {"I": 4, "Q": 8, "H": 2}
    found, at = {}, HEADER.size
    for name, kinds, count in (
        ("pages", [kind for kind, _ in PAGE_COLUMNS], pages),
        ("blocks", [kind for kind, _ in BLOCK_COLUMNS], blocks),
        ("instructions", "HH", marks),
        ("jumps", "HQ", jumps),
        ("code", "B", size),
    ):
        after = at + count * sum(sizes.get(kind, 1) for kind in kinds)
        found[name] = range(at, after)
        at = after
    assert at == len(data)
    return found


@pytest.mark.parametrize("bit", [0, 31])
@pytest.mark.parametrize("field", HEADER_FIELDS)
def test_a_flipped_bit_in_the_header(first, cache, field, bit):
    path = file_of(cache)
    data = bytearray(path.read_bytes())
    data[HEADER_FIELDS[field] + bit // 8] ^= 1 << bit % 8
    rot(path, data)
    assert boot(program()) == first


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("region", ["pages", "blocks", "instructions", "jumps", "code"])
def test_a_flipped_bit_behind_the_header(first, cache, region, part):
    path = file_of(cache)
    data = bytearray(path.read_bytes())
    where = regions(bytes(data))[region]
    data[where[int(part * (len(where) - 1))]] ^= 0x10
    rot(path, data)
    assert boot(program()) == first


@pytest.mark.parametrize("left", [0, 1, HEADER.size - 1, HEADER.size, HEADER.size + 1, 5000, -1])
@pytest.mark.parametrize("believed", [False, True])
def test_a_truncated_file(first, cache, left, believed):
    """``believed``: the cache's record names the short file, so that its reader has to find out."""
    path = file_of(cache)
    data = path.read_bytes()[:left]
    if believed:
        (name,) = records(cache)
        Cache(str(cache)).remove(name)
        Cache(str(cache)).put(name, lambda file: file.write(data) and None, len(data))
        assert file_of(cache).read_bytes() == data
    else:
        rot(path, data)
    assert boot(program()) == first
    assert boot(program()) == Booted(first.outcome, 0)  # and it was put right


def test_a_file_of_another_version_is_not_taken(first, cache, monkeypatch):
    monkeypatch.setattr(store, "_sources", lambda: [b"another version"])
    assert boot(program()) == first
    assert len(records(cache)) == 2


@pytest.mark.parametrize("what", ["record", "data"])
def test_a_folder_where_the_file_should_be(first, cache, what):
    path = file_of(cache)
    (name,) = records(cache)
    path = cache / RECORD / name if what == "record" else path
    path.unlink()
    path.mkdir()
    assert boot(program()) == first
    assert boot(program()).outcome == first.outcome


def test_a_cache_that_can_not_be_made(tmp_path, first):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", Path("/proc/none"), tmp_path / ("n" * 300)):
        with cache_in(folder):
            assert boot(program()) == first


@contextmanager
def somebody_else() -> Iterator[None]:
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(not ROOT, reason="only root can become somebody else")
@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_cache_of_somebody_else(first, mode):
    """Unreadable, or only unwritable."""
    # Where others may look into it, unlike in pytest's folder.
    with TemporaryDirectory() as name, cache_in(name):
        folder = Path(name)
        folder.chmod(0o755)
        assert boot(program()) == first
        path = file_of(folder)
        path.chmod(mode)
        os.utime(path, (0, 0))
        with somebody_else():
            second = boot(program())
        assert second == (first if mode == 0o600 else Booted(first.outcome, 0))
        with somebody_else():
            assert boot(program(2)).translated >= WORTH
        assert len(records(folder)) == 1


def test_no_file_may_grow(first, cache):
    """As on a full disk, but found out in the middle of writing."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(guest: Guest) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))

    try:
        assert boot(program(2), before_end=limit).translated >= WORTH
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(records(cache)) == 1
    assert os.listdir(cache / "work") == []
    assert boot(program(2)).translated >= WORTH
    assert len(records(cache)) == 2


@pytest.mark.skipif(not ROOT, reason="only root can mount")
def test_a_full_disk(first, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", small]).returncode:
        pytest.skip("this root may not mount")
    try:
        with cache_in(small):
            assert boot(program()) == first
            assert boot(program()) == first
        assert [path for path in small.rglob("*") if path.stat().st_size > 4096] == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_process_that_is_killed_while_it_writes(cache):
    """The half-written file is nobody's, and goes when the next one is written."""
    child = os.fork()
    if child == 0:
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("pykvm.cache.store._flush", lambda path: os.kill(os.getpid(), signal.SIGKILL))
                boot(program())
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(os.listdir(cache / "work")) == 1
    assert records(cache) == []
    booted = boot(program())
    assert booted.translated >= WORTH
    assert os.listdir(cache / "work") == []
    assert boot(program()) == Booted(booted.outcome, 0)


def test_a_file_that_goes_while_old_ones_are_looked_for(cache):
    """Another process has just dropped it: its name is there, and no file."""
    (cache / RECORD).mkdir(parents=True)
    (cache / RECORD / f"{store.PREFIX}gone").symlink_to("nowhere")
    booted = boot(program())
    assert booted.translated >= WORTH
    assert boot(program()) == Booted(booted.outcome, 0)
