"""Machine files that are kept parsed: the same tree, the same messages, nothing believed that is damaged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pykvm.cli import trees
from pykvm.cli.trees import FILES, parse_kept
from pykvm.config import load
from pykvm.config.node import Source
from pykvm.config.tree import read, written
from pykvm.errors import InputError

SOURCE = Source(name="m.yaml", folder="/")
TEXT = """# a machine
name: "é: ✓"
kernel: {image: /k, initrd: [a, 'b:1'], cmdline: ""}
memory: &m 1G
devices:
- serial:
- debug-exit: {port: 0xf4}
on: {reset: *m, panic: |
  two
  lines
 }
"""
GOOD = "kernel: /k\nmemory: 64M\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PYKVM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def scans(monkeypatch):
    """The texts that went to YAML's scanner."""
    seen: list[str] = []
    scan = trees.parse

    def counted(text, source):
        seen.append(text)
        return scan(text, source)

    monkeypatch.setattr(trees, "parse", counted)
    return seen


def test_a_tree_is_read_back_as_it_was():
    root = trees.parse(TEXT.replace("|\n  two\n  lines\n ", "x"), SOURCE)
    assert root is not None
    text = written(root)
    again = read(text, SOURCE)
    assert written(again) == text
    assert again.child("name").text == "é: ✓"
    assert again.child("name").quoted
    assert again.nearest("kernel.initrd.1").text == "b:1"
    assert (again.nearest("devices.1.debug-exit").line, again.child("memory").text) == (7, "1G")
    assert again.nearest("devices.0.serial").empty and not again.nearest("kernel.cmdline").empty


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_a_cut_tree_is_refused(cut):
    text = written(trees.parse(GOOD, SOURCE))
    with pytest.raises(ValueError):
        read(text[:cut], SOURCE)
    with pytest.raises(ValueError):
        read(text + text[:cut] + "s", SOURCE)


def test_the_second_time_nothing_is_scanned(scans, tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text(GOOD)
    first, second = (load(str(path), (), parse_kept) for _ in range(2))
    assert first == second == load(str(path))
    assert scans == [GOOD]
    path.write_text(GOOD.replace("64", "32"))
    assert load(str(path), (), parse_kept).memory.size == 32 << 20


def test_a_kept_file_is_checked_as_before_with_the_same_message(scans, tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text("kernel: /k\nmemory: lots\n")
    told = []
    for _ in range(2):
        with pytest.raises(InputError) as error:
            load(str(path), (), parse_kept)
        told.append(str(error.value))
    assert told[0] == told[1] and ":2:9: memory: 'lots'" in told[0]
    assert len(scans) == 1


def kept_file(folder: Path) -> Path:
    (path,) = (folder / "data").iterdir()
    return path


@pytest.mark.parametrize("spoil", [b"", b"\xff" * 90, b"0" * 64 + b"x", None])
def test_what_is_damaged_is_scanned_again(scans, folder, spoil):
    parse_kept(GOOD, SOURCE)
    path = kept_file(folder)
    whole = path.read_bytes()
    # The same size and time, as after a disk's fault: only the content tells.
    path.write_bytes(whole.replace(b"64M", b"99M") if spoil is None else spoil.ljust(len(whole), b" "))
    os.utime(path, (0, 0))
    assert parse_kept(GOOD, SOURCE).child("memory").text == "64M"
    assert len(scans) == 2
    assert parse_kept(GOOD, SOURCE).child("memory").text == "64M"
    assert len(scans) == 2


def test_only_so_many_are_kept(scans, folder):
    texts = [f"memory: {number}M\n" for number in range(FILES + 1)]
    for text in texts:
        parse_kept(text, SOURCE)
    scans.clear()
    parse_kept(texts[1], SOURCE)
    assert scans == []
    parse_kept(texts[0], SOURCE)
    assert scans == [texts[0]]


def test_a_cache_that_is_no_folder_is_no_error(scans, folder):
    folder.write_text("")
    assert parse_kept(GOOD, SOURCE).child("memory").text == "64M"
